"""Signing in at real providers of different make, side by side: Canaille and ``oidc-provider``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx
import pytest

from tests.conftest import database_of
from tests.issuer import Issuer
from tests.platform import MlflowServer, until
from tests.real_providers import TITLE, Places, running_places

SESSION = "countersign-session"


@pytest.fixture(scope="module")
def places(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Places]:
    with (
        database_of(postgres, template_database) as url,
        running_places(url, mlflow_server, issuer, tmp_path_factory.mktemp("places")) as places,
    ):
        yield places


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30, trust_env=False, headers={"Accept": "text/html"}) as client:
        yield client


def follow(browser: httpx.Client, answer: httpx.Response, until_at: str) -> httpx.Response:
    """Follow redirects, one at a time, to an address that begins with ``until_at``."""
    for _ in range(10):
        if not answer.is_redirect or answer.headers["location"].startswith(until_at):
            return answer
        answer = browser.get(urljoin(str(answer.url), answer.headers["location"]))
    raise AssertionError(answer.url)


def submit(browser: httpx.Client, answer: httpx.Response, **fields: str) -> httpx.Response:
    """Fill in the form of a page and send it."""
    form = re.search(r"<form[^>]*?(?:action=\"([^\"]*)\")?[^>]*>(.*?)</form>", answer.text, re.DOTALL)
    assert form, answer.text
    action = re.search(r"<form[^>]*action=\"([^\"]*)\"", answer.text)
    hidden = {}
    for tag in re.findall(r"<input[^>]*>", form[2]):
        named = re.search(r'name="([^"]+)"', tag)
        if named:
            value = re.search(r'value="([^"]*)"', tag)
            hidden[named[1]] = unescape(value[1]) if value else ""
    address = urljoin(str(answer.url), unescape(action[1]) if action else "")
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(address))
    return browser.post(address, data=hidden | fields, headers={"Origin": origin, "Referer": str(answer.url)})


def sign_in_at_second(
    places: Places, browser: httpx.Client, person: str, return_to: str = "/", **asked: str
) -> httpx.Response:
    """Say a name there, and agree."""
    answer = browser.get(f"{places.url}/auth/sign-in/second", params={"next": return_to, **asked})
    answer = follow(browser, answer, places.url)
    answer = follow(browser, submit(browser, answer, login=person, password="any"), places.url)
    while not answer.is_redirect:
        answer = follow(browser, submit(browser, answer), places.url)
    return browser.get(answer.headers["location"])


def sign_in_at_canaille(places: Places, browser: httpx.Client, person: str, return_to: str = "/") -> httpx.Response:
    answer = browser.get(f"{places.url}/auth/sign-in/default", params={"next": return_to})
    answer = follow(browser, answer, places.url)
    answer = follow(browser, submit(browser, answer, login=person), places.url)
    answer = follow(browser, submit(browser, answer, password=places.password_of(person)), places.url)
    assert answer.is_redirect, answer.text
    return browser.get(answer.headers["location"])


def who(places: Places, browser: httpx.Client) -> dict[str, object]:
    answer = browser.get(f"{places.url}/control/v1/me", headers={"Accept": "application/json"})
    return answer.json() if answer.status_code == 200 else {"status": answer.status_code}


def test_the_page_offers_both_providers(places: Places, browser: httpx.Client) -> None:
    page = browser.get(f"{places.url}/auth/sign-in").text
    assert "Continue with Canaille" in page
    assert f"Continue with {TITLE}" in page


def test_a_person_signs_in_at_canaille(places: Places, browser: httpx.Client) -> None:
    answer = sign_in_at_canaille(places, browser, "scientist", "/auth/account")
    assert (answer.status_code, answer.headers["location"]) == (303, "/auth/account")
    me = who(places, browser)
    assert me["id"] == f"{places.canaille}|scientist"
    assert me["groups"] == ["scientists"]
    assert me["roles"] == ["requester"]


def test_claims_are_found_where_a_provider_has_them(places: Places, browser: httpx.Client) -> None:
    """The second one tells of names and groups at its userinfo endpoint alone."""
    answer = sign_in_at_second(places, browser, "grace")
    assert answer.status_code == 303, answer.text
    me = who(places, browser)
    assert me["id"] == f"{places.second}|grace"
    assert me["name"] == "grace"
    assert me["groups"] == ["scientists"]


def test_a_session_is_good_for_mlflow_and_changes_come_from_our_pages_alone(
    places: Places, browser: httpx.Client
) -> None:
    sign_in_at_second(places, browser, "grace")
    search = f"{places.url}/api/2.0/mlflow/experiments/search"
    assert browser.get(search, params={"max_results": 1}).status_code == 200
    asked = {"max_results": 1}
    assert browser.post(search, json=asked, headers={"Origin": places.url}).status_code == 200
    for said in ({}, {"Origin": "https://evil.example"}, {"Origin": places.url, "Sec-Fetch-Site": "same-site"}):
        assert browser.post(search, json=asked, headers=said).status_code == 403


def test_one_name_at_two_providers_is_two_people(places: Places, browser: httpx.Client) -> None:
    # Nobody signs in at Canaille twice in a second: it would give out the same token, and answers 500 to that.
    sign_in_at_second(places, browser, "second-approver")
    second = who(places, browser)["id"]
    answer = sign_in_at_canaille(places, browser, "second-approver")
    assert answer.status_code == 303, answer.text
    assert second != who(places, browser)["id"]


@pytest.mark.parametrize(("provider", "person"), [("default", "serving"), ("second", "grace")])
def test_who_must_prove_it_anew_is_asked_anew(
    places: Places, browser: httpx.Client, provider: str, person: str
) -> None:
    sign_in = sign_in_at_canaille if provider == "default" else sign_in_at_second
    sign_in(places, browser, person)
    silently = follow(browser, browser.get(f"{places.url}/auth/sign-in/{provider}"), places.url)
    assert silently.is_redirect
    anew = follow(browser, browser.get(f"{places.url}/auth/sign-in/{provider}?max_age=300"), places.url)
    assert (anew.status_code, "<form" in anew.text) == (200, True)


def test_a_provider_that_says_when_only_if_it_is_asked_is_believed_then_alone(
    places: Places, browser: httpx.Client
) -> None:
    sign_in_at_second(places, browser, "grace")
    assert who(places, browser)["authenticated_at"] is None
    sign_in_at_second(places, browser, "grace", max_age="300")
    assert who(places, browser)["authenticated_at"] is not None


@pytest.mark.parametrize("provider", ["canaille", "second"])
def test_signing_out_leads_to_the_provider_and_back(places: Places, browser: httpx.Client, provider: str) -> None:
    sign_in = sign_in_at_canaille if provider == "canaille" else sign_in_at_second
    sign_in(places, browser, "approver")
    answer = browser.post(f"{places.url}/auth/sign-out", headers={"Origin": places.url})
    (onward,) = re.findall(r'content="0;url=([^"]+)"', answer.text)
    assert browser.cookies.get(SESSION) is None
    answer = follow(browser, browser.get(unescape(onward)), places.url)
    if not answer.is_redirect:  # the second one asks whether it is meant
        answer = follow(browser, submit(browser, answer, logout="yes"), places.url)
    assert answer.headers["location"].startswith(f"{places.url}/auth/signed-out")
    assert who(places, browser) == {"status": 401}


def test_a_logout_at_the_provider_ends_the_session_here(places: Places, browser: httpx.Client) -> None:
    """Back-channel logout: the provider tells us, past the browser."""
    sign_in_at_second(places, browser, "leaving")
    assert who(places, browser)["name"] == "leaving"
    answer = browser.get(f"{places.second}/session/end")
    answer = submit(browser, answer, logout="yes")
    assert answer.status_code < 400, answer.text
    until(lambda: who(places, browser) == {"status": 401}, "the end of the session", patience_s=5)


def test_a_refusal_at_the_provider_is_told_in_our_words(places: Places, browser: httpx.Client) -> None:
    answer = follow(browser, browser.get(f"{places.url}/auth/sign-in/second"), places.url)
    (abort,) = re.findall(r'href="([^"]*/abort)"', answer.text)
    answer = follow(browser, browser.get(urljoin(str(answer.url), abort)), places.url)
    said = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
    assert said["error"] == "access_denied"
    answer = browser.get(answer.headers["location"])
    assert answer.status_code == 400
    assert "did not let you in" in answer.text
    assert said["error_description"] not in answer.text


def test_nothing_secret_is_logged(places: Places, browser: httpx.Client) -> None:
    sign_in_at_second(places, browser, "logged")
    secret = browser.cookies.get(SESSION)
    assert secret
    log = places.gateway.log("gateway")
    assert secret not in log
    assert "code=" not in log
    assert "state=" not in log
