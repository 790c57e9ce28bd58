"""`countersign up` as a process of its own: started, listened to, stopped; and what its connection.json says."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.failure import CannotStart, StoryFailed
from demo.screen import Screen

READY_WITHIN_S = 300
STOPPED_WITHIN_S = 60
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOCK = "up.lock"
"""The file by which `countersign up` holds a data folder; a folder without it is not one."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What the story needs of connection.json."""

    gateway: str
    control: str
    console: str
    upstream: str
    issuer: str
    serve: str
    ray_dashboard: str
    tokens: Mapping[str, str]


def ignore_signals() -> None:
    """From here on the clean-up runs to its end, whoever is impatient."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def countersign() -> str:
    """The `countersign` command of this environment."""
    beside = Path(sys.executable).parent / "countersign"
    found = str(beside) if beside.exists() else shutil.which("countersign")
    if found is None:
        raise CannotStart("demo: the command `countersign` is missing; run `make setup`")
    return found


def begin_from_nothing(folder: Path) -> None:
    """Remove a data folder, if it is one and nobody uses it.

    Raises:
        CannotStart: it is something else, or in use.
    """
    if not folder.exists():
        return
    if not (folder / LOCK).is_file():
        raise CannotStart(f"demo: {folder} is not a data folder of `countersign up`, so it is not removed")
    with (folder / LOCK).open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(
                f"demo: a `countersign up` uses {folder}; stop it first (process {lock.read()})"
            ) from None
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise CannotStart(f"demo: {error.filename} cannot be removed: {error.strerror}") from None


class Platform:
    """Everything that `countersign up` starts, from :meth:`started` to the end of its block."""

    def __init__(self, folder: Path, port: int, screen: Screen) -> None:
        self._folder = folder
        self._port = port
        self._screen = screen
        self._process: subprocess.Popen[str] | None = None
        self._began = time.time()
        self._complaints: list[str] = []
        self._listeners: list[threading.Thread] = []

    @contextlib.contextmanager
    def started(self) -> Iterator[Connection]:
        """Start it and wait until it is ready; stop it at the end, however that comes.

        Raises:
            CannotStart: it refused to start, with its own words.
        """
        try:
            self._start()
            yield self._until_ready()
        finally:
            self._stop()

    def until_it_ends(self) -> None:
        """Stay for as long as it runs.

        Raises:
            StoryFailed: it ended by itself.
        """
        assert self._process
        status = self._process.wait()
        self._hear_out()
        raise StoryFailed(" ".join([f"`countersign up` ended by itself, with exit code {status}.", *self._complaints]))

    def _start(self) -> None:
        command = [countersign(), "up", "--data-dir", str(self._folder), "--port", str(self._port), "--with-ray"]
        self._screen.line(f"$ countersign {' '.join(command[1:])}")
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # A session of its own: Ctrl-C reaches the story alone, which then stops this in its own time.
            start_new_session=True,
        )
        for listen in (self._echo, self._collect):
            thread = threading.Thread(target=listen, daemon=True)
            thread.start()
            self._listeners.append(thread)

    def _echo(self) -> None:
        assert self._process
        assert self._process.stdout
        for line in self._process.stdout:
            if line.strip():
                self._screen.overheard(line.rstrip())

    def _collect(self) -> None:
        assert self._process
        assert self._process.stderr
        for line in self._process.stderr:
            self._complaints.append(line.rstrip())

    def _until_ready(self) -> Connection:
        assert self._process
        file = self._folder / "connection.json"
        deadline = time.monotonic() + READY_WITHIN_S
        with self._screen.waiting("starting everything; the first time takes longest"):
            while self._process.poll() is None and time.monotonic() < deadline:
                if found := self._read(file):
                    return found
                time.sleep(0.1)
        if self._process.returncode is None:
            raise StoryFailed(f"not everything was ready within {READY_WITHIN_S} seconds; see {self._folder / 'logs'}")
        self._hear_out()
        raise CannotStart("\n".join(self._complaints) or f"`countersign up` ended with {self._process.returncode}")

    def _read(self, file: Path) -> Connection | None:
        """The connection, or nothing while there is none, or only that of a run before."""
        try:
            if file.stat().st_mtime < self._began:
                return None
            document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return Connection(
            gateway=document["gateway"],
            control=document["control"],
            console=document["console"],
            upstream=document["upstream"],
            issuer=document["issuer"],
            serve=document["ray"]["serve"],
            ray_dashboard=document["ray"]["dashboard"],
            tokens={name: person["access_token"] for name, person in document["people"].items()},
        )

    def _stop(self) -> None:
        if self._process is None:
            return
        ignore_signals()
        if self._process.poll() is None:
            self._process.terminate()
        try:
            with self._screen.waiting("stopping everything"):
                self._process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            # What it started is stopped by its guardian then.
            self._process.kill()
            self._process.wait()
        self._hear_out()

    def _hear_out(self) -> None:
        """Wait for its last words."""
        for listener in self._listeners:
            listener.join(5)
