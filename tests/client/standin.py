"""A gateway's sign-in as a test wants it: a real HTTP server that answers by the contract, or breaks it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

Answer = tuple[int, Mapping[str, object]]
CODE = "cs_cod_the-code"


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode()))


@dataclass
class Standin:
    """What it is told to be, and what it saw."""

    url: str = ""
    metadata: dict[str, object] = field(default_factory=dict)
    """In place of what is right."""
    answers: dict[str, Callable[[Seen], Answer]] = field(default_factory=dict)
    """In place of what is right, by path."""
    redirects: dict[str, str] = field(default_factory=dict)
    pending: int = 0
    """How often a device is told to wait."""
    interval: float = 0.01
    """Seconds between two questions of a device."""
    lasts: int = 900
    access: str = "cs_log_0"
    refresh: str = "cs_ref_0"
    ended: bool = False
    used: set[str] = field(default_factory=set)
    seen: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    challenge: str = ""

    def forms(self, path: str) -> list[dict[str, str]]:
        return [seen.form for seen in self.seen if seen.path == path]

    def calls(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    def answer(self, seen: Seen) -> Answer:
        with self.lock:
            self.seen.append(seen)
            if chosen := self.answers.get(seen.path):
                return chosen(seen)
            match seen.path:
                case "/.well-known/oauth-protected-resource":
                    return 200, self._said({"resource": self.url, "authorization_servers": [self.url]})
                case "/.well-known/oauth-authorization-server":
                    return 200, self._said(
                        {
                            "issuer": self.url,
                            **{
                                f"{name}_endpoint": f"{self.url}/auth/{path}"
                                for name, path in {
                                    "authorization": "authorize",
                                    "token": "token",
                                    "device_authorization": "device_authorization",
                                    "revocation": "revoke",
                                }.items()
                            },
                        }
                    )
                case "/auth/device_authorization":
                    return 200, {
                        "device_code": "cs_dev_0",
                        "user_code": "WDJB-MJHT",
                        "verification_uri": f"{self.url}/auth/device",
                        "verification_uri_complete": f"{self.url}/auth/device?user_code=WDJB-MJHT",
                        "expires_in": 600,
                        "interval": self.interval,
                    }
                case "/auth/token":
                    return self._token(seen.form)
                case "/auth/revoke":
                    self.ended = True
                    return 200, {}
        if seen.headers.get("Authorization") != f"Bearer {self.access}" or self.ended:
            return 401, {"detail": "Send an access token."}
        return 200, {"name": "ada", "items": [], "path": seen.path}

    def _said(self, right: Mapping[str, object]) -> Mapping[str, object]:
        return {**right, **{name: value for name, value in self.metadata.items() if name in right}}

    def _token(self, form: Mapping[str, str]) -> Answer:
        match form.get("grant_type"):
            case "refresh_token":
                if self.ended or form["refresh_token"] != self.refresh:
                    self.ended = True
                    return 400, {"error": "invalid_grant", "error_description": "Sign in again."}
            case "authorization_code":
                digest = hashlib.sha256(form["code_verifier"].encode()).digest()
                if form["code"] != CODE or base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != self.challenge:
                    return 400, {"error": "invalid_grant"}
            case _:
                if self.pending:
                    self.pending -= 1
                    return 400, {"error": "authorization_pending"}
        return self.tokens()

    def tokens(self) -> Answer:
        """The next pair."""
        number = int(self.access.rpartition("_")[2]) + 1
        self.access, self.refresh = f"cs_log_{number}", f"cs_ref_{number}"
        return 200, {
            "access_token": self.access,
            "token_type": "Bearer",
            "expires_in": self.lasts,
            "scope": "registry track",
            "refresh_token": self.refresh,
        }

    def back_from(self, page: str, **changed: str | None) -> str:
        """Where a browser is sent that opened ``page``, after the person said yes."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(page).query).items()}
        self.challenge = asked["code_challenge"]
        answer: dict[str, str | None] = {"code": CODE, "state": asked["state"], "iss": self.url, **changed}
        return f"{asked['redirect_uri']}?{urlencode({k: v for k, v in answer.items() if v is not None})}"


@contextmanager
def running_standin() -> Iterator[Standin]:
    standin = Standin()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            address = urlsplit(self.path)
            seen = Seen(self.command, address.path, dict(parse_qsl(address.query)), dict(self.headers), body)
            if target := standin.redirects.get(address.path):
                standin.seen.append(seen)
                self.send_response(307)
                self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            status, document = standin.answer(seen)
            text = json.dumps(document).encode() if status != 304 else b""  # which has no body (RFC 9110)
            self.send_response(status)
            if isinstance(tag := document.get("etag"), str):
                self.send_header("ETag", tag)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with suppress(ConnectionError):  # who asked may have been stopped meanwhile
                self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815  # as the base class finds them

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    standin.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield standin
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
