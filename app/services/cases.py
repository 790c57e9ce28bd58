"""Gathers the case of a promotion: everything that its rules look at (``app/domain/assessing.py``), as it is now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from app.adapters.postgres.evidence import Taken
from app.adapters.postgres.principals import KnownPrincipal
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission
from app.domain.assessing import POSTED, Case, CheckResult, Reading, Vote
from app.domain.checks import PostedCheck
from app.domain.contributions import claimed_by_name
from app.domain.grants import Resource
from app.domain.grants import model as model_called
from app.domain.history import Held
from app.domain.identity import Identity
from app.domain.policies import Check, CheckKind
from app.domain.promotions import AliasKey, Decision, Kind, Outcome, Promotion
from app.domain.windows import Calendar, opening
from app.services.granting import Book, PresentGrants

Barred = Callable[[UnitOfWork, Promotion], Awaitable[Mapping[str, str]]]
"""Who had a hand in what a promotion promotes: id, and what, as ``asked for this promotion``."""

CLOCKS_DIFFER = timedelta(minutes=1)
"""How far MLflow's clock and ours may be apart."""


@dataclass(frozen=True, slots=True)
class Authority:
    """What somebody has on the alias of a promotion now, who may be stood in for; ``roles`` are by name."""

    identity: Identity
    roles: frozenset[str]
    may_decide: bool
    is_disabled: bool

    def is_named(self, promotion: Promotion) -> bool:
        """Whether a rule of the promotion names them."""
        return any(
            rule.names(principal_id=self.identity.id, roles=self.roles, groups=self.identity.groups)
            for rule in promotion.rules
        )


class Cases:
    """Args: barred: who had a hand in it, as the door has recorded."""

    def __init__(self, calendar: Calendar, grants: PresentGrants, barred: Barred) -> None:
        self._calendar = calendar
        self._grants = grants
        self._barred = barred

    async def of(self, work: UnitOfWork, promotion: Promotion, *, at: datetime, taken: Taken | None = None) -> Case:
        """The case as this transaction sees it.

        Args:
            work: the transaction.
            promotion: one of ours, or a draft that nobody has asked for.
            at: the present.
            taken: the evidence; the newest that was kept of the promotion if none is given.
        """
        taken = taken or await work.evidence.get(promotion.id)
        is_ordinary = promotion.kind is Kind.PROMOTION
        review = await work.reviews.first_open(promotion.key) if is_ordinary else None
        windows = promotion.policy.windows if is_ordinary else ()
        return Case(
            promotion=promotion,
            at=at,
            votes=await self._votes(work, promotion),
            checks=await checks_of(work, promotion, taken, at) if is_ordinary else {},
            reading=await self._reading(work, promotion),
            held=await self._held(work, promotion) if is_ordinary else {},
            opening=opening(windows, at, self._calendar) if windows else None,
            open_review=review.promotion_id if review else None,
            ahead=await work.promotions.ahead_of(promotion),
        )

    async def barred(
        self, work: UnitOfWork, promotion: Promotion, people: Iterable[Identity] = ()
    ) -> Mapping[str, str]:
        """Who may not decide, whatever the policy says, by id, and what they did: ``asked for this promotion``.

        Args:
            work: the transaction.
            promotion: on what they may not.
            people: those who might be meant by the names that MLflow has of its clients; they bar, and clear nobody.
        """
        taken = await work.evidence.get(promotion.id)
        named = claimed_by_name(people, _claimed_names(taken.facts)) if taken else {}
        return {**named, **await self._barred(work, promotion)}

    async def _reading(self, work: UnitOfWork, promotion: Promotion) -> Reading:
        if promotion.digest is not None:
            return Reading()
        progress = await work.measurements.find(promotion.id)
        return Reading(progress.read_bytes, progress.total_bytes) if progress else Reading()

    async def _votes(self, work: UnitOfWork, promotion: Promotion) -> tuple[Vote, ...]:
        """Decisions count for what their givers are now: who left the group, or was disabled, does not count."""
        decisions = promotion.standing_decisions
        if not decisions:
            return ()
        book = await self._grants.book(work)
        ids = {each for decision in decisions for each in (decision.principal_id, decision.authority)}
        known = {each: found for each in sorted(ids) if (found := await work.principals.get(each))}
        barred = await self.barred(work, promotion, [each.identity for each in known.values()])
        return tuple([await self._vote(work, promotion, decision, book, known, barred) for decision in decisions])

    @staticmethod
    async def _vote(
        work: UnitOfWork,
        promotion: Promotion,
        decision: Decision,
        book: Book,
        people: Mapping[str, KnownPrincipal],
        barred: Mapping[str, str],
    ) -> Vote:
        known, actor = people.get(decision.authority), people.get(decision.principal_id)
        vote, may_decide = Vote(decision, decision.roles, decision.groups), True
        if known is not None:
            access, on = book.access_of(known.identity), await _alias(work, promotion)
            roles = frozenset(role.value for role in access.roles_on(on))
            vote = Vote(decision, roles, known.identity.groups)
            may_decide = access.may(Permission.PROMOTIONS_DECIDE, on)
        lost = None
        if decision.outcome is Outcome.APPROVE:
            if any(each and each.disabled_at for each in (known, actor)):
                lost = "an administrator has disabled the account"
            elif hand := barred.get(decision.principal_id) or barred.get(decision.authority):
                lost = hand
            elif not may_decide:
                lost = "may not decide on it any more"
            elif not _is_named(promotion, vote):
                lost = "is not what the policy asks for any more"
        return replace(vote, lost=lost)

    async def authority(self, work: UnitOfWork, promotion: Promotion, principal_id: str) -> Authority | None:
        """What somebody has now; none if nobody of this id is known."""
        known = await work.principals.get(principal_id)
        if known is None:
            return None
        access, on = (await self._grants.book(work)).access_of(known.identity), await _alias(work, promotion)
        return Authority(
            known.identity,
            roles=frozenset(role.value for role in access.roles_on(on)),
            may_decide=access.may(Permission.PROMOTIONS_DECIDE, on),
            is_disabled=known.disabled_at is not None,
        )

    async def _held(self, work: UnitOfWork, promotion: Promotion) -> Mapping[str, datetime | None]:
        policy = promotion.policy
        held: dict[str, datetime | None] = {}
        created = datetime.fromtimestamp(promotion.version_created_at / 1000, tz=UTC) - CLOCKS_DIFFER
        for alias in {*policy.after, *([policy.soak.alias] if policy.soak else [])}:
            key = AliasKey(promotion.workspace, promotion.model, alias)
            last = await work.history.last(key)
            holds = (
                last is not None
                and last.version == promotion.to_version
                and last.model_created_at == promotion.model_created_at
                and last.since >= created
                and await _is_answered_for(work, promotion, last)
            )
            if holds and last:
                held[alias] = last.since
            elif await work.history.ever_held(
                key, promotion.to_version, promotion.model_created_at, not_before=created
            ):
                held[alias] = None
        return held


async def _is_answered_for(work: UnitOfWork, promotion: Promotion, last: Held) -> bool:
    """Whether somebody answers for the version that holds an alias: who came past the gateway holds nothing.

    But the version that a promotion put there does, from when it is back: else it would never have soaked again.
    """
    if last.cause != "drift":
        return True
    holder = await work.aliases.get(last.key)
    if holder is None or holder.version != promotion.to_version:
        return False
    put = await work.promotions.get(holder.promotion_id)
    made = (promotion.model_created_at, promotion.version_created_at)
    return (put.model_created_at, put.version_created_at) == made


def _claimed_names(facts: Mapping[str, object]) -> Iterable[str]:
    """The names that MLflow has of who made the candidate, as its clients said them."""
    candidate = facts.get("candidate")
    if isinstance(candidate, Mapping):
        run = candidate.get("run")
        found = [candidate.get("registered_by"), run.get("user") if isinstance(run, Mapping) else None]
        yield from (name for name in found if isinstance(name, str))


async def _alias(work: UnitOfWork, promotion: Promotion) -> Resource:
    """The alias of a promotion, with who owns the model."""
    owners = await work.owners.of("model", promotion.workspace, [promotion.model])
    return replace(
        model_called(promotion.model, promotion.alias, workspace=promotion.workspace),
        owner=owners.get(promotion.model),
    )


def _is_named(promotion: Promotion, vote: Vote) -> bool:
    return any(
        rule.names(
            principal_id=vote.decision.authority,
            roles=vote.roles,
            groups=vote.groups,
            is_service=vote.decision.is_service,
        )
        for rule in promotion.rules
    )


async def checks_of(
    work: UnitOfWork, promotion: Promotion, taken: Taken | None, at: datetime
) -> Mapping[str, CheckResult]:
    """What every check of the policy says: those we make ourselves as they were made last, and what CI posted.

    As with approvals, the yes of whom an administrator has disabled does not count, and their no does.
    """
    results = {result.name: result for result in (taken.results if taken else ())}
    wanted = [check for check in promotion.policy.checks if check.kind is CheckKind.POSTED]
    if not wanted:
        return results
    posted = await work.checks.last_words(
        promotion.workspace,
        promotion.model,
        promotion.to_version,
        model_created_at=promotion.model_created_at,
        version_created_at=promotion.version_created_at,
        names=[check.name for check in wanted],
        digest=promotion.digest,
    )
    disabled = frozenset(await work.principals.disabled())
    posted = [each for each in posted if each.outcome != "pass" or each.posted_by not in disabled]
    return {**results, **{check.name: _verdict(check, promotion, posted, at) for check in wanted}}


def _verdict(check: Check, promotion: Promotion, posted: Sequence[PostedCheck], at: datetime) -> CheckResult:
    """The newest verdict of this name by somebody who may give it, on these very bytes."""
    refused = ""
    for each in posted:
        if each.name != check.name:
            continue
        if check.by and not check.by.names(
            principal_id=each.posted_by, roles=each.roles, groups=each.groups, is_service=each.is_service
        ):
            refused = f" {each.posted_by_name} posted one, and the policy asks for one by {check.by.who}."
            continue
        if each.digest is not None and promotion.digest is not None and each.digest != promotion.digest:
            refused = " One was posted on other bytes."
            continue
        ends = [each.expires_at] if each.expires_at else []
        if check.valid_for_s is not None:
            ends.append(each.posted_at + timedelta(seconds=check.valid_for_s))
        end = min(ends, default=None)
        if end is not None and at >= end:
            return CheckResult(
                check.name, "missing", f"The verdict of {each.posted_by_name} ran out at {end:%Y-%m-%d %H:%M} UTC."
            )
        said = {"pass": "passed", "fail": "failed", "running": "is running"}[each.outcome]
        message = f"{each.posted_by_name}: {said}" + (f", {each.message}" if each.message else "") + "."
        reads = {f"{POSTED}{check.name}": each.outcome} if each.outcome != "running" else {}
        return CheckResult(
            check.name, each.outcome, message, by=each.posted_by_name, link=each.link, expires_at=end, reads=reads
        )
    who = f" by {check.by.who}" if check.by else ""
    return CheckResult(check.name, "missing", f"No verdict{who} has been posted.{refused}")
