"""`countersign up` as a test sees it: one subprocess, its connection file, and a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_WITHIN_S = 240
READY_WITH_RAY_WITHIN_S = 300
STOPPED_WITHIN_S = 60


@dataclass(frozen=True)
class RunningUp:
    """One `countersign up` that said it is ready."""

    process: subprocess.Popen[bytes]
    folder: Path
    output: Path

    @property
    def connection(self) -> dict[str, Any]:
        """`connection.json` as it is now: processes and tokens change."""
        return json.loads((self.folder / "connection.json").read_text())

    def said(self) -> str:
        """What it wrote on the terminal."""
        return self.output.read_text()

    def kill(self) -> None:
        """Kill it as the out-of-memory killer would, without a chance to clean up."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to stop, as Ctrl-C does; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOPPED_WITHIN_S)


@contextmanager
def running_up(data_dir: Path, port: int, *, with_ray: bool = False) -> Iterator[RunningUp]:
    """Start `countersign up`, wait until it is ready, and stop it at the end.

    Raises:
        AssertionError: it ended or was not ready in time; with what it wrote.
    """
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    connection, output = data_dir / "connection.json", data_dir.with_name(f"{data_dir.name}.up.log")
    connection.unlink(missing_ok=True)
    with output.open("wb") as log:
        process = subprocess.Popen(up_command(data_dir, port, with_ray=with_ray), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + (READY_WITH_RAY_WITHIN_S if with_ray else READY_WITHIN_S)
        while not connection.exists():
            assert process.poll() is None, f"`countersign up` ended:\n{_tail(output)}"
            assert time.monotonic() < deadline, f"`countersign up` is not ready:\n{_tail(output)}"
            time.sleep(0.1)
        yield RunningUp(process, data_dir, output)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                # Its guardian stops what it leaves.
                process.kill()
                process.wait()


def up_command(data_dir: Path, port: int, *, with_ray: bool = False) -> list[str]:
    """The command line of `countersign up`."""
    command = [sys.executable, "-m", "app.cli", "up", "--data-dir", str(data_dir), "--port", str(port)]
    return [*command, "--with-ray"] if with_ray else command


def try_up(
    data_dir: Path | str, port: int, *options: str, user: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `countersign up` where it is expected to refuse."""
    return subprocess.run(
        [*up_command(Path(data_dir), port), *options],
        check=False,
        env={**os.environ, **environment},
        user=user,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
