"""What can be permitted, and which role and which scope permits it: three tables.

Roles are few and explain themselves. Requesting, approving and administering are distinct: an administrator is not an
approver. A scope is the most that a token may do, whatever its owner's roles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from app.domain.identity import Scope


class Permission(StrEnum):
    """``<area>:<verb>``. What is not listed for a role is refused."""

    TRACKING_READ = "tracking:read"
    TRACKING_WRITE = "tracking:write"
    TRACKING_DELETE = "tracking:delete"
    REGISTRY_READ = "registry:read"
    REGISTRY_WRITE = "registry:write"
    REGISTRY_DELETE = "registry:delete"
    SERVER_ADMINISTER = "server:administer"
    PROMOTIONS_READ = "promotions:read"
    PROMOTIONS_REQUEST = "promotions:request"
    PROMOTIONS_DECIDE = "promotions:decide"
    PROMOTIONS_ROLLBACK = "promotions:rollback"
    PROMOTIONS_BREAK_GLASS = "promotions:break-glass"
    CHECKS_POST = "checks:post"
    MODELS_RESOLVE = "models:resolve"
    POLICIES_READ = "policies:read"
    POLICIES_ADMINISTER = "policies:administer"
    DEPLOYMENTS_READ = "deployments:read"
    DEPLOYMENTS_REPORT = "deployments:report"
    DEPLOYMENTS_ADMINISTER = "deployments:administer"
    DELIVERIES_READ = "deliveries:read"
    ENDPOINTS_READ = "endpoints:read"
    ENDPOINTS_ADMINISTER = "endpoints:administer"
    AUDIT_READ = "audit:read"
    METRICS_READ = "metrics:read"
    GRANTS_READ = "grants:read"
    GRANTS_ADMINISTER = "grants:administer"
    IDENTITIES_ADMINISTER = "identities:administer"


class Role(StrEnum):
    """What a group of people or services is for; ``MEANINGS`` says it in a sentence each."""

    VIEWER = "viewer"
    CONTRIBUTOR = "contributor"
    REQUESTER = "requester"
    APPROVER = "approver"
    RESPONDER = "responder"
    DEPLOYER = "deployer"
    SERVING = "serving"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"


MEANINGS: Mapping[Role, str] = {
    Role.VIEWER: "Reads experiments, models, promotions and what is deployed.",
    Role.CONTRIBUTOR: "A viewer who also logs, registers, changes and deletes.",
    Role.REQUESTER: "A contributor who also asks for promotions, and posts checks.",
    Role.APPROVER: "A viewer who also decides on promotions, where the policy names them, and asks for rollbacks.",
    Role.RESPONDER: "A viewer who asks for rollbacks, has targets called again, and breaks the glass in an emergency.",
    Role.DEPLOYER: "Asks where the bytes of a model are, and reports what runs.",
    Role.SERVING: "Asks where the bytes of a model are, and nothing else.",
    Role.AUDITOR: "A viewer who also reads the audit log, the grants, endpoints, deliveries and metrics.",
    Role.ADMINISTRATOR: "Administers everything, and neither asks for a promotion nor decides on one.",
}


P = Permission

_VIEWER = frozenset(
    {
        P.TRACKING_READ,
        P.REGISTRY_READ,
        P.PROMOTIONS_READ,
        P.MODELS_RESOLVE,
        P.POLICIES_READ,
        P.DEPLOYMENTS_READ,
    }
)
_CONTRIBUTOR = _VIEWER | {P.TRACKING_WRITE, P.TRACKING_DELETE, P.REGISTRY_WRITE, P.REGISTRY_DELETE}

ROLE_PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: _VIEWER,
    Role.CONTRIBUTOR: _CONTRIBUTOR,
    Role.REQUESTER: _CONTRIBUTOR | {P.PROMOTIONS_REQUEST, P.CHECKS_POST},
    Role.APPROVER: _VIEWER | {P.PROMOTIONS_DECIDE, P.PROMOTIONS_ROLLBACK},
    Role.RESPONDER: _VIEWER | {P.PROMOTIONS_ROLLBACK, P.PROMOTIONS_BREAK_GLASS, P.DEPLOYMENTS_ADMINISTER},
    Role.DEPLOYER: frozenset({P.MODELS_RESOLVE, P.DEPLOYMENTS_READ, P.DEPLOYMENTS_REPORT}),
    Role.SERVING: frozenset({P.MODELS_RESOLVE}),
    Role.AUDITOR: _VIEWER | {P.AUDIT_READ, P.ENDPOINTS_READ, P.DELIVERIES_READ, P.METRICS_READ, P.GRANTS_READ},
    Role.ADMINISTRATOR: frozenset(P)
    - {
        P.PROMOTIONS_REQUEST,
        P.PROMOTIONS_DECIDE,
        P.PROMOTIONS_ROLLBACK,
        P.PROMOTIONS_BREAK_GLASS,
        P.CHECKS_POST,
        P.DEPLOYMENTS_REPORT,
    },
}

_WRITES = _CONTRIBUTOR - _VIEWER

DENIED_WITH: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset(P),
    Role.CONTRIBUTOR: _WRITES | {P.PROMOTIONS_REQUEST, P.CHECKS_POST},
    Role.REQUESTER: frozenset({P.PROMOTIONS_REQUEST, P.CHECKS_POST}),
    Role.APPROVER: frozenset({P.PROMOTIONS_DECIDE, P.PROMOTIONS_ROLLBACK}),
    Role.RESPONDER: frozenset({P.PROMOTIONS_BREAK_GLASS, P.DEPLOYMENTS_ADMINISTER}),
    Role.DEPLOYER: frozenset({P.DEPLOYMENTS_REPORT}),
    Role.SERVING: frozenset({P.MODELS_RESOLVE}),
    Role.AUDITOR: frozenset({P.AUDIT_READ, P.ENDPOINTS_READ, P.DELIVERIES_READ, P.METRICS_READ, P.GRANTS_READ}),
    Role.ADMINISTRATOR: frozenset(
        {
            P.SERVER_ADMINISTER,
            P.POLICIES_ADMINISTER,
            P.ENDPOINTS_ADMINISTER,
            P.GRANTS_ADMINISTER,
            P.IDENTITIES_ADMINISTER,
        }
    ),
}
"""What a denial of a role takes away: what the role is for, and what rests on it. Who may not contribute cannot ask for
promotions either; who is not even a viewer can do nothing."""

READS = _VIEWER - {P.MODELS_RESOLVE}
"""What covers a model as a whole even where a grant is on one of its aliases: who may approve for ``production`` must
be able to see the model. Where the bytes are is told for that alias alone."""

BOUND = _CONTRIBUTOR | {
    P.PROMOTIONS_REQUEST,
    P.PROMOTIONS_DECIDE,
    P.PROMOTIONS_ROLLBACK,
    P.PROMOTIONS_BREAK_GLASS,
    P.CHECKS_POST,
    P.DEPLOYMENTS_REPORT,
    P.DEPLOYMENTS_ADMINISTER,
}
"""What can be given or denied on a single model, experiment or workspace. The rest is about the server as a whole: a
grant of it on less than everything gives nothing."""

SERVER_WIDE = frozenset({Role.AUDITOR, Role.ADMINISTRATOR})
"""The roles that are about the server as a whole: they are given and denied on everything, or not at all."""

SCOPE_PERMISSIONS: Mapping[Scope, frozenset[Permission]] = {
    Scope.TRACK: frozenset({P.TRACKING_READ, P.TRACKING_WRITE, P.TRACKING_DELETE}),
    Scope.REGISTRY: frozenset({P.REGISTRY_READ, P.REGISTRY_WRITE, P.REGISTRY_DELETE, P.MODELS_RESOLVE}),
    Scope.PROMOTE: frozenset(
        {
            P.REGISTRY_READ,
            P.PROMOTIONS_READ,
            P.PROMOTIONS_REQUEST,
            P.PROMOTIONS_ROLLBACK,
            P.CHECKS_POST,
            P.POLICIES_READ,
            P.DEPLOYMENTS_READ,
        }
    ),
    Scope.APPROVE: frozenset(
        {
            P.PROMOTIONS_READ,
            P.PROMOTIONS_DECIDE,
            P.PROMOTIONS_BREAK_GLASS,
            P.POLICIES_READ,
            P.DEPLOYMENTS_READ,
            P.DEPLOYMENTS_ADMINISTER,
        }
    ),
    Scope.RESOLVE: frozenset({P.MODELS_RESOLVE}),
    Scope.ADMIN: frozenset(
        {
            P.SERVER_ADMINISTER,
            P.POLICIES_READ,
            P.POLICIES_ADMINISTER,
            P.DEPLOYMENTS_READ,
            P.DEPLOYMENTS_REPORT,
            P.DEPLOYMENTS_ADMINISTER,
            P.DELIVERIES_READ,
            P.ENDPOINTS_READ,
            P.ENDPOINTS_ADMINISTER,
            P.AUDIT_READ,
            P.METRICS_READ,
            P.GRANTS_READ,
            P.GRANTS_ADMINISTER,
            P.IDENTITIES_ADMINISTER,
        }
    ),
}

NOT_FOR_ONESELF = frozenset({Role.APPROVER, Role.REQUESTER, Role.RESPONDER})
"""Roles that nobody has by a grant that they wrote themselves: requesting, approving and administering are distinct,
and so is breaking the glass."""

UNATTENDED = frozenset({Scope.TRACK, Scope.REGISTRY, Scope.PROMOTE, Scope.RESOLVE})
"""The scopes that something may hold which no person watches, such as CI: it can neither approve nor administer."""


def scopes_with(permission: Permission) -> tuple[Scope, ...]:
    """The scopes of which one is needed for ``permission``."""
    return tuple(scope for scope, permissions in SCOPE_PERMISSIONS.items() if permission in permissions)


def roles_with(permission: Permission) -> tuple[Role, ...]:
    """The roles that have ``permission``."""
    return tuple(role for role, permissions in ROLE_PERMISSIONS.items() if permission in permissions)


def permissions_of_scopes(scopes: Iterable[Scope]) -> frozenset[Permission]:
    """What a token with ``scopes`` may do at most."""
    return frozenset[Permission]().union(*(SCOPE_PERMISSIONS[scope] for scope in scopes))
