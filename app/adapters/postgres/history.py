"""Who held an alias: a log of which each row holds from its ``since`` until the next row's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import ARRAY, ColumnElement, Row, ScalarSelect, Text, any_, cast, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import alias_history, alias_present
from app.domain.drifts import Sight
from app.domain.history import Held
from app.domain.promotions import AliasKey


class AliasHistory:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, held: Held) -> bool:
        """Write down who holds an alias from now on; whether that is news.

        A clock that was set back does not turn history round: a row is never older than the one before it. To be
        called with the alias locked (``work.promotions.lock_alias``).
        """
        last = await self.last(held.key)
        if (last and not held.tells_more_than(last)) or (last is None and held.version is None):
            return False
        since = max(held.since, last.since) if last else held.since
        await self._connection.execute(insert(alias_history).values(_row(held, since=since)))
        return True

    async def add_first(self, held: Sequence[Held]) -> None:
        """Write down who holds aliases that have no history yet, of those given; with all of them locked."""
        models = sorted({each.key.model for each in held})
        query = select(alias_present.c.workspace, alias_present.c.model, alias_present.c.alias)
        known = {
            AliasKey(row.workspace, row.model, row.alias)
            for row in await self._connection.execute(
                query.where(alias_present.c.model == any_(cast(models, ARRAY(Text))))
            )
        }
        if new := [_row(each, since=each.since) for each in held if each.key not in known]:
            await self._connection.execute(insert(alias_history), new)

    async def last(self, key: AliasKey) -> Held | None:
        """Who holds it now, as far as we know."""
        return next(iter(await self.page(key, limit=1)), None)

    async def page(
        self, key: AliasKey, *, until: datetime | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[Held]:
        """Newest first: what began up to ``until``, and before the row with the sequence number ``before``."""
        after = alias_history.alias("after")
        next_since = (
            select(after.c.since)
            .where(
                after.c.workspace == alias_history.c.workspace,
                after.c.model == alias_history.c.model,
                after.c.alias == alias_history.c.alias,
                after.c.sequence > alias_history.c.sequence,
            )
            .order_by(after.c.sequence)
            .limit(1)
            .scalar_subquery()
        )
        query = (
            select(alias_history, next_since.label("until"))
            .where(*_of(key))
            .order_by(alias_history.c.sequence.desc())
            .limit(limit)
        )
        if until is not None:
            query = query.where(alias_history.c.sequence <= _last_until(key, until))
        if before is not None:
            query = query.where(alias_history.c.sequence < before)
        return [_held(row) for row in await self._connection.execute(query)]

    async def first(self, key: AliasKey) -> Held | None:
        """The oldest row."""
        query = select(alias_history).where(*_of(key)).order_by(alias_history.c.sequence).limit(1)
        row = (await self._connection.execute(query)).first()
        return _held(row) if row else None

    async def latest(self) -> Mapping[AliasKey, Sight]:
        """Who holds each alias that was ever seen, as far as we know."""
        return {
            AliasKey(row.workspace, row.model, row.alias): Sight(row.version, row.model_created_at)
            for row in await self._connection.execute(select(alias_present))
        }

    async def held_of(self, workspace: str, model: str) -> Sequence[Held]:
        """The aliases of one model that somebody holds, as far as we know."""
        query = (
            select(alias_history)
            .join(alias_present, alias_present.c.sequence == alias_history.c.sequence)
            .where(
                alias_present.c.workspace == workspace,
                alias_present.c.model == model,
                alias_present.c.version.is_not(None),
            )
            .order_by(alias_present.c.alias)
        )
        return [_held(row) for row in await self._connection.execute(query)]

    async def ever_held(self, key: AliasKey, version: str, model_created_at: int, *, not_before: datetime) -> bool:
        """Whether a version of this very model has held the alias since it was made (numbers are given anew)."""
        query = (
            select(alias_history.c.sequence)
            .where(
                *_of(key),
                alias_history.c.version == version,
                alias_history.c.model_created_at == model_created_at,
                alias_history.c.cause != "drift",
                alias_history.c.since >= not_before,
            )
            .limit(1)
        )
        return await self._connection.scalar(query) is not None


def _of(key: AliasKey) -> tuple[ColumnElement[bool], ...]:
    return (
        alias_history.c.workspace == key.workspace,
        alias_history.c.model == key.model,
        alias_history.c.alias == key.alias,
    )


def _last_until(key: AliasKey, until: datetime) -> ScalarSelect[int]:
    """The last row up to a time: as no row is older than those before it, all before it are too.

    It is found in the index alone, however long ago that was.
    """
    of = select(alias_history.c.sequence).where(*_of(key), alias_history.c.since <= until)
    return of.order_by(alias_history.c.sequence.desc()).limit(1).scalar_subquery()


def _row(held: Held, *, since: datetime) -> dict[str, object]:
    return {
        "workspace": held.key.workspace,
        "model": held.key.model,
        "alias": held.key.alias,
        "model_created_at": held.model_created_at,
        "version": held.version,
        "since": since,
        "cause": held.cause,
        "promotion_id": held.promotion_id,
        "principal_id": held.principal_id,
        "principal_name": held.principal_name,
    }


def _held(row: Row[tuple[object, ...]]) -> Held:
    return Held(
        key=AliasKey(row.workspace, row.model, row.alias),
        version=row.version,
        since=row.since,
        cause=row.cause,
        model_created_at=row.model_created_at,
        promotion_id=row.promotion_id,
        principal_id=row.principal_id,
        principal_name=row.principal_name,
        sequence=row.sequence,
        until=getattr(row, "until", None),
    )
