"""Work in threads that ends when nobody waits for it any more, and what a store must be able to do in them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, aclosing
from typing import Protocol, TypeVar

from app.domain.digests import FileDigest, StoredFile
from app.domain.errors import ArtifactsUnsettled

Item = TypeVar("Item")
Result = TypeVar("Result")
Stop = threading.Event
Read = Callable[[StoredFile, Stop], FileDigest]


class Stopped(Exception):
    """Nobody waits for this any more."""


class Store(Protocol):
    """One kind of place. All methods block, and look at ``stop`` between two pieces; see ``app.ports.ObjectStore``."""

    threads: int
    """In how many it is read best."""

    def stored(self, uri: str, stop: Stop) -> list[StoredFile]: ...

    def reading(self, uri: str, progress: Callable[[int], None]) -> AbstractContextManager[Read]:
        """What reads one file, called from several threads. Does not block itself."""

    def read(self, uri: str, path: str, limit: int, stop: Stop) -> bytes: ...

    def start(self, uri: str, file: StoredFile, length: int, stop: Stop) -> bytes:
        """At most ``length`` first bytes of a file that was listed, and is not empty."""

    def find(self, uri: str, path: str, stop: Stop) -> StoredFile: ...

    def pieces(self, uri: str, file: StoredFile, first: int, length: int) -> Generator[bytes]:
        """A part of a file that was found, not empty, in pieces of a MiB at most. To be closed."""


def changed(path: str) -> ArtifactsUnsettled:
    """The file is not the one that was listed: no digest would be that of what is there."""
    return ArtifactsUnsettled(f"{path} changed while it was read.")


async def concurrently(
    work: Callable[[Item, Stop], Result], items: Sequence[Item], *, threads: int
) -> AsyncGenerator[Result]:
    """The results of ``work`` for each item, in the order in which they come.

    When one fails, or the generator is closed, the others are told to stop, and have stopped when this returns.
    """
    loop = asyncio.get_running_loop()
    results: asyncio.Queue[Result | _Failure] = asyncio.Queue()
    waiting, stop = deque(items), Stop()

    def tell(result: Result | _Failure) -> None:
        loop.call_soon_threadsafe(results.put_nowait, result)

    def run() -> None:
        try:
            while not stop.is_set():
                try:
                    item = waiting.popleft()
                except IndexError:
                    return
                tell(work(item, stop))
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            tell(_Failure(error))

    threads = min(threads, len(items))
    pool = ThreadPoolExecutor(max(threads, 1), thread_name_prefix="artifacts")
    running = [loop.run_in_executor(pool, run) for _ in range(threads)]
    try:
        for _ in items:
            result = await results.get()
            if isinstance(result, _Failure):
                raise result.error
            yield result
    finally:
        stop.set()
        pool.shutdown(wait=False)
        if running:
            await asyncio.wait(running)


async def alone(work: Callable[[Stop], Result]) -> Result:
    """The result of one piece of work."""
    async with aclosing(concurrently(lambda _, stop: work(stop), [None], threads=1)) as found:
        return await anext(found)


async def one_after_another(pieces: Generator[bytes]) -> AsyncGenerator[bytes]:
    """The pieces, each read in a thread when it is asked for: no more than one is in memory.

    To be closed (``contextlib.aclosing``): what was opened is closed then, after the read that goes on.
    """
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(1, thread_name_prefix="content")
    try:
        while (piece := await loop.run_in_executor(pool, next, pieces, None)) is not None:
            yield piece
    finally:
        # Its one thread does it next. It is not waited for: who was cancelled cannot wait for anything.
        pool.submit(pieces.close)
        pool.shutdown(wait=False)


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error
