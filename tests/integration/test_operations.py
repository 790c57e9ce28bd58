"""Health, metrics, metadata, logs, the operator's commands, and what the database itself refuses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psycopg
import pytest

from app.domain.promotions import IN_FLIGHT, MOVES, State
from tests.platform import PATIENCE_S, Countersign, MlflowServer, until


def get(service: Countersign, path: str, **options: object) -> httpx.Response:
    return httpx.get(service.url + path, timeout=PATIENCE_S, trust_env=False, **options)  # type: ignore[arg-type]


def test_health_says_that_every_part_answers(service: Countersign) -> None:
    assert get(service, "/livez").json() == {"status": "ok"}
    ready = get(service, "/readyz")
    assert ready.status_code == 200
    assert ready.json()["parts"] == {"database": "ok", "mlflow": "ok", "identity_provider": "ok"}


def test_metrics_need_a_permission_and_hold_ours_and_fastapis(service: Countersign) -> None:
    assert get(service, "/metrics").status_code == 401
    for who, status in {"scientist": 403, "serving": 403, "administrator": 200}.items():
        answer = get(service, "/metrics", headers={"Authorization": f"Bearer {service.token(who)}"})
        assert answer.status_code == status
    for name in ("countersign_proxy_requests_total", "countersign_denials_total", "http_requests_total"):
        assert name in answer.text


def test_clients_learn_where_tokens_come_from(service: Countersign) -> None:
    metadata = get(service, "/.well-known/oauth-protected-resource").json()
    assert metadata["resource"] == service.url
    assert metadata["authorization_servers"] == [service.url, service.issuer.url]


def test_the_api_describes_itself_without_a_network(service: Countersign) -> None:
    paths = get(service, "/control/v1/openapi.json").json()["paths"]
    assert "/control/v1/promotions/{promotion_id}/approve" in paths
    page = get(service, "/control/docs").text
    assert "https://" not in page.replace("https://fastapi.tiangolo.com", "")
    assert get(service, "/control/docs/assets/swagger-ui-bundle.js").status_code == 200


def test_every_answer_has_a_request_id_of_ours(service: Countersign) -> None:
    for path in ("/livez", "/api/2.0/mlflow/nothing"):
        answer = get(service, path, headers={"X-Request-Id": "chosen-by-the-caller"})
        (request_id,) = answer.headers.get_list("x-request-id")
        assert request_id != "chosen-by-the-caller"


def test_logs_are_one_json_object_a_line(service: Countersign) -> None:
    get(service, "/api/2.0/mlflow/nothing", headers={"Authorization": f"Bearer {service.token('viewer')}"})
    lines = [json.loads(line) for line in service.log("gateway").splitlines()]
    assert any(line["event"] == "refused" for line in lines)


def test_a_stopping_gateway_answers_those_who_wait(
    countersign: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    mlflow_server.register(model_name)
    gateway = countersign.start("gateway")
    promotion = countersign.ask(model_name, "1")
    answers: list[httpx.Response] = []

    def wait() -> None:
        path = f"/promotions/{promotion['id']}"
        answers.append(countersign.call("viewer", "GET", path, params={"wait": 60}))

    def is_waiting() -> bool:
        headers = {"Authorization": f"Bearer {countersign.token('administrator')}"}
        return "http_requests_inprogress 1.0" in get(countersign, "/metrics", headers=headers).text

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(is_waiting, "the reader waiting")
    gateway.terminate()
    assert gateway.wait(PATIENCE_S) in {0, -signal.SIGTERM}
    waiting.join(PATIENCE_S)
    assert [answer.status_code for answer in answers] == [200]


# The operator's commands.


def command(countersign: Countersign, *words: str, **changed: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", **countersign.environment, **changed}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_fresh_database_protects_production_and_migrating_again_changes_nothing(countersign: Countersign) -> None:
    countersign.run("migrate")
    with psycopg.connect(countersign.environment["COUNTERSIGN_DATABASE_URL"]) as connection:
        rows = connection.execute("SELECT name, revision, document ->> 'alias' FROM policy_revisions").fetchall()
    assert rows == [("production", 1, "production")]


def test_applying_policies_makes_numbered_revisions(countersign: Countersign, tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    rule = "approvals: [{name: two, count: 2, roles: [approver]}]"
    file.write_text(f"kind: Policy\nname: production\nmodels: '*'\nalias: production\n{rule}\n")
    said, *difference = countersign.run("apply", "-f", str(file), "--dry-run").splitlines()
    assert said == "policy production: would be revision 2"
    assert {"-count:1", "+count:2"} <= {line.replace(" ", "") for line in difference}
    assert countersign.run("apply", "-f", str(file)).splitlines()[0] == "policy production: revision 2"
    assert countersign.run("apply", "-f", str(file)) == "policy production: unchanged (revision 2)\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "kind: Target\nname: t\nurl: http://x\nsecretEnv: A\ncallbackSecretEnv: B\nsecret: whsec_abc\n",
            "line 12, column 1: secret",
        ),
        ("kind: [\n", "line 8, column 1: expected YAML"),
    ],
)
def test_a_wrong_document_is_refused_in_one_line_and_nothing_is_applied(
    countersign: Countersign, tmp_path: Path, text: str, said: str
) -> None:
    good = "kind: Target\nname: good\nurl: http://x\nsecretEnv: A\ncallbackSecretEnv: B\n---\n"
    file = tmp_path / "policies.yaml"
    file.write_text(good + text)
    done = command(countersign, "apply", "-f", str(file))
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "whsec_abc" not in done.stderr
    with psycopg.connect(countersign.environment["COUNTERSIGN_DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM targets").fetchone() == (0,)


def test_the_audit_log_is_verified_from_the_database_and_from_an_export(
    countersign: Countersign, mlflow_server: MlflowServer, model_name: str, tmp_path: Path
) -> None:
    mlflow_server.register(model_name)
    countersign.start("gateway")
    promotion = countersign.ask(model_name, "1")
    countersign.call("scientist", "POST", f"/promotions/{promotion['id']}/approve")
    countersign.call("scientist", "POST", f"/promotions/{promotion['id']}/withdraw")
    exported = countersign.call("administrator", "GET", "/audit/export")
    assert exported.text == countersign.run("audit", "export")
    assert countersign.call("viewer", "GET", "/audit/export").status_code == 403
    file = tmp_path / "audit.ndjson"
    file.write_text(exported.text)
    for where in ([], ["--file", str(file)]):
        assert json.loads(countersign.run("audit", "verify", "--json", *where))["intact"]
    file.write_text(exported.text.replace('"withdrawn"', '"applied"'))
    done = command(countersign, "audit", "verify", "--file", str(file))
    assert done.returncode == 1
    assert "NOT intact" in done.stderr


# What the database refuses whatever the code does.


def test_the_database_holds_the_same_moves_as_the_domain(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT from_state, to_state FROM promotion_moves").fetchall()
        states = connection.execute("SELECT name FROM promotion_states").fetchall()
    assert {(State(before), State(after)) for before, after in rows} == {
        (before, after) for before, afters in MOVES.items() for after in afters
    }
    assert {State(name) for (name,) in states} == set(State)


def test_the_database_holds_the_same_set_of_states_in_flight(database_url: str) -> None:
    query = "SELECT indexdef FROM pg_indexes WHERE indexname = 'promotions_one_in_flight'"
    with psycopg.connect(database_url) as connection:
        row = connection.execute(query).fetchone()
    assert row
    assert {State(name) for name in re.findall(r"'(\w+)'::text", row[0])} == IN_FLIGHT


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entries SET entry = '{}'",
        "DELETE FROM audit_entries",
        "TRUNCATE audit_entries",
        "UPDATE policy_revisions SET document = '{}'",
        "DELETE FROM policy_revisions",
        "DELETE FROM decisions",
        "UPDATE decisions SET outcome = 'approve'",
        "DELETE FROM promotions",
        "UPDATE promotions SET state = 'applied'",
        "UPDATE promotions SET state = 'live'",
        "UPDATE promotions SET digest = 'sha256:' || repeat('0', 64)",
        "UPDATE promotions SET to_version = '9'",
        "UPDATE promotions SET requested_by = 'somebody else'",
        "UPDATE promotions SET policy_name = 'other'",
        "UPDATE promotions SET state = 'finished'",
    ],
)
def test_the_database_refuses_to_change_what_was_recorded(
    service: Countersign, mlflow_server: MlflowServer, model_name: str, statement: str
) -> None:
    mlflow_server.register(model_name)
    promotion = service.ask(model_name, "1")
    if statement.startswith("UPDATE promotions"):
        statement += f" WHERE id = '{promotion['id']}'"
    database_url = service.environment["COUNTERSIGN_DATABASE_URL"]
    with psycopg.connect(database_url) as connection, pytest.raises(psycopg.IntegrityError):
        connection.execute(statement)  # type: ignore[call-overload]


def test_two_promotions_of_an_alias_are_never_in_flight_together(
    service: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    """Even if the code tried."""
    mlflow_server.register(model_name, versions=2)
    first = service.ask(model_name, "1")
    service.call("approver", "POST", f"/promotions/{first['id']}/reject")
    columns = (
        "kind, model, alias, model_created_at, source_uri, artifact_root, uri, digest, policy_name, policy_revision"
    )
    columns += ", requested_by, requested_by_name, reason, created_at, updated_at, alias_moved, revision"
    copy = f"INSERT INTO promotions (id, to_version, state, {columns}) SELECT %s, %s, 'applying', {columns}"
    with psycopg.connect(service.environment["COUNTERSIGN_DATABASE_URL"]) as connection:
        connection.execute(f"{copy} FROM promotions WHERE id = %s", ("prm_a", "1", first["id"]))  # type: ignore[arg-type]
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(f"{copy} FROM promotions WHERE id = %s", ("prm_b", "2", first["id"]))  # type: ignore[arg-type]
        connection.rollback()
