"""What can go wrong around a deployment on KServe: each thing ends in a state that a person understands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from countersign_deployer.problems import Problem
from countersign_deployer.server import Signals
from countersign_deployer.state import StateStore
from countersign_kserve.cluster import SERVICES, ApiServer, CannotConnect, Watched
from countersign_kserve.names import CHANGING
from countersign_kserve.reconciler import Reconciler
from countersign_kserve.state import State

from tests.deployers.kserve.conftest import Deployer, Json, World, uri_of
from tests.deployers.kserve.simulator.access import EVERYTHING, Act, without
from tests.deployers.kserve.simulator.api import Refusal
from tests.deployers.kserve.simulator.kserve import INFERENCE_SERVICES, not_loaded

ALL = [
    {
        "apiGroups": ["serving.kserve.io"],
        "resources": ["inferenceservices"],
        "verbs": ["get", "list", "create", "patch"],
    },
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["httproutes"], "verbs": ["get"]},
]


async def test_a_cluster_that_is_away_is_told_and_waited_for(world: World) -> None:
    deployer = world.deployer()
    world.cluster.is_away = True
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Progressing", "Unreachable")
    with pytest.raises(Problem) as refused:
        await deployer.reconciler.ready()
    assert refused.value.status == 503
    world.cluster.is_away = False
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    assert await deployer.reconciler.ready()


async def test_a_cluster_that_stays_away_ends_as_errored_at_the_deadline(world: World) -> None:
    deployer = world.deployer()
    world.cluster.is_away = True
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    async with deployer.store.transaction() as state:
        state.resources["iris"].deadline_at = 0
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Errored", "Unreachable")


async def test_a_cluster_that_is_away_says_nothing_of_what_it_serves(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    before = len(deployer.reports())
    world.cluster.is_away = True
    await deployer.reconciler.reconcile()
    assert (deployer.said(), len(deployer.reports())) == (("Ready", ""), before)


async def test_a_port_on_which_nobody_listens_is_unreachable_too(world: World) -> None:
    world.cluster.url, url = "https://127.0.0.1:9", world.cluster.url
    deployer = world.deployer()
    world.cluster.url = url
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Progressing", "Unreachable")


async def test_a_token_that_is_renewed_is_read_again(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    world.account.rotate()
    await deployer.call(2, "8")
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")


@pytest.mark.parametrize(
    ("refusal", "end"),
    [
        (
            'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: no such runtime',
            ("Failed", "ConfigRefused"),
        ),
        ('admission webhook "validate.kyverno.svc" denied the request: no latest tags', ("Failed", "PolicyDenied")),
        ('inferenceservices "iris" is forbidden: exceeded quota: few, requested: 1', ("Progressing", "NoCapacity")),
    ],
)
async def test_what_is_denied_at_the_door_of_the_cluster_is_told_in_its_words(
    world: World, refusal: str, end: tuple[str, str]
) -> None:
    def deny(operation: str, resource: object, new: Json, old: Json | None) -> Json:
        if resource == INFERENCE_SERVICES and new["metadata"]["namespace"] == world.namespace:
            raise Refusal(403, refusal)
        return new

    world.cluster.webhooks.append(deny)
    deployer = world.deployer()
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    assert deployer.said() == end
    assert deployer.resource().message in refusal
    assert world.service() is None


async def test_what_would_be_refused_is_tried_before_it_is_done(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    patches = [path for method, path in world.cluster.seen if method == "PATCH" and world.namespace in path]
    assert len(patches) == 2, "a trial, and the deed"


@pytest.mark.parametrize(
    ("act", "end"),
    [
        (Act("create", "serving.kserve.io", "inferenceservices"), ("Failed", "PolicyDenied")),
        (Act("patch", "serving.kserve.io", "inferenceservices"), ("Failed", "PolicyDenied")),
        (Act("get", "serving.kserve.io", "inferenceservices"), ("Failed", "PolicyDenied")),
        (Act("list", "apps", "deployments"), ("Failed", "PolicyDenied")),
        (Act("list", "", "pods"), ("Ready", "")),
        (Act("get", "gateway.networking.k8s.io", "httproutes"), ("Ready", "")),
    ],
)
async def test_a_right_that_is_missing_is_named_and_that_of_looking_at_pods_may_be(
    world: World, act: Act, end: tuple[str, str]
) -> None:
    world.account.rules = {world.namespace: without(ALL, act)}
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    assert deployer.said() == end
    if end[0] == "Failed":
        assert act.resource in deployer.resource().message.lower()
    world.account.rules = {"": [EVERYTHING]}


async def test_a_share_that_cannot_be_looked_at_is_refused(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "6")
    await world.rest(deployer)
    world.account.rules = {world.namespace: without(ALL, Act("get", "gateway.networking.k8s.io", "httproutes"))}
    await deployer.call(2, "7", stable="6", weight=10)
    await world.rest(deployer)
    assert deployer.said() == ("Failed", "ConfigRefused")
    assert "Gateway API" in deployer.resource().message
    assert set(world.deployments()) == {"iris-predictor"}
    world.account.rules = {"": [EVERYTHING]}


async def test_without_a_look_at_pods_kserves_word_is_taken(world: World) -> None:
    world.account.rules = {world.namespace: without(ALL, Act("list", "", "pods"))}
    world.kserve.outcomes[f"{uri_of('7')}/"] = not_loaded("ModuleNotFoundError: No module named 'xgboost'")
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    assert deployer.said() == ("Failed", "DependencyMissing")
    world.account.rules = {"": [EVERYTHING]}


async def test_an_object_that_somebody_deletes_comes_back_and_the_gateway_is_asked(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    world.cluster.remove("inferenceservices", "iris", world.namespace)
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Ready", "Unhealthy")
    assert "deleted" in deployer.resource().message
    assert deployer.drifted
    world.kserve.settle()
    await world.rest(deployer)
    assert (deployer.said(), deployer.serving()) == (("Ready", ""), {"7": (100, True)})


async def test_a_change_by_somebody_is_told_and_left_where_repairs_are_not_wanted(world: World) -> None:
    deployer = world.deployer(repair=False)
    await deployer.call(1, "7")
    await world.rest(deployer)
    change = {"spec": {"predictor": {"minReplicas": 3, "maxReplicas": 3}}}
    world.cluster.patch("inferenceservices", "iris", change, world.namespace, manager="kubectl-edit")
    world.kserve.settle()
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "Unhealthy")
    assert "changed by others" in deployer.resource().message
    service = world.service()
    assert service is not None
    assert service["spec"]["predictor"]["minReplicas"] == 3
    assert deployer.drifted


async def test_a_change_by_somebody_who_keeps_the_field_is_a_conflict_that_names_them(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    change = {"spec": {"predictor": {"minReplicas": 3, "maxReplicas": 3}}}
    world.cluster.patch("inferenceservices", "iris", change, world.namespace, manager="kubectl-edit")
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Ready", "FieldManagerConflict")
    assert "kubectl-edit" in deployer.resource().message


async def test_an_old_crash_of_what_serves_is_no_verdict_on_what_is_new(world: World) -> None:
    world.kserve.disallowed.update(CHANGING)
    three = {"config": {"min_replicas": 3}}
    deployer = world.deployer()
    await deployer.call(1, "6", **three)
    await world.rest(deployer)
    world.kserve.is_paused = True
    (pod, *_) = world.cluster.list("pods", world.namespace)
    crash = {"exitCode": 137, "reason": "Error", "message": "the node was started anew"}
    (container,) = pod["status"]["containerStatuses"]
    container |= {"ready": False, "restartCount": 2, "lastState": {"terminated": crash}}
    world.cluster.put("pods", pod, subresource="status")
    deployment = world.deployments()["iris-predictor"]
    deployment["status"]["availableReplicas"] = 2
    world.cluster.put("deployments", deployment, subresource="status")
    await deployer.call(2, "7", stable="6", weight=10, **three)
    for _ in range(3):
        await deployer.reconciler.reconcile()
    assert deployer.said() == ("Progressing", "Unhealthy")
    assert deployer.resource().message.startswith("Version 6: ")
    world.kserve.outcomes[f"{uri_of('7')}/"] = not_loaded("ValueError: no")
    world.kserve.is_paused = False
    await world.rest(deployer)
    assert deployer.said() == ("Failed", "ModelLoadFailed")
    assert deployer.resource().message.startswith("Version 7: ")


@pytest.mark.parametrize("mode", ["RawDeployment", "Serverless"])
async def test_an_older_name_of_the_mode_works_more_than_once(world: World, mode: str) -> None:
    """KServe writes today's into the status, and refuses every update that says the other."""
    deployer = world.deployer(deployment_mode=mode)
    for generation, version in ((1, "6"), (2, "7"), (3, None)):
        await deployer.call(generation, version)
        await world.rest(deployer)
        assert deployer.said() == ("Ready", "")
    assert not world.pods()


async def test_a_mode_that_an_object_cannot_change_to_is_refused_in_kserves_words(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    other = world.deployer(deployment_mode="Knative")
    await other.call(2, "8")
    await world.rest(other)
    assert other.said() == ("Failed", "ConfigRefused")
    assert "deploymentMode cannot be changed" in other.resource().message


async def test_a_call_that_comes_during_a_rollout_takes_its_place(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    await deployer.call(2, "8")
    await world.rest(deployer)
    assert deployer.reports()[-1] == (2, "Ready", "")
    assert (1, "Superseded", "") in deployer.reports()
    assert deployer.serving() == {"8": (100, True)}
    late = await deployer.call(1, "7")
    assert late.body == {"result": "superseded", "current_generation": 2}


async def test_what_kserves_webhook_fills_in_and_rewrites_is_no_difference(world: World) -> None:
    """It reads and writes the object with Go's types: a quantity comes back in another form."""

    def rewrite(operation: str, resource: object, new: Json, old: Json | None) -> Json:
        if resource == INFERENCE_SERVICES:
            model = new["spec"]["predictor"]["model"]
            model["resources"] = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
            model["env"] = [{"name": "MLSERVER_MODEL_NAME", "value": "iris"}]
        return new

    world.cluster.webhooks.append(rewrite)
    deployer = world.deployer(cpu_request="1000m", memory_request="1024Mi", memory_limit="2048Mi")
    await deployer.call(1, "7")
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Ready", "")


async def test_what_kserve_can_do_is_asked_again_until_somebody_answers(world: World) -> None:
    deployer = world.deployer(kserve_version="auto")
    world.cluster.is_away = True
    await deployer.call(1, "7", weight=10, stable="6")
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Progressing", "Unreachable")
    world.cluster.is_away = False
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Failed", "ConfigRefused")


class Killed(BaseException):
    """The process is gone."""


async def restarted(dead: Deployer) -> Deployer:
    """The next process, with the state of the last."""
    dead.store.close()
    await dead.api.__aexit__(None, None, None)
    store, api = StateStore(dead.settings.state_dir, State), ApiServer(dead.settings)
    signals = Signals(reports_owed=lambda: None, drifted=lambda: None)
    return Deployer(dead.settings, store, Reconciler(dead.settings, store, api, signals), api)


async def test_killed_at_any_moment_it_goes_on_where_it_was(world: World) -> None:
    """Before and after each thing that is asked of the cluster, during a canary, its promotion and its failure."""

    def mortal(act: Callable[..., Any], moments: list[int]) -> Callable[..., Any]:
        async def doing(*arguments: Any, **more: Any) -> Any:
            moments[0] -= 1
            if moments[0] == 0:
                raise Killed
            done = await act(*arguments, **more)
            moments[0] -= 1
            if moments[0] == 0:
                raise Killed
            return done

        return doing

    for life in (1, 2, 4, 5, 8, 11):
        name = f"iris-{life}"
        deployer = world.deployer()
        await deployer.call(1, "6", resource=name)
        await world.rest(deployer)
        calls: list[tuple[str, dict[str, Any]]] = [("7", {"weight": 30, "stable": "6"}), ("7", {})]
        for generation, (version, more) in enumerate(calls, start=2):
            await deployer.call(generation, version, resource=name, **more)
            moments = [life]
            for verb in ("get", "find", "apply"):
                setattr(deployer.api, verb, mortal(getattr(deployer.api, verb), moments))
            with suppress(Killed):
                for _ in range(6):
                    await deployer.reconciler.reconcile()
                    world.kserve.settle()
            deployer = await restarted(deployer)
            world.deployers[-1] = deployer
            await world.rest(deployer)
            assert deployer.said(name) == ("Ready", "")
        assert deployer.serving(name) == {"7": (100, True)}
        world.cluster.remove("inferenceservices", name, world.namespace)


async def test_a_watch_that_is_too_old_ends_so_that_somebody_looks(world: World) -> None:
    deployer = world.deployer()
    watch = deployer.api.watch(world.namespace)
    waiting = asyncio.ensure_future(anext(watch))
    for _ in range(5):  # until the watch is on
        await deployer.api.get(SERVICES, world.namespace, "iris")
    world.cluster.put("namespaces", {"metadata": {"name": f"{world.namespace}-other"}})
    world.cluster.objects.forget()
    world.cluster.objects.break_watches()
    with pytest.raises(Watched):
        await asyncio.wait_for(waiting, 10)


async def test_the_loop_follows_the_cluster_by_itself(world: World) -> None:
    deployer = world.deployer(poll_interval_s=0.05, reconcile_interval_s=60)
    async with world.kserve.following(lag_s=0.001):
        loop = asyncio.create_task(deployer.reconciler.run())
        await deployer.call(1, "7")
        deployer.reconciler.wake()

        async def until(end: tuple[str, str]) -> None:
            while deployer.said() != end:  # noqa: ASYNC110  # what it says has no event
                await asyncio.sleep(0.005)

        await asyncio.wait_for(until(("Ready", "")), 20)
        world.cluster.remove("inferenceservices", "iris", world.namespace)  # a watch tells, long before the interval
        await asyncio.wait_for(until(("Ready", "Unhealthy")), 20)
        await asyncio.wait_for(until(("Ready", "")), 20)
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop


async def test_a_workspace_without_a_namespace_is_refused(world: World) -> None:
    deployer = world.deployer()
    with pytest.raises(Problem) as refused:
        await deployer.call(1, "7", resource="team-a/iris")
    assert refused.value.fields[0][0] == "data.resource"


async def test_a_workspace_has_its_namespace_and_its_models_their_own_objects(world: World) -> None:
    deployer = world.deployer(namespaces={"default": world.namespace, "team-a": world.namespace})
    await deployer.call(1, "7")
    await deployer.call(1, "7", resource="team-a/iris")
    await world.rest(deployer)
    names = {each["metadata"]["name"] for each in world.cluster.list("inferenceservices", world.namespace)}
    assert len(names) == 2
    assert "iris" in names


async def test_a_deployer_that_does_not_know_its_cluster_says_so(world: World) -> None:
    with pytest.raises(CannotConnect, match="COUNTERSIGN_KSERVE_KUBECONFIG is not set"):
        ApiServer(world.settings(kubeconfig=None))
    with pytest.raises(CannotConnect):
        ApiServer(world.settings(kubeconfig=world.folder / "nothing"))
