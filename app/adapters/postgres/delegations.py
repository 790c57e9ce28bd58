"""Delegations: who stands in for whom, and when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Row, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as insert_unless
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import delegations
from app.domain.delegations import Delegation


class Delegations:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, delegation: Delegation) -> bool:
        """Keep a new one; false if there is one of this id."""
        added = await self._connection.execute(
            insert_unless(delegations)
            .values(
                id=delegation.id,
                from_id=delegation.from_id,
                from_name=delegation.from_name,
                to_id=delegation.to_id,
                to_name=delegation.to_name,
                models=delegation.models,
                starts_at=delegation.starts_at,
                ends_at=delegation.ends_at,
                reason=delegation.reason,
                created_at=delegation.created_at,
                created_by=delegation.created_by,
            )
            .on_conflict_do_nothing(index_elements=["id"])
        )
        return added.rowcount == 1

    async def get(self, delegation_id: str, *, for_update: bool = False) -> Delegation | None:
        query = select(delegations).where(delegations.c.id == delegation_id)
        row = (await self._connection.execute(query.with_for_update() if for_update else query)).first()
        return _delegation(row) if row else None

    async def active(self, to_id: str, *, at: datetime) -> Sequence[Delegation]:
        """Those by which somebody stands in for others at a time."""
        query = (
            select(delegations)
            .where(
                delegations.c.to_id == to_id,
                delegations.c.revoked_at.is_(None),
                delegations.c.starts_at <= at,
                delegations.c.ends_at > at,
            )
            .order_by(delegations.c.from_id, delegations.c.id)
        )
        return [_delegation(row) for row in await self._connection.execute(query)]

    async def count_of(self, from_id: str, *, at: datetime) -> int:
        """How many of somebody's have not ended."""
        query = select(func.count()).where(
            delegations.c.from_id == from_id, delegations.c.revoked_at.is_(None), delegations.c.ends_at > at
        )
        return int(await self._connection.scalar(query) or 0)

    async def page(
        self, *, of: str | None, before: tuple[datetime, str] | None, limit: int, active_at: datetime | None = None
    ) -> Sequence[Delegation]:
        """Newest first: those from and to somebody, or everybody's. ``active_at``: only those that hold then."""
        query = select(delegations).order_by(delegations.c.created_at.desc(), delegations.c.id.desc()).limit(limit)
        if of is not None:
            query = query.where(or_(delegations.c.from_id == of, delegations.c.to_id == of))
        if active_at is not None:
            query = query.where(
                delegations.c.revoked_at.is_(None),
                delegations.c.starts_at <= active_at,
                delegations.c.ends_at > active_at,
            )
        if before is not None:
            query = query.where(tuple_(delegations.c.created_at, delegations.c.id) < tuple_(*before))
        return [_delegation(row) for row in await self._connection.execute(query)]

    async def revoke(self, delegation_id: str, *, at: datetime) -> bool:
        """End it; whether it had not been revoked."""
        revoked = await self._connection.execute(
            update(delegations)
            .where(delegations.c.id == delegation_id, delegations.c.revoked_at.is_(None))
            .values(revoked_at=at)
        )
        return revoked.rowcount == 1


def _delegation(row: Row[tuple[object, ...]]) -> Delegation:
    return Delegation(
        id=row.id,
        from_id=row.from_id,
        from_name=row.from_name,
        to_id=row.to_id,
        to_name=row.to_name,
        models=row.models,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        reason=row.reason,
        created_at=row.created_at,
        created_by=row.created_by,
        revoked_at=row.revoked_at,
    )
