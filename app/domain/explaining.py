"""Why something is allowed or not: by which grants, what would allow it, and who could change that.

The answer is made of the same grants and tables that decide (``app/domain/grants.py``), never of a second set of rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.domain.access import Principal, may
from app.domain.grants import OWNER_ROLE, SERVER, Grant, Reach, Resource, ResourceKind
from app.domain.identity import PrincipalKind, Scope
from app.domain.policies import ApprovalRule
from app.domain.roles import BOUND, ROLE_PERMISSIONS, SERVER_WIDE, Permission, Role, roles_with, scopes_with

GIVEN_BY_OWNERS = (Role.VIEWER, Role.CONTRIBUTOR, Role.REQUESTER)
"""What the owner of a model or experiment may make others on it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether somebody may, and why. ``reason`` is for the person who asked."""

    allowed: bool
    permission: Permission
    resource: Resource
    reason: str
    granted_by: tuple[Grant, ...]
    denied_by: tuple[Grant, ...]
    is_owner: bool
    missing_scopes: tuple[Scope, ...]
    """The token was given none of these, and needs one; empty if it is not for want of a scope."""
    would_be_granted_by: tuple[Role, ...]
    """Roles that would give it; empty if it is given already."""
    who_could_change: tuple[str, ...]
    """Who could make a grant that changes the answer."""


def explain(
    principal: Principal, permission: Permission, resource: Resource = SERVER, *, grants: Iterable[Grant]
) -> Explanation:
    """Why ``principal`` may or may not.

    Args:
        principal: who, with their credential.
        permission: what.
        resource: on what; everything if none is named.
        grants: all there are, to tell who administers.
    """
    access = principal.access
    granted, denied = access.giving(permission, resource), access.denying(permission, resource)
    is_owner = access.owns(resource) and permission in ROLE_PERMISSIONS[OWNER_ROLE]
    is_held = access.may(permission, resource)
    allowed = may(principal, permission, resource)
    explanation = Explanation(
        allowed=allowed,
        permission=permission,
        resource=resource,
        reason="",
        granted_by=granted,
        denied_by=denied,
        is_owner=is_owner,
        missing_scopes=scopes_with(permission) if is_held and not allowed else (),
        would_be_granted_by=() if granted or is_owner else _roles_for(permission, resource),
        who_could_change=who_could_change(permission, resource, grants),
    )
    return replace(explanation, reason=_reason(explanation, principal))


def _roles_for(permission: Permission, resource: Resource) -> tuple[Role, ...]:
    """On a model or experiment, a role that is about it rather than about the whole server, where there is one."""
    roles = roles_with(permission)
    if permission in BOUND and resource.kind is not ResourceKind.SERVER:
        roles = tuple(role for role in roles if role not in SERVER_WIDE) or roles
    return roles


def administered_by(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """The grants that make somebody an administrator, but for those that a denial for the same subject undoes."""
    grants = tuple(grants)
    undone = {grant.subject for grant in grants if grant.is_denial and grant.speaks_of(Permission.GRANTS_ADMINISTER)}
    return tuple(
        grant
        for grant in grants
        if not grant.is_denial
        and grant.speaks_of(Permission.GRANTS_ADMINISTER)
        and grant.subject not in undone
        and not any(subject.is_everybody for subject in undone)
    )


def who_could_change(permission: Permission, resource: Resource, grants: Iterable[Grant]) -> tuple[str, ...]:
    """The administrators; and whoever owns the model or experiment, for what owners may give."""
    subjects = dict.fromkeys(str(grant.subject) for grant in administered_by(grants))
    owner = resource.owner
    given = {permission for role in GIVEN_BY_OWNERS for permission in ROLE_PERMISSIONS[role]}
    if owner is not None and permission in given:
        subjects[f"person {owner}, who owns it"] = None
    return tuple(subjects) or ("the operator, with `countersign apply` or COUNTERSIGN_ROLES: nobody administers",)


def _reason(explanation: Explanation, principal: Principal) -> str:
    what = f"{explanation.permission} on {where(explanation.resource)}"
    if explanation.denied_by:
        return f"{principal.name} may not: {_named(explanation.denied_by)} denies {what}, and a denial always wins."
    if explanation.missing_scopes:
        needed = " or ".join(explanation.missing_scopes)
        given = ", ".join(sorted(principal.scopes or ())) or "none"
        return f"{principal.name} may, but not with this token: {what} needs the scope {needed}, and it has {given}."
    if explanation.granted_by:
        return f"{principal.name} may: {_named(explanation.granted_by)} gives {what}."
    if explanation.is_owner:
        return f"{principal.name} may: they created {where(explanation.resource)}, and creators own what they create."
    roles = " or ".join(role.value for role in explanation.would_be_granted_by)
    return f"{principal.name} may not: no grant gives {what}. The role {roles} would."


def where(resource: Resource) -> str:
    """What it is about, for a person to read."""
    if resource.kind is ResourceKind.MODEL and not resource.name:
        return f"all of workspace '{resource.workspace}'"
    return "everything" if resource.kind is ResourceKind.SERVER else str(resource)


def _named(grants: Sequence[Grant]) -> str:
    names = [f"grant {grant.name}" for grant in grants[:3]]
    more = len(grants) - len(names)
    return " and ".join(names) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class DecisionNote:
    """What beside the grants says whether somebody may decide on the promotions of an alias: its policy."""

    may_decide: bool
    reason: str
    rules: tuple[ApprovalRule, ...]


def explain_decision(
    principal: Principal, resource: Resource, rules: Sequence[ApprovalRule] | None, *, requested_by: str | None = None
) -> DecisionNote:
    """Whether the policy lets ``principal`` decide on promotions of an alias; its grants are another matter.

    Args:
        principal: who.
        resource: the model and the alias.
        rules: of the policy; none if no policy protects the alias.
        requested_by: who asked for the promotion, if it is about one.
    """
    rules_ = tuple(rules or ())
    if rules is None:
        return DecisionNote(False, "No policy protects this alias, so that there is nothing to decide.", ())
    if requested_by is not None and requested_by == principal.id:
        return DecisionNote(False, "They asked for this promotion, and another person must decide on it.", rules_)
    if principal.kind is PrincipalKind.SERVICE:
        return DecisionNote(False, "Services do not decide on promotions.", rules_)
    held = {role.value for role in principal.access.roles_on(resource)}
    counting = [rule for rule in rules_ if rule.names(principal_id=principal.id, roles=held, groups=principal.groups)]
    named = "; ".join(f"{rule.count} of {rule.who} ({rule.name})" for rule in rules_) or "nobody"
    if not counting:
        return DecisionNote(False, f"The policy asks for {named}.", rules_)
    return DecisionNote(
        True,
        f"The policy names them, in {', '.join(rule.name for rule in counting)}; on what they asked for themselves "
        f"another person must decide. It asks for {named}.",
        rules_,
    )


@dataclass(frozen=True, slots=True)
class Held:
    """One permission, and on what it is held by which grant; or on what it is denied."""

    permission: Permission
    on: Reach
    grant: Grant


def everything_held(principal: Principal) -> tuple[Held, ...]:
    """What somebody may do, and what is denied them, by permission, for a table."""
    return tuple(
        Held(permission, grant.on, grant)
        for permission in Permission
        for grant in principal.access.grants
        if grant.speaks_of(permission)
    )
