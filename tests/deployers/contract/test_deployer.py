"""A deployer in two methods: what it takes, tries again, reports and restores is the package's."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from countersign_deployer import deployer as module
from countersign_deployer.contract import Deployment, ModelVersion
from countersign_deployer.deployer import Deployer, NotServed, Serving, check_digest, create_app, settings_of
from countersign_deployer.digests import tree_digest
from countersign_deployer.phases import Phase, Reason
from countersign_deployer.problems import Problem
from countersign_deployer.settings import DeployerSettings, load_settings
from countersign_deployer.signatures import sign_get
from fastapi import FastAPI

from tests.deployers.contract.third import CALLS, REPORTS, WITH_PACKAGE

Json = dict[str, Any]
GATEWAY = "http://127.0.0.1:9"  # nobody is there: what is reported is seen in the status
DIGEST = f"sha256:{'7' * 64}"


class Shelf(Deployer):
    """Serves what it is told, unless it is told otherwise by ``troubles``, one for each attempt."""

    def __init__(self, *troubles: Exception | None) -> None:
        self.troubles = list(troubles)
        self.history: list[list[str]] = []

    def apply(self, wanted: Deployment) -> list[Serving]:
        if self.troubles and (trouble := self.troubles.pop(0)):
            raise trouble
        self.history.append([version.version for version, _ in wanted.versions()])
        return [Serving(version=version.version, weight=weight, ready=True) for version, weight in wanted.versions()]

    def remove(self, _: Deployment) -> None:
        self.history.append([])


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeployerSettings:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    values: Json = {
        "target": "shelf",
        "gateway_url": GATEWAY,
        "webhook_secret": CALLS,
        "callback_secret": REPORTS,
        "allowed_uri_prefixes": "file:///models/",
        "state_dir": tmp_path / "state",
    }
    return DeployerSettings(**values)


def call(version: str = "7", generation: int = 1, **changes: Any) -> Deployment:
    data = {
        "deployment_id": "dep_1",
        "target": "shelf",
        "resource": "iris",
        "generation": generation,
        "action": "apply",
        "model": {"name": "iris", "version": version, "uri": "file:///models/iris/", "digest": DIGEST},
        "callback": {"url": f"{GATEWAY}/status"},
        **changes,
    }
    return Deployment.model_validate_json(json.dumps(data))


@asynccontextmanager
async def running(settings: DeployerSettings, deployer: Deployer) -> AsyncIterator[FastAPI]:
    app = create_app(settings, deployer)
    async with app.router.lifespan_context(app):
        yield app


async def asked(app: FastAPI, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://deployer") as client:
        return await client.get(path, headers=sign_get(path, CALLS))


async def status_when(app: FastAPI, wanted: Callable[[Json], bool]) -> Json:
    async with asyncio.timeout(10):
        while not wanted(status := (await asked(app, "/v1/deployments/dep_1")).json()):  # noqa: ASYNC110  # it is asked over HTTP
            await asyncio.sleep(0.01)
    return dict(status)


async def test_what_may_pass_is_tried_again(settings: DeployerSettings) -> None:
    shelf = Shelf(NotServed(Reason.NO_CAPACITY, "No room."), OSError("a secret"))
    async with running(settings, shelf) as app:
        await app.state.deployer.take(call())
        status = await status_when(app, lambda status: status["phase"] == Phase.READY)
    assert (status["reason"], status["serving"][0]["version"], shelf.troubles) == ("", "7", [])


async def test_what_does_not_pass_until_the_deadline_ends_with_its_reason(settings: DeployerSettings) -> None:
    async with running(settings, Shelf(*[OSError("a secret")] * 1000)) as app:
        await app.state.deployer.take(call(deadline_s=1))
        status = await status_when(app, lambda status: status["phase"] == Phase.ERRORED)
    assert status["reason"] == Reason.UNREACHABLE
    assert "a secret" not in status["message"]


async def test_what_is_bad_ends_at_once_and_what_served_is_told_on(settings: DeployerSettings) -> None:
    shelf = Shelf(None, NotServed(Reason.MODEL_LOAD_FAILED))
    async with running(settings, shelf) as app:
        await app.state.deployer.take(call())
        await status_when(app, lambda status: status["phase"] == Phase.READY)
        await app.state.deployer.take(call("8", 2))
        status = await status_when(app, lambda status: status["phase"] == Phase.FAILED)
        assert (status["reason"], status["serving"][0]["version"]) == (Reason.MODEL_LOAD_FAILED, "7")
    again = Shelf()
    async with running(settings, again) as app:  # what served, not what failed
        await status_when(app, lambda _: again.history == [["7"]])
        assert (await asked(app, "/v1/deployments/dep_1")).json()["phase"] == Phase.FAILED


async def test_what_served_before_a_restart_is_served_again_or_is_told_to_be_lost(settings: DeployerSettings) -> None:
    async with running(settings, Shelf()) as app:
        await app.state.deployer.take(call())
        await status_when(app, lambda status: status["phase"] == Phase.READY)
    lame = Shelf(*[NotServed(Reason.STORAGE_UNREACHABLE)] * 1000)
    async with running(settings, lame) as app:
        status = await status_when(app, lambda status: status["phase"] == Phase.PROGRESSING)
        assert (status["reason"], status["serving"]) == (Reason.STORAGE_UNREACHABLE, [])
        lame.troubles = []
        await status_when(app, lambda status: status["phase"] == Phase.READY and status["serving"])


async def test_what_was_removed_is_not_served_again(settings: DeployerSettings) -> None:
    async with running(settings, Shelf()) as app:
        await app.state.deployer.take(call())
        await status_when(app, lambda status: status["phase"] == Phase.READY)
        await app.state.deployer.take(call(generation=2, action="remove"))
        status = await status_when(app, lambda status: status["generation"] == 2 and status["phase"] == Phase.READY)
        assert status["serving"] == []
    again = Shelf()
    async with running(settings, again) as app:
        await app.state.deployer.take(call("8", generation=3))
        await status_when(app, lambda status: status["phase"] == Phase.READY and status["generation"] == 3)
    assert again.history == [["8"]]


async def test_options_are_refused_unless_a_deployer_knows_them(settings: DeployerSettings) -> None:
    async with running(settings, Shelf()) as app:
        with pytest.raises(Problem) as refused:
            await app.state.deployer.take(call(config={"replicas": 2}))
        assert refused.value.fields[0][0] == "data.config.replicas"
        assert (await asked(app, "/v1/deployments/dep_1")).status_code == 404


async def test_a_deployer_whose_loop_has_ended_does_not_live(settings: DeployerSettings) -> None:
    async with running(settings, Shelf()) as app:
        assert (await asked(app, "/livez")).status_code == 200
        app.state.deployer.tasks[0].cancel()
        await asyncio.wait(app.state.deployer.tasks[:1])
        assert (await asked(app, "/livez")).status_code == 503


async def test_a_deployer_that_cannot_save_is_not_ready_until_it_can(settings: DeployerSettings) -> None:
    async with running(settings, Shelf()) as app:
        assert (await asked(app, "/readyz")).status_code == 200
        (blocked := settings.state_dir / "state.tmp").mkdir()
        with pytest.raises(OSError, match="Is a directory"):
            await app.state.deployer.take(call())
        refused = await asked(app, "/readyz")
        assert (refused.status_code, refused.json()["detail"]) == (503, "The state cannot be saved: Is a directory.")
        assert (await asked(app, "/livez")).status_code == 200  # to begin anew is no use
        blocked.rmdir()
        await app.state.deployer.take(call())
        assert (await asked(app, "/readyz")).status_code == 200


async def test_no_secret_of_what_a_deployer_raises_is_told(settings: DeployerSettings) -> None:
    shelf = Shelf(NotServed(Reason.MODEL_LOAD_FAILED, "OSError: https://user:hunter2@store/x does not answer"))
    async with running(settings, shelf) as app:
        await app.state.deployer.take(call())
        status = await status_when(app, lambda status: status["phase"] == Phase.FAILED)
    assert status["message"] == "OSError: https://***@store/x does not answer"


def test_one_version_gets_all_when_the_stable_one_is_the_same() -> None:
    stable = {"version": "6", "uri": "file:///models/6/", "digest": DIGEST}
    shares = {
        ("7", 100): call(),
        ("7", 10): call(traffic={"weight": 10, "stable": None}),
        ("7", 10, "6", 90): call(traffic={"weight": 10, "stable": stable}),
        ("6", 100): call("6", traffic={"weight": 10, "stable": stable}),
        (): call(action="remove"),
    }
    for expected, wanted in shares.items():
        assert tuple(part for version, weight in wanted.versions() for part in (version.version, weight)) == expected


def test_only_the_bytes_that_were_approved_are_served(tmp_path: Path) -> None:
    version = ModelVersion(name="iris", version="7", uri="file:///models/", digest=DIGEST)
    with pytest.raises(NotServed) as nothing:
        check_digest(tmp_path, version)
    assert nothing.value.reason is Reason.ARTIFACT_NOT_FOUND
    (tmp_path / "MLmodel").touch()
    with pytest.raises(NotServed) as other:
        check_digest(tmp_path, version)
    assert other.value.reason is Reason.DIGEST_MISMATCH


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_link_is_in_no_digest_and_is_not_served(tmp_path: Path, is_folder: bool) -> None:
    folder, elsewhere = tmp_path / "files", tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "MLmodel").touch()
    elsewhere.mkdir() if is_folder else elsewhere.touch()
    version = ModelVersion(name="iris", version="7", uri="file:///models/", digest=tree_digest(folder))
    check_digest(folder, version)
    (folder / "helper").symlink_to(elsewhere, target_is_directory=is_folder)
    with pytest.raises(NotServed, match="'helper' is a symbolic link") as refused:
        check_digest(folder, version)
    assert refused.value.reason is Reason.DIGEST_MISMATCH


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_does_not_tell_what_the_variables_hold(log_format: str) -> None:
    program = """
import structlog, sys
from countersign_deployer.logs import configure_logs
from countersign_deployer.settings import DeployerSettings
configure_logs(DeployerSettings.model_construct(log_format=sys.argv[1], log_level="info"))
held = "".join(["hu", "sh"])
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("failed")
"""
    ran = subprocess.run([sys.executable, "-c", program, log_format], capture_output=True, text=True, check=True)
    assert "ZeroDivisionError" in ran.stderr
    assert "hush" not in ran.stderr


def test_the_guides_deployer_starts_by_its_name(
    settings: DeployerSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environment = {"ROOT": str(tmp_path), "TARGET": "mine", "GATEWAY_URL": GATEWAY, "STATE_DIR": str(tmp_path)}
    environment |= {"WEBHOOK_SECRET": CALLS, "CALLBACK_SECRET": REPORTS, "ALLOWED_URI_PREFIXES": "file:///models/"}
    for name, value in environment.items():
        monkeypatch.setenv(f"FOLDERS_{name}", value)
    monkeypatch.setattr(sys, "argv", ["folders.py", "--check"])
    program = ModuleType("__main__")
    with pytest.raises(SystemExit) as ended:
        exec(compile(WITH_PACKAGE, "the guide", "exec", dont_inherit=True), program.__dict__)
    assert ended.value.code == 0
    assert "The configuration is right." in capsys.readouterr().out
    assert load_settings(settings_of("FOLDERS_")).target == "mine"
