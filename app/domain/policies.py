"""Policies: what must be true before a protected alias moves. Data, with every revision immutable and numbered.

A policy protects an alias of the models that match a pattern. Its approval rules are all needed; one person counts for
one rule only; who asked never counts, administrators included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from app.domain.access import Principal, PrincipalKind, Role
from app.domain.errors import InvalidInput, NotAnApprover, SelfApproval
from app.domain.grants import fold


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """``count`` approvers out of those who hold one of the roles, are in one of the groups, or are named."""

    name: str
    count: int
    roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    people: frozenset[str] = frozenset()

    def names(self, *, principal_id: str, roles: Iterable[str], groups: Iterable[str]) -> bool:
        """Whether somebody counts for this rule."""
        return principal_id in self.people or not self.roles.isdisjoint(roles) or not self.groups.isdisjoint(groups)

    @property
    def who(self) -> str:
        """Who could satisfy the rule, for a person to read."""
        parts = [f"role {name}" for name in sorted(self.roles)]
        parts += [f"group {name}" for name in sorted(self.groups)]
        return " or ".join(parts + sorted(self.people))


@dataclass(frozen=True, slots=True)
class Policy:
    """One immutable revision. ``models`` and ``alias`` are shell patterns, compared on folded names."""

    name: str
    revision: int
    models: str
    alias: str
    approvals: tuple[ApprovalRule, ...]
    rollback_approvals: tuple[ApprovalRule, ...] = ()
    targets: tuple[str, ...] = ()

    def protects(self, model: str, alias: str) -> bool:
        return fnmatchcase(fold(model), fold(self.models)) and fnmatchcase(fold(alias), fold(self.alias))


DEFAULT_POLICY = Policy(
    name="production",
    revision=1,
    models="*",
    alias="production",
    approvals=(ApprovalRule(name="a second person", count=1, roles=frozenset({Role.APPROVER.value})),),
)
"""What protects a fresh installation: ``production`` of any model needs one approver who did not ask for it."""


def policy_for(policies: Iterable[Policy], model: str, alias: str) -> Policy | None:
    """The policy that protects ``alias`` of ``model``, the most specific one; ``None`` when nothing does.

    A pattern is more specific the more literal characters it has, the model pattern before the alias pattern; names
    break a tie, so that the answer never depends on order.
    """
    protecting = [policy for policy in policies if policy.protects(model, alias)]
    return max(
        protecting, key=lambda policy: (_weight(policy.models), _weight(policy.alias), policy.name), default=None
    )


def _weight(pattern: str) -> tuple[bool, int]:
    wild = sum(pattern.count(character) for character in "*?[")
    return (wild == 0, len(pattern) - wild)


def check_may_decide(
    rules: Iterable[ApprovalRule], principal: Principal, *, roles: Iterable[Role], requested_by: str
) -> None:
    """Refuse a decision by somebody whom the policy does not name.

    Args:
        rules: the policy's.
        principal: who wants to decide.
        roles: those that the principal holds on the alias.
        requested_by: the id of who asked for the promotion.

    Raises:
        SelfApproval: the principal asked for the promotion; no role changes that.
        NotAnApprover: no rule names the principal, or it is a service.
    """
    if principal.id == requested_by:
        raise SelfApproval(f"{principal.name} asked for this promotion; another person must decide on it.")
    rules = tuple(rules)
    if principal.kind is PrincipalKind.SERVICE:
        raise NotAnApprover(f"{principal.name} is a service, and services do not decide on promotions.")
    held = {role.value for role in roles}
    if not any(rule.names(principal_id=principal.id, roles=held, groups=principal.groups) for rule in rules):
        who = "; ".join(f"{rule.name}: {rule.who}" for rule in rules) or "nobody"
        raise NotAnApprover(f"The policy does not let {principal.name} decide on this promotion. It names {who}.")


@dataclass(frozen=True, slots=True)
class Approval:
    """One approval that was given, as far as rules care."""

    principal_id: str
    roles: frozenset[str]
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """How far one rule is: who counts for it, and how many are missing."""

    rule: ApprovalRule
    given_by: tuple[str, ...]

    @property
    def missing(self) -> int:
        return max(0, self.rule.count - len(self.given_by))


def assess(rules: Iterable[ApprovalRule], approvals: Iterable[Approval]) -> tuple[RuleStatus, ...]:
    """Assign approvals to rules so that as many places as possible are filled, each person counting once.

    This is a maximum bipartite matching (augmenting paths): a greedy choice could use up, for an easy rule, the only
    person who can satisfy a hard one.
    """
    rules = tuple(rules)
    given = {approval.principal_id: approval for approval in approvals}
    places = [(index, place) for index, rule in enumerate(rules) for place in range(rule.count)]
    fits = {
        (index, place): [
            who
            for who, approval in given.items()
            if rules[index].names(principal_id=who, roles=approval.roles, groups=approval.groups)
        ]
        for index, place in places
    }
    holder: dict[str, tuple[int, int]] = {}

    def fill(place: tuple[int, int], tried: set[str]) -> bool:
        for who in fits[place]:
            if who in tried:
                continue
            tried.add(who)
            if who not in holder or fill(holder[who], tried):
                holder[who] = place
                return True
        return False

    for place in places:
        fill(place, set())
    return tuple(
        RuleStatus(rule, tuple(sorted(who for who, (held, _) in holder.items() if held == index)))
        for index, rule in enumerate(rules)
    )


def is_satisfied(statuses: Iterable[RuleStatus]) -> bool:
    return all(status.missing == 0 for status in statuses)


def policy_from_document(document: Mapping[str, object], *, revision: int) -> Policy:
    """Read the ``kind: Policy`` document that people write and that the database keeps.

    Raises:
        InvalidInput: with the path of the wrong field and what was expected.
    """
    known = {"kind", "name", "models", "alias", "approvals", "rollback", "targets"}
    if unknown := sorted(map(str, set(document) - known)):
        raise InvalidInput(unknown[0], f"unknown field; expected one of {', '.join(sorted(known))}")
    rollback = document.get("rollback", {})
    if not isinstance(rollback, Mapping) or set(rollback) - {"approvals"}:
        raise InvalidInput("rollback", "expected an object with `approvals`")
    targets = document.get("targets", [])
    if not isinstance(targets, list) or not all(isinstance(name, str) and name for name in targets):
        raise InvalidInput("targets", "expected a list of target names")
    approvals = _rules("approvals", document.get("approvals"))
    if not approvals:
        raise InvalidInput("approvals", "expected at least one rule; an alias nobody need approve is not protected")
    return Policy(
        name=_text("name", document.get("name")),
        revision=revision,
        models=_text("models", document.get("models")),
        alias=_text("alias", document.get("alias")),
        approvals=approvals,
        rollback_approvals=_rules("rollback.approvals", rollback.get("approvals", [])),
        targets=tuple(targets),
    )


def document_of(policy: Policy) -> dict[str, object]:
    """The document that ``policy_from_document`` reads back to the same policy."""
    return {
        "kind": "Policy",
        "name": policy.name,
        "models": policy.models,
        "alias": policy.alias,
        "approvals": [_rule_document(rule) for rule in policy.approvals],
        "rollback": {"approvals": [_rule_document(rule) for rule in policy.rollback_approvals]},
        "targets": list(policy.targets),
    }


def _rule_document(rule: ApprovalRule) -> dict[str, object]:
    return {
        "name": rule.name,
        "count": rule.count,
        "roles": sorted(rule.roles),
        "groups": sorted(rule.groups),
        "people": sorted(rule.people),
    }


def _rules(where: str, value: object) -> tuple[ApprovalRule, ...]:
    if not isinstance(value, list):
        raise InvalidInput(where, "expected a list of rules")
    return tuple(_rule(f"{where}[{index}]", item) for index, item in enumerate(value))


def _rule(where: str, value: object) -> ApprovalRule:
    if not isinstance(value, Mapping):
        raise InvalidInput(where, "expected an object with name, count and roles, groups or people")
    if unknown := sorted(map(str, set(value) - {"name", "count", "roles", "groups", "people"})):
        raise InvalidInput(f"{where}.{unknown[0]}", "unknown field")
    count = value.get("count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 100:
        raise InvalidInput(f"{where}.count", "expected a whole number from 1 to 100")
    named = {part: _names(f"{where}.{part}", value.get(part, [])) for part in ("roles", "groups", "people")}
    if not any(named.values()):
        raise InvalidInput(where, "names nobody: expected at least one of roles, groups and people")
    if unknown_roles := sorted(named["roles"] - {role.value for role in Role}):
        raise InvalidInput(f"{where}.roles", f"no such role: {unknown_roles[0]}")
    return ApprovalRule(name=_text(f"{where}.name", value.get("name")), count=count, **named)


def _names(where: str, value: object) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise InvalidInput(where, "expected a list of names")
    return frozenset(value)


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(where, "expected a text")
    return value
