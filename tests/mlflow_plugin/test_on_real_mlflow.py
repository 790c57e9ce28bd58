"""`mlflow server --app-name countersign`, asked by somebody who reached its port."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from types import ModuleType

import pytest
from flask import Flask

from app.adapters.assertions import HEADER, GatewayAssertion
from app.adapters.clock import SystemClock
from app.domain.routes import ROUTES
from app.ports import Judged
from tests.mlflow_plugin.conftest import API, SCIENTIST, SECRET, Answer, Insider
from tests.mlflow_plugin.test_verifier import by_hand, sign
from tests.platform import MlflowServer, free_port

ALIAS = f"{API}/registered-models/alias"
PROBES = {("GET", "/health"), ("GET", "/version")}


def refused_as_a_stranger(answer: Answer, *, head: bool = False) -> bool:
    if answer.status != 401 or answer.headers["www-authenticate"] != "Countersign":
        return False
    return head or (
        answer.json()["error_code"] == "UNAUTHENTICATED" and "Countersign alone" in answer.json()["message"]
    )


def refused(answer: Answer) -> bool:
    return answer.status == 403 and answer.json()["error_code"] == "PERMISSION_DENIED"


def test_health_and_version_answer_to_anybody(insider: Insider) -> None:
    for method, path in PROBES:
        assert insider.send(method, path).status == 200


def test_every_other_route_of_mlflow_wants_the_gateways_word(insider: Insider) -> None:
    asked = 0
    for route in ROUTES:
        if (route.method, route.template) not in PROBES:
            answer = insider.send(route.method, re.sub(r"<[^>]+>", "x", route.template))
            assert refused_as_a_stranger(answer, head=route.method == "HEAD"), route
            asked += 1
    assert asked > 400


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("OPTIONS", ALIAS),
        ("OPTIONS", "/"),
        ("TRACE", "/"),
        ("PROPFIND", "/health"),
        ("POST", "/health"),
        ("HEAD", "/health"),
        ("GET", "/health/"),
        ("GET", "//health"),
        ("GET", "/health;x"),
        ("GET", "/static-files/index.html"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/not/there"),
        ("GET", "http://localhost/api/2.0/mlflow/registered-models/search"),
    ],
)
def test_so_does_every_other_method_and_spelling(insider: Insider, method: str, target: str) -> None:
    assert refused_as_a_stranger(insider.send(method, target), head=method == "HEAD")


def test_a_strangers_artifact_is_not_written(insider: Insider) -> None:
    target = "/api/2.0/mlflow-artifacts/artifacts/0/stranger.txt"
    assert refused_as_a_stranger(insider.send("PUT", target, b"x" * 3_000_000))
    assert not (insider.mlflow.artifacts / "0" / "stranger.txt").exists()
    assert insider.send("PUT", target, b"known", insider.asserted()).status == 200
    assert (insider.mlflow.artifacts / "0" / "stranger.txt").read_bytes() == b"known"


@pytest.mark.parametrize("known", [False, True])
def test_a_websocket_is_refused_whoever_asks(insider: Insider, known: bool) -> None:
    upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    headers = upgrade + (insider.asserted() if known else [])
    assert insider.send("GET", "/ajax-api/3.0/mlflow/assistant/config", headers=headers).status == 403


OURS = {"alg": "HS256", "typ": "countersign-assertion+jwt"}
ALWAYS = {"iss": "countersign", "aud": "mlflow", "sub": "anonymous", "iat": 1, "exp": 4_102_444_800}
FORGED = {
    "another secret": [(HEADER, sign(ALWAYS, secret="another secret that is also long enough"))],
    "no algorithm": [(HEADER, by_hand(OURS | {"alg": "none"}, ALWAYS, None))],
    "another algorithm": [(HEADER, by_hand(OURS | {"alg": "RS256"}, ALWAYS, SECRET.encode()))],
    "expired": [(HEADER, sign(ALWAYS | {"exp": 1000}))],
    "another audience": [(HEADER, sign(ALWAYS | {"aud": "gateway"}))],
    "another type": [(HEADER, sign(ALWAYS, header={"alg": "HS256", "typ": "JWT"}))],
    "two": [(HEADER, sign(ALWAYS)), (HEADER, sign(ALWAYS))],
    "two in one": [(HEADER, f"{sign(ALWAYS)},{sign(ALWAYS)}")],
    "an underscore": [(HEADER.replace("-", "_"), sign(ALWAYS))],
    "a bearer token": [("Authorization", f"Bearer {sign(ALWAYS)}")],
    "not even ASCII": [(HEADER, "\xff")],
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_word_is_no_word(insider: Insider, kind: str) -> None:
    for target in (f"{API}/registered-models/search", "/api/2.0/mlflow-artifacts/artifacts"):
        assert refused_as_a_stranger(insider.send("GET", target, headers=FORGED[kind]))


def test_the_same_word_signed_with_the_secret_is_taken(insider: Insider) -> None:
    for target in (f"{API}/registered-models/search", "/api/2.0/mlflow-artifacts/artifacts", "/", "/graphql"):
        status = insider.send("GET", target, headers=[(HEADER, sign(ALWAYS))]).status
        assert status not in {401, 403}


SPELLINGS = {
    "as usual": lambda body: json.dumps(body).encode(),
    "a key twice": lambda body: json.dumps(body).replace('"alias"', '"alias": "staging", "alias"').encode(),
    "encoded twice": lambda body: json.dumps(json.dumps(body)).encode(),
    "UTF-16": lambda body: json.dumps(body).encode("utf-16"),
    "UTF-16 without a mark": lambda body: json.dumps(body).encode("utf-16-le"),
    "UTF-32": lambda body: json.dumps(body).encode("utf-32"),
    "a byte order mark": lambda body: json.dumps(body).encode("utf-8-sig"),
    "escapes": lambda body: (
        json.dumps(body).replace("production", "\\u0070roduction").replace("name", "n\\u0061me").encode()
    ),
    "a key that stops the parser": lambda body: json.dumps(body | {"[a.b]": 1, "alias ": "staging"}).encode(),
    "an unknown field": lambda body: json.dumps({"user": {"name": "x"}} | body).encode(),
    "not a number": lambda body: json.dumps(body | {"x": float("nan")}).encode(),
    "white space": lambda body: b"\r\n\t " + json.dumps(body, indent=3).encode() + b"\n",
}
"""Of a body; MLflow 3.17 acts on each of them."""


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_an_alias_moves_by_what_was_judged_and_nothing_else(insider: Insider, method: str, spelling: str) -> None:
    model = insider.model()
    set_staging = {"name": model, "alias": "staging", "version": "1"}
    assert insider.judged("POST", "/registered-models/alias", "SetRegisteredModelAlias", set_staging).status == 200
    first = {"name": model, "alias": "production", "version": "1"}
    assert insider.judged("POST", "/registered-models/alias", "SetRegisteredModelAlias", first).status == 200
    before = {"staging": "1", "production": "1"}

    body = {"name": model, "alias": "production"} | ({"version": "2"} if method == "POST" else {})
    message = "SetRegisteredModelAlias" if method == "POST" else "DeleteRegisteredModelAlias"
    raw = SPELLINGS[spelling](body)
    ordinary = insider.send(method, ALIAS, raw, insider.asserted())
    assert refused(ordinary)
    assert "did not judge" in ordinary.json()["message"]
    staging = insider.asserted(Judged(method, ALIAS, message, body | {"alias": "staging"}))
    other = insider.send(method, ALIAS, raw, staging)
    assert refused(other)
    assert "otherwise than" in other.json()["message"]
    assert insider.aliases(model) == before

    right = insider.send(method, ALIAS, raw, insider.asserted(Judged(method, ALIAS, message, body)))
    assert right.status == 200, "MLflow understands this spelling, so that refusing it above meant something"
    after = before | {"production": "2"} if method == "POST" else {"staging": "1"}
    assert insider.aliases(model) == after


@pytest.mark.parametrize(
    "target",
    [
        ALIAS,
        f"/ajax-api{ALIAS.removeprefix('/api')}",
        f"/{ALIAS}",
        ALIAS.replace("/api", "/%61pi"),
        ALIAS.replace("models/alias", "models%2Falias"),
        ALIAS.replace("2.0", "2%2e0"),
        f"http://evil.example{ALIAS}",
        f"{ALIAS}?name=m&alias=staging&version=1",
        f"{ALIAS}#fragment",
    ],
)
def test_no_spelling_of_the_path_gets_past_the_guard(insider: Insider, target: str) -> None:
    model = insider.model()
    body = json.dumps({"name": model, "alias": "production", "version": "2"}).encode()
    for method in ("POST", "DELETE"):
        assert refused(insider.send(method, target, body, insider.asserted()))
    assert insider.aliases(model) == {}


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/json; charset=utf-16", "application/x-www-form-urlencoded", ""]
)
def test_no_content_type_gets_past_the_guard(insider: Insider, kind: str) -> None:
    model = insider.model()
    fields = {"name": model, "alias": "production", "version": "1"}
    assert insider.judged("POST", "/registered-models/alias", "SetRegisteredModelAlias", fields).status == 200
    headers = (
        [("Content-Type", kind), *insider.assertion.headers(SCIENTIST)]
        if kind
        else insider.assertion.headers(SCIENTIST)
    )
    for method in ("POST", "DELETE"):
        assert refused(insider.send(method, ALIAS, json.dumps(fields | {"version": "2"}).encode(), headers))
    assert insider.aliases(model) == {"production": "1"}


@pytest.mark.parametrize("version", [" 2 ", "02", "+2", "0_2", "\u0662"])
def test_another_spelling_of_a_version_is_not_what_was_judged(insider: Insider, version: str) -> None:
    model = insider.model()
    fields = {"name": model, "alias": "production", "version": "2"}
    headers = insider.asserted(Judged("POST", ALIAS, "SetRegisteredModelAlias", fields))
    assert refused(insider.send("POST", ALIAS, json.dumps(fields | {"version": version}).encode(), headers))
    assert insider.aliases(model) == {}


def test_a_word_for_one_request_is_not_one_for_another(insider: Insider) -> None:
    model = insider.model()
    fields = {"name": model, "alias": "production", "version": "2"}
    body = json.dumps(fields).encode()
    headers = insider.asserted(Judged("POST", ALIAS, "SetRegisteredModelAlias", fields))
    assert refused(insider.send("POST", f"/ajax-api{ALIAS.removeprefix('/api')}", body, headers))
    assert refused(insider.send("DELETE", ALIAS, body, headers))
    assert refused(insider.send("GET", f"{API}/registered-models/search", headers=headers))
    another = insider.asserted(Judged("POST", ALIAS, "SetRegisteredModelTag", fields))
    assert refused(insider.send("POST", ALIAS, body, another))
    assert insider.aliases(model) == {}
    assert insider.send("POST", ALIAS, body, headers).status == 200


def test_a_second_header_that_wsgi_takes_for_the_first_spoils_it(insider: Insider) -> None:
    model = insider.model()
    fields = {"name": model, "alias": "production", "version": "2"}
    headers = insider.asserted(Judged("POST", ALIAS, "SetRegisteredModelAlias", fields))
    headers.append((HEADER.replace("-", "_"), "x"))
    assert refused(insider.send("POST", ALIAS, json.dumps(fields).encode(), headers))
    assert insider.aliases(model) == {}


def test_a_body_that_mlflow_cannot_read_is_refused_and_not_an_error(insider: Insider) -> None:
    fields = {"name": "m", "alias": "production", "version": "2"}
    headers = insider.asserted(Judged("POST", ALIAS, "SetRegisteredModelAlias", fields))
    for body in (b"[1]", b"1", json.dumps(json.dumps(json.dumps({}))).encode(), json.dumps("{").encode()):
        assert refused(insider.send("POST", ALIAS, body, headers)), body


def test_reading_an_alias_with_a_body_moves_nothing(insider: Insider) -> None:
    model = insider.model()
    body = json.dumps({"name": model, "alias": "production", "version": "2"}).encode()
    insider.send("GET", ALIAS, body, [*insider.asserted(), ("Content-Length", str(len(body)))])
    assert insider.aliases(model) == {}


def test_every_endpoint_of_a_judged_message_is_guarded(insider: Insider, handlers: ModuleType) -> None:
    from countersign_mlflow.guard import GUARDED

    application = Flask("mlflow")
    for path, handler, methods in handlers.get_endpoints():
        application.add_url_rule(path, handler.__name__, handler, methods=methods)
    named = {handler.__name__: kind.DESCRIPTOR.name for kind, handler in handlers.HANDLERS.items()}
    found = set()
    for rule in application.url_map.iter_rules():
        if named.get(rule.endpoint) in GUARDED:
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                answer = insider.send(method, re.sub(r"<[^>]+>", "x", rule.rule), b"{}", insider.asserted())
                assert refused(answer), rule
                assert named[rule.endpoint] in answer.json()["message"]
                found.add((named[rule.endpoint], rule.rule.split("/")[1]))
    assert found == {(name, prefix) for name in GUARDED for prefix in ("api", "ajax-api")}


def test_a_model_and_its_versions_are_changed_by_what_was_judged(insider: Insider) -> None:
    model = insider.model()
    stage = {"name": model, "version": "1", "stage": "Staging", "archive_existing_versions": False}
    steps = [
        ("POST", "/model-versions/transition-stage", "TransitionModelVersionStage", stage),
        (
            "POST",
            "/model-versions/set-tag",
            "SetModelVersionTag",
            {"name": model, "version": "1", "key": "k", "value": ""},
        ),
        ("DELETE", "/model-versions/delete", "DeleteModelVersion", {"name": model, "version": "1"}),
        ("POST", "/registered-models/rename", "RenameRegisteredModel", {"name": model, "new_name": f"{model} \u2713"}),
        ("DELETE", "/registered-models/delete", "DeleteRegisteredModel", {"name": f"{model} \u2713"}),
    ]
    for method, path, message, fields in steps:
        answer = insider.judged(method, path, message, fields)
        assert answer.status == 200, answer.body


def test_what_the_path_names_counts_for_the_handler_that_reads_no_body(insider: Insider) -> None:
    created = insider.judged("POST", "/logged-models", "CreateLoggedModel", {"experiment_id": "0", "name": "x"})
    model_id = created.json()["model"]["info"]["model_id"]
    target = f"{API}/logged-models/{model_id}"
    word = insider.asserted(Judged("DELETE", target, "DeleteLoggedModel", {"model_id": "m-other"}))
    assert refused(insider.send("DELETE", target, b'{"model_id": "m-other"}', word))
    word = insider.asserted(Judged("DELETE", target, "DeleteLoggedModel", {"model_id": model_id}))
    assert insider.send("DELETE", target, json.dumps({"model_id": model_id}).encode(), word).status == 200


def test_hundreds_of_groups_fit_into_the_headers(insider: Insider) -> None:
    from dataclasses import replace

    groups = frozenset(f"00000000-0000-0000-0000-{number:012}" for number in range(200))
    told = GatewayAssertion(SECRET, SystemClock(), remote_user=True).headers(
        replace(SCIENTIST, identity=replace(SCIENTIST.identity, groups=groups))
    )
    assert insider.send("GET", f"{API}/registered-models/search", headers=told).status == 200


CLIENT = """
import sys
import mlflow
from mlflow.tracking.request_header.abstract_request_header_provider import RequestHeaderProvider
from mlflow.tracking.request_header.registry import _request_header_provider_registry

class Word(RequestHeaderProvider):
    def in_context(self):
        return True

    def request_headers(self):
        return {sys.argv[1]: sys.argv[2]}

_request_header_provider_registry.register(Word)
with mlflow.start_run(experiment_id="0") as run:
    mlflow.log_metric("m", 1.5)
    mlflow.log_text("hello", "a b.txt")
found = mlflow.MlflowClient().get_run(run.info.run_id)
assert found.data.metrics == {"m": 1.5}
assert mlflow.artifacts.load_text(f"{found.info.artifact_uri}/a b.txt") == "hello"
try:
    mlflow.MlflowClient().delete_run(run.info.run_id)
except mlflow.exceptions.MlflowException as refusal:
    print(refusal.error_code, refusal.message)
"""


def test_mlflows_client_works_with_the_gateways_word_and_reads_the_refusal(insider: Insider) -> None:
    ((name, value),) = insider.assertion.headers(SCIENTIST)
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, name, value],
        env=os.environ | {"MLFLOW_TRACKING_URI": insider.mlflow.url, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "PERMISSION_DENIED: Countersign did not judge this DeleteRun" in done.stdout


def test_no_word_and_no_secret_is_in_the_log(insider: Insider) -> None:
    insider.send("GET", "/", headers=[(HEADER, sign(ALWAYS | {"exp": 1000}))])
    insider.send("GET", "/forged\n\x1b[31m".encode("unicode_escape").decode(), headers=[(HEADER, "quoted-nowhere")])
    log = (insider.mlflow.data / "mlflow.log").read_text()
    assert "refused GET '/': the assertion: it has expired" in log
    for hidden in (SECRET, "quoted-nowhere", "eyJ", "\x1b"):
        assert hidden not in log


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--workers", "2"],
            "countersign-mlflow: COUNTERSIGN_ASSERTION_SECRET or COUNTERSIGN_ASSERTION_SECRET_FILE: set",
        ),
        (["--gunicorn-opts", ""], "Misconfigured: run MLflow with uvicorn"),
    ],
)
def test_a_server_that_cannot_be_guarded_ends_at_once(
    guarded_mlflow: MlflowServer, options: list[str], expected: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COUNTERSIGN_")}
    if "--gunicorn-opts" in options:
        environment["COUNTERSIGN_ASSERTION_SECRET"] = SECRET
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "server", "--app-name", "countersign", "--port", str(free_port()), *options],
        cwd=guarded_mlflow.data,
        env=environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert expected in done.stderr
