"""Comments on promotions: written once, never changed (a trigger holds it)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, select, tuple_
from sqlalchemy.dialects.postgresql import insert as insert_unless
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import comments


@dataclass(frozen=True, slots=True)
class Comment:
    """What somebody said of a promotion."""

    id: str
    promotion_id: str
    principal_id: str
    principal_name: str
    text: str
    created_at: datetime


class Comments:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, comment: Comment) -> bool:
        """Keep a new one; false if there is one of this id."""
        added = await self._connection.execute(
            insert_unless(comments)
            .values(
                id=comment.id,
                promotion_id=comment.promotion_id,
                principal_id=comment.principal_id,
                principal_name=comment.principal_name,
                text=comment.text,
                created_at=comment.created_at,
            )
            .on_conflict_do_nothing(index_elements=["id"])
        )
        return added.rowcount == 1

    async def get(self, comment_id: str) -> Comment | None:
        row = (await self._connection.execute(select(comments).where(comments.c.id == comment_id))).first()
        return _comment(row) if row else None

    async def page(self, promotion_id: str, *, after: tuple[datetime, str] | None, limit: int) -> Sequence[Comment]:
        """Oldest first, those after the key (created_at, id) of the last one seen."""
        query = (
            select(comments)
            .where(comments.c.promotion_id == promotion_id)
            .order_by(comments.c.created_at, comments.c.id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(tuple_(comments.c.created_at, comments.c.id) > tuple_(*after))
        return [_comment(row) for row in await self._connection.execute(query)]

    async def latest(self, promotion_id: str, *, limit: int) -> Sequence[Comment]:
        """The last ones, oldest first."""
        query = (
            select(comments)
            .where(comments.c.promotion_id == promotion_id)
            .order_by(comments.c.created_at.desc(), comments.c.id.desc())
            .limit(limit)
        )
        return [_comment(row) for row in await self._connection.execute(query)][::-1]


def _comment(row: Row[tuple[object, ...]]) -> Comment:
    return Comment(row.id, row.promotion_id, row.principal_id, row.principal_name, row.text, row.created_at)
