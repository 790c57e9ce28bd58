"""Who holds each protected alias, as our ledger knows it, and which bytes that governs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Row, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import alias_holders, promotions
from app.domain.promotions import OPEN

_FOLDED_ROOT = func.lower(promotions.c.artifact_root)
"""Some file systems take ``M-ABC`` and ``m-abc`` for one folder, so bytes are guarded whatever the case."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The version an alias points to, since when, and by which promotion."""

    model: str
    alias: str
    version: str
    promotion_id: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Governance:
    """Why something must not change: a promotion that is open, or by which a protected alias is held."""

    promotion_id: str
    policy_name: str
    model: str
    alias: str
    version: str
    state: str


class AliasHolders:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, model: str, alias: str) -> Holder | None:
        query = select(alias_holders).where(alias_holders.c.model == model, alias_holders.c.alias == alias)
        row = (await self._connection.execute(query)).first()
        if row is None:
            return None
        return Holder(row.model, row.alias, row.version, row.promotion_id, row.since)

    async def put(self, holder: Holder) -> None:
        values = {
            "model": holder.model,
            "alias": holder.alias,
            "version": holder.version,
            "promotion_id": holder.promotion_id,
            "since": holder.since,
        }
        await self._connection.execute(
            insert(alias_holders).values(values).on_conflict_do_update(index_elements=["model", "alias"], set_=values)
        )

    async def governing_version(self, model: str, version: str) -> Governance | None:
        return await self._governing(promotions.c.model == model, promotions.c.to_version == version)

    async def governing_model(self, model: str) -> Governance | None:
        return await self._governing(promotions.c.model == model)

    async def governing_run(self, run_id: str) -> Governance | None:
        return await self._governing(promotions.c.run_id == run_id)

    async def governing_artifacts(self, folders: Sequence[str]) -> Governance | None:
        """Whether one of ``folders`` is the root of governed artifacts."""
        return await self._governing(_FOLDED_ROOT.in_([folder.lower() for folder in folders]))

    async def governing_below(self, folder: str) -> Governance | None:
        """Whether ``folder`` is, or contains, the root of governed artifacts."""
        inside = _FOLDED_ROOT.startswith(folder.rstrip("/").lower() + "/", autoescape=True)
        return await self._governing(or_(_FOLDED_ROOT.in_([folder.lower()]), inside))

    async def governing_logged_model(self, model_id: str) -> Governance | None:
        segment = promotions.c.artifact_root.contains(f"/models/{model_id}/", autoescape=True)
        return await self._governing(segment)

    async def _governing(self, *conditions: ColumnElement[bool]) -> Governance | None:
        held = promotions.c.id.in_(select(alias_holders.c.promotion_id))
        is_open = promotions.c.state.in_([state.value for state in OPEN])
        query = select(promotions).where(*conditions, or_(is_open, held)).order_by(promotions.c.created_at).limit(1)
        row = (await self._connection.execute(query)).first()
        return _governance(row) if row else None


def _governance(row: Row[tuple[object, ...]]) -> Governance:
    return Governance(row.id, row.policy_name, row.model, row.alias, row.to_version, row.state)
