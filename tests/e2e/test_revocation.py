"""What is taken away on one gateway process is gone on the other within a second, though both remember who called."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from app.domain.identity import digest_of
from tests.conftest import database_of
from tests.issuer import Issuer
from tests.platform import Countersign, MlflowServer, free_port, new_countersign, until

WITHIN_S = 1.0
ME, TRACKING = "/control/v1/me", "/api/2.0/mlflow/experiments/get?experiment_id=0"
SIGN_IN = {"COUNTERSIGN_OIDC_CLIENT_ID": "countersign-web"}


@dataclass
class Pair:
    """Two gateways on one database, as behind a load balancer with one public address."""

    one: Countersign
    other: Countersign

    def status(self, gateway: Countersign, headers: dict[str, str], path: str) -> int:
        answer = httpx.get(f"{self.address(gateway)}{path}", headers=headers, timeout=30, trust_env=False)
        return answer.status_code

    def is_up(self, gateway: Countersign) -> bool:
        try:
            return self.status(gateway, {}, "/livez") == 200
        except httpx.HTTPError:
            return False

    def address(self, gateway: Countersign) -> str:
        return f"http://127.0.0.1:{gateway.environment['COUNTERSIGN_PORT']}"

    def call(self, who: str, method: str, path: str, **options: Any) -> httpx.Response:
        """Call the first one as somebody, with a token of the provider."""
        headers = {"Authorization": f"Bearer {self.one.token(who)}"}
        url = f"{self.address(self.one)}/control/v1{path}"
        return httpx.request(method, url, headers=headers, timeout=30, trust_env=False, **options)

    def both_let_in(self, headers: dict[str, str], path: str) -> None:
        """Twice each, so that both remember it."""
        for gateway in (self.one, self.other) * 2:
            assert self.status(gateway, headers, path) == 200

    def both_come_to_let_in(self, headers: dict[str, str], path: str) -> None:
        for gateway in (self.one, self.other):
            until(lambda gateway=gateway: self.status(gateway, headers, path) == 200, "being let in")

    def both_refuse(self, headers: dict[str, str], path: str, expected: int, *, since: float) -> None:
        """No request that was sent more than a second after it was taken away is let in."""
        for gateway in (self.one, self.other):
            while True:
                sent_after = time.monotonic() - since
                status = self.status(gateway, headers, path)
                assert status in {200, expected}
                if status == expected:
                    break
                assert sent_after <= WITHIN_S


@pytest.fixture(scope="module")
def pair(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    with (
        database_of(postgres, template_database) as url,
        new_countersign(url, mlflow_server, issuer, tmp_path_factory.mktemp("one")) as one,
    ):
        one.environment |= SIGN_IN
        changed = {"COUNTERSIGN_PORT": str(free_port())}
        other = replace(one, environment=one.environment | changed, logs=tmp_path_factory.mktemp("other"), processes=[])
        try:
            one.start("gateway")
            other.start("gateway")
            pair = Pair(one, other)
            until(lambda: pair.is_up(other), "the start of the second gateway")
            yield pair
        finally:
            other.stop()


def test_a_personal_token_that_is_revoked(pair: Pair) -> None:
    made = pair.call(
        "scientist", "POST", "/tokens", json={"name": "nightly", "scopes": ["track"], "expires_in_days": 1}
    ).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    pair.both_let_in(headers, TRACKING)
    assert pair.call("scientist", "DELETE", f"/tokens/{made['id']}").status_code == 204
    pair.both_refuse(headers, TRACKING, 401, since=time.monotonic())


def test_a_session_that_is_ended(pair: Pair) -> None:
    headers, session = browser_of(pair.one, "viewer")
    pair.both_let_in(headers, ME)
    assert pair.call("administrator", "DELETE", f"/sessions/{session}").status_code == 204
    pair.both_refuse(headers, ME, 401, since=time.monotonic())


def test_a_grant_that_is_removed(pair: Pair) -> None:
    stranger = {"Authorization": f"Bearer {pair.one.issuer.token('guest', groups=['guests'])}"}
    assert pair.status(pair.one, stranger, TRACKING) == 403
    document = {"role": "viewer", "subject": {"group": "guests"}}
    assert pair.call("administrator", "PUT", "/grants/guests", json=document).status_code in {200, 201}
    pair.both_come_to_let_in(stranger, TRACKING)
    assert pair.call("administrator", "DELETE", "/grants/guests").status_code == 204
    pair.both_refuse(stranger, TRACKING, 403, since=time.monotonic())


def test_a_person_who_is_disabled_with_whatever_they_come(pair: Pair) -> None:
    cookie, _ = browser_of(pair.one, "second-approver")
    bearer = {"Authorization": f"Bearer {pair.one.token('second-approver')}"}
    pair.both_let_in(cookie, ME)
    pair.both_let_in(bearer, ME)
    person = f"{pair.one.issuer.url}|second-approver"
    path = f"/principals/{quote(person, safe='')}/disable"
    assert pair.call("administrator", "POST", path).status_code == 200
    since = time.monotonic()
    pair.both_refuse(cookie, ME, 401, since=since)
    pair.both_refuse(bearer, ME, 401, since=since)


def browser_of(gateway: Countersign, who: str) -> tuple[dict[str, str], str]:
    """The headers of a browser in which somebody has signed in, and the id of the session."""
    secret, session = secrets.token_urlsafe(32), f"ses_{secrets.token_hex(8)}"
    principal = f"{gateway.issuer.url}|{who}"
    with psycopg.connect(gateway.environment["COUNTERSIGN_DATABASE_URL"]) as connection:
        connection.execute(
            "INSERT INTO principals VALUES (%s, %s, %s, %s, 'person', %s, '{}', now(), now())",
            (principal, gateway.issuer.url, who, who, []),
        )
        connection.execute(
            "INSERT INTO sessions (id, digest, principal_id, provider, created_at, authenticated_at, last_seen_at,"
            " expires_at, address, user_agent)"
            " VALUES (%s, %s, %s, 'default', now(), now(), now(), now() + interval '1 day', '', '')",
            (session, digest_of(secret), principal),
        )
    host = gateway.environment["COUNTERSIGN_PUBLIC_URL"].removeprefix("http://")
    return {"Cookie": f"countersign-session={secret}", "Host": host}, session
