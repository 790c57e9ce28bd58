"""A pytest plugin for MLflow's own tests: puts a gateway before each server that they start.

A test that asks for a free port is given that of a gateway, and the server that it then starts there is moved to a
port behind it; requests to a gateway get a token. The tests are not changed. ``tools/mlflow_rest_tests.py`` loads it.
"""

from __future__ import annotations

import importlib
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
            process = subprocess.Popen(
                self.command.split(os.pathsep), env={**os.environ, **environment}, stdout=log, stderr=log
            )
        await_answer(port, "/livez")
        return Door(port, upstream, process)


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
    if command is None:
        return
    doors = Doors(command, Path(os.environ[LOGS]))
    config.add_cleanup(doors.close)
    for module in (importlib.import_module("tests.helper_functions"), servers):
        module.get_safe_port = doors.free_port  # type: ignore[attr-defined]  # it is a module of MLflow's
    _move_servers(doors)
    _add_tokens(doors, f"Bearer {os.environ[TOKEN]}")


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


def _add_tokens(doors: Doors, authorization: str) -> None:
    send = requests.adapters.HTTPAdapter.send

    @wraps(send)
    def send_with_token(
        self: requests.adapters.HTTPAdapter, request: requests.PreparedRequest, *arguments: Any, **named: Any
    ) -> requests.Response:
        if urlsplit(request.url or "").port in doors.doors:
            request.headers.setdefault("Authorization", authorization)
        return send(self, request, *arguments, **named)

    setattr(requests.adapters.HTTPAdapter, "send", send_with_token)  # noqa: B010  # as above


def _unused_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
