"""Bad input ends in a clear refusal that names the field, and leaves nothing behind."""

from __future__ import annotations

import shutil

import httpx
import pytest

from tests.platform import PATIENCE_S, Countersign, MlflowServer


@pytest.fixture(scope="module")
def model(mlflow_server: MlflowServer) -> str:
    mlflow_server.register("bad-input", versions=1)
    return "bad-input"


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = answer.json()
    assert document["status"] == status
    assert str(document["type"]).endswith(f":{slug}")
    assert document["title"]
    return document


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "no such model"}, "no such model"),
        ({"version": "99"}, "99"),
        ({"alias": "no-such-alias"}, "no-such-alias"),
    ],
)
def test_what_does_not_exist_is_named(service: Countersign, model: str, change: dict[str, str], named: str) -> None:
    body = {"model": model, "alias": "production", "version": "1"} | change
    document = problem(service.call("scientist", "POST", "/promotions", json=body), 404, "not-found")
    assert named in str(document["detail"])
    listed = service.call("viewer", "GET", "/promotions", params={"model": body["model"]}).json()["items"]
    assert listed == []


@pytest.mark.parametrize("path", ["/promotions/prm_none", "/deployments/dep_none", "/models/none/aliases/production"])
def test_reading_what_does_not_exist_names_it(service: Countersign, path: str) -> None:
    document = problem(service.call("viewer", "GET", path), 404, "not-found")
    assert path.split("/")[2] in str(document["detail"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model"),
        ({"model": "m", "alias": "production"}, "version"),
        ({"model": "m", "alias": "production", "version": "02"}, "version"),
        ({"model": "m", "alias": "production", "version": 1.5}, "version"),
        ({"model": "m", "alias": "production", "version": True}, "version"),
        ({"model": "m", "alias": "production\n", "version": "1"}, "alias"),
        ({"model": "m", "alias": "latest", "version": "1"}, "alias"),
        ({"model": "a/b", "alias": "production", "version": "1"}, "model"),
        ({"model": "", "alias": "production", "version": "1"}, "model"),
        ({"model": ["m"], "alias": "production", "version": "1"}, "model"),
        ({"model": "m", "alias": "production", "version": "1", "aliaz": "x"}, "aliaz"),
        ({"model": "m", "alias": "production", "version": "1", "reason": "x" * 3000}, "reason"),
        ([], "body"),
    ],
)
def test_a_malformed_request_names_the_field(service: Countersign, body: object, field: str) -> None:
    document = problem(service.call("scientist", "POST", "/promotions", json=body), 400, "invalid-input")
    assert field in str(document["field"])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"model": NaN}'])
def test_what_is_not_json_is_refused(service: Countersign, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    problem(service.call("scientist", "POST", "/promotions", content=content, headers=headers), 400, "invalid-input")


def test_a_body_that_is_too_large_is_refused(service: Countersign) -> None:
    content = b'{"reason": "' + b"x" * 2_000_000 + b'"}'
    answer = service.call(
        "scientist", "POST", "/promotions", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "params", "field"),
    [
        ("/promotions", {"limit": 0}, "limit"),
        ("/promotions", {"limit": 10_000}, "limit"),
        ("/promotions", {"state": "finished"}, "state"),
        ("/promotions", {"cursor": "not a cursor"}, "cursor"),
        ("/promotions", {"cursor": "W10"}, "cursor"),
        ("/promotions/prm_x", {"wait": 1000}, "wait"),
        ("/models/m/aliases/production", {"at": "yesterday"}, "at"),
        ("/models/m/aliases/production", {"at": "2026-01-01T00:00:00"}, "at"),
        ("/audit", {"after": -1}, "after"),
        ("/resolve", {}, "uri"),
        ("/resolve", {"uri": "s3://bucket/model"}, "uri"),
    ],
)
def test_a_malformed_query_names_the_parameter(
    service: Countersign, path: str, params: dict[str, object], field: str
) -> None:
    document = problem(service.call("administrator", "GET", path, params=params), 400, "invalid-input")
    assert field in str(document["field"])


def test_an_unknown_path_and_method_are_problems_too(service: Countersign) -> None:
    problem(service.call("viewer", "GET", "/nothing"), 404, "unknown-route")
    problem(service.call("viewer", "DELETE", "/promotions"), 405, "unknown-method")


@pytest.mark.parametrize(
    "path",
    ["/control/../mlflow", "/control//v1/promotions", "/livez/x", "/metricsx", "/controlx", "/.well-known/x"],
)
def test_a_path_that_is_almost_right_reaches_nothing(service: Countersign, path: str) -> None:
    request = httpx.Request("GET", service.url, headers={"Authorization": f"Bearer {service.token('administrator')}"})
    request.url = request.url.copy_with(raw_path=path.encode())
    with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client:
        assert client.send(request).status_code in {400, 404}


def test_a_model_without_readable_artifacts_cannot_be_promoted(
    service: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    mlflow_server.register(model_name)
    mlflow_server.call("POST", "model-versions/create", {"name": model_name, "source": "s3://somewhere/else"})
    body = {"model": model_name, "alias": "production", "version": "2"}
    document = problem(service.call("scientist", "POST", "/promotions", json=body), 422, "unresolvable")
    assert "s3://somewhere/else" in str(document["detail"])


def test_a_version_whose_files_are_gone_cannot_be_promoted(
    service: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    mlflow_server.register(model_name)
    shutil.rmtree(mlflow_server.folder_of(model_name, "1"))
    body = {"model": model_name, "alias": "production", "version": "1"}
    document = problem(service.call("scientist", "POST", "/promotions", json=body), 422, "no-artifacts")
    assert "no artifacts" in str(document["detail"])


def test_a_symbolic_link_among_the_artifacts_is_refused(
    service: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    mlflow_server.register(model_name)
    (mlflow_server.folder_of(model_name, "1") / "link").symlink_to("/etc/hostname")
    body = {"model": model_name, "alias": "production", "version": "1"}
    document = problem(service.call("scientist", "POST", "/promotions", json=body), 422, "unresolvable")
    assert "symbolic link" in str(document["detail"])
