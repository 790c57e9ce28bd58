"""Sessions: listed and ended by their owners and by administrators, at one statement each, and swept at their end."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from html import unescape
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa

from app.domain.identity import Scope
from app.domain.logins import Login
from app.services.identifiers import new_id
from tests.conftest import database_of
from tests.provider import CLIENT, Provider, running_provider
from tests.signing_in import PUBLIC_URL, SESSION, Desk, open_desk

LIST = "/control/v1/sessions"


@pytest.fixture(scope="module")
def providers() -> Iterator[dict[str, Provider]]:
    with running_provider() as one:
        yield {"one": one}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(
    postgres: Callable[[str], str], template_database: str, providers: dict[str, Provider]
) -> AsyncIterator[Desk]:
    with database_of(postgres, template_database) as url:
        async with open_desk(url, providers) as desk:
            yield desk


@pytest.fixture
def desk(shared: Desk) -> Desk:
    shared.providers["one"].__dict__.update(Provider(url=shared.providers["one"].url).__dict__)
    shared.clock.ahead = timedelta()
    return shared


async def signed_in(desk: Desk, subject: str, *groups: str, **headers: str) -> httpx.AsyncClient:
    browser = desk.browser(**headers)
    answer = await desk.sign_in(browser, sub=subject, preferred_username=subject, groups=list(groups))
    assert answer.status_code == 303
    return browser


async def items(browser: httpx.AsyncClient, **query: str) -> list[dict[str, object]]:
    answer = await browser.get(LIST, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


async def test_people_see_and_end_their_own_sessions(desk: Desk) -> None:
    firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    here, there = await signed_in(desk, "ada"), await signed_in(desk, "ada", **{"User-Agent": firefox})
    shown = await items(here)
    assert [item["current"] for item in shown] == [False, True]
    assert shown[0]["user_agent"] == firefox
    assert shown[0]["address"] == "192.0.2.1"

    assert (await here.delete(f"{LIST}/{shown[0]['id']}")).status_code == 204
    await desk.gone(there)
    assert [item["current"] for item in await items(here)] == [True]
    ended = [entry for entry in await desk.audit() if entry["object"] == shown[0]["id"]]
    assert [entry["action"] for entry in ended] == ["session.started", "session.ended"]
    assert ended[1]["details"]["reason"] == "ended"


async def test_all_others_end_at_once_and_this_one_goes_on(desk: Desk) -> None:
    here, *others = [await signed_in(desk, "grace") for _ in range(3)]
    assert (await here.delete(LIST)).json() == {"ended": 2}
    for other in others:
        await desk.gone(other)
    assert (await desk.me(here)).status_code == 200


async def test_nobody_sees_or_ends_those_of_others(desk: Desk) -> None:
    ada, eve = await signed_in(desk, "victim"), await signed_in(desk, "eve")
    (session,) = await items(ada)
    assert (await eve.delete(f"{LIST}/{session['id']}")).status_code == 404
    assert (await eve.delete(f"{LIST}/ses_none")).status_code == 404
    for whose in (str(session["principal"]), "*"):
        answer = await eve.get(LIST, params={"principal": whose}, headers={"Accept": "application/json"})
        assert answer.status_code == 403
    assert (await desk.me(ada)).status_code == 200


async def test_administrators_see_and_end_everybodys(desk: Desk) -> None:
    ada, boss = await signed_in(desk, "somebody"), await signed_in(desk, "boss", "administrators")
    (session,) = await items(ada)
    assert session["id"] in {item["id"] for item in await items(boss, principal="*", limit="200")}
    assert [item["id"] for item in await items(boss, principal=str(session["principal"]))] == [session["id"]]
    assert (await boss.delete(f"{LIST}/{session['id']}")).status_code == 204
    await desk.gone(ada)


async def test_pages_of_a_list_miss_nothing(desk: Desk) -> None:
    browsers = [await signed_in(desk, "many") for _ in range(5)]
    seen, cursor = [], None
    while True:
        answer = (await browsers[0].get(LIST, params={"limit": "2", **({"cursor": cursor} if cursor else {})})).json()
        seen += [item["id"] for item in answer["items"]]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 5


async def test_signing_out_ends_the_session_here_and_at_the_provider(desk: Desk) -> None:
    browser = await signed_in(desk, "leaving")
    answer = await browser.post("/auth/sign-out")
    assert answer.status_code == 200
    assert "You are signed out" in answer.text
    assert f'{SESSION}=""' in answer.headers["set-cookie"]
    (onward,) = re.findall(r'http-equiv="refresh" content="0;url=([^"]+)"', answer.text)
    address = urlsplit(unescape(onward))
    asked = dict(parse_qsl(address.query))
    assert f"{address.scheme}://{address.netloc}{address.path}" == f"{desk.providers['one'].url}/logout"
    assert asked["client_id"] == CLIENT
    assert asked["post_logout_redirect_uri"] == f"{PUBLIC_URL}/auth/signed-out"
    assert asked["id_token_hint"].count(".") == 2
    await desk.gone(browser)
    assert (await browser.post("/auth/sign-out")).status_code == 200, "twice is as good"


async def test_a_provider_ends_one_session_or_all_of_somebody(desk: Desk) -> None:
    provider = desk.providers["one"]
    provider.sid = "first"
    first = await signed_in(desk, "pat")
    provider.sid = "second"
    second = await signed_in(desk, "pat")
    provider.sid = "third"
    other = await signed_in(desk, "other")

    async def told(**changed: object) -> int:
        token = provider.logout_token(**changed)
        return (await desk.browser().post("/auth/backchannel-logout/one", data={"logout_token": token})).status_code

    assert await told(sub="other", sid="first") == 200, "a session of somebody else: it ends nothing"
    assert (await desk.me(first)).status_code == 200
    assert await told(sub=None, sid="first") == 200
    await desk.gone(first)
    assert (await desk.me(second)).status_code == 200
    assert await told(sub="pat", sid=None) == 200
    await desk.gone(second)
    assert (await desk.me(other)).status_code == 200
    reasons = [entry["details"]["reason"] for entry in await desk.audit() if entry["action"] == "session.ended"]
    assert reasons[-2:] == ["provider", "provider"]


async def test_a_session_costs_one_statement_and_tells_of_its_use_once_a_minute(desk: Desk) -> None:
    browser = await signed_in(desk, "counted")
    secret = browser.cookies.get(SESSION) or ""
    statements: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    engine = desk.database._engine.sync_engine
    sa.event.listen(engine, "before_cursor_execute", count)
    try:
        first = await desk.services.sessions.verify(secret)
        desk.clock.ahead = timedelta(seconds=59)
        second = await desk.services.sessions.verify(secret)
        desk.clock.ahead = timedelta(seconds=61)
        third = await desk.services.sessions.verify(secret)
    finally:
        sa.event.remove(engine, "before_cursor_execute", count)
    assert len(statements) == 3
    assert first.credential == second.credential == third.credential
    assert first.credential.id.startswith("ses_")
    assert first.expires_at < desk.clock.now().timestamp()
    (session,) = await items(browser)
    assert str(session["last_seen_at"]) > str(session["created_at"])


async def sweep(desk: Desk) -> None:
    async with desk.database.unit_of_work() as work:
        await work.sessions.sweep(desk.clock.now())
        await work.commit()


async def test_what_is_over_is_swept(desk: Desk) -> None:
    browser = await signed_in(desk, "swept")
    await desk.start(desk.browser())
    await sweep(desk)
    assert (await desk.me(browser)).status_code == 200
    desk.clock.ahead = timedelta(days=2, minutes=1)
    await sweep(desk)
    async with desk.database._engine.connect() as connection:
        for table in ("sessions", "sign_ins", "seen_token_ids"):
            assert (await connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))) == 0, table


async def test_the_account_page_shows_who_and_where(desk: Desk) -> None:
    browser = await signed_in(desk, "<b>ada</b>", "scientists", "<i>odd</i>")
    shown = (await browser.get("/auth/account")).text
    assert "<b>ada</b>" not in shown
    assert "&lt;b&gt;ada&lt;/b&gt;" in shown
    assert "&lt;i&gt;odd&lt;/i&gt;" in shown
    assert "requester" in shown
    assert "this browser" in shown


async def test_who_signs_in_as_a_service_sees_who_they_are_and_can_sign_out(desk: Desk) -> None:
    answer = await (await signed_in(desk, "robot", "robots")).get("/auth/account")
    assert answer.status_code == 200
    assert "Sign out" in answer.text
    assert "token-form" not in answer.text


async def test_a_page_that_loads_a_script_when_the_session_has_ended_is_sent_to_sign_in(desk: Desk) -> None:
    loads = {"Accept": "*/*", "Sec-Fetch-Dest": "script", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Site": "same-origin"}
    answer = await desk.browser().get("/auth/account", headers=loads)
    assert (answer.status_code, answer.text) == (200, "location.reload();\n")
    assert answer.headers["cache-control"] == "no-store"
    assert (
        await desk.browser().get("/auth/account", headers=loads | {"Sec-Fetch-Site": "cross-site"})
    ).status_code == 401
    token = loads | {"Authorization": "Bearer nothing"}
    assert (await desk.browser().get("/auth/account", headers=token)).status_code == 401


async def test_clients_that_act_for_somebody_are_shown_to_them_and_end(desk: Desk) -> None:
    browser, other = await signed_in(desk, "clients"), await signed_in(desk, "another")
    login = new_id("lgn")
    async with desk.database.unit_of_work() as work:
        (session,) = await items(browser)
        await work.logins.add(
            Login(
                id=login,
                principal_id=session["principal"],
                client="countersign-cli",
                scopes=frozenset({Scope.TRACK}),
                authenticated_at=desk.clock.now(),
                created_at=desk.clock.now(),
                refreshed_at=desk.clock.now(),
                expires_at=desk.clock.now() + timedelta(hours=1),
                address="192.0.2.7",
                user_agent="",
            ),
            refresh_digest=secrets.token_bytes(32),
        )
        await work.commit()
    shown = (await browser.get("/auth/account")).text
    assert "Countersign command line" in shown
    assert "192.0.2.7" in shown
    assert "Countersign command line" not in (await other.get("/auth/account")).text
    assert (await other.post(f"/auth/logins/{login}/end")).status_code == 404
    assert (await browser.post(f"/auth/logins/{login}/end")).status_code == 303
    assert "Countersign command line" not in (await browser.get("/auth/account")).text


async def test_sessions_end_from_the_account_page(desk: Desk) -> None:
    here, there = await signed_in(desk, "paged"), await signed_in(desk, "paged")
    (other,) = [item["id"] for item in await items(here) if not item["current"]]
    answer = await here.post(f"/auth/sessions/{other}/end")
    assert (answer.status_code, answer.headers["location"]) == (303, "/auth/account")
    await desk.gone(there)
    await signed_in(desk, "paged")
    assert (await here.post("/auth/sessions/end-others")).status_code == 303
    (mine,) = await items(here)
    answer = await here.post(f"/auth/sessions/{mine['id']}/end")
    assert answer.headers["location"] == "/auth/signed-out"
    await desk.gone(here)
    refused = await here.post(f"/auth/sessions/{mine['id']}/end")
    assert (refused.status_code, refused.headers["location"]) == (303, "/auth/sign-in")


async def test_pages_may_not_be_framed_kept_or_scripted(desk: Desk) -> None:
    for path in ("/auth/sign-in", "/auth/signed-out", "/auth/error", "/auth/callback/one?state=x"):
        answer = await desk.browser().get(path)
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["strict-transport-security"]
        assert not re.search(r"<style|<script(?! type=.module. src=./auth/assets/)| style=| on\w+=", answer.text), path


async def test_files_of_pages_are_kept_for_good_and_nothing_else_is_served(desk: Desk) -> None:
    page = (await desk.browser().get("/auth/sign-in")).text
    for address in re.findall(r'"(/auth/assets/[^"]+)"', page):
        answer = await desk.browser().get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    for name in ("pico.LICENSE.md", "..%2ftemplates%2fsign_in.html", "nothing.css"):
        assert (await desk.browser().get(f"/auth/assets/{name}")).status_code == 404


async def test_the_sign_in_page_knows_who_is_there_already(desk: Desk) -> None:
    browser = await signed_in(desk, "present")
    assert "You are signed in as <strong>present</strong>" in (await browser.get("/auth/sign-in")).text
    desk.clock.ahead = timedelta(hours=25)
    answer = await browser.get("/auth/sign-in")
    assert "You are signed in as" not in answer.text
    assert f'{SESSION}=""' in answer.headers["set-cookie"], "a cookie that is good for nothing is taken back"


async def test_at_another_address_people_are_led_to_the_right_one(desk: Desk) -> None:
    answer = await desk.browser().get("/auth/sign-in", headers={"Host": "other.example"})
    assert answer.status_code == 400
    assert f'href="{PUBLIC_URL}/auth/sign-in"' in answer.text


async def test_an_address_that_is_none_is_a_page_for_people_and_a_problem_for_programs(desk: Desk) -> None:
    for method, path in (("GET", "/auth/nothing"), ("GET", "/auth/sign-out")):
        page = await desk.browser().request(method, path)
        assert page.status_code == 404
        assert page.headers["content-type"].startswith("text/html")
        assert len(page.headers.get_list("content-length")) == 1
        problem = await desk.browser().request(method, path, headers={"Accept": "application/json"})
        assert problem.headers["content-type"] == "application/problem+json"


async def test_a_provider_that_is_not_there_is_no_dead_end(desk: Desk) -> None:
    for path in ("/auth/sign-in/none", "/auth/callback/none?state=x&code=y"):
        answer = await desk.browser().get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")
