"""What the HTTP client costs that carries requests to MLflow (ADR 0005): ``python -m bench.upstream_clients``.

A static upstream, and in front of it the same few lines of raw ASGI over httpx and over aiohttp, each in a process of
its own with one worker. The same load goes to both, in alternating rounds of the same run; medians and their ratio are
printed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
import httpx
import psutil
import uvicorn

from app.proxy.asgi import Receive, Scope, Send

BODY = b'{"registered_model": {"name": "' + b"m" * 460 + b'"}}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
ROUNDS, SECONDS, WARM_UP_S = 3, 4.0, 1.0
CONNECTIONS = (1, 16, 64)

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Forward = Callable[[Scope], Awaitable[tuple[int, bytes]]]


async def upstream(_scope: Scope, _receive: Receive, send: Send) -> None:
    """500 bytes of JSON."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def over_httpx(url: str) -> Forward:
    """As our own calls are made."""
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
    client = httpx.AsyncClient(base_url=url, limits=limits, trust_env=False)

    async def forward(scope: Scope) -> tuple[int, bytes]:
        answer = await client.request(scope["method"], scope["path"])
        return answer.status_code, answer.content

    return forward


def over_aiohttp(url: str) -> Forward:
    """As the proxy does it."""
    sessions: list[aiohttp.ClientSession] = []

    async def forward(scope: Scope) -> tuple[int, bytes]:
        if not sessions:
            connector = aiohttp.TCPConnector(limit=256)
            sessions.append(aiohttp.ClientSession(connector=connector, auto_decompress=False))
        async with sessions[0].request(scope["method"], url + scope["path"]) as answer:
            return answer.status, await answer.read()

    return forward


def proxy(forward: Forward) -> Application:
    """The least that passes a request on."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        status, body = await forward(scope)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


def serve(listener: socket.socket, kind: str, upstream_url: str) -> None:
    """One process: the upstream, or a proxy in front of it."""
    clients = {"httpx": over_httpx, "aiohttp": over_aiohttp}
    application = upstream if kind == "upstream" else proxy(clients[kind](upstream_url))
    config = uvicorn.Config(application, loop="uvloop", http="httptools", lifespan="off", log_level="critical")
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def running(kind: str, upstream_url: str = "") -> Iterator[tuple[str, psutil.Process]]:
    """The address of a server and its process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = multiprocessing.Process(target=serve, args=(listener, kind, upstream_url), daemon=True)
        process.start()
        assert process.pid
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", psutil.Process(process.pid)
        finally:
            process.terminate()
            process.join()


@dataclass(frozen=True)
class Measured:
    """One round: requests a second, the 99th percentile in ms, and µs of the proxy's CPU a request."""

    rate: float
    p99_ms: float
    cpu_us: float


async def load(url: str, process: psutil.Process, connections: int) -> Measured:
    """Ask as fast as answers come, on so many connections."""
    times: list[float] = []

    async def ask(session: aiohttp.ClientSession, until: float, *, keep: bool) -> None:
        while (began := time.perf_counter()) < until:
            async with session.get(f"{url}/api/2.0/mlflow/registered-models/get") as answer:
                if answer.status != 200 or await answer.read() != BODY:
                    raise AssertionError("the answer is not the upstream's")
            if keep:
                times.append(time.perf_counter() - began)

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:
        warm = time.perf_counter() + WARM_UP_S
        await asyncio.gather(*(ask(session, warm, keep=False) for _ in range(connections)))
        before, end = process.cpu_times(), time.perf_counter() + SECONDS
        await asyncio.gather(*(ask(session, end, keep=True) for _ in range(connections)))
        after = process.cpu_times()
    used = (after.user + after.system) - (before.user + before.system)
    times.sort()
    return Measured(len(times) / SECONDS, times[int(len(times) * 0.99)] * 1e3, used / len(times) * 1e6)


def median(rounds: list[Measured]) -> Measured:
    """Each figure's own."""
    return Measured(*(statistics.median(getattr(one, name) for one in rounds) for name in Measured.__annotations__))


def main() -> None:
    """Measure and print."""
    print(f"{ROUNDS} alternating rounds of {SECONDS:g} s, medians, one worker each\n")
    print(f"{'connections':>11}  {'client':<8}  {'requests/s':>10}  {'p99 ms':>8}  {'CPU µs':>7}")
    with (
        running("upstream") as (upstream_url, _),
        running("httpx", upstream_url) as slow,
        running("aiohttp", upstream_url) as fast,
    ):
        time.sleep(1)
        for connections in CONNECTIONS:
            rounds: dict[str, list[Measured]] = {"httpx": [], "aiohttp": []}
            for _ in range(ROUNDS):
                for name, (url, process) in {"httpx": slow, "aiohttp": fast}.items():
                    rounds[name].append(asyncio.run(load(url, process, connections)))
            found = {name: median(measured) for name, measured in rounds.items()}
            for name, one in found.items():
                print(f"{connections:>11}  {name:<8}  {one.rate:>10,.0f}  {one.p99_ms:>8.1f}  {one.cpu_us:>7.0f}")
            print(f"{'':>11}  ratio     {found['aiohttp'].rate / found['httpx'].rate:>10.1f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
