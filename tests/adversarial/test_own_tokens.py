"""Attacks on tokens of ours and on the token endpoint: more than was given, stolen, guessed, mixed up, led astray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from urllib.parse import urlencode

import httpx
import pytest

from app.domain.errors import Forbidden
from app.domain.identity import Scope
from app.domain.tokens import Prefix, new_token
from tests.conftest import database_of
from tests.door import ACCESS_TOKEN, CLI, DASHBOARD, DEVICE, JWT, PUBLIC_URL, Door, Pkce, answered, open_door
from tests.issuer import Issuer, new_key


@pytest.fixture(scope="module")
async def strict_door(postgres: Callable[[str], str], template_database: str, issuer: Issuer) -> AsyncIterator[Door]:
    """One that lets five be refused in a minute."""
    with database_of(postgres, template_database) as url:
        async with open_door(url, issuer, rate=5) as door:
            yield door


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# ---- Personal tokens


@pytest.mark.parametrize("attended", ["approve", "admin"])
async def test_a_token_for_a_pipeline_can_neither_approve_nor_administer(door: Door, attended: str) -> None:
    """Whatever its owner may do: not beside another scope, and not for longer than a day."""
    browser = await door.signed_in("ada", groups=("administrators", "approvers"))
    for beside in ("track", "registry", "promote", "resolve"):
        answer = await door.create(browser, scopes=[attended, beside])
        assert answer.status_code == 400
        assert "cannot be in one token" in answer.json()["detail"]
    assert (await door.create(browser, scopes=[attended], expires_in_days=2)).status_code == 400
    assert (await door.create(browser, scopes=["approve", "admin"], expires_in_days=1)).status_code == 201


@pytest.mark.parametrize(
    "changed",
    [
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": "track"},
        {"expires_in_days": 0},
        {"expires_in_days": 31},
        {"expires_in_days": None},
        {"name": ""},
        {"name": " "},
        {"name": "a\u202eb"},
        {"name": "n" * 65},
        {"name": "with\x00null"},
        {"owner": "somebody-else"},
        {"kind": "login"},
    ],
    ids=str,
)
async def test_a_token_is_not_had_by_asking_oddly(door: Door, changed: dict[str, object]) -> None:
    assert (await door.create(await door.signed_in("bea"), **changed)).status_code == 400


async def test_a_token_makes_no_tokens(door: Door) -> None:
    browser = await door.signed_in("cleo")
    personal = (await door.create(browser, scopes=["track", "registry"])).json()
    exchanged = (await door.exchange(personal["token"], subject_token_type=ACCESS_TOKEN)).json()["access_token"]
    for token in (personal["token"], exchanged):
        for answer in (
            await door.create(bearer(token)),
            await door.http.get("/control/v1/tokens", headers=bearer(token)),
            await door.http.delete(f"/control/v1/tokens/{personal['id']}", headers=bearer(token)),
            await door.http.get("/control/v1/logins", headers=bearer(token)),
        ):
            assert answer.status_code == 403, answer.text
    assert [entry["action"] for entry in await door.audit()].count("access.denied") >= 8


async def test_a_service_gets_no_personal_token(door: Door) -> None:
    service = bearer(door.issuer.token("pipeline", groups=["services"]))
    assert (await door.create(service)).status_code == 403
    # Not with a browser either, if a provider should sign one in.
    assert (await door.create(await door.signed_in("robot", kind="service"))).status_code == 403


async def test_another_pages_form_makes_no_token(door: Door) -> None:
    browser = await door.signed_in("dora")
    for elsewhere in (
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": DASHBOARD, "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
        {"Origin": PUBLIC_URL, "Sec-Fetch-Site": "same-site"},
    ):
        answer = await door.create({"Cookie": browser["Cookie"], **elsewhere})
        assert answer.status_code == 403
    assert (await door.create({"Cookie": browser["Cookie"]})).status_code == 403


FORGED: dict[str, Callable[[str], str]] = {
    "mistyped": lambda token: token[:20] + ("a" if token[20] != "a" else "b") + token[21:],
    "cut off": lambda token: token[:-1],
    "too long": lambda token: token + "0",
    "of another kind": lambda token: token.replace("cs_pat_", "cs_log_"),
    "in other letters": lambda token: token.swapcase(),
    "with a look-alike": lambda token: token[:-1] + "\u0430",
    "made up": lambda _: new_token(Prefix.PERSONAL),
    "a refresh token": lambda _: new_token(Prefix.REFRESH),
    "a device code": lambda _: new_token(Prefix.DEVICE),
    "its prefix alone": lambda _: "cs_pat_",
    "followed by another": lambda token: f"{token} {token}",
}


@pytest.mark.parametrize("how", FORGED)
async def test_a_forged_token_is_refused_and_never_quoted(door: Door, how: str) -> None:
    good = (await door.create(await door.signed_in(f"emma {how}".replace(" ", "-")))).json()["token"]
    forged = FORGED[how](good)
    header = {"Authorization": f"Bearer {forged}".encode()}
    answer = await door.http.get("/control/v1/tokens", headers=header)
    assert answer.status_code == 401
    assert "error=" in answer.headers["www-authenticate"]
    assert forged not in answer.text + str(answer.headers)
    assert forged not in await door.everything_kept()


# ---- Exchange


async def test_an_exchange_gives_no_more_than_was_held(door: Door) -> None:
    browser = await door.signed_in("fay", groups=("approvers", "administrators"))
    attended = (await door.create(browser, scopes=["approve", "admin"])).json()["token"]
    for scope in ("approve", "admin", "track", "approve track"):
        answer = await door.exchange(attended, subject_token_type=ACCESS_TOKEN, scope=scope)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")
    # Nor do people and services get what is attended for their provider's token.
    for groups in (["administrators", "approvers"], ["services", "approvers"]):
        shown = door.issuer.token("gil", groups=groups)
        assert (await door.exchange(shown, scope="approve admin track")).json()["scope"] == "track"


async def test_what_was_exchanged_is_not_exchanged_again(door: Door) -> None:
    browser = await door.signed_in("hana")
    first = (await door.exchange(door.issuer.token("pipeline", groups=["services"]))).json()["access_token"]
    login = (await door.device_login(browser))["access_token"]
    for token in (first, login, new_token(Prefix.REFRESH)):
        answer = await door.exchange(token, subject_token_type=ACCESS_TOKEN)
        assert answer.json()["error"] == "invalid_request"
        assert "only a personal one" in answer.json()["error_description"]


async def test_a_bad_token_is_not_exchanged(door: Door) -> None:
    now = int(time.time())
    browser = await door.signed_in("ida")
    made = (await door.create(browser)).json()
    await door.http.delete(f"/control/v1/tokens/{made['id']}", headers=browser)
    for token, kind in (
        (door.issuer.token("pipeline", exp=now - 120), JWT),
        (door.issuer.token("pipeline", aud="another"), JWT),
        (door.issuer.token("pipeline", key=new_key("first")), JWT),
        ("nonsense", JWT),
        (made["token"], ACCESS_TOKEN),
        (made["token"], JWT),
        (new_token(Prefix.PERSONAL), ACCESS_TOKEN),
    ):
        answer = await door.exchange(token, subject_token_type=kind)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), answer.text
        assert token not in answer.text
    await door.disable("ida")
    answer = await door.exchange(door.issuer.token("ida"))
    assert "disabled" in answer.json()["error_description"]


async def test_a_token_that_is_revoked_while_it_is_exchanged_leaves_nothing_behind(door: Door) -> None:
    browser = await door.signed_in("jan")
    for _ in range(3):
        made = (await door.create(browser)).json()
        exchanged, _revoked = await asyncio.gather(
            door.exchange(made["token"], subject_token_type=ACCESS_TOKEN),
            door.http.delete(f"/control/v1/tokens/{made['id']}", headers=browser),
        )
        if exchanged.status_code == 200:
            assert await door.verifies(exchanged.json()["access_token"]) == "The token was revoked."


# ---- Refresh


async def test_a_stolen_refresh_token_ends_the_login_of_thief_and_victim(door: Door) -> None:
    stolen = await door.device_login(await door.signed_in("kim"))
    thief = (await door.refresh(stolen["refresh_token"])).json()
    assert await door.verifies(thief["access_token"]) is None
    victim = await door.refresh(stolen["refresh_token"])
    assert (victim.status_code, victim.json()["error"]) == (400, "invalid_grant")
    for token in (thief["access_token"], stolen["access_token"]):
        assert await door.verifies(token) == "The login of this token has ended. Sign in again."
    assert (await door.refresh(thief["refresh_token"])).json()["error"] == "invalid_grant"
    mine = [entry for entry in await door.audit() if entry["details"].get("owner") == door.id_of("kim")]
    assert [entry["action"] for entry in mine] == ["login.started", "login.refresh_reused", "login.ended"]
    assert mine[-1]["details"]["reason"] == "refresh-reused"


async def test_of_two_refreshes_at_once_one_wins_and_the_login_ends(door: Door) -> None:
    browser = await door.signed_in("lea")
    for _ in range(5):
        granted = await door.device_login(browser)
        answers = await asyncio.gather(*(door.refresh(granted["refresh_token"]) for _ in range(2)))
        assert sorted(answer.status_code for answer in answers) == [200, 400]
        (won,) = [answer.json() for answer in answers if answer.status_code == 200]
        assert await door.verifies(won["access_token"]) == "The login of this token has ended. Sign in again."


async def test_a_refresh_token_is_its_clients_and_gives_nothing_new(door: Door) -> None:
    granted = await door.device_login(await door.signed_in("mia"), scope="track promote")
    refresh_token = granted["refresh_token"]
    assert (await door.refresh(refresh_token, client_id="dashboard")).json()["error"] == "invalid_grant"
    assert (await door.refresh(refresh_token, client_id="nobody")).json()["error"] == "invalid_client"
    assert (await door.refresh(refresh_token, scope="admin")).json()["error"] == "invalid_scope"
    assert (await door.refresh(granted["access_token"])).json()["error"] == "invalid_grant"
    # None of that has used it up.
    assert (await door.refresh(refresh_token, scope="track admin")).json()["scope"] == "track"


async def test_a_disabled_person_refreshes_nothing(door: Door) -> None:
    browser = await door.signed_in("nora")
    granted = await door.device_login(browser)
    asked = (await door.http.post("/auth/device_authorization", data={"client_id": CLI, "scope": "track"})).json()
    await door.http.post("/auth/device", data={"user_code": asked["user_code"], "decision": "allow"}, headers=browser)
    pkce = Pkce()
    code = await door.code(browser, pkce)
    await door.disable("nora")
    assert await door.verifies(granted["access_token"]) == "An administrator has disabled this account."
    for answer in (
        await door.refresh(granted["refresh_token"]),
        await door.token(grant_type=DEVICE, device_code=asked["device_code"], client_id=CLI),
        await door.redeem(code, pkce),
    ):
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_a_token_that_is_worth_nothing_makes_no_gateway_forget_its_callers(door: Door) -> None:
    browser = await door.signed_in("olive")
    personal, granted = (await door.create(browser)).json()["token"], await door.device_login(browser)
    renewed = (await door.refresh(granted["refresh_token"])).json()

    async def epoch() -> int:
        async with door.database.unit_of_work() as work:
            value: int = await work.grants.epoch()
            return value

    async def revoke_all() -> None:
        for token in (personal, granted["access_token"], granted["refresh_token"], renewed["refresh_token"]):
            assert (await door.http.post("/auth/revoke", data={"token": token})).status_code == 200
        assert (await door.refresh(granted["refresh_token"])).status_code == 400

    before = await epoch()
    await revoke_all()
    after = await epoch()
    assert after == before + 2
    await revoke_all()
    assert await epoch() == after


# ---- Device flow


async def test_a_device_that_asks_too_often_is_told_to_slow_down(door: Door) -> None:
    asked = (await door.http.post("/auth/device_authorization", data={"client_id": CLI, "scope": "track"})).json()

    async def poll(after: float) -> str:
        door.clock.ahead += timedelta(seconds=after)
        answer = await door.token(grant_type=DEVICE, device_code=asked["device_code"], client_id=CLI)
        error: str = answer.json()["error"]
        return error

    try:
        assert [await poll(after) for after in (0, 0, 6, 16, 15)] == [
            "authorization_pending",
            "slow_down",
            "slow_down",  # 10 seconds by now
            "authorization_pending",  # 15
            "authorization_pending",
        ]
    finally:
        door.clock.ahead = timedelta()


async def test_a_device_code_is_for_its_client_and_not_guessed(door: Door) -> None:
    asked = (await door.http.post("/auth/device_authorization", data={"client_id": CLI, "scope": "track"})).json()
    for changed in (
        {"client_id": "dashboard"},
        {"device_code": new_token(Prefix.DEVICE)},
        {"device_code": asked["user_code"]},
    ):
        form = {"grant_type": DEVICE, "device_code": asked["device_code"], "client_id": CLI} | changed
        assert (await door.token(**form)).json()["error"] == "invalid_grant"
    web = await door.http.post("/auth/device_authorization", data={"client_id": "dashboard", "scope": "promote"})
    assert web.json()["error"] == "unauthorized_client"


async def test_a_user_code_is_decided_once_by_a_person_on_our_page(door: Door) -> None:
    ada, bea = await door.signed_in("olga"), await door.signed_in("pia")
    asked = (await door.http.post("/auth/device_authorization", data={"client_id": CLI, "scope": "track"})).json()
    form = {"user_code": asked["user_code"], "decision": "allow"}
    elsewhere = {"Cookie": ada["Cookie"], "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert (await door.http.post("/auth/device", data=form, headers=elsewhere)).status_code == 403
    token = (await door.create(ada)).json()["token"]
    assert (await door.http.post("/auth/device", data=form, headers=bearer(token))).status_code == 403
    robot = await door.signed_in("robot", kind="service")
    assert (await door.http.post("/auth/device", data=form, headers=robot)).status_code == 403
    assert (await door.http.post("/auth/device", data=form | {"decision": "maybe"}, headers=ada)).status_code == 400
    assert (await door.http.post("/auth/device", data=form, headers=ada)).status_code == 200
    # Whoever comes second decides nothing: it is bound to the first.
    for who in (bea, ada):
        assert (await door.http.post("/auth/device", data=form, headers=who)).status_code == 404
    granted = await door.token(grant_type=DEVICE, device_code=asked["device_code"], client_id=CLI)
    verified = await door.services.tokens.verify(granted.json()["access_token"])
    assert verified.identity.id == door.id_of("olga")


async def test_user_codes_are_not_guessed_for_long(strict_door: Door) -> None:
    browser = await strict_door.signed_in("ada")
    seen = [
        (await strict_door.http.get("/auth/device?user_code=BBBB-BBBB", headers=browser)).status_code for _ in range(7)
    ]
    assert seen == [404] * 5 + [429] * 2
    # Only who guesses must wait.
    other = await strict_door.signed_in("bea")
    assert (await strict_door.http.get("/auth/device?user_code=BBBB-BBBB", headers=other)).status_code == 404


async def test_refusals_and_devices_of_one_address_are_few(strict_door: Door) -> None:
    personal = (await strict_door.create(await strict_door.signed_in("cleo"))).json()["token"]
    answers = [await strict_door.refresh(new_token(Prefix.REFRESH)) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [400] * 5 + [429] * 2
    assert answers[-1].json()["error"] == "temporarily_unavailable"
    assert int(answers[-1].headers["retry-after"]) > 0
    # Who has what is good is let in all the same.
    assert (await strict_door.exchange(personal, subject_token_type=ACCESS_TOKEN)).status_code == 200
    form = {"client_id": CLI, "scope": "track"}
    asked = [(await strict_door.http.post("/auth/device_authorization", data=form)).status_code for _ in range(6)]
    assert asked == [200] * 5 + [429]


async def test_one_person_is_given_few_tokens_in_a_minute(strict_door: Door) -> None:
    browser = await strict_door.signed_in("dora")
    statuses = []
    for _ in range(31):
        made = await strict_door.create(browser)
        statuses.append(made.status_code)
        if made.status_code == 201:
            await strict_door.http.delete(f"/control/v1/tokens/{made.json()['id']}", headers=browser)
    assert statuses == [201] * 30 + [429]


async def test_what_is_refused_at_the_token_endpoint_is_in_the_audit_log_without_the_secret(door: Door) -> None:
    secret = new_token(Prefix.REFRESH)
    assert (await door.refresh(secret)).status_code == 400
    refused = [entry for entry in await door.audit() if entry["action"] == "authentication.refused"]
    assert (refused[-1]["object"], refused[-1]["details"]["address"]) == ("POST /auth/token", "127.0.0.1")
    assert secret not in str(refused)


# ---- Code flow


@pytest.mark.parametrize(
    "changed",
    [
        {"code_verifier": "of-another-request-and-long-enough-to-be-a-verifier"},
        {"code_verifier": ""},
        {"code_verifier": "short"},
        {"redirect_uri": f"{DASHBOARD}/signed-in"},
        {"redirect_uri": ""},
        {"client_id": CLI},
    ],
    ids=str,
)
async def test_a_code_is_good_for_who_asked_for_it_and_is_used_up_by_trying(
    door: Door, changed: dict[str, str]
) -> None:
    pkce = Pkce()
    code = await door.code(await door.signed_in("quin"), pkce)
    assert (await door.redeem(code, pkce, **changed)).json()["error"] == "invalid_grant"
    assert (await door.redeem(code, pkce)).json()["error"] == "invalid_grant"


async def test_a_code_is_good_for_a_minute(door: Door) -> None:
    pkce = Pkce()
    code = await door.code(await door.signed_in("rita"), pkce)
    door.clock.ahead = timedelta(seconds=61)
    try:
        assert (await door.redeem(code, pkce)).json()["error"] == "invalid_grant"
    finally:
        door.clock.ahead = timedelta()


async def test_a_code_that_comes_again_ends_the_login(door: Door) -> None:
    pkce = Pkce()
    code = await door.code(await door.signed_in("sara"), pkce)
    answers = await asyncio.gather(*(door.redeem(code, pkce) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 400]
    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert await door.verifies(won["access_token"]) == "The login of this token has ended. Sign in again."
    assert (await door.refresh(won["refresh_token"], client_id="dashboard")).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/signed-in",
        f"{DASHBOARD}/signed-in",
        f"{DASHBOARD}/signed-in?kept=1&more=1",
        f"{DASHBOARD}/signed-in?kept=1#fragment",
        f"{DASHBOARD}/other/../signed-in?kept=1",
        f"{DASHBOARD}.evil.example/signed-in?kept=1",
        "https://dashboard.example@evil.example/signed-in?kept=1",
        "http://dashboard.example/signed-in?kept=1",
        "//dashboard.example/signed-in?kept=1",
        "javascript:alert(1)",
        "http://127.0.0.1:8080/callback",
        "",
    ],
)
async def test_nobody_is_sent_to_an_address_that_is_not_registered(door: Door, uri: str) -> None:
    browser = await door.signed_in("tess")
    request = door.request(Pkce(), redirect_uri=uri)
    for answer in (
        await door.http.get(f"/auth/authorize?{urlencode(request)}", headers=browser),
        await door.http.post("/auth/authorize", data=request | {"decision": "allow"}, headers=browser),
    ):
        assert answer.status_code == 400
        assert "location" not in answer.headers
        assert "is not registered" in answer.text


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:8080/other",
        "http://127.0.0.1/callback",
        "http://127.0.0.1:99999/callback",
        "http://127.0.0.1:80@evil.example/callback",
        "http://127.0.0.1.evil.example:80/callback",
        "http://localhost:8080/callback",
        "https://127.0.0.1:8080/callback",
        "http://127.0.0.1:8080/callback?next=x",
        "http://127.0.0.1:8080/callback\n",
        "http://10.0.0.1:8080/callback",
    ],
)
async def test_the_command_line_is_answered_on_this_computer_alone(door: Door, uri: str) -> None:
    request = door.request(Pkce(), client_id=CLI, redirect_uri=uri)
    answer = await door.http.get(f"/auth/authorize?{urlencode(request)}", headers=await door.signed_in("tess"))
    assert (answer.status_code, "location" in answer.headers) == (400, False)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": ""}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
        ({"state": ""}, "invalid_request"),
        ({"scope": ""}, "invalid_scope"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"request": "eyJ"}, "request_not_supported"),
        ({"request_uri": "https://evil.example"}, "request_uri_not_supported"),
    ],
    ids=str,
)
async def test_a_client_is_told_what_is_wrong_and_by_whom(door: Door, changed: dict[str, str], error: str) -> None:
    browser = await door.signed_in("uma")
    request = door.request(Pkce(), **changed)
    for answer in (
        await door.http.get(f"/auth/authorize?{urlencode(request)}", headers=browser),
        await door.http.post("/auth/authorize", data=request | {"decision": "allow"}, headers=browser),
    ):
        assert answer.headers["location"].startswith(f"{DASHBOARD}/signed-in?kept=1&")
        said = answered(answer)
        assert (said["error"], said["iss"], "code" in said) == (error, PUBLIC_URL, False)
    twice = f"/auth/authorize?{urlencode(door.request(Pkce()))}&redirect_uri=https%3A%2F%2Fevil.example"
    answer = await door.http.get(twice, headers=browser)
    assert (answer.status_code, "location" in answer.headers) == (400, False)


async def test_nothing_is_allowed_in_silence_or_from_elsewhere(door: Door) -> None:
    browser, pkce = await door.signed_in("vera"), Pkce()
    await door.code(browser, pkce)
    again = await door.http.get(f"/auth/authorize?{urlencode(door.request(pkce))}", headers=browser)
    assert (again.status_code, "location" in again.headers) == (200, False)
    form = door.request(pkce) | {"decision": "allow"}
    elsewhere = {"Cookie": browser["Cookie"], "Origin": DASHBOARD, "Sec-Fetch-Site": "cross-site"}
    assert (await door.http.post("/auth/authorize", data=form, headers=elsewhere)).status_code == 403
    token = (await door.create(browser)).json()["token"]
    refused = await door.http.post("/auth/authorize", data=form, headers=bearer(token))
    assert (refused.status_code, "location" in refused.headers) == (403, False)
    with pytest.raises(Forbidden):
        await door.services.logins.allow(
            await door.services.authentication.authenticate(
                {"headers": [(b"authorization", f"Bearer {token}".encode())], "method": "POST", "path": "/"}
            ),
            None,
        )


# ---- The endpoint itself


@pytest.mark.parametrize(
    ("body", "media_type", "error"),
    [
        (b"", "application/x-www-form-urlencoded", "invalid_request"),
        (b"grant_type=password&username=a&password=b", "application/x-www-form-urlencoded", "unsupported_grant_type"),
        (b"grant_type=a&grant_type=b", "application/x-www-form-urlencoded", "invalid_request"),
        (b"grant_type", "application/x-www-form-urlencoded", "invalid_request"),
        (b"grant_type=%ff", "application/x-www-form-urlencoded", "invalid_request"),
        ("grant_type=ü".encode(), "application/x-www-form-urlencoded", "invalid_request"),
        (b"&".join(b"p%d=1" % number for number in range(99)), "application/x-www-form-urlencoded", "invalid_request"),
        (b'{"grant_type": "refresh_token"}', "application/json", "invalid_request"),
        (b"grant_type=refresh_token&client_id=countersign-cli", "application/x-www-form-urlencoded", "invalid_request"),
        (b"grant_type=refresh_token&client_secret=x", "application/x-www-form-urlencoded", "invalid_client"),
        (
            b"grant_type=refresh_token&client_id=countersign-cli&refresh_token=%00",
            "application/x-www-form-urlencoded",
            "invalid_grant",
        ),
    ],
    ids=str,
)
async def test_a_malformed_request_gets_a_clear_error(door: Door, body: bytes, media_type: str, error: str) -> None:
    answer = await door.http.post("/auth/token", content=body, headers={"Content-Type": media_type})
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert set(answer.json()) == {"error", "error_description"}
    assert answer.headers["cache-control"] == "no-store"


async def test_secrets_do_not_belong_into_addresses(door: Door) -> None:
    refused = await door.http.post("/auth/token?grant_type=refresh_token", data={"grant_type": "refresh_token"})
    assert "not in the address" in refused.json()["error_description"]
    for path in ("/auth/token", "/auth/revoke", "/auth/device_authorization"):
        assert (await door.http.get(path)).status_code == 405


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "*",
        "",
        f"{DASHBOARD}.evil.example",
        f"{DASHBOARD}:444",
        f"{DASHBOARD}/",
        "http://dashboard.example",
        "https://DASHBOARD.example",
        PUBLIC_URL,
    ],
)
async def test_scripts_of_other_origins_are_told_nothing(door: Door, origin: str) -> None:
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for answer in (
        await door.http.options("/auth/token", headers=asks),
        await door.http.options("/control/v1/tokens", headers=asks),
        await door.http.get("/control/v1/tokens", headers={"Origin": origin}),
        await door.http.get("/.well-known/oauth-protected-resource", headers={"Origin": origin}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.headers["vary"] == "Origin"


async def test_scripts_reach_no_page_and_ride_on_no_session(door: Door) -> None:
    browser = await door.signed_in("willa")
    for path in ("/auth/authorize", "/auth/device", "/auth/token/", "/control/docs"):
        answer = await door.http.options(path, headers={"Origin": DASHBOARD, "Access-Control-Request-Method": "POST"})
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    two: list[tuple[str, str]] = [("Origin", DASHBOARD), ("Origin", "https://evil.example")]
    answer = await door.http.request("GET", "/control/v1/tokens", headers=httpx.Headers(two))
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    # A browser would not send the cookie; if it did, what is changed with it comes from our own pages alone.
    answer = await door.create({"Cookie": browser["Cookie"], "Origin": DASHBOARD})
    assert answer.status_code == 403


async def test_a_web_client_never_administers(door: Door) -> None:
    granted = await door.code_login(await door.signed_in("xena", groups=("administrators",)), scope="promote admin")
    assert granted["scope"] == "promote"
    verified = await door.services.tokens.verify(granted["access_token"])
    assert verified.credential.scopes == {Scope.PROMOTE}
    path = f"/control/v1/tokens?principal={door.id_of('ada')}"
    assert (await door.http.get(path, headers=bearer(granted["access_token"]))).status_code == 403
