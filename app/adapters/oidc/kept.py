"""Something that an issuer publishes: fetched when needed, kept, and used on while the issuer is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from app.domain.errors import Unavailable

_log = structlog.stdlib.get_logger(__name__)

FRESH_S = 300
"""Seconds for which what was fetched counts without asking again."""
USABLE_S = 24 * 3600
"""Seconds for which it is used on while it cannot be fetched."""
LEAST_REFETCH_S = 5
"""Seconds between two attempts, whoever asks for them."""
FETCH_WITHIN_S = 5

Elapsed = Callable[[], float]
"""Seconds since any moment, never backwards."""
T = TypeVar("T")


class Kept(Generic[T]):
    """One fetch at a time, and no more often than every ``every_s`` seconds.

    What is older than ``FRESH_S`` is fetched again behind the back of whoever asks, so that a slow issuer delays
    nobody. Only after a long time in which nobody asked do they wait for it: what the issuer took back meanwhile (a
    key that leaked) must not be believed once more.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[T]],
        *,
        what: str,
        of: str,
        elapsed: Elapsed,
        every_s: float = LEAST_REFETCH_S,
        within_s: float = FETCH_WITHIN_S,
    ) -> None:
        self._fetch, self._what, self._of, self._elapsed = fetch, what, of, elapsed
        self._every_s, self._within_s = every_s, within_s
        self._value: T | None = None
        self._fetched_at = self._tried_at = self._settled_at = float("-inf")
        self._flight: asyncio.Task[None] | None = None
        self.is_failing = False
        """Whether the last attempt failed."""

    async def get(self) -> T:
        """What was fetched last.

        Raises:
            Unavailable: nothing was, or it is too old.
        """
        if self._age() > FRESH_S:
            flight = self._begin()
            if flight and (self._age() > USABLE_S or self._elapsed() - self._settled_at > 2 * FRESH_S):
                await asyncio.wait({flight})
        if self._value is None or self._age() > USABLE_S:
            raise Unavailable(f"The identity provider {self._of} does not answer, and its {self._what} are not known.")
        return self._value

    async def renew(self) -> None:
        """Fetch it now, if the last attempt was not just made."""
        if flight := self._begin():
            await asyncio.wait({flight})

    async def close(self) -> None:
        if self._flight:
            self._flight.cancel()
            await asyncio.wait({self._flight})

    def _age(self) -> float:
        return self._elapsed() - self._fetched_at

    def _begin(self) -> asyncio.Task[None] | None:
        """The attempt that is under way, or a new one; none if one was just made."""
        if self._flight is None:
            if self._elapsed() - self._tried_at < self._every_s:
                return None
            self._tried_at = self._elapsed()
            self._flight = asyncio.create_task(self._attempt())
        return self._flight

    async def _attempt(self) -> None:
        try:
            async with asyncio.timeout(self._within_s):
                self._value = await self._fetch()
            self._fetched_at = self._elapsed()
            self.is_failing = False
        except Exception as error:  # noqa: BLE001  # whatever an issuer answers: what is kept is used on
            self.is_failing = True
            _log.warning(
                "issuer_not_fetched", issuer=self._of, what=self._what, error=type(error).__name__, why=str(error)[:200]
            )
        finally:
            self._settled_at = self._elapsed()
            self._flight = None


def monotonic() -> float:
    """The process's own clock, which nobody can set back."""
    return time.monotonic()
