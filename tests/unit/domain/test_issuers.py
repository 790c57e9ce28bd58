"""What a configuration of issuers may say: every mistake is named with its path, and what lets everybody in is one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.domain.errors import InvalidConfiguration
from app.domain.identity import PrincipalKind
from app.domain.issuers import Introspection, SignIn, TrustedIssuer, check_issuers, read_issuers

CI = {"name": "ci", "issuer": "https://ci.example", "audiences": ["countersign"]}
GITHUB = "https://token.actions.githubusercontent.com"


def secret(reference: str) -> str:
    if reference.endswith("gone"):
        raise InvalidConfiguration(f"The secret {reference} is empty or not set.")
    return f"content of {reference}"


def read(*issuers: object) -> tuple[TrustedIssuer, ...]:
    return read_issuers({"issuers": list(issuers)}, secret)


def problems(*issuers: object) -> list[str]:
    with pytest.raises(InvalidConfiguration) as refusal:
        read(*issuers)
    return refusal.value.message.splitlines()


def test_an_issuer_needs_a_name_an_address_and_an_audience() -> None:
    assert read(CI) == (TrustedIssuer("ci", "https://ci.example", frozenset({"countersign"})),)


def test_everything_may_be_said() -> None:
    (issuer,) = read(
        {
            "name": "main",
            "issuer": "https://idp.example/",
            "audiences": ["api://countersign"],
            "algorithms": ["EdDSA"],
            "kind": "service",
            "groupsClaim": "realm_access.roles",
            "usernameClaim": "email",
            "groups": ["everyone"],
            "serviceGroups": ["robots"],
            "claims": {"repository": ["acme/*"], "ref": "refs/heads/main"},
            "tokenType": "at+jwt",
            "jwksUri": "https://keys.example/jwks?v=1",
            "jwksTokenFile": "/token",
            "caFile": "/ca.crt",
            "leewaySeconds": 5,
            "signIn": {"clientId": "web", "clientSecretFile": "/secret", "scopes": ["openid"], "title": "Acme"},
            "introspection": {
                "clientId": "api",
                "clientSecretEnv": "SECRET",
                "endpoint": "https://idp.example/introspect",
                "rememberSeconds": 10,
            },
        }
    )
    assert issuer == TrustedIssuer(
        name="main",
        issuer="https://idp.example/",
        audiences=frozenset({"api://countersign"}),
        algorithms=("EdDSA",),
        kind=PrincipalKind.SERVICE,
        groups_claim="realm_access.roles",
        username_claim="email",
        groups=frozenset({"everyone"}),
        service_groups=frozenset({"robots"}),
        claim_rules={"repository": ("acme/*",), "ref": ("refs/heads/main",)},
        token_type="at+jwt",
        jwks_uri="https://keys.example/jwks?v=1",
        jwks_token_file="/token",
        ca_file="/ca.crt",
        leeway_s=5,
        sign_in=SignIn("web", "content of file:/secret", ("openid",), "Acme"),
        introspection=Introspection("api", "content of env:SECRET", "https://idp.example/introspect", 10),
    )
    assert "content of" not in repr(issuer)


def test_a_file_may_be_empty_or_about_clients_alone() -> None:
    assert read_issuers(None, secret) == ()
    assert read_issuers({"clients": [{"anything": 1}]}, secret) == ()
    assert read_issuers({"issuers": None}, secret) == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": None}, "issuers[0].name: expected a text"),
        ({"name": "Main"}, "issuers[0].name: expected 1 to 32 of a-z, 0-9 and -"),
        ({"name": "x" * 33}, "issuers[0].name: expected 1 to 32 of a-z, 0-9 and -"),
        ({"issuer": "http://ci.example"}, "issuers[0].issuer: expected an https:// URL"),
        ({"issuer": "https://user@ci.example"}, "issuers[0].issuer: expected an https:// URL"),
        ({"issuer": "https://ci.example:port"}, "issuers[0].issuer: expected an https:// URL"),
        ({"issuer": "https://\u0441i.example"}, "issuers[0].issuer: expected an https:// URL"),
        ({"issuer": 7}, "issuers[0].issuer: expected a text"),
        ({"audiences": "countersign"}, "issuers[0].audiences: expected a list of texts"),
        ({"audiences": []}, "issuers[0].audiences: expected a list of texts"),
        ({"audiences": None}, "issuer ci: audiences: expected at least one"),
        ({"algorithms": ["HS256"]}, "issuers[0].algorithms: expected asymmetric ones, not HS256"),
        ({"algorithms": ["none", "RS256"]}, "issuers[0].algorithms: expected asymmetric ones, not none"),
        ({"kind": "robot"}, "issuers[0].kind: expected one of person, service"),
        ({"tokenType": "dpop+jwt"}, "issuers[0].tokenType: expected one of at+jwt, JWT"),
        ({"leewaySeconds": -1}, "issuers[0].leewaySeconds: expected a whole number from 0 to 300"),
        ({"leewaySeconds": True}, "issuers[0].leewaySeconds: expected a whole number"),
        ({"acceptsTokens": "no"}, "issuers[0].acceptsTokens: expected true or false"),
        ({"claims": {}}, "issuers[0].claims: expected an object of claim to patterns"),
        ({"claims": ["acme"]}, "issuers[0].claims: expected an object of claim to patterns"),
        ({"claims": {"run": 1}}, "issuers[0].claims.run: expected a pattern or a list of patterns; numbers"),
        ({"claims": {"run": []}}, "issuers[0].claims.run: expected a pattern or a list of patterns"),
        ({"jwksUri": "file:///etc/passwd"}, "issuers[0].jwksUri: expected an https:// URL"),
        ({"jwksUri": "https://a.example", "jwksFile": "/a"}, "issuers[0].jwksFile: expected only one of"),
        ({"jwksTokenFile": "/a"}, "issuers[0].jwksTokenFile: expected only beside jwksUri"),
        ({"groupClaim": "roles"}, "issuers[0].groupClaim: unknown field; expected one of acceptsTokens, algorithms"),
        ({"signIn": "web"}, "issuers[0].signIn: expected an object"),
        ({"signIn": {}}, "issuers[0].signIn.clientId: expected a text"),
        ({"signIn": {"clientId": "web", "clientSecret": "x"}}, "issuers[0].signIn.clientSecret: unknown field"),
        (
            {"signIn": {"clientId": "web", "clientSecretFile": "/a", "clientSecretEnv": "A"}},
            "issuers[0].signIn.clientSecretFile: expected clientSecretFile or clientSecretEnv, exactly one",
        ),
        (
            {"signIn": {"clientId": "web", "clientSecretFile": "/gone"}},
            "issuers[0].signIn.clientSecretFile: The secret file:/gone is empty or not set.",
        ),
        ({"signIn": {"clientId": "web", "scopes": ["email"]}}, "issuers[0].signIn.scopes: expected `openid`"),
        ({"introspection": {"clientId": "api"}}, "issuers[0].introspection.clientSecretFile: expected"),
        (
            {"introspection": {"clientId": "api", "clientSecretEnv": "A", "endpoint": "http://idp.example/i"}},
            "issuers[0].introspection.endpoint: expected an https:// URL",
        ),
    ],
)
def test_a_mistake_is_named_with_its_path(change: Mapping[str, Any], expected: str) -> None:
    (problem,) = problems({**CI, **change})
    assert problem.startswith(expected)


def test_all_mistakes_are_said_at_once() -> None:
    assert len(problems({**CI, "kind": "robot", "leewaySeconds": "5"}, "no object", {"name": "x"})) == 4


@pytest.mark.parametrize("document", [[], "issuers", {"issuers": {}}, {"issuer": []}, {"issuers": "x"}])
def test_a_file_of_another_shape_is_refused(document: object) -> None:
    with pytest.raises(InvalidConfiguration):
        read_issuers(document, secret)


def test_two_issuers_cannot_have_one_name_or_one_address() -> None:
    assert problems(CI, {**CI, "issuer": "https://other.example"}) == [
        "issuers: two have the name ci; expected each once"
    ]
    assert problems(CI, {**CI, "name": "other"}) == [
        "issuers: two have the issuer https://ci.example; expected each once"
    ]


SHARED = {
    GITHUB: [
        {"repository_owner": ["acme"]},
        {"repository": ["acme/model", "acme/*"]},
        {"sub": ["repo:acme/*:ref:refs/heads/main"]},
        {"repository_owner_id": ["1"], "ref": ["*"]},
    ],
    "https://gitlab.com": [
        {"namespace_path": ["acme", "acme/*"]},
        {"project_path": ["acme/model"]},
        {"sub": ["project_path:acme/*"]},
    ],
    "https://accounts.google.com": [{"hd": ["acme.example"]}, {"sub": ["1", "2"]}],
    "https://app.terraform.io": [{"terraform_organization_name": ["acme"]}],
    "https://agent.buildkite.com": [{"organization_slug": ["acme"]}],
    "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0": [{"oid": ["1"]}],
}
OPEN: list[Mapping[str, object]] = [
    {},
    {"ref": ["refs/heads/main"]},
    {"repository_owner": ["*"]},
    {"repository_owner": ["acme*"]},
    {"repository_owner": ["acme", "*"]},
    {"repository": ["*/model"]},
    {"repository": ["acme*"]},
    {"repository": ["acme*/model"]},
    {"repository": ["?cme/model"]},
    {"repository": ["[a-z]*/model"]},
    {"sub": ["repo:*"]},
    {"sub": ["*:acme/model"]},
    {"namespace_path": ["acme*"]},
    {"hd": ["*"]},
    {"organization_slug": ["a?me"]},
    {"email": ["*@acme.example"]},
]


@pytest.mark.parametrize("issuer", SHARED)
def test_a_public_issuer_of_everybody_must_be_held_to_somebody(issuer: str) -> None:
    for claims in SHARED[issuer]:
        assert read({**CI, "issuer": issuer, "claims": claims})
    for claims in OPEN:
        (problem,) = problems({**CI, "issuer": issuer, **({"claims": claims} if claims else {})})
        assert "signs tokens for anybody in the world" in problem
        assert "as `claims: {" in problem
        assert problems({**CI, "issuer": issuer + "/", **({"claims": claims} if claims else {})})


@pytest.mark.parametrize("tenant", ["common", "organizations", "consumers"])
def test_microsofts_address_for_all_tenants_is_no_issuer(tenant: str) -> None:
    (problem,) = problems({**CI, "issuer": f"https://login.microsoftonline.com/{tenant}/v2.0", "claims": {"tid": "1"}})
    assert "<tenant id>" in problem


def test_the_sign_in_client_is_no_audience_of_access_tokens() -> None:
    sign_in = {"clientId": "countersign"}
    (problem,) = problems({**CI, "signIn": sign_in})
    assert "ID tokens would pass for access tokens" in problem
    assert read({**CI, "signIn": sign_in, "tokenType": "at+jwt"})
    assert read({**CI, "signIn": sign_in, "acceptsTokens": False, "audiences": None})
    assert read({**CI, "signIn": {"clientId": "countersign-web"}})


def test_what_settings_say_is_checked_with_what_the_file_says() -> None:
    default = TrustedIssuer("default", "https://idp.example", frozenset({"countersign"}))
    check_issuers([default, *read(CI)])
    with pytest.raises(InvalidConfiguration, match="two have the issuer"):
        check_issuers([default, replace(default, name="again")])
    with pytest.raises(InvalidConfiguration, match="anybody in the world"):
        check_issuers([replace(default, issuer="https://gitlab.com")])


def test_the_issuers_of_the_guide_can_be_read() -> None:
    guide = (Path(__file__).parents[3] / "docs/guides/identity.md").read_text()
    examples = [text for text in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL) if text.startswith("issuers:")]
    assert len(examples) >= 4
    for text in examples:
        assert read_issuers(yaml.safe_load(text), secret)
