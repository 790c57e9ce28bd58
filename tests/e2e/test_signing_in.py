"""Signing in for the first time, as a person does: in Chromium, through the real pages of two real providers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import database_of
from tests.e2e.browsing import PATIENCE_MS, running_browser
from tests.issuer import Issuer
from tests.platform import MlflowServer, until
from tests.real_providers import TITLE, Places, running_places


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@contextmanager
def person(browser: Browser, *, dark: bool = False, phone: bool = False) -> Iterator[Page]:
    """Somebody with a browser of their own. Nothing may be written to its console as an error."""
    viewport = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 860}
    context = browser.new_context(viewport=viewport, color_scheme="dark" if dark else "light")
    context.set_default_timeout(PATIENCE_MS)
    try:
        yield context.new_page()
    finally:
        context.close()


def sign_in_at_canaille(page: Page, places: Places, who: str) -> None:
    page.get_by_role("link", name="Continue with Canaille").click()
    page.locator("input[name=login]").fill(who)
    page.keyboard.press("Enter")
    page.locator("input[name=password]").fill(places.password_of(who))
    page.keyboard.press("Enter")


def sign_in_at_second(page: Page, who: str) -> None:
    page.get_by_role("link", name=f"Continue with {TITLE}").click()
    page.locator("input[name=login]").fill(who)
    page.locator("input[name=password]").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()


def test_a_person_comes_to_mlflow_signs_in_and_is_where_they_wanted_to_be(
    browser: Browser, places: Places, tmp_path: Path
) -> None:
    with person(browser) as page:
        page.goto(f"{places.url}/#/models")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        page.screenshot(path=tmp_path / "sign-in.png")
        sign_in_at_canaille(page, places, "scientist")

        page.wait_for_url(f"{places.url}/#/models*")
        page.get_by_text("Registered Models").first.wait_for()
        page.screenshot(path=tmp_path / "mlflow.png")

        # MLflow's interface knows nobody: the way to one's account is ours.
        # By key: on a first visit a dialog of MLflow's lies over everything.
        page.locator("#countersign-account").press("Enter")
        page.wait_for_url(f"{places.url}/auth/account")
        expect(page.get_by_role("heading", name="scientist")).to_be_visible()
        expect(page.get_by_text("requester")).to_be_visible()
        expect(page.get_by_text("this browser")).to_be_visible()
        page.locator("#token-form").wait_for()
        page.screenshot(path=tmp_path / "account.png", full_page=True)


def test_a_token_that_is_made_on_the_page_works_until_it_is_revoked_there(
    browser: Browser, places: Places, tmp_path: Path
) -> None:
    search = f"{places.url}/api/2.0/mlflow/experiments/search?max_results=1"
    with person(browser) as page:
        page.goto(f"{places.url}/auth/account")
        sign_in_at_canaille(page, places, "scientist")
        page.get_by_label("Name").fill("nightly training")
        page.get_by_role("button", name="Create a token").click()
        expect(page.get_by_text("It is not shown again.")).to_be_visible()
        token = page.locator("#token-secret").inner_text()
        page.screenshot(path=tmp_path / "token.png", full_page=True)
        assert httpx.get(search, headers={"Authorization": f"Bearer {token}"}, trust_env=False).status_code == 200

        page.reload()
        page.get_by_role("button", name="Revoke nightly training").click()
        expect(page.get_by_text("nightly training", exact=True)).to_have_count(0)
        assert token not in page.content()


def test_who_opens_an_address_of_the_api_is_shown_a_page(browser: Browser, places: Places, tmp_path: Path) -> None:
    with person(browser) as page:
        page.goto(f"{places.url}/control/v1/me")
        sign_in_at_canaille(page, places, "scientist")
        expect(page.get_by_role("heading", name="me")).to_be_visible()
        expect(page.get_by_text('"name": "scientist"')).to_be_visible()
        page.screenshot(path=tmp_path / "answer.png", full_page=True)
        for path in ("/control/v1/me", "/control/v1/openapi.json"):
            assert page.request.get(f"{places.url}{path}").headers["content-type"] == "application/json"
        page.goto(f"{places.url}/control/v1/promotions/prm_none")
        expect(page.get_by_role("heading", name="Not found")).to_be_visible()


def test_a_session_is_ended_from_another_browser(browser: Browser, places: Places, tmp_path: Path) -> None:
    with person(browser) as here, person(browser, phone=True, dark=True) as there:
        for page in (here, there):
            page.goto(f"{places.url}/auth/account")
            sign_in_at_second(page, "ada")
            expect(page.get_by_role("heading", name="ada")).to_be_visible()
        there.locator("#token-form").wait_for()
        there.screenshot(path=tmp_path / "account-phone-dark.png", full_page=True)
        here.reload()
        here.get_by_role("button", name="End all others").click()
        expect(here.get_by_role("button", name=re.compile("End the session"))).to_have_count(1)

        def is_out() -> bool:
            there.reload()
            return there.get_by_role("heading", name="Sign in").count() == 1

        until(is_out, "the end of the other session")
        there.screenshot(path=tmp_path / "sign-in-phone-dark.png")


@pytest.mark.parametrize("provider", ["canaille", "second"])
def test_signing_out_is_signing_out_at_the_provider_too(
    browser: Browser, places: Places, provider: str, tmp_path: Path
) -> None:
    with person(browser) as page:
        page.goto(f"{places.url}/auth/account")
        if provider == "canaille":
            sign_in_at_canaille(page, places, "approver")
        else:
            sign_in_at_second(page, "approver")
        page.get_by_role("button", name="Sign out").click()
        if provider == "second":
            page.get_by_role("button", name="Yes, sign me out").click()
        page.wait_for_url(f"{places.url}/auth/signed-out*")
        expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
        page.screenshot(path=tmp_path / "signed-out.png")

        page.get_by_role("button", name="Sign in again").click()
        page.get_by_role("link", name=re.compile("Canaille" if provider == "canaille" else TITLE)).click()
        page.locator("input[name=login]").wait_for()


def test_what_goes_wrong_is_said_on_a_page_with_a_way_on(browser: Browser, places: Places, tmp_path: Path) -> None:
    with person(browser, dark=True) as page:
        page.goto(f"{places.url}/auth/callback/second?state=made-up&code=x")
        expect(page.get_by_role("heading", name="Signing in did not work")).to_be_visible()
        page.screenshot(path=tmp_path / "error.png")
        page.get_by_role("button", name="Sign in").click()
        sign_in_at_second(page, "ada")
        page.wait_for_url(f"{places.url}/")

        answer = page.goto(f"{places.url}/auth/sign-in/none")
        assert answer is not None
        assert answer.status == 404
        expect(page.get_by_role("heading", name="Not found")).to_be_visible()


def test_our_pages_break_no_rule_of_their_own(browser: Browser, places: Places) -> None:
    """A policy that forbids what a page does writes to the console."""
    errors: list[str] = []
    with person(browser) as page:
        page.goto(f"{places.url}/auth/sign-in")
        sign_in_at_second(page, "ada")
        page.wait_for_url(f"{places.url}/")
        ours = page.context.new_page()  # what MLflow's own still loads is none of ours
        ours.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        ours.on("pageerror", lambda error: errors.append(str(error)))
        for path in ("/auth/sign-in", "/auth/account", "/auth/signed-out"):
            ours.goto(places.url + path)
            ours.wait_for_load_state("networkidle")
    assert errors == []
