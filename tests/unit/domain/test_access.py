"""What a principal may do with the credential it came with: grants give, scopes limit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.access import authorise, holds_somewhere, may, require
from app.domain.errors import Forbidden, InsufficientScope
from app.domain.grants import SERVER, Effect, Grant, Reach, Subject, applying_to, model
from app.domain.identity import Identity, Scope
from app.domain.roles import (
    SCOPE_PERMISSIONS,
    UNATTENDED,
    Permission,
    Role,
    permissions_of_scopes,
    scopes_with,
)
from app.domain.verdicts import Deny
from tests.principals import principal

_scopes = st.none() | st.frozensets(st.sampled_from(Scope))
_roles = st.frozensets(st.sampled_from(Role))


@given(_roles, _scopes, st.sampled_from(Permission))
def test_a_scope_takes_away_and_never_gives(
    roles: frozenset[Role], scopes: frozenset[Scope] | None, permission: Permission
) -> None:
    owner, bearer = principal("ann", *roles), principal("ann", *roles, scopes=scopes)
    allowed = scopes is None or permission in permissions_of_scopes(scopes)
    for resource in (SERVER, model("m"), model("m", "production")):
        assert may(bearer, permission, resource) == (may(owner, permission, resource) and allowed)
        assert bool(authorise(bearer, permission, resource)) == may(bearer, permission, resource)
    assert holds_somewhere(bearer, permission) == (holds_somewhere(owner, permission) and allowed)
    assert (permission in bearer.permissions) == holds_somewhere(bearer, permission)


def test_who_may_with_another_token_is_told_the_scope() -> None:
    bearer = principal("ann", Role.APPROVER, scopes={Scope.TRACK})
    with pytest.raises(InsufficientScope) as refused:
        require(bearer, Permission.PROMOTIONS_DECIDE, model("m", "production"))
    assert refused.value.scope == "approve"
    assert "has track" in refused.value.message


def test_who_may_not_with_any_token_is_not_told_of_scopes() -> None:
    with pytest.raises(Forbidden) as refused:
        require(principal("ann", Role.VIEWER, scopes={Scope.TRACK}), Permission.PROMOTIONS_DECIDE)
    assert not isinstance(refused.value, InsufficientScope)


def test_a_refusal_names_what_is_missing_and_who_has_it() -> None:
    verdict = authorise(principal("ann", Role.VIEWER), Permission.PROMOTIONS_REQUEST, model("m", "production"))
    assert isinstance(verdict, Deny)
    for part in ("ann", "viewer", "promotions:request", "model 'm', alias 'production'", "requester"):
        assert part in verdict.reason


def test_an_empty_set_of_scopes_allows_nothing() -> None:
    bearer = principal("root", *Role, scopes=())
    assert not any(may(bearer, permission) for permission in Permission)
    assert not bearer.permissions


def test_what_no_person_watches_can_neither_approve_nor_administer() -> None:
    ci = principal("ci", *Role, scopes=UNATTENDED)
    for permission in (
        Permission.PROMOTIONS_DECIDE,
        Permission.GRANTS_ADMINISTER,
        Permission.IDENTITIES_ADMINISTER,
        Permission.POLICIES_ADMINISTER,
        Permission.SERVER_ADMINISTER,
        Permission.AUDIT_READ,
    ):
        assert not may(ci, permission)
        assert not may(ci, permission, model("m", "production"))


def test_every_permission_is_in_some_scope() -> None:
    assert frozenset[Permission]().union(*SCOPE_PERMISSIONS.values()) == set(Permission)
    assert all(scopes_with(permission) for permission in Permission)


def test_roles_that_are_denied_are_not_listed_as_held() -> None:
    denied = Grant("d", Role.APPROVER, Subject(group="*"), Reach(), Effect.DENY)
    who = principal("ann", Role.VIEWER, grants=[denied])
    assert who.roles == {Role.VIEWER}


@pytest.mark.parametrize("role", [Role.APPROVER, Role.REQUESTER])
def test_nobody_asks_or_decides_by_a_grant_that_they_wrote_themselves(role: Role) -> None:
    ada = Identity("https://issuer.example", "ada", "Ada", groups=frozenset({"ml"}))
    bob = replace(ada, subject="bob")
    grant = Grant("ml", role, Subject(group="ml"), written_by=ada.id)
    assert applying_to(ada, [grant]) == ()
    assert applying_to(bob, [grant]) == (grant,)
    assert applying_to(ada, [replace(grant, written_by=bob.id)]) != ()
    # What they deny themselves counts, and so does what is not a signature.
    assert applying_to(ada, [replace(grant, effect=Effect.DENY)]) != ()
    assert applying_to(ada, [replace(grant, role=Role.VIEWER)]) != ()
