"""Principals for tests, with roles on everything or grants of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.domain.access import Principal, PrincipalKind, Role
from app.domain.grants import Access, Grant, Subject, applying_to
from app.domain.identity import Claim, Credential, CredentialKind, Identity, Scope

ISSUER = "https://issuer.example"


def principal(
    subject: str = "somebody",
    *roles: Role,
    issuer: str = ISSUER,
    name: str | None = None,
    kind: PrincipalKind = PrincipalKind.PERSON,
    groups: Iterable[str] = (),
    claims: Mapping[str, Claim] | None = None,
    grants: Iterable[Grant] = (),
    scopes: Iterable[Scope] | None = None,
) -> Principal:
    """Somebody with ``roles`` on everything, and with those of ``grants`` that speak of them."""
    identity = Identity(issuer, subject, name or subject, kind, frozenset(groups), dict(claims or {}))
    own = [Grant(f"test-{role}", role, Subject(person=identity.id)) for role in roles]
    access = Access([*own, *applying_to(identity, grants)], owner_id=identity.id)
    limit = None if scopes is None else frozenset(scopes)
    return Principal(identity, access, Credential(CredentialKind.PROVIDER, scopes=limit))
