"""What happened, one thing after the other, for who follows all of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may
from app.domain.events import EventType, StoredEvent
from app.domain.promotions import AliasKey, Filter
from app.ports import Changes
from app.services.recording import EVENTS_TOPIC, UnitOfWorkFactory
from app.services.resources import readable


class Events:
    def __init__(self, unit_of_work: UnitOfWorkFactory, changes: Changes) -> None:
        self._unit_of_work = unit_of_work
        self._changes = changes

    async def page(
        self, principal: Principal, *, after: int, types: Sequence[EventType] = (), limit: int = 100
    ) -> Sequence[StoredEvent]:
        """Oldest first, those behind the number ``after``: of the aliases whose promotions the principal may read."""
        async with self._unit_of_work() as work:
            among = None
            if not may(principal, Permission.PROMOTIONS_READ):
                among = await self._readable(work, principal)
            return await work.events.page(after=after, limit=limit, types=types, among=among)

    async def wait(
        self,
        principal: Principal,
        *,
        after: int,
        types: Sequence[EventType] = (),
        limit: int = 100,
        timeout_s: float = 0,
    ) -> Sequence[StoredEvent]:
        """As ``page``, as soon as there is one, or none after the time. No connection is held meanwhile."""
        deadline = time.monotonic() + timeout_s
        async with self._changes.subscribe(EVENTS_TOPIC) as subscription:
            while True:
                found = await self.page(principal, after=after, types=types, limit=limit)
                left = deadline - time.monotonic()
                if found or left <= 0 or not await subscription.wait(left):
                    return found

    @staticmethod
    async def _readable(work: UnitOfWork, principal: Principal) -> Sequence[AliasKey]:
        known = {*await work.promotions.aliases(Filter()), *await work.drifts.aliases()}
        # What is of a model and of none of its aliases, such as a check that was posted on a version.
        known |= {replace(key, alias="") for key in known}
        return await readable(work, principal, Permission.PROMOTIONS_READ, known)
