"""From applied to live: the signed call, the signed report, and what is refused of either."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.conftest import database_of
from tests.issuer import Issuer
from tests.platform import Countersign, MlflowServer, new_countersign, until
from tests.toll import Deployer


@pytest.fixture(scope="module")
def deployer() -> Iterator[Deployer]:
    with Deployer() as deployer:
        yield deployer


@pytest.fixture
def model(mlflow_server: MlflowServer, model_name: str) -> str:
    mlflow_server.register(model_name, versions=2)
    return model_name


@pytest.fixture(scope="module")
def running(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    deployer: Deployer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Countersign]:
    folder = tmp_path_factory.mktemp("deployments")
    with (
        database_of(postgres, template_database) as url,
        new_countersign(url, mlflow_server, issuer, folder) as running,
    ):
        configure(running, deployer, folder)
        running.start("gateway")
        running.start("worker")
        yield running


def configure(countersign: Countersign, deployer: Deployer, folder: Path, *, private: bool = True) -> None:
    (folder / "secret").write_text(deployer.secret)
    (folder / "callback").write_text(deployer.callback_secret)
    (folder / "policies.yaml").write_text(
        f"""
        kind: Target
        name: ray
        url: {deployer.url}/v1/deployments
        secretFile: {folder / "secret"}
        callbackSecretFile: {folder / "callback"}
        allowPrivateNetwork: {str(private).lower()}
---
        kind: Policy
        name: production
        models: "*"
        alias: production
        approvals: [{{name: a second person, count: 1, roles: [approver]}}]
        rollback: {{approvals: []}}
        targets: [ray]
""".replace("\n        ", "\n")
    )
    countersign.run("apply", "-f", str(folder / "policies.yaml"))


def rolling_out(running: Countersign, model: str, version: str = "1") -> dict[str, Any]:
    promotion = running.ask(model, version)
    running.approve(promotion["id"])
    return running.follow(promotion["id"], "rolling_out")


def called(deployer: Deployer, model: str, *, times: int = 1) -> list[dict[str, Any]]:
    until(lambda: len(deployer.received(model)) >= times, f"{times} calls for {model}")
    return [event for _, event in deployer.received(model)]


def test_a_promotion_is_live_when_its_target_reports_ready(
    running: Countersign, deployer: Deployer, mlflow_server: MlflowServer, model: str
) -> None:
    promotion = rolling_out(running, model)
    (event,) = called(deployer, model)
    data = event["data"]
    assert event["type"] == "countersign.deployment.requested.v1"
    assert (data["model"]["uri"], data["model"]["digest"]) == (promotion["uri"], promotion["digest"])
    assert (data["promotion"]["requested_by"], data["promotion"]["approved_by"]) == ("scientist", ["approver"])
    assert mlflow_server.holder(model) == "1"
    for sequence, phase in enumerate(["Accepted", "Progressing", "Ready"], start=1):
        assert deployer.report(event, phase, sequence=sequence).json()["result"] == "taken"
    live = running.follow(promotion["id"], "live")
    assert live["settled"]
    (deployment,) = live["deployments"]
    assert (deployment["phase"], deployment["generation"], deployment["version"]) == ("Ready", 1, "1")
    assert running.audit(promotion["id"])[-2:] == ["promotion.rolling_out", "promotion.live"]


def test_late_and_repeated_reports_change_nothing(running: Countersign, deployer: Deployer, model: str) -> None:
    promotion = rolling_out(running, model)
    (event,) = called(deployer, model)
    deployer.report(event, "Ready", sequence=5)
    for sequence in (5, 4):
        assert deployer.report(event, "Failed", sequence=sequence).json() == {"result": "ignored", "phase": "Ready"}
    assert running.follow(promotion["id"], "live")


def test_a_failed_report_takes_requests_and_alias_back_and_says_why(
    running: Countersign, deployer: Deployer, mlflow_server: MlflowServer, model: str
) -> None:
    promotion = rolling_out(running, model)
    (event,) = called(deployer, model)
    deployer.report(event, "Failed")
    _, back = called(deployer, model, times=2)
    assert (back["data"]["generation"], back["data"]["action"]) == (2, "remove")
    deployer.report(back, "Ready")
    undone = running.follow(promotion["id"], "rolled_back")
    assert "target ray failed" in undone["state_reason"]
    assert mlflow_server.holder(model) is None
    assert undone["rollout"]["steps"][0]["outcome"] == "failed"


def test_a_second_version_has_the_next_generation_and_knows_the_one_before(
    running: Countersign, deployer: Deployer, model: str
) -> None:
    first = rolling_out(running, model, "1")
    deployer.report(called(deployer, model)[0], "Ready")
    running.follow(first["id"], "live")
    rolling_out(running, model, "2")
    _, event = called(deployer, model, times=2)
    assert event["data"]["generation"] == 2
    assert event["data"]["previous"]["version"] == "1"
    old = called(deployer, model)[0]
    assert deployer.report(old, "Failed", sequence=9).json()["result"] == "ignored"


def test_a_rollback_during_a_rollout_takes_its_place(
    running: Countersign, deployer: Deployer, mlflow_server: MlflowServer, model: str
) -> None:
    first = rolling_out(running, model, "1")
    deployer.report(called(deployer, model)[0], "Ready")
    running.follow(first["id"], "live")
    second = rolling_out(running, model, "2")
    answer = running.call("approver", "POST", f"/models/{model}/aliases/production/rollback")
    assert answer.status_code == 201
    running.follow(second["id"], "rolled_back")
    running.follow(answer.json()["id"], "rolling_out")
    assert mlflow_server.holder(model) == "1"
    event = called(deployer, model, times=3)[-1]
    assert (event["data"]["generation"], event["data"]["model"]["version"]) == (3, "1")
    deployer.report(event, "Ready")
    running.follow(answer.json()["id"], "live")


# Reports that are not the target's.


def report(running: Countersign, asked: dict[str, Any], secret: str, **changed: Any) -> httpx.Response:
    """A report, signed with ``secret``; what ``changed`` names is other than it should be."""
    data = {
        "deployment_id": asked["data"]["deployment_id"],
        "generation": asked["data"]["generation"],
        "observed_generation": asked["data"]["generation"],
        "sequence": 1,
        "phase": "Ready",
    } | changed.get("data", {})
    document = {"specversion": "1.0", "id": "evt_x", "type": "countersign.deployment.status.v1", "data": data}
    body = json.dumps(document | changed.get("event", {}))
    at = changed.get("at", datetime.now(UTC))
    headers = {
        "webhook-id": "evt_x",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("evt_x", at, body),
    } | changed.get("headers", {})
    path = changed.get("path", f"/deployments/{asked['data']['deployment_id']}/status")
    return running.call(None, "POST", path, content=changed.get("sent", body), headers=headers)


def test_a_report_that_the_target_did_not_sign_is_refused(running: Countersign, deployer: Deployer, model: str) -> None:
    promotion = rolling_out(running, model)
    (event,) = called(deployer, model)
    secret = deployer.callback_secret
    long_ago = datetime.now(UTC) - timedelta(minutes=6)
    forged = [
        report(running, event, deployer.secret),
        report(running, event, "whsec_" + base64.b64encode(b"made up by somebody else").decode()),
        report(running, event, secret, at=long_ago),
        report(running, event, secret, at=datetime.now(UTC) + timedelta(minutes=6)),
        report(running, event, secret, sent="{}"),
        report(running, event, secret, headers={"webhook-id": "evt_y"}),
        report(running, event, secret, headers={"webhook-signature": ""}),
        report(running, event, secret, headers={"webhook-signature": "v1,!!!"}),
        report(running, event, secret, path="/deployments/dep_nothing/status"),
    ]
    by_token = running.call("administrator", "POST", f"/deployments/{event['data']['deployment_id']}/status", json={})
    assert by_token.json()["permission"] == "deployments:report"
    assert [answer.status_code for answer in forged] == [401] * len(forged)
    assert len({answer.json()["detail"] for answer in forged}) == 1
    assert running.follow(promotion["id"], "rolling_out")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"event": {"id": "evt_other"}}, "id"),
        ({"event": {"type": "countersign.deployment.requested.v1"}}, "type"),
        ({"event": {"specversion": "0.3"}}, "specversion"),
        ({"event": {"data": []}}, "data"),
        ({"data": {"phase": "Splendid"}}, "data.phase"),
        ({"data": {"sequence": "1"}}, "data.sequence"),
        ({"data": {"generation": 0}}, "data.generation"),
        ({"data": {"deployment_id": "dep_other"}}, "data.deployment_id"),
    ],
)
def test_a_malformed_report_names_the_field(
    running: Countersign, deployer: Deployer, model: str, changed: dict[str, Any], field: str
) -> None:
    rolling_out(running, model)
    (event,) = called(deployer, model)
    answer = report(running, event, deployer.callback_secret, **changed)
    assert answer.status_code == 400
    assert answer.json()["field"] == field


# Deliveries.


def test_every_attempt_is_kept_and_a_refusal_for_good_sends_everything_back(
    running: Countersign, deployer: Deployer, model: str
) -> None:
    deployer.answers = [503, 500, 422]
    promotion = running.ask(model, "1")
    running.approve(promotion["id"])

    def stage() -> str:
        rollout = running.call("viewer", "GET", f"/promotions/{promotion['id']}").json()["rollout"]
        return str(rollout and rollout["stage"])

    until(lambda: stage() == "going_back", "its targets going back")
    rollout = running.call("viewer", "GET", f"/promotions/{promotion['id']}/rollout").json()
    assert "422" in rollout["reason"]
    deliveries = running.call("administrator", "GET", "/deliveries").json()["items"]
    delivery = [each for each in deliveries if each["subject"] == f"ray/{model}"][-1]
    detail = running.call("administrator", "GET", f"/deliveries/{delivery['id']}").json()
    assert detail["state"] == "dead"
    assert [attempt["status"] for attempt in detail["log"]] == [503, 500, 422]
    refused = [webhook_id for webhook_id, event in deployer.received(model) if event["data"]["generation"] == 1]
    assert set(refused) == {delivery["message_id"]}
    assert running.call("viewer", "GET", "/deliveries").status_code == 403


def test_a_private_address_is_not_called_unless_the_target_allows_it(
    countersign: Countersign, deployer: Deployer, model: str, tmp_path: Path
) -> None:
    configure(countersign, deployer, tmp_path, private=False)
    countersign.start("gateway")
    countersign.start("worker")
    rolling_out(countersign, model)
    (delivery,) = countersign.call("administrator", "GET", "/deliveries").json()["items"]

    def attempts() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = countersign.call("administrator", "GET", f"/deliveries/{delivery['id']}").json()[
            "log"
        ]
        return found

    until(attempts, "an attempt")
    assert "private address" in attempts()[0]["error"]
    assert deployer.received(model) == []
