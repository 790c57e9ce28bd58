"""Which processes run for a data folder, written down so that whoever comes next can stop them.

``processes.json`` names each process by number and by the time it was created: a number alone is given away again.
Processes that these started in turn are known by the mark in their environment.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from app.embedded.environment import MARK, write_atomically

GRACE_S = 10.0
DATABASE_GRACE_S = 60.0
"""PostgreSQL writes what is in memory before it ends; being killed costs it a recovery at the next start."""

SAME_TIME_S = 2.0
"""Creation times are counted from the boot time, which the clock's corrections move a little."""

POSTGRES = "postgres"
GUARDIAN = "guardian"


@dataclass(slots=True)
class ProcessTable:
    """What runs now, kept in step with ``processes.json``. ``mark`` is one random word for each run of `up`."""

    file: Path
    mark: str
    processes: dict[str, psutil.Process] = field(default_factory=dict)

    def mark_of(self, name: str) -> str:
        return f"{self.mark}:{name}"

    def add(self, name: str, pid: int) -> None:
        try:
            self.processes[name] = psutil.Process(pid)
        except psutil.NoSuchProcess:
            return
        self._write()

    def remove(self, name: str) -> None:
        if self.processes.pop(name, None) is not None:
            self._write()

    def clear(self) -> None:
        """Nothing runs any more."""
        self.processes.clear()
        self.file.unlink(missing_ok=True)

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self.processes.items()}

    def _write(self) -> None:
        known = {
            name: {"pid": process.pid, "create_time": process.create_time()} for name, process in self.processes.items()
        }
        write_atomically(self.file, json.dumps({"mark": self.mark, "processes": known}, indent=2) + "\n")


def stop_leftovers(file: Path, *, grace_s: float = GRACE_S) -> list[str]:
    """Stop what an earlier run left behind and return the names of what was still running.

    A process is touched only if number and creation time match, or if it carries that run's mark.
    """
    record = _read(file)
    leftovers = {name: process for name, process in _recorded(record) if is_running(process)}
    guardian = leftovers.pop(GUARDIAN, None)
    if guardian is not None and guardian.pid != os.getpid():
        stop_tree([guardian], signal.SIGKILL, grace_s=1)
    database = leftovers.pop(POSTGRES, None)
    mark = record.get("mark")
    stop_tree([*leftovers.values(), *carrying(mark, besides=POSTGRES)], grace_s=grace_s)
    names = list(leftovers)
    if database is not None:
        stop_tree([database], signal.SIGINT, grace_s=DATABASE_GRACE_S)
        names.append(POSTGRES)
    stop_tree(carrying(mark), signal.SIGKILL, grace_s=2)
    return names


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _recorded(record: dict[str, Any]) -> Iterator[tuple[str, psutil.Process]]:
    for name, entry in record.get("processes", {}).items():
        try:
            process = psutil.Process(int(entry["pid"]))
            if abs(process.create_time() - float(entry["create_time"])) < SAME_TIME_S:
                yield name, process
        except (psutil.Error, KeyError, TypeError, ValueError):
            continue


def carrying(mark: object, *, besides: str | None = None) -> list[psutil.Process]:
    """The processes whose environment carries ``mark``, this one excepted, and the part named ``besides`` excepted."""
    if not isinstance(mark, str) or not mark:
        return []
    found = []
    for process in psutil.process_iter():
        try:
            value = process.environ().get(MARK, "")
        except (psutil.Error, OSError):  # somebody else's, or gone meanwhile
            continue
        ours = value == mark or value.startswith(f"{mark}:")
        if ours and process.pid != os.getpid() and value.partition(":")[2] not in {besides, GUARDIAN}:
            found.append(process)
    return found


def is_running(process: psutil.Process) -> bool:
    """Whether it runs still: a zombie does not, it only waits to be noticed."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop_tree(
    processes: Iterable[psutil.Process], how: signal.Signals = signal.SIGTERM, *, grace_s: float = GRACE_S
) -> None:
    """Signal ``processes``, wait up to ``grace_s`` seconds for them and their descendants, then kill what is left."""
    roots = [process for process in processes if is_running(process)]
    everything = set(roots).union(*(descendants(root) for root in roots))
    for root in roots:
        _send(root, how)
    for process in _still_running(everything, grace_s):
        _send(process, signal.SIGKILL)
    _still_running(everything, 2)


def _still_running(processes: Iterable[psutil.Process], patience_s: float) -> list[psutil.Process]:
    # Not psutil.wait_procs: it collects exit statuses that asyncio waits for, and takes a zombie for a running process.
    deadline = time.monotonic() + patience_s
    while alive := [process for process in processes if is_running(process)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.05)
    return alive


def working_in(folder: Path) -> list[psutil.Process]:
    """The running processes whose working directory is ``folder``, as far as this user may see them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and is_running(process):
                found.append(process)
        except (psutil.Error, OSError):  # somebody else's, or gone meanwhile
            continue
    return found


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """Children, their children and so on, as far as they can be seen now."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _send(process: psutil.Process, how: signal.Signals) -> None:
    try:
        process.send_signal(how)
    except (psutil.Error, ProcessLookupError):
        return
