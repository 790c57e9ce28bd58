"""Targets: where models are deployed to."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Row, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import targets
from app.domain.deployments import Target
from app.domain.errors import NotFound


class Targets:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, name: str) -> Target:
        """Raises ``NotFound``."""
        row = (await self._connection.execute(select(targets).where(targets.c.name == name))).first()
        if row is None:
            raise NotFound(f"There is no target {name}.", target=name)
        return _target(row)

    async def all(self) -> list[Target]:
        return [_target(row) for row in await self._connection.execute(select(targets).order_by(targets.c.name))]

    async def missing(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that are no target."""
        known = {target.name for target in await self.all()}
        return sorted(set(names) - known)

    async def put(self, target: Target, *, at: datetime) -> None:
        """Create or replace a target."""
        values = {
            "name": target.name,
            "url": target.url,
            "secret": target.secret,
            "callback_secret": target.callback_secret,
            "allow_private_network": target.allow_private_network,
            "deadline_s": target.deadline_s,
            "updated_at": at,
        }
        await self._connection.execute(
            insert(targets).values(values).on_conflict_do_update(index_elements=["name"], set_=values)
        )


def _target(row: Row[tuple[object, ...]]) -> Target:
    return Target(
        name=row.name,
        url=row.url,
        secret=row.secret,
        callback_secret=row.callback_secret,
        allow_private_network=row.allow_private_network,
        deadline_s=row.deadline_s,
    )
