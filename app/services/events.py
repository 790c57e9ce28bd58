"""What happened, one thing after the other, for who follows all of it or some of it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may
from app.domain.errors import CountersignError
from app.domain.events import EventType, StoredEvent
from app.domain.promotions import AliasKey
from app.ports import Changes
from app.services.recording import EVENTS_TOPIC, UnitOfWorkFactory
from app.services.resources import readable

AT_A_TIME = 100
"""Events of one page of a stream: so many at most are held for a reader that is slow."""


@dataclass(frozen=True, slots=True)
class WantedEvents:
    """Which events somebody follows; what is not given is any. An empty alias is of what is of a model itself."""

    types: Sequence[EventType] = ()
    workspace: str | None = None
    model: str | None = None
    alias: str | None = None

    @property
    def is_of_some(self) -> bool:
        return self.workspace is not None or self.model is not None or self.alias is not None


EVERYTHING = WantedEvents()


class Events:
    def __init__(self, unit_of_work: UnitOfWorkFactory, changes: Changes) -> None:
        self._unit_of_work = unit_of_work
        self._changes = changes

    async def page(
        self,
        principal: Principal,
        *,
        after: int,
        wanted: WantedEvents = EVERYTHING,
        limit: int = 100,
        newest_first: bool = False,
    ) -> Sequence[StoredEvent]:
        """Those behind the number ``after``, oldest first: of the aliases whose promotions the principal may read."""
        async with self._unit_of_work() as work:
            among = await _among(work, principal, wanted)
            return await work.events.page(
                after=after, limit=limit, types=wanted.types, among=among, newest_first=newest_first
            )

    async def last(self) -> int:
        """The number of the last event that there is."""
        async with self._unit_of_work() as work:
            return await work.events.last()

    async def wait(
        self,
        principal: Principal,
        *,
        after: int,
        wanted: WantedEvents = EVERYTHING,
        limit: int = 100,
        timeout_s: float = 0,
    ) -> Sequence[StoredEvent]:
        """As ``page``, as soon as there is one, or none after the time. No connection is held meanwhile."""
        deadline = time.monotonic() + timeout_s
        async with self._changes.subscribe(EVENTS_TOPIC) as subscription:
            while True:
                found = await self.page(principal, after=after, wanted=wanted, limit=limit)
                left = deadline - time.monotonic()
                if found or left <= 0 or not await subscription.wait(left):
                    return found

    async def follow(
        self,
        principal: Callable[[], Awaitable[Principal]],
        *,
        after: int,
        wanted: WantedEvents = EVERYTHING,
        heartbeat_s: float,
    ) -> AsyncGenerator[Sequence[StoredEvent]]:
        """Page after page, as things happen; an empty one when nothing did for a while.

        Ends when the process stops, and when the caller may not know any more what happens. No connection is held
        while nothing happens, or while the reader takes its time.

        Args:
            principal: who follows, as they are now; asked before each page, and raises what they are refused.
            after: the number of the last event they saw.
            wanted: which events.
            heartbeat_s: seconds after which there is an empty page.
        """
        async with self._changes.subscribe(EVENTS_TOPIC) as subscription:
            while not subscription.is_over:
                try:
                    found = await self.page(await principal(), after=after, wanted=wanted, limit=AT_A_TIME)
                except CountersignError:
                    return
                yield found
                if found:
                    after = found[-1].sequence
                if len(found) < AT_A_TIME:
                    await subscription.wait(heartbeat_s)


async def _among(work: UnitOfWork, principal: Principal, wanted: WantedEvents) -> Sequence[AliasKey] | None:
    """The models and aliases whose events are wanted and may be read; none: all."""
    may_read_all = may(principal, Permission.PROMOTIONS_READ)
    if may_read_all and not wanted.is_of_some:
        return None
    keys = await work.events.keys(workspace=wanted.workspace, model=wanted.model, alias=wanted.alias)
    if may_read_all:
        return keys
    # What is of no model, such as a policy, is for who may read all of them.
    return await readable(work, principal, Permission.PROMOTIONS_READ, [key for key in keys if key.model])
