"""An upload is judged when it begins and once more before it ends: meanwhile its target may have become governed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from app.domain.errors import CountersignError
from app.proxy.forwarding import Chunks


class JudgedAgain:
    """A body whose end waits until ``judge`` agrees.

    MLflow puts a file in its place when all of it is there (``log_artifact_from_async_stream``), so what lacks its
    end changes nothing. A caller could otherwise begin to overwrite a file, have it promoted as it is, and finish
    after the digest was taken for the last time.

    Args:
        body: what the caller sends.
        length: its ``Content-Length``, if it has one.
        judge: raises the refusal.
    """

    def __init__(self, body: Chunks, length: int | None, judge: Callable[[], Awaitable[object]]) -> None:
        self._body = body
        self._length = length
        self._judge = judge
        self._refusal: CountersignError | None = None

    @property
    def failure(self) -> CountersignError | None:
        """The refusal, or why the caller's body ended early."""
        return self._refusal or self._body.failure

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in parts."""
        async for chunk in self._with_known_end(self._length) if self._length else self._with_unknown_end():
            yield chunk

    async def _with_known_end(self, length: int) -> AsyncIterator[bytes]:
        """Everything as it comes; only the part that completes the body waits."""
        passed = 0
        async for chunk in self._body.chunks():
            passed += len(chunk)
            if passed >= length:
                await self._ask()
            yield chunk

    async def _with_unknown_end(self) -> AsyncIterator[bytes]:
        """Everything but the last byte that came."""
        held = b""
        async for chunk in self._body.chunks():
            if ahead := b"".join((held, memoryview(chunk)[:-1])):
                yield ahead
            held = chunk[-1:]
        await self._ask()
        if held:
            yield held

    async def _ask(self) -> None:
        try:
            await self._judge()
        except CountersignError as refusal:
            self._refusal = refusal
            raise
