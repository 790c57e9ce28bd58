"""The proxy as its callers know it: nothing changes, nothing is buffered, and what breaks is told apart."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.proxy import Upstream
from app.proxy.asgi import Event, Receive, Scope, Send
from tests.platform import MlflowServer
from tests.proxying import (
    REQUESTER,
    Door,
    RecordingUpstream,
    admission_to,
    connect,
    door,
    exchange,
    proxy_to,
    read_answer,
    request,
    serving,
)

STORY = Path(__file__).with_name("mlflow_client_story.py")
RUN = "/api/2.0/mlflow/runs/get?run_id=r"
ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/1/a.bin"
MEBIBYTE = 1024 * 1024
WAIT_S = 30
HEALTH: Scope = {
    "type": "http",
    "method": "GET",
    "raw_path": b"/health",
    "query_string": b"",
    "headers": [],
    "client": None,
}


@pytest.fixture
def upstream() -> RecordingUpstream:
    return RecordingUpstream()


@pytest.fixture
def running(upstream: RecordingUpstream) -> Iterator[Door]:
    with serving(upstream) as url, door(url) as running:
        yield running


@pytest.fixture
def client(running: Door) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, headers=REQUESTER, timeout=WAIT_S, trust_env=False) as client:
        yield client


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# Fidelity.


def test_a_query_is_passed_on_with_its_repeated_parameters(client: httpx.Client, upstream: RecordingUpstream) -> None:
    client.get("/ajax-api/2.0/mlflow/metrics/get-history-bulk?run_id=a&run_id=b%20c&metric_key=x%26y")

    assert upstream.seen[0].query == b"run_id=a&run_id=b+c&metric_key=x%26y"


def test_an_error_of_mlflow_is_passed_on_as_it_is(client: httpx.Client, upstream: RecordingUpstream) -> None:
    upstream.status, upstream.body = 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No run r"}'
    answer = client.get(RUN)

    assert (answer.status_code, answer.content) == (404, upstream.body)


def test_headers_of_an_answer_are_kept_each_by_each(client: httpx.Client, upstream: RecordingUpstream) -> None:
    upstream.headers = [
        (b"content-type", b"application/json"),
        (b"set-cookie", b"a=1; Path=/"),
        (b"set-cookie", b"b=2"),
        (b"x-of-mlflow", b"1"),
        (b"connection", b"x-hop"),
        (b"x-hop", b"1"),
        (b"server", b"MLflow"),
    ]
    answer = client.get(RUN)

    assert answer.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2"]
    assert answer.headers["x-of-mlflow"] == "1"
    assert answer.headers.get_list("server") == ["uvicorn"]
    assert "x-hop" not in answer.headers


def test_a_compressed_answer_stays_compressed(client: httpx.Client, upstream: RecordingUpstream) -> None:
    upstream.body = gzip.compress(b'{"a": 1}')
    upstream.headers = [(b"content-encoding", b"gzip"), (b"content-length", str(len(upstream.body)).encode())]
    with client.stream("GET", RUN) as answer:
        raw = b"".join(answer.iter_raw())

    assert answer.headers["content-encoding"] == "gzip"
    assert raw == upstream.body


@pytest.mark.parametrize(
    ("own", "expected"), [("/ml/?a=b#c", "/ml/?a=b#c"), ("", "/")], ids=["with path", "without path"]
)
def test_a_redirect_is_not_followed_and_never_shows_mlflows_address(own: str, expected: str) -> None:
    upstream = RecordingUpstream(status=308)
    with serving(upstream) as url, door(url) as running:
        upstream.headers = [(b"location", f"{url}{own}".encode())]
        answer = exchange(running.url, request("GET", "/"))

    assert (answer.status, dict(answer.headers)["location"]) == (308, expected)
    assert upstream.reached == 1


def test_a_redirect_elsewhere_is_passed_on(client: httpx.Client, upstream: RecordingUpstream) -> None:
    upstream.status, upstream.headers = 302, [(b"location", b"https://elsewhere.example/x")]

    assert client.get("/").headers["location"] == "https://elsewhere.example/x"


def test_a_head_has_the_headers_and_no_body(client: httpx.Client, upstream: RecordingUpstream) -> None:
    upstream.headers = [(b"content-length", b"20"), (b"content-type", b"text/html")]
    answer = client.head("/")

    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "20", b"")
    assert upstream.seen[0].method == "HEAD"


def test_a_streamed_body_keeps_its_length(client: httpx.Client, upstream: RecordingUpstream) -> None:
    client.post("/api/2.0/mlflow/runs/log-batch", json={"run_id": "r"})

    assert upstream.seen[0].body == b'{"run_id":"r"}'
    assert upstream.seen[0].values("content-length") == ["14"]
    assert upstream.seen[0].values("transfer-encoding") == []


def test_a_chunked_upload_stays_chunked(client: httpx.Client, upstream: RecordingUpstream) -> None:
    client.put(ARTIFACT, content=iter([b"a", b"b"]))
    client.put(ARTIFACT, content=iter([b""]))

    assert [seen.body for seen in upstream.seen] == [b"ab", b""]
    assert [seen.values("transfer-encoding") for seen in upstream.seen] == [["chunked"], ["chunked"]]


def test_a_post_without_a_body_has_length_zero(client: httpx.Client, upstream: RecordingUpstream) -> None:
    client.post("/api/2.0/mlflow/runs/search")

    assert upstream.seen[0].values("content-length") == ["0"]


def test_capabilities_that_lead_past_the_door_are_not_advertised(
    client: httpx.Client, upstream: RecordingUpstream
) -> None:
    upstream.body = json.dumps(
        {"store_type": "SqlStore", "multipart_downloads_enabled": True, "presigned_upload_run_id_supported": True}
    ).encode()
    answer = client.get("/api/3.0/mlflow/server-info")

    assert answer.json() == {
        "store_type": "SqlStore",
        "multipart_downloads_enabled": False,
        "presigned_upload_run_id_supported": False,
    }
    for other in (b"not json", b"[]"):
        upstream.body = other
        assert client.get("/api/3.0/mlflow/server-info").content == other


# Streaming. Each side goes on only when the other has seen what came before, so nothing can have been collected first.


def test_an_upload_arrives_while_it_is_sent(running: Door, upstream: RecordingUpstream) -> None:
    arrived, received = threading.Event(), hashlib.sha256()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            event = await receive()
            received.update(event.get("body", b""))
            more = event.get("more_body", False)
            arrived.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    upstream.handler = handler
    part = os.urandom(MEBIBYTE)

    def parts() -> Iterator[bytes]:
        yield part
        assert arrived.wait(WAIT_S), "the first part was held back"
        yield from [part] * 19

    answer = httpx.put(running.url + ARTIFACT, content=parts(), headers=REQUESTER, timeout=WAIT_S, trust_env=False)

    assert answer.status_code == 200
    assert received.digest() == hashlib.sha256(part * 20).digest()


def test_a_download_arrives_while_it_is_sent(client: httpx.Client, upstream: RecordingUpstream) -> None:
    read_on = threading.Event()
    part = os.urandom(MEBIBYTE)

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        length = str(20 * MEBIBYTE).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": part, "more_body": True})
        assert await asyncio.to_thread(read_on.wait, WAIT_S), "the first part was held back"
        for left in reversed(range(19)):
            await send({"type": "http.response.body", "body": part, "more_body": left > 0})

    upstream.handler = handler
    received = hashlib.sha256()
    with client.stream("GET", ARTIFACT) as answer:
        for chunk in answer.iter_raw():
            received.update(chunk)
            read_on.set()

    assert received.digest() == hashlib.sha256(part * 20).digest()


# What breaks.


def test_mlflow_being_down_is_unavailable_and_says_when_to_try_again() -> None:
    with door(f"http://127.0.0.1:{free_port()}") as running:
        answer = exchange(running.url, request("GET", RUN))

    assert (answer.status, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    assert int(dict(answer.headers)["retry-after"]) > 0
    assert running.denied == []


def test_mlflow_not_answering_is_unavailable(upstream: RecordingUpstream) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        while (await receive())["type"] != "http.disconnect":
            pass

    upstream.handler = handler
    with serving(upstream) as url, door(url, timeout_s=0.3) as running:
        for raw in (request("GET", RUN), request("POST", "/api/2.0/mlflow/runs/search", body=b"{}")):
            answer = exchange(running.url, raw)
            assert (answer.status, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")


def test_half_an_answer_is_not_taken_for_a_whole_one(client: httpx.Client, upstream: RecordingUpstream) -> None:
    for headers in ([(b"content-length", b"100")], []):

        async def handler(
            scope: Scope, receive: Receive, send: Send, headers: list[tuple[bytes, bytes]] = headers
        ) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})

        upstream.handler = handler
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(ARTIFACT)


class Vanishing:
    """An upstream that says when it was reached, and when it saw its caller go away."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.reached = threading.Event()
        self.left = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if b"x-forwarded-for" not in dict(scope["headers"]):  # which the proxy asks for itself
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"3.17.2"})
            return
        if self.answers:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (event := await receive())["type"] != "http.disconnect":
            if event.get("body") or not event.get("more_body"):
                self.reached.set()
        self.left.set()


@pytest.mark.parametrize("answers", [False, True], ids=["before the answer", "in the middle of the answer"])
def test_a_caller_who_goes_away_is_not_worked_for_any_longer(answers: bool) -> None:
    upstream = Vanishing(answers=answers)
    with serving(upstream) as url, door(url) as running:
        with connect(running.url) as connection:
            connection.sendall(request("GET", ARTIFACT))
            assert upstream.reached.wait(WAIT_S)
            if answers:
                received = b""
                while b"first" not in received:
                    received += connection.recv(65536)
        assert upstream.left.wait(WAIT_S), "the request to MLflow went on"

    assert [status for *_, status, _ in running.observed] == [200 if answers else 499]


def test_a_caller_who_goes_away_in_the_middle_of_an_upload_is_seen_as_such_by_mlflow() -> None:
    upstream = Vanishing(answers=False)
    with serving(upstream) as url, door(url) as running:
        with connect(running.url) as connection:
            connection.sendall(request("PUT", ARTIFACT, headers={"content-length": str(10 * MEBIBYTE)}) + b"first")
            assert upstream.reached.wait(WAIT_S)
        assert upstream.left.wait(WAIT_S), "the request to MLflow went on"

    assert [status for *_, status, _ in running.observed] == [499]


def test_an_upload_that_is_refused_halfway_shows_the_refusal(running: Door, upstream: RecordingUpstream) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"too large"})

    upstream.handler = handler
    with connect(running.url) as connection:
        connection.sendall(request("PUT", ARTIFACT, headers={"content-length": str(10 * MEBIBYTE)}) + b"first")
        answer = read_answer(connection)

    assert (answer.status, answer.body) == (413, b"too large")


async def test_the_end_of_an_exchange_is_not_taken_for_a_caller_who_went_away() -> None:
    """uvicorn reports a disconnect as soon as the last part was sent; what wraps the proxy may still have to work."""
    ended, sent = asyncio.Event(), []
    first = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Event:
        if first:
            return first.pop()
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(event: Event) -> None:
        sent.append(event["type"])
        if not event.get("more_body", True):
            ended.set()
            await asyncio.sleep(0.01)
            sent.append("went on")

    with serving(RecordingUpstream()) as url:
        upstream = Upstream(url)
        await proxy_to(admission_to(upstream))(HEALTH, receive, send)
        await upstream.close()

    assert sent[-1] == "went on"


async def test_serving_a_caller_who_went_away_leaves_no_cancellation_behind() -> None:
    upstream = Vanishing(answers=False)

    async def receive() -> Event:
        assert await asyncio.to_thread(upstream.reached.wait, WAIT_S)
        return {"type": "http.disconnect"}

    async def send(event: Event) -> None:
        raise AssertionError(f"nobody is left to be sent {event}")

    with serving(upstream) as url:
        client = Upstream(url)
        await proxy_to(admission_to(client))(HEALTH, receive, send)
        await client.close()
    task = asyncio.current_task()

    assert task is not None
    assert task.cancelling() == 0


# MLflow itself.


@pytest.fixture(scope="module")
def mlflow_door(mlflow_server: MlflowServer) -> Iterator[Door]:
    with door(mlflow_server.url) as running:
        yield running


@pytest.fixture(scope="module")
def told(mlflow_door: Door, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What MLflow's own client said of its story behind the door."""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": mlflow_door.url,
        "MLFLOW_TRACKING_TOKEN": "token-of-requester",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    story = subprocess.run(
        [sys.executable, "-W", "ignore", str(STORY)],
        cwd=tmp_path_factory.mktemp("scientist"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    refused = [(method, path, str(error)) for _, _, method, path, error in mlflow_door.denied]
    assert story.returncode == 0, f"{story.stderr}\n{refused}"
    found: dict[str, Any] = json.loads(story.stdout.splitlines()[-1])
    return found


def test_the_unmodified_client_tracks_and_searches_runs(told: dict[str, Any]) -> None:
    assert told["history"] == [0.5, 0.25]
    assert told["runs"] == ["first"]
    assert told["dataset"] == ["points"]
    assert told["lifecycle"] == "active"


def test_the_unmodified_client_gets_back_the_artifacts_it_logged(told: dict[str, Any]) -> None:
    assert told["artifacts"] == ["some folder/empty.bin", "some folder/größe 1.bin"]
    assert told["downloaded"] == {"empty.bin": 0, "größe 1.bin": 20 * MEBIBYTE}
    assert told["same bytes"] is True


def test_the_unmodified_client_logs_registers_and_loads_a_model(told: dict[str, Any]) -> None:
    assert told["logged models"] == ["line"]
    assert told["versions"] == ["1", "2"]
    assert told["source"].startswith("models:/m-")
    assert told["alias"] == "2"
    assert told["predicted"] == 8.0


def test_the_unmodified_client_traces_and_keeps_prompts(told: dict[str, Any]) -> None:
    assert told["traces"] == 1
    assert told["prompt"] == "Hello {{name}}"


def test_the_unmodified_client_reads_a_refusal(told: dict[str, Any], mlflow_door: Door) -> None:
    code, message = told["refused"]

    assert code == "PERMISSION_DENIED"
    assert "register an endpoint with Countersign" in message
    assert [path for _, _, _, path, _ in mlflow_door.denied] == ["/api/2.0/mlflow/webhooks"]


def test_the_guard_was_asked_for_all_that_could_move_or_hollow_out_an_alias(
    told: dict[str, Any], mlflow_door: Door
) -> None:
    asked = {guard.value for guard, _ in mlflow_door.guard.asked}

    assert told
    assert asked >= {"alias-set", "alias-delete", "version-create", "version-tag", "artifact-write", "run-delete"}
    assert asked >= {"logged-model-delete", "experiment-create", "model-tag"}


def test_the_web_interface_is_served(mlflow_door: Door) -> None:
    answer = httpx.get(mlflow_door.url, headers=REQUESTER, trust_env=False)

    assert answer.status_code == 200
    assert "text/html" in answer.headers["content-type"]


def test_mlflow_is_not_shown_a_body_where_a_query_was_judged(mlflow_door: Door) -> None:
    answer = exchange(mlflow_door.url, request("GET", "/api/2.0/mlflow/registered-models/get", body=b'{"name":"line"}'))

    assert answer.status == 400
    assert "body" in answer.json()["message"]
