"""Deployments: one row per target and model. What is desired and its generation change in one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Row, Text, and_, any_, cast, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.ordered import is_among_models
from app.adapters.postgres.tables import deployment_generations, deployments
from app.domain.deployments import Action, Bytes, Deployment, Drift, Filter, Generation, Served, Serving, no_deployment
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.phases import Phase, Reason


@dataclass(frozen=True, slots=True)
class Desired:
    """What a target is to run of one model. ``call`` is the ``data`` of the call; none if it was not kept."""

    deployment_id: str
    workspace: str
    model: str
    call: Mapping[str, object] | None


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

    async def page(self, wanted: Filter, *, after: str | None = None, limit: int | None = 50) -> list[Deployment]:
        """By target, workspace and model, those after the one with the id ``after``.

        Args:
            wanted: which.
            after: the last one of the page before; none: from the beginning.
            limit: how many at most; none: all.
        """
        place = (deployments.c.target, deployments.c.workspace, deployments.c.model)
        query = select(deployments).where(*_conditions(wanted)).order_by(*place)
        if after is not None:
            last = deployments.alias("last")
            behind = select(last.c.target, last.c.workspace, last.c.model).where(last.c.id == after)
            query = query.where(tuple_(*place) > behind.scalar_subquery())
        rows = await self._connection.execute(query if limit is None else query.limit(limit))
        return [_deployment(row) for row in rows]

    async def models(self) -> Sequence[tuple[str, str]]:
        """The workspaces and names of all models that are, or were, deployed anywhere."""
        query = select(deployments.c.workspace, deployments.c.model).distinct()
        return [(row.workspace, row.model) for row in await self._connection.execute(query)]

    async def generations(
        self, deployment_id: str, *, before: int | None = None, limit: int = 50
    ) -> Sequence[Generation]:
        """What a deployment was to be, newest first; those before a generation, if one is named."""
        query = select(deployment_generations).where(deployment_generations.c.deployment_id == deployment_id)
        if before is not None:
            query = query.where(deployment_generations.c.generation < before)
        query = query.order_by(deployment_generations.c.generation.desc()).limit(limit)
        return [_generation(row) for row in await self._connection.execute(query)]

    async def keep_call(self, deployment: Deployment, call: Mapping[str, object]) -> None:
        """Keep the ``data`` of the call of a generation: whoever asks what is desired gets exactly that."""
        await self._connection.execute(
            update(deployments)
            .where(deployments.c.id == deployment.id, deployments.c.generation == deployment.generation)
            .values(call=dict(call))
        )

    async def call(self, deployment: Deployment) -> Mapping[str, object] | None:
        """The ``data`` of the call of the present generation; none if it was made before these were kept."""
        query = select(deployments.c.call).where(
            deployments.c.id == deployment.id, deployments.c.generation == deployment.generation
        )
        found: Mapping[str, object] | None = await self._connection.scalar(query)
        return found

    async def desired(self, target: str, *, after: str, limit: int) -> Sequence[Desired]:
        """What a target is to run, by id, those after ``after``."""
        query = (
            select(deployments.c.id, deployments.c.workspace, deployments.c.model, deployments.c.call)
            .where(deployments.c.target == target, deployments.c.id > after)
            .order_by(deployments.c.id)
            .limit(limit)
        )
        return [Desired(*row) for row in await self._connection.execute(query)]

    async def to_look_at(
        self, *, looked_before: datetime, open_unheard_since: datetime, limit: int
    ) -> Sequence[Deployment]:
        """Those that were not asked after for a while, the longest first: of what is under way, a shorter while.

        Args:
            looked_before: asked or heard of last before this.
            open_unheard_since: the same, of what is under way.
            limit: how many at most.
        """
        last = func.greatest(deployments.c.looked_at, deployments.c.heard_at, deployments.c.requested_at)
        is_open = deployments.c.phase.in_([Phase.REQUESTED.value, Phase.ACCEPTED.value, Phase.PROGRESSING.value])
        query = (
            select(deployments)
            .where(or_(last < looked_before, and_(is_open, last < open_unheard_since)))
            .order_by(last, deployments.c.id)
            .limit(limit)
        )
        return [_deployment(row) for row in await self._connection.execute(query)]

    async def looked(
        self, ids: Sequence[str], *, at: datetime, is_heard: bool = False, obstacle: str | None = None
    ) -> None:
        """Write down that targets were asked after these, and that they answered, or why they told nothing."""
        heard = {"heard_at": at} if is_heard else {}
        await self._connection.execute(
            update(deployments)
            .where(deployments.c.id == any_(cast(list(ids), ARRAY(Text))))
            .values(looked_at=at, obstacle=obstacle, **heard)
        )

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
        action: Action = Action.APPLY,
        weight: int = 100,
        stable: Bytes | None = None,
    ) -> Deployment:
        """Set what is desired and count the generation up; ``new_id`` is used when there was no such deployment.

        It is higher than what the target was ever seen at, or the target would take it for old news.
        """
        desired: dict[str, object] = {
            "version": version,
            "uri": uri,
            "digest": digest,
            "promotion_id": promotion_id,
            "action": action.value,
            "weight": weight,
            "stable": asdict(stable) if stable else None,
            "phase": Phase.REQUESTED.value,
            "reason": "",
            "message": "",
            "requested_at": at,
            "updated_at": at,
            "ready_at": None,
            "call": None,
        }
        first = {
            "id": new_id,
            "target": target,
            "workspace": workspace,
            "model": model,
            "generation": 1,
            "serving": [],
            "observed_generation": 0,
            "sequence": 0,
        }
        statement = (
            insert(deployments)
            .values(first | desired)
            .on_conflict_do_update(
                index_elements=["target", "workspace", "model"],
                set_=desired
                | {"generation": func.greatest(deployments.c.generation, deployments.c.observed_generation) + 1},
            )
            .returning(deployments)
        )
        deployment = _deployment((await self._connection.execute(statement)).one())
        await self._keep_generation(deployment)
        return deployment

    async def save(self, deployment: Deployment) -> None:
        """Write what was observed."""
        row = asdict(deployment)
        observed = (
            *("message", "observed_generation", "sequence", "updated_at"),
            *("heard_at", "ready_at", "looked_at", "obstacle", "drifted_since"),
        )
        await self._connection.execute(
            update(deployments)
            .where(deployments.c.id == deployment.id, deployments.c.generation == deployment.generation)
            .values(
                phase=deployment.phase.value,
                reason=deployment.reason.value,
                serving=row["serving"],
                served=_served_row(deployment.served),
                drift=deployment.drift.value if deployment.drift else None,
                **{name: row[name] for name in observed},
            )
        )
        await self._keep_generation(deployment)

    async def _keep_generation(self, deployment: Deployment) -> None:
        """What this generation was to be, and what came of it. It was ready when it was first said to be."""
        row: dict[str, object] = {
            "deployment_id": deployment.id,
            "generation": deployment.generation,
            "action": deployment.action.value,
            "version": deployment.version,
            "uri": deployment.uri,
            "digest": deployment.digest,
            "weight": deployment.weight,
            "stable": asdict(deployment.stable) if deployment.stable else None,
            "promotion_id": deployment.promotion_id,
            "requested_at": deployment.requested_at,
        }
        told: dict[str, object] = {
            "phase": deployment.phase.value,
            "reason": deployment.reason.value,
            "message": deployment.message,
            "updated_at": deployment.updated_at,
        }
        ready_at = deployment.updated_at if deployment.is_ready else None
        await self._connection.execute(
            insert(deployment_generations)
            .values(**row, **told, ready_at=ready_at)
            .on_conflict_do_update(
                index_elements=["deployment_id", "generation"],
                set_=told | {"ready_at": func.coalesce(deployment_generations.c.ready_at, ready_at)},
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
        reason=Reason(row.reason),
        message=row.message,
        observed_generation=row.observed_generation,
        sequence=row.sequence,
        requested_at=row.requested_at,
        updated_at=row.updated_at,
        workspace=row.workspace,
        action=Action(row.action),
        weight=row.weight,
        stable=Bytes(**row.stable) if row.stable else None,
        serving=tuple(Serving(**each) for each in row.serving),
        heard_at=row.heard_at,
        ready_at=row.ready_at,
        served=_served(row.served) if row.served else None,
        looked_at=row.looked_at,
        obstacle=row.obstacle,
        drift=Drift(row.drift) if row.drift else None,
        drifted_since=row.drifted_since,
    )


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    exactly = {
        "target": wanted.target,
        "workspace": wanted.workspace,
        "model": wanted.model,
        "version": wanted.version,
        "promotion_id": wanted.promotion,
        "phase": wanted.phase.value if wanted.phase else None,
    }
    conditions = [deployments.c[name] == value for name, value in exactly.items() if value is not None]
    if wanted.drifts:
        conditions.append(deployments.c.drift.in_([each.value for each in wanted.drifts]))
    if wanted.is_drifted is not None:
        conditions.append(deployments.c.drift.is_not(None) if wanted.is_drifted else deployments.c.drift.is_(None))
    if wanted.among is not None:
        conditions.append(is_among_models(deployments, wanted.among))
    return conditions


def _served(stored: Mapping[str, object]) -> Served:
    return Served(
        version=str(stored["version"]),
        generation=int(str(stored["generation"])),
        promotion_id=str(stored["promotion_id"]),
        since=datetime.fromisoformat(str(stored["since"])),
    )


def _served_row(served: Served | None) -> dict[str, object] | None:
    return {**asdict(served), "since": served.since.isoformat()} if served else None


def _generation(row: Row[tuple[object, ...]]) -> Generation:
    return Generation(
        deployment_id=row.deployment_id,
        generation=row.generation,
        action=Action(row.action),
        version=row.version,
        uri=row.uri,
        digest=row.digest,
        weight=row.weight,
        stable=Bytes(**row.stable) if row.stable else None,
        promotion_id=row.promotion_id,
        phase=Phase(row.phase),
        reason=Reason(row.reason),
        message=row.message,
        requested_at=row.requested_at,
        ready_at=row.ready_at,
        updated_at=row.updated_at,
    )
