"""What the tests of the KServe deployer share: a simulated cluster, a deployer without its loops, and calls to it.

A test says when the deployer looks and when the cluster moves, so nothing here waits for a clock.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from countersign_deployer.calls import Answer, take
from countersign_deployer.contract import Deployment
from countersign_deployer.server import Signals
from countersign_deployer.state import StateStore
from countersign_kserve.cluster import ApiServer
from countersign_kserve.reconciler import Reconciler
from countersign_kserve.settings import Settings
from countersign_kserve.state import Resource, State

from tests.deployers.kserve.simulator.access import Account
from tests.deployers.kserve.simulator.api import Cluster, running
from tests.deployers.kserve.simulator.kserve import RESOURCES, KServe

Json = dict[str, Any]

WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"gateway to deployer, for tests!!").decode()
CALLBACK_SECRET = "whsec_" + base64.b64encode(b"deployer to gateway, for tests!!").decode()
GATEWAY_URL = "http://127.0.0.1:9"  # nobody answers there
RUNTIME = "countersign-mlflow"
_numbers = itertools.count(1)


def digest_of(version: str) -> str:
    return f"sha256:{int(version):064x}"


def uri_of(version: str) -> str:
    return f"s3://models/iris/{version}/artifacts"


def bytes_of(version: str) -> Json:
    return {"version": version, "uri": uri_of(version), "digest": digest_of(version)}


def wanted(generation: int, version: str | None, **changes: Any) -> Deployment:
    """The data of a call. ``stable``: the version beside it; no version: remove."""
    resource, stable = changes.pop("resource", "iris"), changes.pop("stable", None)
    document: Json = {
        "deployment_id": f"dep_{generation}",
        "target": "kserve",
        "resource": resource,
        "generation": generation,
        "action": "apply" if version else "remove",
        "callback": {"url": f"{GATEWAY_URL}/control/v1/deployments/dep_{generation}/status"},
        "promotion": {"id": f"prm_{generation}", "requested_by": "ann", "approved_by": ["bob@example.com"]},
        "deadline_s": 900,
    }
    if version:
        document["model"] = {"name": resource, "alias": "champion", "run_id": f"run{version}", **bytes_of(version)}
        document["traffic"] = {
            "weight": changes.pop("weight", 100),
            "stable": bytes_of(stable) if stable else None,
        }
    return Deployment.model_validate({**document, **changes})


@dataclass
class Deployer:
    """One deployer. ``drifted`` counts how often it asked the gateway what is desired."""

    settings: Settings
    store: StateStore[State]
    reconciler: Reconciler
    api: ApiServer
    drifted: list[None] = field(default_factory=list)

    async def call(self, generation: int, version: str | None, **changes: Any) -> Answer:
        return await take(wanted(generation, version, **changes), self.store, self.reconciler.accept)

    def resource(self, name: str = "iris") -> Resource:
        return self.store.snapshot().resources[name]

    def said(self, name: str = "iris") -> tuple[str, str]:
        resource = self.resource(name)
        return resource.phase.value, resource.reason.value

    def serving(self, name: str = "iris") -> dict[str, tuple[int, bool]]:
        return {each.version: (each.weight, each.ready) for each in self.resource(name).serving}

    def reports(self) -> list[tuple[int, str, str]]:
        """What the gateway is still owed: generation, phase and reason of each."""
        bodies = [json.loads(report.body)["data"] for report in self.store.snapshot().outbox]
        return [(body["generation"], body["phase"], body["reason"]) for body in bodies]


@dataclass
class World:
    """A namespace of the simulated cluster, and what is in it."""

    cluster: Cluster
    kserve: KServe
    account: Account
    namespace: str
    folder: Path
    deployers: list[Deployer] = field(default_factory=list)

    def settings(self, **changes: Any) -> Settings:
        path = self.folder / "kubeconfig"
        path.write_text(yaml.safe_dump(self.cluster.kubeconfig(self.account, self.namespace)))
        values: Json = {
            "gateway_url": GATEWAY_URL,
            "webhook_secret": WEBHOOK_SECRET,
            "callback_secret": CALLBACK_SECRET,
            "allowed_uri_prefixes": "s3://models/",
            "state_dir": self.folder / f"state-{next(_numbers)}",
            "kubeconfig": path,
            "namespaces": {"default": self.namespace},
            "kserve_version": "0.20",
            "settle_s": 0,
            "crash_restarts": 2,
        }
        return Settings(**{**values, **changes})

    def deployer(self, **changes: Any) -> Deployer:
        settings = self.settings(**changes)
        store, api = StateStore(settings.state_dir, State), ApiServer(settings)
        drifted: list[None] = []
        signals = Signals(reports_owed=lambda: None, drifted=lambda: drifted.append(None))
        deployer = Deployer(settings, store, Reconciler(settings, store, api, signals), api, drifted)
        self.deployers.append(deployer)
        return deployer

    async def rest(self, deployer: Deployer) -> None:
        """The deployer looks and the cluster moves, in turns, until neither has anything to do."""
        for _ in range(12):
            before, state = self.cluster.objects.revision, deployer.store.snapshot()
            await deployer.reconciler.reconcile()
            self.kserve.settle()
            if self.cluster.objects.revision == before and deployer.store.snapshot() is state:
                return
        pytest.fail("it does not come to rest")

    def service(self, name: str = "iris") -> Json | None:
        return self.cluster.get("inferenceservices", name, self.namespace)

    def deployments(self) -> dict[str, Json]:
        return {each["metadata"]["name"]: each for each in self.cluster.list("deployments", self.namespace)}

    def pods(self) -> set[str]:
        return {each["metadata"]["name"] for each in self.cluster.list("pods", self.namespace)}

    def generation(self) -> str:
        service = self.service()
        assert service is not None
        return str(service["metadata"]["annotations"]["countersign/generation"])


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests must not leak into them."""
    for name in [name for name in os.environ if name.startswith("COUNTERSIGN_KSERVE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
async def simulated() -> AsyncIterator[KServe]:
    async with running(*RESOURCES) as cluster:
        yield KServe(cluster)


@pytest.fixture
async def world(simulated: KServe, tmp_path: Path) -> AsyncIterator[World]:
    cluster, namespace = simulated.cluster, f"models-{next(_numbers)}"
    cluster.namespace(namespace)
    runtime = {"metadata": {"name": RUNTIME, "namespace": namespace}, "spec": {}}
    cluster.put("servingruntimes", runtime)
    account = cluster.account(f"deployer of {namespace}", token_file=tmp_path / "token")
    before = list(cluster.webhooks)
    world = World(cluster, simulated, account, namespace, tmp_path)
    yield world
    for deployer in world.deployers:
        deployer.store.close()
        with suppress(RuntimeError):
            await deployer.api.__aexit__(None, None, None)
    cluster.webhooks[:] = before
    cluster.is_away = False
    simulated.outcomes.clear()
    simulated.knows_canary, simulated.has_gateway, simulated.is_paused = True, True, False
    simulated.waits_for_canaries = False
    simulated.disallowed.clear()
    for plural in ("inferenceservices", "deployments", "revisions", "pods", "events", "servingruntimes"):
        for each in cluster.list(plural, namespace):
            with suppress(KeyError):
                cluster.remove(plural, each["metadata"]["name"], namespace)


@pytest.fixture
def deployer(world: World) -> Deployer:
    return world.deployer()
