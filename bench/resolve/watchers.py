"""Watchers that do nothing but wait: a process of its own, which tells when each was told.

::

    python -m bench.resolve.watchers <url> <token> <path>=<number>...

opens so many connections to each path and prints a line when all were told what is now. From then on each line of its
input is answered with the moments (``time.monotonic``, one clock for all processes of a machine) at which each was told
of something else since the line before, by path.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit

import uvloop

AT_ONCE, WITHIN_S = 64, 60
_NEWS = b"event: resolution"


class _Watcher(asyncio.Protocol):
    def __init__(self, request: bytes, told: list[float]) -> None:
        self._request = request
        self._told = told
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]  # a stream's, though uvloop's says so to nobody

    def data_received(self, data: bytes) -> None:
        if _NEWS in data:
            self._told.append(time.monotonic())
            if not self.first.done():
                self.first.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.first.done():
            self.first.set_exception(exc or ConnectionError("the connection was closed before anything was told"))


async def watch(url: str, token: str, wanted: list[tuple[str, int]]) -> None:
    """See the module."""
    loop, address, told = asyncio.get_running_loop(), urlsplit(url), {path: list[float]() for path, _ in wanted}
    places, kept = asyncio.Semaphore(AT_ONCE), []

    async def one(path: str) -> None:
        head = f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n"
        async with places:
            transport, watcher = await loop.create_connection(
                lambda: _Watcher(head.encode(), told[path]), address.hostname or "", address.port or 80
            )
            kept.append(transport)
            async with asyncio.timeout(WITHIN_S):
                await watcher.first

    async with asyncio.TaskGroup() as group:
        for path, number in wanted:
            for _ in range(number):
                group.create_task(one(path))
    for moments in told.values():
        moments.clear()
    print(json.dumps({"open": len(kept)}), flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(told), flush=True)
        for moments in told.values():
            moments.clear()


def main() -> None:
    """Run until the end of the input."""
    url, token, *wanted = sys.argv[1:]
    pairs = [each.rpartition("=") for each in wanted]
    uvloop.run(watch(url, token, [(path, int(number)) for path, _, number in pairs]))


if __name__ == "__main__":
    main()
