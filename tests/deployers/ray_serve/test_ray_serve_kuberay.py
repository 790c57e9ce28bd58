"""KubeRay's ``RayService`` as what is told what to serve, on the simulated Kubernetes API of the tests of KServe.

Its operator is played here: it tells in the status what the list of its generation became.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from countersign_ray_serve.layout import foreign_apps, has_drifted, observe
from countersign_ray_serve.rayservice import RayService
from countersign_ray_serve.serve_api import RayUnreachable
from countersign_ray_serve.settings import Settings
from pydantic import ValidationError

from tests.deployers.kserve.simulator.api import Cluster, running
from tests.deployers.kserve.simulator.objects import Resource

Json = dict[str, Any]
RAY_SERVICES = Resource("ray.io", "v1", "rayservices", "RayService")
CONFIG: Json = {
    "applications": [
        {"name": "iris--v7", "route_prefix": None, "import_path": "ours:backend", "args": {"attempt": 1}},
        {"name": "router", "route_prefix": "/", "import_path": "ours:router", "args": {"attempt": 1}},
    ]
}


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with running(RAY_SERVICES) as cluster:
        cluster.namespace("ray")
        cluster.put(
            "rayservices",
            {
                "apiVersion": "ray.io/v1",
                "kind": "RayService",
                "metadata": {"name": "models", "namespace": "ray"},
                "spec": {"serveConfigV2": "applications: []\n", "rayClusterConfig": {"rayVersion": "2.60.0"}},
            },
        )
        yield cluster


@pytest.fixture
async def service(
    cluster: Cluster, make_settings: Callable[..., Settings], tmp_path: Path
) -> AsyncIterator[RayService]:
    rules = [{"apiGroups": ["ray.io"], "resources": ["rayservices"], "verbs": ["get", "patch"]}]
    account = cluster.account("system:serviceaccount:ray:deployer", {"ray": rules})
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(cluster.kubeconfig(account, "ray")))
    settings = make_settings(mode="rayservice", rayservice="ray/models", kubeconfig=kubeconfig)
    async with RayService(settings) as service:
        yield service


def found(cluster: Cluster) -> Json:
    resource = cluster.get("rayservices", "models", "ray")
    assert resource is not None
    return resource


def operate(cluster: Cluster, status: str = "RUNNING") -> None:
    """What KubeRay's operator tells once it has told Ray."""
    resource = found(cluster)
    names = [spec["name"] for spec in yaml.safe_load(resource["spec"]["serveConfigV2"])["applications"]]
    told = {
        name: {"status": status, "message": "", "serveDeploymentStatuses": {"Backend": {"status": "HEALTHY"}}}
        for name in names
    }
    after = {
        "observedGeneration": resource["metadata"]["generation"],
        "activeServiceStatus": {"applicationStatuses": told},
    }
    cluster.patch("rayservices", "models", {"status": after}, "ray", subresource="status", manager="kuberay-operator")


async def test_what_is_declared_runs_when_the_operator_has_seen_it(cluster: Cluster, service: RayService) -> None:
    assert await service.version() == "2.60.0"
    assert has_drifted(CONFIG, await service.details())
    await service.apply(CONFIG)
    assert json.loads(found(cluster)["spec"]["serveConfigV2"]) == CONFIG
    details = await service.details()
    assert not has_drifted(CONFIG, details)
    assert not any(status.is_running for status in observe(CONFIG, details).values())
    operate(cluster)
    seen = observe(CONFIG, await service.details())
    assert all(status.is_running for status in seen.values())
    assert {status.replicas for status in seen.values()} == {None}
    # A newer list of the same names: what is told is of the one before.
    newer = {"applications": [{**spec, "args": {"attempt": 2}} for spec in CONFIG["applications"]]}
    await service.apply(newer)
    assert not any(status.is_running for status in observe(newer, await service.details()).values())


async def test_a_failure_is_told(cluster: Cluster, service: RayService) -> None:
    await service.details()
    await service.apply(CONFIG)
    operate(cluster, "DEPLOY_FAILED")
    assert all(status.is_given_up for status in observe(CONFIG, await service.details()).values())


async def test_what_somebody_else_declared_meanwhile_is_not_overwritten(cluster: Cluster, service: RayService) -> None:
    await service.details()
    theirs = "applications:\n- {name: theirs, import_path: 'their:app'}\n"
    cluster.patch("rayservices", "models", {"spec": {"serveConfigV2": theirs}}, "ray")
    with pytest.raises(RayUnreachable, match="Somebody else changed"):
        await service.apply(CONFIG)
    assert found(cluster)["spec"]["serveConfigV2"] == theirs
    assert foreign_apps(await service.details(), "ray") == ["theirs"]


async def test_a_change_of_anything_else_in_between_is_no_reason_to_give_up(
    cluster: Cluster, service: RayService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.details()
    read, conflicts = service._get, iter([True, True])

    async def read_and_be_late() -> Json:
        before = await read()
        if next(conflicts, False):  # the operator writes between our look and our patch
            await asyncio.sleep(0)
            label = {"metadata": {"labels": {"touched": str(id(before))}}}
            cluster.patch("rayservices", "models", label, "ray")
        return before

    monkeypatch.setattr(service, "_get", read_and_be_late)
    await service.apply(CONFIG)
    assert json.loads(found(cluster)["spec"]["serveConfigV2"]) == CONFIG
    assert [method for method, _ in cluster.seen].count("PATCH") == 3


async def test_a_cluster_that_is_away_is_no_answer(cluster: Cluster, service: RayService) -> None:
    cluster.is_away = True
    with pytest.raises(RayUnreachable):
        await service.details()


@pytest.mark.parametrize(
    "changes",
    [{"rayservice": ""}, {"rayservice": "models"}, {"rayservice": "a/b", "ship": "upload"}],
)
def test_settings_that_do_not_suit_kuberay_are_refused(
    make_settings: Callable[..., Settings], changes: dict[str, str]
) -> None:
    with pytest.raises(ValidationError, match="MODE=rayservice"):
        make_settings(mode="rayservice", **changes)
