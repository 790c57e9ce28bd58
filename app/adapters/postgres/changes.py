"""Wake-ups across processes: LISTEN on one connection, handed to whoever waits for a topic."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg
import structlog

from app.adapters.postgres.unit_of_work import CHANGES_CHANNEL

_log = structlog.stdlib.get_logger(__name__)

RECONNECT_S = 1.0


class _Subscription:
    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self.is_over = False

    def end(self) -> None:
        """Nobody is waited for any more."""
        self.is_over = True
        self._changed.set()

    def wake(self) -> None:
        self._changed.set()

    async def wait(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        if self.is_over:
            return False
        self._changed.clear()
        return True


class PostgresChanges:
    """See ``app.ports.Changes``.

    A lost connection is made again, and everybody woken: something may have been missed.
    """

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._subscriptions: defaultdict[str, set[_Subscription]] = defaultdict(set)
        self._hearers: dict[str, Callable[[str], None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._listen(), name="listen for changes")

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[_Subscription]:
        subscription = _Subscription()
        if self._is_over:
            subscription.end()
        self._subscriptions[topic].add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions[topic].discard(subscription)
            if not self._subscriptions[topic]:
                del self._subscriptions[topic]

    def hear(self, kind: str, hearer: Callable[[str], None]) -> None:
        """Have ``hearer`` called with what follows ``kind:`` in a topic, at once and before anybody is woken."""
        self._hearers[kind] = hearer

    def end_waits(self) -> None:
        """Have every wait end at once, those to come too, as when the process is to stop."""
        self._is_over = True
        for subscription in self._all():
            subscription.end()

    def _all(self) -> list[_Subscription]:
        return [subscription for among in self._subscriptions.values() for subscription in among]

    @staticmethod
    async def _until_lost(connection: asyncpg.Connection[asyncpg.Record], lost: asyncio.Event) -> None:
        """Ask now and then: a network that silently drops packets never says that a connection is gone."""
        while not lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await lost.wait()
            if not lost.is_set():
                await connection.execute("SELECT 1", timeout=10)

    def _wake(self, _connection: object, _pid: int, _channel: str, topic: object) -> None:
        kind, _, rest = str(topic).partition(":")
        if hearer := self._hearers.get(kind):
            hearer(rest)
        for subscription in list(self._subscriptions.get(str(topic), ())):
            subscription.wake()

    async def _listen(self) -> None:
        while True:
            connection: asyncpg.Connection[asyncpg.Record] | None = None
            try:
                connection = await asyncpg.connect(self._url, timeout=10)
                lost = asyncio.Event()
                connection.add_termination_listener(lambda _connection, lost=lost: lost.set())
                await connection.add_listener(CHANGES_CHANNEL, self._wake)
                for subscription in self._all():
                    subscription.wake()
                await self._until_lost(connection, lost)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.warning("changes_not_heard", error=type(error).__name__)
            finally:
                if connection is not None and not connection.is_closed():
                    connection.terminate()
            await asyncio.sleep(RECONNECT_S)
