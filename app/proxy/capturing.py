"""An answer of MLflow that is read here before the caller gets one."""

from __future__ import annotations

from app.domain.errors import UpstreamUnavailable
from app.proxy.asgi import Headers, Outbound

MOST = 256 * 1024 * 1024
"""Bytes of an answer that is read here."""


class Captured(Outbound):
    """The end of an exchange that leads to us."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    def hold(self, body: bytes) -> None:
        """Answer with this body."""
        self._body[:] = body

    async def start(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = [pair for pair in headers if pair[0] != b"content-length"]

    async def write(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > MOST:
            raise UpstreamUnavailable(f"MLflow's answer has more than {MOST} bytes; ask for less at once.")

    async def finish(self, chunk: bytes = b"") -> None:
        await self.write(chunk)
