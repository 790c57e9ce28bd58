"""Endpoints, and how each of them is doing."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Row, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import endpoints, events
from app.domain.endpoints import DISABLED_BY_DOCUMENT, Channel, Endpoint, ReceiverState, StoredEndpoint
from app.domain.errors import NotFound

_ENDPOINTS_LOCK = 0x456E64706F696E74  # "Endpoint" in ASCII
_NEWEST_EVENT = select(func.coalesce(func.max(events.c.sequence), 0)).scalar_subquery()
_LISTS = ("secrets", "events", "models", "aliases", "workspaces", "allowed_networks")


class Endpoints:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, name: str, *, for_update: bool = False) -> StoredEndpoint:
        """Raises ``NotFound``."""
        query = select(endpoints).where(endpoints.c.name == name)
        row = (await self._connection.execute(query.with_for_update() if for_update else query)).first()
        if row is None:
            raise NotFound(f"There is no endpoint {name}.", endpoint=name)
        return _stored(row)

    async def all(self) -> list[StoredEndpoint]:
        """By name."""
        return [_stored(row) for row in await self._connection.execute(select(endpoints).order_by(endpoints.c.name))]

    async def find(self, name: str, *, for_update: bool = False) -> StoredEndpoint | None:
        try:
            return await self.get(name, for_update=for_update)
        except NotFound:
            return None

    async def page(self, *, after: str, limit: int) -> list[StoredEndpoint]:
        """By name, those after ``after``."""
        query = select(endpoints).where(endpoints.c.name > after).order_by(endpoints.c.name).limit(limit)
        return [_stored(row) for row in await self._connection.execute(query)]

    async def lock(self) -> None:
        """Let no other transaction make, change or remove an endpoint until this one ends."""
        await self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ENDPOINTS_LOCK})

    async def put(self, endpoint: Endpoint, *, at: datetime, by: str) -> None:
        """Create or replace. One that is new hears what happens from now on; one that is not stays as it is doing."""
        document = _document(endpoint)
        statement = insert(endpoints).values(
            name=endpoint.name,
            document=document,
            revision=1,
            hears_after=_NEWEST_EVENT,
            state=(ReceiverState.DISABLED if endpoint.disabled else ReceiverState.ACTIVE).value,
            state_reason=DISABLED_BY_DOCUMENT if endpoint.disabled else None,
            created_at=at,
            updated_at=at,
            updated_by=by,
        )
        newer = {"document": document, "revision": endpoints.c.revision + 1, "updated_at": at, "updated_by": by}
        await self._connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=newer))

    async def enable(self, name: str) -> None:
        """Have it hear what happens from now on; what happened while it was disabled can be replayed."""
        await self._connection.execute(
            update(endpoints)
            .where(endpoints.c.name == name)
            .values(state=ReceiverState.ACTIVE.value, state_reason=None, failing_since=None, hears_after=_NEWEST_EVENT)
        )

    async def remove(self, name: str) -> None:
        await self._connection.execute(delete(endpoints).where(endpoints.c.name == name))

    async def set_state(
        self, name: str, state: ReceiverState, *, reason: str | None, failing_since: datetime | None = None
    ) -> None:
        """How it is doing."""
        await self._connection.execute(
            update(endpoints)
            .where(endpoints.c.name == name)
            .values(state=state.value, state_reason=reason, failing_since=failing_since)
        )


def _stored(row: Row[tuple[object, ...]]) -> StoredEndpoint:
    document = {**row.document, **{name: tuple(row.document[name]) for name in _LISTS}}
    until = document["previous_until"]
    return StoredEndpoint(
        endpoint=Endpoint(
            **{
                **document,
                "channel": Channel(document["channel"]),
                "previous_until": datetime.fromisoformat(until) if until else None,
            }
        ),
        revision=row.revision,
        hears_after=row.hears_after,
        state=ReceiverState(row.state),
        state_reason=row.state_reason,
        failing_since=row.failing_since,
        created_at=row.created_at,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
    )


def _document(endpoint: Endpoint) -> dict[str, object]:
    until = endpoint.previous_until
    return {
        **asdict(endpoint),
        "channel": endpoint.channel.value,
        "previous_until": until.isoformat() if until else None,
    }
