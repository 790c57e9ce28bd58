"""Who may say yes: approval rules, and how the approvals that were given fill them. One person counts for one rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """``count`` approvers out of those who hold one of the roles, are in one of the groups, or are named.

    Services count only where ``services`` says so.
    """

    name: str
    count: int
    roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    people: frozenset[str] = frozenset()
    services: bool = False

    def names(
        self, *, principal_id: str, roles: Iterable[str], groups: Iterable[str], is_service: bool = False
    ) -> bool:
        """Whether somebody counts for this rule."""
        if is_service and not self.services:
            return False
        return principal_id in self.people or not self.roles.isdisjoint(roles) or not self.groups.isdisjoint(groups)

    @property
    def who(self) -> str:
        """Who could satisfy the rule, for a person to read."""
        parts = [f"role {name}" for name in sorted(self.roles)]
        parts += [f"group {name}" for name in sorted(self.groups)]
        return " or ".join(parts + sorted(self.people))


@dataclass(frozen=True, slots=True)
class Approval:
    """One approval that counts, with what its giver is now.

    ``principal_id`` is whose word it is: the one who was stood in for, where a delegate gave it.
    """

    principal_id: str
    roles: frozenset[str]
    groups: frozenset[str]
    is_service: bool = False


@dataclass(frozen=True, slots=True)
class RuleProgress:
    """How far one rule is: who counts for it, and how many are missing."""

    rule: ApprovalRule
    given_by: tuple[str, ...]

    @property
    def missing(self) -> int:
        return max(0, self.rule.count - len(self.given_by))


def assign(rules: Iterable[ApprovalRule], approvals: Iterable[Approval]) -> tuple[RuleProgress, ...]:
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
            if rules[index].names(
                principal_id=who, roles=approval.roles, groups=approval.groups, is_service=approval.is_service
            )
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
        RuleProgress(rule, tuple(sorted(who for who, (held, _) in holder.items() if held == index)))
        for index, rule in enumerate(rules)
    )


def is_satisfied(progress: Iterable[RuleProgress]) -> bool:
    return all(each.missing == 0 for each in progress)
