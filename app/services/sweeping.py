"""The net under everything: finds work whose job was lost, and rollouts whose time is over. Runs every few seconds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from app.domain.inventory import desired_in_words, served_in_words
from app.domain.phases import Reason
from app.domain.promotions import State
from app.domain.rolling_out import is_in_effect
from app.ports import Clock
from app.services.deployments import Deployments
from app.services.looking_at_targets import LookingAtTargets
from app.services.recording import UnitOfWorkFactory

UNTOUCHED = timedelta(seconds=10)
DEAD_ARE_KEPT = 3
"""Times as long as those that arrived."""
REMOVED_AT_ONCE = 1000
"""Deliveries, or measurements, in one transaction."""


class Sweeping:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        deployments: Deployments,
        clock: Clock,
        *,
        looking: LookingAtTargets,
        deliveries_kept: timedelta = timedelta(days=30),
    ) -> None:
        self._unit_of_work = unit_of_work
        self._deployments = deployments
        self._clock = clock
        self._looking = looking
        self._deliveries_kept = deliveries_kept

    async def sweep(self) -> None:
        """Queue what nothing has touched for a while, or whose time has come; end rollouts past their deadline."""
        before = self._clock.now() - UNTOUCHED
        async with self._unit_of_work() as work:
            for promotion in await work.promotions.unsettled([State.APPLYING], untouched_since=before):
                await work.jobs.ensure_advancing(promotion.id)
            for promotion_id in await work.promotions.due(self._clock.now()):
                await work.jobs.ensure_advancing(promotion_id)
            for promotion_id in await work.rollouts.due(self._clock.now()):
                await work.jobs.ensure_rolling_out(promotion_id)
            await work.commit()
        await self._end_late_rollouts()

    async def remove_expired(self) -> None:
        """Remove sessions, tokens, logins and what was begun to get them, a while after their end; the files of
        promotions that are settled, of which the digest stays; the log of what was sent long ago; and what gates
        measured as long ago.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            await work.tokens.sweep(now)
            await work.logins.sweep(now)
            await work.sessions.sweep(now)
            await work.measurements.forget_settled()
            await work.commit()
        await self._remove_deliveries()
        await self._remove_measurements()

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

    async def _remove_measurements(self) -> None:
        before, removed = self._clock.now() - self._deliveries_kept, REMOVED_AT_ONCE
        while removed >= REMOVED_AT_ONCE:
            async with self._unit_of_work() as work:
                removed = await work.gate_measurements.remove(before=before, limit=REMOVED_AT_ONCE)
                await work.commit()

    async def _end_late_rollouts(self) -> None:
        async with self._unit_of_work() as work:
            late = [
                (deployment_id, generation)
                for deployment_id, generation in await work.rollouts.late(self._clock.now())
                if not is_in_effect(await work.deployments.get(deployment_id))
            ]
        # A report may have been lost: what is ready by now is not given up.
        await self._looking.ask_after([deployment_id for deployment_id, _ in late])
        for deployment_id, generation in late:
            async with self._unit_of_work() as work:
                present = await work.deployments.get(deployment_id)
                # What the target waited for last is why it did not get there.
                reason = present.reason if present.reason is not Reason.NONE else Reason.PROGRESS_DEADLINE_EXCEEDED
                said = f"; it said last: {present.message}" if present.message else ""
                if present.is_ready:
                    shares = f"{served_in_words(present.serving)}, and not {desired_in_words(present)}"
                    said = f"; it says that it is, and serves {shares}"
                await self._deployments.give_up(
                    work,
                    deployment_id,
                    generation=generation,
                    reason=reason,
                    message=f"target {present.target} did not report the version ready in time{said}",
                )
                await work.commit()
