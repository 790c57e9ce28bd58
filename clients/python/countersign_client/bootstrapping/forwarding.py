"""One port for each model: what comes in there goes to Ray Serve, and its answer back, piece by piece."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web

from countersign_client.bootstrapping.problems import Problem, Stopped
from countersign_client.following import Exit

LARGEST_BODY = 16 * 1024 * 1024
"""Bytes of a request; what our Ray Serve deployer takes at most, unless its operator says otherwise."""
AT_A_TIME = 64
"""Requests at one port; whoever comes then is told to come again."""
_TIMEOUT = ClientTimeout(total=120, connect=5)
_PASSED_ON = ("Content-Type", "Accept", "Accept-Encoding", "X-Request-Id", "traceparent", "tracestate")
_PASSED_BACK = ("Content-Type", "Content-Encoding", "Vary", "X-Model-Version", "X-Request-Id", "Retry-After", "Allow")
_FAREWELL_S = 10


@dataclass(frozen=True, slots=True)
class Listener:
    """The port of a model, before anybody is let in."""

    name: str
    socket: socket.socket

    @property
    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port


def take_port(name: str, host: str, port: int) -> Listener | Problem:
    """Take a port, on which nobody is let in yet: callers are refused until there is a model."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        taken = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        return Problem("MODEL_HOST", f"{host} is no address of this machine")
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
    except OSError as error:
        taken.close()
        if isinstance(error, PermissionError):
            return Problem("MODEL_PORTS", f"{port} (of {name}) may not be used by this user; choose one above 1023")
        if "assign" in (error.strerror or "").lower():
            return Problem("MODEL_HOST", f"{host} is no address of this machine")
        return Problem("MODEL_PORTS", f"{port} (of {name}) is in use by another process on {host}")
    return Listener(name, taken)


async def forward(routes: Sequence[tuple[Listener, str]], say: Callable[[str], None]) -> None:
    """Answer at each port with what is at its URL, until somebody asks this process to stop.

    Raises:
        Stopped: another process listens at one of the ports by now.
    """
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_stop.set)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(new_session())
        for listener, url in routes:
            runner = web.AppRunner(Forwarder(session, url).application(), access_log=None, shutdown_timeout=_FAREWELL_S)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            try:
                await web.SockSite(runner, listener.socket).start()
            except OSError:
                raise Stopped(
                    f"Port {listener.port} (of {listener.name}) was taken by another process.", Exit.FAILED
                ) from None
            say(f"[{listener.name}] answers at port {listener.port}, from {url}")
        await asked_to_stop.wait()
        say("stopping …")


def new_session() -> ClientSession:
    """Connections to Ray Serve: straight there, whatever proxy the environment names."""
    return ClientSession(
        connector=TCPConnector(limit=0),
        timeout=_TIMEOUT,
        auto_decompress=False,
        trust_env=False,
        cookie_jar=DummyCookieJar(),
    )


class Forwarder:
    """One model: ``GET /`` (and ``/ping``, ``/health``) asks whether it is up, ``POST /`` (and ``/invocations``)
    predicts, as at MLflow's own scoring server.
    """

    def __init__(self, session: ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._here = 0

    def application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST_BODY)
        for path in ("/", "/ping", "/health"):
            application.router.add_get(path, self._handle)
        for path in ("/", "/invocations"):
            application.router.add_post(path, self._handle)
        return application

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if (request.content_length or 0) > LARGEST_BODY:
            return _refusal(413, "BAD_REQUEST", f"The body is larger than {LARGEST_BODY} bytes.")
        if self._here >= AT_A_TIME:
            return _refusal(503, "TEMPORARILY_UNAVAILABLE", "Too many requests wait for this model.")
        self._here += 1
        try:
            return await self._forwarded(request)
        finally:
            self._here -= 1

    async def _forwarded(self, request: web.Request) -> web.StreamResponse:
        body = _Body(request)
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers.setdefault("Accept-Encoding", "identity")  # else aiohttp would ask for what this client may not read
        answer: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method,
                self._url,
                data=body.pieces() if request.method == "POST" else None,
                headers=headers,
                allow_redirects=False,
            ) as theirs:
                answer = web.StreamResponse(status=theirs.status)
                for name in _PASSED_BACK:
                    if name in theirs.headers:
                        answer.headers[name] = theirs.headers[name]
                await answer.prepare(request)
                if request.method != "HEAD":
                    async for piece in theirs.content.iter_any():
                        await answer.write(piece)
                await answer.write_eof()
                return answer
        except (ClientError, TimeoutError, ConnectionError) as error:
            if answer is not None:
                raise  # the head has gone out already: the connection is cut, so that nobody takes it for the whole
            if body.is_too_large:
                return _refusal(413, "BAD_REQUEST", f"The body is larger than {LARGEST_BODY} bytes.")
            if isinstance(error, TimeoutError):
                return _refusal(504, "TEMPORARILY_UNAVAILABLE", "The model did not answer in time.")
            return _refusal(503, "TEMPORARILY_UNAVAILABLE", "Ray Serve does not answer now.")


class _Body:
    """What a client sends, up to the largest that is taken."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.is_too_large = False

    async def pieces(self) -> AsyncIterator[bytes]:
        length = 0
        async for piece in self._request.content.iter_any():
            length += len(piece)
            if length > LARGEST_BODY:
                self.is_too_large = True
                raise ConnectionError
            yield piece


def _refusal(status: int, code: str, message: str) -> web.Response:
    """An error in the shape that MLflow's clients read."""
    headers = {"Retry-After": "1"} if status == 503 else None
    return web.json_response({"error_code": code, "message": message}, status=status, headers=headers)


def close(listeners: Sequence[Listener]) -> None:
    """Let go of ports that nothing came to."""
    for listener in listeners:
        with suppress(OSError):
            listener.socket.close()
