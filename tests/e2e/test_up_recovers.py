"""`countersign up` keeps its parts running, leaves nothing behind, and recovers a folder that a killed one left."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from app.embedded.processes import carrying, is_running
from tests.e2e import bootstrap_story
from tests.platform import free_port
from tests.running import RunningUp, running_up, try_up

# Each start takes ten seconds on an idle machine with two cores, and far longer on a busy one.
pytestmark = pytest.mark.timeout(900)

PARTS = ["gateway", "worker", "mlflow", "canaille", "postgres"]


def until(true: Callable[[], bool], what: str, patience_s: float = 150) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen within {patience_s} s"
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def marked(up: RunningUp) -> list[psutil.Process]:
    return [process for process in carrying(mark_of(up)) if is_running(process)]


def mark_of(up: RunningUp) -> str:
    return str(json.loads((up.folder / "processes.json").read_text())["mark"])


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[RunningUp]:
    """The first one on its folder, until ``again``."""
    with running_up(tmp_path_factory.mktemp("shared") / "data", port) as up:
        yield up


def test_the_connection_file_lets_its_owner_in_and_nobody_else(up: RunningUp) -> None:
    connection = up.connection
    assert stat.S_IMODE((up.folder / "connection.json").stat().st_mode) == 0o600
    until(lambda: "ready" in up.said(), "the word", 5)
    for name in ("scientist", "approver", "second-approver", "administrator", "serving"):
        person = connection[name]
        assert person == connection["people"][name]
        assert person["username"] == name
        assert person["password"] not in up.said()
        claims = claims_of(person["access_token"])
        assert claims["iss"] == connection["issuer"]
        assert claims["aud"] == ["countersign"]
        assert claims["groups"]
        answer = httpx.get(f"{connection['control']}/me", headers={"Authorization": f"Bearer {person['access_token']}"})
        assert answer.status_code == 200, answer.text
    assert httpx.get(f"{connection['control']}/me").status_code == 401


def test_the_demo_client_never_gets_an_id_token_for_the_gateway(up: RunningUp) -> None:
    connection = up.connection
    grant = {
        "grant_type": "password",
        "client_id": "countersign-cli",
        "username": "scientist",
        "password": connection["scientist"]["password"],
        "scope": "openid groups",
    }
    answer = httpx.post(f"{connection['issuer']}/oauth/token", data=grant).json()
    assert "access_token" in answer
    assert "id_token" not in answer
    wrong = httpx.post(f"{connection['issuer']}/oauth/token", data={**grant, "password": "wrong"})
    assert wrong.status_code == 400


def test_mlflow_listens_to_the_gateway_and_to_nobody_else_on_this_machine(up: RunningUp) -> None:
    connection = up.connection
    path = "/api/2.0/mlflow/registered-models/search"
    bearer = {"Authorization": f"Bearer {connection['administrator']['access_token']}"}
    answer = httpx.get(connection["gateway"] + path, headers=bearer)
    assert answer.status_code == 200, answer.text
    for headers in ({}, bearer):
        assert httpx.get(connection["upstream"] + path, headers=headers).status_code == 401
    secret = up.folder / "secrets" / "assertion.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    for log in (up.folder / "logs").iterdir():
        assert secret.read_text().strip() not in log.read_text(errors="replace")


def test_a_second_up_on_the_same_folder_is_refused_while_the_first_goes_on(up: RunningUp) -> None:
    refused = try_up(up.folder, free_port())
    assert refused.returncode != 0
    assert len(refused.stderr.strip().splitlines()) == 1
    assert str(up.process.pid) in refused.stderr
    assert answers(f"{up.connection['gateway']}/readyz")


def test_whatever_part_is_killed_is_started_again_and_the_connection_file_follows(up: RunningUp) -> None:
    before = up.connection["processes"]
    up.folder.parent.chmod(0o700)  # what takes the passage of PostgreSQL's user away, when this runs as root
    for part in PARTS:
        os.kill(before[part], signal.SIGKILL)
    until(lambda: all(up.connection["processes"][part] != before[part] for part in PARTS), "the restart")
    connection = up.connection
    until(lambda: answers(f"{connection['gateway']}/readyz"), "the gateway's return")
    until(lambda: answers(f"{connection['upstream']}/health"), "MLflow's return")
    token = connection["scientist"]["access_token"]
    answer = httpx.get(f"{connection['control']}/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, "a token from before the identity provider's restart is still good"
    assert "Gateway ended (SIGKILL)" in up.said()


@pytest.fixture(scope="module")
def again(up: RunningUp, port: int) -> Iterator[tuple[RunningUp, dict[str, Any]]]:
    """The next one on the folder of ``up``, which was killed with its guardian; and what that had said of itself."""
    before = up.connection
    os.kill(before["processes"]["guardian"], signal.SIGKILL)
    up.kill()
    assert psutil.pid_exists(before["processes"]["postgres"])
    with running_up(up.folder, port, with_ray=True) as again:
        yield again, before


def test_up_recovers_a_folder_whose_up_and_guardian_were_killed(again: tuple[RunningUp, dict[str, Any]]) -> None:
    up, before = again
    after = up.connection
    assert "left running by a `countersign up` that was killed" in up.said()
    assert after["issuer"] == before["issuer"]
    assert after["upstream"] == before["upstream"]
    for part in PARTS:
        assert not psutil.pid_exists(before["processes"][part]) or after["processes"][part] != before["processes"][part]
    assert after["scientist"]["password"] == before["scientist"]["password"]
    token = before["scientist"]["access_token"]
    answer = httpx.get(f"{after['control']}/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, "a token of the run before is still good"


@pytest.mark.ray
def test_bootstrap_goes_from_projects_to_models_that_answer(
    again: tuple[RunningUp, dict[str, Any]], tmp_path: Path
) -> None:
    bootstrap_story.tell(again[0], tmp_path / "bootstrap")


@pytest.mark.ray
def test_a_killed_ray_head_is_started_again_and_its_old_sessions_are_removed(
    again: tuple[RunningUp, dict[str, Any]],
) -> None:
    up, _ = again
    connection = up.connection
    assert set(connection["ray"]) == {"dashboard", "serve"}
    assert httpx.get(f"{connection['ray']['dashboard']}/api/version").status_code == 401
    os.kill(connection["processes"]["ray"], signal.SIGKILL)
    until(lambda: "Ray is back" in up.said(), "Ray's return", 180)
    for process in marked(up):
        for listener in process.net_connections("tcp"):
            if listener.status == psutil.CONN_LISTEN:
                assert listener.laddr.ip.removeprefix("::ffff:") in {"127.0.0.1", "::1"}, process.name()
    sessions = [path for path in Path(ray_temporary(up)).glob("session_2*") if path.is_dir()]
    assert len(sessions) == 1


def test_a_killed_up_leaves_nothing_running(again: tuple[RunningUp, dict[str, Any]]) -> None:
    """The last test here: of one that is stopped, `make demo` sees the same."""
    up, _ = again
    mark = mark_of(up)
    up.kill()
    until(lambda: not [process for process in carrying(mark) if is_running(process)], "the end of all parts", 60)
    until(lambda: not (up.folder / "connection.json").exists(), "the end of the connection file", 5)


def ray_temporary(up: RunningUp) -> str:
    command = psutil.Process(up.connection["processes"]["ray"]).cmdline()
    return next(word.removeprefix("--temp-dir=") for word in command if word.startswith("--temp-dir="))
