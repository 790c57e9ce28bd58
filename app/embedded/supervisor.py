"""Child processes kept alive: started, watched, started again with back-off when they die, stopped in order.

Each part has a session of its own, so that a Ctrl-C on the terminal reaches `countersign up` alone, which then stops
the parts in the right order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.domain.errors import Unavailable
from app.embedded.environment import MARK, child_environment
from app.embedded.processes import GRACE_S, ProcessTable, carrying, stop_tree

FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 10.0
STEADY_S = 30.0
"""A part that ran this long is taken for healthy: its next restart is at once again."""
LONGEST_LOG = 20 * 1024 * 1024
LOG_CHECK_S = 60.0
_TELLING = ("Error:", "error:", "ERROR", "FATAL", '"level": "error"', "could not", "cannot", "does not", "refused")


@dataclass(frozen=True, slots=True)
class Part:
    """One process and how to know that it is ready. ``wave`` orders the stop: the highest goes first."""

    name: str
    title: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    is_ready: Callable[[], Awaitable[bool]]
    address: str
    wave: int
    folder: Path
    stop_signal: signal.Signals = signal.SIGTERM
    user: int | None = None
    ready_within_s: float = 240
    grace_s: float = GRACE_S
    before_start: Callable[[], None] = lambda: None


class Supervisor:
    """Starts parts and keeps them running until :meth:`stop`."""

    def __init__(
        self,
        table: ProcessTable,
        say: Callable[[str], None],
        changed: Callable[[], None],
        environment: Mapping[str, str],
    ) -> None:
        self._table = table
        self._environment = environment
        self._say = say
        self._changed = changed
        self._parts: list[Part] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self, part: Part) -> None:
        """Start ``part`` and return when it is ready; from then on it is kept running.

        Raises:
            Unavailable: it ended or was not ready in time; the message names its log and quotes the reason.
        """
        began = time.monotonic()
        rotate(part.log)
        process = await self._spawn(part)
        self._parts.append(part)
        await self._until_ready(part, process)
        self._say(f"{part.title:<18} {part.address}  ({time.monotonic() - began:.1f} s)")
        self._watchers.append(asyncio.create_task(self._keep(part, process), name=f"keep {part.name}"))

    async def run_once(self, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        """Run a command to its end.

        Raises:
            Unavailable: it failed; the message names its log and quotes the reason.
        """
        log = logs / f"{name}.log"
        rotate(log)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=self._environment_of(name, environment),
                cwd=logs,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._table.add(name, process.pid)
        status = await process.wait()
        self._table.remove(name)
        if status != 0:
            raise Unavailable(f"`countersign {name}` failed: {reason_in(log)} (see {log})")

    async def watch_logs(self) -> None:
        """Keep every log within its bound for as long as this runs."""
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            for part in self._parts:
                with contextlib.suppress(OSError):
                    bound(part.log)

    async def stop(self) -> None:
        """Stop all parts, wave by wave, and leave nothing behind."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.cancel()
        for wave in sorted({part.wave for part in self._parts}, reverse=True):
            await asyncio.gather(*(self._end(part) for part in self._parts if part.wave == wave))
        await asyncio.to_thread(_sweep, self._table.mark)

    async def _end(self, part: Part) -> None:
        process = self._table.processes.get(part.name)
        if process is not None:
            await asyncio.to_thread(stop_tree, [process], part.stop_signal, grace_s=part.grace_s)
        await asyncio.to_thread(_sweep, self._table.mark_of(part.name))

    async def _spawn(self, part: Part) -> asyncio.subprocess.Process:
        await asyncio.to_thread(part.before_start)
        with part.log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *part.command,
                env=self._environment_of(part.name, part.environment),
                cwd=part.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=part.user,
            )
        self._table.add(part.name, process.pid)
        return process

    def _environment_of(self, name: str, settings: Mapping[str, str]) -> dict[str, str]:
        return child_environment({**self._environment, **settings, MARK: self._table.mark_of(name)})

    async def _until_ready(self, part: Part, process: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + part.ready_within_s
        while not await part.is_ready():
            if process.returncode is not None:
                raise Unavailable(f"{part.title} did not start: {reason_in(part.log)} (see {part.log})")
            if time.monotonic() > deadline:
                waited = f"{part.ready_within_s:.0f} s"
                raise Unavailable(f"{part.title} was not ready within {waited}: {reason_in(part.log)} (see {part.log})")
            await asyncio.sleep(0.1)

    async def _keep(self, part: Part, process: asyncio.subprocess.Process) -> None:
        delays = back_off()
        while True:
            began = time.monotonic()
            status = await process.wait()
            if self._stopping:
                return
            if time.monotonic() - began > STEADY_S:
                delays = back_off()
            delay = next(delays)
            self._say(
                f"{part.title} ended ({describe_end(status)}): starting it again in {delay:.1f} s (log: {part.log})"
            )
            # What it had started may still hold its port or its files.
            await asyncio.to_thread(_sweep, self._table.mark_of(part.name))
            await asyncio.sleep(delay)
            process = await self._restart(part)

    async def _restart(self, part: Part) -> asyncio.subprocess.Process:
        with contextlib.suppress(OSError):
            bound(part.log)
        process = await self._spawn(part)
        self._changed()
        try:
            await self._until_ready(part, process)
            self._say(f"{part.title} is back (process {process.pid})")
        except Unavailable as error:
            self._say(str(error))
            with contextlib.suppress(psutil.NoSuchProcess):
                await asyncio.to_thread(
                    stop_tree, [psutil.Process(process.pid)], part.stop_signal, grace_s=part.grace_s
                )
        return process


def _sweep(mark: str) -> None:
    stop_tree(carrying(mark), signal.SIGKILL, grace_s=2)


def back_off() -> Iterator[float]:
    """Seconds to wait before each restart: doubled each time, up to a limit."""
    delay = FIRST_DELAY_S
    while True:
        yield delay
        delay = min(delay * 2, LONGEST_DELAY_S)


def describe_end(status: int) -> str:
    """How a process ended, for a person."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def rotate(log: Path) -> None:
    """Begin a new log and keep the one before as ``.1``."""
    if log.exists():
        log.replace(log.with_suffix(".log.1"))


def bound(log: Path, longest: int = LONGEST_LOG) -> None:
    """Begin a log anew once it has more than ``longest`` bytes. Its writer appends, so it goes on at the new start."""
    if log.stat().st_size > longest:
        previous = log.with_suffix(".log.1")
        previous.write_bytes(log.read_bytes())
        os.truncate(log, 0)


def reason_in(log: Path) -> str:
    """The line near the end of a log that most likely says why its writer ended."""
    try:
        text = log.read_bytes()[-8192:].decode(errors="replace")
    except OSError:
        return "it left no log"
    # SQLAlchemy ends its errors with a line in parentheses that only points to its documentation.
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("(")]
    telling = [line for line in lines if any(word in line for word in _TELLING)]
    return (telling or lines or ["it wrote nothing"])[-1][:300]
