"""What a principal may do: their grants, and the most that the credential they came with may do.

Who may decide on a promotion is also the say of its policy (``app/domain/policies``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from app.domain.errors import Forbidden, InsufficientScope
from app.domain.grants import NOTHING, SERVER, Access, Resource, ResourceKind
from app.domain.identity import Credential, CredentialKind, Identity, PrincipalKind, Scope
from app.domain.roles import (
    ROLE_PERMISSIONS,
    Permission,
    Role,
    permissions_of_scopes,
    roles_with,
    scopes_with,
)
from app.domain.verdicts import ALLOW, Deny, Verdict

__all__ = [
    "ROLE_PERMISSIONS",
    "Permission",
    "Principal",
    "PrincipalKind",
    "Role",
    "authorise",
    "holds_somewhere",
    "may",
    "require",
]


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody or something that was authenticated, with what they may do."""

    identity: Identity
    access: Access = field(default=NOTHING, compare=False)
    credential: Credential = field(default_factory=lambda: Credential(CredentialKind.PROVIDER))

    @property
    def issuer(self) -> str:
        return self.identity.issuer

    @property
    def subject(self) -> str:
        return self.identity.subject

    @property
    def id(self) -> str:
        """``https://issuer.example|subject``."""
        return self.identity.id

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def kind(self) -> PrincipalKind:
        return self.identity.kind

    @property
    def groups(self) -> frozenset[str]:
        return self.identity.groups

    @property
    def scopes(self) -> frozenset[Scope] | None:
        """What the credential may do at most; none if it is not limited."""
        return self.credential.scopes

    @property
    def roles(self) -> frozenset[Role]:
        """The roles of all grants, wherever they are."""
        return frozenset(grant.role for grant in self.access.grants if grant.effect == "allow")

    @property
    def permissions(self) -> frozenset[Permission]:
        """What is permitted somewhere, with this credential."""
        return self.access.somewhere & within_scopes(self.scopes)


def within_scopes(scopes: frozenset[Scope] | None) -> frozenset[Permission]:
    """What a credential may do at most."""
    return _ALL if scopes is None else _of_scopes(scopes)


_ALL = frozenset(Permission)
_of_scopes = cache(permissions_of_scopes)


def authorise(principal: Principal, permission: Permission, resource: Resource = SERVER) -> Verdict:
    """Whether ``principal`` may, on ``resource``; on everything if none is named.

    Nothing but a grant on everything covers ``SERVER``, so that who forgets to name the resource refuses too much,
    never too little.
    """
    if principal.scopes is not None and permission not in _of_scopes(principal.scopes):
        needed = " or ".join(scopes_with(permission)) or "no"
        given = ", ".join(sorted(principal.scopes)) or "none"
        return Deny(f"{permission} needs a token with the scope {needed}, and this one has {given}.")
    if principal.access.may(permission, resource):
        return ALLOW
    giving = " or ".join(sorted(role.value for role in roles_with(permission)))
    roles = sorted(principal.roles)
    has = f"the role{'s' * (len(roles) > 1)} {', '.join(roles)}" if roles else "no role"
    where = "" if resource.kind is ResourceKind.SERVER else f" on {resource}"
    return Deny(
        f"{principal.name} has {has}, and {permission}{where} needs {giving}. "
        "An administrator can give it with a grant; /control/v1/permissions/check says who that is."
    )


def may(principal: Principal, permission: Permission, resource: Resource = SERVER) -> bool:
    """``authorise`` where no reason is wanted, as for the items of a list."""
    return (principal.scopes is None or permission in _of_scopes(principal.scopes)) and principal.access.may(
        permission, resource
    )


def require(principal: Principal, permission: Permission, resource: Resource = SERVER) -> None:
    """Return if ``principal`` may.

    Raises:
        InsufficientScope: the principal may, this token may not. Forbidden: the principal may not.
    """
    verdict = authorise(principal, permission, resource)
    if not isinstance(verdict, Deny):
        return
    if principal.access.may(permission, resource):
        scope = " ".join(scopes_with(permission))
        raise InsufficientScope(verdict.reason, scope=scope, permission=permission.value)
    raise Forbidden(verdict.reason, permission=permission.value)


def holds_somewhere(principal: Principal, permission: Permission) -> bool:
    """Whether there is anything on which the principal may: the first question of a route that asks again when it
    knows of what it is.
    """
    return permission in principal.access.somewhere and (
        principal.scopes is None or permission in _of_scopes(principal.scopes)
    )
