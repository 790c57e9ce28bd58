"""Policy revisions: written once, never changed; the newest revision of a name is in force, unless it retires it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Row, exists, func, insert, select, text
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import policy_revisions
from app.domain.policies import Policy, document_of
from app.domain.policies.revisions import Revision, retired_document

_POLICIES_LOCK = 0x506F6C69637973  # "Policys" in ASCII


class Policies:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock(self) -> None:
        """Let no other transaction change policies until this one ends.

        Whether aliases wait for each other in a circle is a question about all of them at once.
        """
        await self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POLICIES_LOCK})

    async def in_force(self) -> list[Policy]:
        """The newest revision of each policy that is not retired, by name."""
        return [revision.policy for revision in await self.newest() if not revision.is_retired]

    async def newest(self) -> list[Revision]:
        """The newest revision of each policy, retired ones included, by name."""
        newest = (
            select(policy_revisions)
            .ext(distinct_on(policy_revisions.c.name))
            .order_by(policy_revisions.c.name, policy_revisions.c.revision.desc())
        )
        return [_revision(row) for row in await self._connection.execute(newest)]

    async def any_ever(self) -> bool:
        """Whether there ever was one."""
        return bool(await self._connection.scalar(select(exists(select(policy_revisions)))))

    async def revisions(self, name: str, *, before: int | None = None, limit: int = 1) -> Sequence[Revision]:
        """Newest first; those before a number, if there is one."""
        query = select(policy_revisions).where(policy_revisions.c.name == name)
        if before is not None:
            query = query.where(policy_revisions.c.revision < before)
        query = query.order_by(policy_revisions.c.revision.desc()).limit(limit)
        return [_revision(row) for row in await self._connection.execute(query)]

    async def revision(self, name: str, number: int) -> Revision | None:
        query = select(policy_revisions).where(policy_revisions.c.name == name, policy_revisions.c.revision == number)
        row = (await self._connection.execute(query)).first()
        return None if row is None else _revision(row)

    async def add(self, policy: Policy, *, at: datetime, by: str) -> Revision:
        """Write the next revision of a policy."""
        return await self._add(policy.name, document_of(policy), at=at, by=by)

    async def retire(self, policy: Policy, *, at: datetime, by: str) -> Revision:
        """Write the revision that ends a policy."""
        return await self._add(policy.name, retired_document(policy), at=at, by=by)

    async def _add(self, name: str, document: Mapping[str, object], *, at: datetime, by: str) -> Revision:
        number = (
            select(func.coalesce(func.max(policy_revisions.c.revision), 0) + 1)
            .where(policy_revisions.c.name == name)
            .scalar_subquery()
        )
        rows = await self._connection.execute(
            insert(policy_revisions)
            .values(name=name, revision=number, document=dict(document), created_at=at, created_by=by)
            .returning(policy_revisions)
        )
        return _revision(rows.one())


def _revision(row: Row[tuple[object, ...]]) -> Revision:
    return Revision(row.name, row.revision, row.document, row.created_at, row.created_by)
