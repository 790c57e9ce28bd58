"""Bad input, byte by byte: a clear refusal that MLflow's client can read, nothing left behind, and the door still open.

What is wrong with the framing or the head of a request is refused before anybody looks at who sent it; the rest after.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from app.proxy import connections
from app.proxy.connections import HEAD_BYTES, HEADERS, HttpConnection
from tests.platform import PATIENCE_S, Countersign, MlflowServer
from tests.proxying import Answer, Door, RecordingUpstream, connect, door, exchange, request, serving

ALIAS = "/api/2.0/mlflow/registered-models/alias"
SEARCH = "/api/2.0/mlflow/runs/search"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
JSON = {"content-type": "application/json"}
GOOD = b'{"name":"m","alias":"production","version":"2"}'
CHUNKED = b"2f\r\n" + GOOD + b"\r\n0\r\n\r\n"


@dataclass
class Site:
    """A door with a recording upstream behind it."""

    door: Door
    upstream: RecordingUpstream

    def answer(self, raw: bytes) -> Answer:
        """Also when the other side has had enough before all was sent."""
        received = b""
        with connect(self.door.url) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(raw)
            with contextlib.suppress(ConnectionError):
                while chunk := connection.recv(65536):
                    received += chunk
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Answer(int(status.split(" ")[1]), headers, body)

    def refuses(self, raw: bytes, *statuses: int) -> None:
        """Assert a refusal in MLflow's shape that reached neither guard nor MLflow, and that the door is open."""
        answer = self.answer(raw)
        assert answer.status in statuses, answer
        assert dict(answer.headers)["content-type"] == "application/json"
        document = answer.json()
        assert {type(document["error_code"]), type(document["message"])} == {str}
        assert (self.door.guard.asked, self.upstream.reached) == ([], 0)
        assert exchange(self.door.url, request("GET", "/health", token=None)).status == 200
        self.upstream.__init__()  # type: ignore[misc]


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    upstream = RecordingUpstream()
    with serving(upstream) as url, door(url) as running:
        yield Site(running, upstream)


@pytest.fixture
def site(shared: Site) -> Site:
    """The shared site with a clean memory."""
    shared.upstream.__init__()  # type: ignore[misc]
    shared.door.guard.__init__()  # type: ignore[misc]
    shared.door.denied.clear()
    return shared


def raw(
    line: str = f"POST {ALIAS} HTTP/1.1",
    *headers: str,
    body: bytes = GOOD,
    host: str = "Host: gateway.example",
    length: bool = True,
) -> bytes:
    """A request of which each line is written as it is."""
    lines = [line, host, "Authorization: Bearer token-of-requester", "Connection: close", *headers]
    if not any(header.lower().startswith("content-type") for header in headers):
        lines.append("Content-Type: application/json")
    if length and body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*(each for each in lines if each), "", ""]).encode("latin-1") + body


def test_the_plain_request_is_taken(site: Site) -> None:
    assert site.answer(raw()).status == 200
    assert (
        site.answer(raw(f"POST {ALIAS} HTTP/1.1", "Transfer-Encoding: chunked", body=CHUNKED, length=False)).status
        == 200
    )
    assert len(site.upstream.seen) == 2


# Too much.


@pytest.mark.parametrize(
    "headers",
    [
        [f"X-A: {'a' * HEAD_BYTES}"],
        [f"X-A: {'a' * 8 * 1024 * 1024}"],
        [f"{'A' * HEAD_BYTES}: a"],
        [f"X-{number}: {'a' * 1000}" for number in range(70)],
        [f"X-{number}: a" for number in range(HEADERS)],
        [f"X-{number}: a" for number in range(20_000)],
        [f"Cookie: {'a=b; ' * 20_000}"],
        [f"Authorization: Bearer {'a' * HEAD_BYTES}"],
    ],
    ids=["long value", "very long value", "long name", "many long", "many", "very many", "cookies", "token"],
)
def test_headers_are_bounded(site: Site, headers: list[str]) -> None:
    site.refuses(raw(f"POST {ALIAS} HTTP/1.1", *headers), 431)


def test_trailers_are_not_headers(site: Site) -> None:
    """They arrive after the headers were judged."""
    trailers = b"X-Smuggled: a\r\nContent-Encoding: gzip\r\nAuthorization: Bearer token-of-administrator\r\n"
    many = b"".join(b"X-%d: a\r\n" % number for number in range(5000))
    body = CHUNKED.removesuffix(b"\r\n") + trailers + many + b"\r\n"
    answer = site.answer(raw(f"POST {ALIAS} HTTP/1.1", "Transfer-Encoding: chunked", body=body, length=False))
    assert answer.status == 200
    assert {name for name, _ in site.upstream.seen[0].headers}.isdisjoint({b"x-smuggled", b"content-encoding", b"x-1"})


@pytest.mark.parametrize("target", [f"/{'a' * 9000}", f"/{'a' * 200_000}", f"/health?{'a' * 200_000}"])
def test_targets_are_bounded(site: Site, target: str) -> None:
    site.refuses(raw(f"GET {target} HTTP/1.1", body=b""), 400, 431)


def test_the_parameters_of_a_query_are_bounded(site: Site) -> None:
    site.refuses(raw(f"GET {SEARCH.replace('search', 'get')}?{'a=1&' * 2000} HTTP/1.1", body=b""), 400)


@pytest.mark.parametrize("size", [65 * 1024, 1024 * 1024, 10**12])
@pytest.mark.parametrize("path", [ALIAS, "/api/2.0/mlflow/model-versions/set-tag"])
def test_a_judged_body_is_bounded_whatever_it_says_of_itself(site: Site, path: str, size: int) -> None:
    declared = raw(f"POST {path} HTTP/1.1", f"Content-Length: {size}", body=b" " * min(size, 100_000), length=False)
    site.refuses(declared, 400, 413)


@pytest.mark.parametrize("path", [ALIAS, SEARCH])
def test_a_body_in_chunks_is_bounded(site: Site, path: str) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    body = chunk * 10 + b"0\r\n\r\n"
    site.refuses(raw(f"POST {path} HTTP/1.1", "Transfer-Encoding: chunked", body=body, length=False), 400, 413)


def test_a_body_that_is_passed_on_is_bounded(site: Site) -> None:
    site.refuses(raw(f"POST {SEARCH} HTTP/1.1", body=b" " * 300_000), 413)
    site.refuses(raw(f"POST {SEARCH} HTTP/1.1", f"Content-Length: {10**15}", body=b" ", length=False), 413)


DEEP: dict[str, bytes] = {
    "lists": b"[" * 100_000,
    "objects": b'{"a":' * 100_000,
    "closed lists": b"[" * 30_000 + b"]" * 30_000,
    "lists in a field": b'{"name":' + b"[" * 25_000 + b"]" * 25_000 + b"}",
    "a long number": b'{"name":' + b"1" * 60_000 + b"}",
    "an exponent": b'{"name":1e999999999}',
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_or_long_json_is_refused(site: Site, name: str) -> None:
    site.refuses(raw(body=DEEP[name]), 400, 413)


# Half.


@pytest.mark.parametrize(
    ("head", "sent"),
    [
        (raw(body=b"", length=False).replace(b"\r\n\r\n", b"\r\nContent-Length: 47\r\n\r\n"), GOOD[:20]),
        (raw(body=b"", length=False).replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"), CHUNKED[:20]),
        (
            raw(f"PUT {FILES}/1/a HTTP/1.1", body=b"").replace(b"\r\n\r\n", b"\r\nContent-Length: 47\r\n\r\n"),
            b"half a file",
        ),
        (raw()[:60], b""),
    ],
    ids=["message", "chunks", "file", "head"],
)
def test_what_is_half_sent_is_done_by_nobody(site: Site, head: bytes, sent: bytes) -> None:
    with connect(site.door.url) as connection:
        connection.sendall(head + sent)
        connection.shutdown(socket.SHUT_RDWR)
    assert exchange(site.door.url, request("GET", "/health", token=None)).status == 200
    assert [seen.method for seen in site.upstream.seen if seen.body] == []
    assert [guard for guard, _ in site.door.guard.asked if guard != "artifact-write"] == []


@pytest.mark.parametrize("sent", [b"", raw()[:60], b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET"])
def test_a_head_that_does_not_end_is_not_waited_for(sent: bytes) -> None:
    class Hasty(HttpConnection):
        head_s = 0.2

    upstream = RecordingUpstream()
    with serving(upstream, connection=Hasty) as url, connect(url) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65536), b""))

    last = received[received.rindex(b"HTTP/1.1 ") :]
    assert last.startswith(b"HTTP/1.1 408 ") or (sent.endswith(b"GET") and last.startswith(b"HTTP/1.1 200 ")), received
    if b" 408 " in last:
        assert json.loads(last.partition(b"\r\n\r\n")[2])["error_code"] == "INVALID_PARAMETER_VALUE"


def test_what_a_reader_does_not_take_of_an_answer_that_broke_off_is_not_kept_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "FAREWELL_S", 0.05)
    is_lost = threading.Event()

    class Watched(HttpConnection):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            is_lost.set()

    async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100000001")]})
        await send({"type": "http.response.body", "body": bytes(100_000_000), "more_body": True})

    with serving(breaks_off, connection=Watched) as url, connect(url) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert is_lost.wait(PATIENCE_S)


# Not what it says it is.


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/json;charset=utf-16",
        "application/json; charset=latin-1",
        "application/json, application/json",
        "application/json; boundary=x",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json\t;",
        "",
    ],
)
def test_a_judged_body_of_another_type_is_refused(site: Site, kind: str) -> None:
    if kind == "application/json\t;":
        assert site.answer(raw(f"POST {ALIAS} HTTP/1.1", f"Content-Type: {kind}")).status == 200
        return
    site.refuses(raw(f"POST {ALIAS} HTTP/1.1", f"Content-Type: {kind}"), 400)


@pytest.mark.parametrize(
    "body",
    [
        b'{"name":"\xff","alias":"a","version":"1"}',
        b'{"name":"\xc0\xaf","alias":"a","version":"1"}',
        b'{"name":"\xed\xa0\x80","alias":"a","version":"1"}',
        b'{"name":"m","name":"n","alias":"a","version":"1"}',
        b'{"name":"m","alias":"a","version":"1"',
        b'{"name":"m","alias":"a","version":"1"}\0',
        b"name=m&alias=a&version=1",
        b"\x00" * 40,
    ],
)
def test_a_judged_body_that_is_not_one_json_message_in_utf_8_is_refused(site: Site, body: bytes) -> None:
    site.refuses(raw(body=body), 400)


# Framed in two ways.

FRAMINGS = [
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 47\r\nContent-Length: 47",
    "Content-Length: +5",
    "Content-Length: -1",
    "Content-Length: 0x5",
    "Content-Length: 5, 5",
    "Content-Length: 5 5",
    "Content-Length: ",
    "Content-Length: 99999999999999999999999",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer_Encoding: chunked",
    "Content_Length: 47",
    "X-A: a\r\n b",
    "X-A : a",
    "X-A: a\0b",
    "X-A: a\rb",
    "X-A: a\nTransfer-Encoding: chunked",
    ": a",
    "X-A",
    "X\xff: a",
    "Content-Type: application/json\r\nContent-Type: application/json",
]


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_request_that_two_servers_could_cut_in_two_places_goes_nowhere(site: Site, framing: str) -> None:
    hidden = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    site.refuses(raw(f"POST {ALIAS} HTTP/1.1", framing, body=CHUNKED + hidden, length=False), 400)


@pytest.mark.parametrize(
    "body",
    [
        b"2f\n" + GOOD + b"\n0\n\n",
        b"0x2f\r\n" + GOOD + b"\r\n0\r\n\r\n",
        b"+2f\r\n" + GOOD + b"\r\n0\r\n\r\n",
        b" 2f\r\n" + GOOD + b"\r\n0\r\n\r\n",
        b"-1\r\n" + GOOD + b"\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\n" + GOOD,
        b"2e\r\n" + GOOD + b"\r\n0\r\n\r\n",
        b"\r\n" + GOOD,
        CHUNKED.removesuffix(b"\r\n") + b"Content-Length: 3\r\n\r\n",
    ],
)
def test_chunks_that_are_not_chunks_go_nowhere(site: Site, body: bytes) -> None:
    site.refuses(raw(f"POST {ALIAS} HTTP/1.1", "Transfer-Encoding: chunked", body=body, length=False), 400)


def test_requests_on_one_connection_are_answered_one_by_one_and_apart(site: Site) -> None:
    first = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(site.door.url) as connection:
        connection.sendall(first * 3 + raw("GET /no/such HTTP/1.1", body=b""))
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert [line[9:12] for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")] == [b"200"] * 3 + [b"404"]


def test_what_follows_a_request_and_is_none_is_not_the_answer_to_it() -> None:
    # At a door of its own: the request may be forwarded after its connection has ended, in the time of another test.
    with serving(RecordingUpstream()) as url, door(url) as running, connect(running.url) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" + b"\x16\x03\x01" * 20)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b" 400 " not in received.partition(b"\r\n")[0]


# Almost a method, a path, a protocol.


@pytest.mark.parametrize(
    "line",
    [
        f"post {ALIAS} HTTP/1.1",
        f"Post {ALIAS} HTTP/1.1",
        f"FROB {ALIAS} HTTP/1.1",
        f"TRACE {ALIAS} HTTP/1.1",
        f"OPTIONS {ALIAS} HTTP/1.1",
        f"PUT {ALIAS} HTTP/1.1",
        f"PATCH {ALIAS} HTTP/1.1",
        f"PROPFIND {ALIAS} HTTP/1.1",
        f"QUERY {ALIAS} HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT evil.example:443 HTTP/1.1",
        f"POST {ALIAS}/ HTTP/1.1",
        f"POST {ALIAS}es HTTP/1.1",
        f"POST {ALIAS.upper()} HTTP/1.1",
        f"POST {ALIAS[:-1]} HTTP/1.1",
        f"POST {ALIAS}.json HTTP/1.1",
        f"POST {ALIAS} HTTP/1.2",
        f"POST {ALIAS} HTTP/9.9",
        f"POST {ALIAS}",
        "PRI * HTTP/2.0",
        "GET / HTTP/0.9",
        "\x16\x03\x01\x02\x00\x01",
    ],
)
def test_what_is_almost_a_request_is_refused(site: Site, line: str) -> None:
    site.refuses(raw(line, body=b"" if line.startswith(("TRACE", "CONNECT")) else GOOD), 400, 404)


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0", "websocket, h2c"])
def test_a_body_beside_the_wish_for_another_protocol_is_refused(site: Site, protocol: str) -> None:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = (f"Upgrade: {protocol}", "Connection: Upgrade", key, "Sec-WebSocket-Version: 13")
    site.refuses(raw(f"POST {ALIAS} HTTP/1.1", *upgrade), 400)
    site.refuses(raw(f"POST {ALIAS} HTTP/1.1", *upgrade, "Transfer-Encoding: chunked", body=CHUNKED, length=False), 400)


def test_the_wish_for_http_2_alone_is_not_granted(site: Site) -> None:
    upgrade = ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    answer = site.answer(raw("GET /health HTTP/1.1", *upgrade, body=b""))
    assert answer.status == 200
    assert {name for name, _ in site.upstream.seen[0].headers}.isdisjoint({b"upgrade", b"http2-settings"})


def test_a_websocket_is_refused(site: Site) -> None:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", key, "Sec-WebSocket-Version: 13")
    assert site.answer(raw(f"GET {ALIAS} HTTP/1.1", *upgrade, body=b"")).status == 403
    assert site.upstream.reached == 0


def test_who_asks_first_whether_to_go_on_is_told_to(site: Site) -> None:
    answer = site.answer(raw(f"POST {ALIAS} HTTP/1.1", "Expect: 100-continue"))
    assert answer.status == 100
    assert b"HTTP/1.1 200 OK" in answer.body
    assert site.upstream.seen[0].values("expect") == []


# Host.


@pytest.mark.parametrize(
    "host",
    [
        "",
        "Host: a\r\nHost: b",
        "Host: a\r\nHost: a",
        "Host: gateway.example@evil.example",
        "Host: evil.example/path",
        "Host: evil.example:80:80",
        "Host: evil.example:8o",
        "Host: evil example",
        "Host: evil.example?",
        "Host: <script>",
        "Host: a,b",
        "Host: [::1",
        "Host: \xff",
    ],
)
def test_a_host_that_is_none_or_several_is_refused(site: Site, host: str) -> None:
    site.refuses(raw(host=host), 400)


@pytest.mark.parametrize(
    ("line", "host"),
    [
        (f"POST {ALIAS} HTTP/1.1", "Host: evil.example"),
        (f"POST {ALIAS} HTTP/1.1", "Host: evil.example:81"),
        (f"POST {ALIAS} HTTP/1.1", "Host: 169.254.169.254"),
        (f"POST {ALIAS} HTTP/1.1", "Host: [::1]:80"),
        (f"POST {ALIAS} HTTP/1.1", "Host:"),
        (f"POST http://evil.example{ALIAS} HTTP/1.1", "Host: gateway.example"),
        (f"POST http://user:password@evil.example:81{ALIAS} HTTP/1.1", "Host: gateway.example"),
        (f"POST {ALIAS} HTTP/1.0", ""),
    ],
)
def test_no_host_that_a_caller_names_goes_in_or_comes_out(site: Site, line: str, host: str) -> None:
    """Where we are is configuration; who calls us by another name is judged alike."""
    answer = site.answer(raw(line, "X-Forwarded-Host: evil.example", "X-Host: 1", host=host))
    assert answer.status == 200
    seen = site.upstream.seen[0]
    assert seen.raw_path == ALIAS.encode()
    assert seen.values("host")[0].startswith("127.0.0.1:")
    assert seen.values("x-forwarded-host") == ["gateway.example"]
    assert "evil.example" not in str(seen.headers) + str(answer.headers)
    challenge = str(site.answer(raw(line, host=host).replace(b"Bearer token", b"Bearer no")).headers)
    assert "gateway.example/.well-known" in challenge
    assert "evil" not in challenge


# Who somebody says they are.


@pytest.mark.parametrize(
    "name",
    [
        "X-Remote-User",
        "X-Remote-Groups",
        "X-REMOTE-USER",
        "X_Remote_User",
        "X-Forwarded-User",
        "X-Forwarded-For",
        "X-Forwarded-Email",
        "Forwarded",
        "X-Real-IP",
        "X-Countersign-Principal",
        "X-Countersign-Assertion",
        "X-MLFLOW-WORKSPACE",
        "X-Mlflow-Workspace",
        "X_MLFLOW_WORKSPACE",
        "Proxy-Authorization",
        "Proxy",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
    ],
)
def test_what_only_the_gateway_may_say_is_not_passed_on(site: Site, name: str) -> None:
    assert (
        site.answer(raw(f"GET {SEARCH.replace('search', 'get')}?run_id=r HTTP/1.1", f"{name}: evil", body=b"")).status
        == 200
    )
    assert "evil" not in str(site.upstream.seen[0].headers)


def test_a_caller_cannot_have_the_gateways_own_headers_dropped(site: Site) -> None:
    hops = "Connection: close, x-forwarded-for, x-forwarded-host, content-type, content-length, host"
    assert site.answer(raw(f"POST {ALIAS} HTTP/1.1", hops)).status == 200
    seen = site.upstream.seen[0]
    assert seen.body == GOOD
    for name in ("x-forwarded-for", "x-forwarded-host", "content-type", "content-length", "host"):
        assert len(seen.values(name)) == 1


def test_the_cookies_that_become_headers_in_the_interface_are_dropped(site: Site) -> None:
    cookies = "Cookie: mlflow-request-header-Authorization=evil; keep=1; MLFLOW-Request-Header-X-Remote-User=evil"
    site.answer(raw(f"GET {SEARCH.replace('search', 'get')}?run_id=r HTTP/1.1", cookies, body=b""))
    assert site.upstream.seen[0].values("cookie") == ["keep=1"]


# And so does the gateway as it is started.

AT_THE_GATEWAY: dict[str, tuple[Callable[[str], bytes], int]] = {
    "headers": (lambda token: _for(token, f"X-A: {'a' * HEAD_BYTES}"), 431),
    "two lengths": (lambda token: _for(token, "Content-Length: 1\r\nTransfer-Encoding: chunked"), 400),
    "two hosts": (lambda token: _for(token, "Host: b"), 400),
    "upgrade": (lambda token: _for(token, "Upgrade: h2c\r\nConnection: close, Upgrade"), 400),
    "method": (lambda token: _for(token, "X-A: a").replace(b"POST", b"post", 1), 400),
    "deep json": (lambda token: _for(token, "X-A: a", body=b"[" * 100_000), 400),
    "another type": (lambda token: _for(token, "Content-Type: text/plain"), 400),
    "too long": (lambda token: _for(token, "X-A: a", body=b" " * 3_000_000), 413),
}


def _for(token: str, header: str, *, body: bytes = GOOD) -> bytes:
    kind = "" if "Content-Type" in header else "Content-Type: application/json\r\n"
    length = "" if "Length" in header else f"Content-Length: {len(body)}\r\n"
    head = f"POST {ALIAS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{kind}{length}{header}\r\n"
    if "Connection" not in header:
        head += "Connection: close\r\n"
    return head.encode() + b"\r\n" + body


@pytest.mark.parametrize("name", AT_THE_GATEWAY)
def test_the_gateway_refuses_bad_input_and_goes_on(
    service: Countersign, mlflow_server: MlflowServer, name: str
) -> None:
    make, status = AT_THE_GATEWAY[name]
    upstream = RecordingUpstream()
    site = Site(Door(service.url, None, [], []), upstream)  # type: ignore[arg-type]
    answer = site.answer(make(service.token("scientist")))
    assert answer.status == status, answer
    assert json.loads(answer.body)["error_code"] == "INVALID_PARAMETER_VALUE"
    assert httpx.get(f"{service.url}/livez", timeout=PATIENCE_S, trust_env=False).status_code == 200
