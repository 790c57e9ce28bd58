"""Drifts: at most one is open for each alias; and the workspaces that were looked at for the first time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Row, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as insert_once
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.ordered import is_among
from app.adapters.postgres.tables import drifts, first_looks
from app.domain.drifts import Drift, DriftEnd, Sight
from app.domain.promotions import AliasKey


class Drifts:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, drift: Drift) -> None:
        """Write a new one, with its alias locked and none open."""
        await self._connection.execute(
            insert(drifts).values(
                id=drift.id,
                workspace=drift.key.workspace,
                model=drift.key.model,
                alias=drift.key.alias,
                expected_version=drift.expected.version,
                expected_model_created_at=drift.expected.model_created_at,
                found_at=drift.found_at,
                **_changing(drift),
            )
        )

    async def save(self, drift: Drift) -> bool:
        """Write what changed, while it is open; whether it was."""
        result = await self._connection.execute(
            update(drifts).where(drifts.c.id == drift.id, drifts.c.ended_at.is_(None)).values(**_changing(drift))
        )
        return result.rowcount == 1

    async def find_open(self, key: AliasKey) -> Drift | None:
        query = select(drifts).where(
            drifts.c.workspace == key.workspace,
            drifts.c.model == key.model,
            drifts.c.alias == key.alias,
            drifts.c.ended_at.is_(None),
        )
        row = (await self._connection.execute(query)).first()
        return _drift(row) if row else None

    async def get(self, drift_id: str) -> Drift | None:
        row = (await self._connection.execute(select(drifts).where(drifts.c.id == drift_id))).first()
        return _drift(row) if row else None

    async def open_aliases(self) -> Sequence[AliasKey]:
        """Every alias that has drifted."""
        query = select(drifts.c.workspace, drifts.c.model, drifts.c.alias).where(drifts.c.ended_at.is_(None))
        return [AliasKey(row.workspace, row.model, row.alias) for row in await self._connection.execute(query)]

    async def count_open(self) -> int:
        query = select(func.count()).select_from(drifts).where(drifts.c.ended_at.is_(None))
        return int(await self._connection.scalar(query) or 0)

    async def aliases(self) -> Sequence[AliasKey]:
        """Every alias that ever drifted."""
        query = select(drifts.c.workspace, drifts.c.model, drifts.c.alias).distinct()
        return [AliasKey(row.workspace, row.model, row.alias) for row in await self._connection.execute(query)]

    async def page(
        self,
        *,
        is_open: bool | None = None,
        among: Sequence[AliasKey] | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> Sequence[Drift]:
        """Newest first, those before the key (found_at, id) of the last one seen."""
        query = select(drifts).order_by(drifts.c.found_at.desc(), drifts.c.id.desc()).limit(limit)
        if is_open is not None:
            query = query.where(drifts.c.ended_at.is_(None) if is_open else drifts.c.ended_at.is_not(None))
        if before:
            query = query.where(tuple_(drifts.c.found_at, drifts.c.id) < tuple_(*before))
        if among is not None:
            query = query.where(is_among(drifts, among))
        return [_drift(row) for row in await self._connection.execute(query)]

    async def looked_at(self) -> frozenset[str]:
        """The workspaces whose aliases were all written down once, as they were found."""
        return frozenset(await self._connection.scalars(select(first_looks.c.workspace)))

    async def note_first_look(self, workspace: str, *, at: datetime) -> None:
        await self._connection.execute(
            insert_once(first_looks).values(workspace=workspace, at=at).on_conflict_do_nothing()
        )


def _changing(drift: Drift) -> dict[str, object]:
    return {
        "seen_version": drift.seen.version,
        "seen_model_created_at": drift.seen.model_created_at,
        "holding": drift.holding,
        "ended_at": drift.ended_at,
        "ended_how": drift.ended_how.value if drift.ended_how else None,
        "ended_by": drift.ended_by,
        "restoring": drift.restoring,
        "attempts": drift.attempts,
        "next_attempt_at": drift.next_attempt_at,
        "obstacle": drift.obstacle,
    }


def _drift(row: Row[tuple[object, ...]]) -> Drift:
    return Drift(
        id=row.id,
        key=AliasKey(row.workspace, row.model, row.alias),
        expected=Sight(row.expected_version, row.expected_model_created_at),
        seen=Sight(row.seen_version, row.seen_model_created_at),
        found_at=row.found_at,
        holding=row.holding,
        ended_at=row.ended_at,
        ended_how=DriftEnd(row.ended_how) if row.ended_how else None,
        ended_by=row.ended_by,
        restoring=row.restoring,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
        obstacle=row.obstacle,
    )
