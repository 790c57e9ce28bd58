"""Events, written with what caused them and read in the order in which they came to be seen.

Numbers are drawn before a transaction is committed, so that one drawn earlier could be seen later, and a reader who is
past it would miss it. Whoever writes events holds a lock from before the first number is drawn to the end of the
transaction (PostgreSQL lets go of it when the commit can be seen): the order of the numbers is that of the commits.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.ordered import Ordered, columns_of
from app.adapters.postgres.tables import events
from app.domain.events import Event, EventType, StoredEvent
from app.domain.promotions import AliasKey

_ORDER_LOCK = 0x4576656E7473  # "Events" in ASCII: the advisory lock of the end of the list
_IN_ORDER = Ordered(events.c.sequence, newest_first=False)


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

    async def page(
        self, *, after: int, limit: int, types: Sequence[EventType] = (), among: Sequence[AliasKey] | None = None
    ) -> Sequence[StoredEvent]:
        """Oldest first, those after the sequence number ``after``."""
        conditions: list[ColumnElement[bool]] = [events.c.sequence > after]
        if among is not None:
            if types:
                conditions.append(events.c.type.in_([each.value for each in types]))
            page = _IN_ORDER.page_among(columns_of(among), conditions, limit)
        elif types:
            page = _IN_ORDER.page_of_each({"type": [each.value for each in types]}, conditions, limit)
        else:
            page = _IN_ORDER.page(conditions, limit)
        query = _IN_ORDER.sort(select(events).where(events.c.sequence.in_(page)))
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
