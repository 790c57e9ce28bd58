"""A receiver that tells repetitions by ``webhook-id``, as receivers should, and misbehaves as it is told.

What it has processed is in a file, written before it answers: so it knows after a kill what it did before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from pathlib import Path

from aiohttp import web

HANGS_S = 3600


class Sink:
    def __init__(self, file: Path, *, fails: float) -> None:
        self._seen = set(file.read_text().split()) if file.exists() else set()
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._fails = fails
        self._requests = self._repeated = 0
        self._first = self._last = 0.0

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/hang":
            await asyncio.sleep(HANGS_S)
        if request.method == "GET":
            return web.json_response(
                {
                    "processed": len(self._seen),
                    "requests": self._requests,
                    "repeated": self._repeated,
                    "first": self._first,
                    "last": self._last,
                }
            )
        await request.read()
        self._requests += 1
        self._last = time.time()
        self._first = self._first or self._last
        chance = random.random()  # noqa: S311  # nothing to guess
        if chance < self._fails * 2 / 3:
            return web.Response(status=503)
        self._process(request.headers.get("webhook-id") or request.headers["x-mlflow-delivery-id"])
        # The rest of those that fail, fail when they have done it: the repetition must not do it again.
        return web.Response(status=500 if chance < self._fails else 204)

    def _process(self, message: str) -> None:
        if message in self._seen:
            self._repeated += 1
            return
        self._seen.add(message)
        os.write(self._file, f"{message}\n".encode())


async def _run(options: argparse.Namespace) -> None:
    server = web.Server(Sink(options.file, fails=options.fails).serve, access_log=None)
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.deliveries.sink")
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--fails", type=float, default=0.0, help="the part of requests that are answered 5xx")
    asyncio.run(_run(parser.parse_args()))
