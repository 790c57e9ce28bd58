"""Tokens of trusted issuers: every forgery is refused, and an issuer's bad day harms nobody else's."""

from __future__ import annotations

import asyncio
import base64
import gc
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from joserfc import jwe
from joserfc.jwk import RSAKey
from structlog.testing import capture_logs

from app.adapters.oidc import TrustedIssuers
from app.adapters.oidc.documents import Documents, Refused
from app.adapters.oidc.kept import Kept
from app.domain.errors import InvalidConfiguration, NotAuthenticated, Unavailable
from app.domain.identity import PrincipalKind, Scope
from app.domain.issuers import Introspection, TrustedIssuer
from tests.issuer import AUDIENCE, Issuer, encoded, new_key, running_issuer, sign

SECRET = "s3cret/with:signs"
KEYS = {"RSA": new_key("rsa"), "EC": new_key("ec", "EC"), "OKP": new_key("okp", "OKP")}
UNPUBLISHED = new_key("rsa")


@dataclass
class Time:
    """A clock that a test may move; it is the port and the process's own."""

    offset_s: float = 0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.offset_s)

    def __call__(self) -> float:
        return time.monotonic() + self.offset_s


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Issuer, Issuer]]:
    with running_issuer() as first, running_issuer() as second:
        yield first, second


def fresh(issuer: Issuer) -> Issuer:
    """The server as on its first day."""
    url = issuer.url
    issuer.__init__(url=url, keys=list(KEYS.values()))  # type: ignore[misc]
    return issuer


@pytest.fixture
def issuer(servers: tuple[Issuer, Issuer]) -> Issuer:
    return fresh(servers[0])


@pytest.fixture
def another(servers: tuple[Issuer, Issuer]) -> Issuer:
    return fresh(servers[1])


def trusted(issuer: Issuer, name: str = "idp", **changed: object) -> TrustedIssuer:
    usual = TrustedIssuer(
        name=name,
        issuer=issuer.url,
        audiences=frozenset({AUDIENCE}),
        algorithms=("RS256", "ES256", "EdDSA"),
        service_groups=frozenset({"services"}),
    )
    return replace(usual, **changed)  # type: ignore[arg-type]


@asynccontextmanager
async def verifying(*issuers: TrustedIssuer, clock: Time | None = None) -> AsyncIterator[TrustedIssuers]:
    clock = clock or Time()
    verifier = TrustedIssuers(issuers, clock, elapsed=clock)
    try:
        yield verifier
    finally:
        await verifier.close()


def hmac_with(secret: bytes, issuer: Issuer) -> str:
    head = f"{encoded(json.dumps({'alg': 'HS256', 'kid': 'rsa'}).encode())}."
    head += encoded(json.dumps(issuer.claims()).encode())
    return f"{head}.{encoded(hmac.digest(secret, head.encode(), 'sha256'))}"


def unsigned(issuer: Issuer, algorithm: str) -> str:
    return f"{encoded(json.dumps({'alg': algorithm}).encode())}.{encoded(json.dumps(issuer.claims()).encode())}."


def rewritten(token: str, part: int, change: Callable[[str], str]) -> str:
    parts = token.split(".")
    parts[part] = change(parts[part])
    return ".".join(parts)


def raw(issuer: Issuer, *, header: str | None = None, payload: str | bytes | None = None) -> str:
    """Texts that a JSON library would not write, well signed."""
    head = header or json.dumps({"alg": "RS256", "kid": "rsa"})
    return sign(head, json.dumps(issuer.claims()) if payload is None else payload, KEYS["RSA"], algorithm="RS256")


def payload_with(issuer: Issuer, more: str) -> str:
    return json.dumps(issuer.claims())[:-1] + "," + more + "}"


def encrypted(issuer: Issuer) -> str:
    key = KEYS["RSA"]
    assert isinstance(key, RSAKey)
    header = {"alg": "RSA-OAEP", "enc": "A128GCM", "cty": "JWT"}
    return jwe.encrypt_compact(header, issuer.token(), key)


def other_ending(signature: str) -> str:
    """The same bytes in another spelling: the last character of a 256-byte signature has four bits to spare."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return signature[:-1] + alphabet[alphabet.index(signature[-1]) ^ 1]


FORGED: dict[str, Callable[[Issuer], str]] = {
    # Time
    "expired": lambda it: it.token(exp=int(time.time()) - 31),
    "expired long ago": lambda it: it.token(exp=1),
    "without an end": lambda it: it.token(exp=None),
    "with an end in words": lambda it: it.token(exp="tomorrow"),
    "with an end that is true": lambda it: it.token(exp=True),
    "that ends at infinity": lambda it: raw(it, payload=payload_with(it, '"exp":1e999').replace('"exp"', '"x"', 1)),
    "that ends beyond counting": lambda it: it.token(exp=10**30),
    "not valid yet": lambda it: it.token(nbf=int(time.time()) + 60),
    "issued in the future": lambda it: it.token(iat=int(time.time()) + 60),
    "issued at no time": lambda it: it.token(iat="now"),
    # Audience and issuer
    "for another audience": lambda it: it.token(aud="another"),
    "for an audience that begins alike": lambda it: it.token(aud=["countersign2", "Countersign"]),
    "for no audience": lambda it: it.token(aud=None),
    "for nobody at all": lambda it: it.token(aud=[]),
    "for an audience in an object": lambda it: it.token(aud={AUDIENCE: True}),
    "for an audience among numbers": lambda it: it.token(aud=[1, AUDIENCE]),
    "of another issuer": lambda it: it.token(iss="https://evil.example"),
    "of no issuer": lambda it: it.token(iss=None),
    "of two issuers": lambda it: it.token(iss=[it.url]),
    "of the issuer with a slash": lambda it: it.token(iss=it.url + "/"),
    "of the issuer in capitals": lambda it: it.token(iss=it.url.replace("http", "HTTP")),
    "of the issuer with a space": lambda it: it.token(iss=it.url + " "),
    # Subject
    "of nobody": lambda it: it.token(sub=None),
    "of a blank subject": lambda it: it.token(sub=""),
    "of a subject with spaces": lambda it: it.token(sub=" somebody"),
    "of a number": lambda it: it.token(sub=7),
    "of a look-alike": lambda it: it.token(sub="s\u043emebody"),
    "of a wide look-alike": lambda it: it.token(sub="\uff53omebody"),
    "of somebody and something invisible": lambda it: it.token(sub="somebody\u200b"),
    "of somebody and an end": lambda it: it.token(sub="somebody\0"),
    "of a very long name": lambda it: it.token(sub="s" * 256),
    # Key and algorithm
    "signed with another key of the same name": lambda it: it.token(key=UNPUBLISHED),
    "signed with a key that is not published": lambda it: it.token(key=UNPUBLISHED, header={"kid": "unknown"}),
    "signed with a key of another name": lambda it: it.token(key=KEYS["RSA"], header={"kid": "ec"}),
    "with a key name that is a number": lambda it: it.token(key=KEYS["RSA"], header={"kid": 1}),
    "with a key name that is a path": lambda it: it.token(key=UNPUBLISHED, header={"kid": "../../dev/null"}),
    "unsigned": lambda it: unsigned(it, "none"),
    "unsigned, in capitals": lambda it: unsigned(it, "NONE"),
    "signed with nothing": lambda it: rewritten(it.token(), 2, lambda _: ""),
    "signed with zeros": lambda it: rewritten(it.token(key=KEYS["EC"]), 2, lambda _: encoded(bytes(64))),
    "signed with Ed25519 zeros": lambda it: rewritten(it.token(key=KEYS["OKP"]), 2, lambda _: encoded(bytes(64))),
    "signed with the public key as a secret": lambda it: hmac_with(KEYS["RSA"].as_pem(private=False), it),
    "signed with the public key in another form": lambda it: hmac_with(KEYS["RSA"].as_der(private=False), it),
    "signed with an algorithm that is not pinned": lambda it: it.token(key=KEYS["RSA"], header={"alg": "RS512"}),
    "with an algorithm of another family": lambda it: it.token(key=KEYS["RSA"], header={"alg": "ES256"}),
    "with no algorithm": lambda it: raw(it, header=json.dumps({"kid": "rsa"})),
    "with a list of algorithms": lambda it: raw(it, header=json.dumps({"alg": ["RS256"], "kid": "rsa"})),
    "with a key of its own": lambda it: it.token(
        key=UNPUBLISHED, header={"jwk": UNPUBLISHED.as_dict(private=False), "kid": None}
    ),
    "with the address of its own keys": lambda it: it.token(
        key=UNPUBLISHED, header={"jku": "https://evil.example/jwks", "x5u": "https://evil.example/x5u"}
    ),
    "with a certificate of its own": lambda it: it.token(key=UNPUBLISHED, header={"x5c": ["MIIB"]}),
    # Type
    "an ID token, by its hash": lambda it: it.token(at_hash="x"),
    "an ID token, by its code": lambda it: it.token(c_hash="x"),
    "an ID token, by its nonce": lambda it: it.token(nonce="x"),
    "an ID token of Keycloak": lambda it: it.token(typ="ID"),
    "an ID token of Cognito": lambda it: it.token(token_use="id"),
    "a refresh token of Keycloak": lambda it: it.token(typ="Refresh"),
    "a marked token with the hash of an ID token": lambda it: it.token(header={"typ": "at+jwt"}, at_hash="x"),
    "a logout token": lambda it: it.token(header={"typ": "logout+jwt"}),
    "a logout token without a type": lambda it: it.token(
        events={"http://schemas.openid.net/event/backchannel-logout": {}}
    ),
    "a client's assertion": lambda it: it.token(header={"typ": "client-authentication+jwt"}),
    "a proof of possession": lambda it: it.token(header={"typ": "dpop+jwt"}),
    "of a type that is a number": lambda it: it.token(header={"typ": 1}),
    "bound to a key of its client": lambda it: it.token(cnf={"jkt": "x"}),
    "encrypted": encrypted,
    "in another token": lambda it: raw(it, header='{"alg":"RS256","kid":"rsa","cty":"JWT"}', payload=it.token()),
    # Reading
    "with another payload": lambda it: rewritten(it.token(), 1, lambda _: it.token("root").split(".")[1]),
    "with a critical extension": lambda it: it.token(header={"crit": ["exp"], "exp": 1}),
    "with an unencoded payload": lambda it: it.token(header={"b64": False, "crit": ["b64"]}),
    "with b64 alone": lambda it: it.token(header={"b64": False}),
    "with two subjects": lambda it: raw(it, payload=payload_with(it, '"sub":"root"')),
    "with two algorithms": lambda it: raw(it, header='{"alg":"RS256","kid":"rsa","alg":"none"}'),
    "with two names in a claim": lambda it: raw(it, payload=payload_with(it, '"a":{"b":1,"b":2}')),
    "with no number": lambda it: raw(it, payload=payload_with(it, '"a":NaN')),
    "with half a character": lambda it: raw(it, payload=payload_with(it, r'"a":"\ud800"')),
    "with a NUL": lambda it: raw(it, payload=payload_with(it, r'"a":"\u0000"')),
    "in another encoding": lambda it: raw(it, payload=json.dumps(it.claims()).encode("utf-16")),
    "nested too deeply": lambda it: raw(it, payload=payload_with(it, '"a":' + "[" * 5000 + "]" * 5000)),
    "with a number too long": lambda it: raw(it, payload=payload_with(it, '"a":' + "9" * 5000)),
    "that is a list": lambda it: raw(it, payload="[]"),
    "with a header that is a list": lambda it: f"{encoded(b'[]')}.{encoded(b'{}')}.AAAA",
    "that is no JSON": lambda _: "AAAA.AAAA.AAAA",
    "with padding": lambda it: rewritten(it.token(), 2, lambda part: part + "=="),
    "with a line break": lambda it: rewritten(it.token(), 1, lambda part: part + "\n"),
    "with the other base64": lambda it: rewritten(it.token(), 2, lambda part: "+/" + part[2:]),
    "with another spelling of its signature": lambda it: rewritten(it.token(), 2, other_ending),
    "of two parts": lambda it: it.token().rpartition(".")[0],
    "of four parts": lambda it: it.token() + ".AAAA",
    "of nothing": lambda _: "..",
    "not a token": lambda _: "not-a-token",
    "not ASCII": lambda it: it.token() + "é",
    "too long": lambda it: it.token(padding="x" * 20_000),
}  # fmt: skip


@pytest.fixture(scope="module")
async def verifier(servers: tuple[Issuer, Issuer]) -> AsyncIterator[TrustedIssuers]:
    async with verifying(trusted(fresh(servers[0]))) as verifier:
        yield verifier


@pytest.mark.parametrize("kind", FORGED)
async def test_a_forged_token_is_refused_without_quoting_it(
    verifier: TrustedIssuers, issuer: Issuer, kind: str
) -> None:
    token = FORGED[kind](issuer)
    with capture_logs() as logs, pytest.raises(NotAuthenticated) as refusal:
        await verifier.verify(token)
    assert refusal.value.error == "invalid_token"
    for part in [token, *token.split(".")]:
        if len(part) > 12:
            assert part not in refusal.value.message
            assert part not in str(logs)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
async def test_a_good_token_says_who_it_is(verifier: TrustedIssuers, issuer: Issuer, key: RSAKey) -> None:
    token = issuer.token("alice", groups=["scientists"], key=key, preferred_username="Alice", auth_time=1000)
    verified = await verifier.verify(token)
    identity = verified.identity
    assert (identity.issuer, identity.subject, identity.name) == (issuer.url, "alice", "Alice")
    assert (identity.kind, identity.groups) == (PrincipalKind.PERSON, frozenset({"scientists"}))
    assert verified.credential.authenticated_at == datetime.fromtimestamp(1000, UTC)
    assert verified.credential.scopes is None
    assert verified.expires_at == pytest.approx(time.time() + 3600, abs=60)


GOOD: dict[str, Callable[[Issuer], str]] = {
    "marked as an access token": lambda it: it.token(header={"typ": "at+jwt"}),
    "marked in full": lambda it: it.token(header={"typ": "application/at+jwt"}),
    "marked, with a nonce": lambda it: it.token(header={"typ": "at+jwt"}, nonce="x"),
    "of an old Keycloak, with a nonce": lambda it: it.token(typ="Bearer", nonce="x"),
    "without a type": lambda it: it.token(header={"typ": None}),
    "for several audiences": lambda it: it.token(aud=["other", AUDIENCE]),
    "just expired": lambda it: it.token(exp=int(time.time()) - 5),
    "of a clock that is ahead": lambda it: it.token(iat=int(time.time()) + 5, nbf=int(time.time()) + 5),
    "with an end of a fraction": lambda it: it.token(exp=time.time() + 60.5),
    "with a header that nobody knows": lambda it: it.token(header={"pi.atm": "1", "x5t": "x" * 600}),
    "without a time of issue": lambda it: it.token(iat=None),
}


@pytest.mark.parametrize("kind", GOOD)
async def test_a_token_of_an_honest_issuer_is_accepted(verifier: TrustedIssuers, issuer: Issuer, kind: str) -> None:
    assert (await verifier.verify(GOOD[kind](issuer))).identity.subject == "somebody"


async def test_scopes_that_name_us_limit_the_token(verifier: TrustedIssuers, issuer: Issuer) -> None:
    async def scopes(**claims: object) -> object:
        return (await verifier.verify(issuer.token(**claims))).credential.scopes  # type: ignore[arg-type]

    assert await scopes(scope="openid profile") is None
    assert await scopes(scope="openid countersign:track countersign:promote") == {Scope.TRACK, Scope.PROMOTE}
    assert await scopes(scp=["countersign:registry"]) == {Scope.REGISTRY}
    assert await scopes(scope="countersign:everything") == frozenset()
    with pytest.raises(NotAuthenticated):
        await scopes(scope={"countersign:track": True})


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (["scientists", "approvers"], {"scientists", "approvers"}),
        ("scientists", {"scientists"}),
        ({"scientists": True}, set()),
        ([["scientists"]], set()),
        (["scientists", 1], set()),
        ([], set()),
        (["", "x" * 256], set()),
    ],
)
async def test_groups_are_texts_or_none_at_all(
    verifier: TrustedIssuers, issuer: Issuer, groups: object, expected: set[str]
) -> None:
    assert (await verifier.verify(issuer.token(groups=groups))).identity.groups == expected


def without_groups(issuer: Issuer, **more: object) -> str:
    claims = issuer.claims(**more)  # type: ignore[arg-type]
    del claims["groups"]
    return raw(issuer, payload=json.dumps(claims))


async def test_groups_that_vanish_leave_none_and_are_told_once(issuer: Issuer) -> None:
    overage = {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph.example"}}}
    async with verifying(trusted(issuer)) as verifier:
        before = await verifier.verify(issuer.token(groups=["approvers"]))
        with capture_logs() as logs:
            for token in (without_groups(issuer), without_groups(issuer, **overage)) * 2:
                assert (await verifier.verify(token)).identity.groups == frozenset()
    assert before.identity.groups == {"approvers"}
    assert [(log["event"], log["why"]) for log in logs] == [
        ("token_without_groups", "the claim is missing or odd"),
        ("token_without_groups", "there are too many for a token"),
    ]


async def test_services_need_no_groups(issuer: Issuer) -> None:
    async with verifying(trusted(issuer, kind=PrincipalKind.SERVICE)) as verifier:
        with capture_logs() as logs:
            await verifier.verify(without_groups(issuer))
    assert [log for log in logs if log["event"] == "token_without_groups"] == []


async def test_each_issuer_has_its_own_rules_and_keys(issuer: Issuer, another: Issuer) -> None:
    another.keys = [new_key("rsa")]
    strict = trusted(another, "ci", audiences=frozenset({"ci"}), algorithms=("RS256",), kind=PrincipalKind.SERVICE)
    async with verifying(trusted(issuer), strict) as verifier:
        assert (await verifier.verify(issuer.token())).identity.kind is PrincipalKind.PERSON
        assert (await verifier.verify(another.token(aud="ci"))).identity.kind is PrincipalKind.SERVICE
        for token in (
            another.token(),
            issuer.token(aud="ci"),
            issuer.token(iss=another.url, aud="ci"),
            another.token(iss=issuer.url),
            another.token(aud="ci", key=KEYS["EC"]),
        ):
            with pytest.raises(NotAuthenticated):
                await verifier.verify(token)


async def test_an_unknown_issuer_is_not_asked(issuer: Issuer, another: Issuer) -> None:
    only_sign_in = trusted(another, "people", accepts_tokens=False)
    async with verifying(trusted(issuer), only_sign_in) as verifier:
        with pytest.raises(NotAuthenticated):
            await verifier.verify(another.token())
    assert (issuer.asked, another.asked) == (0, 0)


async def test_an_issuer_may_have_a_slash_at_its_end(issuer: Issuer) -> None:
    issuer.metadata_issuer = issuer.url + "/"
    async with verifying(replace(trusted(issuer), issuer=issuer.url + "/")) as verifier:
        assert await verifier.verify(issuer.token(iss=issuer.url + "/"))
        with pytest.raises(NotAuthenticated):
            await verifier.verify(issuer.token())


async def test_a_token_type_may_be_demanded(issuer: Issuer) -> None:
    async with verifying(trusted(issuer, token_type="at+jwt")) as verifier:
        assert await verifier.verify(issuer.token(header={"typ": "at+jwt"}))
        for kind in ("JWT", None):
            with pytest.raises(NotAuthenticated):
                await verifier.verify(issuer.token(header={"typ": kind}))


async def test_claim_rules_hold_a_shared_issuer_to_one_owner(issuer: Issuer) -> None:
    rules = {"repository": ("acme/*",), "ref_protected": ("true",), "run_attempt": ("1", "2")}
    async with verifying(trusted(issuer, claim_rules=rules)) as verifier:
        good = {"repository": "acme/model", "ref_protected": True, "run_attempt": 2}
        identity = (await verifier.verify(issuer.token(**good))).identity  # type: ignore[arg-type]
        assert identity.claims["repository"] == "acme/model"
        for change in (
            {"repository": "evil/acme"},
            {"repository": "Acme/model"},
            {"repository": None},
            {"repository": {"name": "acme/model"}},
            {"ref_protected": False},
            {"run_attempt": 3},
        ):
            with pytest.raises(NotAuthenticated) as refusal:
                await verifier.verify(issuer.token(**{**good, **change}))  # type: ignore[arg-type]
            assert f"`{next(iter(change))}`" in refusal.value.message


# Keys


@pytest.mark.parametrize(
    "published",
    [
        [new_key("rsa", use="enc").as_dict(private=False)],
        [{**KEYS["RSA"].as_dict(private=False), "key_ops": ["encrypt"]}],
        [{**KEYS["RSA"].as_dict(private=False), "alg": "RS512"}],
        [KEYS["RSA"].as_dict(private=True)],
        [KEYS["RSA"].as_dict(private=False), {**KEYS["RSA"].as_dict(private=False)}],
        [{"kty": "oct", "kid": "rsa", "k": encoded(b"x" * 32)}],
        [{"kty": "RSA", "kid": "rsa", "n": 5, "e": "AQAB"}],
        [{"kty": "RSA", "kid": "rsa", "n": "AQAB", "e": "AQAB"}],
        [{"kty": "unknown", "kid": "rsa"}, "no key", None],
        [],
    ],
    ids=["to encrypt", "to do otherwise", "of another algorithm", "private", "twice", "symmetric", "broken", "weak",
         "unknown", "none"],
)  # fmt: skip
async def test_a_key_that_is_not_for_this_verifies_nothing(issuer: Issuer, published: list[object]) -> None:
    issuer.jwks = {"keys": published}
    async with verifying(trusted(issuer)) as verifier:
        with pytest.raises(NotAuthenticated):
            await verifier.verify(issuer.token(key=KEYS["RSA"]))


async def test_a_bad_key_does_not_hide_a_good_one(issuer: Issuer) -> None:
    good = {"use": "sig", "key_ops": ["verify"], "alg": "RS256", **KEYS["RSA"].as_dict(private=False)}
    issuer.jwks = {"keys": [{"kty": "RSA"}, {"kty": "oct", "k": "AAAA", "kid": "rsa"}, good]}
    async with verifying(trusted(issuer)) as verifier:
        assert await verifier.verify(issuer.token(key=KEYS["RSA"]))


async def test_a_token_may_leave_out_the_key_of_an_issuer_with_one(issuer: Issuer) -> None:
    async with verifying(trusted(issuer)) as verifier:
        assert await verifier.verify(issuer.token(key=KEYS["EC"], header={"kid": None}))
    issuer.keys = [*KEYS.values(), new_key("second", "EC")]
    async with verifying(trusted(issuer)) as verifier:
        with pytest.raises(NotAuthenticated):
            await verifier.verify(issuer.token(key=KEYS["EC"], header={"kid": None}))


@pytest.mark.parametrize(
    "bad",
    [
        {"fails": True},
        {"redirects": True},
        {"jwks": b"<html>"},
        {"jwks": b'{"keys":[' + b" " * 600_000 + b"]}"},
        {"jwks": {"keys": [KEYS["RSA"].as_dict(private=False)] * 101}},
        {"jwks": []},
        {"jwks": {}},
        {"metadata_issuer": "https://evil.example"},
        {"metadata": {"jwks_uri": "http://evil.example/jwks"}},
        {"metadata": {"jwks_uri": "file:///etc/passwd"}},
        {"metadata": {"jwks_uri": None}},
    ],
    ids=["away", "redirecting", "HTML", "huge", "too many", "list", "empty", "another's", "http", "file", "nowhere"],
)  # fmt: skip
async def test_keys_that_cannot_be_had_are_said_to_be_away(issuer: Issuer, bad: dict[str, object]) -> None:
    for name, value in bad.items():
        setattr(issuer, name, value)
    clock = Time()
    async with verifying(trusted(issuer), clock=clock) as verifier:
        with pytest.raises(Unavailable):
            await verifier.verify(issuer.token())
        with pytest.raises(Unavailable):
            await verifier.check_alive()
        fresh(issuer)
        clock.offset_s += 6
        assert await verifier.verify(issuer.token())
        await verifier.check_alive()


async def test_a_slow_issuer_delays_nobody_elses_tokens(issuer: Issuer, another: Issuer) -> None:
    async with verifying(trusted(issuer), trusted(another, "other")) as verifier:
        issuer.stalls = True
        waiting = asyncio.create_task(verifier.verify(issuer.token()))
        assert await verifier.verify(another.token())
        assert not waiting.done()
        issuer.stalls = False
        assert await waiting


async def test_a_known_key_verifies_while_its_issuer_is_slow(issuer: Issuer) -> None:
    clock = Time()
    async with verifying(trusted(issuer), clock=clock) as verifier:
        await verifier.verify(issuer.token())
        clock.offset_s = 301
        issuer.stalls, asked = True, issuer.asked
        for _ in range(3):
            assert await verifier.verify(issuer.token(exp=int(time.time()) + 7200))
        issuer.stalls = False
        await verifier.verify(issuer.token(exp=int(time.time()) + 7200))
        assert issuer.asked - asked <= 2


async def test_waiting_clients_that_leave_do_not_stop_the_fetch(issuer: Issuer) -> None:
    issuer.stalls = True
    async with verifying(trusted(issuer)) as verifier:
        impatient, patient = (asyncio.create_task(verifier.verify(issuer.token())) for _ in range(2))
        while not issuer.asked:  # noqa: ASYNC110  # the server runs in a thread of its own
            await asyncio.sleep(0.001)
        impatient.cancel()
        issuer.stalls = False
        assert await patient
        assert issuer.asked == 2


async def test_keys_are_used_on_for_a_day_while_the_issuer_is_away(issuer: Issuer) -> None:
    clock = Time()
    async with verifying(trusted(issuer), clock=clock) as verifier:
        await verifier.verify(issuer.token())
        issuer.fails = True
        clock.offset_s = 23 * 3600
        assert await verifier.verify(issuer.token(exp=int(time.time()) + 200_000))
        clock.offset_s = 25 * 3600
        with pytest.raises(Unavailable):
            await verifier.verify(issuer.token(exp=int(time.time()) + 200_000))


async def test_a_rotated_key_is_picked_up_and_a_removed_one_forgotten(issuer: Issuer) -> None:
    clock = Time()
    async with verifying(trusted(issuer), clock=clock) as verifier:
        old = issuer.token(key=KEYS["RSA"], exp=int(time.time()) + 7200)
        await verifier.verify(old)
        issuer.keys = [new_key("new", "EC")]
        assert await verifier.verify(old)
        clock.offset_s = 6
        assert await verifier.verify(issuer.token())
        with pytest.raises(NotAuthenticated):
            await verifier.verify(old)


async def test_a_key_that_was_removed_while_nobody_asked_is_not_believed_once_more(issuer: Issuer) -> None:
    clock = Time()
    async with verifying(trusted(issuer), clock=clock) as verifier:
        old = issuer.token(key=KEYS["RSA"], exp=int(time.time()) + 7200)
        await verifier.verify(old)
        issuer.keys = [KEYS["EC"]]
        clock.offset_s = 1200
        with pytest.raises(NotAuthenticated):
            await verifier.verify(old)


async def test_made_up_key_names_do_not_make_us_hammer_the_issuer(issuer: Issuer) -> None:
    async with verifying(trusted(issuer)) as verifier:
        for number in range(20):
            with pytest.raises(NotAuthenticated):
                await verifier.verify(issuer.token(header={"kid": f"made-up-{number}"}))
    assert issuer.asked <= 4


async def test_a_new_key_of_an_issuer_that_went_away_is_not_called_wrong(issuer: Issuer) -> None:
    clock = Time()
    async with verifying(trusted(issuer), clock=clock) as verifier:
        await verifier.verify(issuer.token())
        issuer.fails = True
        clock.offset_s = 6
        with pytest.raises(Unavailable):
            await verifier.verify(issuer.token(key=new_key("new", "EC")))
        assert await verifier.verify(issuer.token())


async def test_keys_may_come_from_a_file_that_is_read_again(issuer: Issuer, tmp_path: Path) -> None:
    file, clock = tmp_path / "jwks.json", Time()
    file.write_text(json.dumps({"keys": [KEYS["RSA"].as_dict(private=False)]}))
    async with verifying(trusted(issuer, jwks_file=str(file)), clock=clock) as verifier:
        assert await verifier.verify(issuer.token(key=KEYS["RSA"]))
        file.write_text(json.dumps({"keys": [KEYS["EC"].as_dict(private=False)]}))
        clock.offset_s = 6
        assert await verifier.verify(issuer.token(key=KEYS["EC"]))
        file.unlink()
        clock.offset_s = 400
        assert await verifier.verify(issuer.token(key=KEYS["EC"]))
    assert issuer.asked == 0


async def test_keys_of_a_cluster_are_given_to_a_token_of_its_own(issuer: Issuer, tmp_path: Path) -> None:
    file, issuer.jwks_credential = tmp_path / "token", "Bearer of-the-pod"
    kubernetes = trusted(issuer, jwks_uri=f"{issuer.url}/jwks", jwks_token_file=str(file))
    clock = Time()
    async with verifying(kubernetes, clock=clock) as verifier:
        for content in ("of-another\n", "of-another\nline", "of-the-pod\n"):
            clock.offset_s += 6
            with capture_logs() as logs:
                file.write_text(content)
                if content == "of-the-pod\n":
                    assert await verifier.verify(issuer.token())
                    continue
                with pytest.raises(Unavailable):
                    await verifier.verify(issuer.token())
            assert "of-another" not in str(logs)


async def test_a_certificate_authority_that_cannot_be_read_is_said_at_the_start(issuer: Issuer, tmp_path: Path) -> None:
    for content in (None, "no certificate"):
        file = tmp_path / "ca.crt"
        if content:
            file.write_text(content)
        with pytest.raises(InvalidConfiguration, match=r"ca\.crt"):
            TrustedIssuers([trusted(issuer, ca_file=str(file))], Time())


async def test_one_issuer_that_is_away_does_not_make_the_gateway_unready(issuer: Issuer, another: Issuer) -> None:
    issuer.fails = True
    async with verifying(trusted(issuer), trusted(another, "other")) as verifier:
        await verifier.check_alive()


async def test_a_fetch_that_never_ends_is_given_up() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    kept = Kept(never, what="keys", of="idp", elapsed=Time(), within_s=0.01)
    with pytest.raises(Unavailable):
        await kept.get()
    await kept.close()


async def test_an_answer_that_drips_is_given_up(issuer: Issuer) -> None:
    issuer.stalls = True
    documents = Documents(within_s=0.05)
    with pytest.raises(Refused, match="no whole answer"):
        await documents.get(f"{issuer.url}/jwks")
    await documents.close()
    issuer.stalls = False


# Introspection


def introspecting(issuer: Issuer, **changed: object) -> TrustedIssuer:
    return trusted(issuer, introspection=Introspection("count/er", SECRET), **changed)


async def test_an_opaque_token_is_what_its_issuer_says(issuer: Issuer) -> None:
    token = issuer.introspects("alice", groups=["scientists"], scope="countersign:track", exp=int(time.time()) + 3600)
    async with verifying(introspecting(issuer)) as verifier:
        verified = await verifier.verify(token)
    assert (verified.identity.subject, verified.identity.groups) == ("alice", {"scientists"})
    assert verified.credential.scopes == {Scope.TRACK}
    assert verified.expires_at <= time.time() + 30
    authorization, form = issuer.introspected[0]
    assert form == {"token": token, "token_type_hint": "access_token"}
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"count%2Fer:s3cret%2Fwith%3Asigns"


async def test_a_token_of_a_client_is_a_service_that_no_person_can_be(issuer: Issuer) -> None:
    async with verifying(introspecting(issuer)) as verifier:
        job = (await verifier.verify(issuer.introspects(None, client_id="nightly"))).identity
        assert (job.subject, job.kind, job.claims["client_id"]) == ("client:nightly", PrincipalKind.SERVICE, "nightly")
        for token in (issuer.introspects("client:nightly"), issuer.token("client:nightly")):
            with pytest.raises(NotAuthenticated):
                await verifier.verify(token)


BAD_ANSWERS: dict[str, dict[str, object]] = {
    "inactive": {"active": False},
    "of another issuer": {"iss": "https://evil.example"},
    "for another audience": {"aud": "another"},
    "for no audience": {"aud": None},
    "expired": {"exp": 1},
    "not valid yet": {"nbf": 2**40},
    "of nobody": {"sub": None, "client_id": None},
    "of a person without a subject": {"sub": None, "username": "alice"},
    "of a look-alike": {"sub": "s\u043emebody"},
    "of a client that is no text": {"sub": None, "client_id": {"a": 1}},
    "a refresh token": {"token_use": "refresh_token"},
    "bound to a key": {"token_type": "DPoP"},
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
async def test_an_opaque_token_that_is_not_for_us_is_refused(issuer: Issuer, kind: str) -> None:
    token = issuer.introspects(**BAD_ANSWERS[kind])  # type: ignore[arg-type]
    async with verifying(introspecting(issuer)) as verifier:
        with pytest.raises(NotAuthenticated) as refusal:
            await verifier.verify(token)
    assert refusal.value.error == "invalid_token"


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, b"{}"),
        (401, b'{"error":"invalid_client"}'),
        (302, b""),
        (200, b"<html>sign in</html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"active":"true","sub":"root","aud":"countersign"}'),
        (200, b'{"active":false,"active":true,"sub":"root","aud":"countersign"}'),
        (200, b'{"active":true,"x":"' + b"x" * 600_000 + b'"}'),
    ],
)
async def test_an_endpoint_that_answers_wrongly_is_away_and_nothing_secret_is_logged(
    issuer: Issuer, status: int, answer: bytes
) -> None:
    issuer.introspection_status, issuer.opaque = status, {"opaque": answer}
    async with verifying(introspecting(issuer)) as verifier:
        with capture_logs() as logs, pytest.raises(Unavailable) as failure:
            await verifier.verify("opaque")
    assert "introspection_failed" in {log["event"] for log in logs}
    for text in (str(logs), failure.value.message):
        assert "opaque" not in text
        assert "s3cret" not in text


async def test_opaque_tokens_are_asked_of_each_issuer_until_one_knows_them(issuer: Issuer, another: Issuer) -> None:
    nobody = trusted(issuer, "without")
    async with verifying(introspecting(issuer), introspecting(another, name="other")) as verifier:
        token = "of-the-second"
        another.opaque[token] = {"active": True, "sub": "bob", "aud": AUDIENCE}
        assert (await verifier.verify(token)).identity.issuer == another.url
        issuer.introspection_status = 500
        assert (await verifier.verify(token)).identity.issuer == another.url
        with pytest.raises(Unavailable):
            await verifier.verify("of-nobody")
        issuer.introspection_status = 200
        with pytest.raises(NotAuthenticated):
            await verifier.verify("of-nobody")
        for token in ("with space", "wit\nbreak", "é" * 20, ""):
            with pytest.raises(NotAuthenticated):
                await verifier.verify(token)
    async with verifying(nobody) as verifier:
        asked = len(issuer.introspected)
        with pytest.raises(NotAuthenticated):
            await verifier.verify("a-made-up-token")
        assert len(issuer.introspected) == asked


async def test_an_answer_without_an_audience_needs_a_rule_on_its_client(issuer: Issuer) -> None:
    rules = {"client_id": ("nightly",)}
    async with verifying(introspecting(issuer, claim_rules=rules)) as verifier:
        assert await verifier.verify(issuer.introspects(aud=None, client_id="nightly"))
        for changed in ({"client_id": "other"}, {"client_id": "nightly", "aud": "another"}):
            with pytest.raises(NotAuthenticated):
                await verifier.verify(issuer.introspects(**{"aud": None, **changed}))  # type: ignore[arg-type]


async def test_what_introspection_leaves_out_of_a_person_userinfo_tells(issuer: Issuer) -> None:
    """Django OAuth Toolkit says a name and no subject; few say groups."""
    issuer.metadata = {"userinfo_endpoint": f"{issuer.url}/userinfo"}
    full = issuer.introspects("alice", groups=["scientists"])
    named = issuer.introspects(None, username="alice")
    async with verifying(introspecting(issuer)) as verifier:
        assert (await verifier.verify(full)).identity.groups == {"scientists"}
        issuer.userinfo[named] = {"sub": "1", "groups": ["scientists"], "aud": "x", "username": "root"}
        found = (await verifier.verify(named)).identity
        assert (found.subject, found.groups, found.claims["username"]) == ("1", {"scientists"}, "alice")
        swapped = issuer.introspects("alice")
        issuer.userinfo[swapped] = {"sub": "root", "groups": ["administrators"]}
        for token in (swapped, issuer.introspects(None, username="alice")):
            with pytest.raises(NotAuthenticated):
                await verifier.verify(token)
        assert (await verifier.verify(issuer.introspects("alice"))).identity.groups == set()


async def test_a_userinfo_endpoint_that_does_not_answer_lets_nobody_in_without_their_groups(issuer: Issuer) -> None:
    issuer.metadata = {"userinfo_endpoint": f"{issuer.url}/userinfo"}
    token = issuer.introspects("alice")
    issuer.userinfo[token] = b"<html>"
    async with verifying(introspecting(issuer)) as verifier:
        with pytest.raises(Unavailable):
            await verifier.verify(token)


async def test_an_issuer_that_wants_the_client_otherwise_is_asked_otherwise(issuer: Issuer) -> None:
    token = issuer.introspects()
    issuer.metadata = {"introspection_endpoint_auth_methods_supported": ["client_secret_post"]}
    async with verifying(introspecting(issuer)) as verifier:
        assert await verifier.verify(token)
    authorization, form = issuer.introspected[0]
    assert (authorization, form["client_id"], form["client_secret"]) == ("", "count/er", SECRET)


async def test_an_introspection_endpoint_that_is_slow_delays_no_signed_token(issuer: Issuer) -> None:
    async with verifying(introspecting(issuer)) as verifier:
        await verifier.verify(issuer.token())
        issuer.stalls = True
        waiting = asyncio.create_task(verifier.verify("made-up"))
        assert await verifier.verify(issuer.token())
        issuer.stalls = False
        with pytest.raises(NotAuthenticated):
            await waiting


def test_nothing_is_left_running() -> None:
    """Connections are closed: a warning would be an error."""
    gc.collect()
