"""`examples/promotions_page` in a real browser: somebody signs in at a real provider through the real gateway, sees the
promotions, and signs out; and the same page at an origin that is not registered learns nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Route

from app.embedded.environment import DataFolder, open_data_folder
from app.embedded.identity import gateway_settings, identity_part, issuer_of, password_of, sign_in
from tests.conftest import database_of
from tests.e2e.browsing import Visitor, running_browser, visitor
from tests.issuer import Issuer
from tests.platform import Countersign, MlflowServer, free_port, new_countersign, until

T = TypeVar("T")
EXAMPLE = Path(__file__).parents[2] / "examples" / "promotions_page"
DEFAULT_GATEWAY = "http://127.0.0.1:8080"
REGISTERED = """
clients:
  - clientId: promotions-page
    title: Promotions page
    redirectUris: [{origin}/]
    origins: [{origin}]
    scopes: [promote]
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """The default prints each request."""


@contextmanager
def page_server(folder: Path) -> Iterator[str]:
    """As `python -m http.server` serves it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    """Its result. In a thread of its own: Playwright keeps this one's event loop running."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


@contextmanager
def running_canaille(folder: DataFolder, port: int, gateway: str) -> Iterator[None]:
    part = identity_part(folder, port, gateway)
    with (
        part.log.open("wb") as log,
        subprocess.Popen(part.command, stdout=log, stderr=log, env=os.environ | dict(part.environment)) as process,
    ):
        try:

            def is_ready() -> bool:
                assert process.poll() is None, part.log.read_text()
                return awaited(part.is_ready())

            until(is_ready, "the start of Canaille")
            yield
        finally:
            process.kill()


@dataclass
class Stage:
    """The page at its registered origin and at another, the gateway, and somebody's password and token."""

    page: str
    elsewhere: str
    gateway: Countersign
    password: str
    token: str


@pytest.fixture(scope="module")
def stage(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("page")
    folder, port, copy = open_data_folder(root / "data"), free_port(), root / "page"
    issuer = issuer_of(port)
    with (
        database_of(postgres, template_database) as url,
        new_countersign(url, mlflow_server, Issuer(url=issuer), root) as gateway,
        page_server(copy) as page,
        page_server(copy) as elsewhere,
        running_canaille(folder, port, gateway.url),
    ):
        shutil.copytree(EXAMPLE, copy)
        index = (copy / "index.html").read_text()
        assert index.count(DEFAULT_GATEWAY) == 2
        (copy / "index.html").write_text(index.replace(DEFAULT_GATEWAY, gateway.url))
        clients = root / "identity.yaml"
        clients.write_text(REGISTERED.format(origin=page))
        gateway.environment |= gateway_settings(folder, issuer) | {"COUNTERSIGN_IDENTITY_FILE": str(clients)}
        gateway.start("gateway")
        people = awaited(sign_in(folder, issuer))
        yield Stage(page, elsewhere, gateway, password_of(folder, "scientist"), people["scientist"].access_token)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def ada(browser: Browser, stage: Stage) -> Iterator[Visitor]:
    """Somebody at the page; it and the gateway's pages complain of nothing, such as their Content-Security-Policy."""
    with visitor(browser, stage.page) as ada:
        errors: list[str] = []

        def keep(message: ConsoleMessage) -> None:
            is_ours = message.location.get("url", "").startswith((stage.page, stage.gateway.url))
            if message.type == "error" and is_ours and not message.text.startswith("Failed to load resource"):
                errors.append(message.text)

        ada.page.on("console", keep)
        yield ada
        assert not errors


def ask(stage: Stage, model: str, reason: str) -> None:
    answer = httpx.post(
        f"{stage.gateway.url}/control/v1/promotions",
        json={"model": model, "alias": "production", "version": "1", "reason": reason},
        headers={"Authorization": f"Bearer {stage.token}"},
        timeout=60,
    )
    assert answer.status_code == 201, answer.text


def sign_in_as_scientist(ada: Visitor, stage: Stage) -> None:
    """As somebody does who sees all of it for the first time."""
    page = ada.page
    ada.visit("/")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("Continue with").first.click()
    page.locator("input[name=login]").fill("scientist")
    page.keyboard.press("Enter")
    page.locator("input[name=password]").fill(stage.password)
    page.keyboard.press("Enter")
    allow_on_consent(ada)


def allow_on_consent(ada: Visitor) -> None:
    ada.sees("Promotions page wants to act as you")
    ada.page.get_by_role("button", name="Allow").click()
    ada.page.locator("#sign-out").wait_for()


def kept_by(ada: Visitor) -> str:
    return str(ada.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"))


def test_somebody_signs_in_sees_the_promotions_and_signs_out(
    ada: Visitor, stage: Stage, mlflow_server: MlflowServer, model_name: str
) -> None:
    mlflow_server.register(model_name)
    ask(stage, model_name, "<b>better</b> by a third")
    page = ada.page
    sign_in_as_scientist(ada, stage)
    ada.sees(model_name, "pending", "production", "<b>better</b> by a third")
    assert page.locator("#name").inner_text() == "scientist"
    assert page.url == f"{stage.page}/", "neither code nor state stays in the address"
    assert kept_by(ada) == '[{},{},""]'

    # A token that is over is renewed, whoever notices first; and the request goes once more.
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        if refused or route.request.method == "OPTIONS":
            route.continue_()
            return
        refused.append(route.request.headers["authorization"])
        route.fulfill(status=401, headers={"Access-Control-Allow-Origin": stage.page}, body="{}")

    page.route(re.compile("/control/v1/promotions"), refuse_once)
    with page.expect_response(re.compile("/auth/token")) as renewal:
        page.get_by_role("button", name="Refresh").click()
    assert "grant_type=refresh_token" in (renewal.value.request.post_data or "")
    until(lambda: page.locator("#refresh").is_enabled(), "the answer", patience_s=20)
    assert page.locator("#notice").is_hidden()
    page.unroute(re.compile("/control/v1/promotions"))

    # A refusal is told in the gateway's words, as text.
    problem = json.dumps({"detail": "<img src=x> promotions:read is not yours."})
    page.route(
        re.compile("/control/v1/promotions"),
        lambda route: route.fulfill(status=403, headers={"Access-Control-Allow-Origin": stage.page}, body=problem),
    )
    page.get_by_role("button", name="Refresh").click()
    ada.sees("You may not see this: <img src=x> promotions:read is not yours.")
    page.unroute(re.compile("/control/v1/promotions"))

    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in").wait_for()
    logins = httpx.get(
        f"{stage.gateway.url}/control/v1/logins", headers={"Authorization": f"Bearer {stage.token}"}, timeout=60
    ).json()["items"]
    assert [(item["client"], item["ended_at"] is not None) for item in logins] == [("promotions-page", True)]


def test_a_sign_in_survives_no_reload_and_no_denial_and_no_end(ada: Visitor, stage: Stage) -> None:
    page = ada.page
    sign_in_as_scientist(ada, stage)
    page.reload()
    page.get_by_role("button", name="Sign in").click()
    ada.sees("Promotions page wants to act as you")  # the gateway still knows the person, and asks again
    page.get_by_role("button", name="Deny").click()
    ada.sees("You said no: nobody is signed in.")
    page.get_by_role("button", name="Sign in").click()
    allow_on_consent(ada)
    # Its owner ends it elsewhere.
    headers = {"Authorization": f"Bearer {stage.token}"}
    logins = httpx.get(f"{stage.gateway.url}/control/v1/logins", headers=headers, timeout=60).json()["items"]
    for item in logins:
        httpx.delete(f"{stage.gateway.url}/control/v1/logins/{item['id']}", headers=headers, timeout=60)

    def is_told() -> bool:
        # Without waiting for it: the button rests while the page asks, and is gone once it was told.
        page.locator("#refresh").evaluate("it => { if (it.offsetParent && !it.disabled) it.click(); }")
        return "Your sign-in has ended." in page.locator("#notice").inner_text()

    until(is_told, "the end of the login", patience_s=20)
    # An answer that this page did not ask for is none.
    ada.visit("/?code=cs_cod_stolen&state=guessed&iss=" + stage.gateway.url)
    ada.sees("This sign-in was begun in another tab, or long ago.")
    assert page.locator("#list").is_hidden()


def test_the_same_page_at_another_origin_learns_nothing(browser: Browser, stage: Stage) -> None:
    with visitor(browser, stage.elsewhere) as stranger:
        stranger.visit("/")
        stranger.page.get_by_role("button", name="Sign in").click()
        stranger.sees("cannot be reached, or does not allow this page to read its answers")
        # Nor with a token that somebody gave it.
        learned = stranger.page.evaluate(
            """async ([url, token]) => {
                try { return (await fetch(url, {headers: {Authorization: `Bearer ${token}`}})).status }
                catch (error) { return error.name }
            }""",
            [f"{stage.gateway.url}/control/v1/promotions", stage.token],
        )
        assert learned == "TypeError"
    with visitor(browser, stage.page) as registered:
        registered.visit("/")
        fetched = registered.page.evaluate(
            "async ([url, token]) => (await fetch(url, {headers: {Authorization: `Bearer ${token}`}})).status",
            [f"{stage.gateway.url}/control/v1/promotions", stage.token],
        )
        assert fetched == 200
