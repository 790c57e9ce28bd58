"""Moves a promotion on as far as its rules let it, within a transaction: whoever changes something calls this last.

Decisions, posted checks, measured artifacts and the passing of time all end here, so that there is one place where a
promotion becomes approved, rejected or expired, or waits again.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from app.adapters.postgres.evidence import Taken
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.assessing import (
    POSTED,
    Gate,
    RuleStatus,
    assess,
    next_look,
    next_state,
    passes,
    waits_for,
    waits_for_its_turn,
    what_changed,
)
from app.domain.audit import SYSTEM_WORKER, Actor
from app.domain.events import EventType
from app.domain.promotions import TAKES_NEWER, Decision, Outcome, Promotion, State, moved, voided
from app.ports import Clock
from app.services.cases import Cases, checks_of
from app.services.examining import looks_at_facts
from app.services.recording import emit_of, tell

TURN_WAIT = timedelta(seconds=1)
"""How soon to look again when another promotion of the alias is being applied."""

LOOK_AGAIN = timedelta(minutes=2)
"""How soon facts are looked at again that nobody tells us of when they change, such as a run's tags."""


class Lifecycle:
    def __init__(self, cases: Cases, clock: Clock) -> None:
        self.cases = cases
        self._clock = clock

    async def statuses(self, work: UnitOfWork, promotion: Promotion) -> tuple[RuleStatus, ...]:
        """How every rule stands now."""
        return assess(await self.cases.of(work, promotion, at=self._clock.now()))

    async def settle(
        self,
        work: UnitOfWork,
        promotion: Promotion,
        *,
        actor: Actor = SYSTEM_WORKER,
        begins_next: bool = False,
        decision: Decision | None = None,
    ) -> tuple[Promotion, tuple[RuleStatus, ...]]:
        """Move a promotion that waits on, as far as its rules let it. Part of the caller's transaction.

        Args:
            work: the transaction, in which the promotion was read for update, or written.
            promotion: as it is written now.
            actor: who had this happen.
            begins_next: the caller is the worker, and begins at once what may begin: it needs no other job for it.
            decision: the one that had this happen; it is told what is still missing.

        Returns:
            The promotion as it is now, and how its rules stand.
        """
        now = self._clock.now()
        if promotion.state not in TAKES_NEWER:
            return promotion, ()
        case = await self.cases.of(work, promotion, at=now)
        statuses = assess(case)
        state, why = next_state(case, statuses)
        after = promotion if state is promotion.state else moved(promotion, state, at=now, reason=why)
        after = _reminded(after, now)
        after = replace(after, due_at=_due(after, statuses, now) if state in TAKES_NEWER else None)
        await self._write(work, promotion, after)
        if decision:
            _tell_of(work, promotion, decision, statuses, actor)
        if after.reminded > promotion.reminded:
            tell(work, "promotion.reminder", after, waits_for=waits_for(statuses))
        if state is not promotion.state:
            waits_again = state is State.PENDING
            tell(work, "promotion.waits_again" if waits_again else f"promotion.{state}", after, actor=actor)
        if state is State.APPROVED and not begins_next:
            if passes(statuses, Gate.APPLICATION):
                await work.jobs.advance_promotion(after.id)
            elif waits_for_its_turn(statuses):
                await work.jobs.advance_promotion(after.id, at=now + TURN_WAIT)
        return after, statuses

    @staticmethod
    async def _write(work: UnitOfWork, before: Promotion, after: Promotion) -> None:
        if after.state is not before.state:
            await work.promotions.save(before, after)
        elif after.reminded != before.reminded:
            await work.promotions.save(before, replace(after, revision=before.revision + 1))
        elif after.due_at != before.due_at:
            await work.promotions.look_again(after.id, after.due_at)

    async def examined(
        self, work: UnitOfWork, promotion: Promotion, taken: Taken, *, at: datetime | None = None
    ) -> Promotion:
        """Keep what was found of the candidate. Approvals that were given in another light are void.

        Part of the caller's transaction, before ``settle``.

        Args:
            work: the transaction, in which the promotion was read for update, or written.
            promotion: as it is written now.
            taken: what was found; its facts may be those that were kept, if a verdict was posted since.
            at: the present, if that is not when the facts were seen.
        """
        at = at or taken.taken_at
        before = await work.evidence.get(promotion.id)
        results = await checks_of(work, promotion, taken, at)
        # A posted verdict is kept until another comes: one that runs again, or ran out, has not changed yet.
        posted = {path: value for path, value in (before.reads if before else {}).items() if path.startswith(POSTED)}
        made = {path: value for each in results.values() for path, value in each.reads.items()}
        reads = {**posted, **taken.reads, **made}
        taken = replace(taken, reads=reads)
        changed = what_changed(before.reads, reads) if before else None
        after = promotion
        if changed and any(each.outcome is Outcome.APPROVE for each in promotion.standing_decisions):
            why = f"the approvals are void: {changed}"
            after = voided(promotion, why, at=at)
            await work.promotions.save(promotion, after)
            tell(work, "promotion.approvals_void", after, void=why)
        await work.evidence.put(promotion.id, taken)
        return after


def _tell_of(
    work: UnitOfWork, promotion: Promotion, decision: Decision, statuses: tuple[RuleStatus, ...], actor: Actor
) -> None:
    """Say who has decided what, and how many are still missing: those who wait for the rest hear it one by one."""
    said = {
        "outcome": decision.outcome.value,
        "comment": decision.reason,
        "on_behalf_of": decision.on_behalf_of[1] if decision.on_behalf_of else None,
        "missing": sum(status.missing for status in statuses),
        "waits_for": waits_for(status for status in statuses if status.gate is Gate.APPROVAL),
    }
    emit_of(work, EventType.DECIDED, promotion, actor, said)


def _due(promotion: Promotion, statuses: tuple[RuleStatus, ...], now: datetime) -> datetime | None:
    """When time alone could change something."""
    ahead = reminder_times(promotion)[promotion.reminded :] if promotion.state is State.PENDING else ()
    # What waits and has no time, such as a turn or a fact that nobody tells us of, is looked at now and then.
    again = looks_at_facts(promotion) or promotion.state is State.APPROVED
    times = [promotion.expires_at, next_look(statuses), *ahead, now + LOOK_AGAIN if again else None]
    return min((moment for moment in times if moment is not None), default=None)


def reminder_times(promotion: Promotion) -> tuple[datetime, ...]:
    """When approvers are reminded, in order."""
    end = promotion.expires_at
    if end is None:
        return ()
    return tuple(end - timedelta(seconds=seconds) for seconds in promotion.policy.expiry.reminders_s)


def _reminded(promotion: Promotion, now: datetime) -> Promotion:
    """With the reminders counted that are due, if anybody is waited for."""
    due = sum(now >= moment for moment in reminder_times(promotion))
    if promotion.state is State.PENDING and due > promotion.reminded:
        return replace(promotion, reminded=due)
    return promotion
