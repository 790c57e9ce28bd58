"""The processes of a comparison: started, awaited, weighed and stopped. They listen on loopback only."""

from __future__ import annotations

import http.client
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from app.embedded.environment import child_environment
from app.embedded.ports import FIRST, LAST, LOOPBACK, is_free
from app.embedded.processes import descendants, stop_tree

START_WITHIN_S = 180.0
LOG_SHOWN = 2000
QUIET = 0.05
"""CPU seconds a second of all parts together, under which nothing of the load before is still being worked on."""
QUIET_WITHIN_S = 30.0


class PartFailed(Exception):
    """A part did not start, or does not do what it is compared for."""


def free_port() -> int:
    """A port outside the range from which outgoing connections take theirs."""
    while not is_free(port := random.randint(FIRST, LAST)):  # noqa: S311  # nothing to guess
        pass
    return port


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    ready: Callable[[], bool],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    user: int | None = None,
    how: signal.Signals = signal.SIGTERM,
) -> Iterator[psutil.Process]:
    """A process from when it is ready until the end, when it is stopped with its descendants.

    Raises:
        PartFailed: it ended, or was not ready in time; the message quotes its log.
    """
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = psutil.Popen(
            command,
            env=child_environment(environment or {}),
            cwd="/" if user is not None else folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=user,
        )
    try:
        deadline = time.monotonic() + START_WITHIN_S
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace")[-LOG_SHOWN:]
                raise PartFailed(f"{name} did not start; its log ends so:\n{said}")
            time.sleep(0.1)
        yield process
    finally:
        stop_tree([process], how, grace_s=20)
        process.wait()


def answers(port: int, path: str) -> Callable[[], bool]:
    """Whether ``GET path`` is answered with 200 by now."""

    def ready() -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ready


def cpu_s(roots: Sequence[psutil.Process]) -> float:
    """User and system seconds that the processes and their descendants have used so far."""
    return sum(_of_each(roots, lambda process: sum(process.cpu_times()[:2])))


def rss(roots: Sequence[psutil.Process]) -> int:
    """Bytes of memory that the processes and their descendants hold."""
    return int(sum(_of_each(roots, lambda process: float(process.memory_info().rss))))


def _of_each(roots: Sequence[psutil.Process], figure: Callable[[psutil.Process], float]) -> Iterator[float]:
    for root in roots:
        for process in (root, *descendants(root)):
            try:
                yield figure(process)
            except psutil.NoSuchProcess:
                continue


def settle() -> None:
    """Wait until nothing works off what an earlier load left behind: its requests outlive the connections."""
    deadline = time.monotonic() + QUIET_WITHIN_S
    parts = psutil.Process().children()
    while time.monotonic() < deadline:
        before = cpu_s(parts)
        time.sleep(0.2)
        if cpu_s(parts) - before <= QUIET * 0.2:
            return


@contextmanager
def peak_rss(roots: Sequence[psutil.Process]) -> Iterator[Callable[[], int]]:
    """The largest :func:`rss` since the start, sampled 20 times a second."""
    seen, over = [rss(roots)], threading.Event()

    def sample() -> None:
        while not over.wait(0.05):
            seen.append(max(seen[-1], rss(roots)))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield lambda: seen[-1]
    finally:
        over.set()
        sampler.join()
