"""ASGI as types, and the two ends of one exchange: what the caller sends, what it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from app.domain.errors import InvalidInput

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


class ClientDisconnected(Exception):
    """The caller went away; nobody is left to be answered."""


class Inbound:
    """The body of a request, and word of the caller going away.

    Whoever serves the request is cancelled when its caller disconnects: while the body is read by the reader itself,
    after that by a watcher.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._owner = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self.disconnected = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises:
            ClientDisconnected: it ended early; what was passed on is not complete.
        """
        more = True
        while more:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                self._leave()
                raise ClientDisconnected
            more = event.get("more_body", False)
            if chunk := event.get("body", b""):
                yield chunk
        self.watch()

    async def read(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            InvalidInput: it has more than ``limit`` bytes. ClientDisconnected: it ended early.
        """
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise InvalidInput("body", f"expected at most {limit} bytes")
        return bytes(body)

    def watch(self) -> None:
        """From now on, cancel whoever serves the request when the caller disconnects."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._wait())

    def close(self) -> None:
        """The request was served; nobody is cancelled any more."""
        self._owner = None
        if self._watcher:
            self._watcher.cancel()

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
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

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
