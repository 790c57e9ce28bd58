"""Which policies are refused when they are applied: those that nobody could ever satisfy, or that are at odds.

Three questions, each answered with the path of the field and the reason. ``contradictions`` looks at one policy,
``never_opens`` at its windows and the calendar, ``entanglements`` at all that would be in force together. What cannot
be told is refused only where it could leave an alias that never moves.

Not refused: a soak that is longer than the expiry. It cannot be satisfied by who asks when the soak begins, and can by
who asks later.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase

from app.domain.errors import InvalidInput
from app.domain.grants import LONGEST_NAME, LONGEST_PATTERN, MOST_STARS, fold
from app.domain.names import check_alias, check_model
from app.domain.policies.approvals import Approval, ApprovalRule, assign
from app.domain.policies.patterns import can_match_together
from app.domain.policies.planning import misplanned
from app.domain.policies.policy import DAY_S, Policy
from app.domain.windows import HORIZON, Calendar, opening

Problem = tuple[str, str]
"""The path of a field, and what is wrong there."""

_WILD = re.compile(r"[*?\[]")
_ALIAS_PATTERN = re.compile(r"[A-Za-z0-9_*?\[\]!-]{1,255}")
_RESERVED_NAMES = frozenset({"for"})
"""Taken in the API: ``/policies/for``."""
_MOST_STEPS = 2_000


# One policy.


def contradictions(policy: Policy) -> list[Problem]:
    """What is wrong with one policy, whatever else is in force."""
    return [
        *_names(policy),
        *_patterns(policy),
        *_subjects(policy),
        *_people("approvals", policy.approvals),
        *_people("rollback.approvals", policy.rollback_approvals),
        *_times(policy),
        *_emergency(policy),
        *misplanned(policy),
    ]


def check_policy_name(name: str) -> str:
    """A policy's name, if it is one: it is a part of addresses.

    Raises:
        InvalidInput: otherwise.
    """
    if name in _RESERVED_NAMES:
        raise InvalidInput("name", f"{name} is an address of the API; choose another")
    if not _is_name(name) or "/" in name:
        raise InvalidInput("name", f"expected at most {LONGEST_NAME} printable characters without `/`")
    return name


def _names(policy: Policy) -> Iterator[Problem]:
    try:
        check_policy_name(policy.name)
    except InvalidInput as error:
        yield from error.problems
    for where, names in (
        ("approvals", [rule.name for rule in policy.approvals]),
        ("rollback.approvals", [rule.name for rule in policy.rollback_approvals]),
        ("breakGlass.review", [rule.name for rule in policy.break_glass.review]),
        ("windows", [window.name for window in policy.windows]),
        ("checks", [check.name for check in policy.checks]),
    ):
        times = Counter(names)
        for index, name in enumerate(names):
            if times[name] > 1:
                yield f"{where}[{index}].name", f"{name} is there {times[name]} times; they are told apart by name"
            elif not _is_name(name) or (where == "checks" and "/" in name):
                yield f"{where}[{index}].name", f"expected at most {LONGEST_NAME} printable characters without `/`"


def _is_name(name: str) -> bool:
    return name.isprintable() and name == name.strip() and 0 < len(name) <= LONGEST_NAME


def _patterns(policy: Policy) -> Iterator[Problem]:
    patterns = [("models", policy.models), ("alias", policy.alias), ("workspaces", policy.workspaces)]
    for where, pattern in [*patterns, *((f"tags.{key}", pattern) for key, pattern in policy.tags)]:
        if len(pattern) > LONGEST_PATTERN or pattern.count("*") > MOST_STARS or not _is_writable(pattern):
            yield where, f"expected at most {LONGEST_PATTERN} printable characters, and {MOST_STARS} `*` among them"
    try:
        if not _WILD.search(policy.alias):
            check_alias(policy.alias)
        elif not _ALIAS_PATTERN.fullmatch(policy.alias):
            yield (
                "alias",
                "expected letters, digits, `_`, `-` (ASCII) and the wild cards `*?[]!`: no other alias exists",
            )
        if not _WILD.search(policy.models):
            check_model(policy.models, field="models")
        elif "/" in policy.models or ":" in policy.models:
            yield "models", "matches no model: no name of one has `/` or `:` in it"
    except InvalidInput as error:
        yield from error.problems


def _is_writable(text: str) -> bool:
    return text.isprintable() and text == text.strip()


def _subjects(policy: Policy) -> Iterator[Problem]:
    """Ids and groups that nobody can have: what is meant is somebody else, who would wait for ever."""
    rules = [
        *((f"approvals[{index}]", rule) for index, rule in enumerate(policy.approvals)),
        *((f"rollback.approvals[{index}]", rule) for index, rule in enumerate(policy.rollback_approvals)),
        *((f"breakGlass.review[{index}]", rule) for index, rule in enumerate(policy.break_glass.review)),
        *((f"checks[{index}].posted.by", check.by) for index, check in enumerate(policy.checks) if check.by),
    ]
    for where, rule in rules:
        for who in sorted(rule.people):
            if "|" not in who or not _is_writable(who):
                yield (
                    f"{where}.people",
                    f"{who[:200]!r} is nobody's id: expected `<issuer>|<subject>`, as in `/control/v1/me`",
                )
        for group in sorted(rule.groups):
            if not _is_writable(group):
                yield f"{where}.groups", "expected names of groups as the identity provider gives them, printable"


def _people(where: str, rules: Sequence[ApprovalRule]) -> Iterator[Problem]:
    """Rules that name nobody but people need no more of them than there are, one person counting for one rule."""
    closed = [(index, rule) for index, rule in enumerate(rules) if not rule.roles and not rule.groups]
    too_few = [(index, rule) for index, rule in closed if rule.count > len(rule.people)]
    for index, rule in too_few:
        yield (
            f"{where}[{index}].count",
            f"nobody could satisfy it: {rule.count} people are needed, and {len(rule.people)} named",
        )
    people = sorted({who for _, rule in closed for who in rule.people})
    everybody = [Approval(who, frozenset(), frozenset()) for who in people]
    progress = assign([rule for _, rule in closed], everybody)
    if not too_few and any(each.missing for each in progress):
        index = next(index for (index, _), each in zip(closed, progress, strict=True) if each.missing)
        needed = sum(rule.count for _, rule in closed)
        names = ", ".join(rule.name for _, rule in closed)
        reason = f"nobody could satisfy it: one person counts for one rule only, and the rules {names} need {needed}"
        yield f"{where}[{index}]", f"{reason} different people out of {', '.join(people)}"


def _times(policy: Policy) -> Iterator[Problem]:
    for index, before_s in enumerate(policy.expiry.reminders_s):
        if before_s >= policy.expiry.after_s:
            yield f"expiry.reminders[{index}]", "it would be sent before the promotion was asked for: after is shorter"
    if policy.break_glass.is_allowed and policy.break_glass.fresh_within_s > DAY_S:
        yield "breakGlass.freshWithin", "expected at most 1d: it says how fresh a sign-in must be"


def _emergency(policy: Policy) -> Iterator[Problem]:
    if policy.break_glass.is_allowed and not policy.break_glass.review and not policy.approvals:
        reason = "nobody could close it: the policy has no approvals whose approvers would review"
        yield "breakGlass.review", f"{reason}; name reviewers, or say `allowed: false`"


# Its windows.


def never_opens(policy: Policy, at: datetime, calendar: Calendar) -> list[Problem]:
    """What is wrong if no moment from ``at`` on is one at which the alias may move.

    Raises:
        InvalidInput: a window cannot be read; see ``Calendar``.
    """
    found = opening(policy.windows, at, calendar)
    if found.opens_at is not None:
        return []
    return [("windows", f"the alias could never move: they do not open within {HORIZON.days} days. {found.reason}")]


# All of them together.


def entanglements(policies: Collection[Policy], changed: Collection[str]) -> Mapping[str, list[Problem]]:
    """What is wrong with policies beside each other, by the name of the changed policy that brings it about.

    Args:
        policies: all that would be in force.
        changed: the names of those that would be new or revised.
    """
    found: dict[str, list[Problem]] = {}
    for policy in policies:
        if policy.name in changed and (problem := _cycle(policy, policies)):
            found.setdefault(policy.name, []).append(problem)
        if policy.name in changed:
            found.setdefault(policy.name, []).extend(_shared_targets(policy, policies))
        if (previous := policy.companions.previous) is None:
            continue
        for other in policies:
            if not {policy.name, other.name} & set(changed) or not _protects(other, previous, [policy]):
                continue
            if policy.name in changed:
                whose = "it is an alias of this policy" if other is policy else f"policy {other.name} protects it"
                problem = ("companions.previous", f"{previous} cannot move along: {whose}, and it has rules of its own")
                found.setdefault(policy.name, []).append(problem)
            else:
                reason = f"policy {policy.name} moves {previous} along, which then would have rules of its own"
                found.setdefault(other.name, []).append(("alias", reason))
    return {name: problems for name, problems in found.items() if problems}


def _shared_targets(policy: Policy, policies: Iterable[Policy]) -> Iterator[Problem]:
    """Targets that would be called for several aliases of one model: each promotion would undo the other's.

    A target serves one version of a model, and a version that one alias may have would come to be what a rollout of the
    other one goes back to.
    """
    for index, target in enumerate(policy.targets):
        if _WILD.search(policy.alias):
            yield f"targets[{index}]", "a target serves a model for one alias alone: name the alias without wild cards"
        for other in policies:
            if target in other.targets and fold(other.alias) != fold(policy.alias) and _can_meet([policy, other]):
                reason = f"policy {other.name} has {target} serve the same models for alias {other.alias}"
                yield f"targets[{index}]", f"{reason}; a target serves a model for one alias alone"
                break


def _needs(policy: Policy) -> dict[str, str]:
    """The aliases that a version must have held before it can be promoted, and the field that says so."""
    needed = {alias: f"after[{index}]" for index, alias in reversed(list(enumerate(policy.after)))}
    return needed if policy.soak is None else {policy.soak.alias: "soak.alias", **needed}


def _cycle(policy: Policy, policies: Iterable[Policy]) -> Problem | None:
    """A way from a policy back to itself, each alias needed by the one before; for one model that all of them match.

    That a more specific policy may win for every such model is not looked at: which one wins can change any day.
    """
    needing = [each for each in policies if _needs(each)]
    for alias, where in _needs(policy).items():
        steps = iter(range(_MOST_STEPS))
        way = _way_back(policy, [policy], alias, needing, steps)
        if way == [alias]:
            return where, f"nobody could satisfy it: the policy protects {alias} itself, and would ask for it first"
        if way is not None:
            arrows = " → ".join([way[-1], *way])
            return where, f"nobody could satisfy it: {arrows}, each needs the one after it first"
        if next(steps, None) is None:
            return where, "the order of aliases is too entangled to tell whether it is a circle"
    return None


def _way_back(
    start: Policy, way: Sequence[Policy], alias: str, policies: Sequence[Policy], steps: Iterator[int]
) -> list[str] | None:
    """The aliases from ``alias`` on that lead back to ``start``."""
    for policy in policies:
        if (policy in way and policy is not start) or not _protects(policy, alias, way):
            continue
        if next(steps, None) is None:
            return None
        if policy is start:
            return [alias]
        for following in _needs(policy):
            rest = _way_back(start, [*way, policy], following, policies, steps)
            if rest is not None:
                return [alias, *rest]
    return None


def _protects(policy: Policy, alias: str, way: Sequence[Policy]) -> bool:
    """Whether a policy can be the one of ``alias``, of a model that all of ``way`` can match too."""
    return fnmatchcase(fold(alias), fold(policy.alias)) and _can_meet([*way, policy])


def _can_meet(policies: Sequence[Policy]) -> bool:
    """Whether there can be a model that all of them are about."""
    tags: dict[str, list[str]] = {}
    for policy in policies:
        for key, pattern in policy.tags:
            tags.setdefault(key, []).append(pattern)
    return (
        can_match_together(fold(policy.models) for policy in policies)
        and can_match_together(fold(policy.workspaces) for policy in policies)
        and all(can_match_together(patterns) for patterns in tags.values())
    )
