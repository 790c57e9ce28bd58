"""Who holds each protected alias, as our ledger knows it, and which bytes that governs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Row, func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import alias_holders, promotions
from app.domain.grants import fold
from app.domain.promotions import OPEN

_FOLDED_ROOT = func.lower(promotions.c.artifact_root)
"""Some file systems take ``M-ABC`` and ``m-abc`` for one folder, so bytes are guarded whatever the case."""


_IS_GOVERNED = or_(
    promotions.c.state.in_([state.value for state in OPEN]),
    promotions.c.id.in_(select(alias_holders.c.promotion_id)),
)


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

    async def held(self) -> set[tuple[str, str, str, int]]:
        """Every alias that is held: model, alias, version, and when the model was created, in ms since the epoch."""
        by = alias_holders.join(promotions, promotions.c.id == alias_holders.c.promotion_id)
        query = select(alias_holders, promotions.c.model_created_at).select_from(by)
        rows = await self._connection.execute(query)
        return {(row.model, row.alias, row.version, row.model_created_at) for row in rows}

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

    async def governing_version(self, models: Collection[str], version: str) -> Governance | None:
        return await self._governing(await self._is_one_of(models), promotions.c.to_version == version)

    async def governing_model(self, models: Collection[str]) -> Governance | None:
        """Whether one of ``models`` is governed, whatever its case and width: some databases see no difference."""
        return await self._governing(await self._is_one_of(models))

    async def governing_run(self, run_id: str) -> Governance | None:
        return await self._governing(or_(func.lower(promotions.c.run_id) == run_id.lower(), _is_under(run_id)))

    async def governing_artifacts(self, folders: Sequence[str]) -> Governance | None:
        """Whether one of ``folders`` is the root of governed artifacts."""
        return await self._governing(_FOLDED_ROOT.in_([folder.lower() for folder in folders]))

    async def governing_below(self, folder: str) -> Governance | None:
        """Whether ``folder`` is, or contains, the root of governed artifacts."""
        inside = _FOLDED_ROOT.startswith(folder.rstrip("/").lower() + "/", autoescape=True)
        return await self._governing(or_(_FOLDED_ROOT.in_([folder.lower()]), inside))

    async def governing_logged_model(self, model_id: str) -> Governance | None:
        return await self._governing(_is_under(f"models/{model_id}"))

    async def _governing(self, *conditions: ColumnElement[bool]) -> Governance | None:
        query = select(promotions).where(*conditions, _IS_GOVERNED).order_by(promotions.c.created_at).limit(1)
        row = (await self._connection.execute(query)).first()
        return _governance(row) if row else None

    async def _is_one_of(self, models: Collection[str]) -> ColumnElement[bool]:
        meant = {fold(model) for model in models}
        names = await self._connection.scalars(select(promotions.c.model).distinct().where(_IS_GOVERNED))
        return promotions.c.model.in_([name for name in names if fold(name) in meant])


def _is_under(segments: str) -> ColumnElement[bool]:
    """Whether the root of the artifacts lies in a folder of this name, wherever that is."""
    return (literal("/") + _FOLDED_ROOT + "/").contains(f"/{segments.lower()}/", autoescape=True)


def _governance(row: Row[tuple[object, ...]]) -> Governance:
    return Governance(row.id, row.policy_name, row.model, row.alias, row.to_version, row.state)
