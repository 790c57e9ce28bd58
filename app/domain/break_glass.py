"""Breaking the glass: who may move an alias at once, without the rules of its policy, and who looks at it later."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from app.domain.access import Principal, PrincipalKind, Role
from app.domain.errors import Forbidden, InsufficientAuthentication, NotAnApprover, SelfApproval
from app.domain.identity import Credential
from app.domain.policies import ApprovalRule, BreakGlass, Policy
from app.domain.promotions import Promotion

CLOCKS_DIFFER = timedelta(seconds=30)
"""How far the clocks of two gateways may be apart: a sign-in that lies further in the future is none."""


def check_may_break(principal: Principal, policy: Policy, *, at: datetime) -> None:
    """Refuse who may not break the glass of an alias, though they hold the permission.

    Raises:
        Forbidden: a service asks, or the policy does not allow it.
        InsufficientAuthentication: the principal must prove anew, or in another way, who they are.
    """
    if principal.kind is not PrincipalKind.PERSON:
        raise Forbidden(f"{principal.name} is a service, and only a person breaks the glass.")
    if not policy.break_glass.is_allowed:
        raise Forbidden(f"Policy {policy.name} does not allow it.", policy=policy.name)
    check_fresh(principal.credential, policy.break_glass, at=at)


def check_fresh(credential: Credential, wanted: BreakGlass, *, at: datetime) -> None:
    """Refuse a credential of which it is not known that its person proved lately who they are.

    Raises:
        InsufficientAuthentication: as above (RFC 9470 section 3).
    """
    proved = credential.authenticated_at
    if proved is None:
        why = "Nobody vouches for when you last proved who you are."
    elif not -CLOCKS_DIFFER <= at - proved <= timedelta(seconds=wanted.fresh_within_s):
        why = f"You proved who you are at {proved:%Y-%m-%d %H:%M:%S} UTC."
    elif wanted.acr and credential.acr not in wanted.acr:
        why = f"You proved who you are by {credential.acr or 'an unknown way'}."
    else:
        return
    how = f" by {' or '.join(sorted(wanted.acr))}" if wanted.acr else ""
    raise InsufficientAuthentication(
        f"{why} For this you must have done so{how} within the last {wanted.fresh_within_s} seconds.",
        max_age_s=wanted.fresh_within_s,
        acr=wanted.acr,
    )


def reviewers(policies: Iterable[Policy]) -> tuple[ApprovalRule, ...]:
    """The rules of which one must name who closes a review: those for reviews, or those for approvals.

    Args:
        policies: the revision that the promotion was made under, and the one in force, if it has one: a group that is
            gone must not leave an alias blocked for ever.
    """
    return tuple(rule for policy in policies for rule in policy.break_glass.review or policy.approvals)


def check_may_review(
    rules: Iterable[ApprovalRule], principal: Principal, promotion: Promotion, *, roles: Iterable[Role]
) -> None:
    """Refuse who may not close the review of a promotion that broke the glass. One yes is enough.

    Raises:
        SelfApproval: the principal broke it. NotAnApprover: a service asks, or no rule names the principal.
    """
    if principal.id == promotion.requested_by:
        raise SelfApproval(f"{principal.name} broke the glass; another person must look at it.")
    if principal.kind is not PrincipalKind.PERSON:
        raise NotAnApprover(f"{principal.name} is a service, and services do not close reviews.")
    held, rules = frozenset(role.value for role in roles), tuple(rules)
    if not any(rule.names(principal_id=principal.id, roles=held, groups=principal.groups) for rule in rules):
        named = "; ".join(dict.fromkeys(f"{rule.name}: {rule.who}" for rule in rules)) or "nobody"
        raise NotAnApprover(f"The policy does not let {principal.name} close this review. It names {named}.")
