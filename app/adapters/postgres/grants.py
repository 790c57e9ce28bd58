"""Grants, as the documents that people wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Row, Text, delete, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import grants, identity_epoch
from app.domain.grants import Grant, grant_document, grant_from_document

_GRANTS_LOCK = 0x4772616E7473  # "Grants" in ASCII


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """A grant, and who wrote it last. ``revision`` grows with each change."""

    grant: Grant
    revision: int
    updated_at: datetime
    updated_by: str

    @property
    def etag(self) -> str:
        """Another one after every change, also when it was removed and made again."""
        return f'"{self.revision}-{int(self.updated_at.timestamp() * 1_000_000)}"'


class Grants:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def epoch(self) -> int:
        """The number that grows whenever what is remembered of callers must be forgotten."""
        value = await self._connection.scalar(select(identity_epoch.c.value))
        assert isinstance(value, int)  # the migration wrote the one row
        return value

    async def lock(self) -> None:
        """Let no other transaction change grants, or who is disabled, until this one ends.

        Whether somebody can still administer is a question about all of them at once.
        """
        await self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _GRANTS_LOCK})

    async def fingerprint(self) -> str:
        """The same for the same grants, so that they need not be read again when something else changed."""
        content = func.concat_ws("|", grants.c.name, grants.c.revision, grants.c.document.cast(Text))
        # The last argument of an aggregate is where PostgreSQL takes its order.
        joined = func.string_agg(func.md5(content), aggregate_order_by(literal_column("''"), grants.c.name))
        return str(await self._connection.scalar(select(func.md5(func.coalesce(joined, "")))))

    async def all(self) -> Sequence[StoredGrant]:
        """Every grant, by name."""
        rows = await self._connection.execute(select(grants).order_by(grants.c.name))
        return [_stored(row) for row in rows]

    async def get(self, name: str) -> StoredGrant | None:
        row = (await self._connection.execute(select(grants).where(grants.c.name == name))).first()
        return None if row is None else _stored(row)

    async def put(self, grant: Grant, *, at: datetime, by: str) -> StoredGrant:
        """Write a grant, new or in the place of the one of its name."""
        document = grant_document(grant)
        statement = insert(grants).values(
            name=grant.name, document=document, revision=1, created_at=at, updated_at=at, updated_by=by
        )
        rows = await self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["name"],
                set_={"document": document, "revision": grants.c.revision + 1, "updated_at": at, "updated_by": by},
            ).returning(grants)
        )
        return _stored(rows.one())

    async def remove(self, name: str) -> bool:
        """Whether there was one."""
        return (await self._connection.execute(delete(grants).where(grants.c.name == name))).rowcount == 1


def _stored(row: Row[tuple[object, ...]]) -> StoredGrant:
    return StoredGrant(
        replace(grant_from_document(row.document), written_by=row.updated_by),
        row.revision,
        row.updated_at,
        row.updated_by,
    )
