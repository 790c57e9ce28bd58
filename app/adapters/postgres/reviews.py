"""Reviews of what was moved by breaking the glass: open until another person closes them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Row, Select, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.ordered import is_among
from app.adapters.postgres.tables import promotions, reviews
from app.domain.promotions import AliasKey


@dataclass(frozen=True, slots=True)
class Review:
    """The review of one promotion, who asked for that and why; open while ``closed_at`` is none."""

    promotion_id: str
    key: AliasKey
    opened_at: datetime
    broken_by: str
    broken_by_name: str
    reason: str
    from_version: str | None
    to_version: str
    closed_at: datetime | None = None
    closed_by: str | None = None
    closed_by_name: str | None = None
    comment: str | None = None


class Reviews:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def open(self, promotion_id: str, key: AliasKey, *, at: datetime) -> None:
        await self._connection.execute(
            insert(reviews).values(
                promotion_id=promotion_id, workspace=key.workspace, model=key.model, alias=key.alias, opened_at=at
            )
        )

    async def get(self, promotion_id: str, *, for_update: bool = False) -> Review | None:
        query = _REVIEWS.where(reviews.c.promotion_id == promotion_id)
        return await self._first(query.with_for_update(of=reviews) if for_update else query)

    async def first_open(self, key: AliasKey) -> Review | None:
        """The oldest that blocks an alias."""
        return await self._first(
            _REVIEWS.where(
                reviews.c.workspace == key.workspace,
                reviews.c.model == key.model,
                reviews.c.alias == key.alias,
                reviews.c.closed_at.is_(None),
            )
            .order_by(reviews.c.opened_at)
            .limit(1)
        )

    async def aliases(self, *, is_open: bool | None) -> Sequence[AliasKey]:
        """The aliases of which there are reviews."""
        query = select(reviews.c.workspace, reviews.c.model, reviews.c.alias).distinct().where(*_standing(is_open))
        return [AliasKey(row.workspace, row.model, row.alias) for row in await self._connection.execute(query)]

    async def page(
        self,
        *,
        is_open: bool | None,
        among: Collection[AliasKey] | None,
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> Sequence[Review]:
        """Newest first, those before the key (opened_at, promotion_id) of the last one seen.

        Args:
            is_open: only open ones, or only closed ones.
            among: only of these aliases.
            before: the key.
            limit: how many at most.
        """
        query = _REVIEWS.where(*_standing(is_open))
        if among is not None:
            query = query.where(is_among(reviews, among))
        if before is not None:
            query = query.where(tuple_(reviews.c.opened_at, reviews.c.promotion_id) < tuple_(*before))
        newest_first = query.order_by(reviews.c.opened_at.desc(), reviews.c.promotion_id.desc()).limit(limit)
        return [_review(row) for row in await self._connection.execute(newest_first)]

    async def close(self, promotion_id: str, *, at: datetime, by: str, by_name: str, comment: str) -> None:
        await self._connection.execute(
            update(reviews)
            .where(reviews.c.promotion_id == promotion_id, reviews.c.closed_at.is_(None))
            .values(closed_at=at, closed_by=by, closed_by_name=by_name, comment=comment)
        )

    async def _first(self, query: Select[tuple[object, ...]]) -> Review | None:
        row = (await self._connection.execute(query)).first()
        return _review(row) if row else None


_REVIEWS: Select[tuple[object, ...]] = select(
    reviews,
    promotions.c.requested_by,
    promotions.c.requested_by_name,
    promotions.c.reason,
    promotions.c.from_version,
    promotions.c.to_version,
).join(promotions, promotions.c.id == reviews.c.promotion_id)


def _standing(is_open: bool | None) -> Sequence[ColumnElement[bool]]:
    if is_open is None:
        return ()
    return (reviews.c.closed_at.is_(None) if is_open else reviews.c.closed_at.is_not(None),)


def _review(row: Row[tuple[object, ...]]) -> Review:
    return Review(
        promotion_id=row.promotion_id,
        key=AliasKey(row.workspace, row.model, row.alias),
        opened_at=row.opened_at,
        broken_by=row.requested_by,
        broken_by_name=row.requested_by_name,
        reason=row.reason,
        from_version=row.from_version,
        to_version=row.to_version,
        closed_at=row.closed_at,
        closed_by=row.closed_by,
        closed_by_name=row.closed_by_name,
        comment=row.comment,
    )
