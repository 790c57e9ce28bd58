"""Moves rollouts on, within a transaction: whoever changes what a rollout looks at calls ``settle`` last.

Reports of targets, measurements, the passing of time and what people say all end here, so that there is one place where
targets are called for a next step, or to go back. Nothing here asks anybody but the database: what a failure means is
done in the transaction that finds it, requests first; the alias follows (``app/services/going_back.py``).

Whoever locks several rows does so in this order: the newer promotion, older ones, the rollout, deployments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import SYSTEM_WORKER, Actor
from app.domain.promotions import OPEN, Promotion, State, moved
from app.domain.rolling_out import (
    Do,
    Next,
    Order,
    Outcome,
    Progress,
    Stage,
    Wanted,
    alias_moves_of,
    at_once,
    begun_of,
    begun_step,
    candidate_of,
    caught,
    check_takes,
    ended,
    held,
    next_of,
    resumed,
    rollout_of,
    wanted_before,
    wanted_in_step,
)
from app.domain.rollouts import AliasMoves
from app.ports import Clock
from app.services.calling import Calling
from app.services.identifiers import undoing
from app.services.recording import tell, topic_of


class RollingOut:
    def __init__(self, clock: Clock, calling: Calling) -> None:
        self._clock = clock
        self._calling = calling

    async def begin(self, work: UnitOfWork, promotion: Promotion) -> None:
        """Call the targets of a promotion that is *rolling out* from now on, and has taken them over."""
        formers = await work.rollouts.formers(promotion.workspace, promotion.model, promotion.policy.targets)
        progress = begun_of(promotion, formers, at=self._clock.now())
        await work.rollouts.add(progress)
        await self._call(work, promotion, wanted_in_step(progress, candidate_of(promotion)))
        if len(progress.steps) > 1:
            self._tell(work, "rollout.step_began", promotion, progress)

    async def settle(self, work: UnitOfWork, promotion_id: str) -> None:
        """Move a rollout on, as far as what is known of it lets it. Part of the caller's transaction."""
        promotion = await work.promotions.get(promotion_id, for_update=True)
        before = await work.rollouts.find(promotion_id, for_update=True)
        if before is None or not before.is_open:
            return
        progress, seen = before, promotion
        while True:
            deployments = await work.deployments.of_promotion(promotion_id)
            move = next_of(promotion, progress, deployments, now=self._clock.now())
            if move.do is Do.NOTHING:
                break
            promotion, after = await self._do(work, promotion, progress, move)
            await work.rollouts.save(progress, after)
            progress = after
            if not progress.is_open or progress.stage is Stage.GOING_BACK:
                break
        await self._look_again(work, progress, move)
        if progress is not before and promotion is seen:
            await self._bump(work, promotion)

    async def _do(
        self, work: UnitOfWork, promotion: Promotion, progress: Progress, move: Next
    ) -> tuple[Promotion, Progress]:
        now = self._clock.now()
        match move.do:
            case Do.HOLD:
                return promotion, held(progress, rollout_of(promotion).gates, at=now)
            case Do.CATCH:
                return promotion, caught(progress, at=now)
            case Do.BEGIN:
                return promotion, await self._begin_step(
                    work, promotion, begun_step(progress, progress.step + 1, at=now)
                )
            case Do.FINISH:
                done = ended(progress, Stage.DONE, "", at=now, outcome=Outcome.PASSED)
                return await self._finish(work, promotion), done
            case Do.PAUSE:
                paused = ended(progress, Stage.PAUSED, move.reason, at=now)
                self._tell(work, "rollout.paused", promotion, paused)
                return promotion, paused
            case Do.GO_BACK:
                return promotion, await self.go_back(work, promotion, progress, move.reason)
            case Do.LET_GO:
                return await self._let_go(work, promotion, progress, move.reason)
            case Do.FAIL:
                return await self._fail(work, promotion, progress, move.reason)
            case Do.HAVE_GONE_BACK | Do.NOTHING:
                return await self._gone_back(work, promotion, progress)

    async def go_back(
        self,
        work: UnitOfWork,
        promotion: Promotion,
        progress: Progress,
        why: str,
        *,
        by: Actor = SYSTEM_WORKER,
        targets: Sequence[str] | None = None,
    ) -> Progress:
        """Have targets serve at once what they served before; the rollout as it is then, which the caller saves."""
        now = self._clock.now()
        outcome = Outcome.FAILED if by is SYSTEM_WORKER else Outcome.ABANDONED
        after = ended(progress, Stage.GOING_BACK, why, at=now, outcome=outcome)
        await self._call(work, promotion, wanted_before(progress, candidate_of(promotion), targets=targets), by=by)
        self._tell(work, "rollout.went_back", promotion, after, by=by)
        is_next = promotion.state is State.ROLLING_OUT and promotion.alias_moved
        return await self._have_alias_follow(work, after) if is_next else after

    async def obey(
        self, work: UnitOfWork, promotion: Promotion, order: Order, *, by: Actor, reason: str
    ) -> tuple[Promotion, Progress]:
        """Do what a person says. Part of the caller's transaction, with the promotion locked.

        Raises:
            NotFound: there is no rollout. IllegalMove: it is not where that can be done.
        """
        await work.rollouts.get(promotion.id)
        progress = await work.rollouts.find(promotion.id, for_update=True)
        assert progress is not None  # it is never removed
        check_takes(order, promotion, progress)
        now, why = self._clock.now(), _BY[order].format(by=by.name) + (f": {reason}" if reason else "")
        match order:
            case Order.PAUSE:
                after = ended(progress, Stage.PAUSED, why, at=now)
                self._tell(work, "rollout.paused", promotion, after, by=by)
            case Order.GO_BACK:
                after = await self.go_back(work, promotion, progress, why, by=by)
            case Order.RESUME:
                after = resumed(progress, at=now)
                self._tell(work, "rollout.resumed", promotion, after, by=by, why=why)
            case Order.ALL_AT_ONCE:
                after = at_once(progress, at=now)
                self._tell(work, "rollout.resumed", promotion, after, by=by, why=why)
        if after.stage is Stage.MOVING:
            await self._begin_step(work, promotion, after)
        await work.rollouts.save(progress, after)
        await self._bump(work, promotion)
        await self.settle(work, promotion.id)
        return await work.promotions.get(promotion.id), await work.rollouts.get(promotion.id)

    async def give_back(self, work: UnitOfWork, stopped: Promotion, why: str) -> None:
        """A promotion was not applied: its targets, and those of whose place it took, serve what they served before.

        Where its alias did move and could not be put back, its own targets stay with the alias.
        """
        own = await work.rollouts.find(stopped.id, for_update=True)
        if own and own.stage is Stage.DONE and not stopped.alias_moved:
            await work.rollouts.save(own, await self.go_back(work, stopped, own, why))
        await self._have_older_go_back(work, stopped, why)

    async def take_over(self, work: UnitOfWork, newer: Promotion) -> None:
        """A promotion takes the place of older ones: their rollouts end, and targets that it leaves alone go back.

        One that holds the alias still stays open: it is the newer one's that the alias is taken, or that it goes back.
        """
        for promotion_id in await work.rollouts.open_of(newer.key):
            older = await work.promotions.get(promotion_id, for_update=True)
            progress = await work.rollouts.find(promotion_id, for_update=True)
            if older.id == newer.id or progress is None or not progress.is_open:
                continue
            why = progress.reason or f"{newer.id} took its place"
            left = sorted(progress.formers.keys() - set(newer.policy.targets))
            if left and progress.stage is Stage.GOING_BACK:
                await self.settle(work, older.id)
                continue
            if left:
                after = await self.go_back(work, older, progress, why, targets=left)
            else:
                stage = Stage.GOING_BACK if await _is_to_go_back(work, older, progress) else Stage.UNDONE
                after = ended(progress, stage, why, at=self._clock.now(), outcome=Outcome.ABANDONED)
            await work.rollouts.save(progress, after)

    async def _have_older_go_back(self, work: UnitOfWork, stopped: Promotion, why: str) -> None:
        """What a promotion took the place of has not proved itself: it goes back, with the alias if it holds it."""
        for promotion_id in await work.rollouts.open_of(stopped.key):
            older = await work.promotions.get(promotion_id, for_update=True)
            progress = await work.rollouts.find(promotion_id, for_update=True)
            if older.id == stopped.id or progress is None or not progress.is_open:
                continue
            after = progress
            if progress.stage is not Stage.GOING_BACK:
                after = await self.go_back(work, older, progress, f"{stopped.id} took its place, and ended: {why}")
            if older.state is State.SUPERSEDED and await _holds(work, older):
                after = await self._have_alias_follow(work, after)
            if after is not progress:
                await work.rollouts.save(progress, after)

    async def _have_alias_follow(self, work: UnitOfWork, progress: Progress) -> Progress:
        """The alias is next, for as long as it is due; nobody but the worker asks MLflow."""
        await work.jobs.advance_rollout(progress.promotion_id)
        return replace(progress, due_at=self._clock.now())

    async def _begin_step(self, work: UnitOfWork, promotion: Promotion, progress: Progress) -> Progress:
        await self._call(work, promotion, wanted_in_step(progress, candidate_of(promotion)))
        self._tell(work, "rollout.step_began", promotion, progress)
        return progress

    async def _finish(self, work: UnitOfWork, promotion: Promotion) -> Promotion:
        """Every step has proved itself: it is live, or its alias moves now."""
        if promotion.alias_moved or alias_moves_of(promotion) is not AliasMoves.AFTER_READY:
            return await self._end(work, promotion, State.LIVE, None)
        after = await self._end(work, promotion, State.APPLYING, None)
        # From here on the alias is not remembered anywhere, until it is said where it is.
        work.forget_resolutions(workspace=after.workspace, model=after.model)
        await work.jobs.advance_promotion(after.id)
        return after

    async def _let_go(
        self, work: UnitOfWork, promotion: Promotion, progress: Progress, why: str
    ) -> tuple[Promotion, Progress]:
        """Another promotion has some of the targets: those that are left do not stay half way."""
        after = await self._end(work, promotion, State.SUPERSEDED, why)
        left = [each.target for each in await work.deployments.of_promotion(promotion.id)]
        if left:
            return after, await self.go_back(work, after, progress, why, targets=left)
        return after, ended(progress, Stage.UNDONE, why, at=self._clock.now(), outcome=Outcome.ABANDONED)

    async def _fail(
        self, work: UnitOfWork, promotion: Promotion, progress: Progress, why: str
    ) -> tuple[Promotion, Progress]:
        """A person must look. Where the targets do not go back, the alias goes back all the same, and first."""
        if progress.stage is Stage.GOING_BACK:
            if await _is_to_go_back(work, promotion, progress):
                return promotion, progress
            why = f"{progress.reason}; {why}"
        failed = ended(progress, Stage.FAILED, why, at=self._clock.now(), outcome=Outcome.FAILED)
        return await self._end(work, promotion, State.FAILED, await _where(work, promotion, why)), failed

    async def _gone_back(
        self, work: UnitOfWork, promotion: Promotion, progress: Progress
    ) -> tuple[Promotion, Progress]:
        """The targets serve what they served before. It is rolled back when its alias is, too."""
        if await _is_to_go_back(work, promotion, progress):
            return promotion, progress
        undone = ended(progress, Stage.UNDONE, progress.reason, at=self._clock.now())
        alias = f"{promotion.alias} did not move" if not promotion.alias_moved else f"{promotion.alias} went back too"
        why = f"{progress.reason}; its targets serve what they served before, and {alias}"
        return await self._end(work, promotion, State.ROLLED_BACK, why), undone

    async def _end(self, work: UnitOfWork, promotion: Promotion, state: State, why: str | None) -> Promotion:
        """Move the promotion, unless how it ended is known already."""
        if not await _is_to_end(work, promotion):
            return promotion
        after = moved(promotion, state, at=self._clock.now(), reason=why)
        await work.promotions.save(promotion, after)
        tell(work, f"promotion.{state.value}", after)
        if state not in {State.LIVE, State.APPLYING}:
            await self._have_older_go_back(work, after, why or f"it is {state.value}")
        return after

    async def _look_again(self, work: UnitOfWork, progress: Progress, move: Next) -> None:
        """Say when time alone may change something: the sweep has it looked at then.

        A job that waits for its time in the queue would hold up those of the same rollout behind it.
        """
        if progress.stage is Stage.HOLDING and move.due_at != progress.due_at:
            await work.rollouts.look_again(progress.promotion_id, move.due_at)

    async def _call(
        self, work: UnitOfWork, promotion: Promotion, wanted: Sequence[Wanted], *, by: Actor = SYSTEM_WORKER
    ) -> None:
        for each in wanted:
            await self._calling.call(work, promotion, each, by=by)

    def _tell(
        self,
        work: UnitOfWork,
        action: str,
        promotion: Promotion,
        progress: Progress,
        *,
        by: Actor = SYSTEM_WORKER,
        why: str | None = None,
    ) -> None:
        """Say what happened to a rollout; steps are counted from 1 for people."""
        tell(
            work,
            action,
            replace(promotion, updated_at=self._clock.now()),
            actor=by,
            step=progress.step + 1,
            steps=len(progress.steps),
            weight=progress.present.weight,
            message=progress.present.message,
            why=progress.reason if why is None else why,
        )

    async def _bump(self, work: UnitOfWork, promotion: Promotion) -> None:
        """Whoever follows the promotion sees that something of it changed."""
        after = replace(promotion, revision=promotion.revision + 1, updated_at=self._clock.now())
        await work.promotions.save(promotion, after)
        work.announce(topic_of(promotion.id))


_BY = {
    Order.PAUSE: "{by} paused it",
    Order.RESUME: "{by} had it go on",
    Order.GO_BACK: "{by} had it go back",
    Order.ALL_AT_ONCE: "{by} had everything at once",
}


async def _is_to_go_back(work: UnitOfWork, promotion: Promotion, progress: Progress) -> bool:
    """Whether the alias is still held by what goes back, and the worker has not given up on that.

    While another promotion of the alias is in flight, it is that one's to take it, or to have it go back.
    """
    if promotion.state is State.FAILED:
        rollback = await work.promotions.find(undoing(promotion.id))
        return rollback is not None and rollback.state in OPEN
    if promotion.state not in {State.ROLLING_OUT, State.SUPERSEDED} or not await _holds(work, promotion):
        return False
    return progress.due_at is not None or await work.promotions.in_flight(promotion.key) is not None


async def _is_to_end(work: UnitOfWork, promotion: Promotion) -> bool:
    """Whether it is not known yet how it ended: it goes on, or its alias went back and no newer one has it."""
    is_left = promotion.state is State.SUPERSEDED and promotion.alias_moved
    return promotion.state is State.ROLLING_OUT or (is_left and await work.aliases.get(promotion.key) is None)


async def _holds(work: UnitOfWork, promotion: Promotion) -> bool:
    """Whether the alias is held by this promotion."""
    if not promotion.alias_moved:
        return False
    holder = await work.aliases.get(promotion.key)
    return holder is not None and holder.promotion_id == promotion.id


async def _where(work: UnitOfWork, promotion: Promotion, why: str) -> str:
    """Why it failed, and where the alias is."""
    if not promotion.alias_moved:
        return f"{why}; {promotion.alias} did not move"
    if await _holds(work, promotion):
        return f"the alias moved and is held by version {promotion.to_version}, but {why}"
    return f"{why}; {promotion.alias} went back"
