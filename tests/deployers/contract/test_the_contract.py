"""Gateway and deployers say the same: tables, schemas, examples, signatures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from countersign_deployer import contract, schemas
from countersign_deployer.calls import content_of
from countersign_deployer.contract import Deployment, DeploymentRequested, Desired, StatusReported
from countersign_deployer.phases import FOLLOWING, PHASES, REASONS, Phase, Reason
from countersign_deployer.signatures import BadSignature, sign, verify
from jsonschema import Draft202012Validator
from standardwebhooks import Webhook, WebhookVerificationError
from standardwebhooks import webhooks as library

from app.adapters.webhook_signatures import StandardWebhooks
from app.domain import phases as gateway
from app.domain.deployments import HIGHEST_GENERATION, Action, Bytes
from app.domain.deployments import Deployment as GatewaysDeployment
from app.domain.events import call_event, call_of
from app.domain.policies import DEFAULT_POLICY
from app.domain.promotions import Kind, Promotion, State
from app.services.statuses import ReportedStatus
from tests.deployers.contract.third import GUIDE

Json = dict[str, Any]
NOW = datetime(2026, 11, 20, tzinfo=UTC)
FOLDER = Path(contract.__file__).parents[1]
VECTORS: list[Json] = json.loads((FOLDER / "vectors/signatures.json").read_text(encoding="utf-8"))["vectors"]
PAGE = GUIDE.read_text(encoding="utf-8")
CALL, _, REPORT, DESIRED = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((FOLDER / f"schemas/{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


# --- tables


def test_both_sides_have_the_same_reasons_which_lead_to_the_same_ends() -> None:
    ours = {reason.value: (kind.ends_in.value, kind.meaning) for reason, kind in REASONS.items()}
    theirs = {reason.value: (kind.ends_in.value, kind.meaning) for reason, kind in gateway.REASONS.items()}
    assert ours == theirs
    assert {reason.value for reason in Reason} == {reason.value for reason in gateway.Reason}


def test_both_sides_have_the_same_phases_but_for_the_one_before_the_first_report() -> None:
    assert {phase.value for phase in Phase} == {phase.value for phase in gateway.Phase} - {gateway.Phase.REQUESTED}


def test_the_tables_of_phases_and_reasons_are_total() -> None:
    assert set(PHASES) == set(FOLLOWING) == set(Phase)
    assert set(REASONS) == set(Reason) - {Reason.NONE}
    assert {kind.ends_in for kind in REASONS.values()} == {Phase.FAILED, Phase.ERRORED}


def test_the_guide_has_the_same_tables() -> None:
    for phase, meaning in PHASES.items():
        assert f"| `{phase}` | {meaning} |" in PAGE
    rows = re.findall(r"^\| `(\w+)` \| (Failed|Errored) \| (.*) \|$", PAGE, re.MULTILINE)
    assert rows == [(reason.value, kind.ends_in.value, kind.meaning) for reason, kind in REASONS.items()]


# --- schemas


@pytest.mark.parametrize("name", schemas.SCHEMAS)
def test_the_schemas_are_those_of_the_models(name: str) -> None:
    written = (FOLDER / f"schemas/{name}.json").read_text(encoding="utf-8")
    assert written == schemas.schema_of(name), "run `python -m countersign_deployer.schemas`"


def test_there_are_no_other_schemas() -> None:
    assert {file.stem for file in (FOLDER / "schemas").iterdir()} == set(schemas.SCHEMAS)


def test_every_member_whose_name_does_not_say_it_all_is_described() -> None:
    plain = {"specversion", "type", "time", "datacontenttype", "data", "target", "resource", "phase", "reason"}
    plain |= {"version", "uri", "digest", "previous", "promotion", "callback", "id", "requested_by", "approved_by"}
    plain |= {"result", "title", "status", "generation", "name", "url", "subject", "source", "deployment_id"}
    for name in schemas.SCHEMAS:
        schema = json.loads(schemas.schema_of(name))
        for part in (schema, *schema.get("$defs", {}).values()):
            assert part.get("description"), (name, part.get("title"))
            for member, of in part.get("properties", {}).items():
                assert member in plain or of.get("description"), (name, part["title"], member)


def test_the_examples_of_the_guide_are_valid() -> None:
    for name, example in (("call", CALL), ("report", REPORT)):
        assert [error.message for error in validator(name).iter_errors(example)] == []
    DeploymentRequested.model_validate_json(json.dumps(CALL))
    StatusReported.model_validate_json(json.dumps(REPORT))
    assert set(DESIRED) == set(Desired.model_fields)


def test_the_gateway_reads_every_report_that_is_valid() -> None:
    read = ReportedStatus.model_validate_json(json.dumps(REPORT["data"]))
    assert [serving.name for serving in read.serving] == ["iris--v8", ""]
    for phase in Phase:
        for reason in Reason:
            ReportedStatus.model_validate_json(json.dumps({**REPORT["data"], "phase": phase, "reason": reason}))


@pytest.mark.parametrize(
    "wrong",
    [{"phase": "Pending"}, {"reason": "Because"}, {"sequence": 0}, {"serving": [{"version": "8", "weight": 101}]}],
)
def test_what_the_gateway_refuses_of_a_report_is_not_valid(wrong: Json) -> None:
    data = {**REPORT["data"], **wrong}
    assert list(validator("report").iter_errors({**REPORT, "data": data}))
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReportedStatus.model_validate_json(json.dumps(data))


@pytest.mark.parametrize("name", ["generation", "observed_generation"])
def test_the_gateway_believes_no_generation_that_it_could_not_count_on_from(name: str) -> None:
    ReportedStatus.model_validate_json(json.dumps({**REPORT["data"], name: HIGHEST_GENERATION}))
    with pytest.raises(ValueError, match=rf"^1 validation error.*\n{name}\n"):
        ReportedStatus.model_validate_json(json.dumps({**REPORT["data"], name: HIGHEST_GENERATION + 1}))


@pytest.mark.parametrize("workspace", ["default", "team-a"])
@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("stable", [None, Bytes("6", "s3://models/iris/6/artifacts/", f"sha256:{'6' * 64}")])
def test_what_the_gateway_sends_is_a_call_by_the_schema(workspace: str, action: Action, stable: Bytes | None) -> None:
    deployment = gateways_deployment(workspace=workspace, action=action, stable=stable, weight=10 if stable else 100)
    call = call_of(
        source="https://countersign.example.org",
        deployment=deployment,
        promotion=gateways_promotion(workspace=workspace),
        previous=replace(deployment, generation=2, version="6") if stable else None,
        options={"replicas": 2, "pip": ["skops"]},
        deadline_s=900,
    )
    event = call_event(event_id="evt_1", source="https://countersign.example.org", deployment=deployment, call=call)
    assert [error.message for error in validator("call").iter_errors(event)] == []
    understood = DeploymentRequested.model_validate_json(json.dumps(event)).data
    assert (understood.traffic.weight, understood.config) == (deployment.weight, {"replicas": 2, "pip": ["skops"]})
    desired = {"target": "ray", "items": [call], "next_after": None}
    assert [error.message for error in validator("desired").iter_errors(desired)] == []


def gateways_deployment(**changes: Any) -> GatewaysDeployment:
    return GatewaysDeployment(
        id="dep_1",
        target="ray",
        model="iris",
        generation=3,
        version="7",
        uri="s3://models/iris/7/artifacts/",
        digest=f"sha256:{'7' * 64}",
        promotion_id="prm_1",
        phase=gateway.Phase.REQUESTED,
        reason=gateway.Reason.NONE,
        message="",
        observed_generation=0,
        sequence=0,
        requested_at=NOW,
        updated_at=NOW,
        **changes,
    )


def gateways_promotion(**changes: Any) -> Promotion:
    return Promotion(
        id="prm_1",
        kind=Kind.PROMOTION,
        model="iris",
        alias="production",
        to_version="7",
        from_version="6",
        model_created_at=1,
        run_id="4f0a",
        source_uri="models:/m",
        uri="s3://models/iris/7/artifacts/",
        digest=f"sha256:{'7' * 64}",
        policy=DEFAULT_POLICY,
        requested_by="i|ada",
        requested_by_name="ada",
        reason="",
        created_at=NOW,
        updated_at=NOW,
        state=State.APPLIED,
        **changes,
    )


# --- content


@pytest.mark.parametrize(
    "change",
    [
        {"action": "remove"},
        {"traffic": {"weight": 20, "stable": None}},
        {"config": {"replicas": 3}},
        {"model": {**CALL["data"]["model"], "digest": f"sha256:{'1' * 64}"}},
        {"model": {**CALL["data"]["model"], "version": "9"}},
        {"deployment_id": "dep_other"},
    ],
)
def test_other_content_is_seen(change: Json) -> None:
    assert content(CALL["data"] | change) != content(CALL["data"])


@pytest.mark.parametrize(
    "change",
    [
        {"promotion": None},
        {"previous": None},
        {"deadline_s": 60},
        {"model": {**CALL["data"]["model"], "alias": "other", "flavors": ["sklearn"], "python_version": "3.11.7"}},
    ],
)
def test_what_only_informs_is_no_content(change: Json) -> None:
    assert content(CALL["data"] | change) == content(CALL["data"])


def content(data: Json) -> str:
    return content_of(Deployment.model_validate_json(json.dumps(data)))


# --- signatures


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_vectors_hold_for_the_package_the_library_and_the_gateway(
    monkeypatch: pytest.MonkeyPatch, vector: Json
) -> None:
    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(vector["now"], tz)

    monkeypatch.setattr(library, "datetime", Then)
    headers, secrets, body = vector["headers"], vector["secrets"], vector["content"].encode()
    assert _holds(verify, body, headers, secrets) is vector["valid"]
    assert any(_holds(_by_library, body, headers, [secret]) for secret in secrets) is vector["valid"]
    assert any(StandardWebhooks().verify(secret, headers, body) for secret in secrets) is vector["valid"]
    if vector["request"] != "POST":
        assert vector["request"] == vector["content"]
    if vector["valid"]:
        at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        made = [sign(headers["webhook-id"], vector["content"], secret, at=at) for secret in secrets]
        signatures = headers["webhook-signature"].split()
        assert any(each["webhook-signature"] in signatures for each in made)


def test_the_vectors_show_what_goes_and_what_does_not() -> None:
    assert {vector["valid"] for vector in VECTORS} == {True, False}
    assert any(not vector["content"].isascii() for vector in VECTORS)


def _by_library(body: bytes, headers: dict[str, str], secrets: list[str]) -> None:
    Webhook(secrets[0]).verify(body, headers, json_parse=False)


def _holds(verifier: Any, body: bytes, headers: dict[str, str], secrets: list[str]) -> bool:
    try:
        verifier(body, headers, secrets)
    except (BadSignature, WebhookVerificationError, ValueError):
        return False
    return True
