"""What claims mean: whose they are, what of them is kept, and what is not believed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.claims import (
    CLOCKS_DIFFER_S,
    LONGEST_CLAIM,
    LONGEST_NAME,
    MOST_CLAIMS,
    acr_of,
    authenticated_at,
    check_audience,
    check_claims,
    check_is_access_token,
    check_rules,
    check_times,
    claim_at,
    groups_in,
    identity_of,
    kept_claims,
    scopes_in,
    shown,
)
from app.domain.errors import NotAuthenticated
from app.domain.identity import PrincipalKind
from app.domain.issuers import TrustedIssuer

ISSUER = TrustedIssuer("idp", "https://idp.example", frozenset({"countersign"}), service_groups=frozenset({"robots"}))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
CLAIM_NAMES = st.sampled_from(
    ["sub", "aud", "exp", "nbf", "typ", "groups", "scope", "scp", "auth_time", "email", "email_verified", "a.b", "name"]
)


@pytest.mark.parametrize(
    ("claims", "path", "expected"),
    [
        ({"groups": ["a"]}, "groups", ["a"]),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", ["a"]),
        ({"https://acme.example/groups": ["a"]}, "https://acme.example/groups", ["a"]),
        ({"kubernetes.io": {"namespace": "ml"}}, "kubernetes.io.namespace", "ml"),
        ({"kubernetes.io": {"serviceaccount": {"name": "x"}}}, "kubernetes.io.serviceaccount.name", "x"),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 1),
        ({"a": "text"}, "a.b", None),
        ({"a": {"b": 1}}, "a.c", None),
        ({}, ".", None),
        ({"": {"": 1}}, ".", None),
    ],
)
def test_a_claim_is_found_by_its_name_or_its_path(claims: Mapping[str, object], path: str, expected: object) -> None:
    assert claim_at(claims, path) == expected


def test_groups_of_the_issuer_are_added_and_make_services() -> None:
    issuer = replace(ISSUER, groups=frozenset({"robots"}), groups_claim="realm_access.roles")
    identity = identity_of(issuer, {"sub": "job", "realm_access": {"roles": ["deployers"]}})
    assert identity.groups == {"robots", "deployers"}
    assert identity.kind is PrincipalKind.SERVICE
    assert identity_of(replace(issuer, kind=PrincipalKind.PERSON), {"sub": "x"}).kind is PrincipalKind.PERSON
    assert groups_in(issuer, {"_claim_names": {"groups": "src1"}}) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Alice Liddell", "Alice Liddell"),
        ("Zoë 王", "Zoë 王"),
        ("ad\u202emin", "admin"),
        ("al\u200bice\n\0", "alice"),
        ("\u2066bob\u2069", "bob"),
        ("  x  ", "x"),
        ("\u200b\u202e", ""),
        ("x" * 500, "x" * LONGEST_NAME),
        (["alice"], ""),
        (None, ""),
    ],
)
def test_a_name_has_nothing_invisible(name: object, expected: str) -> None:
    assert shown(name) == expected
    assert identity_of(ISSUER, {"sub": "s", "preferred_username": name}).name == (expected or "s")


def test_claims_for_grants_are_few_short_and_of_the_person() -> None:
    claims = {
        **dict.fromkeys(["iss", "sub", "aud", "jti", "nonce", "at_hash", "sid", "groups", "_claim_names"], "x"),
        "exp": 1,
        "repository": "acme/model",
        "ref_protected": True,
        "run_attempt": 2,
        "amr": ["pwd", "otp"],
        "nothing": None,
        "mixed": [1, "a"],
        "long": "x" * (LONGEST_CLAIM + 1),
        "wide": "é" * (LONGEST_CLAIM // 2 + 1),
        "many": ["x" * 100] * 11,
        "kubernetes.io": {"namespace": "ml", "serviceaccount": {"name": "x", "deep": {"deeper": "y"}}},
    }
    assert kept_claims(claims, but={"groups"}) == {
        "repository": "acme/model",
        "ref_protected": "true",
        "run_attempt": "2",
        "amr": ("pwd", "otp"),
        "kubernetes.io.namespace": "ml",
        "kubernetes.io.serviceaccount.name": "x",
    }
    assert len(kept_claims({f"c{number}": "x" for number in range(500)}, but=set())) == MOST_CLAIMS


def test_a_nested_claim_cannot_pass_for_one_of_the_top() -> None:
    assert kept_claims({"a": {"b": "inner"}, "a.b": "top"}, but=set()) == {"a.b": "top"}


@pytest.mark.parametrize("verified", [None, False, "false", 1, "yes", [True]])
def test_an_address_that_was_not_verified_is_nobodys(verified: object) -> None:
    claims = {"email": "boss@acme.example", "email_verified": verified}
    assert "email" not in kept_claims(claims, but=set())
    with pytest.raises(NotAuthenticated):
        check_rules(replace(ISSUER, claim_rules={"email": ("*@acme.example",)}), claims)


def test_an_address_that_was_verified_may_be_asked_for() -> None:
    claims = {"email": "boss@acme.example", "email_verified": True}
    assert kept_claims(claims, but=set())["email"] == "boss@acme.example"
    check_rules(replace(ISSUER, claim_rules={"email": ("*@acme.example",)}), claims)


@pytest.mark.parametrize("value", [None, True, "1", -1, float("nan"), float("inf"), [1]])
def test_a_time_of_sign_in_that_is_none_is_not_known(value: object) -> None:
    assert authenticated_at({"auth_time": value}, 1000) is None


def test_nobody_signed_in_in_the_future() -> None:
    assert authenticated_at({"auth_time": 10**12}, 1000) is None
    assert authenticated_at({"auth_time": 1000 + CLOCKS_DIFFER_S + 1}, 1000) is None
    ahead = authenticated_at({"auth_time": 1001}, 1000)
    assert ahead is not None
    assert ahead.timestamp() == 1000


@pytest.mark.parametrize("value", [None, True, 1, "", " \n", "x" * 256, ["gold"]])
def test_an_authentication_context_that_is_none_is_not_known(value: object) -> None:
    assert acr_of({"acr": value}) is None
    assert acr_of({"acr": "urn:acme:mfa"}) == "urn:acme:mfa"


@given(claims=st.dictionaries(CLAIM_NAMES | st.text(max_size=8), JSON, max_size=8), path=st.text(max_size=12))
def test_no_claims_however_odd_cause_anything_but_a_refusal(claims: dict[str, object], path: str) -> None:
    issuer = replace(ISSUER, groups_claim=path or "groups", username_claim="a.b", claim_rules={"name": ("*",)})
    for question in (
        lambda: check_audience(issuer, claims),
        lambda: check_times(claims, leeway_s=30, now=1000),
        lambda: check_is_access_token(claims),
        lambda: identity_of(issuer, claims),
        lambda: scopes_in(claims),
        lambda: check_rules(issuer, claims),
        lambda: authenticated_at(claims, 1000),
    ):
        with suppress(NotAuthenticated):
            question()


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "job", "client_id": "job"},
        {"sub": "0oa1", "cid": "0oa1"},
        {"sub": "job@clients", "azp": "job", "gty": "client-credentials"},
        {"sub": "AAAA", "idtyp": "app"},
        {"sub": "f3", "azp": "job", "preferred_username": "service-account-job"},
    ],
)
def test_what_a_client_got_for_itself_is_a_services(claims: dict[str, object]) -> None:
    assert identity_of(ISSUER, claims).kind is PrincipalKind.SERVICE
    assert identity_of(replace(ISSUER, kind=PrincipalKind.PERSON), claims).kind is PrincipalKind.PERSON
    of_somebody = {**claims, "sub": "ada", "gty": "password", "idtyp": "user", "preferred_username": "ada"}
    assert identity_of(ISSUER, of_somebody).kind is PrincipalKind.PERSON


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "repo:acme/fraud:ref:refs/heads/main", "job_workflow_ref": "acme/fraud/.github/workflows/a.yml@main"},
        {"sub": "project_path:acme/fraud:ref_type:branch:ref:main", "pipeline_source": "push", "user_login": "ada"},
        {"sub": "system:serviceaccount:ml:train", "kubernetes.io": {"namespace": "ml"}},
        {"sub": "0b7f", "oid": "0b7f", "azp": "another", "roles": ["approvers"]},
    ],
    ids=["GitHub", "GitLab", "Kubernetes", "Entra without idtyp"],
)
def test_what_no_person_sits_before_is_a_services_though_nobody_said_so(claims: dict[str, object]) -> None:
    """A person may approve, and may have personal tokens: neither is for a job."""
    assert identity_of(ISSUER, claims).kind is PrincipalKind.SERVICE


NOW = 1_800_000_000
TIMES = {"iat": NOW - 5, "nbf": NOW - 5, "exp": NOW + 300}
AS_THEY_COME: dict[str, tuple[dict[str, object], dict[str, object], str, set[str]]] = {
    # What is configured of it, the claims, and the name and groups they come to.
    "GitHub": (
        {"claim_rules": {"repository_owner_id": ("65",)}, "username_claim": "repository"},
        {
            "sub": "repo:acme/fraud:ref:refs/heads/main", "aud": "countersign", "ref": "refs/heads/main", "sha": "5a0c",
            "repository": "acme/fraud", "repository_owner": "acme", "repository_owner_id": "65", "run_id": "99",
            "actor": "octocat", "workflow": "train", "ref_protected": "true", "runner_environment": "github-hosted",
            "job_workflow_ref": "acme/fraud/.github/workflows/train.yml@refs/heads/main", "jti": "1", **TIMES,
        },
        "acme/fraud", set(),
    ),
    "GitLab": (
        {"claim_rules": {"namespace_path": ("acme", "acme/*")}, "username_claim": "project_path"},
        {
            "sub": "project_path:acme/fraud:ref_type:branch:ref:main", "aud": "countersign", "project_id": "22",
            "project_path": "acme/fraud", "namespace_path": "acme", "user_login": "ada", "pipeline_source": "push",
            "ref": "main", "ref_protected": "true", "runner_id": 1, "user_identities": [{"provider": "x"}], **TIMES,
        },
        "acme/fraud", set(),
    ),
    "Kubernetes": (
        {"claim_rules": {"kubernetes.io.namespace": ("ml",)}, "username_claim": "kubernetes.io.serviceaccount.name"},
        {
            "sub": "system:serviceaccount:ml:trainer", "aud": ["countersign"], "jti": "1",
            "kubernetes.io": {"namespace": "ml", "node": {"name": "n"}, "serviceaccount": {"name": "trainer"}}, **TIMES,
        },
        "trainer", set(),
    ),
    "Keycloak": (
        {"groups_claim": "realm_access.roles"},
        {
            "sub": "a1", "aud": ["countersign", "account"], "typ": "Bearer", "azp": "web", "sid": "s", "acr": "1",
            "allowed-origins": ["/*"], "realm_access": {"roles": ["approvers"]}, "scope": "openid email",
            "resource_access": {"account": {"roles": ["view-profile"]}}, "preferred_username": "ada",
            "email_verified": True, "email": "ada@acme.example", "auth_time": NOW - 60, "nonce": "n", **TIMES,
        },
        "ada", {"approvers"},
    ),
    "Entra": (
        {"groups_claim": "roles", "username_claim": "name"},
        {
            "sub": "AAAA", "aud": "countersign", "azp": "0", "azpacr": "1", "idtyp": "app", "oid": "o", "rh": "1.A",
            "roles": ["Registry.Promote"], "tid": "t", "uti": "u", "ver": "2.0", "aio": "E2", "xms_ftd": "x", **TIMES,
        },
        "AAAA", {"Registry.Promote"},
    ),
    "Auth0": (
        {"groups_claim": "https://acme.example/groups"},
        {
            "sub": "nightly@clients", "aud": ["countersign", "https://acme.eu.auth0.com/userinfo"], "azp": "nightly",
            "gty": "client-credentials", "https://acme.example/groups": ["ci"], "scope": "track", **TIMES,
        },
        "nightly@clients", {"ci"},
    ),
    "Okta": (
        {"username_claim": "sub"},
        {
            "sub": "ada@acme.example", "aud": "countersign", "ver": 1, "jti": "AT.1", "cid": "0o", "uid": "00u",
            "scp": ["openid", "countersign"], "auth_time": NOW - 9, "groups": ["Everyone"], **TIMES,
        },
        "ada@acme.example", {"Everyone"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("provider", AS_THEY_COME)
def test_tokens_as_providers_write_them_are_understood(provider: str) -> None:
    configured, claims, name, groups = AS_THEY_COME[provider]
    issuer = replace(ISSUER, **configured)  # type: ignore[arg-type]
    claims = {"iss": ISSUER.issuer, **claims}
    assert check_claims(issuer, claims, now=NOW) == NOW + 300
    identity = identity_of(issuer, claims)
    assert (identity.name, identity.groups) == (name, groups)
    assert (identity.kind is PrincipalKind.SERVICE) == (provider not in {"Keycloak", "Okta"})
    assert scopes_in(claims) is None
