"""Following an alias over HTTP: streams and long polls, at a gateway process that has others beside it."""

from __future__ import annotations

import json
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from tests.platform import Countersign, MlflowServer, free_port, until

RESOLVE, STREAM = "/control/v1/resolve", "/control/v1/resolve/stream"


@dataclass
class Stream:
    """Server-sent events that are being read."""

    answer: httpx.Response
    lines: Iterator[str]

    def event(self) -> dict[str, str]:
        """The next one; empty at the end."""
        found: dict[str, str] = {}
        for line in self.lines:
            if not line and set(found) - {"retry"}:
                return found
            name, _, value = line.partition(": ")
            if name:
                found[name] = value
        return {}


@dataclass
class Second:
    """A second gateway on the same database, with the first one's callers."""

    service: Countersign
    url: str
    process: object

    def get(self, uri: str, *, who: str = "serving", path: str = RESOLVE, **options: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.service.token(who)}", **options.pop("headers", {})}  # type: ignore[dict-item]
        params = {"uri": uri, **options.pop("params", {})}  # type: ignore[dict-item]
        return httpx.get(f"{self.url}{path}", params=params, headers=headers, timeout=90, trust_env=False, **options)  # type: ignore[arg-type]

    @contextmanager
    def stream(self, *uris: str, who: str = "serving", last: str | None = None) -> Iterator[Stream]:
        headers = {"Authorization": f"Bearer {self.service.token(who)}"}
        if last is not None:
            headers["Last-Event-ID"] = last
        with httpx.stream(
            "GET",
            f"{self.url}{STREAM}",
            params={"uri": list(uris)},
            headers=httpx.Headers(headers, encoding="latin-1"),
            timeout=90,
            trust_env=False,
        ) as answer:
            yield Stream(answer, answer.iter_lines())


@pytest.fixture(scope="module")
def second(service: Countersign) -> Iterator[Second]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    beside = Countersign(service.environment | {"COUNTERSIGN_PUBLIC_URL": url}, service.logs, service.issuer)
    process = beside.start("gateway", COUNTERSIGN_PORT=str(port), COUNTERSIGN_ALLOWED_ORIGINS="https://d.example")
    yield Second(service, url, process)
    beside.stop()


@pytest.fixture
def model(mlflow_server: MlflowServer, model_name: str) -> str:
    mlflow_server.register(model_name, versions=2)
    return model_name


def promote(service: Countersign, model: str, version: str) -> None:
    promotion = service.ask(model, version)["id"]
    service.approve(promotion)
    service.follow(promotion, "applied")


def test_a_stream_tells_what_an_alias_means_and_whenever_it_means_something_else(
    service: Countersign, second: Second, model: str
) -> None:
    uri = f"models:/{model}@production"
    with second.stream(uri) as stream:
        assert stream.answer.status_code == 200
        assert stream.answer.headers["content-type"].startswith("text/event-stream")
        before = stream.event()
        assert (before["event"], json.loads(before["data"])["uri"]) == ("problem", uri)
        promote(service, model, "1")
        first = stream.event()
        assert (first["event"], json.loads(first["data"])["version"]) == ("resolution", "1")
        plain = second.get(uri)
        assert (first["data"], f'"{first["id"]}"') == (plain.text, plain.headers["etag"])
        promote(service, model, "2")
        assert json.loads(stream.event()["data"])["version"] == "2"
    with second.stream(uri, last=first["id"]) as again:
        assert json.loads(again.event()["data"])["version"] == "2"


def test_who_comes_back_to_a_stream_is_told_only_of_what_has_changed(
    service: Countersign, second: Second, model: str
) -> None:
    promote(service, model, "1")
    uris = (f"models:/{model}@production", f"models:/{model}/2")
    with second.stream(*uris) as stream:
        one, two = stream.event(), stream.event()
        assert [json.loads(each["data"])["version"] for each in (one, two)] == ["1", "2"]
    for made_up in ("\xff.\xfe", "a b.c d", '".'):
        with second.stream(*uris, last=made_up) as stream:
            assert {json.loads(stream.event()["data"])["version"] for _ in uris} == {"1", "2"}
    with second.stream(*uris, last=two["id"]) as stream:
        promote(service, model, "2")
        assert json.loads(stream.event()["data"])["version"] == "2"


def test_whose_access_is_taken_away_is_told_so_and_nothing_more(
    service: Countersign, second: Second, model: str
) -> None:
    promote(service, model, "1")
    uri, name = f"models:/{model}@production", f"g-{uuid.uuid4().hex[:8]}"
    who = f"{service.issuer.url}|stranger"
    document = {"role": "serving", "subject": {"person": who}, "on": {"model": model}}
    granted = service.call("administrator", "PUT", f"/grants/{name}", json=document)
    assert granted.status_code in {200, 201}, granted.text
    until(lambda: second.get(uri, who="stranger").status_code == 200, "the grant being known")
    with second.stream(uri, who="stranger") as stream:
        assert stream.event()["event"] == "resolution"
        assert service.call("administrator", "DELETE", f"/grants/{name}").is_success
        until(lambda: second.get(uri, who="stranger").status_code == 403, "the grant being gone")
        promote(service, model, "2")
        refused = stream.event()
        assert (refused["event"], json.loads(refused["data"])["status"]) == ("problem", 403)
        assert stream.event() == {}


def test_a_stream_is_refused_as_every_route_is(second: Second, model: str) -> None:
    uri = f"models:/{model}@production"
    for params, who, status in (
        ({}, "stranger", 403),
        ({"uri": "runs:/x/model"}, "serving", 400),
        ({"uri": [uri] * 21}, "serving", 400),
        ({"uri": f"models:/{model}@production", "workspace": "NO"}, "serving", 400),
    ):
        answer = second.get(uri, who=who, path=STREAM, params=params)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    nobody = httpx.get(f"{second.url}{STREAM}", params={"uri": uri}, trust_env=False)
    assert nobody.status_code == 401
    assert "WWW-Authenticate" in nobody.headers


def test_conditions_are_those_of_http(service: Countersign, second: Second, model: str) -> None:
    promote(service, model, "1")
    uri = f"models:/{model}@production"
    etag = second.get(uri).headers["etag"]
    for condition in (etag, f"W/{etag}", f'"other", {etag}', f'"a,b" ,W/{etag}', "*"):
        same = second.get(uri, headers={"If-None-Match": condition})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag), condition
    for condition in ('"other"', etag.strip('"'), "", '"'):
        assert second.get(uri, headers={"If-None-Match": condition}).status_code == 200, condition
    headers = {"Authorization": f"Bearer {service.token('serving')}"}
    head = httpx.head(f"{second.url}{RESOLVE}", params={"uri": uri}, headers=headers, trust_env=False)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", etag)
    missing = httpx.head(f"{second.url}{RESOLVE}", params={"uri": uri + "x"}, headers=headers, trust_env=False)
    assert missing.status_code == 404


def test_what_is_answered_from_memory_reads_as_what_was_looked_up(
    service: Countersign, second: Second, model: str
) -> None:
    promote(service, model, "1")
    uri = f"models:/{model}@production"
    quick = second.get(uri)
    slow = second.get(uri, headers={"Cookie": "unrelated=1"})
    varying = {"date", "x-request-id"}
    assert {k: v for k, v in quick.headers.items() if k not in varying} == {
        k: v for k, v in slow.headers.items() if k not in varying
    }
    assert quick.text == slow.text
    assert quick.headers["x-request-id"] != slow.headers["x-request-id"]
    script = second.get(uri, headers={"Origin": "https://d.example"})
    assert script.headers["access-control-allow-origin"] == "https://d.example"
    page = second.get(uri, headers={"Accept": "text/html", "Sec-Fetch-Mode": "navigate"})
    assert page.headers["content-type"].startswith("text/html")


def test_a_long_poll_is_over_when_the_alias_has_moved(service: Countersign, second: Second, model: str) -> None:
    promote(service, model, "1")
    uri = f"models:/{model}@production"
    seen = second.get(uri).headers["etag"]
    answers: list[httpx.Response] = []

    def wait() -> None:
        answers.append(second.get(uri, params={"wait": 50}, headers={"If-None-Match": seen}))

    waiting = threading.Thread(target=wait)
    waiting.start()
    promote(service, model, "2")
    waiting.join(60)
    assert [answer.json()["version"] for answer in answers] == ["2"]
    assert (
        second.get(uri, params={"wait": 0.1}, headers={"If-None-Match": answers[0].headers["etag"]}).status_code == 304
    )
    assert second.get(f"{uri}x", params={"wait": 1}, headers={"If-None-Match": seen}).status_code == 404


def test_a_gateway_that_was_stopped_for_a_while_answers_nothing_old(
    service: Countersign, second: Second, model: str
) -> None:
    promote(service, model, "1")
    uri = f"models:/{model}@production"
    assert second.get(uri).json()["version"] == "1"
    second.process.send_signal(signal.SIGSTOP)  # type: ignore[attr-defined]
    try:
        promote(service, model, "2")
    finally:
        second.process.send_signal(signal.SIGCONT)  # type: ignore[attr-defined]
    assert second.get(uri).json()["version"] == "2"


def test_streams_end_when_the_gateway_does(second: Second, model: str) -> None:
    """The last one: the gateway is gone after it."""
    with second.stream(f"models:/{model}@production") as stream:
        stream.event()
        second.process.send_signal(signal.SIGTERM)  # type: ignore[attr-defined]
        assert stream.event() == {}
