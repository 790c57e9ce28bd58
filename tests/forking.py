"""Processes of ours that begin where their imports are done: a fork of one that has done them once.

They are processes as any other, to be killed and waited for. To import the gateway is most of its start, and a run of
all tests starts some hundred of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["app.cli", "app.main", "app.worker", "uvloop"])


class Forked:
    """``countersign COMMAND`` in a session of its own, with the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, *command: str, env: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._process = _CONTEXT.Process(target=_be, args=(command, dict(env), str(log)))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._command, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _be(command: tuple[str, ...], env: dict[str, str], log: str) -> None:
    from app.cli import main

    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    sys.argv = ["countersign", *command]
    main()
