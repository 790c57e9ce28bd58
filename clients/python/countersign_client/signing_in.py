"""How somebody signs in: by a code that is confirmed anywhere (RFC 8628), or in a browser here (RFC 8252)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from countersign_client.addresses import gateway_address, origin_of
from countersign_client.discovery import Endpoints, discover
from countersign_client.errors import Refused, Unreachable
from countersign_client.session import CLIENT_ID, keep, login_from
from countersign_client.store import Login, LoginStore
from countersign_client.wire import OAuthRefused, plain, post_form

_DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
_POLL_S = 5
"""If the gateway names no interval, and what ``slow_down`` adds (RFC 8628 sections 3.2 and 3.5)."""
_PATIENCE_S = 300
_CALLBACK = "/callback"
_READ_S = 10
"""What a browser may take to send its request."""


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """What the person is shown."""

    user_code: str
    verification_uri: str
    address: str
    """The same with the code filled in, if the gateway offers that."""
    lasts_s: float


def by_device(
    gateway: str,
    scopes: Iterable[str],
    *,
    show: Callable[[DeviceCode], None],
    store: LoginStore | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Login:
    """Sign in by a code that a person confirms in a browser, on whatever machine.

    Args:
        gateway: its address.
        scopes: what the login may do at most.
        show: tells the person.
        store: where the login is kept.
        sleep: waits so many seconds.

    Raises:
        InvalidAddress: it is no gateway's address.
        Refused: the person or the gateway said no, or nobody answered in time.
        Unreachable: the gateway does not answer.
        UnsafeStore: the login cannot be kept.
    """
    asked = sorted(set(scopes))
    endpoints = discover(gateway)
    gateway = gateway_address(gateway)
    answer = post_form(endpoints.device_authorization, {"client_id": CLIENT_ID, "scope": " ".join(asked)})
    device_code = answer.get("device_code")
    code = _device_code(gateway, answer)
    if not isinstance(device_code, str) or not device_code:
        raise Refused(f"{gateway} gave no code to sign in with.")
    deadline = time.monotonic() + code.lasts_s
    show(code)
    form = {"grant_type": _DEVICE_CODE, "device_code": device_code, "client_id": CLIENT_ID}
    tokens = _poll(endpoints.token, form, _seconds(answer.get("interval"), _POLL_S), deadline, sleep)
    login = login_from(gateway, endpoints, tokens, asked=asked)
    keep(login, store=store)
    return login


def _poll(
    endpoint: str, form: Mapping[str, str], interval: float, deadline: float, sleep: Callable[[float], None]
) -> Mapping[str, object]:
    """The tokens, when the person has said yes (RFC 8628 section 3.5)."""
    while time.monotonic() < deadline:
        sleep(interval)
        try:
            return post_form(endpoint, form)
        except Unreachable:
            interval += _POLL_S
        except OAuthRefused as refusal:
            if refusal.code == "slow_down":
                interval += _POLL_S
            elif refusal.code == "access_denied":
                raise Refused("You said no in the browser: nobody is signed in.") from None
            elif refusal.code == "expired_token":
                break
            elif refusal.code != "authorization_pending":
                raise
    raise Refused("Nobody allowed the code in time. Try again.")


def _device_code(gateway: str, answer: Mapping[str, object]) -> DeviceCode:
    address, complete = answer.get("verification_uri"), answer.get("verification_uri_complete")
    user_code = plain(answer.get("user_code"))
    complete = address if complete is None else complete
    # A person opens it without a second look: it must be the gateway that they named.
    if (
        not isinstance(address, str)
        or not isinstance(complete, str)
        or not user_code
        or any(origin_of(url) != gateway or plain(url) != url for url in (address, complete))
    ):
        raise Refused(f"{gateway} gave no code to sign in with.")
    return DeviceCode(user_code, address, complete, _seconds(answer.get("expires_in"), _PATIENCE_S))


def _seconds(value: object, otherwise: float) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else otherwise


def by_browser(
    gateway: str,
    scopes: Iterable[str],
    *,
    open_page: Callable[[str], object],
    store: LoginStore | None = None,
    patience_s: float = _PATIENCE_S,
) -> Login:
    """Sign in with a browser on this machine: authorization code with PKCE, back to a loopback address.

    Args:
        gateway: its address.
        scopes: what the login may do at most.
        open_page: shows a page to the person.
        store: where the login is kept.
        patience_s: seconds to wait for them.

    Raises:
        InvalidAddress: it is no gateway's address.
        Refused: the person or the gateway said no, or nobody answered in time, or another answered in its place.
        Unreachable: the gateway does not answer.
        UnsafeStore: the login cannot be kept.
    """
    asked = sorted(set(scopes))
    endpoints = discover(gateway)
    gateway = gateway_address(gateway)
    verifier, state = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    with _Listener(state) as listener:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": CLIENT_ID,
            "redirect_uri": listener.redirect_uri,
            "scope": " ".join(asked),
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        open_page(f"{endpoints.authorization}?{urlencode(query)}")
        answer = listener.wait(patience_s)
        code = _code(endpoints, answer)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": CLIENT_ID,
            "redirect_uri": listener.redirect_uri,
            "code_verifier": verifier,
        }
    login = login_from(gateway, endpoints, post_form(endpoints.token, form), asked=asked)
    keep(login, store=store)
    return login


def _code(endpoints: Endpoints, answer: Mapping[str, str]) -> str:
    # Another server's answer must not be redeemed here, nor this one's error be believed (RFC 9207 section 2.4).
    if answer.get("iss") != endpoints.issuer:
        raise Refused("The answer came in the name of another server than you signed in to. Nobody is signed in.")
    if answer.get("error") == "access_denied":
        raise Refused("You said no in the browser: nobody is signed in.")
    if "error" in answer:
        raise OAuthRefused(plain(answer["error"]), plain(answer.get("error_description")))
    code = answer.get("code")
    if not code:
        raise Refused("The browser came back without a code. Try again.")
    return code


class _Listener(ThreadingHTTPServer):
    """Waits on a free port of this machine for the browser to come back. What has not our state is not for us.

    A thread for each connection: browsers open some that they do not use.
    """

    daemon_threads = True
    answer: Mapping[str, str] | None = None

    def __init__(self, state: str) -> None:
        super().__init__(("127.0.0.1", 0), _Callback)
        self.state = state
        self.came_back = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def redirect_uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{_CALLBACK}"

    def wait(self, patience_s: float) -> Mapping[str, str]:
        """What the browser brings.

        Raises:
            Refused: it does not come back in time.
        """
        self.came_back.wait(patience_s)
        if self.answer is None:
            raise Refused("Nobody signed in in time. Try again, or use --device.")
        return self.answer

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away is none of our business; the default prints a traceback."""


class _Callback(BaseHTTPRequestHandler):
    server: _Listener
    timeout = _READ_S

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        pairs = parse_qsl(address.query, keep_blank_values=True)
        answer = dict(pairs)
        is_ours = (
            address.path == _CALLBACK
            and len(answer) == len(pairs)
            and hmac.compare_digest(answer.get("state", "").encode(), self.server.state.encode())
        )
        if is_ours and self.server.answer is None:
            self.server.answer = answer
        text = _COME_BACK if is_ours else _NOT_OURS
        self.send_response(200 if is_ours else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.send_header(
            "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        )
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(text)
        if is_ours:
            self.server.came_back.set()  # when the page is written: the process may end at once

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """The default prints the address, and the code with it."""


_COME_BACK = b"<!doctype html><meta name=color-scheme content='light dark'><title>Countersign</title>\
<style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:24rem;margin:20vh auto;padding:0 1rem}</style>\
<h1>Back to the terminal</h1><p>It says whether you are signed in. You can close this page."
_NOT_OURS = b"<!doctype html><title>Countersign</title><p>This address is for the end of a sign-in."
