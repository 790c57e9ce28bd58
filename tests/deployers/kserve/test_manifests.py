"""What is put into a cluster: valid by KServe's and Kubernetes' own models, and with no right that is not used."""

from __future__ import annotations

import asyncio
import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from countersign_deployer.settings import load_settings
from countersign_kserve.settings import Settings

from tests.deployers.kserve.conftest import CALLBACK_SECRET, WEBHOOK_SECRET, World, uri_of
from tests.deployers.kserve.serving import ROOT
from tests.deployers.kserve.simulator.access import Act, acts_of, rules_of
from tests.deployers.kserve.simulator.kserve import not_loaded
from tests.deployers.kserve.validating import problems_of

FOLDER = ROOT / "deploy/deployers/kserve/manifests"
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")


def documents_of(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


MANIFESTS = [each for path in FILES for each in documents_of(path)]
RULES = rules_of(MANIFESTS)


def the(kind: str, name: str) -> dict[str, Any]:
    return next(each for each in MANIFESTS if (each["kind"], each["metadata"]["name"]) == (kind, name))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_a_manifest_is_valid(manifest: dict[str, Any]) -> None:
    assert problems_of(manifest) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("predictor", "model", "storageURI"), "s3://b/", "spec.predictor.model.storageURI: there is no such field"),
        (("predictor", "minReplicas"), "1", 'minReplicas: Invalid value: "string": must be of type integer'),
        (("predictor", "model", "env"), [{"name": "A", "val": "b"}], "env[0].val: there is no such field"),
        (("canary",), [{"trafficPercnt": 10, "predictor": {}}], "canary[0].trafficPercnt: there is no such field"),
        (("predictor", "model", "resources", "limit"), {}, "resources.limit: there is no such field"),
    ],
)
def test_what_is_misspelt_is_found(path: tuple[str, ...], value: Any, problem: str) -> None:
    manifest = copy.deepcopy(the("InferenceService", "iris"))
    at = manifest["spec"]
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    assert any(problem in each for each in problems_of(manifest))


def test_the_kustomization_lists_every_file() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(path.name for path in FILES if path.parent == FOLDER)


def test_the_settings_are_those_of_the_deployer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in the("ConfigMap", "countersign-kserve")["data"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COUNTERSIGN_KSERVE_WEBHOOK_SECRET", WEBHOOK_SECRET)
    monkeypatch.setenv("COUNTERSIGN_KSERVE_CALLBACK_SECRET", CALLBACK_SECRET)
    settings = load_settings(Settings)
    (container,) = the("Deployment", "countersign-kserve")["spec"]["template"]["spec"]["containers"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounts["state"] == str(settings.state_dir)
    assert container["ports"][0]["containerPort"] == settings.port
    assert settings.runtime == the("ServingRuntime", "countersign-mlflow")["metadata"]["name"]
    known = {*the("ConfigMap", "countersign-kserve")["data"], *(each["name"] for each in container["env"])}
    fields = {Settings.variable(name) for name in Settings.model_fields}
    assert {name.removesuffix("_FILE") for name in known} <= fields


def test_the_deployer_may_read_no_secret_and_nothing_of_other_namespaces() -> None:
    assert not any(each["kind"].startswith("ClusterRole") for each in MANIFESTS)
    assert "secrets" not in {act.resource for act in acts_of(RULES)}
    assert not any("*" in (act.verb, act.group, act.resource) for act in acts_of(RULES))


def test_the_storage_container_is_mounted_the_token_that_the_runtime_projects() -> None:
    (mount,) = the("ClusterStorageContainer", "countersign")["spec"]["container"]["volumeMounts"]
    environment = the("ClusterStorageContainer", "countersign")["spec"]["container"]["env"]
    (volume,) = the("ServingRuntime", "countersign-mlflow")["spec"]["volumes"]
    (source,) = volume["projected"]["sources"]
    assert mount["name"] == volume["name"]
    file = f"{mount['mountPath']}/{source['serviceAccountToken']['path']}"
    assert {"name": "COUNTERSIGN_ID_TOKEN_FILE", "value": file} in environment


async def live_through(world: World, *, mode: str = "Standard") -> None:
    """A first version, a canary, all at once, and the end; and one look at what changes."""
    deployer = world.deployer(deployment_mode=mode)
    await deployer.call(1, "1")
    await world.rest(deployer)
    await deployer.call(2, "2", stable="1", weight=10)
    await world.rest(deployer)
    await deployer.call(3, "2")
    await world.rest(deployer)
    assert deployer.said()[0] == "Ready"
    world.kserve.outcomes[f"{uri_of('3')}/"] = not_loaded("No module named 'skops'")
    await deployer.call(4, "3")
    await world.rest(deployer)
    assert deployer.said()[0] == "Failed"
    watch = deployer.api.watch(world.namespace)
    world.cluster.patch("inferenceservices", "iris", {"metadata": {"labels": {"x": "y"}}}, world.namespace)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await anext(watch)
    await watch.aclose()  # type: ignore[attr-defined]  # it is a generator
    await deployer.call(5, None)
    await world.rest(deployer)


async def test_the_role_allows_what_the_deployer_does_and_nothing_else(world: World) -> None:
    world.account.rules = {world.namespace: RULES}
    await live_through(world)
    assert world.account.refused <= {Act("delete", "serving.kserve.io", "inferenceservices")}
    knative = {each for each in acts_of(RULES) if each.group == "serving.knative.dev"}
    assert acts_of(RULES) - world.account.used == knative


async def test_the_same_of_knative(world: World) -> None:
    world.account.rules = {world.namespace: RULES}
    await live_through(world, mode="Knative")
    assert not world.account.refused
    standard = {each for each in acts_of(RULES) if each.group in {"apps", "gateway.networking.k8s.io"}}
    assert acts_of(RULES) - world.account.used == standard
