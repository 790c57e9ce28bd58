"""The command that runs MLflow's own REST tests, on a few tests that are written as MLflow's are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.mlflow_rest_tests import REFUSED, Outcome, compare

HELPERS = """
import socket

def get_safe_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
"""
SERVERS = """
import os, sys
from contextlib import contextmanager
from subprocess import Popen
from mlflow.server import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR
from tests.helper_functions import get_safe_port

def _await_server_up_or_die(port, timeout=30):
    raise NotImplementedError("the plugin waits")

@contextmanager
def _init_server(folder):
    port = get_safe_port()
    command = [sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app", "--port", str(port)]
    stores = {BACKEND_STORE_URI_ENV_VAR: f"sqlite:///{folder}/mlflow.db", ARTIFACT_ROOT_ENV_VAR: f"{folder}/artifacts"}
    with Popen(command, env={**os.environ, **stores}) as process:
        try:
            _await_server_up_or_die(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
"""
TESTS = """
import pytest, requests
from mlflow import MlflowClient
from tests.tracking.integration_test_utils import _init_server

@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with _init_server(tmp_path_factory.mktemp("data")) as url:
        yield url

def test_the_client_works(url):
    assert MlflowClient(url).create_experiment("one")

def test_artifacts_elsewhere(url):
    answer = requests.post(f"{url}/api/2.0/mlflow/experiments/create", json={"name": "x", "artifact_location": "/x"})
    assert answer.status_code == 200

def test_that_fails_anyway(url):
    assert requests.post(f"{url}/api/2.0/mlflow/runs/create-promptlab-run", json={}).status_code == 200
"""


def test_what_the_gateway_changes_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    (folder / "tracking").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "helper_functions.py": HELPERS,
        "tracking/__init__.py": "",
        "tracking/integration_test_utils.py": SERVERS,
        "tracking/test_rest_tracking.py": TESTS,
    }.items():
        (folder / name).write_text(text)

    done = subprocess.run(
        [sys.executable, "-m", "tools.mlflow_rest_tests", "--tests", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1, done.stdout + done.stderr
    path = "POST /api/2.0/mlflow/experiments/create"
    assert f"200 {path}, and through the gateway 400 {path}" in done.stdout
    assert "test_the_client_works" not in done.stdout
    assert "3 tests, 1 lost" in done.stdout


def test_a_loss_on_purpose_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    name = next(iter(REFUSED))
    before = {f"tests/a.py::{name}[x]": Outcome(), "tests/a.py::test_b": Outcome("failed")}
    after = {f"tests/a.py::{name}[x]": Outcome("failed"), "tests/a.py::test_b": Outcome("failed")}

    assert compare(before, after) == 0
    assert REFUSED[name] in capsys.readouterr().out


def test_a_test_that_did_not_run_through_the_gateway_is_lost() -> None:
    assert compare({"tests/a.py::test_b": Outcome()}, {}) == 1


def test_another_status_in_a_test_that_fails_anyway_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    before = {"a.py::test_a": Outcome(), "a.py::test_b": Outcome("failed", answers=["200 GET /a", "404 GET /b"])}
    after = {"a.py::test_a": Outcome(), "a.py::test_b": Outcome("failed", answers=["200 GET /a", "400 GET /b"])}

    assert compare(before, after) == 0
    assert "404 GET /b, and through the gateway 400 GET /b" in capsys.readouterr().out


def test_nothing_to_compare_is_a_failure_of_its_own() -> None:
    assert compare({"tests/a.py::test_b": Outcome("failed")}, {"tests/a.py::test_b": Outcome("failed")}) == 2
