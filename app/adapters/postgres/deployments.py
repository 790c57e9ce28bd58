"""Deployments: one row per target and model. What is desired and its generation change in one statement."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import deployments
from app.domain.deployments import Deployment, Phase, no_deployment
from app.domain.grants import DEFAULT_WORKSPACE


class Deployments:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, deployment_id: str, *, for_update: bool = False) -> Deployment:
        """Raises ``NotFound``."""
        query = select(deployments).where(deployments.c.id == deployment_id)
        if for_update:
            query = query.with_for_update()
        row = (await self._connection.execute(query)).first()
        if row is None:
            raise no_deployment(deployment_id)
        return _deployment(row)

    async def find(
        self, *, model: str | None = None, target: str | None = None, workspace: str | None = None
    ) -> list[Deployment]:
        """By target and model."""
        query = select(deployments).order_by(deployments.c.target, deployments.c.model)
        if model is not None:
            query = query.where(deployments.c.model == model)
        if target is not None:
            query = query.where(deployments.c.target == target)
        if workspace is not None:
            query = query.where(deployments.c.workspace == workspace)
        return [_deployment(row) for row in await self._connection.execute(query)]

    async def of_promotion(self, promotion_id: str) -> list[Deployment]:
        query = select(deployments).where(deployments.c.promotion_id == promotion_id).order_by(deployments.c.target)
        return [_deployment(row) for row in await self._connection.execute(query)]

    async def desire(
        self,
        *,
        new_id: str,
        target: str,
        workspace: str,
        model: str,
        version: str,
        uri: str,
        digest: str,
        promotion_id: str,
        at: datetime,
    ) -> Deployment:
        """Set what is desired and count the generation up; ``new_id`` is used when there was no such deployment."""
        desired: dict[str, object] = {
            "version": version,
            "uri": uri,
            "digest": digest,
            "promotion_id": promotion_id,
            "phase": Phase.REQUESTED.value,
            "reason": "",
            "message": "",
            "requested_at": at,
            "updated_at": at,
        }
        first = {
            "id": new_id,
            "target": target,
            "workspace": workspace,
            "model": model,
            "generation": 1,
            "observed_generation": 0,
            "sequence": 0,
        }
        statement = (
            insert(deployments)
            .values(first | desired)
            .on_conflict_do_update(
                index_elements=["target", "workspace", "model"],
                set_=desired | {"generation": deployments.c.generation + 1},
            )
            .returning(deployments)
        )
        return _deployment((await self._connection.execute(statement)).one())

    async def save(self, deployment: Deployment) -> None:
        """Write what was observed."""
        row = asdict(deployment)
        await self._connection.execute(
            update(deployments)
            .where(deployments.c.id == deployment.id, deployments.c.generation == deployment.generation)
            .values(
                phase=deployment.phase.value,
                **{name: row[name] for name in ("reason", "message", "observed_generation", "sequence", "updated_at")},
            )
        )

    async def newest_generation(self, target: str, resource: str) -> int:
        """Args: resource: what the target calls it (``Deployment.resource``)."""
        before, _, model = resource.rpartition("/")
        query = select(func.coalesce(func.max(deployments.c.generation), 0)).where(
            deployments.c.target == target,
            deployments.c.workspace == (before or DEFAULT_WORKSPACE),
            deployments.c.model == model,
        )
        return int(await self._connection.scalar(query) or 0)


def _deployment(row: Row[tuple[object, ...]]) -> Deployment:
    return Deployment(
        id=row.id,
        target=row.target,
        model=row.model,
        generation=row.generation,
        version=row.version,
        uri=row.uri,
        digest=row.digest,
        promotion_id=row.promotion_id,
        phase=Phase(row.phase),
        reason=row.reason,
        message=row.message,
        observed_generation=row.observed_generation,
        sequence=row.sequence,
        requested_at=row.requested_at,
        updated_at=row.updated_at,
        workspace=row.workspace,
    )
