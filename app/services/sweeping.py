"""The net under everything: finds work whose job was lost, and rollouts whose time is over. Runs every few seconds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from app.domain.promotions import State
from app.ports import Clock
from app.services.deployments import Deployments
from app.services.recording import UnitOfWorkFactory

UNTOUCHED = timedelta(seconds=10)
DEAD_ARE_KEPT = 3
"""Times as long as those that arrived."""
REMOVED_AT_ONCE = 1000
"""Deliveries in one transaction."""


class Sweeping:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        deployments: Deployments,
        clock: Clock,
        *,
        deliveries_kept: timedelta = timedelta(days=30),
    ) -> None:
        self._unit_of_work = unit_of_work
        self._deployments = deployments
        self._clock = clock
        self._deliveries_kept = deliveries_kept

    async def sweep(self) -> None:
        """Queue what nothing has touched for a while, or whose time has come; end rollouts past their deadline."""
        before = self._clock.now() - UNTOUCHED
        async with self._unit_of_work() as work:
            for promotion in await work.promotions.unsettled([State.APPLYING], untouched_since=before):
                await work.jobs.ensure_advancing(promotion.id)
            for promotion_id in await work.promotions.due(self._clock.now()):
                await work.jobs.ensure_advancing(promotion_id)
            await work.commit()
        await self._end_late_rollouts()

    async def remove_expired(self) -> None:
        """Remove sessions, tokens, logins and what was begun to get them, a while after their end; the files of
        promotions that are settled, of which the digest stays; and the log of what was sent long ago.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            await work.tokens.sweep(now)
            await work.logins.sweep(now)
            await work.sessions.sweep(now)
            await work.measurements.forget_settled()
            await work.commit()
        await self._remove_deliveries()

    async def undelivered(self) -> tuple[int, float]:
        """How many messages wait to be sent, and for how many seconds the oldest does."""
        async with self._unit_of_work() as work:
            backlog = await work.deliveries.backlog()
        return backlog.pending, (self._clock.now() - backlog.oldest).total_seconds() if backlog.oldest else 0.0

    async def waiting(self) -> Mapping[State, int]:
        """How many promotions are in each state that waits for somebody or something."""
        async with self._unit_of_work() as work:
            return await work.promotions.counts()

    async def _remove_deliveries(self) -> None:
        """Remove the log of what was sent long ago; of what never arrived, later."""
        before = self._clock.now() - self._deliveries_kept
        dead_before = self._clock.now() - self._deliveries_kept * DEAD_ARE_KEPT
        removed = REMOVED_AT_ONCE
        while removed >= REMOVED_AT_ONCE:
            async with self._unit_of_work() as work:
                removed = await work.deliveries.remove_settled(
                    before=before, dead_before=dead_before, limit=REMOVED_AT_ONCE
                )
                await work.commit()

    async def _end_late_rollouts(self) -> None:
        now = self._clock.now()
        async with self._unit_of_work() as work:
            deadlines = {target.name: timedelta(seconds=target.deadline_s) for target in await work.targets.all()}
            rolling = await work.promotions.unsettled([State.ROLLING_OUT], untouched_since=now)
            late = [
                deployment
                for promotion in rolling
                for deployment in await work.deployments.of_promotion(promotion.id)
                if deployment.requested_at + deadlines[deployment.target] < now
            ]
        for deployment in late:
            async with self._unit_of_work() as work:
                await self._deployments.give_up(
                    work,
                    deployment.id,
                    generation=deployment.generation,
                    reason="ProgressDeadlineExceeded",
                    message=f"target {deployment.target} did not report the version ready in time",
                )
                await work.commit()
