"""Who created which experiment and model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import owners


class Owners:
    """``kind`` is ``model`` or ``experiment``; a model is known by its name, an experiment by its id."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, kind: str, workspace: str, name: str, principal_id: str, *, at: datetime) -> None:
        """Somebody created this, now: whoever owned something of that name before no longer does."""
        values = {"principal_id": principal_id, "since": at}
        statement = insert(owners).values(kind=kind, workspace=workspace, name=name, **values)
        await self._connection.execute(
            statement.on_conflict_do_update(index_elements=["kind", "workspace", "name"], set_=values)
        )

    async def of(self, kind: str, workspace: str, names: Collection[str]) -> Mapping[str, str]:
        """Name to principal id, of those that have an owner."""
        rows = await self._connection.execute(
            select(owners.c.name, owners.c.principal_id).where(
                owners.c.kind == kind, owners.c.workspace == workspace, owners.c.name.in_(names)
            )
        )
        return {row.name: row.principal_id for row in rows}

    async def owned_by(self, principal_id: str) -> Collection[tuple[str, str, str]]:
        """Kind, workspace and name of everything that somebody created."""
        rows = await self._connection.execute(
            select(owners.c.kind, owners.c.workspace, owners.c.name).where(owners.c.principal_id == principal_id)
        )
        return {(row.kind, row.workspace, row.name) for row in rows}

    async def rename(self, kind: str, workspace: str, name: str, new_name: str) -> None:
        await self.remove(kind, workspace, new_name)
        await self._connection.execute(
            update(owners)
            .where(owners.c.kind == kind, owners.c.workspace == workspace, owners.c.name == name)
            .values(name=new_name)
        )

    async def remove(self, kind: str, workspace: str, name: str) -> None:
        """Nobody owns it any more: it was deleted, and what is made of that name is another."""
        await self._connection.execute(
            delete(owners).where(owners.c.kind == kind, owners.c.workspace == workspace, owners.c.name == name)
        )
