"""Attempts to pass the door otherwise than as the one who was judged, over a real socket, byte by byte."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from app.domain.errors import Forbidden, Governed, PromotionRequired, RouteRefused
from app.domain.routes import Done, Guard
from tests.proxying import (
    PUBLIC_URL,
    Answer,
    Door,
    RecordingUpstream,
    connect,
    door,
    exchange,
    read_answer,
    request,
    serving,
)

ALIAS = "/api/2.0/mlflow/registered-models/alias"
JSON = {"content-type": "application/json"}
GOOD = b'{"name":"m","alias":"production","version":"2"}'
RUNS = "/api/2.0/mlflow/runs/get?run_id=r"
QUERY = b'{"query": "{mlflowGetRun(input: {runId: \\"r\\"}) {run {info {runId}}}}"}'
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


@dataclass
class Site:
    """A door with a recording upstream behind it."""

    door: Door
    upstream: RecordingUpstream

    def send(self, method: str, target: str, **options: object) -> Answer:
        return exchange(self.door.url, request(method, target, **options))  # type: ignore[arg-type]

    def refused(self, answer: Answer, status: int, code: str) -> None:
        """Assert a refusal in MLflow's shape that left nothing behind."""
        assert (answer.status, answer.json()["error_code"]) == (status, code), answer
        assert self.upstream.reached == 0
        assert self.door.denied, "the refusal was told to nobody"


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
    shared.door.observed.clear()
    return shared


# Who are you?


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0"),
        ("GET", "/no/such/route"),
        ("GET", "//api"),
        ("GET", "/api/%2e%2e/x"),
        ("OPTIONS", ALIAS),
        ("POST", ALIAS),
        ("POST", "/ajax-api/3.0/mlflow/demo/generate"),
        ("GET", "/ajax-api/2.0/mlflow/users/current"),
        ("PUT", f"{ARTIFACTS}/a"),
    ],
)
def test_who_is_not_logged_in_learns_nothing_of_any_route(site: Site, method: str, target: str) -> None:
    answer = site.send(method, target, token=None)

    site.refused(answer, 401, "UNAUTHENTICATED")
    metadata = f"{PUBLIC_URL}/.well-known/oauth-protected-resource"
    assert ("www-authenticate", f'Bearer realm="countersign", resource_metadata="{metadata}"') in answer.headers
    assert answer.body == site.send("GET", "/", token=None).body


def test_a_wrong_token_is_named_invalid_and_shown_nowhere(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    answer = site.send("GET", "/api/2.0/mlflow/runs/get?run_id=secret-of-the-query", token="very-secret-token")

    site.refused(answer, 401, "UNAUTHENTICATED")
    challenge = dict(answer.headers)["www-authenticate"]
    assert 'error="invalid_token", error_description="The token is not \'valid\'."' in challenge
    said = "".join(capfd.readouterr()) + str(answer) + str(site.door.denied)
    assert "very-secret-token" not in said
    assert "secret-of-the-query" not in said


def test_two_authorization_headers_are_not_a_login(site: Site) -> None:
    answer = site.send("GET", "/", headers={"Authorization": "Bearer token-of-administrator"})

    site.refused(answer, 401, "UNAUTHENTICATED")


def test_health_and_version_need_no_login(site: Site) -> None:
    assert [site.send("GET", path, token=None).status for path in ("/health", "/version")] == [200, 200]


# May you?


def test_a_viewer_may_not_write(site: Site) -> None:
    answer = site.send("POST", "/api/2.0/mlflow/runs/create", token="token-of-viewer", headers=JSON, body=b"{}")

    site.refused(answer, 403, "PERMISSION_DENIED")
    assert answer.json()["permission"] == "tracking:write"
    principal, route, method, path, error = site.door.denied[0]
    assert principal is not None
    assert route is not None
    assert (principal.name, method, path) == ("somebody", "POST", "/api/2.0/mlflow/runs/create")
    assert isinstance(error, Forbidden)


def test_a_serving_system_may_not_even_read(site: Site) -> None:
    site.refused(site.send("GET", RUNS, token="token-of-serving"), 403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/ajax-api/3.0/mlflow/demo/generate"),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
        ("POST", "/ajax-api/3.0/jobs/"),
        ("POST", "/gateway/openai/v1/chat/completions"),
        ("POST", "/api/3.0/mlflow/gateway/secrets/create"),
        ("DELETE", "/api/3.0/mlflow/workspaces/team"),
        ("GET", "/api/2.0/mlflow/webhooks"),
        ("DELETE", "/api/3.0/mlflow/mcp-servers/a/b/tags/x"),
        ("POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run"),
    ],
)
def test_what_is_closed_is_closed_to_administrators_too_and_says_why(site: Site, method: str, path: str) -> None:
    answer = site.send(method, path, token="token-of-administrator")

    site.refused(answer, 403, "PERMISSION_DENIED")
    assert isinstance(site.door.denied[0][4], RouteRefused)
    assert len(answer.json()["message"]) > 30


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", f"/api/2.0/mlflow-artifacts/mpu/{step}/1/a") for step in ("create", "complete", "abort")]
    + [
        ("GET", "/api/2.0/mlflow-artifacts/presigned/1/a"),
        ("POST", "/api/2.0/mlflow/artifacts/presigned-upload-url"),
        ("POST", "/api/2.0/mlflow/artifacts/presigned-download-url"),
    ],
)
def test_urls_that_lead_past_the_door_are_not_offered(site: Site, method: str, path: str) -> None:
    site.refused(site.send(method, path), 501, "NOT_IMPLEMENTED")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/no/such"),
        ("HEAD", "/api/2.0/mlflow/runs/get"),
        ("OPTIONS", "/"),
        ("GET", "/ajax-api/2.0/mlflow/users/current"),
    ],
)
def test_an_unknown_route_is_not_found(site: Site, method: str, path: str) -> None:
    answer = site.send(method, path)

    assert answer.status == 404
    assert site.upstream.reached == 0
    if method != "HEAD":
        assert answer.json()["error_code"] == "ENDPOINT_NOT_FOUND"
        assert f"{method} {path}" in answer.json()["message"]


# One path, one meaning.


@pytest.mark.parametrize(
    "target",
    [
        f"/{ALIAS}",
        ALIAS.replace("/2.0", "//2.0"),
        ALIAS.replace("-models/", "-models%2F"),
        ALIAS.replace("-models/", "-models%5c"),
        ALIAS.replace("/", "\\", 1),
        ALIAS.replace("/2.0", "/./2.0"),
        ALIAS.replace("/2.0", "/x/../2.0"),
        ALIAS.replace("/2.0", "/x/%2e%2E/2.0"),
        ALIAS.replace("-models/", "-models%252F"),
        f"{ALIAS}/",
        f"{ALIAS};a=b",
        f"{ALIAS}%00",
        f"{ALIAS}%0a",
        f"{ALIAS}%20",
        f"{ALIAS}%ff",
        f"{ALIAS}%3f",
        ALIAS.upper(),
        ALIAS.replace("/2.0", "/3.0"),
        ALIAS.replace("/2.0", "/2.0/preview"),
    ],
)
def test_a_path_that_is_almost_right_goes_nowhere(site: Site, target: str) -> None:
    answer = site.send("POST", target, headers=JSON, body=GOOD)

    assert answer.status in {400, 404}
    assert site.door.guard.asked == []
    assert site.upstream.reached == 0


@pytest.mark.parametrize(
    "target",
    [
        ALIAS,
        ALIAS.replace("api", "%61pi"),
        ALIAS.replace("2.0", "2%2e0"),
        f"http://evil.example{ALIAS}",
        f"{ALIAS}#fragment",
    ],
)
def test_every_spelling_that_is_taken_is_judged_alike_and_rebuilt(site: Site, target: str) -> None:
    answer = site.send("POST", target, headers=JSON, body=GOOD)

    assert answer.status == 200
    assert site.door.guard.asked == [(Guard.ALIAS_SET, {"name": "m", "alias": "production", "version": "2"})]
    assert site.upstream.seen[0].raw_path == ALIAS.encode()


@pytest.mark.parametrize(
    "artifact",
    [
        "%20a",
        "%01%1fa",
        "a%09b",
        "a%3F",
        "a%23",
        "a%2523",
        "a;",
        "a//b",
        "a%2564el",
        "a%25%36%34el",
        "a%2fb",
        "..%2fa",
        "a/%2e%2e/b",
        "a/./b",
        "a%5cb",
        "a%00",
        "FOO:a",
        "file:a",
        "%2fetc",
        "a/",
        "%e2%84%aa",
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_another_spelling_of_an_artifact_is_not_written_or_deleted(site: Site, method: str, artifact: str) -> None:
    answer = site.send(method, f"{ARTIFACTS}/{artifact}", body=b"evil")

    assert answer.status in {400, 404}
    assert site.door.guard.asked == []
    assert site.upstream.reached == 0


def test_the_guard_of_an_artifact_is_asked_with_the_decoded_path(site: Site) -> None:
    site.send("PUT", f"{ARTIFACTS}/1/%61%20b/c", body=b"bytes")
    site.send("DELETE", f"{ARTIFACTS}/1/a")

    assert site.door.guard.asked == [
        (Guard.ARTIFACT_WRITE, {"path": "1/a b/c"}),
        (Guard.ARTIFACT_DELETE, {"path": "1/a"}),
    ]
    assert [seen.raw_path for seen in site.upstream.seen] == [
        f"{ARTIFACTS}/1/a%20b/c".encode(),
        f"{ARTIFACTS}/1/a".encode(),
    ]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?run_uuid=r",
        "?path=a",
        "?run_uuid=r&path=a&path=b",
        "?run_uuid=r&run_uuid=s&path=a",
        "?run_uuid=r&path=a&x=1",
        "?run_uuid=r&path=..%2Fa",
        "?run_uuid=r&path=%252e%252e/a",
        "?run_uuid=r&path=/a",
        "?run_uuid=&path=a",
    ],
)
def test_an_upload_to_a_run_names_one_run_and_one_plain_path(site: Site, query: str) -> None:
    answer = site.send("POST", f"/ajax-api/2.0/mlflow/upload-artifact{query}", body=b"x")

    site.refused(answer, 400, "INVALID_PARAMETER_VALUE")


def put(size: int, *, is_chunked: bool) -> bytes:
    body = b"x" * size
    if not is_chunked:
        return request("PUT", f"{ARTIFACTS}/1/a", headers={"content-length": str(size)}, body=b"") + body
    sent = b"%x\r\n%s\r\n" % (size, body) if size else b""
    return request("PUT", f"{ARTIFACTS}/1/a", headers={"transfer-encoding": "chunked"}, body=sent + b"0\r\n\r\n")


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with its length", "in chunks"])
@pytest.mark.parametrize("size", [0, 1, 2 * 1024 * 1024], ids=["empty", "small", "large"])
def test_no_file_of_any_size_gets_past_its_guard(site: Site, size: int, is_chunked: bool) -> None:
    site.door.guard.ruling = Governed("A promotion rests on it.")

    site.refused(exchange(site.door.url, put(size, is_chunked=is_chunked)), 403, "PERMISSION_DENIED")


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_query_beside_the_path_of_an_artifact_is_refused(site: Site, method: str) -> None:
    answer = site.send(method, f"{ARTIFACTS}/1/a?path=1%2Fb", body=b"x" if method == "PUT" else b"")

    site.refused(answer, 400, "INVALID_PARAMETER_VALUE")
    assert answer.json()["message"] == "path: is not expected"


def test_a_file_without_a_body_is_judged_too(site: Site) -> None:
    site.door.guard.ruling = Governed("A promotion rests on it.")

    site.refused(site.send("PUT", f"{ARTIFACTS}/1/a"), 403, "PERMISSION_DENIED")


def test_a_large_file_is_judged_when_it_begins_and_once_more_before_it_ends(site: Site) -> None:
    assert exchange(site.door.url, put(2 * 1024 * 1024, is_chunked=False)).status == 200
    assert site.door.guard.asked == [(Guard.ARTIFACT_WRITE, {"path": "1/a"})] * 2


def test_the_guard_of_an_upload_to_a_run_is_asked_with_run_and_path(site: Site) -> None:
    site.send("POST", "/ajax-api/2.0/mlflow/upload-artifact?path=a%2Fb&run_uuid=r", body=b"x")

    assert (
        site.door.guard.asked == [(Guard.RUN_ARTIFACT_WRITE, {"run_id": "r", "path": "a/b"})] * 2
    )  # and when it is there
    assert site.upstream.seen[0].query == b"path=a%2Fb&run_uuid=r"


# One body, one meaning.


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"name":"m","alias":"staging","version":"2","alias":"production"}',
        b'{"[a.b]":1,"name":"m","alias":"staging","version":"2"}',
        b'{"name":"m","alias":"production\\n","version":"2"}',
        b'{"name":"m","alias":"\\uff50roduction","version":"2"}',
        b'{"name":"m","alias":"production","version":" 2 "}',
        b'{"name":"m","alias":"production","version":2}',
        b'{"name":"m","alias":"production","version":"2","extra":{"deep":[[[[]]]]}}',
        b'{"Name":"m","alias":"production","version":"2"}',
        b'{"name":"\\ud800","alias":"production","version":"2"}',
        b'{"name":"m","alias":NaN,"version":"2"}',
        b'{"name":"","alias":"production","version":"2"}',
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        json.dumps(GOOD.decode()).encode(),
        b"[" * 50_000,
        b"{}",
        b"",
    ],
)
def test_a_body_that_mlflow_could_read_otherwise_goes_nowhere(site: Site, method: str, body: bytes) -> None:
    answer = site.send(method, ALIAS, headers=JSON, body=body)

    site.refused(answer, 400, "INVALID_PARAMETER_VALUE")
    assert site.door.guard.asked == []


def test_mlflow_sees_what_was_judged_not_what_was_sent(site: Site) -> None:
    spelled = b' {\n"\\u006eame" : "m", "version":"2",\t"alias":"prod\\u0075ction" } '
    site.send("POST", ALIAS, headers={"content-type": "application/json; charset=UTF-8"}, body=spelled)

    seen = site.upstream.seen[0]
    assert seen.body == b'{"name":"m","version":"2","alias":"production"}'
    assert seen.values("content-type") == ["application/json"]
    assert seen.values("content-length") == [str(len(seen.body))]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "application/json", "content-encoding": "identity"},
        {"content-type": "application/json", "Content-Type": "text/plain"},
    ],
)
def test_a_judged_body_is_plain_json(site: Site, headers: dict[str, str]) -> None:
    site.refused(site.send("POST", ALIAS, headers=headers, body=GOOD), 400, "INVALID_PARAMETER_VALUE")


def test_a_judged_body_comes_without_a_query(site: Site) -> None:
    site.refused(site.send("POST", f"{ALIAS}?alias=staging", headers=JSON, body=GOOD), 400, "INVALID_PARAMETER_VALUE")


def test_a_judged_body_is_bounded(site: Site) -> None:
    body = b'{"name":"' + b"m" * 70_000 + b'","alias":"a","version":"1"}'

    site.refused(site.send("POST", ALIAS, headers=JSON, body=body), 413, "INVALID_PARAMETER_VALUE")


def test_a_chunked_judged_body_reaches_mlflow_with_a_length(site: Site) -> None:
    chunked = b"5\r\n" + GOOD[:5] + b"\r\n" + f"{len(GOOD) - 5:x}\r\n".encode() + GOOD[5:] + b"\r\n0\r\n\r\n"
    site.send("POST", ALIAS, headers={**JSON, "transfer-encoding": "chunked"}, body=chunked)

    assert site.upstream.seen[0].body == GOOD
    assert site.upstream.seen[0].values("content-length") == [str(len(GOOD))]
    assert site.upstream.seen[0].values("transfer-encoding") == []


@pytest.mark.parametrize("headers", [{}, {"transfer-encoding": "chunked"}])
def test_a_body_on_get_is_refused(site: Site, headers: dict[str, str]) -> None:
    body = b"4\r\n{  }\r\n0\r\n\r\n" if headers else b"{  }"
    answer = site.send("GET", "/api/2.0/mlflow/registered-models/get", headers=headers, body=body)

    site.refused(answer, 400, "INVALID_PARAMETER_VALUE")


def test_path_and_body_must_name_the_same_logged_model(site: Site) -> None:
    path = "/api/2.0/mlflow/logged-models/m-1"
    refused = site.send("DELETE", path, headers=JSON, body=b'{"model_id":"m-2"}')
    site.refused(refused, 400, "INVALID_PARAMETER_VALUE")

    for body, headers in ((b'{"model_id":"m-1"}', JSON), (b"", {})):
        assert site.send("DELETE", path, headers=headers, body=body).status == 200
    assert site.door.guard.asked == [(Guard.LOGGED_MODEL_DELETE, {"model_id": "m-1"})] * 2


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: xchunked",
    ],
)
def test_a_request_framed_in_two_ways_goes_nowhere(site: Site, framing: str) -> None:
    raw = (
        f"POST {ALIAS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-of-requester\r\n"
        f"Content-Type: application/json\r\n{framing}\r\nConnection: close\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n\r\n"
    )
    answer = exchange(site.door.url, raw.encode())

    assert answer.status == 400
    assert site.upstream.reached == 0


def test_a_half_sent_body_goes_nowhere(site: Site) -> None:
    raw = request("POST", ALIAS, headers={**JSON, "content-length": str(len(GOOD))})
    with connect(site.door.url) as connection:
        connection.sendall(raw + GOOD[:10])
        connection.shutdown(socket.SHUT_RDWR)
    site.send("GET", "/health")

    assert site.door.guard.asked == []
    assert [seen.raw_path for seen in site.upstream.seen] == [b"/health"]


# Only the gateway's word counts inside.

LOOKALIKES = {
    "X-Remote-User": "admin",
    "X-Remote-Groups": "admins",
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-User": "admin",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "gopher",
    "Forwarded": "for=127.0.0.1",
    "X-Real-IP": "127.0.0.1",
    "X-MLFLOW-WORKSPACE": "other",
    "X-Countersign-Principal": "admin",
    "X-Original-URL": "/evil",
    "X-HTTP-Method-Override": "DELETE",
    "Content_Type": "text/plain",
    "X_Remote_User": "admin",
    "Origin": PUBLIC_URL,
    "Via": "1.1 evil",
    "TE": "trailers",
    "Proxy-Authorization": "Basic eA==",
    "Connection": "X-Secret-Hop",
    "X-Secret-Hop": "1",
    "Upgrade": "h2c",
    "Cookie": "mlflow-request-header-Authorization=evil; a=b; countersign_session=s; MLFLOW-request-header-x=y",
}


def test_what_says_who_or_from_where_is_dropped_and_written_afresh(site: Site) -> None:
    site.send("GET", "/api/2.0/mlflow/runs/get?run_id=r", headers={**LOOKALIKES, "X-Kept": "yes"})

    seen = site.upstream.seen[0]
    assert seen.values("x-kept") == ["yes"]
    assert seen.values("cookie") == ["a=b"]
    assert seen.values("x-forwarded-for") == ["127.0.0.1"]
    assert seen.values("x-forwarded-host") == ["gateway.example"]
    assert seen.values("x-forwarded-proto") == ["http"]
    assert seen.values("host")[0].startswith("127.0.0.1:")
    gone = {name.lower() for name in LOOKALIKES} - {
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "cookie",
    }
    names = {name.decode() for name, _ in seen.headers}
    assert names & (gone | {"authorization"}) == set()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"query": "mutation {testMutation(input: {}) {output}}"}', 403, "PERMISSION_DENIED"),
        (b'{"query": "{ofTomorrow {output}}"}', 403, "PERMISSION_DENIED"),
        (b'{"query": "{test {output}}", "query": "mutation {testMutation {output}}"}', 400, "INVALID_PARAMETER_VALUE"),
        (b'{"query": "{test {output}"}', 400, "INVALID_PARAMETER_VALUE"),
        (b"{}", 400, "INVALID_PARAMETER_VALUE"),
        (b"", 400, "INVALID_PARAMETER_VALUE"),
    ],
)
def test_graphql_that_is_not_known_to_only_read_reaches_nobody(site: Site, body: bytes, status: int, code: str) -> None:
    site.refused(site.send("POST", "/graphql", headers=JSON, body=body), status, code)


def test_graphql_reaches_mlflow_as_it_was_understood(site: Site) -> None:
    body = b'{"query": "# mutation\\n query Q { run: mlflowGetRun , { run {info{runId}} } }", "operationName": "Q"}'

    assert site.send("POST", "/graphql", headers=JSON, body=body).status == 200
    assert json.loads(site.upstream.seen[0].body) == {
        "query": "query Q{run:mlflowGetRun{run{info{runId}}}}",
        "operationName": "Q",
    }


def test_graphql_with_a_query_string_or_another_type_is_refused(site: Site) -> None:
    site.refused(site.send("POST", "/graphql?query=x", headers=JSON, body=QUERY), 400, "INVALID_PARAMETER_VALUE")
    plain = {"content-type": "text/plain"}
    site.refused(site.send("POST", "/graphql", headers=plain, body=QUERY), 400, "INVALID_PARAMETER_VALUE")


def test_a_page_of_another_origin_changes_nothing(site: Site) -> None:
    for origin in ("http://evil.example", "null", "https://gateway.example", f"{PUBLIC_URL}:81", f"{PUBLIC_URL}.evil"):
        answer = site.send("POST", "/graphql", headers={**JSON, "origin": origin}, body=b"{}")
        site.refused(answer, 403, "PERMISSION_DENIED")
    assert site.send("POST", "/graphql", headers={**JSON, "origin": f"{PUBLIC_URL}:80"}, body=QUERY).status == 200


def test_a_websocket_is_refused(site: Site) -> None:
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with connect(site.door.url) as connection:
        connection.sendall(f"GET /graphql HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        answer = read_answer(connection)

    assert answer.status == 403
    assert site.upstream.reached == 0


# The guard's word.


def test_a_guards_refusal_is_shown_as_mlflow_would(site: Site) -> None:
    site.door.guard.ruling = PromotionRequired("Promotion prm_1 was opened.", promotion="prm_1", url="http://g/prm_1")
    answer = site.send("POST", ALIAS, headers=JSON, body=GOOD)

    site.refused(answer, 403, "PERMISSION_DENIED")
    assert answer.json() == {
        "error_code": "PERMISSION_DENIED",
        "message": "Promotion prm_1 was opened.",
        "promotion": "prm_1",
        "url": "http://g/prm_1",
    }


def test_what_is_governed_is_not_forwarded(site: Site) -> None:
    site.door.guard.ruling = Governed("Version 2 holds production.")

    for method, path, body in (
        ("DELETE", "/api/2.0/mlflow/model-versions/delete", b'{"name":"m","version":"2"}'),
        ("DELETE", "/ajax-api/2.0/mlflow/registered-models/delete", b'{"name":"m"}'),
        ("POST", "/api/2.0/mlflow/registered-models/rename", b'{"name":"m","new_name":"n"}'),
        ("POST", "/api/2.0/mlflow/model-versions/transition-stage", b'{"name":"m","version":"2","stage":"None"}'),
        ("POST", "/api/2.0/mlflow/model-versions/set-tag", b'{"name":"m","version":"2","key":"k","value":"v"}'),
        ("POST", "/api/2.0/mlflow/model-versions/create", b'{"name":"m","source":"s3://evil/x"}'),
        ("POST", "/api/2.0/mlflow/runs/delete", b'{"run_id":"r"}'),
        ("POST", "/api/2.0/mlflow/experiments/delete", b'{"experiment_id":"1"}'),
        ("POST", "/api/2.0/mlflow/experiments/create", b'{"name":"e","artifact_location":"/etc"}'),
    ):
        answer = site.send(method, path, headers=JSON, body=body, token="token-of-all-roles")
        site.refused(answer, 403, "PERMISSION_DENIED")
        assert answer.json()["message"] == "Version 2 holds production."
    site.refused(site.send("PUT", f"{ARTIFACTS}/1/m", body=b"evil"), 403, "PERMISSION_DENIED")
    assert len(site.door.guard.asked) == 10


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/2.0/mlflow/model-versions/delete", b'{"name":"m","version":"2"}'),
        ("POST", "/api/2.0/mlflow/registered-models/rename", b'{"name":"m","new_name":"n"}'),
    ],
)
def test_the_guard_is_not_asked_on_behalf_of_who_lacks_the_permission(
    site: Site, method: str, path: str, body: bytes
) -> None:
    answer = site.send(method, path, headers=JSON, body=body, token="token-of-viewer")

    site.refused(answer, 403, "PERMISSION_DENIED")
    assert site.door.guard.asked == []


def test_done_is_told_as_success_without_asking_mlflow(site: Site) -> None:
    site.door.guard.ruling = Done()
    answer = site.send("POST", ALIAS, headers=JSON, body=GOOD)

    assert (answer.status, answer.body) == (200, b"{}")
    assert site.upstream.reached == 0


def test_a_guard_that_breaks_is_no_yes(site: Site) -> None:
    site.door.guard.ruling = RuntimeError("database password is hunter2")
    answer = site.send("POST", ALIAS, headers=JSON, body=GOOD)

    assert (answer.status, answer.json()["error_code"]) == (500, "INTERNAL_ERROR")
    assert b"hunter2" not in answer.body
    assert site.upstream.reached == 0


def test_a_refusal_stands_even_if_nobody_can_be_told_of_it() -> None:
    upstream = RecordingUpstream()
    with serving(upstream) as url, door(url, hook_fails=True) as running:
        answer = exchange(running.url, request("POST", "/ajax-api/3.0/mlflow/demo/generate"))

    assert answer.status == 403
    assert upstream.reached == 0


def test_every_exchange_is_observed_once(site: Site) -> None:
    site.send("GET", "/health", token=None)
    site.send("GET", "/no/such")
    site.send("POST", ALIAS, headers=JSON, body=GOOD)

    assert [(route_class, decision, status) for route_class, decision, status, _ in site.door.observed] == [
        ("public", "public", 200),
        ("unknown", "unknown", 404),
        ("alias-mutation", "guard", 200),
    ]
