"""What the deployer does at the API server: the same tests on the simulator, and on a real one.

That is of ``KUBECONFIG``, if ``TEST_KUBE_CONTEXT`` names the context in it. It needs KServe's CRDs; KServe itself may
run, nothing here waits for a pod. Namespaces are made and deleted.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from countersign_deployer.server import Signals
from countersign_deployer.state import StateStore
from countersign_kserve.cluster import SERVICES, ApiServer, Raced, Trouble
from countersign_kserve.reconciler import Reconciler
from countersign_kserve.settings import Settings
from countersign_kserve.state import State
from lightkube import AsyncClient
from lightkube.config.kubeconfig import KubeConfig
from lightkube.generic_resource import create_namespaced_resource
from lightkube.resources.core_v1 import Namespace
from lightkube.types import PatchType

from tests.deployers.kserve.conftest import CALLBACK_SECRET, GATEWAY_URL, WEBHOOK_SECRET, Deployer, Json, World, uri_of

InferenceService = create_namespaced_resource("serving.kserve.io", "v1beta1", "InferenceService", "inferenceservices")
_numbers = itertools.count(1)


def _real_cluster() -> tuple[Path, str] | None:
    """The file and the context. Never the current one: it may be of anything, and nobody has asked for tests there."""
    context = os.environ.get("TEST_KUBE_CONTEXT")
    if not context:
        return None
    for path in filter(None, os.environ.get("KUBECONFIG", "").split(os.pathsep)):
        if context in KubeConfig.from_file(path).contexts:
            return Path(path), context
    raise pytest.UsageError(f"TEST_KUBE_CONTEXT: KUBECONFIG has no context '{context}'")


REAL = _real_cluster()


@dataclass
class KubeApi:
    """A namespace of a cluster, and somebody else who works in it, with lightkube's own client."""

    other: AsyncClient
    namespace: str
    kubeconfig: Path
    context: str | None
    folder: Path
    made: list[Deployer]

    def deployer(self, **changes: Any) -> Deployer:
        settings = Settings(
            **{
                "gateway_url": GATEWAY_URL,
                "webhook_secret": WEBHOOK_SECRET,
                "callback_secret": CALLBACK_SECRET,
                "allowed_uri_prefixes": "s3://models/",
                "state_dir": self.folder / f"state-{next(_numbers)}",
                "kubeconfig": self.kubeconfig,
                "context": self.context,
                "namespaces": {"default": self.namespace},
                "kserve_version": "0.20",
                **changes,
            }
        )
        store, api = StateStore(settings.state_dir, State), ApiServer(settings)
        drifted: list[None] = []
        signals = Signals(reports_owed=lambda: None, drifted=lambda: drifted.append(None))
        self.made.append(Deployer(settings, store, Reconciler(settings, store, api, signals), api, drifted))
        return self.made[-1]

    async def service(self) -> Json:
        return dict((await self.other.get(InferenceService, "iris", namespace=self.namespace)).to_dict())

    async def change(self, change: Json, *, manager: str = "kubectl-edit") -> None:
        """Somebody else's change."""
        await self.other.patch(
            InferenceService,
            "iris",
            change,
            namespace=self.namespace,
            patch_type=PatchType.MERGE,
            field_manager=manager,
        )


@pytest.fixture(params=["simulated", *(["real"] if REAL else [])])
async def kube_api(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> AsyncIterator[KubeApi]:
    if REAL is None or request.param == "simulated":
        world.settings()  # writes the kubeconfig
        namespace, kubeconfig, context = world.namespace, tmp_path / "kubeconfig", None
    else:
        namespace, (kubeconfig, context) = f"countersign-test-{os.getpid()}-{next(_numbers)}", REAL
    other = AsyncClient(KubeConfig.from_file(kubeconfig).get(context_name=context), namespace=namespace)
    if request.param == "real":
        await other.create(Namespace.from_dict({"metadata": {"name": namespace}}))
    api = KubeApi(other, namespace, kubeconfig, context, tmp_path, [])
    yield api
    if request.param == "real":
        await other.delete(Namespace, namespace)
    for deployer in api.made:
        deployer.store.close()
        await deployer.api.__aexit__(None, None, None)
    await other.close()


async def test_the_object_is_small_ours_and_says_where_it_comes_from(kube_api: KubeApi) -> None:
    deployer = kube_api.deployer(service_account="s3-reader")
    await deployer.call(3, "7")
    await deployer.reconciler.reconcile()
    service = await kube_api.service()
    (ours,) = [each for each in service["metadata"]["managedFields"] if each["manager"] == "countersign-kserve"]
    assert ours["operation"] == "Apply"
    said = service["metadata"]["annotations"]
    assert said["countersign/generation"] == "3"
    assert said["countersign/promotion-id"] == "prm_3"
    assert said["serving.kserve.io/deploymentMode"] == "Standard"
    assert "bob" not in str(service), "persons are not named on an object that everybody may read"
    predictor = service["spec"]["predictor"]
    assert predictor["serviceAccountName"] == "s3-reader"
    assert predictor["model"]["storageUri"] == f"{uri_of('7')}/"
    assert predictor["model"]["protocolVersion"] == "v2"
    assert predictor["annotations"]["countersign/model-version"] == "7"


async def test_what_is_as_planned_is_not_written_again(kube_api: KubeApi) -> None:
    deployer = kube_api.deployer()
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    before = await kube_api.service()
    await deployer.reconciler.reconcile()
    after = await kube_api.service()
    mine = [
        [each for each in service["metadata"]["managedFields"] if each["manager"] == "countersign-kserve"]
        for service in (before, after)
    ]
    assert mine[0] == mine[1]


@pytest.mark.parametrize("state_is_lost", [False, True])
async def test_a_lower_generation_yields_to_what_the_object_says(kube_api: KubeApi, state_is_lost: bool) -> None:
    first = kube_api.deployer()
    await first.call(5, "8")
    await first.reconciler.reconcile()
    second = kube_api.deployer() if state_is_lost else first
    if not state_is_lost:
        await kube_api.change({"metadata": {"annotations": {"countersign/generation": "9"}}})
    generation = 4 if state_is_lost else 8
    await second.call(generation, "7")
    await second.reconciler.reconcile()
    assert second.said() == ("Superseded", "")
    assert second.drifted, "it asks the gateway what is desired"
    assert (await kube_api.service())["spec"]["predictor"]["annotations"]["countersign/model-version"] == "8"
    await second.reconciler.reconcile()
    assert second.reports()[-1] == (generation, "Superseded", "")


async def test_a_deployer_that_lost_its_state_goes_on_with_the_generation_of_the_object(kube_api: KubeApi) -> None:
    first = kube_api.deployer()
    await first.call(5, "8")
    await first.reconciler.reconcile()
    before = await kube_api.service()
    second = kube_api.deployer()
    await second.call(5, "8")
    await second.reconciler.reconcile()
    assert second.said()[0] in {"Progressing", "Ready"}
    assert (await kube_api.service())["metadata"]["uid"] == before["metadata"]["uid"]


async def test_another_manager_of_a_field_is_a_conflict_that_names_it(kube_api: KubeApi) -> None:
    deployer = kube_api.deployer()
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    await kube_api.change({"spec": {"predictor": {"model": {"storageUri": "s3://theirs/"}}}}, manager="argocd")
    await deployer.call(2, "8")
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Progressing", "FieldManagerConflict")
    assert "argocd" in deployer.resource().message
    assert "spec.predictor.model.storageUri" in deployer.resource().message
    async with deployer.store.transaction() as state:
        state.resources["iris"].deadline_at = 0
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Errored", "FieldManagerConflict")
    assert (await kube_api.service())["spec"]["predictor"]["model"]["storageUri"] == "s3://theirs/"


async def test_force_takes_a_field_over(kube_api: KubeApi) -> None:
    deployer = kube_api.deployer(force=True)
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    await kube_api.change({"spec": {"predictor": {"model": {"storageUri": "s3://theirs/"}}}}, manager="argocd")
    await deployer.call(2, "8")
    await deployer.reconciler.reconcile()
    assert (await kube_api.service())["spec"]["predictor"]["model"]["storageUri"] == f"{uri_of('8')}/"


async def test_what_others_add_is_left_to_them(kube_api: KubeApi) -> None:
    deployer = kube_api.deployer()
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    await kube_api.change({"metadata": {"labels": {"team": "fraud"}}})
    await deployer.call(2, "8")
    await deployer.reconciler.reconcile()
    service = await kube_api.service()
    assert service["metadata"]["labels"]["team"] == "fraud"
    assert service["spec"]["predictor"]["annotations"]["countersign/model-version"] == "8"


@pytest.mark.parametrize(
    "labels_and_annotations",
    [
        {},
        {"labels": {"app.kubernetes.io/managed-by": "Helm"}},
        {
            "labels": {"app.kubernetes.io/managed-by": "countersign"},
            "annotations": {"countersign/target": "another"},
        },
        {
            "labels": {"app.kubernetes.io/managed-by": "countersign"},
            "annotations": {"countersign/target": "kserve", "countersign/resource": "team-a/iris"},
        },
    ],
)
async def test_an_object_that_is_not_ours_is_left_alone(kube_api: KubeApi, labels_and_annotations: Json) -> None:
    theirs = {
        "metadata": {"name": "iris", "namespace": kube_api.namespace, **labels_and_annotations},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "s3://theirs/"}}},
    }
    await kube_api.other.create(InferenceService.from_dict(theirs))
    deployer = kube_api.deployer()
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Failed", "PolicyDenied")
    assert "left alone" in deployer.resource().message
    await deployer.reconciler.reconcile()
    assert (await kube_api.service())["spec"]["predictor"]["model"]["storageUri"] == "s3://theirs/"


async def test_an_object_that_is_not_ours_is_taken_over_where_that_is_set(kube_api: KubeApi) -> None:
    theirs = {
        "metadata": {"name": "iris", "namespace": kube_api.namespace},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "s3://theirs/"}}},
    }
    await kube_api.other.create(InferenceService.from_dict(theirs))
    deployer = kube_api.deployer(adopt=True, force=True)
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()  # a look, before it is changed
    await deployer.reconciler.reconcile()
    assert (await kube_api.service())["spec"]["predictor"]["annotations"]["countersign/model-version"] == "7"


async def test_an_apply_of_what_has_changed_since_it_was_looked_at_is_refused(kube_api: KubeApi) -> None:
    deployer = kube_api.deployer()
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    old = await kube_api.service()
    manifest = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "iris",
            "namespace": kube_api.namespace,
            "resourceVersion": old["metadata"]["resourceVersion"],
        },
        "spec": {"predictor": {"minReplicas": 2}},
    }
    await kube_api.change({"metadata": {"labels": {"team": "fraud"}}})
    with pytest.raises(Raced):
        await deployer.api.apply(manifest, dry_run=False)


async def test_a_race_is_looked_at_again_and_won(kube_api: KubeApi) -> None:
    deployer = kube_api.deployer()
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    await deployer.call(2, "8")
    apply, races = deployer.api.apply, iter([True, False])

    async def raced(manifest: Json, *, dry_run: bool) -> Json:
        if not dry_run and next(races, False):
            await kube_api.change({"metadata": {"labels": {"team": "fraud"}}})
        return await apply(manifest, dry_run=dry_run)

    deployer.api.apply = raced  # type: ignore[method-assign]
    await deployer.reconciler.reconcile()
    service = await kube_api.service()
    assert service["spec"]["predictor"]["annotations"]["countersign/model-version"] == "8"


async def test_only_the_very_object_is_deleted(kube_api: KubeApi) -> None:
    deployer = kube_api.deployer(allow_delete=True)
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    with pytest.raises(Raced):
        await deployer.api.delete(kube_api.namespace, "iris", uid="00000000-0000-4000-8000-000000000000")
    service = await kube_api.service()
    await deployer.api.delete(kube_api.namespace, "iris", uid=service["metadata"]["uid"])
    await deployer.api.delete(kube_api.namespace, "nothing", uid=service["metadata"]["uid"])


async def test_two_deployers_at_once_end_with_the_higher_generation(kube_api: KubeApi) -> None:
    one, two = kube_api.deployer(), kube_api.deployer()
    await one.call(4, "7")
    await two.call(5, "8")
    await asyncio.gather(one.reconciler.reconcile(), two.reconciler.reconcile())
    await asyncio.gather(one.reconciler.reconcile(), two.reconciler.reconcile())
    service = await kube_api.service()
    assert service["metadata"]["annotations"]["countersign/generation"] == "5"
    assert service["spec"]["predictor"]["annotations"]["countersign/model-version"] == "8"
    assert one.said() == ("Superseded", "")


async def test_a_watch_tells_which_of_our_objects_changed(kube_api: KubeApi) -> None:
    deployer = kube_api.deployer()
    watch = deployer.api.watch(kube_api.namespace)
    waiting = asyncio.ensure_future(anext(watch))
    for _ in range(50):  # until the watch is on
        await deployer.api.get(SERVICES, kube_api.namespace, "iris")
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    assert await asyncio.wait_for(waiting, 30) == "iris"
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_namespace_that_is_not_there_is_told(kube_api: KubeApi) -> None:
    deployer = kube_api.deployer(namespaces={"default": "countersign-test-nowhere"})
    with pytest.raises(Trouble) as refused:
        await deployer.api.apply(
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {"name": "iris", "namespace": "countersign-test-nowhere"},
                "spec": {"predictor": {}},
            },
            dry_run=True,
        )
    assert "countersign-test-nowhere" in refused.value.message
