"""How long a gateway may answer from what it remembers, and how a worker knows that none does any more.

Whoever changes what resolves raises ``resolution_epoch`` in the same transaction (``UnitOfWork.forget_resolutions``).
A gateway reads the number all the time and says in ``resolvers`` up to which it has forgotten. What it remembers counts
for a while after the last time it *asked* (``HOLDS_S``), by a clock that no one sets and that goes on while the machine
sleeps. So whoever waits for ``LEASE_S`` after the number was raised knows that nothing older is answered, whatever
died, slept or was cut off meanwhile; the rows only let it go on sooner. No clock is compared with another's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from uuid import uuid4

import asyncpg
import structlog

from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.unit_of_work import RESOLUTION_CHANGED

_log = structlog.stdlib.get_logger(__name__)

LEASE_S = 1.5
HOLDS_S = 0.9
"""Less than the lease: two clocks may differ in speed, and neither by as much as this."""
RENEW_S = 0.4
POLL_S = 0.004
_RETRY_S = 0.2
_ANSWERS_WITHIN_S = 5.0
_FAILURES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)

_RENEW = """
INSERT INTO resolvers (id, seen, alive_until) VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, alive_until = excluded.alive_until
RETURNING (SELECT value FROM resolution_epoch)
"""
_BEHIND = "SELECT id, alive_until FROM resolvers WHERE seen < $1"
_REMOVE = "DELETE FROM resolvers WHERE id = $1 AND alive_until = $2 AND seen < $3"

Concern = tuple[str, str]
"""Workspace and name of the model that a change is about."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed() -> float:
    """Seconds since some moment, those of sleep too: Linux's ``CLOCK_MONOTONIC`` leaves them out, macOS's does not."""
    return time.clock_gettime(_CLOCK)


class ResolverLease:
    """Of one gateway. See ``app.ports.Lease``.

    Args:
        database_url: our database.
        changes: tells at once that the number was raised.
    """

    def __init__(self, database_url: str, changes: PostgresChanges) -> None:
        self._url = database_url
        self._id = uuid4().hex
        self._forget: Callable[[Concern | None], None] = _nothing
        self._seen: int | None = None
        self._until = float("-inf")
        self._nudged = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        changes.hear(RESOLUTION_CHANGED, self._hear)

    def start(self, forget: Callable[[Concern | None], None]) -> None:
        """Args: forget: forgets at once what is about one model, or everything."""
        self._forget = forget
        self._task = asyncio.create_task(self._keep(), name="keep the lease of what is remembered")

    async def close(self) -> None:
        self._until = float("-inf")
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def holds(self) -> bool:
        return elapsed() < self._until

    def _hear(self, said: str) -> None:
        """Numbers are announced in the order in which they were committed."""
        if self._seen is None:
            return  # everything will be forgotten in a moment, and nothing counts before
        number, _, about = said.partition(":")
        if int(number) <= self._seen:
            return
        workspace, slash, model = about.partition("/")
        is_next = int(number) == self._seen + 1
        self._forget((workspace, model) if slash and is_next else None)
        self._seen = int(number)
        self._nudged.set()

    async def _keep(self) -> None:
        while True:
            connection: asyncpg.Connection[asyncpg.Record] | None = None
            try:
                # A lost renewal costs nothing: what counts is what this process knows to be committed.
                connection = await asyncpg.connect(self._url, timeout=10, server_settings={"synchronous_commit": "off"})
                connection.add_termination_listener(self._lost)
                await self._renew_on(connection)
            except _FAILURES as error:
                _log.warning("resolution_lease_not_renewed", error=type(error).__name__)
            finally:
                # Another database may answer next, which has lost what this one said.
                self._lost()
                if connection is not None:
                    await self._leave(connection)
            await asyncio.sleep(_RETRY_S)

    def _lost(self, _connection: object = None) -> None:
        self._until, self._seen = float("-inf"), None

    async def _leave(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        with suppress(*_FAILURES):
            if not connection.is_closed():
                await connection.execute("DELETE FROM resolvers WHERE id = $1", self._id, timeout=1)
        connection.terminate()

    async def _renew_on(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        while not connection.is_closed():
            self._nudged.clear()
            told = self._seen
            asked_at = elapsed()
            number = await connection.fetchval(
                _RENEW, self._id, -1 if told is None else told, LEASE_S, timeout=_ANSWERS_WITHIN_S
            )
            if connection.is_closed():
                return
            if self._seen is None or number > self._seen:
                self._forget(None)
                self._seen = number
            # Of when it was asked: whatever is raised after that may have been answered before it.
            self._until = asked_at + HOLDS_S
            if self._seen == told:
                with suppress(TimeoutError):
                    async with asyncio.timeout(RENEW_S):
                        await self._nudged.wait()


class ResolverLeases:
    """Those of all gateways, as a worker sees them. See ``app.ports.ResolversForgotten``."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._connected_at = float("inf")
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect soon: a connection says something only when it is as old as a lease (``wait``)."""
        self._task = asyncio.create_task(self._connect_first(), name="connect to see leases")

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._connection:
            self._connection.terminate()

    async def wait(self) -> None:
        """Return when no gateway answers from anything that it remembered before the number was raised last.

        A row that says so is believed only on a connection that is older than a lease: the database may have been
        restored since the gateways spoke to it, and connections end with it.
        """
        began = elapsed()
        try:
            await self._until_all_have(began)
        except _FAILURES as error:
            _log.warning("resolution_leases_not_seen", error=type(error).__name__)
            await self._drop()
            await asyncio.sleep(began + LEASE_S - elapsed())

    async def _until_all_have(self, began: float) -> None:
        (newest,) = await self._ask("SELECT value FROM resolution_epoch")
        number = int(newest["value"])
        first: Mapping[str, object] | None = None
        behind: Mapping[str, object] = {}
        while elapsed() < began + LEASE_S:
            behind = {row["id"]: row["alive_until"] for row in await self._ask(_BEHIND, number)}
            if first is None:
                first = behind
            if not behind and elapsed() >= self._connected_at + LEASE_S:
                return
            await asyncio.sleep(POLL_S)
        for gone, stamp in behind.items():
            if (first or {}).get(gone) == stamp:  # it has not said anything for a whole lease
                await self._ask(_REMOVE, gone, stamp, number, within_s=POLL_S * 50)

    async def _ask(self, query: str, *values: object, within_s: float = _ANSWERS_WITHIN_S) -> Sequence[asyncpg.Record]:
        async with self._lock:
            connection = await self._connected()
            return await connection.fetch(query, *values, timeout=within_s)

    async def _connected(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            connection = await asyncpg.connect(self._url, timeout=10)
            self._connection, self._connected_at = connection, elapsed()
        return self._connection

    async def _connect_first(self) -> None:
        with suppress(*_FAILURES):
            async with self._lock:
                await self._connected()

    async def _drop(self) -> None:
        async with self._lock:
            if self._connection:
                self._connection.terminate()
            self._connection = None


def _nothing(_concern: Concern | None) -> None:
    """Nothing is remembered yet."""
