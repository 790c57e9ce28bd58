"""`countersign login` at a real gateway, and what then works without a token in sight: the command, MLflow's client.

A person's part is played by an HTTP client that goes the way of a browser through the real pages.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from countersign_client.calls import call
from countersign_client.errors import NotSignedIn
from countersign_client.session import sign_out
from countersign_client.signing_in import by_browser
from countersign_client.store import LoginStore

from tests.conftest import database_of
from tests.issuer import AUDIENCE, Issuer
from tests.platform import Countersign, MlflowServer, new_countersign, until
from tests.provider import CLIENT, SECRET, Provider, address, running_provider

STORY = Path(__file__).with_name("login_story.py")


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider() as provider:
        provider.person |= {"groups": ["scientists"]}
        yield provider


@pytest.fixture(scope="module")
def gateway(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    provider: Provider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Countersign]:
    folder = tmp_path_factory.mktemp("clients")
    with (
        database_of(postgres, template_database) as url,
        new_countersign(url, mlflow_server, Issuer(url=provider.url), folder) as service,
    ):
        service.environment |= {
            "COUNTERSIGN_OIDC_AUDIENCE": AUDIENCE,
            "COUNTERSIGN_OIDC_CLIENT_ID": CLIENT,
            "COUNTERSIGN_OIDC_CLIENT_SECRET": SECRET,
        }
        service.start("gateway")
        yield service
        service.stop()


@pytest.fixture(scope="module")
def person(gateway: Countersign, provider: Provider) -> Iterator[httpx.Client]:
    """A browser in which ada is signed in."""
    headers = {"Accept": "text/html", "Origin": gateway.url}
    with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, timeout=60) as browser:
        begun = browser.get(address("/auth/sign-in/default", {"next": "/auth/device"}))
        came_back = browser.get(address("/auth/callback/default", provider.sign_in(begun.headers["location"])))
        assert came_back.headers["location"].endswith("/auth/device"), came_back.text
        yield browser


@pytest.fixture(scope="module")
def machine(gateway: Countersign, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine where somebody works, far from any screen."""
    kept = tmp_path_factory.mktemp("machine") / "countersign" / "logins.json"
    hidden = {"MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "DISPLAY", "WAYLAND_DISPLAY"}
    return {name: value for name, value in os.environ.items() if name not in hidden} | {
        "COUNTERSIGN_CREDENTIALS_FILE": str(kept),
        "MLFLOW_TRACKING_URI": gateway.url,
        "MLFLOW_TRACKING_AUTH": "countersign",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }


def allow(person: httpx.Client, page: str) -> httpx.Response:
    """Open a page of the gateway's that asks for a decision, and press Allow."""
    parts = urlsplit(page)
    shown = person.get(f"{parts.path}?{parts.query}")
    assert shown.status_code == 200, shown.text
    fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', shown.text)
    form = {unescape(name): unescape(value) for name, value in fields} | {"decision": "allow"}
    return person.post(parts.path, data=form)


def countersign(machine: dict[str, str], *arguments: str, piped: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        env=machine,
        input=piped,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def started(command: list[str], machine: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process to talk with; it ends with the block, however that ends."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=machine, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def sign_in(machine: dict[str, str], person: httpx.Client, *options: str) -> str:
    """`countersign login`, and the person's part in it; what it printed."""
    command = [sys.executable, "-m", "app.cli", "login", *options]
    with started(command, machine) as login:
        assert login.stdout
        assert login.stderr
        seen: list[str] = []
        while not (seen and "user_code=" in seen[-1]):
            seen.append(login.stderr.readline())
            assert seen[-1], f"it ended: {seen}"
        assert allow(person, seen[-1].strip()).status_code == 200
        assert login.wait(60) == 0, login.stderr.read()
        return login.stdout.read()


def test_a_login_serves_the_command_and_mlflow_until_it_is_ended(
    machine: dict[str, str], gateway: Countersign, person: httpx.Client
) -> None:
    told = sign_in(machine, person)
    assert f"Signed in at {gateway.url} as ada, for promote, registry, resolve, track." in told
    assert "It renews itself until" in told

    with started([sys.executable, str(STORY)], machine) as notebook:
        assert notebook.stdin
        assert notebook.stdout
        assert notebook.stderr
        line = next((line for line in notebook.stdout if line.startswith("{")), None)
        assert line, notebook.stderr.read()
        assert json.loads(line) | {"user": ""} == {
            "depth": "3",
            "rmse": 0.5,
            "text": "plain",
            "renewed": True,
            "user": "",
        }
        me = json.loads(countersign(machine, "whoami", "--json").stdout)
        assert (me["name"], me["groups"]) == ("ada", ["scientists"])

        refused = countersign(machine, "token", "create", "--name", "beyond", "--scope", "approve", "--days", "1")
        assert refused.returncode == 1, "a login hands out no more than it has"
        made = countersign(machine, "token", "create", "--name", "nightly", "--scope", "track", "--days", "7")
        assert made.returncode == 0, made.stderr
        secret = made.stdout.strip()
        (listed,) = json.loads(countersign(machine, "token", "list", "--json").stdout)["items"]
        assert (listed["name"], listed["scopes"], listed["revoked_at"]) == ("nightly", ["track"], None)
        narrow = countersign(machine, "exchange", "--scope", "track", piped=secret)
        assert narrow.stdout.startswith("cs_exc_"), narrow.stderr
        assert countersign(machine, "token", "revoke", listed["id"]).returncode == 0

        assert countersign(machine, "logout").returncode == 0
        notebook.stdin.write("\n")
        notebook.stdin.flush()
        assert f"You are not signed in at {gateway.url}. Run: countersign login {gateway.url}" in notebook.stdout.read()
    assert countersign(machine, "whoami").returncode == 3
    for one in (secret, narrow.stdout.strip()):
        assert one not in gateway.log("gateway")


def test_the_browser_of_this_machine_signs_in_without_a_code(
    gateway: Countersign,
    person: httpx.Client,
    tmp_path: Path,
) -> None:
    store = LoginStore(tmp_path / "logins.json")
    shown: list[httpx.Response] = []

    def go(page: str) -> None:
        back = allow(person, page)
        assert back.status_code == 303, back.text
        shown.append(httpx.get(back.headers["location"], trust_env=False))

    opened: list[threading.Thread] = []

    def open_page(page: str) -> None:
        opened.append(threading.Thread(target=go, args=(page,)))
        opened[0].start()

    login = by_browser(gateway.url, ["track"], open_page=open_page, store=store)
    opened[0].join()
    assert login.scopes == ("track",)
    assert "Back to the terminal" in shown[0].text
    assert call(gateway.url, "GET", "/me", store=store)["credential"] == "login"
    # A login that somebody ends in the browser is told in words.
    item = person.get("/control/v1/logins", headers={"Accept": "application/json"}).json()["items"][0]
    assert person.delete(f"/control/v1/logins/{item['id']}").status_code == 204

    def end() -> str:
        try:
            call(gateway.url, "GET", "/me", store=store)
        except NotSignedIn as ended:
            return str(ended)
        return ""

    assert "has ended. Run: countersign login" in until(end, "the end of the login", patience_s=10)
    assert not sign_out(gateway.url, store=store)
