"""Policy revisions: written once, never changed; the newest revision of a name is in force."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Row, func, insert, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import policy_revisions
from app.domain.policies import Policy, document_of, policy_from_document


class Policies:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def in_force(self) -> list[Policy]:
        """The newest revision of each policy, by name."""
        newest = (
            select(policy_revisions)
            .ext(distinct_on(policy_revisions.c.name))
            .order_by(policy_revisions.c.name, policy_revisions.c.revision.desc())
        )
        return [_policy(row) for row in await self._connection.execute(newest)]

    async def add(self, policy: Policy, *, at: datetime, by: str) -> Policy:
        """Write the next revision of a policy and return it with its number."""
        number = await self._connection.scalar(
            select(func.coalesce(func.max(policy_revisions.c.revision), 0) + 1).where(
                policy_revisions.c.name == policy.name
            )
        )
        revised = policy_from_document(document_of(policy), revision=int(number or 1))
        await self._connection.execute(
            insert(policy_revisions).values(
                name=revised.name,
                revision=revised.revision,
                document=document_of(revised),
                created_at=at,
                created_by=by,
            )
        )
        return revised


def _policy(row: Row[tuple[object, ...]]) -> Policy:
    return policy_from_document(row.document, revision=row.revision)
