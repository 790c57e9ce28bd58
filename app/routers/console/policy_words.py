"""What a policy asks for, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.policies import (
    ApprovalRule,
    Check,
    CheckKind,
    OnDrift,
    Policy,
    ReasonFor,
    Rejection,
    Supersede,
)
from app.domain.rollouts import AliasMoves, OnFailure, OnNoData, Step, Strategy
from app.domain.windows import Effect, Window


@dataclass(frozen=True, slots=True)
class Clause:
    """A few sentences on one matter."""

    title: str
    sentences: tuple[str, ...]


def protects(policy: Policy) -> str:
    """Which aliases it is about, as in ``production of models like fraud-*``."""
    model = "every model" if policy.models == "*" else f"{_like('model', policy.models)}"
    where = "" if policy.workspaces in {"*", DEFAULT_WORKSPACE} else f" in {_like('workspace', policy.workspaces)}"
    tags = f", where {', '.join(f'{key} is {value}' for key, value in policy.tags)}" if policy.tags else ""
    return f"{policy.alias} of {model}{where}{tags}"


def in_words(policy: Policy) -> tuple[Clause, ...]:
    """Everything it asks for and does, matter by matter; what it leaves out is not told."""
    told = ((title, tuple(say(policy))) for title, say in _MATTERS)
    return tuple(Clause(title, sentences) for title, sentences in told if sentences)


def _approvals(policy: Policy) -> Iterable[str]:
    if policy.auto_approve:
        yield "Nobody has to approve: it is approved as soon as its checks hold."
    for rule in policy.approvals:
        yield _approval(rule)
    if len(policy.approvals) > 1:
        yield "All of these are needed, and one person counts for one of them."
    if policy.approvals:
        yield "Whoever asked for it, or had a hand in the version, does not count."
        yield _REJECTIONS[policy.rejection]


def _approval(rule: ApprovalRule) -> str:
    services = " Services count." if rule.services else ""
    return f"{rule.name}: {_count(rule.count)} by {rule.who}.{services}"


def _checks(policy: Policy) -> Iterable[str]:
    for check in policy.checks:
        required = "" if check.is_required else " Shown, and not required."
        yield f"{check.name}: {_CHECKS[check.kind](check)}{required}"


def _posted(check: Check) -> str:
    by = f" by {check.by.who}" if check.by else ""
    age = f", not older than {_span(check.valid_for_s)}" if check.valid_for_s is not None else ""
    return f"CI posts that it passed{by}{age}."


def _order(policy: Policy) -> Iterable[str]:
    if policy.after:
        yield f"The version must have held {' and '.join(policy.after)} before."
    if policy.soak:
        yield f"It must have held {policy.soak.alias} for {_span(policy.soak.for_s)}, and hold it still."


def _windows(policy: Policy) -> Iterable[str]:
    for window in policy.windows:
        verb = "closed" if window.effect is Effect.DENY else "open"
        yield f"{window.name}: {verb} for {_span(window.duration_s)}, {_recurring(window)} ({window.timezone})."


def _time(policy: Policy) -> Iterable[str]:
    yield f"It expires {_span(policy.expiry.after_s)} after it was asked for."
    if policy.expiry.reminders_s:
        times = " and ".join(_span(seconds) for seconds in policy.expiry.reminders_s)
        yield f"Approvers are reminded {times} before."


def _reasons(policy: Policy) -> Iterable[str]:
    if policy.reasons:
        yield f"A reason must be given to {', '.join(verb for what, verb in _VERBS.items() if what in policy.reasons)}."


def _others(policy: Policy) -> Iterable[str]:
    yield _SUPERSEDE[policy.supersede]


def _fast(policy: Policy) -> Iterable[str]:
    if policy.rollback_approvals:
        yield from (f"A rollback needs {_approval(rule)}" for rule in policy.rollback_approvals)
    else:
        yield "A rollback needs no approval: who may ask for it has it at once."
    glass = policy.break_glass
    if not glass.is_allowed:
        yield "Nobody may move the alias past these rules."
        return
    acr = f" with {' or '.join(sorted(glass.acr))}" if glass.acr else ""
    review = "; ".join(_approval(rule).rstrip(".") for rule in glass.review) or "one of the approvers"
    yield (
        f"In an emergency, who has the permission and signed in{acr} less than {_span(glass.fresh_within_s)} "
        f"ago may move it at once. Afterwards it is reviewed by {review}."
    )


def _moves(policy: Policy) -> Iterable[str]:
    together = policy.companions
    if together.previous:
        yield f"The version that held it before gets the alias {together.previous}."
    for tags, who in ((together.promoted, "new"), (together.archived, "former")):
        if tags:
            yield f"The {who} holder is tagged {', '.join(f'{key} = {value}' for key, value in tags)}."
    yield _DRIFT[policy.on_drift]


def _deploys(policy: Policy) -> Iterable[str]:
    if not policy.targets:
        return
    yield f"It is deployed to {', '.join(policy.targets)}."
    yield _ALIAS_MOVES[policy.alias_moves]
    rollout = policy.rollout
    if rollout.strategy is not Strategy.ALL_AT_ONCE or rollout.planned:
        yield f"It gets its requests by steps: {'; '.join(_step(step) for step in rollout.steps)}."
    for gate in rollout.gates:
        no_data = _NO_DATA[gate.on_no_data].format(span=_span(gate.no_data_s))
        yield (
            f"Gate {gate.name}: asked every {_span(gate.interval_s)}, {gate.query.strip()} must be {gate.passes}. "
            f"It fails {_times(gate.failure_limit)}, or {no_data}."
        )
    yield _ON_FAILURE[rollout.on_failure]


def _step(step: Step) -> str:
    if step.hold_s is None:
        held = ", until a person says to go on"
    else:
        held = f" for {_span(step.hold_s)}" if step.hold_s else ""
    gates = f", asking {', '.join(step.gates)}" if step.gates else ""
    return f"{step.weight} %{held}{gates}"


def _times(count: int) -> str:
    return "at the first failure" if count == 1 else f"after {count} failures in a row"


_MATTERS: tuple[tuple[str, Callable[[Policy], Iterable[str]]], ...] = (
    ("Who approves", _approvals),
    ("What is checked", _checks),
    ("Where it must have been", _order),
    ("When the alias may move", _windows),
    ("Reasons", _reasons),
    ("How long it waits", _time),
    ("If a newer one is asked for", _others),
    ("What moves with it", _moves),
    ("Where it is deployed", _deploys),
    ("When it must go fast", _fast),
)

_REJECTIONS: Mapping[Rejection, str] = {
    Rejection.ANY: "One rejection closes it.",
    Rejection.MAJORITY: "It is closed when more than half as many reject it as must approve.",
}
_SUPERSEDE: Mapping[Supersede, str] = {
    Supersede.ANY: "It takes the place of one that waits, whoever asked for that.",
    Supersede.OWN: "It takes the place of one that waits if the same person asked; another's must be settled first.",
}
_DRIFT: Mapping[OnDrift, str] = {
    OnDrift.REPORT: "If somebody moves the alias past Countersign, that is reported.",
    OnDrift.RESTORE: "If somebody moves the alias past Countersign, that is reported and undone.",
}
_ALIAS_MOVES: Mapping[AliasMoves, str] = {
    AliasMoves.BEFORE: "The alias moves first, then the targets are called.",
    AliasMoves.AFTER_READY: "The targets are called first; the alias moves when all of them are done.",
}
_NO_DATA: Mapping[OnNoData, str] = {
    OnNoData.WAIT: "when it measured nothing for {span}",
    OnNoData.FAIL: "as often when there is no data, or when nobody answered for {span}",
}
_ON_FAILURE: Mapping[OnFailure, str] = {
    OnFailure.ROLLBACK: "If it does not come up, or a gate fails, requests and alias go back by themselves.",
    OnFailure.PAUSE: "If it does not come up, or a gate fails, everything stays as it is until a person decides.",
}
_VERBS: Mapping[ReasonFor, str] = {
    ReasonFor.REQUEST: "ask for it",
    ReasonFor.APPROVE: "approve",
    ReasonFor.REJECT: "reject",
    ReasonFor.WITHDRAW: "take it back",
    ReasonFor.ROLLBACK: "roll back",
}
_DAYS = {"MO": "Mon", "TU": "Tue", "WE": "Wed", "TH": "Thu", "FR": "Fri", "SA": "Sat", "SU": "Sun"}
_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def _span(seconds: int) -> str:
    """``1 day 12 hours``."""
    parts = []
    for unit, length in _UNITS:
        amount, seconds = divmod(seconds, length)
        if amount:
            parts.append(f"{amount} {unit}{'s' * (amount > 1)}")
    return " ".join(parts) or "0 seconds"


def _recurring(window: Window) -> str:
    """When it begins. The usual rules in words, the others as they are written (RFC 5545 section 3.3.10)."""
    at, first = f"{window.starts:%H:%M}", f"{window.starts:%Y-%m-%d}"
    frequency, _, days = window.rule.partition(";BYDAY=")
    if window.rule == "FREQ=DAILY":
        return f"every day at {at}, from {first} on"
    if frequency == "FREQ=WEEKLY" and days and set(days.split(",")) <= _DAYS.keys():
        return f"every {', '.join(_DAYS[day] for day in days.split(','))} at {at}, from {first} on"
    return f"from {first} {at} on, repeated by {window.rule}"


_CHECKS: Mapping[CheckKind, Callable[[Check], str]] = {
    CheckKind.EXPRESSION: lambda check: f"{check.message} ({check.expression})." if check.message else check.expression,
    CheckKind.POSTED: _posted,
    CheckKind.SIGNATURE: lambda check: f"signed by {check.signed_by.who}." if check.signed_by else "signed.",
}


def _count(count: int) -> str:
    return "one approval" if count == 1 else f"{count} approvals, by {count} people,"


def _like(noun: str, pattern: str) -> str:
    return f"{noun}s like {pattern}" if set(pattern) & set("*?[") else f"{noun} {pattern}"
