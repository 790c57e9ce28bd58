"""Who somebody is and what they may do: principals, roles and permissions.

Roles are few and explain themselves. A role gives permissions; who may decide on a promotion is not a permission but
the say of its policy (``app/domain/policies.py``), so that an administrator is not an approver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from app.domain.verdicts import ALLOW, Deny, Verdict

ANY_GROUP = "*"
"""In a role mapping: every principal that was authenticated."""


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
    MODELS_RESOLVE = "models:resolve"
    POLICIES_READ = "policies:read"
    DEPLOYMENTS_READ = "deployments:read"
    DELIVERIES_READ = "deliveries:read"
    AUDIT_READ = "audit:read"
    METRICS_READ = "metrics:read"


class Role(StrEnum):
    """What a group of people or services is for."""

    VIEWER = "viewer"
    CONTRIBUTOR = "contributor"
    REQUESTER = "requester"
    APPROVER = "approver"
    SERVING = "serving"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"


_VIEWER = frozenset(
    {
        Permission.TRACKING_READ,
        Permission.REGISTRY_READ,
        Permission.PROMOTIONS_READ,
        Permission.MODELS_RESOLVE,
        Permission.POLICIES_READ,
        Permission.DEPLOYMENTS_READ,
    }
)
_CONTRIBUTOR = _VIEWER | {
    Permission.TRACKING_WRITE,
    Permission.TRACKING_DELETE,
    Permission.REGISTRY_WRITE,
    Permission.REGISTRY_DELETE,
}

ROLE_PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: _VIEWER,
    Role.CONTRIBUTOR: _CONTRIBUTOR,
    Role.REQUESTER: _CONTRIBUTOR | {Permission.PROMOTIONS_REQUEST, Permission.PROMOTIONS_DECIDE},
    Role.APPROVER: _VIEWER | {Permission.PROMOTIONS_DECIDE, Permission.PROMOTIONS_ROLLBACK},
    Role.SERVING: frozenset({Permission.MODELS_RESOLVE}),
    Role.AUDITOR: _VIEWER | {Permission.AUDIT_READ, Permission.DELIVERIES_READ, Permission.METRICS_READ},
    Role.ADMINISTRATOR: frozenset(Permission) - {Permission.PROMOTIONS_REQUEST, Permission.PROMOTIONS_ROLLBACK},
}


class PrincipalKind(StrEnum):
    PERSON = "person"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody or something that was authenticated.

    Identity is the pair (issuer, subject), never the name or an e-mail address: those are reassigned (OpenID Connect
    Core section 5.7).
    """

    issuer: str
    subject: str
    name: str
    kind: PrincipalKind = PrincipalKind.PERSON
    groups: frozenset[str] = frozenset()
    roles: frozenset[Role] = field(default=frozenset())

    @property
    def id(self) -> str:
        """One string for the pair, as ``https://issuer.example|subject``."""
        return f"{self.issuer}|{self.subject}"

    @property
    def permissions(self) -> frozenset[Permission]:
        return _permissions_of(self.roles)


@cache
def _permissions_of(roles: frozenset[Role]) -> frozenset[Permission]:
    return frozenset[Permission]().union(*(ROLE_PERMISSIONS[role] for role in roles))


def roles_of(groups: Iterable[str], mapping: Mapping[Role, Iterable[str]]) -> frozenset[Role]:
    """The roles that a mapping of role to groups gives to a member of ``groups``. No mapping, no role."""
    held = {*groups, ANY_GROUP}
    return frozenset(role for role, named in mapping.items() if held & set(named))


def authorise(principal: Principal, permission: Permission) -> Verdict:
    """Whether ``principal`` holds ``permission`` through one of its roles."""
    if permission in principal.permissions:
        return ALLOW
    giving = sorted(role.value for role, held in ROLE_PERMISSIONS.items() if permission in held)
    has = ", ".join(sorted(principal.roles)) or "no role"
    return Deny(
        f"{principal.name} has {has}, and {permission} needs {' or '.join(giving)}. "
        "An administrator of the identity provider can put a principal into a group of that role."
    )
