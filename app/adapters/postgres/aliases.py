"""Who holds each protected alias, as our ledger knows it, and which bytes that governs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Row, Text, and_, delete, func, literal, literal_column, or_, select, union_all
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.ordered import is_among_models
from app.adapters.postgres.promotions import is_in
from app.adapters.postgres.tables import alias_holders, promoted_aliases, promotions
from app.domain.grants import DEFAULT_WORKSPACE, fold
from app.domain.promotions import OPEN, AliasKey

_FOLDED_ROOT = func.lower(promotions.c.artifact_root)
"""Some file systems take ``M-ABC`` and ``m-abc`` for one folder, so bytes are guarded whatever the case."""

_SEGMENTS = func.string_to_array(_FOLDED_ROOT, literal_column("'/'"), type_=ARRAY(Text))


@dataclass(frozen=True, slots=True)
class Holder:
    """The version an alias points to, since when, and by which promotion."""

    model: str
    alias: str
    version: str
    promotion_id: str
    since: datetime
    workspace: str = DEFAULT_WORKSPACE


@dataclass(frozen=True, slots=True)
class Governance:
    """Why something must not change: a promotion that is open, or by which a protected alias is held."""

    promotion_id: str
    policy_name: str
    model: str
    alias: str
    version: str
    state: str
    workspace: str = DEFAULT_WORKSPACE


class AliasHolders:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, key: AliasKey) -> Holder | None:
        query = select(alias_holders).where(
            alias_holders.c.workspace == key.workspace,
            alias_holders.c.model == key.model,
            alias_holders.c.alias == key.alias,
        )
        row = (await self._connection.execute(query)).first()
        return _holder(row) if row else None

    async def held(self) -> set[tuple[AliasKey, str, int]]:
        """Every alias that is held, its version, and when the model was created, in ms since the epoch."""
        by = alias_holders.join(promotions, promotions.c.id == alias_holders.c.promotion_id)
        query = select(alias_holders, promotions.c.model_created_at).select_from(by)
        rows = await self._connection.execute(query)
        return {(AliasKey(row.workspace, row.model, row.alias), row.version, row.model_created_at) for row in rows}

    async def holders_of(self, models: Collection[tuple[str, str]]) -> Sequence[tuple[AliasKey, str]]:
        """The aliases of these models, each a workspace and a name, that are held, and the versions."""
        query = select(alias_holders).where(is_among_models(alias_holders, models))
        rows = await self._connection.execute(query)
        return [(AliasKey(row.workspace, row.model, row.alias), row.version) for row in rows]

    async def put(self, holder: Holder) -> None:
        values = {
            "workspace": holder.workspace,
            "model": holder.model,
            "alias": holder.alias,
            "version": holder.version,
            "promotion_id": holder.promotion_id,
            "since": holder.since,
        }
        await self._connection.execute(
            insert(alias_holders)
            .values(values)
            .on_conflict_do_update(index_elements=["workspace", "model", "alias"], set_=values)
        )

    async def remove(self, key: AliasKey) -> None:
        """No promotion stands behind the holder of an alias any more."""
        await self._connection.execute(
            delete(alias_holders).where(
                alias_holders.c.workspace == key.workspace,
                alias_holders.c.model == key.model,
                alias_holders.c.alias == key.alias,
            )
        )

    async def governing_version(self, workspace: str, models: Collection[str], version: str) -> Governance | None:
        return await self._governing_one_of(workspace, models, promotions.c.to_version == version)

    async def governing_model(self, workspace: str, models: Collection[str]) -> Governance | None:
        """Whether one of ``models`` is governed, whatever its case and width: some databases see no difference."""
        return await self._governing_one_of(workspace, models)

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

    async def _governing_one_of(
        self, workspace: str, models: Collection[str], *conditions: ColumnElement[bool]
    ) -> Governance | None:
        folded = {fold(model) for model in models}
        query = select(promoted_aliases.c.model).distinct().where(promoted_aliases.c.folded_model.in_(folded))
        names = [str(name) for name in await self._connection.scalars(query)]
        if not names:
            return None
        of_model = (promotions.c.workspace == workspace, promotions.c.model.in_(names))
        # Of a model there may be many promotions, but few holders.
        held = (alias_holders.c.workspace == workspace, alias_holders.c.model.in_(names))
        return await self._governing(*of_model, *conditions, held=held)

    async def _governing(
        self, *conditions: ColumnElement[bool], held: Sequence[ColumnElement[bool]] = ()
    ) -> Governance | None:
        """The first promotion of these that is open, or by which an alias is held (``held``: what is known of that)."""
        is_open = select(*_GOVERNANCE).where(*conditions, is_in(OPEN))
        holds = alias_holders.join(promotions, promotions.c.id == alias_holders.c.promotion_id)
        is_held = select(*_GOVERNANCE).select_from(holds).where(*conditions, *held)
        both = union_all(is_open, is_held).subquery()
        row = (await self._connection.execute(select(both).order_by(both.c.created_at).limit(1))).first()
        return _governance(row) if row else None


_GOVERNANCE = (
    promotions.c.id,
    promotions.c.policy_name,
    promotions.c.workspace,
    promotions.c.model,
    promotions.c.alias,
    promotions.c.to_version,
    promotions.c.state,
    promotions.c.created_at,
)


def _is_under(segments: str) -> ColumnElement[bool]:
    """Whether the root of the artifacts lies in a folder of this name, wherever that is."""
    folded = segments.lower()
    # The index finds those that have each of the names, in whatever order.
    return and_(
        _SEGMENTS.contains(folded.split("/")),
        (literal("/") + _FOLDED_ROOT + "/").contains(f"/{folded}/", autoescape=True),
    )


def _holder(row: Row[tuple[object, ...]]) -> Holder:
    return Holder(row.model, row.alias, row.version, row.promotion_id, row.since, row.workspace)


def _governance(row: Row[tuple[object, ...]]) -> Governance:
    return Governance(row.id, row.policy_name, row.model, row.alias, row.to_version, row.state, row.workspace)
