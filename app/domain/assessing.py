"""What stands between a promotion and its alias: every rule of its policy, one by one, with who or what is missing.

``RULES`` is the specification. Each rule looks at the case and says how it stands; nothing else decides whether a
promotion is approved or applied, and the explanations that people see are the same values. ``LANES`` says which rules a
kind of promotion is under. Rules know no clock and no database: ``Case`` holds everything they look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from app.domain.legible import listed
from app.domain.policies import Approval, Check, Rejection, RuleProgress, assign
from app.domain.promotions import Decision, Kind, Outcome, Promotion, State
from app.domain.windows import Opening


class Gate(StrEnum):
    """What a rule stands before."""

    DECISION = "decision"
    """Nobody can decide yet."""
    APPROVAL = "approval"
    """The promotion is not approved yet."""
    APPLICATION = "application"
    """The alias is not moved yet."""


class Standing(StrEnum):
    """How a rule stands."""

    SATISFIED = "satisfied"
    WAITING = "waiting"
    """For people, a time, or something that happens by itself."""
    BLOCKED = "blocked"
    """Neither approvals nor time will change it: the candidate, or somebody's deed, must."""
    ADVISORY = "advisory"
    """It does not hold, and is not required."""


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """How one rule stands. ``message`` is a sentence for a person; ``until`` is when time alone will satisfy it."""

    rule: str
    name: str
    gate: Gate
    standing: Standing
    message: str
    given_by: tuple[str, ...] = ()
    missing: int = 0
    who: str = ""
    until: datetime | None = None
    details: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def holds(self) -> bool:
        """Whether it lets the promotion pass."""
        return self.standing in {Standing.SATISFIED, Standing.ADVISORY}


@dataclass(frozen=True, slots=True)
class Vote:
    """A decision that is not void, and what its giver is now.

    ``lost`` says why it does not count any more: ``left the group risk-team``.
    """

    decision: Decision
    roles: frozenset[str]
    groups: frozenset[str]
    lost: str | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check of the policy says of the candidate.

    ``outcome`` is ``pass``, ``fail``, ``running`` or ``missing``. ``reads`` are the facts it looked at and what they
    were, as canonical JSON: approvals are void when one of them changes.
    """

    name: str
    outcome: str
    message: str
    by: str = ""
    link: str | None = None
    expires_at: datetime | None = None
    reads: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Reading:
    """How far the artifacts have been read, in bytes. Nothing known of the size yet: ``total`` is none."""

    read: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A promotion, or one that somebody thinks of, and everything its rules look at.

    ``held`` maps each alias that the policy asks the version to have held to since when it holds it without a break
    (none: it held it, and does not now); an alias that it never held is not in it.
    """

    promotion: Promotion
    at: datetime
    votes: tuple[Vote, ...] = ()
    checks: Mapping[str, CheckResult] = field(default_factory=dict, hash=False)
    reading: Reading = Reading()
    held: Mapping[str, datetime | None] = field(default_factory=dict, hash=False)
    opening: Opening | None = None
    open_review: str | None = None
    ahead: str | None = None
    """The promotion of the same alias that is being applied now."""


_Rule = Callable[[Case], Iterable[RuleStatus]]


def bytes_are_known(case: Case) -> Iterable[RuleStatus]:
    """What is approved is pinned by its digest, so nobody decides before it is known."""
    if case.promotion.digest is not None:
        yield _satisfied("digest", "the digest", Gate.DECISION, f"The artifacts are {case.promotion.digest}.")
        return
    if case.reading.total:
        share = 100 * case.reading.read // case.reading.total
        how_far = f"{share} % of {case.reading.total:,} bytes are read"
    else:
        how_far = "they are about to be"
    message = f"The artifacts are being read to take their digest: {how_far}."
    yield RuleStatus("digest", "the digest", Gate.DECISION, Standing.WAITING, message)


def no_review_is_open(case: Case) -> Iterable[RuleStatus]:
    """After an alias was moved by breaking the glass, it waits until somebody else has looked at that."""
    if case.open_review:
        message = f"Promotion {case.open_review} broke the glass, and another person must close its review first."
        yield RuleStatus("review", "open review", Gate.APPROVAL, Standing.BLOCKED, message)


def order_is_kept(case: Case) -> Iterable[RuleStatus]:
    """Ordered aliases: staging before production."""
    for alias in case.promotion.policy.after:
        name = f"after {alias}"
        if alias in case.held:
            yield _satisfied("order", name, Gate.APPROVAL, f"The version holds or has held {alias}.")
        else:
            message = f"Version {case.promotion.to_version} must hold {alias} first, and never has."
            yield RuleStatus("order", name, Gate.APPROVAL, Standing.BLOCKED, message)


def checks_pass(case: Case) -> Iterable[RuleStatus]:
    """Every required check must say yes; the others are shown."""
    for check in case.promotion.policy.checks:
        yield _status_of_check(check, case.checks.get(check.name))


def nobody_objects(case: Case) -> Iterable[RuleStatus]:
    """Rejections close a promotion: one, or a majority of the places that approvals fill."""
    against = [vote.decision.principal_name for vote in case.votes if _is(vote, Outcome.REJECT)]
    if not against:
        return
    names = ", ".join(against)
    if is_rejected(case):
        yield RuleStatus("rejection", "rejections", Gate.APPROVAL, Standing.BLOCKED, f"Rejected by {names}.")
    else:
        message = f"Rejected by {names}; that is no majority of {_places(case)} yet."
        yield _satisfied("rejection", "rejections", Gate.APPROVAL, message)


def approvals_are_given(case: Case) -> Iterable[RuleStatus]:
    """Each approval rule, with one person counting for one rule."""
    lost = {vote.decision.principal_name: vote.lost for vote in case.votes if vote.lost and _is(vote, Outcome.APPROVE)}
    for progress in progress_of(case):
        rule = progress.rule
        said = f"{len(progress.given_by)} of {rule.count} approvals by {rule.who}"
        gone = "".join(f"; {name}'s no longer counts: {why}" for name, why in lost.items())
        yield RuleStatus(
            "approvals",
            rule.name,
            Gate.APPROVAL,
            Standing.WAITING if progress.missing else Standing.SATISFIED,
            f"{said}{gone if progress.missing else ''}.",
            given_by=progress.given_by,
            missing=progress.missing,
            who=rule.who,
        )


def time_has_come(case: Case) -> Iterable[RuleStatus]:
    """A scheduled promotion waits for its time."""
    when = case.promotion.scheduled_for
    if when is None:
        return
    if case.at >= when:
        yield _satisfied("schedule", "schedule", Gate.APPLICATION, f"It was scheduled for {_text(when)}.")
    else:
        message = f"It is scheduled for {_text(when)}."
        yield RuleStatus("schedule", "schedule", Gate.APPLICATION, Standing.WAITING, message, until=when)


def has_soaked(case: Case) -> Iterable[RuleStatus]:
    """The version must have held another alias long enough, and hold it still."""
    soak = case.promotion.policy.soak
    if soak is None:
        return
    since, name = case.held.get(soak.alias), f"soak under {soak.alias}"
    wanted = timedelta(seconds=soak.for_s)
    if since is None:
        has = "does not hold it any more" if soak.alias in case.held else "does not hold it"
        message = f"Version {case.promotion.to_version} must hold {soak.alias} for {_span(wanted)}, and {has}."
        yield RuleStatus("soak", name, Gate.APPLICATION, Standing.BLOCKED, message)
    elif case.at - since >= wanted:
        yield _satisfied("soak", name, Gate.APPLICATION, f"It has held {soak.alias} since {_text(since)}.")
    else:
        message = f"It holds {soak.alias} since {_text(since)}, and must for {_span(wanted)}."
        yield RuleStatus("soak", name, Gate.APPLICATION, Standing.WAITING, message, until=since + wanted)


def windows_are_open(case: Case) -> Iterable[RuleStatus]:
    """Freeze windows: deny wins, and if any allow, one of them must be open."""
    if case.opening is None or not case.promotion.policy.windows:
        return
    if case.opening.is_open:
        yield _satisfied("window", "windows", Gate.APPLICATION, case.opening.reason)
    else:
        yield RuleStatus(
            "window", "windows", Gate.APPLICATION, Standing.WAITING, case.opening.reason, until=case.opening.opens_at
        )


def it_is_its_turn(case: Case) -> Iterable[RuleStatus]:
    """At most one promotion of an alias is being applied."""
    if case.ahead:
        message = f"Promotion {case.ahead} of the same alias is being applied."
        yield RuleStatus("turn", "its turn", Gate.APPLICATION, Standing.WAITING, message)


RULES: tuple[_Rule, ...] = (
    bytes_are_known,
    no_review_is_open,
    order_is_kept,
    checks_pass,
    nobody_objects,
    approvals_are_given,
    time_has_come,
    has_soaked,
    windows_are_open,
    it_is_its_turn,
)

LANES: Mapping[Kind, tuple[_Rule, ...]] = {
    Kind.PROMOTION: RULES,
    # A rollback is the fast lane: who may ask for it may have it at any time, with the policy's approvals for it.
    Kind.ROLLBACK: (bytes_are_known, nobody_objects, approvals_are_given, it_is_its_turn),
    Kind.RESTORE: (bytes_are_known, it_is_its_turn),
    Kind.BREAK_GLASS: (bytes_are_known, it_is_its_turn),
}


def assess(case: Case) -> tuple[RuleStatus, ...]:
    """How every rule of the promotion's lane stands, in the order of the specification."""
    return tuple(status for rule in LANES[case.promotion.kind] for status in rule(case))


def passes(statuses: Iterable[RuleStatus], gate: Gate) -> bool:
    """Whether nothing stands before ``gate``, nor before those that come earlier."""
    earlier = tuple(Gate)[: tuple(Gate).index(gate) + 1]
    return all(status.holds for status in statuses if status.gate in earlier)


def waits_for_its_turn(statuses: Iterable[RuleStatus]) -> bool:
    """Whether nothing but another promotion of the alias stands in the way."""
    return all(status.holds or status.rule == "turn" for status in statuses)


def next_state(case: Case, statuses: Iterable[RuleStatus]) -> tuple[State, str | None]:
    """What a promotion that waits becomes now, and why; the state that it is in if nothing has changed.

    That it is applied is not said here: only what the worker does makes it so.
    """
    promotion, statuses = case.promotion, tuple(statuses)
    if promotion.expires_at is not None and case.at >= promotion.expires_at:
        return State.EXPIRED, "nobody settled it in time"
    if is_rejected(case):
        against = [vote.decision for vote in case.votes if _is(vote, Outcome.REJECT)]
        said = (each.principal_name + (f": {each.reason}" if each.reason else "") for each in against)
        return State.REJECTED, f"rejected by {'; '.join(said)}"
    is_approved = passes(statuses, Gate.APPROVAL)
    if promotion.state is State.PENDING and is_approved:
        return State.APPROVED, None if promotion.rules else _UNASKED[promotion.kind]
    if promotion.state is State.APPROVED and not is_approved:
        return State.PENDING, f"it waits again for {waits_for(statuses)}"
    return promotion.state, promotion.state_reason


_UNASKED: Mapping[Kind, str] = {
    Kind.PROMOTION: "the policy asks for no approver",
    Kind.ROLLBACK: "the policy asks for no approver",
    Kind.RESTORE: "it goes back to the holder that was approved",
    Kind.BREAK_GLASS: "the glass was broken",
}
"""Why a promotion is approved that nobody had to approve."""


def next_look(statuses: Iterable[RuleStatus]) -> datetime | None:
    """When it is worth looking again, if time alone could change something; the first such moment."""
    times = [status.until for status in statuses if not status.holds and status.until is not None]
    return min(times, default=None)


def opens_at(statuses: Iterable[RuleStatus]) -> datetime | None:
    """When everything that time alone satisfies will be; none if nothing waits for time, or there is no telling."""
    times = [status.until for status in statuses if not status.holds and status.until is not None]
    return max(times, default=None)


def is_blocked(statuses: Iterable[RuleStatus]) -> bool:
    """Whether something stands in the way that neither approvals nor time will remove."""
    return any(status.standing is Standing.BLOCKED for status in statuses)


def whose_approval_is_missing(statuses: Iterable[RuleStatus]) -> str | None:
    """As ``waits_for``, of people alone; nothing if it is not approvals that are missing."""
    missing = [status for status in statuses if status.missing]
    return waits_for(missing) if missing else None


def waits_for(statuses: Iterable[RuleStatus]) -> str:
    """What is missing, for a person to read, in one line."""
    missing = [
        f"{status.missing} approval{'s' * (status.missing > 1)} by {status.who}"
        if status.missing
        else f"{status.name} ({status.message.rstrip('.')})"
        for status in statuses
        if not status.holds
    ]
    return listed(missing) or "nothing"


def progress_of(case: Case) -> tuple[RuleProgress, ...]:
    """How far each approval rule is."""
    regretted = {vote.decision.authority for vote in case.votes if _is(vote, Outcome.REJECT)}
    counting = [
        Approval(vote.decision.authority, roles=vote.roles, groups=vote.groups, is_service=vote.decision.is_service)
        for vote in case.votes
        if _is(vote, Outcome.APPROVE) and not vote.lost and vote.decision.authority not in regretted
    ]
    return assign(case.promotion.rules, counting)


def is_rejected(case: Case) -> bool:
    """Whether the rejections close it."""
    against = sum(_is(vote, Outcome.REJECT) for vote in case.votes)
    if case.promotion.policy.rejection is Rejection.ANY:
        return against > 0
    return against * 2 > _places(case)


def what_changed(approved: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """What of the facts that the policy's checks looked at is not what it was, as a sentence part; none if nothing.

    A fact that was not looked at before does not count: nobody approved in its light. A posted verdict that has run
    out is waited for again and is no change, and one that has come to pass is what the approver waited for.
    """
    gone = [path for path in approved if not path.startswith(POSTED) and path not in now]
    other = [
        path
        for path, value in approved.items()
        if path in now and now[path] != value and not (path.startswith(POSTED) and now[path] == "pass")
    ]
    if not gone and not other:
        return None
    path = min([*gone, *other])
    is_now = now.get(path, "gone")
    return f"{path} was {_short(approved[path])} and is {_short(is_now)}"


POSTED = "checks."
"""How the names of facts begin that are verdicts posted by CI."""


def _status_of_check(check: Check, result: CheckResult | None) -> RuleStatus:
    outcome = result.outcome if result else "missing"
    message = result.message if result else "It has not been looked at yet."
    if outcome == "pass":
        standing = Standing.SATISFIED
    elif not check.is_required:
        standing = Standing.ADVISORY
    else:
        standing = Standing.BLOCKED if outcome == "fail" else Standing.WAITING
    details = {"outcome": outcome, **({"link": result.link} if result and result.link else {})}
    given = (result.by,) if result and result.by else ()
    return RuleStatus("check", check.name, Gate.APPROVAL, standing, message, given_by=given, details=details)


def _satisfied(rule: str, name: str, gate: Gate, message: str) -> RuleStatus:
    return RuleStatus(rule, name, gate, Standing.SATISFIED, message)


def _is(vote: Vote, outcome: Outcome) -> bool:
    return vote.decision.outcome is outcome


def _places(case: Case) -> int:
    return sum(rule.count for rule in case.promotion.rules)


def _text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%a %Y-%m-%d %H:%M} UTC"


def _span(span: timedelta) -> str:
    hours, rest = divmod(int(span.total_seconds()), 3600)
    minutes, seconds = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (seconds, "s")]
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount) or "0 s"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"
