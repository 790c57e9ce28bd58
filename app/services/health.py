"""Whether the parts we depend on answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from app.domain.errors import CountersignError

PATIENCE_S = 3.0


class Health:
    """Asks each part at once, each for a few seconds at most.

    Args:
        parts: name to a call that returns when the part is well and raises ``CountersignError`` when it is not.
        notes: name to what is worth saying of a part that is well.
    """

    def __init__(
        self,
        parts: Mapping[str, Callable[[], Awaitable[None]]],
        notes: Mapping[str, Callable[[], str | None]] | None = None,
    ) -> None:
        self._parts = parts
        self._notes = notes or {}
        self.is_stopping = False
        """Set when this process is about to stop: no more callers should be sent to it."""

    async def problems(self) -> dict[str, str | None]:
        """Each part, and what is wrong with it; ``None`` when nothing is."""
        found = await asyncio.gather(*(self._ask(check) for check in self._parts.values()))
        problems = dict(zip(self._parts, found, strict=True))
        return {**problems, "gateway": "is about to stop"} if self.is_stopping else problems

    def notes(self) -> dict[str, str]:
        """What is worth saying of parts, whether they are well or not."""
        return {part: said for part, note in self._notes.items() if (said := note())}

    async def _ask(self, check: Callable[[], Awaitable[None]]) -> str | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await check()
        except CountersignError as error:
            return error.message
        except TimeoutError:
            return f"no answer within {PATIENCE_S:g} seconds"
        return None
