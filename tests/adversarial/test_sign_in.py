"""Signing in against somebody who lies: at the provider, in the browser, and on the way between them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from joserfc.jwk import OctKey, RSAKey

from tests.conftest import database_of
from tests.provider import CLIENT, LOGOUT_EVENT, Provider, running_provider
from tests.signing_in import PATIENCE_S, PUBLIC_URL, SESSION, SIGN_IN, Desk, open_desk, trusted
from tests.unit.domain.test_sessions import OPEN_REDIRECTS


@pytest.fixture(scope="module")
def providers() -> Iterator[dict[str, Provider]]:
    with running_provider() as one, running_provider() as two:
        yield {"one": one, "two": two}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(
    postgres: Callable[[str], str], template_database: str, providers: dict[str, Provider]
) -> AsyncIterator[Desk]:
    with database_of(postgres, template_database) as url:
        async with open_desk(url, providers) as desk:
            yield desk


@pytest.fixture
def desk(shared: Desk) -> Desk:
    """The providers are honest again, and it is now."""
    for name, provider in shared.providers.items():
        fresh = Provider(url=provider.url)
        provider.__dict__.update(fresh.__dict__ | {"person": {"sub": f"ada-{name}", "preferred_username": "ada"}})
    shared.clock.ahead = timedelta()
    return shared


async def refused(desk: Desk, answer: httpx.Response, why: str, browser: httpx.AsyncClient) -> None:
    """A page that says why and leads on, no session, and a line in the audit log without a secret."""
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert re.search(why, answer.text), answer.text
    assert 'href="/auth/sign-in"' in answer.text
    assert SESSION not in answer.headers.get("set-cookie", "")
    assert browser.cookies.get(SESSION) is None
    last = (await desk.audit())[-1]
    assert last["action"] == "sign_in.refused"
    assert last["details"]["address"] == "192.0.2.1"


async def test_a_callback_cannot_be_replayed(desk: Desk) -> None:
    browser = desk.browser()
    parameters = desk.providers["one"].sign_in(await desk.start(browser))
    assert (await desk.come_back(browser, parameters)).status_code == 303
    session = browser.cookies.get(SESSION)
    again = await desk.come_back(browser, parameters)
    assert again.status_code == 400
    assert "used already" in again.text
    assert browser.cookies.get(SESSION) == session


async def test_of_two_callbacks_at_once_one_opens_a_session(desk: Desk) -> None:
    browser = desk.browser()
    parameters = desk.providers["one"].sign_in(await desk.start(browser))
    answers = await asyncio.gather(*(desk.come_back(browser, parameters) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [303, 400, 400]


async def test_an_answer_for_one_browser_is_no_answer_for_another(desk: Desk) -> None:
    """Somebody sends the end of their own sign-in to a victim, who would then work in their account."""
    attacker, victim = desk.browser(), desk.browser()
    parameters = desk.providers["one"].sign_in(await desk.start(attacker))
    await desk.start(victim)
    await refused(desk, await desk.come_back(victim, parameters), "another browser", victim)
    assert (await desk.come_back(attacker, parameters)).status_code == 400, "it was used up"


async def test_a_browser_without_the_cookie_is_told_so(desk: Desk) -> None:
    browser = desk.browser()
    parameters = desk.providers["one"].sign_in(await desk.start(browser))
    browser.cookies.clear()
    await refused(desk, await desk.come_back(browser, parameters), "Allow cookies", browser)


@pytest.mark.parametrize("state", ["", "x", "A" * 43, "A" * 5000, "ä" * 43])
async def test_an_answer_that_nobody_asked_for_is_refused(desk: Desk, state: str) -> None:
    browser = desk.browser()
    await desk.start(browser)
    parameters = {"code": "c", "state": state, "iss": desk.providers["one"].url}
    await refused(desk, await desk.come_back(browser, parameters), "used already|too long", browser)


async def test_a_late_answer_is_refused(desk: Desk) -> None:
    browser = desk.browser()
    parameters = desk.providers["one"].sign_in(await desk.start(browser))
    desk.clock.ahead = timedelta(minutes=10, seconds=1)
    await refused(desk, await desk.come_back(browser, parameters), "ten minutes", browser)


async def test_the_answer_of_one_provider_is_none_of_another(desk: Desk) -> None:
    """The mix-up attack: the code of one provider would go to the other's token endpoint."""
    browser = desk.browser()
    parameters = desk.providers["one"].sign_in(await desk.start(browser, "one"))
    desk.providers["two"].asked.clear()
    await refused(desk, await desk.come_back(browser, parameters, "two"), "Another provider", browser)
    assert "/token" not in desk.providers["two"].asked


@pytest.mark.parametrize(
    ("iss", "why"),
    [("https://evil.example", "Another provider"), ("", "Another provider"), (None, "does not say which provider")],
)
async def test_the_issuer_of_an_answer_is_checked(desk: Desk, iss: str | None, why: str) -> None:
    """RFC 9207: before the code goes anywhere."""
    browser = desk.browser()
    parameters = desk.providers["one"].sign_in(await desk.start(browser))
    changed = {name: value for name, value in (parameters | {"iss": iss}).items() if value is not None}
    desk.providers["one"].asked.clear()
    await refused(desk, await desk.come_back(browser, changed), why, browser)
    assert "/token" not in desk.providers["one"].asked


async def test_an_injected_code_fails_at_pkce(desk: Desk) -> None:
    """Somebody's stolen code, put into the answer for another sign-in."""
    victim, attacker = desk.browser(), desk.browser()
    stolen = desk.providers["one"].sign_in(await desk.start(victim))["code"]
    own = desk.providers["one"].sign_in(await desk.start(attacker))
    answer = await desk.come_back(attacker, own | {"code": stolen})
    await refused(desk, answer, "did not accept the code", attacker)
    assert "<script>" not in answer.text


async def test_an_injected_code_fails_at_the_nonce_where_a_provider_forgets_pkce(desk: Desk) -> None:
    desk.providers["one"].checks_pkce = False
    victim, attacker = desk.browser(), desk.browser()
    stolen = desk.providers["one"].sign_in(await desk.start(victim))["code"]
    own = desk.providers["one"].sign_in(await desk.start(attacker))
    await refused(desk, await desk.come_back(attacker, own | {"code": stolen}), "nonce", attacker)


FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "without a nonce": ({"id_token": {"nonce": None}}, "nonce"),
    "with another nonce": ({"id_token": {"nonce": "other"}}, "nonce"),
    "with a nonce that is no text": ({"id_token": {"nonce": 7}}, "nonce"),
    "of another issuer": ({"id_token": {"iss": "https://evil.example"}}, "another issuer"),
    "of no issuer": ({"id_token": {"iss": None}}, "another issuer"),
    "for another client": ({"id_token": {"aud": "other"}}, "another audience"),
    "for our API": ({"id_token": {"aud": "countersign"}}, "another audience"),
    "for nobody": ({"id_token": {"aud": None}}, "another audience"),
    "for two clients": ({"id_token": {"aud": [CLIENT, "other"]}}, "azp"),
    "for two clients, given to the other": ({"id_token": {"aud": [CLIENT, "other"], "azp": "other"}}, "azp"),
    "given to another client": ({"id_token": {"azp": "other"}}, "azp"),
    "given to a list": ({"id_token": {"azp": [CLIENT]}}, "azp"),
    "expired": ({"id_token": {"exp": int(time.time()) - 120}}, "expired"),
    "without an end": ({"id_token": {"exp": None}}, "exp"),
    "that ends never": ({"id_token": {"exp": "never"}}, "exp"),
    "without a beginning": ({"id_token": {"iat": None}}, "iat"),
    "of the future": ({"id_token": {"iat": int(time.time()) + 86_400}}, "future"),
    "not valid yet": ({"id_token": {"nbf": int(time.time()) + 86_400}}, "not valid yet"),
    "of nobody": ({"id_token": {"sub": None}}, "sub"),
    "of a blank subject": ({"id_token": {"sub": ""}}, "sub"),
    "of a look-alike": ({"id_token": {"sub": "аda-one"}}, "sub"),
    "of an invisible subject": ({"id_token": {"sub": "ada-one\u200b"}}, "sub"),
    "of a subject with a space": ({"id_token": {"sub": "ada-one "}}, "sub"),
    "of another access token": ({"id_token": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}}, "at_hash"),
    "signed with another key": ({"key": RSAKey.generate_key(2048)}, "verify"),
    "signed with an unknown key": ({"header": {"kid": "unknown"}}, "key that"),
    "signed with an algorithm that is not pinned": ({"header": {"alg": "RS512"}}, "algorithm"),
    "signed with the client's secret": ({"header": {"alg": "HS256"}, "key": OctKey.import_key("s" * 32)}, "algorithm"),
    "that is an access token": ({"header": {"typ": "at+jwt"}}, "type"),
    "that is a logout token": ({"header": {"typ": "logout+jwt"}}, "type"),
    "that is none": ({"answer": {"id_token": "no.id.token"}}, "not a signed"),
    "that is not there": ({"answer": {"id_token": None}}, "no ID token"),
    "that is a number": ({"answer": {"id_token": 7}}, "no ID token"),
}


@pytest.mark.parametrize("kind", FORGED)
async def test_an_id_token_is_refused(desk: Desk, kind: str) -> None:
    changes, why = FORGED[kind]
    desk.providers["one"].__dict__.update(changes)
    browser = desk.browser()
    await refused(desk, await desk.sign_in(browser), why, browser)


@pytest.mark.parametrize(
    "code",
    ["access_denied", "login_required", "server_error", "invalid_scope", "<script>alert(1)</script>", "x" * 3000],
)
async def test_what_a_provider_says_is_never_repeated(desk: Desk, code: str) -> None:
    browser = desk.browser()
    parameters = desk.providers["one"].sign_in(await desk.start(browser))
    del parameters["code"]
    said = {"error": code, "error_description": "<img src=x onerror=alert(1)>", "error_uri": "https://evil.example"}
    answer = await desk.come_back(browser, parameters | said)
    await refused(desk, answer, "provider", browser)
    assert "evil" not in answer.text
    assert "alert" not in answer.text


async def test_an_answer_that_says_something_twice_is_refused(desk: Desk) -> None:
    browser = desk.browser()
    parameters = desk.providers["one"].sign_in(await desk.start(browser))
    answer = await browser.get(f"/auth/callback/one?code=other&{httpx.QueryParams(parameters)}")
    assert answer.status_code == 400
    assert browser.cookies.get(SESSION) is None


async def test_userinfo_of_somebody_else_is_refused(desk: Desk, postgres: Any, template_database: str) -> None:
    said = {"sub": "somebody-else", "groups": ["administrators"]}
    with running_provider(userinfo=said) as liar, database_of(postgres, template_database) as url:
        async with open_desk(url, {"one": liar}) as other:
            liar.person = {"sub": "ada"}
            browser = other.browser()
            await refused(other, await other.sign_in(browser), "somebody else", browser)

            liar.userinfo = 503
            answer = await other.sign_in(browser)
            assert answer.status_code == 503, "groups that a denial needs may not be left out"

            liar.userinfo = 403
            assert (await other.sign_in(browser)).status_code == 303


@pytest.mark.parametrize("wanted", OPEN_REDIRECTS)
async def test_nobody_is_led_to_another_site(desk: Desk, wanted: str | None) -> None:
    answer = await desk.sign_in(desk.browser(), return_to=wanted or "")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"


async def test_a_session_that_somebody_put_there_is_ended_not_adopted(desk: Desk) -> None:
    attacker, victim = desk.browser(), desk.browser()
    await desk.sign_in(attacker, sub="mallory", preferred_username="mallory")
    planted = attacker.cookies.get(SESSION)
    assert planted
    victim.cookies.set(SESSION, planted, domain="gateway.example")
    await desk.sign_in(victim, sub="ada-one", preferred_username="ada")
    assert victim.cookies.get(SESSION) != planted
    (mine,) = (await desk.me(victim)).json()["items"][:1]
    assert mine["principal_name"] == "ada"
    await desk.gone(attacker)


async def test_a_made_up_cookie_opens_nothing(desk: Desk) -> None:
    for value in ("A" * 43, "x", "", "' OR 1=1 --", "A" * 100_000):
        answer = await desk.browser().get(
            "/control/v1/sessions", headers={"Cookie": f"{SESSION}={value}", "Accept": "application/json"}
        )
        assert answer.status_code == 401, value[:20]


async def test_a_tampered_cookie_opens_nothing(desk: Desk) -> None:
    browser = desk.browser()
    await desk.sign_in(browser)
    good = browser.cookies.get(SESSION) or ""
    for bad in (good[:-1] + ("A" if good[-1] != "A" else "B"), good[:-1], good + "A", good.swapcase()):
        answer = await desk.browser().get("/control/v1/sessions", headers={"Cookie": f"{SESSION}={bad}"})
        assert answer.status_code in {303, 401}
    assert (await desk.me(browser)).status_code == 200


@pytest.mark.parametrize("where", ["one line", "two lines"])
async def test_two_session_cookies_are_refused(desk: Desk, where: str) -> None:
    """Another host of the domain set one of them."""
    browser = desk.browser()
    await desk.sign_in(browser)
    good = f"{SESSION}={browser.cookies.get(SESSION)}"
    lines = [("Cookie", f"{good}; {SESSION}=other")] if where == "one line" else [("Cookie", good), ("Cookie", good)]
    answer = await desk.browser().get("/control/v1/sessions", headers=[*lines, ("Accept", "application/json")])
    assert answer.status_code == 401


async def test_cookies_of_other_names_and_hosts_are_not_ours(desk: Desk) -> None:
    browser = desk.browser()
    await desk.sign_in(browser)
    value = browser.cookies.get(SESSION)
    for name in ("countersign-session", "__Secure-countersign-session", "__host-countersign-session", "session"):
        answer = await desk.browser().get(
            "/control/v1/sessions", headers={"Cookie": f"{name}={value}", "Accept": "application/json"}
        )
        assert answer.status_code == 401


async def test_the_cookie_is_as_narrow_as_a_cookie_can_be(desk: Desk) -> None:
    browser = desk.browser()
    answer = await desk.sign_in(browser)
    (cookie,) = [line for line in answer.headers.get_list("set-cookie") if line.startswith(SESSION)]
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"secure", "httponly", "path=/", "samesite=lax"} <= attributes
    assert not any(attribute.startswith("domain") for attribute in attributes)


async def test_a_session_ends_when_it_is_idle_and_when_it_is_old(desk: Desk) -> None:
    browser = desk.browser()
    await desk.sign_in(browser)
    for hours in (7, 14, 21):
        desk.clock.ahead = timedelta(hours=hours)
        assert (await desk.me(browser)).status_code == 200
    desk.clock.ahead = timedelta(hours=24, seconds=1)
    await desk.gone(browser)

    desk.clock.ahead = timedelta()
    idle = desk.browser()
    await desk.sign_in(idle)
    desk.clock.ahead = timedelta(hours=8, seconds=1)
    await desk.gone(idle)
    desk.clock.ahead = timedelta(hours=1)


async def test_a_stolen_session_ends_with_the_sign_out(desk: Desk) -> None:
    browser, thief = desk.browser(), desk.browser()
    await desk.sign_in(browser)
    thief.cookies.set(SESSION, browser.cookies.get(SESSION) or "")
    assert (await desk.me(thief)).status_code == 200
    assert (await browser.post("/auth/sign-out")).status_code == 200
    await desk.gone(thief)


@pytest.mark.parametrize(
    "said",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": PUBLIC_URL, "Sec-Fetch-Site": "cross-site"},
        {"Origin": PUBLIC_URL, "Sec-Fetch-Site": "same-site"},
        {"Origin": PUBLIC_URL, "Host": "evil.example"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/auth/sign-out"),
        ("POST", "/auth/sessions/end-others"),
        ("POST", "/auth/sessions/ses_1/end"),
        ("DELETE", "/control/v1/sessions"),
        ("DELETE", "/control/v1/sessions/ses_1"),
    ],
)
async def test_pages_of_others_change_nothing(desk: Desk, method: str, path: str, said: dict[str, str]) -> None:
    browser, other = desk.browser(), desk.browser()
    await desk.sign_in(browser)
    await desk.sign_in(other)
    assert (await browser.request(method, path, headers=said)).status_code == 403
    assert len((await desk.me(other)).json()["items"]) >= 2


async def test_a_request_that_does_not_say_where_from_changes_nothing(desk: Desk) -> None:
    browser = desk.browser()
    await desk.sign_in(browser)
    request = browser.build_request("DELETE", "/control/v1/sessions")
    del request.headers["Origin"]
    assert (await browser.send(request)).status_code == 403


LOGOUT_FORGED: dict[str, dict[str, Any]] = {
    "for another client": {"aud": "other"},
    "of another issuer": {"iss": "https://evil.example"},
    "with a nonce": {"nonce": "n"},
    "without events": {"events": None},
    "with other events": {"events": {"https://example.com/other": {}}},
    "with an event that is no object": {"events": {LOGOUT_EVENT: True}},
    "without an id": {"jti": None},
    "with an empty id": {"jti": ""},
    "of nobody": {"sub": None, "sid": None},
    "of a session that is a number": {"sid": 7},
    "of an empty session": {"sid": ""},
    "expired": {"exp": int(time.time()) - 120},
    "without a beginning": {"iat": None},
    "old, and without an end": {"exp": None, "iat": int(time.time()) - 1000},
}


@pytest.mark.parametrize("kind", LOGOUT_FORGED)
async def test_a_forged_logout_token_ends_nothing(desk: Desk, kind: str) -> None:
    browser = desk.browser()
    await desk.sign_in(browser)
    token = desk.providers["one"].logout_token(**LOGOUT_FORGED[kind])
    answer = await desk.browser().post("/auth/backchannel-logout/one", data={"logout_token": token})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"] == "invalid_request"
    assert token not in answer.text
    assert (await desk.me(browser)).status_code == 200


async def test_an_id_token_is_no_logout_token(desk: Desk) -> None:
    provider = desk.providers["one"]
    now = int(time.time())
    id_token = provider.token({"iss": provider.url, "aud": CLIENT, "iat": now, "exp": now + 60, "sub": "ada-one"})
    answer = await desk.browser().post("/auth/backchannel-logout/one", data={"logout_token": id_token})
    assert answer.status_code == 400


async def test_a_logout_token_of_one_provider_is_none_of_another(desk: Desk) -> None:
    browser = desk.browser()
    await desk.sign_in(browser)
    token = desk.providers["two"].logout_token(sub="ada-one", iss=desk.providers["one"].url)
    assert (await desk.browser().post("/auth/backchannel-logout/two", data={"logout_token": token})).status_code == 400
    token = desk.providers["two"].logout_token(sub="ada-one")
    assert (await desk.browser().post("/auth/backchannel-logout/two", data={"logout_token": token})).status_code == 200
    assert (await desk.me(browser)).status_code == 200


async def test_a_logout_token_is_good_once(desk: Desk) -> None:
    token = desk.providers["one"].logout_token()
    first = desk.browser()
    await desk.sign_in(first)
    assert (await desk.browser().post("/auth/backchannel-logout/one", data={"logout_token": token})).status_code == 200
    await desk.gone(first)
    second = desk.browser()
    await desk.sign_in(second)
    assert (await desk.browser().post("/auth/backchannel-logout/one", data={"logout_token": token})).status_code == 400
    assert (await desk.me(second)).status_code == 200


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"logout_token": "x"}'),
        ("application/x-www-form-urlencoded", b""),
        ("application/x-www-form-urlencoded", b"logout_token=a&logout_token=b"),
        ("application/x-www-form-urlencoded", "logout_token=ä".encode()),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=b" % i for i in range(50))),
        ("multipart/form-data", b"--"),
    ],
)
async def test_a_malformed_logout_is_refused(desk: Desk, kind: str, body: bytes) -> None:
    answer = await desk.browser().post("/auth/backchannel-logout/one", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_request"


async def test_two_people_with_one_e_mail_stay_two(desk: Desk) -> None:
    one, two = desk.browser(), desk.browser()
    shared = {"email": "ada@example.org", "email_verified": True, "preferred_username": "ada"}
    await desk.sign_in(one, "one", sub="same-subject", **shared)
    await desk.sign_in(two, "two", sub="same-subject", **shared)
    (of_one,), (of_two,) = [(await desk.me(browser)).json()["items"] for browser in (one, two)]
    assert of_one["principal"] != of_two["principal"]
    assert (await one.delete(f"/control/v1/sessions/{of_two['id']}")).status_code == 404


async def test_groups_that_vanish_are_gone_for_older_sessions_too(desk: Desk) -> None:
    old, new = desk.browser(), desk.browser()
    await desk.sign_in(old, sub="boss", groups=["administrators"])
    assert (await old.get("/control/v1/sessions?principal=*")).status_code == 200
    await desk.sign_in(new, sub="boss", groups=[])
    everybodys = {"url": "/control/v1/sessions?principal=*", "headers": {"Accept": "application/json"}}
    assert (await new.get(**everybodys)).status_code == 403
    until = time.monotonic() + PATIENCE_S
    while (answer := await old.get(**everybodys)).status_code != 403:
        assert time.monotonic() < until, answer.text


async def test_a_disabled_person_cannot_sign_in_and_is_thrown_out(desk: Desk) -> None:
    browser = desk.browser()
    await desk.sign_in(browser, sub="dismissed")
    principal = f"{desk.providers['one'].url}|dismissed"
    async with desk.database.unit_of_work() as work:
        await work.principals.set_disabled(principal, at=desk.clock.now(), by="administrator")
        work.forget_callers()
        await work.commit()
    await desk.gone(browser)
    again = desk.browser()
    await refused(desk, await desk.sign_in(again), "disabled", again)


async def test_too_many_refusals_make_one_address_wait_and_nobody_else(
    providers: dict[str, Provider], desk: Desk, postgres: Any, template_database: str
) -> None:
    with database_of(postgres, template_database) as url:
        async with open_desk(url, providers, refusals=3) as strict:
            failing = strict.browser(address="192.0.2.66")
            statuses = [(await strict.come_back(failing, {"state": "x"})).status_code for _ in range(5)]
            assert statuses == [400, 400, 400, 429, 429]
            assert len([entry for entry in await strict.audit() if entry["action"] == "sign_in.refused"]) == 3
            answer = await strict.come_back(failing, {"state": "x"})
            assert answer.headers["retry-after"] == "60"
            # Whoever is right gets in, also from where somebody fails all the time, as behind one proxy.
            for elsewhere in ("192.0.2.66", "192.0.2.7"):
                assert (await strict.sign_in(strict.browser(address=elsewhere))).status_code == 303


async def test_no_flood_of_bad_logout_tokens_keeps_a_provider_from_ending_a_session(
    providers: dict[str, Provider], desk: Desk, postgres: Any, template_database: str
) -> None:
    with database_of(postgres, template_database) as url:
        async with open_desk(url, providers, refusals=2) as strict:
            browser = strict.browser()
            await strict.sign_in(browser)
            sent = "/auth/backchannel-logout/one"
            bad = [(await browser.post(sent, data={"logout_token": "a.b.c"})).status_code for _ in range(4)]
            assert bad == [400, 400, 429, 429]
            good = await browser.post(sent, data={"logout_token": strict.providers["one"].logout_token()})
            assert good.status_code == 200, good.text
            await strict.gone(browser)


async def test_nobody_fills_the_audit_log_with_pages_of_others(
    providers: dict[str, Provider], desk: Desk, postgres: Any, template_database: str
) -> None:
    with database_of(postgres, template_database) as url:
        async with open_desk(url, providers, refusals=2) as strict:
            stranger = strict.browser(Origin="https://evil.example")
            answers = [await stranger.post("/auth/sign-out") for _ in range(5)]
            assert [answer.status_code for answer in answers] == [403] * 5
            assert len(await strict.audit()) == 2


async def test_a_page_that_asks_on_after_its_session_has_ended_still_leads_to_the_sign_in(
    desk: Desk, postgres: Any, template_database: str
) -> None:
    with database_of(postgres, template_database) as url:
        async with open_desk(url, desk.providers, refusals=2) as strict:
            browser = strict.browser(Cookie=f"{SESSION}={'A' * 43}")
            assert [(await strict.me(browser)).status_code for _ in range(5)] == [401] * 5
            answer = await browser.get("/auth/account")
            assert (answer.status_code, answer.headers["location"]) == (303, "/auth/sign-in?next=%2Fauth%2Faccount")
            assert len(await strict.audit()) == 2, "what anybody can cause is written down so often and no more"


async def test_a_provider_that_is_gone_from_the_configuration_has_no_sessions(
    desk: Desk, postgres: Any, template_database: str
) -> None:
    with database_of(postgres, template_database) as url:
        async with open_desk(url, desk.providers) as before:
            browser = before.browser()
            await before.sign_in(browser)
            cookie = browser.cookies.get(SESSION) or ""
        two = {"one": desk.providers["two"]}
        async with open_desk(url, two, issuers=[trusted("one", desk.providers["two"])]) as after:
            stale = after.browser()
            stale.cookies.set(SESSION, cookie)
            assert (await after.me(stale)).status_code == 401


async def test_nothing_secret_is_kept_as_it_is(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    browser = desk.browser()
    url = await desk.start(browser)
    parameters = desk.providers["one"].sign_in(url)
    await desk.come_back(browser, parameters)
    secrets = [browser.cookies.get(SESSION) or "", browser.cookies.get(SIGN_IN) or "", parameters["state"]]
    assert all(secrets)
    import sqlalchemy as sa

    async with desk.database._engine.connect() as connection:
        for table in ("sessions", "sign_ins", "audit_entries"):
            rows = str((await connection.execute(sa.text(f"SELECT * FROM {table}"))).all())
            assert not any(secret in rows for secret in secrets), table
            assert "eyJ" not in rows, "an ID token"
