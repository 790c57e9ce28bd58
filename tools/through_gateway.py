"""A pytest plugin for MLflow's own tests: puts a gateway before each server that they start.

A test that asks for a free port is given that of a gateway, and the server that it then starts there is moved to a
port behind it; requests to a gateway get a token. The tests are not changed. ``tools/mlflow_rest_tests.py`` loads it,
also into the run without a gateway, and reads what it notes: how each test ended, and the status of each answer.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests.adapters
import uvicorn

LOOPBACK = "127.0.0.1"
PATIENCE_S = 60
COMMAND, LOGS, TOKEN = "THROUGH_GATEWAY_COMMAND", "THROUGH_GATEWAY_LOGS", "THROUGH_GATEWAY_TOKEN"
"""Variables: how to start a gateway, where it writes, and the access token. Without the first there is no gateway."""
NOTES = "THROUGH_GATEWAY_NOTES"
"""Variable: the file that gets a line of JSON for each end of a test's phase (test, outcome, message) and for each
answer (test, method, path, status)."""
PROBES = frozenset({"/health", "/version"})
"""Paths that are asked until a server is up, and so not noted."""


@dataclass(frozen=True, slots=True)
class Door:
    """A gateway, and the port behind it at which it expects MLflow."""

    port: int
    upstream: int
    process: subprocess.Popen[bytes]


@dataclass(slots=True)
class Doors:
    """The gateways of a run. A test may need several; one whose server has ended is used again."""

    command: str
    logs: Path
    doors: dict[int, Door] = field(default_factory=dict)

    def free_port(self) -> int:
        """The port of a gateway without a server behind it."""
        for door in self.doors.values():
            if not _answers(door.upstream, "/health"):
                return door.port
        door = self._open()
        self.doors[door.port] = door
        return door.port

    def behind(self, port: int) -> int:
        """Where a server shall listen that wants to listen at ``port``."""
        return self.doors[port].upstream if port in self.doors else port

    def close(self) -> None:
        for door in self.doors.values():
            door.process.terminate()
        for door in self.doors.values():
            door.process.wait(PATIENCE_S)

    def _open(self) -> Door:
        port, upstream = _unused_port(), _unused_port()
        environment = {
            "COUNTERSIGN_PORT": str(port),
            "COUNTERSIGN_PUBLIC_URL": f"http://{LOOPBACK}:{port}",
            "COUNTERSIGN_UPSTREAM_URLS": f"http://{LOOPBACK}:{upstream}",
        }
        with (self.logs / f"gateway-{len(self.doors)}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603  # the command is ours
                self.command.split(os.pathsep), env={**os.environ, **environment}, stdout=log, stderr=log
            )
        await_answer(port, "/livez")
        return Door(port, upstream, process)


@dataclass(frozen=True, slots=True)
class Notes:
    """What is to be compared, in order."""

    file: Path

    def write(self, *values: object) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._ended(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._ended(report)

    def _ended(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = str(crash.message if crash else report.longrepr) if report.failed else ""
        self.write(report.nodeid, report.outcome, message)


def await_answer(port: int, path: str = "/health") -> None:
    """Until a GET is answered with 200.

    Raises:
        TimeoutError: it is not within ``PATIENCE_S``.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not _answers(port, path):
        if time.monotonic() > deadline:
            raise TimeoutError(f"port {port} does not answer {path}")
        time.sleep(0.1)


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=5) as answer:
            status: int = answer.status
    except (urllib.error.URLError, OSError):
        return False
    return status == 200


def pytest_configure(config: pytest.Config) -> None:
    """Stand between the tests and their servers, before a test module imports what starts them."""
    servers = importlib.import_module("tests.tracking.integration_test_utils")
    # They wait for the port alone, which a gateway has open before MLflow answers.
    servers._await_server_up_or_die = lambda port, timeout=PATIENCE_S: await_answer(port)  # type: ignore[attr-defined]  # noqa: SLF001, ARG005
    command = os.environ.get(COMMAND)
    doors = Doors(command or "", Path(os.environ.get(LOGS, "")))
    notes = Notes(Path(os.environ[NOTES]))
    config.pluginmanager.register(notes)
    _watch_requests(doors, f"Bearer {os.environ.get(TOKEN)}", notes)
    if command is None:
        return
    config.add_cleanup(doors.close)
    for module in (importlib.import_module("tests.helper_functions"), servers):
        module.get_safe_port = doors.free_port  # type: ignore[attr-defined]  # it is a module of MLflow's
    _move_servers(doors)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is tested on MLflow's file store, which it has deprecated."""
    on_files = [item for item in items if "file" in getattr(getattr(item, "callspec", None), "params", {}).values()]
    config.hook.pytest_deselected(items=on_files)
    items[:] = [item for item in items if item not in on_files]


def _move_servers(doors: Doors) -> None:
    configure, start = uvicorn.Config.__init__, subprocess.Popen.__init__

    @wraps(configure)
    def configure_behind(self: uvicorn.Config, *arguments: Any, **named: Any) -> None:
        if "port" in named:
            named["port"] = doors.behind(named["port"])
        configure(self, *arguments, **named)

    @wraps(start)
    def start_behind(self: Any, command: Any, *arguments: Any, **named: Any) -> None:
        if isinstance(command, list):
            pairs = zip(["", *command], command, strict=False)
            command = [str(doors.behind(int(word))) if before == "--port" else word for before, word in pairs]
        start(self, command, *arguments, **named)

    setattr(uvicorn.Config, "__init__", configure_behind)  # noqa: B010  # mypy forbids the assignment
    setattr(subprocess.Popen, "__init__", start_behind)  # noqa: B010  # as above


def _watch_requests(doors: Doors, authorization: str, notes: Notes) -> None:
    send = requests.adapters.HTTPAdapter.send

    @wraps(send)
    def send_and_note(
        self: requests.adapters.HTTPAdapter, request: requests.PreparedRequest, *arguments: Any, **named: Any
    ) -> requests.Response:
        url = urlsplit(request.url or "")
        if url.port in doors.doors:
            request.headers.setdefault("Authorization", authorization)
        answer = send(self, request, *arguments, **named)
        if url.path not in PROBES:
            test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
            notes.write(test, request.method, url.path, answer.status_code)
        return answer

    setattr(requests.adapters.HTTPAdapter, "send", send_and_note)  # noqa: B010  # as above


def _unused_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
