"""Targets: where models are deployed to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import targets
from app.domain.deployments import MetricsSource, Target
from app.domain.endpoints import ReceiverState
from app.domain.errors import NotFound
from app.domain.targets import StoredTarget


class Targets:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, name: str) -> Target:
        """Raises ``NotFound``."""
        return (await self.stored(name)).target

    async def stored(self, name: str, *, for_update: bool = False) -> StoredTarget:
        """One, and how it is doing. Raises ``NotFound``."""
        query = select(targets).where(targets.c.name == name)
        row = (await self._connection.execute(query.with_for_update() if for_update else query)).first()
        if row is None:
            raise NotFound(f"There is no target {name}.", target=name)
        return _stored(row)

    async def page(self, *, after: str, limit: int) -> list[StoredTarget]:
        """By name, those after ``after``."""
        query = select(targets).where(targets.c.name > after).order_by(targets.c.name).limit(limit)
        return [_stored(row) for row in await self._connection.execute(query)]

    async def all(self) -> list[Target]:
        return [_target(row) for row in await self._connection.execute(select(targets).order_by(targets.c.name))]

    async def missing(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that are no target."""
        known = {target.name for target in await self.all()}
        return sorted(set(names) - known)

    async def put(self, target: Target, *, at: datetime) -> None:
        """Create or replace a target. One that is there already stays as it is doing."""
        values = {
            "name": target.name,
            "url": target.url,
            "secrets": list(target.secrets),
            "callback_secrets": list(target.callback_secrets),
            "allowed_networks": list(target.allowed_networks),
            "deadline_s": target.deadline_s,
            "options": dict(target.options),
            "metrics": asdict(target.metrics) if target.metrics else None,
            "updated_at": at,
        }
        statement = insert(targets).values(**values, state=ReceiverState.ACTIVE.value)
        await self._connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))

    async def set_state(
        self, name: str, state: ReceiverState, *, reason: str | None, failing_since: datetime | None = None
    ) -> None:
        """How it is doing."""
        await self._connection.execute(
            update(targets)
            .where(targets.c.name == name)
            .values(state=state.value, state_reason=reason, failing_since=failing_since)
        )


def _stored(row: Row[tuple[object, ...]]) -> StoredTarget:
    return StoredTarget(
        target=_target(row),
        state=ReceiverState(row.state),
        state_reason=row.state_reason,
        failing_since=row.failing_since,
        updated_at=row.updated_at,
    )


def _target(row: Row[tuple[object, ...]]) -> Target:
    return Target(
        name=row.name,
        url=row.url,
        secrets=tuple(row.secrets),
        callback_secrets=tuple(row.callback_secrets),
        allowed_networks=tuple(row.allowed_networks),
        deadline_s=row.deadline_s,
        options=row.options,
        metrics=_metrics(row.metrics) if row.metrics else None,
    )


def _metrics(stored: Mapping[str, Any]) -> MetricsSource:
    return MetricsSource(stored["url"], stored["token"], tuple(stored["allowed_networks"]))
