"""The deployer as it runs: its command, its HTTP, and what any deployer must do, by the contract's own test."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from countersign_deployer.conformance import CHECKS, Artifacts, Bounds, PlayedGateway, Result, Subject, examine
from countersign_deployer.conformance.checks import NO_DIGEST
from countersign_kserve.cli import application, main

from tests.deployers.kserve.conftest import CALLBACK_SECRET, WEBHOOK_SECRET, Json, World
from tests.deployers.kserve.simulator.kserve import INFERENCE_SERVICES, not_downloaded

GOOD = {"1": f"sha256:{1:064x}", "2": f"sha256:{2:064x}"}


@contextmanager
def served(app: Any) -> Iterator[str]:
    # Without uvloop, as in tests/deployers/contract/conftest.py.
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1, loop="asyncio")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


async def test_it_does_what_every_deployer_must(world: World) -> None:
    def not_there(operation: str, resource: object, new: Json, old: Json | None) -> Json:
        if resource == INFERENCE_SERVICES:
            predictors = [new["spec"]["predictor"], *(each["predictor"] for each in new["spec"].get("canary", []))]
            uris = (each["model"]["storageUri"] for each in predictors)
            world.kserve.outcomes |= {uri: not_downloaded("NoSuchKey") for uri in uris if "there-is-nothing" in uri}
        return new

    world.cluster.webhooks.append(not_there)
    # As the storage container for `countersign://` does: other files than those of the digest are not loaded.
    world.kserve.outcomes[NO_DIGEST] = not_downloaded("DigestMismatch")
    gateway = PlayedGateway("kserve", webhook_secret=WEBHOOK_SECRET, callback_secret=CALLBACK_SECRET)
    with gateway:
        settings = world.settings(gateway_url=gateway.url, poll_interval_s=0.02, pull_s=0.2, callback_retry_max_s=1)
        async with world.kserve.following(lag_s=0.001):
            with served(await asyncio.to_thread(application, settings)) as url:
                subject = Subject(
                    f"{url}/v1/deployments",
                    "kserve",
                    WEBHOOK_SECRET,
                    CALLBACK_SECRET,
                    Artifacts("s3://models/conformance/1/", GOOD["1"]),
                    second=Artifacts("s3://models/conformance/2/", GOOD["2"]),
                    bounds=Bounds(start_s=10, answer_s=5, end_s=20, retry_s=10, pull_s=10),
                )
                outcomes = await asyncio.to_thread(list, examine(subject, gateway))
    assert [outcome for outcome in outcomes if outcome.result is not Result.PASSED] == []
    assert [outcome.check for outcome in outcomes] == [check.name for check in CHECKS]


def test_the_command_checks_its_configuration(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check"]) == 2
    told = capsys.readouterr().err
    assert "COUNTERSIGN_KSERVE_NAMESPACES: is not set" in told
    for name, value in {
        "GATEWAY_URL": "https://gateway.example.org",
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
        "CALLBACK_SECRET": CALLBACK_SECRET,
        "ALLOWED_URI_PREFIXES": "s3://models/",
        "NAMESPACES": '{"default": "models"}',
        "STATE_DIR": str(world.folder / "state"),
        "PORT": "1",
    }.items():
        monkeypatch.setenv(f"COUNTERSIGN_KSERVE_{name}", value)
    assert main(["--check"]) == 0
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "COUNTERSIGN_KSERVE_WEBHOOK_SECRET[_FILE]" in capsys.readouterr().out


def test_the_command_says_in_one_line_why_it_cannot_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    given = {
        "GATEWAY_URL": "https://gateway.example.org",
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
        "CALLBACK_SECRET": CALLBACK_SECRET,
        "ALLOWED_URI_PREFIXES": "s3://models/",
        "NAMESPACES": '{"default": "models"}',
        "STATE_DIR": str(tmp_path / "state"),
        "PORT": str(port),
    }
    environment = {f"COUNTERSIGN_KSERVE_{name}": value for name, value in given.items()}
    command = [sys.executable, "-m", "countersign_kserve.cli"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "COUNTERSIGN_KSERVE_KUBECONFIG is not set" in line
