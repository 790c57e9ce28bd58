"""Request bodies that are read whole before MLflow is asked, so that a slow caller takes no place there."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from typing import IO

from app.domain.errors import TooLarge
from app.proxy.asgi import Inbound

IN_MEMORY = 1024 * 1024
"""Bytes of a body that are kept in memory; what is longer goes to a temporary file."""

_PART = 256 * 1024


class SpooledBody:
    """A body in a temporary file, which has no name and is gone when it is closed."""

    failure = None
    """It is all there."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self._file = file
        self.length = length

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body from its beginning."""
        await asyncio.to_thread(self._file.seek, 0)
        while part := await asyncio.to_thread(self._file.read, _PART):
            yield part

    def close(self) -> None:
        self._file.close()


async def whole(inbound: Inbound, *, limit: int, declared: int | None) -> bytes | SpooledBody:
    """The whole body of a request.

    Args:
        inbound: what the caller sends.
        limit: bytes it may have.
        declared: its ``Content-Length``, if it has one.

    Raises:
        TooLarge: it has more. TooSlow: it stopped arriving. ClientDisconnected: it ended early.
    """
    _check(declared or 0, limit)
    kept = bytearray()
    file: IO[bytes] | None = None
    length = 0
    try:
        async for chunk in inbound.chunks():
            length += len(chunk)
            _check(length, limit)
            kept += chunk
            if len(kept) > IN_MEMORY:
                file = file or tempfile.TemporaryFile()  # noqa: SIM115 - whoever is given the body closes it
                await asyncio.to_thread(file.write, bytes(kept))
                kept.clear()
        if file is None:
            return bytes(kept)
        await asyncio.to_thread(file.write, bytes(kept))
    except BaseException:
        if file:
            file.close()
        raise
    return SpooledBody(file, length)


def _check(length: int, limit: int) -> None:
    if length > limit:
        raise TooLarge("body", f"expected at most {limit} bytes")
