"""An upload is judged when it begins and once more before it ends: meanwhile its target may have become governed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from app.domain.errors import CountersignError
from app.proxy.forwarding import Chunks


class JudgedAgain:
    """A body whose last byte waits until ``judge`` agrees.

    MLflow puts a file in its place when all of it is there (``log_artifact_from_async_stream``), so what lacks its
    end changes nothing. A caller could otherwise begin to overwrite a file, have it promoted as it is, and finish
    after the digest was taken for the last time.

    Args:
        body: what the caller sends.
        judge: raises the refusal.
    """

    def __init__(self, body: Chunks, judge: Callable[[], Awaitable[object]]) -> None:
        self._body = body
        self._judge = judge
        self._refusal: CountersignError | None = None

    @property
    def failure(self) -> CountersignError | None:
        """The refusal, or why the caller's body ended early."""
        return self._refusal or self._body.failure

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in parts."""
        held = b""
        async for chunk in self._body.chunks():
            if ahead := b"".join((held, memoryview(chunk)[:-1])):
                yield ahead
            held = chunk[-1:]
        try:
            await self._judge()
        except CountersignError as refusal:
            self._refusal = refusal
            raise
        if held:
            yield held
