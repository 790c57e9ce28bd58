"""Events, written with what caused them and read in the order in which they came to be seen.

Numbers are drawn before a transaction is committed, so that one drawn earlier could be seen later, and a reader who is
past it would miss it. Whoever writes events holds a lock from before the first number is drawn to the end of the
transaction (PostgreSQL lets go of it when the commit can be seen): the order of the numbers is that of the commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.ordered import Ordered, columns_of
from app.adapters.postgres.tables import event_keys, events
from app.domain.events import Event, EventType, StoredEvent
from app.domain.promotions import AliasKey

_ORDER_LOCK = 0x4576656E7473  # "Events" in ASCII: the advisory lock of the end of the list
_OLDEST_FIRST = Ordered(events.c.sequence, newest_first=False)
_NEWEST_FIRST = Ordered(events.c.sequence, newest_first=True)


class Events:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def append(self, new: Sequence[Event]) -> None:
        """Write events at the end. Holds the lock of the end until the transaction ends."""
        if not new:
            return
        await self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ORDER_LOCK})
        await self._connection.execute(
            insert(events),
            [
                {
                    "id": event.id,
                    "type": event.type.value,
                    "subject": event.subject,
                    "at": event.at,
                    "workspace": event.key.workspace,
                    "model": event.key.model,
                    "alias": event.key.alias,
                    "data": dict(event.data),
                }
                for event in new
            ],
        )

    async def keys(
        self, *, workspace: str | None = None, model: str | None = None, alias: str | None = None
    ) -> Sequence[AliasKey]:
        """The models and aliases of which there are events; those of these names, where they are given."""
        wanted = {"model": model, "alias": alias, "workspace": workspace}
        conditions = [event_keys.c[name] == value for name, value in wanted.items() if value is not None]
        rows = await self._connection.execute(select(event_keys).where(*conditions))
        return [AliasKey(row.workspace, row.model, row.alias) for row in rows]

    async def last(self) -> int:
        """The sequence number of the last event; 0: there is none."""
        return await self._connection.scalar(select(func.max(events.c.sequence))) or 0

    async def page(
        self,
        *,
        after: int,
        limit: int,
        types: Sequence[EventType] = (),
        among: Sequence[AliasKey] | None = None,
        newest_first: bool = False,
    ) -> Sequence[StoredEvent]:
        """Those after the sequence number ``after``, oldest first or newest first."""
        order = _NEWEST_FIRST if newest_first else _OLDEST_FIRST
        conditions: list[ColumnElement[bool]] = [events.c.sequence > after]
        if among is not None:
            if types:
                conditions.append(events.c.type.in_([each.value for each in types]))
            page = order.page_among(columns_of(among), conditions, limit)
        elif types:
            page = order.page_of_each({"type": [each.value for each in types]}, conditions, limit)
        else:
            page = order.page(conditions, limit)
        query = order.sort(select(events).where(events.c.sequence.in_(page)))
        return [
            StoredEvent(
                row.sequence,
                Event(
                    id=row.id,
                    type=EventType(row.type),
                    subject=row.subject,
                    at=row.at,
                    key=AliasKey(row.workspace, row.model, row.alias),
                    data=row.data,
                ),
            )
            for row in await self._connection.execute(query)
        ]

    async def before(self, moment: datetime) -> int:
        """The number of the newest event that happened before ``moment``; 0 if none did."""
        query = select(events.c.sequence).where(events.c.at < moment).order_by(events.c.sequence.desc()).limit(1)
        return await self._connection.scalar(query) or 0
