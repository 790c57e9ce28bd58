"""Proving anew who one is: asked of the provider, read from its ID token, kept with the session and its logins."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from app.domain.identity import Credential
from app.domain.sessions import cookies_of
from tests.conftest import database_of
from tests.door import Door
from tests.provider import Provider, running_provider
from tests.signing_in import PUBLIC_URL, Desk, open_desk

STEP_UP = "max_age=300&acr_values=urn%3Amfa+urn%3Ahwk"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
async def desk(postgres: Callable[[str], str], template_database: str, provider: Provider) -> AsyncIterator[Desk]:
    with database_of(postgres, template_database) as url:
        async with open_desk(url, {"one": provider}) as desk:
            yield desk


async def credential(desk: Desk, browser: httpx.AsyncClient) -> Credential:
    """By what a browser comes."""
    secret = browser.cookies[cookies_of(PUBLIC_URL).session]
    return (await desk.services.sessions.verify(secret)).credential


async def test_the_sign_in_page_hands_on_what_is_asked_for(desk: Desk) -> None:
    browser = desk.browser()
    page = await browser.get(f"/auth/sign-in?next=/x&{STEP_UP}")
    assert f'href="/auth/sign-in/one?next=%2Fx&{STEP_UP}"' in unescape(page.text)
    sent = await browser.get(f"/auth/sign-in/one?{STEP_UP}")
    asked = parse_qs(urlsplit(sent.headers["location"]).query)
    assert (asked["max_age"], asked["prompt"], asked["acr_values"]) == (["300"], ["login"], ["urn:mfa urn:hwk"])
    usual = parse_qs(urlsplit(await desk.start(browser)).query)
    assert not {"max_age", "prompt", "acr_values"} & set(usual)


@pytest.mark.parametrize("wrong", ["max_age=-1", "max_age=x", "max_age=86401", "acr_values=%00", "acr_values=é"])
async def test_what_is_asked_for_must_be_right(desk: Desk, wrong: str) -> None:
    assert (await desk.browser().get(f"/auth/sign-in/one?{wrong}")).status_code == 400


async def test_the_session_knows_when_and_how_they_proved_it(desk: Desk, provider: Provider) -> None:
    at = int(time.time()) - 5
    provider.id_token = {"auth_time": at, "acr": "urn:mfa"}
    browser = desk.browser()
    await desk.sign_in(browser)
    found = await credential(desk, browser)
    assert (found.authenticated_at, found.acr) == (datetime.fromtimestamp(at, UTC), "urn:mfa")


@pytest.mark.parametrize("said", [None, "yesterday", int(time.time()) + 10**6], ids=["nothing", "no time", "future"])
async def test_nothing_is_made_up_where_the_provider_does_not_say(desk: Desk, provider: Provider, said: object) -> None:
    provider.id_token = {"auth_time": said, "acr": 1}
    browser = desk.browser()
    await desk.sign_in(browser)
    found = await credential(desk, browser)
    assert (found.authenticated_at, found.acr) == (None, None)
    assert (await desk.me(browser)).json()["items"][0]["authenticated_at"] is None


async def test_a_command_line_is_as_fresh_as_the_browser_that_let_it_in(door: Door) -> None:
    browser = await door.signed_in("ada", acr="urn:mfa")
    for granted in (await door.device_login(browser), await door.code_login(browser)):
        found = (await door.services.tokens.verify(granted["access_token"])).credential
        assert found.acr == "urn:mfa"
        assert found.authenticated_at is not None
    renewed = await door.refresh(granted["refresh_token"], client_id="dashboard")
    again = (await door.services.tokens.verify(renewed.json()["access_token"])).credential
    assert (again.authenticated_at, again.acr) == (found.authenticated_at, "urn:mfa")


async def test_a_personal_token_proves_nothing_of_that_kind(door: Door) -> None:
    made = await door.create(await door.signed_in("ada", acr="urn:mfa"))
    found = (await door.services.tokens.verify(made.json()["token"])).credential
    assert (found.authenticated_at, found.acr) == (None, None)
