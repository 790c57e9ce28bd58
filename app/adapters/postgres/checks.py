"""Verdicts that CI posted on versions: a log of which the newest of a name counts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Row, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import posted_checks
from app.domain.checks import PostedCheck


class PostedChecks:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock(self, workspace: str, model: str, version: str) -> None:
        """Let no other transaction post on this version, or open a promotion of it, until this one ends.

        Else a verdict and a promotion of the same moment would not see each other. To be taken after the lock of an
        alias, and before rows of promotions.
        """
        key = f"checks:{workspace}/{model}/{version}"
        await self._connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})

    async def add(self, check: PostedCheck) -> None:
        await self._connection.execute(
            insert(posted_checks).values(
                id=check.id,
                workspace=check.workspace,
                model=check.model,
                version=check.version,
                model_created_at=check.model_created_at,
                version_created_at=check.version_created_at,
                digest=check.digest,
                promotion_id=check.promotion_id,
                name=check.name,
                outcome=check.outcome,
                message=check.message,
                link=check.link,
                posted_by=check.posted_by,
                posted_by_name=check.posted_by_name,
                posted_groups=sorted(check.groups),
                posted_roles=sorted(check.roles),
                is_service=check.is_service,
                posted_at=check.posted_at,
                expires_at=check.expires_at,
            )
        )

    async def of_version(
        self,
        workspace: str,
        model: str,
        version: str,
        *,
        model_created_at: int,
        version_created_at: int,
        before: int | None = None,
        newest_only: bool = False,
        limit: int = 500,
    ) -> Sequence[PostedCheck]:
        """Those on this very version, newest first.

        Args:
            workspace: the model's.
            model: its name.
            version: its number.
            model_created_at: which model of this name, as MLflow gives it.
            version_created_at: which version of this number, as MLflow gives it.
            before: only those that came before this place in the order.
            newest_only: of each name the newest alone.
            limit: how many at most.
        """
        wanted = _on(workspace, model, version, model_created_at, version_created_at)
        query = select(posted_checks).where(*wanted)
        if newest_only:
            newest = select(func.max(posted_checks.c.sequence)).where(*wanted).group_by(posted_checks.c.name)
            query = select(posted_checks).where(posted_checks.c.sequence.in_(newest))
        if before is not None:
            query = query.where(posted_checks.c.sequence < before)
        query = query.order_by(posted_checks.c.sequence.desc()).limit(limit)
        return [_check(row) for row in await self._connection.execute(query)]

    async def last_words(
        self,
        workspace: str,
        model: str,
        version: str,
        *,
        model_created_at: int,
        version_created_at: int,
        names: Collection[str],
        digest: str | None,
    ) -> Sequence[PostedCheck]:
        """What each who posted said last, newest first: so nobody buries another's verdict, however often they post.

        Args:
            workspace: the model's.
            model: its name.
            version: its number.
            model_created_at: as in ``of_version``.
            version_created_at: as in ``of_version``.
            names: of these checks.
            digest: what somebody said on these bytes, and on any others, are two things.
        """
        wanted = _on(workspace, model, version, model_created_at, version_created_at)
        of_whom = (posted_checks.c.name, posted_checks.c.posted_by)
        is_on_these = posted_checks.c.digest.is_not_distinct_from(digest)
        last = (
            select(
                posted_checks.c.sequence,
                func.row_number()
                .over(partition_by=(*of_whom, is_on_these), order_by=posted_checks.c.sequence.desc())
                .label("place"),
            )
            .where(*wanted, posted_checks.c.name.in_(list(names)))
            .subquery()
        )
        query = (
            select(posted_checks)
            .join(last, last.c.sequence == posted_checks.c.sequence)
            .where(last.c.place == 1)
            .order_by(posted_checks.c.sequence.desc())
        )
        return [_check(row) for row in await self._connection.execute(query)]


def _on(
    workspace: str, model: str, version: str, model_created_at: int, version_created_at: int
) -> tuple[ColumnElement[bool], ...]:
    return (
        posted_checks.c.workspace == workspace,
        posted_checks.c.model == model,
        posted_checks.c.version == version,
        posted_checks.c.model_created_at == model_created_at,
        posted_checks.c.version_created_at == version_created_at,
    )


def _check(row: Row[tuple[object, ...]]) -> PostedCheck:
    return PostedCheck(
        id=row.id,
        workspace=row.workspace,
        model=row.model,
        version=row.version,
        model_created_at=row.model_created_at,
        version_created_at=row.version_created_at,
        name=row.name,
        outcome=row.outcome,
        message=row.message,
        posted_by=row.posted_by,
        posted_by_name=row.posted_by_name,
        posted_at=row.posted_at,
        digest=row.digest,
        promotion_id=row.promotion_id,
        link=row.link,
        groups=frozenset(row.posted_groups),
        roles=frozenset(row.posted_roles),
        is_service=row.is_service,
        expires_at=row.expires_at,
        sequence=row.sequence,
    )
