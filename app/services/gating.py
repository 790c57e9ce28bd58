"""Asks the gates of a step that is held: the target's Prometheus, and then the row of the rollout.

Nobody is asked inside a transaction. What was measured counts if the rollout still holds what it held when it was
asked, and if nobody else asked meanwhile: a gate is never counted twice for one interval, whoever works on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.adapters.postgres.gate_measurements import Measured
from app.domain.deployments import Deployment, Target
from app.domain.errors import InvalidInput
from app.domain.gate_queries import fill, values_of
from app.domain.gates import GateState, Measurement, Reading, after, is_due, judge
from app.domain.policies import Policy
from app.domain.promotions import Promotion
from app.domain.rolling_out import Progress, Stage, rollout_of
from app.domain.rollouts import Gate
from app.ports import Clock, Metrics
from app.services.recording import UnitOfWorkFactory

AT_ONCE = 8
"""Queries of one rollout."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a gate asks a target now, as it is written, and what that gives. Without a query it could not be asked."""

    gate: Gate
    target: str
    query: str
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class _Due:
    state: GateState
    gate: Gate


class Gating:
    def __init__(self, unit_of_work: UnitOfWorkFactory, metrics: Metrics, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._metrics = metrics
        self._clock = clock

    async def measure(self, promotion_id: str) -> None:
        """Measure each gate of a rollout that is due; nothing if it holds nothing."""
        at = self._clock.now()
        async with self._unit_of_work() as work:
            progress = await work.rollouts.find(promotion_id)
            if progress is None or progress.stage is not Stage.HOLDING:
                return
            promotion = await work.promotions.get(promotion_id)
            due = _due(promotion, progress, at)
            if not due:
                return
            targets = {target.name: target for target in await work.targets.all()}
            deployments = {each.target: each for each in await work.deployments.of_promotion(promotion_id)}
        turns = asyncio.Semaphore(AT_ONCE)

        async def measured(each: _Due) -> Measurement:
            name = each.state.target
            async with turns:
                found = await self._ask(promotion, each.gate, targets.get(name), name, deployments.get(name))
            return found.measurement

        found = await asyncio.gather(*(measured(each) for each in due))
        await self._keep(promotion_id, progress, list(zip(due, found, strict=True)), at)

    async def ask(self, gate: Gate, target: Target, values: Mapping[str, str]) -> Asked:
        """Ask one gate now, whatever rollout there is. Nothing is written down."""
        try:
            query = fill(gate.query, values)
        except InvalidInput as error:
            [(_, reason)] = error.problems
            return Asked(gate, target.name, "", judge(gate, Reading(problem=reason)))
        if target.metrics is None:
            problem = f"target {target.name} has no `metrics`: nobody can be asked"
            return Asked(gate, target.name, query, judge(gate, Reading(problem=problem)))
        return Asked(gate, target.name, query, judge(gate, await self._metrics.read(target.metrics, query)))

    async def try_out(
        self,
        policy: Policy,
        *,
        target: str,
        model: str,
        workspace: str,
        candidate: str,
        stable: str,
        names: Mapping[str, str],
    ) -> Sequence[Asked]:
        """Ask every gate of a policy now, as if there were a rollout of ``candidate``. Nothing is written down.

        Args:
            policy: it need not be in force.
            target: where.
            model: the registered model's name.
            workspace: that of the model.
            candidate: the version that would be rolled out.
            stable: the one that would get the rest; empty: none.
            names: what the target's metrics call versions, beside those that its deployer has reported.

        Raises:
            NotFound: there is no such target.
        """
        async with self._unit_of_work() as work:
            asked_of = await work.targets.get(target)
            deployments = await work.deployments.find(model=model)
        reported = {
            served.version: served.name
            for each in deployments
            if (each.target, each.workspace) == (target, workspace)
            for served in each.serving
        }
        values = values_of(
            model=model,
            workspace=workspace,
            target=target,
            candidate=candidate,
            stable=stable,
            names={**reported, **names},
        )
        return [await self.ask(gate, asked_of, values) for gate in policy.rollout.gates]

    async def _ask(
        self, promotion: Promotion, gate: Gate, target: Target | None, name: str, deployment: Deployment | None
    ) -> Asked:
        if target is None or deployment is None:
            problem = (
                f"there is no target {name} any more" if target is None else f"target {name} serves another version"
            )
            return Asked(gate, name, "", judge(gate, Reading(problem=problem)))
        stable = deployment.stable.version if deployment.stable else ""
        values = values_of(
            model=promotion.model,
            workspace=promotion.workspace,
            target=name,
            candidate=promotion.to_version,
            stable=stable,
            names={each.version: each.name for each in deployment.serving},
        )
        return await self.ask(gate, target, values)

    async def _keep(
        self, promotion_id: str, asked_in: Progress, found: Sequence[tuple[_Due, Measurement]], at: datetime
    ) -> None:
        async with self._unit_of_work() as work:
            present = await work.rollouts.find(promotion_id, for_update=True)
            if present is None or not _is_held_still(present, asked_in):
                return
            new = {each.state: after(each.state, measurement, each.gate, at=at) for each, measurement in found}
            states = tuple(new.get(state, state) for state in present.gates)
            if states == present.gates or not await work.rollouts.keep_gates(present, states):
                return
            await work.gate_measurements.add(
                promotion_id,
                [
                    Measured(present.step, each.state.target, each.gate.name, at, measurement)
                    for each, measurement in found
                    if each.state in present.gates
                ],
            )
            await work.commit()


def _due(promotion: Promotion, progress: Progress, now: datetime) -> Sequence[_Due]:
    gates = {gate.name: gate for gate in rollout_of(promotion).gates}
    among = [_Due(state, gates[state.gate]) for state in progress.gates if state.gate in gates]
    return [each for each in among if is_due(each.state, each.gate, now=now)]


def _is_held_still(present: Progress, before: Progress) -> bool:
    return (present.stage, present.step, present.held_since) == (before.stage, before.step, before.held_since)
