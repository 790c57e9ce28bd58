"""Logins: the device flow, the code flow, refresh, revocation, and what other pages' scripts may do."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import httpx2
from authlib.integrations.httpx_client import AsyncOAuth2Client

from tests.door import (
    ACCESS_TOKEN,
    CLI,
    CLIENTS,
    DASHBOARD,
    DEVICE,
    LISTED_ORIGIN,
    PUBLIC_URL,
    Door,
    Pkce,
    answered,
    fields_of,
    until,
)

NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}


async def ask(door: Door, scope: str = "track promote") -> dict[str, str]:
    answer = await door.http.post("/auth/device_authorization", data={"client_id": CLI, "scope": scope})
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    asked: dict[str, str] = answer.json()
    return asked


async def poll(door: Door, device_code: str) -> httpx.Response:
    return await door.token(grant_type=DEVICE, device_code=device_code, client_id=CLI)


async def test_a_person_signs_in_to_the_command_line_by_its_code(door: Door) -> None:
    browser = await door.signed_in("ada")
    asked = await ask(door)
    assert asked["verification_uri"] == f"{PUBLIC_URL}/auth/device"
    assert (asked["expires_in"], asked["interval"]) == (600, 5)
    assert (await poll(door, asked["device_code"])).json()["error"] == "authorization_pending"
    page = await door.http.get(asked["verification_uri_complete"], headers=browser | NAVIGATION)
    assert page.status_code == 200
    for shown in (asked["user_code"], "Countersign command line", "127.0.0.1", "<strong>promote</strong>", "Ada"):
        assert shown in page.text
    assert "approve and reject" not in page.text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    # A person may type it otherwise.
    typed = asked["user_code"].lower().replace("-", " ")
    decided = await door.http.post("/auth/device", data={"user_code": typed, "decision": "allow"}, headers=browser)
    assert "is signed in" in decided.text
    granted = await poll(door, asked["device_code"])
    assert granted.status_code == 200, granted.text
    tokens = granted.json()
    assert (tokens["token_type"], tokens["expires_in"], tokens["scope"]) == ("Bearer", 900, "promote track")
    verified = await door.services.tokens.verify(tokens["access_token"])
    assert verified.identity.id == door.id_of("ada")
    assert verified.credential.authenticated_at is not None
    # The code is good once.
    assert (await poll(door, asked["device_code"])).json()["error"] == "invalid_grant"
    kept = await door.everything_kept()
    for secret in (tokens["access_token"], tokens["refresh_token"], asked["device_code"]):
        assert secret not in kept


async def test_a_person_without_a_session_signs_in_first_and_comes_back(door: Door) -> None:
    asked = await ask(door)
    answer = await door.http.get(asked["verification_uri_complete"], headers=NAVIGATION)
    assert answer.status_code == 303
    place = urlsplit(answer.headers["location"])
    assert place.path == "/auth/sign-in"
    assert dict(parse_qsl(place.query))["next"] == f"/auth/device?user_code={asked['user_code']}"
    # A program is told what is missing, and is sent nowhere.
    assert (await door.http.get("/auth/device")).status_code == 401


async def test_a_person_may_say_no_to_a_device(door: Door) -> None:
    asked = await ask(door)
    form = {"user_code": asked["user_code"], "decision": "deny"}
    assert "not let in" in (await door.http.post("/auth/device", data=form, headers=await door.signed_in("bea"))).text
    assert (await poll(door, asked["device_code"])).json()["error"] == "access_denied"
    assert (await poll(door, asked["device_code"])).json()["error"] == "invalid_grant"


async def test_a_device_that_nobody_answers_is_told_that_its_time_is_over(door: Door) -> None:
    asked = await ask(door)
    door.clock.ahead = timedelta(minutes=10, seconds=1)
    try:
        assert (await poll(door, asked["device_code"])).json()["error"] == "expired_token"
        late = await door.http.get(asked["verification_uri_complete"], headers=await door.signed_in("bea"))
        assert late.status_code == 404
        assert "No client waits" in late.text
    finally:
        door.clock.ahead = timedelta()


async def test_a_foreign_oauth_client_gets_through_the_code_flow(door: Door) -> None:
    browser = await door.signed_in("cleo", groups=("approvers",))
    redirect_uri = CLIENTS[0]["redirectUris"][0]
    async with AsyncOAuth2Client(
        client_id="dashboard",
        redirect_uri=redirect_uri,
        scope="promote approve admin openid",
        code_challenge_method="S256",
        token_endpoint_auth_method="none",
        transport=httpx2.ASGITransport(door.http._transport.app),  # its requests are those of httpx2
    ) as client:
        verifier = Pkce().verifier
        url, state = client.create_authorization_url(f"{PUBLIC_URL}/auth/authorize", code_verifier=verifier)
        consent = await door.http.get(url, headers=browser | NAVIGATION)
        assert consent.status_code == 200, consent.text
        assert "Model &lt;b&gt;dashboard&lt;/b&gt; wants to act as you" in consent.text
        assert f"form-action 'self' {DASHBOARD}" in consent.headers["content-security-policy"]
        fields = fields_of(consent.text) | {"decision": "allow"}
        sent_back = await door.http.post("/auth/authorize", data=fields, headers=browser)
        assert sent_back.status_code == 303
        assert sent_back.headers["location"].startswith(f"{DASHBOARD}/signed-in?kept=1&code=")
        assert answered(sent_back)["iss"] == PUBLIC_URL
        token = await client.fetch_token(
            f"{PUBLIC_URL}/auth/token",
            authorization_response=sent_back.headers["location"],
            state=state,
            code_verifier=verifier,
        )
        # What was asked for, that the client may have: never admin, and openid is nothing of ours.
        assert token["scope"] == "approve promote"
        renewed = await client.refresh_token(f"{PUBLIC_URL}/auth/token", refresh_token=token["refresh_token"])
        assert renewed["access_token"] != token["access_token"]


async def test_the_command_line_may_answer_at_any_port_of_this_computer(door: Door) -> None:
    browser, pkce = await door.signed_in("dora"), Pkce()
    for uri in ("http://127.0.0.1:53121/callback", "http://[::1]:8/callback"):
        request = door.request(pkce, client_id=CLI, redirect_uri=uri, scope="track approve")
        page = await door.http.get(f"/auth/authorize?{urlencode(request)}", headers=browser)
        assert "this computer" in page.text
        code = await door.code(browser, pkce, client_id=CLI, redirect_uri=uri, scope="track approve")
        granted = await door.redeem(code, pkce, client_id=CLI, redirect_uri=uri)
        assert granted.json()["scope"] == "approve track"


async def test_a_person_may_say_no_to_a_client(door: Door) -> None:
    form = door.request(Pkce()) | {"decision": "deny"}
    answer = await door.http.post("/auth/authorize", data=form, headers=await door.signed_in("dora"))
    said = answered(answer)
    assert (said["error"], said["state"], said["iss"]) == ("access_denied", "state & more", PUBLIC_URL)
    assert "code" not in said


async def test_a_login_refreshes_itself_until_its_end(door: Door) -> None:
    granted = await door.device_login(await door.signed_in("emma"), scope="track promote")
    door.clock.ahead = timedelta(minutes=16)
    try:
        assert await door.verifies(granted["access_token"]) == "The token has expired."
        renewed = (await door.refresh(granted["refresh_token"])).json()
        assert await door.verifies(renewed["access_token"]) is None
        narrower = (await door.refresh(renewed["refresh_token"], scope="track")).json()
        assert narrower["scope"] == "track"
        # The login keeps what it has.
        whole = (await door.refresh(narrower["refresh_token"])).json()
        assert whole["scope"] == "promote track"
        door.clock.ahead = timedelta(days=7) - timedelta(minutes=5)
        last = (await door.refresh(whole["refresh_token"])).json()
        assert last["expires_in"] <= 300
        door.clock.ahead = timedelta(days=7, seconds=10)
        assert (await door.refresh(last["refresh_token"])).json()["error"] == "invalid_grant"
    finally:
        door.clock.ahead = timedelta()


async def test_logins_are_listed_and_ended_by_their_owner(door: Door) -> None:
    browser = await door.signed_in("fay")
    granted = await door.device_login(browser)
    headers = {"Authorization": f"Bearer {granted['access_token']}"}
    # The command line may look after its owner's logins, too.
    listed = (await door.http.get("/control/v1/logins", headers=headers)).json()["items"]
    assert [(item["client"], item["title"], item["address"]) for item in listed] == [
        (CLI, "Countersign command line", "127.0.0.1")
    ]
    stranger = await door.signed_in("gil")
    path = f"/control/v1/logins/{listed[0]['id']}"
    assert (await door.http.delete(path, headers=stranger)).status_code == 404
    assert (await door.http.delete(path, headers=browser)).status_code == 204
    assert await door.verifies(granted["access_token"]) == "The login of this token has ended. Sign in again."
    assert (await door.refresh(granted["refresh_token"])).json()["error"] == "invalid_grant"
    assert await door.actions(listed[0]["id"]) == ["login.started", "login.ended"]

    async def refused() -> bool:
        return (await door.me(granted["access_token"])).status_code == 401

    await until(refused, "the end of a login that was remembered")


async def test_whoever_holds_a_token_may_end_it(door: Door) -> None:
    browser = await door.signed_in("hana")
    for shown in ("access_token", "refresh_token"):
        granted = await door.device_login(browser)
        assert (await door.http.post("/auth/revoke", data={"token": granted[shown]})).status_code == 200
        assert await door.verifies(granted["access_token"]) == "The login of this token has ended. Sign in again."
        assert (await door.refresh(granted["refresh_token"])).json()["error"] == "invalid_grant"
    personal = (await door.create(browser)).json()["token"]
    narrowed = await door.exchange(personal, subject_token_type=ACCESS_TOKEN)
    assert (await door.http.post("/auth/revoke", data={"token": personal})).status_code == 200
    assert await door.verifies(personal) == "The token was revoked."
    # What was given for it goes with it.
    assert await door.verifies(narrowed.json()["access_token"]) == "The token was revoked."
    for unknown in (personal, "cs_pat_nonsense", "anything"):
        assert (await door.http.post("/auth/revoke", data={"token": unknown})).status_code == 200


async def test_the_command_line_makes_tokens_and_a_web_client_does_not(door: Door) -> None:
    browser = await door.signed_in("ida", groups=("approvers",))
    granted = await door.device_login(browser, scope="track registry")
    headers = {"Authorization": f"Bearer {granted['access_token']}"}
    assert (await door.create(headers, scopes=["track"])).status_code == 201
    refused = await door.create(headers, scopes=["promote"])
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:countersign:problem:insufficient-scope")
    web = {"Authorization": f"Bearer {(await door.code_login(browser))['access_token']}"}
    assert (await door.create(web, scopes=["promote"])).status_code == 403
    assert (await door.http.get("/control/v1/tokens", headers=web)).status_code == 403


async def test_scripts_of_listed_origins_may_call_us_without_cookies(door: Door) -> None:
    for origin in (DASHBOARD, LISTED_ORIGIN):
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        for path in ("/auth/token", "/control/v1/promotions", "/.well-known/oauth-protected-resource"):
            preflight = await door.http.options(path, headers=asks)
            assert preflight.status_code == 204
            assert preflight.headers["access-control-allow-origin"] == origin
            assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
            assert preflight.headers["vary"] == "Origin"
            assert "access-control-allow-credentials" not in preflight.headers
        refused = await door.http.get("/control/v1/tokens", headers={"Origin": origin})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == origin
        assert "WWW-Authenticate" in refused.headers["access-control-expose-headers"]


async def test_what_ended_a_while_ago_is_removed(door: Door) -> None:
    await door.device_login(await door.signed_in("jan"))
    await ask(door)
    door.clock.ahead = timedelta(days=60)
    try:
        assert await door.sweep() > 1
        assert await door.sweep() == 0
    finally:
        door.clock.ahead = timedelta()


async def test_every_step_is_in_the_audit_log(door: Door) -> None:
    granted = await door.device_login(await door.signed_in("kim"))
    await door.http.post("/auth/revoke", data={"token": granted["refresh_token"]})
    mine = [entry for entry in await door.audit() if entry["actor"]["id"] == door.id_of("kim")]
    assert [entry["action"] for entry in mine] == ["login.allowed", "login.started", "login.ended"]
    assert mine[-1]["details"]["reason"] == "signed-out"
    assert "cs_" not in str(mine)


async def test_a_login_approves_for_a_day_and_goes_on_without(door: Door) -> None:
    browser = await door.signed_in("lea", groups=("approvers",))
    whole = await door.device_login(browser, scope="track approve admin")
    attended = await door.device_login(browser, scope="approve")
    door.clock.ahead = timedelta(hours=23)
    try:
        whole = (await door.refresh(whole["refresh_token"])).json()
        assert whole["scope"] == "admin approve track"
        door.clock.ahead = timedelta(hours=24)
        assert (await door.refresh(whole["refresh_token"])).json()["scope"] == "track"
        refused = (await door.refresh(attended["refresh_token"])).json()
        assert (refused["error"], "sign in again" in refused["error_description"]) == ("invalid_grant", True)
    finally:
        door.clock.ahead = timedelta()
