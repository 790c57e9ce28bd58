"""Rollouts and their steps: written when a promotion's targets are first called, and moved on from there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    Row,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    column,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import (
    deployment_generations,
    deployments,
    promotions,
    rollout_steps,
    rollouts,
    targets,
)
from app.domain.deployments import Action, Bytes
from app.domain.gates import FRESH_S, GateState, states_document, states_from_document
from app.domain.phases import Phase
from app.domain.promotions import AliasKey, State
from app.domain.rolling_out import OPEN_STAGES, Outcome, PlannedStep, Progress, Stage, no_rollout


class Rollouts:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, progress: Progress) -> None:
        await self._connection.execute(
            insert(rollouts).values(
                promotion_id=progress.promotion_id,
                formers={target: asdict(each) if each else None for target, each in progress.formers.items()},
                **_row(progress),
            )
        )
        await self._connection.execute(insert(rollout_steps), [_step_row(progress, step) for step in progress.steps])

    async def find(self, promotion_id: str, *, for_update: bool = False) -> Progress | None:
        """``for_update``: the promotion is locked already, so that nobody else moves the rollout on meanwhile."""
        query = select(rollouts).where(rollouts.c.promotion_id == promotion_id)
        row = (await self._connection.execute(query.with_for_update() if for_update else query)).first()
        if row is None:
            return None
        steps = (
            select(rollout_steps).where(rollout_steps.c.promotion_id == promotion_id).order_by(rollout_steps.c.number)
        )
        return _progress(row, [_step(each) for each in await self._connection.execute(steps)])

    async def is_open(self, promotion_id: str) -> bool:
        """Whether there is one of this promotion that is not over."""
        query = select(rollouts.c.promotion_id).where(rollouts.c.promotion_id == promotion_id, _is_open())
        return await self._connection.scalar(query) is not None

    async def get(self, promotion_id: str) -> Progress:
        """Raises ``NotFound``."""
        found = await self.find(promotion_id)
        if found is None:
            raise no_rollout(promotion_id)
        return found

    async def save(self, before: Progress, after: Progress) -> None:
        """Write what changed. The row was read for update."""
        await self._connection.execute(
            update(rollouts).where(rollouts.c.promotion_id == after.promotion_id).values(**_row(after))
        )
        for was, step in zip(before.steps, after.steps, strict=True):
            if step != was:
                mine = (rollout_steps.c.promotion_id == after.promotion_id, rollout_steps.c.number == step.number)
                await self._connection.execute(update(rollout_steps).where(*mine).values(**_step_row(after, step)))

    async def look_again(self, promotion_id: str, at: datetime | None) -> None:
        """Nothing is looked at again that is over meanwhile."""
        await self._connection.execute(
            update(rollouts).where(rollouts.c.promotion_id == promotion_id, _is_open()).values(due_at=at)
        )

    async def keep_gates(self, progress: Progress, states: Sequence[GateState]) -> bool:
        """Write what was measured, if the rollout still holds what it held when it was asked; whether it does."""
        result = await self._connection.execute(
            update(rollouts)
            .where(
                rollouts.c.promotion_id == progress.promotion_id,
                rollouts.c.state == Stage.HOLDING.value,
                rollouts.c.step == progress.step,
                rollouts.c.held_since == progress.held_since,
            )
            .values(gates=states_document(states))
        )
        return bool(result.rowcount)

    async def due(self, now: datetime, *, limit: int = 500) -> list[str]:
        """The promotions whose rollouts are to be looked at by now, those first that have waited longest.

        Where gates were measured after now, the clock was set back since; who goes back is never due much later.
        """
        soon = now + timedelta(seconds=FRESH_S)
        measured = func.jsonb_each(rollouts.c.gates).table_valued("key", column("value", JSONB)).alias("measured")
        last_at = func.coalesce(measured.c.value["last_at"].astext, measured.c.value["began_at"].astext)
        is_ahead = select(1).select_from(measured).where(cast(last_at, DateTime(timezone=True)) > soon).exists()
        set_back = or_(
            and_(rollouts.c.state == Stage.HOLDING.value, is_ahead),
            and_(rollouts.c.state == Stage.GOING_BACK.value, rollouts.c.due_at > soon),
        )
        query = (
            select(rollouts.c.promotion_id)
            .where(or_(rollouts.c.due_at <= now, and_(_is_open(), set_back)))
            .order_by(rollouts.c.due_at)
            .limit(limit)
        )
        return [str(each) for each in await self._connection.scalars(query)]

    async def late(self, now: datetime, *, limit: int = 500) -> list[tuple[str, int]]:
        """The deployments, each with its generation, whose targets have had all the time that they are given.

        A target that was ready and is not any more is only waited for while a step needs it, and from then on. One that
        is ready is among them while a rollout waits for targets: whether what it serves is what it was called for, the
        caller finds (``app.domain.rolling_out.is_in_effect``).
        """
        began_at = func.greatest(deployments.c.requested_at, rollouts.c.step_began_at)  # that is null where none moves
        query = (
            select(deployments.c.id, deployments.c.generation)
            .join(targets, targets.c.name == deployments.c.target)
            .join(
                deployment_generations,
                and_(
                    deployment_generations.c.deployment_id == deployments.c.id,
                    deployment_generations.c.generation == deployments.c.generation,
                ),
            )
            .outerjoin(
                rollouts,
                and_(
                    rollouts.c.promotion_id == deployments.c.promotion_id,
                    rollouts.c.state.in_([Stage.MOVING.value, Stage.GOING_BACK.value]),
                ),
            )
            .where(
                or_(
                    and_(_is_unsettled(), deployment_generations.c.ready_at.is_(None)),
                    and_(_is_unsettled(), rollouts.c.state == Stage.MOVING.value),
                    and_(deployments.c.phase == Phase.READY.value, rollouts.c.promotion_id.is_not(None)),
                ),
                began_at + func.make_interval(0, 0, 0, 0, 0, 0, targets.c.deadline_s) < now,
            )
            .order_by(deployments.c.requested_at)
            .limit(limit)
        )
        return [(str(row.id), int(row.generation)) for row in await self._connection.execute(query)]

    async def open_of(self, key: AliasKey) -> list[str]:
        """The promotions of an alias whose rollouts are not over."""
        query = (
            select(rollouts.c.promotion_id)
            .join(promotions, promotions.c.id == rollouts.c.promotion_id)
            .where(
                _is_open(),
                promotions.c.workspace == key.workspace,
                promotions.c.model == key.model,
                promotions.c.alias == key.alias,
            )
            .order_by(rollouts.c.promotion_id)
        )
        return [str(each) for each in await self._connection.scalars(query)]

    async def formers(self, workspace: str, model: str, among: Collection[str]) -> Mapping[str, Bytes | None]:
        """What each target is proven to serve of a model: the last that got all requests, and was good.

        Good is what a rollout that is over had it serve, and what a target went back to. A target that was last told
        to serve nothing, or that never served anything, has none.
        """
        generation = deployment_generations.c
        is_proven = or_(generation.version != promotions.c.to_version, promotions.c.state == State.LIVE.value)
        query = (
            select(deployments.c.target, generation.action, generation.version, generation.uri, generation.digest)
            .join(deployment_generations, generation.deployment_id == deployments.c.id)
            .join(promotions, promotions.c.id == generation.promotion_id)
            .where(
                deployments.c.workspace == workspace,
                deployments.c.model == model,
                deployments.c.target == any_(cast(sorted(among), ARRAY(Text))),
                generation.ready_at.is_not(None),
                or_(generation.action == Action.REMOVE.value, (generation.weight == 100) & is_proven),
            )
            .ext(distinct_on(deployments.c.target))
            .order_by(deployments.c.target, generation.generation.desc())
        )
        found = {
            str(row.target): Bytes(row.version, row.uri, row.digest) if row.action == Action.APPLY.value else None
            for row in await self._connection.execute(query)
        }
        return {target: found.get(target) for target in among}


def _is_open() -> ColumnElement[bool]:
    """In the statement's text: with parameters, PostgreSQL would not know that the index of such rows will do."""
    values = sorted(stage.value for stage in OPEN_STAGES)
    return rollouts.c.state.in_(bindparam(None, values, expanding=True, literal_execute=True))


def _is_unsettled() -> ColumnElement[bool]:
    """Whether a target may still report; in the statement's text, as above."""
    values = sorted(phase.value for phase in (Phase.REQUESTED, Phase.ACCEPTED, Phase.PROGRESSING))
    return deployments.c.phase.in_(bindparam(None, values, expanding=True, literal_execute=True))


def _row(progress: Progress) -> dict[str, object]:
    return {
        "state": progress.stage.value,
        "step": progress.step,
        "step_began_at": progress.step_began_at,
        "held_since": progress.held_since,
        "due_at": progress.due_at,
        "reason": progress.reason,
        "gates": states_document(progress.gates),
        "updated_at": progress.updated_at,
    }


def _step_row(progress: Progress, step: PlannedStep) -> dict[str, object]:
    outcome = step.outcome.value if step.outcome else None
    return {
        **asdict(step),
        "promotion_id": progress.promotion_id,
        "gates": list(step.gates),
        "outcome": outcome,
    }


def _progress(row: Row[tuple[object, ...]], steps: Sequence[PlannedStep]) -> Progress:
    return Progress(
        promotion_id=row.promotion_id,
        stage=Stage(row.state),
        step=row.step,
        step_began_at=row.step_began_at,
        updated_at=row.updated_at,
        steps=tuple(steps),
        formers={target: Bytes(**each) if each else None for target, each in row.formers.items()},
        held_since=row.held_since,
        due_at=row.due_at,
        reason=row.reason,
        gates=states_from_document(row.gates),
    )


def _step(row: Row[tuple[object, ...]]) -> PlannedStep:
    return PlannedStep(
        number=row.number,
        weight=row.weight,
        hold_s=row.hold_s,
        gates=tuple(row.gates),
        keeps_stable=row.keeps_stable,
        message=row.message,
        began_at=row.began_at,
        held_since=row.held_since,
        ended_at=row.ended_at,
        outcome=Outcome(row.outcome) if row.outcome else None,
    )
