"""Whether what a process remembers of callers is still true: a number in the database, watched all the time.

Whoever takes something away raises the number in the same transaction (``UnitOfWork.forget_callers``). A wake-up
tells of it at once, and the number is read twice a second, so that a lost wake-up costs half a second; when it could
not be read for a second, nothing that was remembered counts.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import asyncpg
import structlog

from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.unit_of_work import IDENTITY_CHANGED

_log = structlog.stdlib.get_logger(__name__)

READ_EVERY_S = 0.4
FRESH_S = 0.9
"""Less than the second within which something that was taken away is gone everywhere."""


class IdentityFreshness:
    """See ``app.ports.Freshness``."""

    def __init__(self, database_url: str, changes: PostgresChanges) -> None:
        self._url = database_url
        self._changes = changes
        self._epoch = 0
        self._read_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._watch(), name="watch the identity epoch")

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def epoch(self) -> int | None:
        """The number as it was less than a second ago; none if it is not known."""
        return self._epoch if time.monotonic() - self._read_at < FRESH_S else None

    async def _watch(self) -> None:
        while True:
            connection: asyncpg.Connection[asyncpg.Record] | None = None
            try:
                connection = await asyncpg.connect(self._url, timeout=10)
                await self._read_on(connection)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.warning("identity_epoch_not_read", error=type(error).__name__)
            finally:
                if connection is not None and not connection.is_closed():
                    connection.terminate()
            await asyncio.sleep(READ_EVERY_S)

    async def _read_on(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        async with self._changes.subscribe(IDENTITY_CHANGED) as subscription:
            while True:
                asked_at = time.monotonic()
                # Of when it was asked, not of when it was answered: the answer may be older than its arrival.
                self._epoch = int(await connection.fetchval("SELECT value FROM identity_epoch", timeout=5))
                self._read_at = asked_at
                if not await subscription.wait(READ_EVERY_S):
                    # Also when waiting has ended for good: the process stops, and must not spin meanwhile.
                    await asyncio.sleep(0.01)
