"""A port of this machine that stands for the gateway while a project is trained: each request goes on with a token that
is good then.

A project in an environment of its own does not have this package, so that it can renew no token; and a training may
last for longer than any lasts. It gets the port's address as that of MLflow's server, and a secret as its token, which
nobody else on this machine knows.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests
import urllib3.exceptions

from countersign_client.bootstrapping.training import SCOPES, Renewed
from countersign_client.credentials import token_for
from countersign_client.errors import ClientError, Unreachable
from countersign_client.wire import NO_PROXY

_TIMEOUT_S = (5, 600)
"""To connect, and between parts of an answer: the gateway may have much to do with an artifact before it answers."""
_IDLE_S = 600
_PIECE = 256 * 1024
_LONGEST_LINE = 1024
_DRAINED = 16 * 1024 * 1024
_POLL_S = 0.1
_NOT_PASSED_ON = frozenset(
    {
        *("authorization", "connection", "content-length", "expect", "host", "keep-alive", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)
_NOT_PASSED_BACK = frozenset({"connection", "keep-alive", "proxy-authenticate", "trailer", "transfer-encoding"})
_BODILESS = frozenset({204, 304})


@contextmanager
def renewing(gateway: str) -> Iterator[Renewed]:
    """Pass on to the gateway what comes in with the secret, as whoever is signed in here, for as long as this lasts.

    Raises: as ``credentials.token_for``, before anything is listened to.
    """
    token_for(gateway, scopes=SCOPES)
    secret = secrets.token_urlsafe(32)
    server = _Server(("127.0.0.1", 0), _handler_of(gateway, secret))
    serving = threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True)
    serving.start()
    try:
        yield Renewed(f"http://127.0.0.1:{server.server_port}", secret)
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def _handler_of(gateway: str, secret: str) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.gateway, Handler.secret = gateway, secret
    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Quiet: a connection that broke off is for who began it to tell."""


class _Handler(BaseHTTPRequestHandler):
    """One request, on a connection of its own: what is left unread of a body is never taken for the next one."""

    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S
    gateway: str
    secret: str

    def _handle(self) -> None:
        self.close_connection = True
        body = self._body()
        try:
            self._answer(body)
        finally:
            self._drain(body)

    def _answer(self, body: _Sized | Iterator[bytes] | None) -> None:
        shown = self.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(shown, f"Bearer {self.secret}".encode()) or not self.path.startswith("/"):
            self._refuse(401, "UNAUTHENTICATED", "This port is for one training alone.")
            return
        try:
            token = token_for(self.gateway, scopes=SCOPES)
        except Unreachable as error:
            self._refuse(503, "TEMPORARILY_UNAVAILABLE", str(error))
            return
        except ClientError as error:
            self._refuse(401, "UNAUTHENTICATED", str(error))
            return
        try:
            theirs = self._asked(token, body)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError):
            self._refuse(503, "TEMPORARILY_UNAVAILABLE", f"{self.gateway} does not answer.")
            return
        with theirs:
            self._pass_back(theirs)

    def _asked(self, token: str, body: _Sized | Iterator[bytes] | None) -> requests.Response:
        def authorise(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = f"Bearer {token}"
            return request

        headers: dict[str, str | None] = {"User-Agent": None, "Accept": None, "Accept-Encoding": None}
        headers = {name: value for name, value in headers.items() if name not in self.headers}
        headers |= {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED_ON}
        return requests.request(
            self.command,
            f"{self.gateway}{self.path}",
            data=body,
            headers=headers,  # type: ignore[arg-type]  # none: not even that of `requests`
            auth=authorise,
            proxies=NO_PROXY if self.gateway.startswith("http:") else None,
            timeout=_TIMEOUT_S,
            allow_redirects=False,
            stream=True,
        )

    def _body(self) -> _Sized | Iterator[bytes] | None:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._chunks()
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()):
            raise ConnectionError
        return _Sized(self._read(int(length)), int(length)) if int(length) else None

    def _chunks(self) -> Iterator[bytes]:
        while length := self._length():
            yield from self._read(length)
            self.rfile.readline(_LONGEST_LINE)
        while self.rfile.readline(_LONGEST_LINE).strip():
            pass

    def _length(self) -> int:
        length = self.rfile.readline(_LONGEST_LINE).partition(b";")[0].strip()
        if not length or length.strip(b"0123456789abcdefABCDEF"):
            raise ConnectionError
        return int(length, 16)

    def _read(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self.rfile.read(min(length, _PIECE))
            if not piece:
                raise ConnectionError
            length -= len(piece)
            yield piece

    def _drain(self, body: _Sized | Iterator[bytes] | None) -> None:
        """Read what nobody wanted, as far as it is not too much: who is cut off while sending sees no answer."""
        left = _DRAINED
        with suppress(OSError):
            for piece in body or ():
                left -= len(piece)
                if left < 0:
                    return

    def _pass_back(self, theirs: requests.Response) -> None:
        has_body = self.command != "HEAD" and theirs.status_code not in _BODILESS
        is_chunked = has_body and "Content-Length" not in theirs.headers
        self.send_response_only(theirs.status_code)
        for name, value in theirs.raw.headers.iteritems():
            if name.lower() not in _NOT_PASSED_BACK:
                self.send_header(name, value)
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        if not has_body:
            return
        for piece in theirs.raw.stream(_PIECE, decode_content=False):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
        if is_chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error_code": code, "message": message}).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _handle  # noqa: N815  # as the base class finds them

    def log_message(self, *_: object) -> None:
        """Quiet: what goes through is the project's."""


class _Sized:
    """A body whose length is known, in pieces."""

    def __init__(self, pieces: Iterator[bytes], length: int) -> None:
        self._pieces = pieces
        self._length = length

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def __len__(self) -> int:
        return self._length
