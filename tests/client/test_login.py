"""Signing in: by a code, and with a browser; and what is not believed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest
import requests
from countersign_client.errors import InvalidAddress, Refused, Unreachable
from countersign_client.signing_in import DeviceCode, by_browser, by_device
from countersign_client.store import Login, LoginStore

from tests.client.standin import Standin

SCOPES = ["track", "registry"]


def patiently(waited: list[float]) -> Callable[[float], None]:
    return waited.append


def by_code(gateway: Standin, waited: list[float] | None = None) -> Login:
    return by_device(gateway.url, SCOPES, show=lambda _: None, sleep=patiently([] if waited is None else waited))


def test_a_code_that_a_person_allows_signs_in(gateway: Standin, store: LoginStore) -> None:
    gateway.pending, gateway.interval = 2, 1
    shown: list[DeviceCode] = []
    waited: list[float] = []
    login = by_device(f"{gateway.url}/", SCOPES, show=shown.append, sleep=waited.append)
    assert [(code.user_code, code.address) for code in shown] == [
        ("WDJB-MJHT", f"{gateway.url}/auth/device?user_code=WDJB-MJHT")
    ]
    assert gateway.forms("/auth/device_authorization") == [{"client_id": "countersign-cli", "scope": "registry track"}]
    assert waited == [1, 1, 1]
    assert store.get(gateway.url) == login
    assert login.scopes == ("registry", "track")


def test_what_a_gateway_writes_cannot_steer_a_terminal(gateway: Standin, store: LoginStore) -> None:
    right = gateway.tokens
    gateway.answers["/auth/token"] = lambda _: (200, {**right()[1], "scope": "track\x1b]0;evil\x07 \x9b2J registry"})
    login = by_device(gateway.url, SCOPES, show=lambda _: None, sleep=lambda _: None)
    assert all(scope.isprintable() for scope in login.scopes)


def test_a_device_that_asks_too_often_slows_down(gateway: Standin, store: LoginStore) -> None:
    gateway.interval = 1
    right, refusals = gateway.tokens, ["slow_down", "authorization_pending"]
    gateway.answers["/auth/token"] = lambda _: (400, {"error": refusals.pop(0)}) if refusals else right()
    waited: list[float] = []
    by_code(gateway, waited)
    assert waited == [1, 6, 6]


def test_a_device_waits_out_a_gateway_that_is_away(gateway: Standin, store: LoginStore) -> None:
    right, away = gateway.tokens, [503]
    gateway.answers["/auth/token"] = lambda _: (away.pop(), {}) if away else right()
    assert by_code(gateway).access_token == "cs_log_1"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("access_denied", "You said no"),
        ("expired_token", "Nobody allowed the code in time"),
        ("invalid_grant", "invalid_grant"),
    ],
)
def test_a_refused_code_signs_nobody_in(gateway: Standin, store: LoginStore, error: str, told: str) -> None:
    gateway.answers["/auth/token"] = lambda _: (400, {"error": error})
    with pytest.raises(Refused, match=told):
        by_code(gateway)
    assert store.all() == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"verification_uri": "https://thief.example/auth/device"},
        {"verification_uri_complete": "https://thief.example/auth/device"},
        {"verification_uri_complete": None, "verification_uri": None},
        {"user_code": ""},
        {"device_code": None},
    ],
)
def test_a_person_is_sent_to_the_gateway_that_they_named_alone(
    gateway: Standin, store: LoginStore, changed: dict[str, object]
) -> None:
    right = gateway.answer

    def answer(seen: object) -> tuple[int, object]:
        del gateway.answers["/auth/device_authorization"]
        gateway.lock.release()
        try:
            return 200, {**right(seen)[1], **changed}  # type: ignore[arg-type]
        finally:
            gateway.lock.acquire()

    gateway.answers["/auth/device_authorization"] = answer  # type: ignore[assignment]
    shown: list[DeviceCode] = []
    with pytest.raises(Refused, match="no code to sign in with"):
        by_device(gateway.url, SCOPES, show=shown.append, sleep=patiently([]))
    assert not shown


def test_a_new_login_ends_the_one_before(gateway: Standin, store: LoginStore, signed_in: Callable[..., Login]) -> None:
    signed_in()
    by_code(gateway)
    assert [form["token"] for form in gateway.forms("/auth/revoke")] == ["cs_ref_0"]
    kept = store.get(gateway.url)
    assert kept
    assert kept.refresh_token == "cs_ref_1"


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"resource": "https://gateway.example"}, "calls itself https://gateway.example: use that"),
        ({"resource": None}, "calls itself nothing"),
        ({"authorization_servers": ["https://issuer.example"]}, "gives out no tokens of its own"),
        ({"authorization_servers": None}, "gives out no tokens of its own"),
        ({"issuer": "https://issuer.example"}, "in the name of https://issuer.example"),
        ({"token_endpoint": "https://thief.example/token"}, "names no token_endpoint of its own"),
        ({"authorization_endpoint": None}, "names no authorization_endpoint of its own"),
        ({"device_authorization_endpoint": "http://gateway.example/"}, "names no device_authorization_endpoint"),
        ({"revocation_endpoint": "javascript:alert(1)"}, "names no revocation_endpoint"),
    ],
)
def test_a_gateway_that_speaks_for_another_is_not_believed(
    gateway: Standin, store: LoginStore, metadata: dict[str, object], told: str
) -> None:
    gateway.metadata = metadata
    with pytest.raises((Refused, InvalidAddress), match=told):
        by_code(gateway)
    assert not gateway.forms("/auth/device_authorization")


def test_what_is_no_gateway_is_told_in_words(gateway: Standin, store: LoginStore) -> None:
    gateway.answers["/.well-known/oauth-protected-resource"] = lambda _: (404, {})
    with pytest.raises(Refused, match="is not a Countersign gateway"):
        by_code(gateway)
    with pytest.raises(Unreachable, match="does not answer"):
        by_device("http://127.0.0.1:1", SCOPES, show=lambda _: None)


class Browser:
    """Opens pages as a browser does, in a thread of its own, and keeps what it was shown."""

    def __init__(self, gateway: Standin, **changed: str | None) -> None:
        self.gateway, self.changed = gateway, changed
        self.shown: list[requests.Response] = []
        self.first: list[str] = []
        self._thread: threading.Thread | None = None

    def open(self, page: str) -> None:
        self.page = page
        self._thread = threading.Thread(target=self._open, args=(page,))
        self._thread.start()

    def _open(self, page: str) -> None:
        back = self.gateway.back_from(page, **self.changed)
        root = back.partition("/callback")[0]
        for path in self.first:
            self.shown.append(requests.get(root + path.replace("STATE", back.partition("state=")[2]), timeout=10))
        self.shown.append(requests.get(back, timeout=10))

    def close(self) -> None:
        if self._thread:
            self._thread.join()


def test_a_browser_signs_in_by_a_code_that_only_we_can_redeem(gateway: Standin, store: LoginStore) -> None:
    browser = Browser(gateway)
    login = by_browser(gateway.url, SCOPES, open_page=browser.open)
    browser.close()
    assert store.get(gateway.url) == login
    (form,) = gateway.forms("/auth/token")
    assert form["redirect_uri"].startswith("http://127.0.0.1:")
    assert form["redirect_uri"].endswith("/callback")
    assert form["code_verifier"] not in browser.page
    assert "code_challenge_method=S256" in browser.page
    (page,) = browser.shown
    assert "Back to the terminal" in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert page.headers["Cache-Control"] == "no-store"


def test_a_connection_that_a_browser_opens_and_does_not_use_holds_nobody_up(
    gateway: Standin, store: LoginStore
) -> None:
    browser = Browser(gateway)
    idle: list[socket.socket] = []

    def open_page(page: str) -> None:
        port = int(page.partition("127.0.0.1%3A")[2].partition("%2F")[0])
        idle.append(socket.create_connection(("127.0.0.1", port)))
        browser.open(page)

    by_browser(gateway.url, SCOPES, open_page=open_page, patience_s=5)
    browser.close()
    idle[0].close()


def test_whoever_does_not_know_the_state_is_not_listened_to(gateway: Standin, store: LoginStore) -> None:
    browser = Browser(gateway)
    browser.first = [
        "/favicon.ico",
        "/callback",
        "/callback?code=stolen&state=guessed",
        "/callback?state=STATE&state=STATE",
        "/elsewhere?state=STATE",
    ]
    by_browser(gateway.url, SCOPES, open_page=browser.open)
    browser.close()
    assert [page.status_code for page in browser.shown] == [404, 404, 404, 404, 404, 200]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"iss": "https://issuer.example"}, "in the name of another server"),
        ({"iss": None}, "in the name of another server"),
        ({"iss": "https://issuer.example", "code": None, "error": "access_denied"}, "in the name of another server"),
        ({"code": None, "error": "access_denied"}, "You said no"),
        ({"code": None, "error": "invalid_scope", "error_description": "not that one"}, "not that one"),
        ({"code": None}, "without a code"),
    ],
)
def test_an_answer_of_another_server_or_none_is_not_redeemed(
    gateway: Standin, store: LoginStore, changed: dict[str, str | None], told: str
) -> None:
    browser = Browser(gateway, **changed)
    with pytest.raises(Refused, match=told):
        by_browser(gateway.url, SCOPES, open_page=browser.open)
    browser.close()
    assert not gateway.forms("/auth/token")
    assert store.all() == {}


def test_a_person_who_does_not_come_back_is_not_waited_for_for_ever(gateway: Standin, store: LoginStore) -> None:
    with pytest.raises(Refused, match="use --device"):
        by_browser(gateway.url, SCOPES, open_page=lambda _: None, patience_s=0.05)
