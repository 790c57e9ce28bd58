"""Who may decide on a promotion: whom its policy names, and nobody who had a hand in what is promoted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.domain.access import Principal, PrincipalKind, Role
from app.domain.errors import NotAnApprover, SelfApproval
from app.domain.policies.approvals import ApprovalRule


def check_may_decide(
    rules: Iterable[ApprovalRule],
    principal: Principal,
    *,
    roles: Iterable[Role],
    barred: Mapping[str, str],
    on_behalf_of: tuple[str, frozenset[str], frozenset[str]] | None = None,
) -> None:
    """Refuse a decision by somebody whom the policy does not name.

    Args:
        rules: the policy's.
        principal: who wants to decide.
        roles: those that the principal holds on the alias.
        barred: who had a hand in it, by id, and what: ``asked for this promotion``. No role changes that.
        on_behalf_of: whom the principal stands in for: id, roles on the alias, groups.

    Raises:
        SelfApproval: the principal, or whom they stand in for, had a hand in it.
        NotAnApprover: no rule names the principal, or whom they stand in for.
    """
    if hand := barred.get(principal.id):
        raise SelfApproval(f"{principal.name} {hand}; another person must decide on it.")
    if on_behalf_of and (hand := barred.get(on_behalf_of[0])):
        raise SelfApproval(f"{on_behalf_of[0]} {hand}; nobody can decide on it for them.")
    rules = tuple(rules)
    is_service = principal.kind is PrincipalKind.SERVICE
    if is_service and not any(rule.services for rule in rules):
        raise NotAnApprover(f"{principal.name} is a service, and services do not decide on promotions.")
    who, held, groups = on_behalf_of or (principal.id, frozenset(role.value for role in roles), principal.groups)
    if not any(rule.names(principal_id=who, roles=held, groups=groups, is_service=is_service) for rule in rules):
        named = "; ".join(f"{rule.name}: {rule.who}" for rule in rules) or "nobody"
        raise NotAnApprover(f"The policy does not let {principal.name} decide on this promotion. It names {named}.")
