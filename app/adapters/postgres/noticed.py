"""The versions that were said to be registered, so that each is said once."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import noticed_until, noticed_versions
from app.domain.registrations import Registration

Named = tuple[int, str, str]
"""When a version was created, in ms since the epoch by MLflow's clock; its model and number."""


def named(registration: Registration) -> Named:
    return registration.created_at, registration.model, registration.version


class NoticedVersions:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def since(self, workspace: str, created_at: int) -> set[Named]:
        """Those that were created then or later."""
        query = select(noticed_versions).where(
            noticed_versions.c.workspace == workspace, noticed_versions.c.created_at >= created_at
        )
        return {(row.created_at, row.model, row.version) for row in await self._connection.execute(query)}

    async def add(self, registrations: Sequence[Registration]) -> Sequence[Registration]:
        """Note these; those among them that were not noted yet. Two who note the same wait for each other."""
        if not registrations:
            return []
        rows = [
            {
                "workspace": each.workspace,
                "created_at": each.created_at,
                "model": each.model,
                "version": each.version,
            }
            for each in sorted(registrations, key=named)
        ]
        statement = insert(noticed_versions).values(rows).on_conflict_do_nothing().returning(noticed_versions)
        new = {(row.created_at, row.model, row.version) for row in await self._connection.execute(statement)}
        return [each for each in registrations if named(each) in new]

    async def until(self, workspace: str) -> int | None:
        """Up to when a workspace was looked at, by MLflow's clock in ms since the epoch; none: never."""
        query = select(noticed_until.c.created_at).where(noticed_until.c.workspace == workspace)
        return await self._connection.scalar(query)

    async def looked(self, workspace: str, *, until: int, forget_before: int) -> None:
        """A workspace was looked at; what is older than ``forget_before`` is not asked for again.

        ``until`` may be earlier than before: a clock that was ahead was put right.
        """
        statement = insert(noticed_until).values(workspace=workspace, created_at=until)
        present = {"created_at": statement.excluded.created_at}
        await self._connection.execute(statement.on_conflict_do_update(index_elements=["workspace"], set_=present))
        await self._connection.execute(
            delete(noticed_versions).where(
                noticed_versions.c.workspace == workspace, noticed_versions.c.created_at < forget_before
            )
        )
