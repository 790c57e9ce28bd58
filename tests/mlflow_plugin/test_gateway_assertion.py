"""What the gateway says to MLflow: signed, short-lived, kept for the next request, and harmless as a header."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from countersign_mlflow.assertions import Assertion, Verifier
from countersign_mlflow.assertions import Judged as Understood
from joserfc import jws, jwt
from joserfc.jwk import OctKey

from app.adapters.assertions import (
    GROUPS,
    HEADER,
    LIFETIME_S,
    OURSELVES,
    REMEMBERED,
    RENEWED_AFTER_S,
    USER,
    GatewayAssertion,
    digest_of,
)
from app.domain.access import Role
from app.ports import Judged
from tests.mlflow_plugin.conftest import SCIENTIST, SECRET
from tests.principals import principal


class SetClock:
    """A clock that shows what it is set to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def assertion(clock: SetClock) -> GatewayAssertion:
    return GatewayAssertion(SECRET, clock)


def token_of(headers: tuple[tuple[str, str], ...]) -> str:
    ((name, value),) = headers
    assert name == HEADER
    return value


def claims_of(headers: tuple[tuple[str, str], ...]) -> dict[str, object]:
    return dict(jwt.decode(token_of(headers), OctKey.import_key(SECRET), ["HS256"]).claims)


def test_a_token_says_who_asks_and_is_good_for_a_minute(assertion: GatewayAssertion, clock: SetClock) -> None:
    now = int(clock.now().timestamp())
    assert claims_of(assertion.headers(SCIENTIST)) == {
        "iss": "countersign",
        "aud": "mlflow",
        "sub": "https://issuer.example|1",
        "name": "scientist",
        "groups": ["scientists"],
        "iat": now,
        "exp": now + 60,
    }
    header = jws.extract_compact(token_of(assertion.headers(SCIENTIST)).encode()).headers()
    assert header == {"alg": "HS256", "typ": "countersign-assertion+jwt"}


def test_nobody_and_ourselves_are_told_apart_from_any_principal(assertion: GatewayAssertion) -> None:
    assert claims_of(assertion.headers(None))["sub"] == "anonymous"
    assert claims_of(assertion.headers(OURSELVES))["sub"] == "countersign"
    pretender = principal("countersign")
    assert claims_of(assertion.headers(pretender))["sub"] == "https://issuer.example|countersign"


def test_a_token_is_kept_until_half_its_life_is_over(assertion: GatewayAssertion, clock: SetClock) -> None:
    first = assertion.headers(SCIENTIST)
    clock.move(RENEWED_AFTER_S - 1)
    assert assertion.headers(SCIENTIST) is first
    clock.move(1)
    renewed = assertion.headers(SCIENTIST)
    assert claims_of(renewed)["exp"] == int(clock.now().timestamp()) + LIFETIME_S


@pytest.mark.parametrize("seconds", [-1, -3600, 3600])
def test_a_clock_that_is_set_makes_a_new_token(assertion: GatewayAssertion, clock: SetClock, seconds: int) -> None:
    assertion.headers(SCIENTIST)
    clock.move(seconds)
    assert claims_of(assertion.headers(SCIENTIST))["iat"] == int(clock.now().timestamp())


def test_each_principal_has_a_token_of_its_own(assertion: GatewayAssertion) -> None:
    others = [
        principal("2", name="scientist", groups=SCIENTIST.groups),
        principal("1", name="scientist", issuer="https://other.example", groups=SCIENTIST.groups),
        principal("1", name="renamed", groups=SCIENTIST.groups),
        principal("1", name="scientist"),
        None,
        OURSELVES,
    ]
    tokens = {token_of(assertion.headers(who)) for who in [SCIENTIST, *others]}
    assert len(tokens) == 1 + len(others)


def test_what_mlflow_is_not_told_makes_no_new_token(assertion: GatewayAssertion) -> None:
    promoted = principal("1", *Role, name="scientist", groups=SCIENTIST.groups)
    assert assertion.headers(promoted) is assertion.headers(SCIENTIST)


def test_a_judged_request_has_a_token_of_its_own_each_time(assertion: GatewayAssertion, clock: SetClock) -> None:
    ordinary = assertion.headers(SCIENTIST)
    fields = {"name": "m", "alias": "production", "version": "2"}
    judged = assertion.headers(SCIENTIST, Judged("POST", "/x", "SetRegisteredModelAlias", fields))
    assert claims_of(judged)["request"] == {
        "method": "POST",
        "path": "/x",
        "message": "SetRegisteredModelAlias",
        "digest": digest_of(fields),
    }
    assert assertion.headers(SCIENTIST) is ordinary
    assert "request" not in claims_of(ordinary)


def test_memory_is_bounded(assertion: GatewayAssertion) -> None:
    for number in range(REMEMBERED + 10):
        assertion.headers(principal(str(number), name="n"))
    assert len(assertion._kept) <= REMEMBERED


def test_without_a_secret_nothing_is_said(clock: SetClock) -> None:
    silent = GatewayAssertion(None, clock)
    assert silent.headers(SCIENTIST) == ()
    assert silent.headers(None, Judged("POST", "/x", "DeleteRun", {})) == ()


def test_the_secret_is_not_in_what_is_shown(assertion: GatewayAssertion) -> None:
    assert SECRET not in repr(vars(assertion))


def test_the_remote_user_is_told_if_that_is_wanted(clock: SetClock) -> None:
    told = dict(GatewayAssertion(None, clock, remote_user=True).headers(SCIENTIST))
    assert told == {USER: "scientist", GROUPS: "scientists"}
    assert set(dict(GatewayAssertion(SECRET, clock, remote_user=True).headers(SCIENTIST))) == {HEADER, USER, GROUPS}


def test_nobody_and_no_groups_are_no_headers(clock: SetClock) -> None:
    assertion = GatewayAssertion(None, clock, remote_user=True)
    assert assertion.headers(None) == ()
    assert assertion.headers(principal("s", name="alone")) == ((USER, "alone"),)


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("ann@example.com", "ann@example.com"),
        ("evil\r\nX-Remote-Groups: admins", "evil%0D%0AX-Remote-Groups:%20admins"),
        ("Müller", "M%C3%BCller"),
        ("日本", "%E6%97%A5%E6%9C%AC"),
        ("100%", "100%25"),
        (" padded\t", "%20padded%09"),
        ("nul\0", "nul%00"),
        ("lone\ud800", "lone?"),
        ("\x7f\x85\u2028", "%7F%C2%85%E2%80%A8"),
    ],
)
def test_a_name_cannot_break_a_header(clock: SetClock, name: str, sent: str) -> None:
    told = dict(GatewayAssertion(None, clock, remote_user=True).headers(principal("s", name=name)))
    assert told[USER] == sent


def test_one_group_cannot_become_two(clock: SetClock) -> None:
    groups = frozenset({"a,admins", "b", "c%2C", " d"})
    told = dict(GatewayAssertion(None, clock, remote_user=True).headers(principal("s", name="n", groups=groups)))
    assert told[GROUPS] == "%20d,a%2Cadmins,b,c%252C"


def test_any_name_can_be_signed(assertion: GatewayAssertion) -> None:
    for name in ("evil\r\nX: y", "Müller", "nul\0"):
        headers = assertion.headers(principal("s", name=name))
        assert token_of(headers).isascii()
        assert claims_of(headers)["name"] == name
    lone = principal("s\ud800", issuer="i", name="n\ud800", groups={"g\ud800"})
    claims = claims_of(assertion.headers(lone))
    assert (claims["sub"], claims["name"], claims["groups"]) == ("i|s?", "n?", ["g?"])


def test_the_other_side_reads_what_this_side_says(assertion: GatewayAssertion, clock: SetClock) -> None:
    verifier = Verifier(SECRET, lambda: clock.now().timestamp())
    expires_at = clock.now().timestamp() + LIFETIME_S
    ordinary = verifier.verify(token_of(assertion.headers(SCIENTIST)))
    assert ordinary == Assertion("https://issuer.example|1", expires_at, None)
    judged = verifier.verify(token_of(assertion.headers(SCIENTIST, Judged("DELETE", "/a%20b", "DeleteRun", {}))))
    assert judged.judged == Understood("DELETE", "/a%20b", "DeleteRun", digest_of({}))
