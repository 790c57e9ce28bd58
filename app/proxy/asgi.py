"""ASGI as types, and the two ends of one exchange: what the caller sends, what it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from app.domain.errors import TooLarge, TooSlow

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


_WATCH_AFTER_S = 0.05
"""Most answers are there sooner; a task for each request would cost more than it saves."""


_DISCARD_BYTES, _DISCARD_S, _DISCARD_IDLE_S = 64 * 1024 * 1024, 5, 0.5


class ClientDisconnected(Exception):
    """The caller went away; nobody is left to be answered."""


class Inbound:
    """The body of a request, and word of the caller going away.

    Whoever serves the request is cancelled when its caller disconnects: while the body is read by the reader itself,
    after that by a watcher.
    """

    def __init__(self, receive: Receive, *, loop: asyncio.AbstractEventLoop | None = None, idle_s: float = 60) -> None:
        self._receive = receive
        self._idle_s = idle_s
        self._loop = loop or asyncio.get_running_loop()
        self._owner = asyncio.current_task(self._loop)
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.is_read = False
        self.disconnected = False
        self.failure: TooSlow | None = None
        """Why the body was given up; whoever passes it on is told something else by the HTTP client."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises:
            ClientDisconnected: it ended early; what was passed on is not complete. TooSlow: nothing more came.
        """
        while not self.is_read:
            try:
                async with asyncio.timeout(self._idle_s):
                    event = await self._receive()
            except TimeoutError:
                self.failure = TooSlow("body", f"nothing of it arrived for {self._idle_s:g} s")
                raise self.failure from None
            if event["type"] == "http.disconnect":
                self._leave()
                raise ClientDisconnected
            self.is_read = not event.get("more_body", False)
            if chunk := event.get("body", b""):
                yield chunk
        self.watch()

    async def read(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            TooLarge: it has more than ``limit`` bytes. ClientDisconnected: it ended early. TooSlow: nothing more came.
        """
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise TooLarge("body", f"expected at most {limit} bytes")
        return bytes(body)

    async def discard(self) -> None:
        """Read what is left of the body, within bounds.

        A server that closes a connection on which something arrives resets it, and the caller may lose the answer (RFC
        9112 section 9.6).
        """
        discarded = 0
        self._idle_s = _DISCARD_IDLE_S
        with suppress(ClientDisconnected, TooSlow, TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                async for chunk in self.chunks():
                    discarded += len(chunk)
                    if discarded > _DISCARD_BYTES:
                        return

    def watch(self) -> None:
        """From now on, or a moment later, cancel whoever serves the request when the caller disconnects."""
        if self._timer is None:
            self._timer = self._loop.call_later(_WATCH_AFTER_S, self._begin_to_watch)

    def close(self) -> None:
        """The request was served; nobody is cancelled any more."""
        self._owner = None
        if self._timer:
            self._timer.cancel()
        if self._watcher:
            self._watcher.cancel()

    def _begin_to_watch(self) -> None:
        self._watcher = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        self.disconnected = True
        if self._owner and self._owner is not asyncio.current_task():
            self._owner.cancel()


class Outbound:
    """The answer of one exchange. Remembers its status.

    ``before_end`` is called before the last part is sent: servers report a finished exchange as a disconnected caller.
    """

    def __init__(self, send: Send, *, before_end: Callable[[], None]) -> None:
        self._send = send
        self._before_end = before_end
        self.status = 0

    @property
    def started(self) -> bool:
        return self.status != 0

    async def start(self, status: int, headers: Headers) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self, chunk: bytes = b"") -> None:
        self._before_end()
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer at once."""
        length = (b"content-length", str(len(body)).encode())
        await self.start(status, [*headers, length])
        await self.finish(body)


async def refuse_websocket(receive: Receive, send: Send) -> None:
    """Close before accepting, which servers answer with 403: MLflow has no WebSocket."""
    await receive()
    await send({"type": "websocket.close", "code": 1008, "reason": "MLflow has no WebSocket."})
