"""Token exchange (RFC 8693): a provider's token, or a personal one, for a shorter and narrower one."""

from __future__ import annotations

import time
from datetime import timedelta

from app.domain.identity import CredentialKind, PrincipalKind
from tests.door import ACCESS_TOKEN, JWT, PUBLIC_URL, Door


async def test_a_pipeline_gets_a_narrow_token_for_its_issuers(door: Door) -> None:
    answer = await door.exchange(door.issuer.token("pipeline", groups=["services"]), scope="track registry")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    given = answer.json()
    assert given["issued_token_type"] == ACCESS_TOKEN
    assert (given["token_type"], given["expires_in"], given["scope"]) == ("Bearer", 900, "registry track")
    assert "refresh_token" not in given
    verified = await door.services.tokens.verify(given["access_token"])
    assert verified.credential.kind is CredentialKind.EXCHANGED
    assert (verified.identity.id, verified.identity.kind) == (door.id_of("pipeline"), PrincipalKind.SERVICE)
    # As the token said it, not as another one says later.
    await door.signed_in("pipeline", groups=("administrators",))
    assert (await door.services.tokens.verify(given["access_token"])).identity.groups == {"services"}
    assert await door.actions(verified.credential.id) == ["token.exchanged"]


async def test_it_lasts_no_longer_than_the_token_that_was_shown(door: Door) -> None:
    answer = await door.exchange(door.issuer.token("short", exp=int(time.time()) + 100))
    assert 0 < answer.json()["expires_in"] <= 130  # the verifier allows for clocks that differ
    door.clock.ahead = timedelta(minutes=3)
    try:
        assert await door.verifies(answer.json()["access_token"]) == "The token has expired."
    finally:
        door.clock.ahead = timedelta()


async def test_a_personal_token_is_narrowed(door: Door) -> None:
    browser = await door.signed_in("ada", groups=("approvers",))
    personal = (await door.create(browser, scopes=["track", "registry", "promote"])).json()["token"]
    answer = await door.exchange(personal, subject_token_type=ACCESS_TOKEN, scope="track approve resolve")
    assert answer.json()["scope"] == "track"


async def test_it_is_for_us_alone(door: Door) -> None:
    shown = door.issuer.token("pipeline", groups=["services"])
    for ours in ({"audience": PUBLIC_URL}, {"resource": f"{PUBLIC_URL}/"}):
        assert (await door.exchange(shown, **ours)).status_code == 200
    for others in ({"audience": "https://elsewhere.example"}, {"resource": "countersign"}):
        answer = await door.exchange(shown, **others)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")


async def test_what_is_missing_or_not_offered_is_named(door: Door) -> None:
    shown = door.issuer.token("pipeline", groups=["services"])
    for changed, named in (
        ({"subject_token": ""}, "subject_token"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "subject_token_type"),
        ({"actor_token": shown, "actor_token_type": JWT}, "actor_token"),
        ({"requested_token_type": JWT}, "requested_token_type"),
    ):
        answer = await door.exchange(**({"subject_token": shown} | changed))
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        assert named in answer.json()["error_description"]
    for scope in ("", "openid", "approve", "admin approve"):
        answer = await door.exchange(shown, scope=scope)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")
