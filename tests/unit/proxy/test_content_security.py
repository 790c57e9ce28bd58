from __future__ import annotations

import pytest

from app.domain.routes import ROUTES, Route, RouteClass, match
from app.proxy.content_security import protective

UPLOADED = [
    "/get-artifact",
    "/model-versions/get-artifact",
    "/api/2.0/mlflow-artifacts/artifacts/1/a/artifacts/page.html",
    "/ajax-api/2.0/mlflow-artifacts/artifacts/1/a/artifacts/page.html",
    "/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files",
    "/ajax-api/2.0/mlflow/get-trace-artifact",
    "/ajax-api/3.0/mlflow/get-trace-artifact",
]
ALWAYS = {
    b"content-security-policy",
    b"cross-origin-opener-policy",
    b"cross-origin-resource-policy",
    b"referrer-policy",
    b"x-content-type-options",
    b"x-frame-options",
}
INTERFACE = ["/", "/static-files/static/js/main.js", "/static-files/lib/notebook-trace-renderer/index.html"]
LISTING = ("/artifacts", "/artifacts/list", "/artifacts/directories", "/presigned/<path:artifact_path>")
"""Names and addresses of artifacts, as JSON."""
DATA = ["/api/2.0/mlflow/runs/get", "/ajax-api/2.0/mlflow/artifacts/list", "/graphql", "/health"]


def route(path: str) -> Route:
    found = match("GET", path)
    assert found, path
    return found.route


def headers(path: str, *, https: bool = False) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in protective(route(path), https=https)}


def directives(path: str) -> dict[str, str]:
    policy = headers(path)["content-security-policy"]
    parted = [part.strip().partition(" ") for part in policy.split(";")]
    return {name: value for name, _, value in parted}


@pytest.mark.parametrize("path", UPLOADED)
def test_what_somebody_uploaded_is_an_origin_of_its_own_that_runs_nothing(path: str) -> None:
    assert directives(path)["sandbox"] == ""
    assert directives(path)["default-src"] == "'none'"
    assert "script-src" not in directives(path)


@pytest.mark.parametrize("path", INTERFACE)
def test_the_interface_runs_its_own_files_and_no_other_script(path: str) -> None:
    assert directives(path)["script-src"] == "'self' 'unsafe-eval'"
    assert directives(path)["default-src"] == "'none'"
    assert "sandbox" not in directives(path)


@pytest.mark.parametrize("path", INTERFACE)
def test_the_interface_names_no_other_host(path: str) -> None:
    sources = " ".join(directives(path).values())

    assert set(sources.split()) <= {"'none'", "'self'", "'unsafe-eval'", "'unsafe-inline'", "blob:", "data:"}
    assert [name for name, value in directives(path).items() if "'unsafe-inline'" in value] == ["style-src"]


@pytest.mark.parametrize("path", DATA)
def test_data_is_no_document(path: str) -> None:
    assert directives(path) == {
        "default-src": "'none'",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }


def test_a_path_that_is_unknown_is_answered_with_data() -> None:
    assert protective(None, https=False) == protective(route("/health"), https=False)


def test_every_route_is_protected() -> None:
    assert ROUTES
    for each in ROUTES:
        sent = dict(protective(each, https=True))
        assert sent.keys() == ALWAYS | {b"strict-transport-security"}
        assert sent[b"x-content-type-options"] == b"nosniff"


def test_every_answer_with_an_artifact_is_inert() -> None:
    reading = {
        each.template: each for each in ROUTES if each.route_class is RouteClass.ARTIFACT_READ and each.method == "GET"
    }
    inert = {
        template
        for template, each in reading.items()
        if dict(protective(each, https=False))[b"content-security-policy"].startswith(b"sandbox;")
    }

    assert {template for template in reading if not template.endswith(LISTING)} == inert


def test_only_callers_by_https_are_told_to_stay_there() -> None:
    assert "strict-transport-security" not in headers("/")
    assert headers("/", https=True)["strict-transport-security"] == "max-age=63072000"


def test_the_headers_are_made_once() -> None:
    assert protective(route("/"), https=True) is protective(route("/"), https=True)
