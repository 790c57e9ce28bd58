"""Parts to run the proxy for real: a server, a recording upstream, stand-ins for its ports, and a raw HTTP client."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from app.adapters.assertions import GatewayAssertion
from app.adapters.clock import SystemClock
from app.domain.access import Principal, Role
from app.domain.admission import Limits
from app.domain.errors import CountersignError, NotAuthenticated
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.lanes import QUEUED, Lane
from app.domain.routes import Forward, Guard, Route, Ruling
from app.ports import Page
from app.proxy import Admission, ExchangeLimits, Proxy, Sizes, Upstream, Watch
from app.proxy.asgi import Receive, Scope, Send
from app.proxy.connections import HttpConnection
from app.proxy.watching import Patience
from tests.principals import principal

PUBLIC_URL = "http://gateway.example"
TOKENS: Mapping[str, frozenset[Role]] = {
    "token-of-requester": frozenset({Role.REQUESTER}),
    "token-of-viewer": frozenset({Role.VIEWER}),
    "token-of-serving": frozenset({Role.SERVING}),
    "token-of-administrator": frozenset({Role.ADMINISTRATOR}),
    "token-of-all-roles": frozenset(Role),
}
REQUESTER = {"Authorization": "Bearer token-of-requester"}

Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


async def authenticate(scope: Scope) -> Principal:
    """Know a caller by one of ``TOKENS``."""
    credentials = [value.decode() for name, value in scope["headers"] if name == b"authorization"]
    if not credentials:
        raise NotAuthenticated("Send an access token.")
    roles = TOKENS.get(credentials[0].removeprefix("Bearer "))
    if roles is None or len(credentials) > 1:
        raise NotAuthenticated('The token is not "valid".', error="invalid_token")
    return principal(credentials[0].rpartition("-")[2], *roles, name="somebody")


@dataclass
class AskedGuard:
    """A guard that remembers what it was asked, and answers as it was told."""

    ruling: Ruling | Exception = field(default_factory=Forward)
    asked: list[tuple[Guard, dict[str, str]]] = field(default_factory=list)

    async def check(
        self, guard: Guard, principal: Principal, fields: Mapping[str, str], workspace: str = DEFAULT_WORKSPACE
    ) -> Ruling:
        self.asked.append((guard, dict(fields)))
        if isinstance(self.ruling, Exception):
            raise self.ruling
        return self.ruling


class NoPages:
    """Nobody is a person in a browser."""

    def instead_of(self, error: CountersignError, scope: Mapping[str, Any]) -> Page | None:
        return None


@dataclass
class Seen:
    """A request as it arrived at the upstream."""

    method: str
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value.decode() for key, value in self.headers if key == name.encode()]


async def read(receive: Receive) -> bytes:
    """The whole body of a request."""
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionResetError
        body += event.get("body", b"")
        more = event.get("more_body", False)
    return body


@dataclass
class RecordingUpstream:
    """An ASGI application in the place of MLflow. ``handler`` answers in its stead when a test needs more."""

    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [(b"content-type", b"application/json")])
    body: bytes = b'{"from": "upstream"}'
    handler: Application | None = None
    seen: list[Seen] = field(default_factory=list)
    reached: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in {"/version", "/health"} and b"x-forwarded-for" not in dict(scope["headers"]):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"3.17.2"})  # the proxy asks for itself
            return
        self.reached += 1
        if self.handler:
            await self.handler(scope, receive, send)
            return
        body = await read(receive)
        headers = list(scope["headers"])
        self.seen.append(Seen(scope["method"], scope["raw_path"], scope["query_string"], headers, body))
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


Denial = tuple[Principal | None, Route | None, str, str, CountersignError]
Observation = tuple[str, str, int, float]


@dataclass
class TestedProxy:
    """A proxy, and what it told its hooks."""

    __test__ = False
    proxy: Proxy
    guard: AskedGuard
    denied: list[Denial]
    observed: list[Observation]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.proxy(scope, receive, send)


@dataclass
class Door:
    """A running proxy, and what it told its hooks."""

    url: str
    guard: AskedGuard
    denied: list[Denial]
    observed: list[Observation]


@contextmanager
def serving(
    application: Application, *, port: int = 0, connection: type[HttpConnection] = HttpConnection
) -> Iterator[str]:
    """The address of ``application``, served by uvicorn in a thread of its own until the block ends."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(
        application,
        lifespan="off",
        log_level="critical",
        access_log=False,
        http=connection,
        proxy_headers=False,
        ws="websockets-sansio",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def admission_to(*upstreams: Upstream, per_worker: int = 8, sizes: Sizes | None = None) -> Admission:
    """Admission that does not adapt to how fast an upstream is."""
    limits = Limits(per_worker, {**dict.fromkeys(QUEUED, per_worker), Lane.STREAM: 64})
    return Admission(upstreams, limits=limits, sizes=sizes or Sizes(queue=64, share=64, deadline_s=20))


def proxy_to(
    admission: Admission, *, timeout_s: float = 20, max_json_body: int = 64 * 1024, hook_fails: bool = False
) -> TestedProxy:
    """A proxy with stand-ins for all its ports."""
    denied: list[Denial] = []
    observed: list[Observation] = []
    guard = AskedGuard()

    async def tell(
        principal: Principal | None, route: Route | None, method: str, path: str, error: CountersignError
    ) -> None:
        denied.append((principal, route, method, path, error))
        if hook_fails:
            raise ConnectionError("the audit log cannot be reached")

    def note(route_class: str, decision: str, status: int, seconds: float) -> None:
        observed.append((route_class, decision, status, seconds))

    proxy = Proxy(
        admission=admission,
        assertion=GatewayAssertion(None, SystemClock()),
        public_url=PUBLIC_URL,
        authenticate=authenticate,
        guard=guard,
        denied=tell,
        observe=note,
        pages=NoPages(),
        limits=ExchangeLimits(json_body=max_json_body, body=4 * max_json_body, idle_s=timeout_s, upstream_s=timeout_s),
    )
    return TestedProxy(proxy, guard, denied, observed)


@contextmanager
def door(
    *upstream_urls: str,
    timeout_s: float = 20,
    max_json_body: int = 64 * 1024,
    hook_fails: bool = False,
    per_worker: int = 8,
    sizes: Sizes | None = None,
    patience: Patience | None = None,
) -> Iterator[Door]:
    """A proxy in front of the upstreams, served for real."""
    upstreams = [Upstream(url) for url in upstream_urls]
    admission = admission_to(*upstreams, per_worker=per_worker, sizes=sizes)
    watch = Watch(admission, patience=patience or Patience(interval_s=0.1))
    tested = proxy_to(admission, timeout_s=timeout_s, max_json_body=max_json_body, hook_fails=hook_fails)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if not watch.is_running:
            watch.start()
        if scope["type"] == "http" and scope["path"] == "/close-upstream":
            await watch.close()
            for upstream in upstreams:
                await upstream.close()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await tested(scope, receive, send)

    with serving(application) as url:
        try:
            yield Door(url, tested.guard, tested.denied, tested.observed)
        finally:
            exchange(url, b"POST /close-upstream HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=30)


def exchange(url: str, raw: bytes) -> Answer:
    """Send ``raw`` bytes as they are, and read until the server closes (ask it to with ``connection: close``)."""
    with connect(url) as connection:
        connection.sendall(raw)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Answer(int(status_line.split(" ")[1]), headers, body)


def request(
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    token: str | None = "token-of-requester",
) -> bytes:
    """The bytes of a request whose target is sent exactly as written."""
    lines = [f"{method} {target} HTTP/1.1", "host: gateway.example", "connection: close"]
    if token:
        lines.append(f"authorization: Bearer {token}")
    if body and not any(name.lower() == "transfer-encoding" for name in headers or {}):
        lines.append(f"content-length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
