"""Providers differ within the standards: how a client authenticates, where claims are, what they leave out."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app.domain.issuers import SignIn as Client
from tests.conftest import database_of
from tests.provider import CLIENT, SECRET, Provider, running_provider
from tests.signing_in import SESSION, Desk, open_desk, trusted


@pytest.fixture(scope="module")
def database(postgres: Callable[[str], str], template_database: str) -> Iterator[str]:
    with database_of(postgres, template_database) as url:
        yield url


@asynccontextmanager
async def desk_at(database: str, provider: Provider, **changed: Any) -> AsyncIterator[Desk]:
    async with open_desk(database, {"one": provider}, issuers=[trusted("one", provider, **changed)]) as desk:
        yield desk


@pytest.mark.parametrize(
    ("said", "takes"),
    [
        (None, "client_secret_basic"),
        (["client_secret_basic"], "client_secret_basic"),
        (["client_secret_post"], "client_secret_post"),
        (["private_key_jwt", "client_secret_post"], "client_secret_post"),
        (["client_secret_basic", "client_secret_post"], "client_secret_post"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else str(value),
)
async def test_the_client_authenticates_as_the_provider_wants(
    database: str, said: list[str] | None, takes: str
) -> None:
    """Metadata says what a provider can; which of it a client is registered for, it does not say."""
    with running_provider(auth_methods=(takes,)) as provider:
        provider.metadata = {"token_endpoint_auth_methods_supported": said}
        async with desk_at(database, provider) as desk:
            for _ in range(2):
                assert (await desk.sign_in(desk.browser())).status_code == 303
            tried = 2 if takes == "client_secret_post" and "client_secret_basic" in (said or []) else 1
            assert provider.asked.count("/token") == tried + 1, "what has worked is remembered"


async def test_a_provider_that_reads_a_secret_as_it_is_gets_it_as_it_is(database: str) -> None:
    """Glewlwyd leaves out the encoding of RFC 6749 section 2.3.1, as do many; a secret of base64 shows it."""
    with running_provider(auth_methods=("client_secret_basic, not encoded",)) as provider:
        async with desk_at(database, provider) as desk:
            assert (await desk.sign_in(desk.browser())).status_code == 303


async def test_a_rule_on_the_client_of_tokens_is_none_of_those_who_sign_in(database: str) -> None:
    """It says whose access tokens are accepted, as for introspection without an audience."""
    with running_provider() as provider:
        async with desk_at(database, provider, claim_rules={"client_id": ("notebooks",)}) as desk:
            assert (await desk.sign_in(desk.browser())).status_code == 303
        async with desk_at(database, provider, claim_rules={"tenant": ("acme",)}) as desk:
            answer = await desk.sign_in(desk.browser())
            assert answer.status_code == 400
            assert "The ID token does not have the `tenant`" in answer.text


async def test_a_public_client_has_pkce_alone(database: str) -> None:
    with running_provider(auth_methods=("none",)) as provider:
        async with desk_at(database, provider, sign_in=Client(client_id=CLIENT, client_secret=None)) as desk:
            assert (await desk.sign_in(desk.browser())).status_code == 303


@pytest.mark.parametrize("methods", [["private_key_jwt"], ["client_secret_basic"]])
async def test_a_client_that_the_provider_does_not_want_is_the_administrators_matter(
    database: str, methods: list[str]
) -> None:
    with running_provider(auth_methods=()) as provider:
        provider.metadata = {"token_endpoint_auth_methods_supported": methods}
        async with desk_at(database, provider) as desk:
            answer = await desk.sign_in(desk.browser())
            assert answer.status_code == 400
            assert "administrator" in answer.text
            assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("supported", "asked"),
    [
        (["openid", "profile", "groups"], "openid profile groups"),
        (["profile"], "openid profile"),
        ([], "openid"),
        (None, "openid profile email groups"),
    ],
)
async def test_unknown_scopes_are_not_asked_for(database: str, supported: list[str] | None, asked: str) -> None:
    with running_provider() as provider:
        provider.metadata = {"scopes_supported": supported}
        async with desk_at(database, provider) as desk:
            url = await desk.start(desk.browser())
            assert parse_qs(urlsplit(url).query)["scope"] == [asked]


async def test_an_address_with_parameters_keeps_them(database: str) -> None:
    with running_provider() as provider:
        provider.metadata = {"authorization_endpoint": f"{provider.url}/authorize?tenant=a%20b"}
        async with desk_at(database, provider) as desk:
            asked = parse_qs(urlsplit(await desk.start(desk.browser())).query)
            assert asked["tenant"] == ["a b"]
            assert asked["response_type"] == ["code"]


async def test_groups_and_name_come_from_userinfo_where_the_id_token_has_none(database: str) -> None:
    said = {"sub": "ada", "preferred_username": "Ada L.", "groups": ["scientists"], "aud": "other", "iss": "evil"}
    with running_provider(userinfo=said) as provider:
        provider.person = {"sub": "ada"}
        async with desk_at(database, provider) as desk:
            browser = desk.browser()
            await desk.sign_in(browser)
            page = (await browser.get("/auth/account")).text
            assert "Ada L." in page
            assert "scientists" in page


async def test_userinfo_is_not_asked_where_the_id_token_has_all(database: str) -> None:
    with running_provider(userinfo={"sub": "ada", "groups": ["administrators"]}) as provider:
        async with desk_at(database, provider) as desk:
            await desk.sign_in(desk.browser())
            assert "/userinfo" not in provider.asked


ALLOWED: dict[str, dict[str, Any]] = {
    "one audience in a list": {"aud": [CLIENT]},
    "two audiences, given to us": {"aud": [CLIENT, "other"], "azp": CLIENT},
    "given to us": {"azp": CLIENT},
    "neither session nor time of the sign-in": {"sid": None, "auth_time": None},
    "parts of a second": {"exp": time.time() + 7200.5},
    "the hash of its access token": {
        "at_hash": base64.urlsafe_b64encode(hashlib.sha256(b"opaque").digest()[:16]).decode().rstrip("=")
    },
}


@pytest.mark.parametrize("kind", ALLOWED)
async def test_what_the_standard_allows_is_accepted(database: str, kind: str) -> None:
    with running_provider() as provider:
        provider.id_token = ALLOWED[kind]
        async with desk_at(database, provider) as desk:
            assert (await desk.sign_in(desk.browser())).status_code == 303


async def test_a_provider_without_rfc_9207_and_without_logout_is_good_enough(database: str) -> None:
    with running_provider() as provider:
        provider.metadata = {"authorization_response_iss_parameter_supported": None, "end_session_endpoint": None}
        async with desk_at(database, provider) as desk:
            browser = desk.browser()
            parameters = provider.sign_in(await desk.start(browser))
            del parameters["iss"]
            assert (await desk.come_back(browser, parameters)).status_code == 303
            answer = await browser.post("/auth/sign-out")
            assert "refresh" not in answer.text
            assert "You are signed out" in answer.text


async def test_an_old_providers_logout_token_has_neither_a_type_nor_an_end(database: str) -> None:
    with running_provider() as provider:
        async with desk_at(database, provider) as desk:
            browser = desk.browser()
            await desk.sign_in(browser)
            provider.header = {"typ": "JWT"}
            token = provider.logout_token(exp=None)
            answer = await desk.browser().post("/auth/backchannel-logout/one", data={"logout_token": token})
            assert answer.status_code == 200
            await desk.gone(browser)


async def test_two_tabs_of_one_browser_sign_in_side_by_side(database: str) -> None:
    with running_provider() as provider:
        async with desk_at(database, provider) as desk:
            browser = desk.browser()
            first, second = [provider.sign_in(await desk.start(browser)) for _ in range(2)]
            assert (await desk.come_back(browser, first)).status_code == 303
            assert (await desk.come_back(browser, second)).status_code == 303
            assert browser.cookies.get(SESSION)


@pytest.mark.parametrize("what", ["metadata", "token"])
async def test_a_provider_that_is_away_is_said_to_be_and_nothing_is_lost(database: str, what: str) -> None:
    with running_provider() as provider:
        if what == "metadata":
            provider.metadata = {"issuer": "https://another.example"}
        else:
            provider.answer = {"status": 502}
        async with desk_at(database, provider) as desk:
            browser = desk.browser()
            if what == "metadata":
                answer = await browser.get("/auth/sign-in/one")
            else:
                answer = await desk.sign_in(browser)
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert answer.headers["content-type"].startswith("text/html")
            assert browser.cookies.get(SESSION) is None
