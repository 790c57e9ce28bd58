"""What the worker does for rollouts: has gates measured, moves them on, and takes the alias back after the requests.

Each step may be repeated, and may be the last before a crash: a rollout that goes back is looked at again until its
alias is where it was, or a person is told that it could not be put there.
"""

from __future__ import annotations

from datetime import timedelta

from app.domain.errors import CountersignError, Unavailable
from app.domain.promotions import OPEN, Promotion, State, moved
from app.domain.rolling_out import Progress, Stage
from app.ports import Clock
from app.services.applying import Applying, not_rolled_back
from app.services.gating import Gating
from app.services.identifiers import undoing
from app.services.promotions import Promotions
from app.services.recording import UnitOfWorkFactory, tell
from app.services.rolling_out import RollingOut

AGAIN = timedelta(seconds=5)
"""How soon to look again whether the alias is back."""
_GOES_BACK = frozenset({State.ROLLING_OUT, State.SUPERSEDED})
"""Where a promotion is whose alias goes back: of the superseded, where what took its place was not applied."""


class GoingBack:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        clock: Clock,
        *,
        rolling_out: RollingOut,
        gating: Gating,
        applying: Applying,
        promotions: Promotions,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._rolling_out = rolling_out
        self._gating = gating
        self._applying = applying
        self._promotions = promotions

    async def advance(self, promotion_id: str) -> None:
        """Do whatever is next for a rollout; nothing when nothing is.

        Raises:
            UpstreamUnavailable, Unavailable: try again later; the rollout is where it was.
        """
        await self._gating.measure(promotion_id)
        async with self._unit_of_work() as work:
            await self._rolling_out.settle(work, promotion_id)
            await work.commit()
        async with self._unit_of_work() as work:
            # Locked: whoever gives the alias back meanwhile has it due, and that must not be forgotten.
            promotion = await work.promotions.get(promotion_id, for_update=True)
            progress = await work.rollouts.find(promotion_id, for_update=True)
            holder = await work.aliases.get(promotion.key)
            if progress is None or progress.stage is not Stage.GOING_BACK:
                return
            holds = promotion.alias_moved and holder is not None and holder.promotion_id == promotion_id
            in_flight = await work.promotions.in_flight(promotion.key)
            is_its_turn = progress.due_at is not None and in_flight in {None, promotion_id, undoing(promotion_id)}
            if not (holds and is_its_turn and promotion.state in _GOES_BACK):
                # The targets are waited for, which report; or another promotion, which has the alias or gives it back.
                await work.rollouts.look_again(promotion_id, None)
                await work.commit()
                return
        await self._take_alias_back(promotion, progress)

    async def _take_alias_back(self, promotion: Promotion, progress: Progress) -> None:
        try:
            rollback = await self._promotions.undo(promotion, reason=progress.reason[:2000])
            if rollback is None:
                left = await self._applying.take_away(promotion)
                why_not = left.reason if left else None
            elif rollback.state in OPEN:
                why_not = None
            else:
                said = f": {rollback.state_reason}" if rollback.state_reason else ""
                why_not = f"{rollback.id}, which was to put it back, is {rollback.state.value}{said}"
        except Unavailable:
            raise
        except CountersignError as refused:
            rollback, why_not = None, refused.message
        if why_not:
            await self._give_up(promotion, progress, why_not)
        elif rollback:
            async with self._unit_of_work() as work:
                await work.rollouts.look_again(promotion.id, self._clock.now() + AGAIN)
                await work.commit()

    async def _give_up(self, promotion: Promotion, progress: Progress, why_not: str) -> None:
        """The requests went back, and the alias cannot: a person must look."""
        async with self._unit_of_work() as work:
            before = await work.promotions.get(promotion.id, for_update=True)
            if before.state not in _GOES_BACK:
                return
            why = not_rolled_back(before, progress.reason, why_not)
            after = moved(before, State.FAILED, at=self._clock.now(), reason=why)
            await work.promotions.save(before, after)
            tell(work, "promotion.failed", after)
            await work.rollouts.look_again(promotion.id, None)
            await self._rolling_out.settle(work, promotion.id)
            await work.commit()
