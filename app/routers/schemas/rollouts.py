"""Rollouts as callers see them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import Field

from app.domain.deployments import Action, Bytes
from app.domain.gates import Verdict
from app.domain.phases import Phase
from app.domain.promotions import State
from app.domain.rolling_out import Outcome, PlannedStep, Progress, Stage, held_until
from app.domain.rollouts import OnFailure, Strategy
from app.routers.schemas.shared import Answer
from app.services.rollouts import Followed


class StepAnswer(Answer):
    """One step of the plan, and how it went."""

    number: int = Field(description="From 1.")
    weight: int = Field(description="The percentage of the requests that the version gets.")
    hold_s: int | None = Field(description="Seconds for which it is held; null: until a person says so.")
    gates: Sequence[str] = Field(description="Those that it must pass.")
    message: str = Field(description="What is to be said of it; mostly empty.")
    began_at: datetime | None
    held_since: datetime | None = Field(description="When every target had it in effect.")
    held_until: datetime | None = Field(description="When its time is over, while it is held.")
    ended_at: datetime | None
    outcome: Outcome | None = Field(description="How it ended; null: it has not.")


class TargetAnswer(Answer):
    """What one target is to serve now, and how far it is."""

    name: str
    action: Action
    version: str
    weight: int = Field(description="The percentage of the requests that `version` gets; `stable_version` the rest.")
    stable_version: str | None
    serves_without: str | None = Field(description="The version that it serves again if this goes back; null: none.")
    generation: int
    phase: Phase
    reason: str
    message: str
    updated_at: datetime


class GateAnswer(Answer):
    """How a gate of the present step is doing on one target."""

    name: str
    target: str
    verdict: Verdict | None = Field(description="Of the last measurement; null: there is none yet.")
    value: float | None
    message: str
    passes: int
    min_passes: int = Field(description="Without which the step does not end.")
    consecutive_failures: int
    failure_limit: int = Field(description="With which the gate has failed.")
    last_at: datetime | None


class MeasurementAnswer(Answer):
    step: int = Field(description="From 1.")
    target: str
    gate: str
    at: datetime
    verdict: Verdict
    value: float | None
    message: str


class RolloutAnswer(Answer):
    """How the targets of a promotion come to serve its version, step by step."""

    promotion_id: str
    promotion_state: State
    strategy: Strategy
    on_failure: OnFailure
    stage: Stage
    step: int = Field(description="The present one, from 1.")
    waits_for_a_person: bool
    reason: str = Field(description="Why it is paused or went back; else empty.")
    settled: bool = Field(description="Nothing more happens to it.")
    steps: Sequence[StepAnswer]
    targets: Sequence[TargetAnswer] = Field(description="That are this promotion's, and of which you may know.")
    gates: Sequence[GateAnswer]
    measurements: Sequence[MeasurementAnswer] = Field(description="The newest, newest first.")
    updated_at: datetime


def rollout_answer(followed: Followed) -> RolloutAnswer:
    promotion, progress = followed.promotion, followed.progress
    gates = {gate.name: gate for gate in promotion.policy.rollout.gates}
    return RolloutAnswer(
        promotion_id=promotion.id,
        promotion_state=promotion.state,
        strategy=promotion.policy.rollout.strategy,
        on_failure=promotion.policy.rollout.on_failure,
        stage=progress.stage,
        step=progress.step + 1,
        waits_for_a_person=progress.waits_for_a_person,
        reason=progress.reason,
        settled=not progress.is_open,
        steps=[_step(progress, step) for step in progress.steps],
        targets=[
            TargetAnswer(
                name=each.target,
                action=each.action,
                version=each.version,
                weight=each.weight,
                stable_version=each.stable.version if each.stable else None,
                serves_without=_version(progress.formers.get(each.target)),
                generation=each.generation,
                phase=each.phase,
                reason=each.reason,
                message=each.message,
                updated_at=each.updated_at,
            )
            for each in followed.deployments
        ],
        gates=[
            GateAnswer(
                name=state.gate,
                target=state.target,
                verdict=state.verdict,
                value=state.value,
                message=state.message,
                passes=state.passes,
                min_passes=gates[state.gate].min_passes,
                consecutive_failures=state.consecutive_failures,
                failure_limit=gates[state.gate].failure_limit,
                last_at=state.last_at,
            )
            for state in progress.gates
            if state.gate in gates
        ],
        measurements=[
            MeasurementAnswer(
                step=each.step + 1,
                target=each.target,
                gate=each.gate,
                at=each.at,
                verdict=each.measurement.verdict,
                value=each.measurement.value,
                message=each.measurement.message,
            )
            for each in followed.measurements
        ],
        updated_at=progress.updated_at,
    )


def _step(progress: Progress, step: PlannedStep) -> StepAnswer:
    is_held_now = step.number == progress.step and progress.stage is Stage.HOLDING
    return StepAnswer(
        number=step.number + 1,
        weight=step.weight,
        hold_s=step.hold_s,
        gates=step.gates,
        message=step.message,
        began_at=step.began_at,
        held_since=step.held_since,
        held_until=held_until(progress) if is_held_now else None,
        ended_at=step.ended_at,
        outcome=step.outcome,
    )


def _version(former: Bytes | None) -> str | None:
    return former.version if former else None
