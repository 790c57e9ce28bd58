"""The parts of the KServe deployer that only compute: names, options, settings, manifests, and what messages mean."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
from countersign_deployer.masking import tail
from countersign_deployer.phases import Reason
from countersign_deployer.problems import Problem
from countersign_deployer.settings import InvalidConfiguration, load_settings
from countersign_kserve import live, names
from countersign_kserve.cluster import Raced, Trouble, _read
from countersign_kserve.diagnosis import of_deployment, of_failure, of_pods
from countersign_kserve.judging import judge
from countersign_kserve.live import Found
from countersign_kserve.manifest import CONTAINER, Layout, Place, inference_service, predictor
from countersign_kserve.options import Options, understand_options
from countersign_kserve.planning import layout_of
from countersign_kserve.quantities import amount, is_quantity
from countersign_kserve.reconciler import _knows_canary
from countersign_kserve.settings import Settings
from countersign_kserve.state import Plan, Version
from hypothesis import given
from hypothesis import strategies as st

from tests.deployers.kserve.conftest import CALLBACK_SECRET, WEBHOOK_SECRET, Json
from tests.deployers.kserve.serving import kserve_schema
from tests.deployers.kserve.simulator import schemas

README = Path(__file__).parents[3] / "deploy/deployers/kserve/README.md"
CRD_SCHEMA = os.environ.get("KSERVE_CRD_SCHEMA")
"""Path to the full CRD as a JSON Schema, gzipped or not: it knows limits and patterns, which the models do not."""
SIX = Version(version="6", uri="s3://models/iris/6", digest=f"sha256:{6:064x}")
SEVEN = Version(version="7", uri="s3://models/iris/7/", digest=f"sha256:{7:064x}")
PLACE = Place("iris", "models", "iris")


def settings(**changes: Any) -> Settings:
    values: Json = {
        "gateway_url": "https://gateway.example.org",
        "webhook_secret": WEBHOOK_SECRET,
        "callback_secret": CALLBACK_SECRET,
        "allowed_uri_prefixes": "s3://models/",
        "namespaces": {"default": "models", "team-a": "ml-team-a"},
    }
    return Settings(**{**values, **changes})


# Names


@pytest.mark.parametrize(
    ("resource", "pattern"),
    [
        ("iris", "iris"),
        ("fraud-v2", "fraud-v2"),
        ("Iris", "iris-[0-9a-f]{8}"),
        ("team-a/iris", "iris-[0-9a-f]{8}"),
        ("Größe & Gewicht", "groe-gewicht-[0-9a-f]{8}"),
        ("7days", "m-7days-[0-9a-f]{8}"),
        ("データ", "m-[0-9a-f]{8}"),
        ("a" * 80, "a{31}-[0-9a-f]{8}"),
    ],
)
def test_an_object_is_called_as_its_model_or_nearly_so(resource: str, pattern: str) -> None:
    assert re.fullmatch(pattern, names.service_name(resource, "models"))


@given(st.text(min_size=1, max_size=120), st.from_regex(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", fullmatch=True))
def test_every_model_has_a_name_that_kubernetes_takes(resource: str, namespace: str) -> None:
    found = names.service_name(resource, namespace)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", found)
    assert len(f"isvc.{names.deployment_name(found, 'green')}") <= 63
    assert len(f"{found}-{namespace}") <= 63


def test_models_that_look_alike_have_objects_of_their_own() -> None:
    alike = ["iris", "Iris", "IRIS", "iris ", "iris!", "team-a/iris", "team-b/iris"]
    assert len({names.service_name(each, "models") for each in alike}) == len(alike)


# Options and settings


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"image": "evil"}, "data.config.image"),
        ({"min_replicas": "2"}, "data.config.min_replicas"),
        ({"min_replicas": 0}, "data.config.min_replicas"),
        ({"max_replicas": 11}, "data.config.max_replicas"),
        ({"min_replicas": 3, "max_replicas": 2}, "data.config.max_replicas"),
        ({"resources": {"requests": {"cpu": "lots"}}}, "data.config.resources.requests.cpu"),
        ({"resources": {"claims": []}}, "data.config.resources.claims"),
        (
            {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1024Mi"}}},
            "data.config.resources.requests.memory",
        ),
        ({"runtime": "other"}, "data.config.runtime"),
        ({"service_account": "cluster-admin"}, "data.config.service_account"),
        ({"node_selector": {"gpu": "yes"}}, "data.config.node_selector"),
    ],
)
def test_an_option_that_may_not_be_is_named(config: Json, field: str) -> None:
    with pytest.raises(Problem) as refused:
        understand_options(config, settings())
    assert refused.value.status == 422
    assert [name for name, _ in refused.value.fields] == [field]


def test_options_that_are_allowed_shape_the_pods() -> None:
    chosen = settings(
        allowed_options="resources,min_replicas,max_replicas,runtime,service_account,node_selector,timeout_s",
        allowed_runtimes="triton",
        allowed_service_accounts="reader",
    )
    config = {
        "resources": {"requests": {"cpu": "2", "nvidia.com/gpu": "1"}, "limits": {"memory": "4Gi"}},
        "min_replicas": 2,
        "max_replicas": 4,
        "runtime": "triton",
        "service_account": "reader",
        "node_selector": {"topology.kubernetes.io/zone": "a"},
        "timeout_s": 60,
    }
    options = understand_options(config, chosen)
    plan = Plan(generation=1, main=SEVEN, options=options.model_dump(exclude_none=True))
    spec = inference_service(chosen, PLACE, plan, Layout(SEVEN))["spec"]["predictor"]
    assert spec["model"]["resources"] == config["resources"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 4)
    assert (spec["model"]["runtime"], spec["serviceAccountName"]) == ("triton", "reader")
    assert spec["nodeSelector"] == config["node_selector"]


@pytest.mark.parametrize(
    ("text", "same"), [("1", "1000m"), ("1Gi", "1024Mi"), ("2k", "2000"), ("0.5", "500m"), ("1.5G", "1500M")]
)
def test_quantities_are_read_as_kubernetes_does(text: str, same: str) -> None:
    assert is_quantity(text)
    assert amount(text) == amount(same)


@pytest.mark.parametrize("text", ["", "-1", "1gb", "Gi", "1 Gi", "1e3x", "0x10"])
def test_what_is_no_quantity_is_none(text: str) -> None:
    assert not is_quantity(text)
    with pytest.raises(ValueError, match="not a quantity"):
        amount(text)


def test_all_mistakes_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GATEWAY_URL": "gateway",
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
        "CALLBACK_SECRET": WEBHOOK_SECRET,
        "ALLOWED_URI_PREFIXES": "s3://models",
        "NAMESPACES": '{"default": "Not A Name"}',
        "KSERVE_VERSION": "newest",
        "MIN_REPLICAS": "3",
        "MEMORY_LIMIT": "much",
        "ALLOWED_OPTIONS": "resources,image",
    }.items():
        monkeypatch.setenv(f"COUNTERSIGN_KSERVE_{name}", value)
    with pytest.raises(InvalidConfiguration) as wrong:
        load_settings(Settings)
    told = str(wrong.value)
    wanted = "GATEWAY_URL CALLBACK_SECRET NAMESPACES KSERVE_VERSION MAX_REPLICAS MEMORY_LIMIT ALLOWED_OPTIONS"
    for name in wanted.split():
        assert f"COUNTERSIGN_KSERVE_{name}:" in told
    assert WEBHOOK_SECRET not in told


@pytest.mark.parametrize(
    ("version", "known"), [("auto", None), ("0.20", (0, 20)), ("v0.21.0-rc0", (0, 21)), ("1.2.3", (1, 2))]
)
def test_kserves_version_is_read(version: str, known: tuple[int, int] | None) -> None:
    assert settings(kserve_version=version).known_version == known


@pytest.mark.parametrize(
    ("said", "version", "written"),
    [
        ("RawDeployment", "auto", "Standard"),
        ("Serverless", "0.20", "Knative"),
        ("Standard", "0.16", "Standard"),
        ("Standard", "0.15", "RawDeployment"),
        ("Serverless", "0.15", "Serverless"),
    ],
)
def test_a_mode_is_written_as_this_kserve_calls_it(said: str, version: str, written: str) -> None:
    chosen = settings(deployment_mode=said, kserve_version=version)
    manifest = inference_service(chosen, PLACE, Plan(generation=1, main=SIX), Layout(SIX))
    assert manifest["metadata"]["annotations"][names.DEPLOYMENT_MODE] == written


def test_the_readme_lists_every_setting_with_its_default() -> None:
    text = README.read_text()
    for name, field in Settings.model_fields.items():
        shown = name.upper() + (f"` or `{name.upper()}_FILE" if name in Settings.secret_fields() else "")
        assert f"| `{shown}` |" in text, name
        assert str(field.description).replace("|", r"\|") in text, name


# The object


def manifests() -> list[Json]:
    full = {
        "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "2Gi"}},
        "node_selector": {"zone": "a"},
        "timeout_s": 30,
        "max_replicas": 3,
    }
    notes = {names.PROMOTION_ID: "prm_1", names.ALIAS: "champion"}
    plan = Plan(generation=42, main=SIX, canary=SEVEN, weight=10, options=full, notes=notes)
    standard, knative = settings(service_account="reader"), settings(deployment_mode="Knative")
    return [
        inference_service(settings(), PLACE, Plan(generation=1, main=SIX), Layout(SIX)),
        inference_service(standard, PLACE, plan, Layout(SIX, "blue", SEVEN, "green", 10)),
        inference_service(standard, PLACE, plan, Layout(SIX, "blue", SEVEN, "green", 0), stop=True),
        inference_service(knative, PLACE, plan, Layout(SIX, canary=SEVEN, percent=10)),
        inference_service(settings(storage="countersign"), PLACE, plan, Layout(SIX)),
    ]


@pytest.mark.parametrize("manifest", manifests())
def test_kserves_own_models_know_all_that_we_write(manifest: Json) -> None:
    schema = kserve_schema("V1beta1InferenceService")
    assert list(schemas.unknown(manifest, schema)) == []
    assert list(schemas.mistyped(manifest, schema)) == []
    if CRD_SCHEMA:
        content = Path(CRD_SCHEMA).read_bytes()
        strict = json.loads(gzip.decompress(content) if CRD_SCHEMA.endswith(".gz") else content)
        jsonschema.Draft7Validator(strict).validate(manifest)


def test_kserves_own_models_find_what_is_wrong() -> None:
    schema = kserve_schema("V1beta1InferenceService")
    (manifest, *_) = manifests()
    manifest["spec"]["predictor"]["model"]["storageURI"] = "s3://x/"
    manifest["spec"]["predictor"]["minReplicas"] = "1"
    assert list(schemas.unknown(manifest, schema)) == [".spec.predictor.model.storageURI"]
    assert [each.field for each in schemas.mistyped(manifest, schema)] == ["spec.predictor.minReplicas"]


def test_an_address_ends_with_a_slash_or_is_one_of_ours() -> None:
    """Without the slash, KServe's storage initializer downloads what only begins alike, too."""
    for version in (SIX, SEVEN):
        uri = predictor(settings(), "iris", Options(), version)["model"]["storageUri"]
        assert uri == f"s3://models/iris/{version.version}/"
    ours = settings(storage="countersign")
    assert predictor(ours, "iris", Options(), SIX)["model"]["storageUri"] == "countersign://iris/6"
    spaced = predictor(ours, "team-a/my model", Options(), SIX)["model"]["storageUri"]
    assert spaced == "countersign://team-a/my%20model/6"


def test_pods_change_when_they_must_and_not_with_the_call() -> None:
    def pods(generation: int, **changes: Any) -> str:
        plan = Plan(generation=generation, main=SIX, notes={names.PROMOTION_ID: f"prm_{generation}"})
        manifest = inference_service(settings(**changes), PLACE, plan, Layout(SIX))
        return live.template(manifest["spec"]["predictor"])

    assert pods(1) == pods(2)
    assert pods(1) != pods(1, memory_limit="3Gi")
    assert pods(1) != pods(1, runtime="other")
    assert pods(1) == pods(1, max_replicas=3), "an autoscaler may be told more without a restart"


def test_a_canary_has_the_name_that_the_crd_wants_and_the_stable_one_has_none() -> None:
    spec = manifests()[1]["spec"]
    assert "name" not in spec["predictor"]["model"]
    (canary,) = spec["canary"]
    assert canary["predictor"]["model"]["name"] == CONTAINER
    assert canary["predictor"]["minReplicas"] <= spec["predictor"]["minReplicas"]
    assert "maxReplicas" not in canary["predictor"]


@pytest.mark.parametrize(("least", "most", "bounds"), [(1, 1, (2, 2)), (2, 3, (4, 4)), (2, 9, (4, 9))])
def test_beside_a_canary_the_number_is_of_both(least: int, most: int, bounds: tuple[int, int]) -> None:
    """KServe takes the canary's pods off it (kserve#5672)."""
    plan = Plan(generation=1, options={"min_replicas": least, "max_replicas": most})
    both = inference_service(settings(), PLACE, plan, Layout(SIX, "", SEVEN, "green", 10))["spec"]
    assert (both["predictor"]["minReplicas"], both["predictor"]["maxReplicas"]) == bounds
    assert both["canary"][0]["predictor"]["minReplicas"] == least
    alone = inference_service(settings(), PLACE, plan, Layout(SIX))["spec"]["predictor"]
    assert (alone["minReplicas"], alone["maxReplicas"]) == (least, most)


def test_a_canary_and_what_it_becomes_have_the_same_pods() -> None:
    before = inference_service(settings(), PLACE, Plan(generation=1), Layout(SIX, "", SEVEN, "green", 10))["spec"]
    after = inference_service(settings(), PLACE, Plan(generation=2), Layout(SEVEN, "green"))["spec"]["predictor"]
    canary = before["canary"][0]["predictor"]
    assert live.template(after) == live.template(canary)
    assert {k: v for k, v in canary["model"].items() if k != "name"} == after["model"]


def test_what_is_ours_on_the_object_and_not_in_the_plan_is_a_difference() -> None:
    manifest = manifests()[0]
    owned = {"f:spec": {"f:predictor": {"f:minReplicas": {}}}}
    entry = {"manager": names.FIELD_MANAGER, "operation": "Apply", "fieldsV1": owned}
    service = json.loads(json.dumps(manifest))
    service["metadata"] |= {"managedFields": [entry], "resourceVersion": "5", "uid": "x"}
    assert live.is_as_applied(service, manifest)
    entry["fieldsV1"] = {"f:spec": {"f:predictor": {"f:model": {"f:env": {}}}}}
    assert live.is_as_applied(service, manifest), "what a webhook filled in may be counted as ours"
    entry["fieldsV1"] = {"f:spec": {"f:canary": {}}}
    assert not live.is_as_applied(service, manifest)
    entry["manager"] = "somebody-else"
    assert live.is_as_applied(service, manifest)
    assert not live.is_as_applied(None, manifest)


# Rollouts, where the simulator cannot go


def up(name: str, version: Version, template: str) -> Json:
    return {
        "metadata": {"name": name, "generation": 1},
        "spec": {"replicas": 1, "template": {"metadata": {"annotations": {names.TEMPLATE: template}}}},
        "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
    }


@pytest.mark.parametrize(
    ("changes", "is_up"),
    [
        ({}, True),
        ({"availableReplicas": 2}, True),
        ({"availableReplicas": 1}, False),
        ({"replicas": 5}, False),
        ({"observedGeneration": 0}, False),
    ],
)
def test_a_version_is_up_when_no_other_pods_are_left_and_as_many_as_planned_answer(changes: Json, is_up: bool) -> None:
    deployment = up("iris-predictor", SIX, "t")
    deployment["spec"]["replicas"] = 4
    deployment["status"] = {
        **deployment["status"],
        "replicas": 4,
        "updatedReplicas": 4,
        "availableReplicas": 4,
    } | changes
    assert live.is_rolled_out(deployment, "t", 2) is is_up
    assert not live.is_rolled_out(deployment, "another", 2)


@pytest.mark.parametrize(("weights", "is_ready"), [((90, 10), True), ((100, 0), False), ((0, 100), False)])
def test_where_the_route_can_be_read_its_weights_are_what_counts(weights: tuple[int, int], is_ready: bool) -> None:
    plan = Plan(generation=1, main=SIX, canary=SEVEN, weight=10)
    service = inference_service(settings(), PLACE, plan, Layout(SIX, "", SEVEN, "green", 10))
    templates = [live.template(service["spec"]["predictor"]), live.template(service["spec"]["canary"][0]["predictor"])]
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    claims = {"canaryStatuses": [{"name": "green", "ready": True, "trafficPercent": 10}]}
    both = dict(zip(("iris-predictor", "iris-green-predictor"), zip((SIX, SEVEN), templates, strict=True), strict=True))
    found = Found(
        {**service, "status": {**ready, **claims}},
        deployments={name: up(name, *each) for name, each in both.items()},
        route=dict(zip(both, weights, strict=True)),
    )
    assert layout_of(settings(), PLACE, plan, found).percent == 10
    judgement = judge(settings(), PLACE, plan, found, is_applied=True, applied_for_s=0, good=None)
    assert judgement.is_ready is is_ready
    assert tuple(each.weight for each in judgement.serving) == weights


def test_a_schema_that_lists_fields_tells_whether_there_are_canaries() -> None:
    def said(*fields: str) -> Json:
        spec = {"properties": {field: {} for field in fields}}
        kind = {"properties": {"spec": spec}}
        return {"components": {"schemas": {"io.kserve.serving.v1beta1.InferenceService": kind}}}

    assert _knows_canary(said("predictor", "canary"))
    assert not _knows_canary(said("predictor"))
    assert not _knows_canary({})
    assert not _knows_canary(None)


# What is said, and what it means


def answered(status: int, message: str, causes: list[Json] | None = None) -> httpx2.Response:
    body = {"kind": "Status", "message": message, "details": {"causes": causes or []}}
    return httpx2.Response(status, json=body, request=httpx2.Request("PATCH", "https://cluster/"))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answered(401, "Unauthorized"), Reason.UNREACHABLE),
        (answered(403, 'inferenceservices is forbidden: User "x" cannot patch'), Reason.POLICY_DENIED),
        (answered(403, "exceeded quota: few"), Reason.NO_CAPACITY),
        (answered(404, 'namespaces "x" not found'), Reason.CONFIG_REFUSED),
        (answered(400, 'strict decoding error: unknown field "spec.canary"'), Reason.CONFIG_REFUSED),
        (answered(422, "is invalid", [{"field": "spec.predictor.name", "message": "no"}]), Reason.CONFIG_REFUSED),
        (answered(429, "too many requests"), Reason.UNREACHABLE),
        (answered(500, "failed calling webhook: connection refused"), Reason.UNREACHABLE),
        (answered(500, ".spec.canary: field not declared in schema"), Reason.CONFIG_REFUSED),
        (answered(503, "unavailable"), Reason.UNREACHABLE),
        (httpx2.Response(502, text="<html>Bad Gateway</html>"), Reason.UNREACHABLE),
        (httpx2.Response(200, text="not JSON"), Reason.CONFIG_REFUSED),
    ],
)
def test_every_refusal_of_the_cluster_has_a_reason(answer: httpx2.Response, reason: Reason) -> None:
    with pytest.raises(Trouble) as trouble:
        _read(answer)
    assert trouble.value.reason is reason
    assert trouble.value.message


def test_the_causes_of_a_refusal_are_named() -> None:
    with pytest.raises(Trouble, match=r"spec\.predictor\.name: must be a name"):
        _read(answered(422, "is invalid", [{"field": "spec.predictor.name", "message": "must be a name"}]))


def test_a_conflict_of_versions_is_a_race_and_one_of_fields_is_not() -> None:
    with pytest.raises(Raced):
        _read(answered(409, "the object has been modified"))
    cause = {"reason": "FieldManagerConflict", "field": ".spec.predictor", "message": 'conflict with "argocd" using v1'}
    with pytest.raises(Trouble, match=r"argocd manages spec\.predictor") as conflict:
        _read(answered(409, "Apply failed", [cause]))
    assert conflict.value.reason is Reason.FIELD_MANAGER_CONFLICT


def pod(**status: Any) -> Json:
    return {"metadata": {"annotations": {names.TEMPLATE: "t"}}, "status": status}


def ended(name: str, message: str, *, restarts: int = 3, reason: str = "Error", code: int = 1) -> Json:
    last = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {"name": name, "ready": False, "restartCount": restarts, "lastState": last, "state": {"waiting": {}}}


@pytest.mark.parametrize(
    ("container", "message", "reason", "is_final"),
    [
        ("storage-initializer", "DigestMismatch: 1 file differs", Reason.DIGEST_MISMATCH, True),
        ("storage-initializer", "version 7 of iris is not approved", Reason.POLICY_DENIED, True),
        ("storage-initializer", "botocore: 403 Forbidden", Reason.STORAGE_DENIED, False),
        ("storage-initializer", "NoSuchBucket: b", Reason.ARTIFACT_NOT_FOUND, True),
        ("storage-initializer", "EndpointConnectionError", Reason.STORAGE_UNREACHABLE, False),
        ("storage-initializer", "something else", Reason.STORAGE_UNREACHABLE, False),
        ("kserve-container", "ModuleNotFoundError: No module named 'x'", Reason.DEPENDENCY_MISSING, True),
        ("kserve-container", "ValueError: unsupported pickle protocol: 5", Reason.PYTHON_VERSION_MISMATCH, True),
        ("kserve-container", "anything", Reason.MODEL_LOAD_FAILED, True),
    ],
)
def test_why_a_container_ended_is_understood(container: str, message: str, reason: Reason, is_final: bool) -> None:
    kind = "initContainerStatuses" if container == "storage-initializer" else "containerStatuses"
    symptom = of_pods([pod(**{kind: [ended(container, message)]})], "t", crash_restarts=2)
    assert symptom is not None
    assert (symptom.reason, symptom.is_final) == (reason, is_final)
    assert message in symptom.message
    early = of_pods([pod(**{kind: [ended(container, message, restarts=1)]})], "t", crash_restarts=2)
    assert early is not None
    assert not early.is_final, "one restart may have been bad luck"


def test_pods_of_other_versions_say_nothing_of_this_one_nor_do_those_that_go() -> None:
    failing = pod(containerStatuses=[ended("kserve-container", "ValueError")])
    assert of_pods([failing], "another", crash_restarts=1) is None
    failing["metadata"]["deletionTimestamp"] = "2026-11-21T09:00:00Z"
    assert of_pods([failing], "t", crash_restarts=1) is None
    assert (
        of_pods([pod(containerStatuses=[{"name": "kserve-container", "ready": True}])], "t", crash_restarts=1) is None
    )


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "x" is forbidden: exceeded quota: few', Reason.NO_CAPACITY),
        ('error looking up service account models/reader: serviceaccount "reader" not found', Reason.CONFIG_REFUSED),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', Reason.POLICY_DENIED),
    ],
)
def test_pods_that_cannot_be_created_are_told(message: str, reason: Reason) -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    symptom = of_deployment({"status": {"conditions": [condition]}})
    assert symptom is not None
    assert symptom.reason is reason
    assert of_deployment(None) is None


@pytest.mark.parametrize(
    ("kind", "message", "reason", "is_final"),
    [
        ("NoSupportingRuntime", "none for mlflow", Reason.CONFIG_REFUSED, True),
        ("RuntimeNotRecognized", "x does not exist", Reason.CONFIG_REFUSED, True),
        ("ModelLoadFailed", "AccessDenied", Reason.STORAGE_DENIED, False),
        ("ModelLoadFailed", "", Reason.MODEL_LOAD_FAILED, True),
    ],
)
def test_what_kserve_says_is_understood(kind: str, message: str, reason: Reason, is_final: bool) -> None:
    symptom = of_failure({"reason": kind, "message": message})
    assert (symptom.reason, symptom.is_final) == (reason, is_final)
    assert symptom.message


def test_what_looks_like_a_secret_is_not_told() -> None:
    told = tail("aws_secret_access_key=abc123 s3://user:pw@host AKIAABCDEFGHIJKLMNOP Bearer xyz")
    for secret in ("abc123", "pw@", "AKIAABCDEFGHIJKLMNOP", "xyz"):
        assert secret not in told


def test_an_object_has_what_is_wanted_and_may_have_more() -> None:
    thing = {"a": {"b": 1, "c": [{"d": 2, "e": 3}]}}
    assert live.covers(thing, {"a": {"c": [{"d": 2}]}})
    assert not live.covers(thing, {"a": {"c": []}})
    assert not live.covers(thing, {"a": {"b": "1"}})
    assert not live.covers(None, {"a": 1})


def test_a_quantity_that_kserve_wrote_otherwise_is_the_same() -> None:
    thing = {"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi", "cpu": "1"}}}
    assert live.covers(thing, {"resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}}})
    assert not live.covers(thing, {"resources": {"requests": {"cpu": "0.6"}}})
    assert not live.covers(thing, {"resources": {"requests": {"nvidia.com/gpu": "1"}}})
