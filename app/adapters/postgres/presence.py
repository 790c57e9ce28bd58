"""A number that is a process's own for as long as its connection lives, however it dies (ADR 0026).

Whoever holds something in the database writes the number beside it. When the connection ends, so does the lock, and
others may take over what was held.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import structlog

from app.domain.errors import Unavailable

_log = structlog.stdlib.get_logger(__name__)

LOCK_CLASS = 0x44656C76  # "Delv" in ASCII: the first half of the advisory locks of those who deliver
ASKED_EVERY_S = 5.0
"""Between two looks whether the connection is there: a network that drops packets never says that it is not."""


@dataclass(frozen=True, slots=True)
class PostgresPresence:
    """See ``app.ports.Presence``."""

    number: int
    lost: asyncio.Event


class PostgresPresences:
    """See ``app.ports.Presences``."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url

    @asynccontextmanager
    async def take(self) -> AsyncIterator[PostgresPresence]:
        number, lost = secrets.randbelow(2**31 - 1) + 1, asyncio.Event()
        connection = await self._locked(number)
        connection.add_termination_listener(lambda _connection: lost.set())
        asking = asyncio.create_task(_until_lost(connection, lost), name="hold a delivery lock")
        try:
            yield PostgresPresence(number, lost)
        finally:
            asking.cancel()
            await asyncio.wait([asking])
            # Not a polite goodbye: the server lets go of the lock when the socket is closed, whatever else is wrong.
            connection.terminate()

    async def _locked(self, number: int) -> asyncpg.Connection[asyncpg.Record]:
        try:
            connection = await asyncpg.connect(self._url, timeout=10)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Unavailable("The database does not answer.") from error
        try:
            is_ours = await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_CLASS, number, timeout=10)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            connection.terminate()
            raise Unavailable("The database does not answer.") from error
        except asyncio.CancelledError:
            connection.terminate()
            raise
        if not is_ours:
            connection.terminate()
            raise Unavailable("Somebody has the same number.")
        return connection


async def _until_lost(connection: asyncpg.Connection[asyncpg.Record], lost: asyncio.Event) -> None:
    while not lost.is_set():
        try:
            async with asyncio.timeout(ASKED_EVERY_S):
                await lost.wait()
        except TimeoutError:
            try:
                await connection.execute("SELECT 1", timeout=ASKED_EVERY_S)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.warning("delivery_lock_lost", error=type(error).__name__)
                lost.set()
