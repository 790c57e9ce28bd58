"""No re-encoding of a request is judged more leniently than its plain form.

A plain request is spelled anew in any way that some part between a caller and MLflow's handlers is known to undo
(measured on MLflow 3.17). What comes of it is a refusal, or the very same question to the guard and the very same
request to MLflow. The proxy is called as the server under it calls it; what it forwards is recorded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.canonical import serialise
from app.proxy import Upstream
from app.proxy.asgi import Event
from tests.proxying import RecordingUpstream, TestedProxy, admission_to, proxy_to, serving

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


@dataclass(frozen=True)
class Plain:
    method: str
    path: str
    fields: Mapping[str, Any] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


MESSAGES = [
    Plain("POST", f"{API}/registered-models/alias", {"name": "m", "alias": "production", "version": "2"}),
    Plain("DELETE", f"{API}/registered-models/alias", {"name": "m", "alias": "production"}),
    Plain("DELETE", f"{API}/model-versions/delete", {"name": "m", "version": "2"}),
    Plain("DELETE", f"{API}/registered-models/delete", {"name": "m"}),
    Plain("POST", f"{API}/registered-models/rename", {"name": "m", "new_name": "n"}),
    Plain(
        "POST",
        f"{API}/model-versions/transition-stage",
        {"name": "m", "version": "2", "stage": "Production", "archive_existing_versions": True},
    ),
    Plain(
        "POST",
        f"{API}/model-versions/set-tag",
        {"name": "m", "version": "2", "key": "mlflow.prompt.text", "value": "t"},
    ),
    Plain(
        "POST",
        f"{API}/model-versions/create",
        {"name": "m", "source": "s3://b/k", "run_id": "r", "tags": [{"key": "a", "value": "b"}]},
    ),
    Plain("POST", f"{API}/experiments/create", {"name": "e", "artifact_location": "mlflow-artifacts:/1"}),
    Plain("POST", f"{API}/experiments/delete", {"experiment_id": "1"}),
    Plain("POST", f"{API}/runs/delete", {"run_id": "r"}),
    Plain("POST", f"{API}/logged-models", {"experiment_id": "1", "name": "m", "source_run_id": "r"}),
    Plain("DELETE", f"{API}/logged-models/m-1", {"model_id": "m-1"}),
]
UPLOADS = [
    Plain("PUT", f"{FILES}/1/models/m-1/artifacts/MLmodel", body=b"bytes"),
    Plain("DELETE", f"{FILES}/1/models/m-1/artifacts"),
    Plain("POST", "/ajax-api/2.0/mlflow/upload-artifact", query={"run_uuid": "r", "path": "a/b"}, body=b"bytes"),
]


@dataclass(frozen=True)
class Spelled:
    """A request as a caller sends it."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    parts: tuple[bytes, ...]


@dataclass
class Outcome:
    """What came of a request."""

    status: int
    asked: list[tuple[object, dict[str, str]]]
    forwarded: list[tuple[Any, ...]]


class Station:
    """A proxy in this process, in an event loop of its own, in front of a recording upstream."""

    def __init__(self, upstream_url: str, recorded: RecordingUpstream) -> None:
        self._runner = asyncio.Runner()
        self._recorded = recorded
        self._upstream = Upstream(upstream_url)
        self._proxy: TestedProxy = self._runner.run(self._start())

    async def _start(self) -> TestedProxy:
        return proxy_to(admission_to(self._upstream))

    def close(self) -> None:
        self._runner.run(self._upstream.close())
        self._runner.close()

    def outcome(self, request: Spelled) -> Outcome:
        self._proxy.guard.asked.clear()
        self._recorded.seen.clear()
        status = self._runner.run(self._send(request))
        forwarded = [
            (
                seen.method,
                seen.raw_path,
                sorted(parse_qsl(seen.query.decode(), keep_blank_values=True)),
                _meaning(seen.body),
                seen.values("content-type"),
                seen.values("content-length"),
                seen.values("content-encoding") + seen.values("transfer-encoding") + seen.values("x-mlflow-workspace"),
            )
            for seen in self._recorded.seen
        ]
        questions: list[tuple[object, dict[str, str]]] = []
        for question in self._proxy.guard.asked:
            if question not in questions:  # time passes, and it is asked again
                questions.append(question)
        return Outcome(status, questions, forwarded)

    async def _send(self, request: Spelled) -> int:
        # As uvicorn makes the scope of a target.
        try:
            url = httptools.parse_url(request.target)
        except httptools.HttpParserError:
            return 400
        if url.path is None:
            return 400
        scope: dict[str, Any] = {
            "type": "http",
            "method": request.method,
            "raw_path": url.path,
            "path": url.path.decode("latin-1"),
            "query_string": url.query or b"",
            "headers": [(b"host", b"x"), (b"authorization", b"Bearer token-of-all-roles"), *request.headers],
            "client": ("192.0.2.1", 1),
        }
        events: list[Event] = [{"type": "http.request", "body": part, "more_body": True} for part in request.parts]
        events.append({"type": "http.request", "body": b"", "more_body": False})
        sent: list[Event] = []
        gone = asyncio.Event()

        async def receive() -> Event:
            if events:
                return events.pop(0)
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(event: Event) -> None:
            sent.append(event)

        await self._proxy(scope, receive, send)
        return int(sent[0]["status"])


def _meaning(body: bytes) -> object:
    """Of a JSON message its fields, after making sure that it is written afresh; else the bytes."""
    try:
        fields = json.loads(body)
    except ValueError:
        return body
    assert body == serialise(fields)
    return fields


@pytest.fixture(scope="module")
def station() -> Iterator[Station]:
    recorded = RecordingUpstream()
    with serving(recorded) as url:
        station = Station(url, recorded)
        yield station
        station.close()


def plainly(plain: Plain) -> Spelled:
    query = "&".join(f"{name}={quote(value)}" for name, value in plain.query.items())
    body = plain.body if plain.fields is None else json.dumps(plain.fields).encode()
    target = (plain.path + (f"?{query}" if query else "")).encode()
    return Spelled(plain.method, target, (*_typed(plain), *_framed(body)), (body,) if body else ())


def _typed(plain: Plain) -> tuple[tuple[bytes, bytes], ...]:
    return () if plain.fields is None else ((b"content-type", b"application/json"),)


def _framed(body: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"content-length", str(len(body)).encode()),) if body else ()


# The ways to spell.

Draw = Callable[[st.SearchStrategy[Any]], Any]


def string(draw: Draw, value: str) -> str:
    """A JSON string, with any of its characters escaped."""
    inner = json.dumps(value)[1:-1]
    if not draw(st.booleans()):
        return f'"{inner}"'
    return '"' + "".join(f"\\u{ord(c):04x}" if draw(st.booleans()) else json.dumps(c)[1:-1] for c in value) + '"'


def written(draw: Draw, pairs: Iterable[tuple[str, object]]) -> str:
    """A JSON object, in any order, with any white space and escapes."""
    space = st.sampled_from(["", "", " ", "\n", "\t", "\r\n"])

    def value_of(value: object) -> str:
        return string(draw, value) if isinstance(value, str) else json.dumps(value)

    shuffled = draw(st.permutations(list(pairs)))
    inner = ",".join(f"{draw(space)}{string(draw, name)}{draw(space)}:{value_of(value)}" for name, value in shuffled)
    return draw(space) + "{" + inner + draw(space) + "}" + draw(space)


def wide(value: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in value)


def camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.title() for part in tail)


VALUES: list[Callable[[str], object]] = [
    lambda value: f"{value}\n",
    lambda value: f" {value}",
    lambda value: f"{value} ",
    lambda value: f"{value}\0",
    lambda value: f"{value}\ud800",
    lambda value: f"{value}\u0301",
    lambda value: f"{value}\u200b",
    wide,
    lambda value: [value],
    lambda value: {"value": value},
    lambda _: None,
]
NUMBERS: list[Callable[[str], object]] = [*VALUES, int, float, "0{}".format, "+{}".format, "{}.0".format, "0_{}".format]
"""What MLflow or a database may read as the same alias or version. (Free texts differ if they are spelled so.)"""

MORE: list[tuple[str, object]] = [
    ("[a.b]", 1),
    ("unknown", "x"),
    ("newName", "n"),
    ("runId", "r"),
    ("modelId", "m-2"),
    ("deep", [[[{}]]]),
    ("infinite", float("inf")),
]
WRAPS: list[Callable[[str], str]] = [
    json.dumps,
    lambda text: json.dumps(json.dumps(text)),
    "[{}]".format,
    lambda text: text + text,
    lambda text: text.rstrip()[:-1],
    "{}//".format,
    lambda text: text.replace("{", "{,", 1),
    lambda text: text.replace("}", ",}", 1),
    lambda text: text.replace('"', "'"),
]
CODECS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@st.composite
def bodies(draw: st.DrawFn, plain: Plain) -> bytes:
    """The message as a text that some parser takes for it; changed in one way at most beyond what JSON allows."""
    if plain.fields is None:
        return plain.body
    fields, name = dict(plain.fields), draw(st.sampled_from(list(plain.fields)))
    change = draw(st.sampled_from(["none", "value", "twice", "more", "camel", "case", "wide", "wrap", "codec"]))
    if change == "value":
        name = draw(st.sampled_from([each for each in fields if each in {"alias", "version"}] or list(fields)))
        odd = {"version": NUMBERS, "alias": VALUES}.get(name, VALUES[-3:])
        fields[name] = draw(st.sampled_from(odd))(fields[name])
    pairs: list[tuple[str, object]] = list(fields.items())
    if change == "twice":
        pairs.append((name, draw(st.sampled_from([fields[name], "harmless", "9", None]))))
    elif change == "more":
        pairs.append(draw(st.sampled_from(MORE)))
    elif change in {"camel", "case", "wide"}:
        other = {"camel": camel, "case": str.title, "wide": wide}[change]
        pairs = [(other(each) if each == name else each, value) for each, value in pairs]
        pairs += draw(st.sampled_from([[], [(name, "harmless")]]))
    text = written(draw, pairs)
    if change == "wrap":
        text = draw(st.sampled_from(WRAPS))(text)
    return text.encode(draw(st.sampled_from(CODECS)) if change == "codec" else "utf-8", "surrogatepass")


CHARACTERS: list[Callable[[str], str]] = [
    str.swapcase,
    lambda c: f"%{ord(c):02X}",
    lambda c: f"%{ord(c):02x}",
    lambda c: f"%25{ord(c):02x}",
    lambda c: f"%25%32%35{ord(c):02x}",
    lambda c: quote(wide(c)),
    "{}%09".format,
    "%01{}".format,
    "{}\\".format,
]
SLASHES = ["//", "/./", "/x/../", "/%2e%2e/", "%2f", "%2F", "%252F", "%5C", "\\", "/;/", "%00/", "./", "%20/"]
BEFORE = ["/", "//", "http://evil.example", "/%2e", "\\", "%2f", "/.", "mlflow-artifacts:"]
AFTER = [
    "/",
    ";a=b",
    ";",
    "%00",
    "%20",
    "%0a",
    "#f",
    "%23f",
    "%2523",
    "%3f",
    "?",
    "??",
    "%",
    "%zz",
    "\u212a",
    "%E2%84%AA",
]


@st.composite
def targets(draw: st.DrawFn, plain: Plain) -> bytes:
    """The path in another spelling: of some characters, of a slash, or with more around it."""
    change = draw(st.sampled_from(["none", "characters", "all", "slash", "before", "after", "query"]))
    path = plain.path
    if change == "characters":
        for _ in range(draw(st.integers(1, 3))):
            place = draw(st.integers(0, len(path) - 1))
            if path[place] not in "/%\\" and path[place].isascii():
                # In another case it is another file, and the guard's to judge.
                ways = CHARACTERS if place < len(API) else CHARACTERS[1:]
                path = path[:place] + draw(st.sampled_from(ways))(path[place]) + path[place + 1 :]
    elif change == "all":
        path = "".join(c if c == "/" else f"%{ord(c):02x}" for c in path)
    elif change == "slash":
        place = draw(st.sampled_from([at for at, c in enumerate(path) if c == "/"]))
        path = path[:place] + draw(st.sampled_from(SLASHES)) + path[place + 1 :]
    elif change == "before":
        path = draw(st.sampled_from(BEFORE)) + path
    elif change == "after":
        path += draw(st.sampled_from(AFTER))
    if change == "query" or plain.query:
        path += "?" + draw(queries(plain.query))
    return path.encode()


@st.composite
def queries(draw: st.DrawFn, query: Mapping[str, str]) -> str:
    pairs = list(query.items())
    change = draw(st.sampled_from(["none", "more", "characters"]))
    if change == "more" or not pairs:
        pairs.append(
            draw(st.sampled_from([*pairs, ("alias", "staging"), ("path", "../x"), ("run_uuid", ""), ("x", "")]))
        )

    def spelled(text: str) -> str:
        if change != "characters":
            return quote(text, safe="/")
        return "".join(draw(st.sampled_from([c, c, f"%{ord(c):02x}", f"%25{ord(c):02x}"])) for c in text)

    return "&".join(f"{spelled(name)}={spelled(value)}" for name, value in draw(st.permutations(pairs)))


TYPES = [
    b"application/json; charset=utf-8",
    b"APPLICATION/JSON",
    b"application/json; charset=utf-16",
    b"text/plain",
    b"application/json, text/plain",
    b"application/x-www-form-urlencoded",
    b"",
]
HEADERS = [
    (b"content-encoding", b"gzip"),
    (b"content-type", b"text/plain"),
    (b"content_type", b"text/plain"),
    (b"x-http-method-override", b"GET"),
    (b"x-mlflow-workspace", b"other"),
    (b"x-original-url", b"/health"),
    (b"x-remote-user", b"admin"),
]


@st.composite
def spellings(draw: st.DrawFn, plain: Plain) -> Spelled:
    """The request, spelled anew in its path, its body or its headers."""
    as_sent = plainly(plain)
    which = draw(st.sampled_from(["target", "body", "headers"]))
    if which == "target" or (which == "body" and plain.fields is None):
        return Spelled(plain.method, draw(targets(plain)), as_sent.headers, as_sent.parts)
    body = draw(bodies(plain)) if which == "body" else b"".join(as_sent.parts)
    headers = list(_typed(plain))
    if which == "headers" and headers:
        headers = [(b"content-type", draw(st.sampled_from(TYPES)))]
    if which == "headers":
        headers += draw(st.lists(st.sampled_from(HEADERS), max_size=1))
    chunked = bool(body) and draw(st.booleans())
    headers += [(b"transfer-encoding", b"chunked")] if chunked else _framed(body)
    cut = draw(st.integers(0, len(body)))
    parts = tuple(part for part in (body[:cut], body[cut:]) if part)
    return Spelled(plain.method, as_sent.target, tuple(headers), parts)


def holds(station: Station, plain: Plain, sent: Spelled) -> None:
    outcome = station.outcome(sent)
    if outcome.status >= 400:
        assert (outcome.asked, outcome.forwarded) == ([], [])
        return
    meant = station.outcome(plainly(plain))
    assert outcome.asked == meant.asked
    assert _comparable(outcome) == _comparable(meant)


def _comparable(outcome: Outcome) -> list[tuple[Any, ...]]:
    """Without what MLflow does not read: the framing of a file, and a query beside its path."""
    return [
        (method, path, query if b"upload-artifact" in path else (), body)
        if isinstance(body, bytes)
        else (method, path, query, body, *more)
        for method, path, query, body, *more in outcome.forwarded
    ]


@pytest.mark.parametrize("plain", [*MESSAGES, *UPLOADS], ids=lambda plain: f"{plain.method} {plain.path}")
def test_the_plain_form_is_judged_and_forwarded(station: Station, plain: Plain) -> None:
    outcome = station.outcome(plainly(plain))

    assert outcome.status == 200
    assert outcome.asked
    assert len(outcome.forwarded) == 1


@pytest.mark.parametrize("plain", MESSAGES, ids=lambda plain: f"{plain.method} {plain.path}")
@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_re_encoding_of_a_judged_message_is_judged_more_leniently(
    station: Station, data: st.DataObject, plain: Plain
) -> None:
    holds(station, plain, data.draw(spellings(plain)))


@pytest.mark.parametrize("plain", UPLOADS, ids=lambda plain: f"{plain.method} {plain.path}")
@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_re_encoding_of_an_upload_is_judged_more_leniently(
    station: Station, data: st.DataObject, plain: Plain
) -> None:
    holds(station, plain, data.draw(spellings(plain)))


@pytest.mark.parametrize("plain", MESSAGES, ids=lambda plain: f"{plain.method} {plain.path}")
@given(data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_spelling_that_says_the_same_plainly_is_taken(station: Station, data: st.DataObject, plain: Plain) -> None:
    """The properties above would hold for a door that is shut."""
    text = written(data.draw, (plain.fields or {}).items())
    letter = data.draw(st.integers(1, len(plain.path) - 1))
    value = plain.path[letter]
    path = plain.path if value == "/" else f"{plain.path[:letter]}%{ord(value):02x}{plain.path[letter + 1 :]}"
    sent = Spelled(plain.method, path.encode(), (*_typed(plain), *_framed(text.encode())), (text.encode(),))

    assert station.outcome(sent).status == 200
    holds(station, plain, sent)
