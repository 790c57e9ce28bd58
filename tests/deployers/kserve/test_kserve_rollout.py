"""Rollouts on KServe, on the simulated cluster with KServe's real traps."""

from __future__ import annotations

import pytest
from countersign_deployer.problems import Problem
from countersign_kserve.names import CHANGING

from tests.deployers.kserve.conftest import World, uri_of
from tests.deployers.kserve.simulator.kserve import (
    LOADING,
    NOT_PULLED,
    OUT_OF_MEMORY,
    UNSCHEDULABLE,
    Outcome,
    not_downloaded,
    not_loaded,
)


def at(version: str) -> str:
    """The storageUri of a version."""
    return f"{uri_of(version)}/"


async def test_a_first_version_is_deployed_and_ready_when_its_pods_are(world: World) -> None:
    deployer = world.deployer()
    answer = await deployer.call(1, "7")
    assert (answer.status, deployer.said()) == (202, ("Accepted", ""))
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Progressing", "")
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    assert deployer.serving() == {"7": (100, True)}
    service = world.service()
    assert service is not None
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://models/iris/7/artifacts/"
    (said,) = deployer.resource().serving
    assert (said.name, said.url) == ("iris-predictor", f"http://iris-{world.namespace}.example.com")


async def test_a_new_version_is_not_ready_while_the_old_pods_keep_the_service_ready(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "6")
    await world.rest(deployer)
    world.kserve.outcomes[at("7")] = LOADING
    await deployer.call(2, "7")
    await world.rest(deployer)
    service = world.service()
    assert service is not None
    assert {c["type"]: c["status"] for c in service["status"]["conditions"]}["Ready"] == "True"
    assert deployer.said() == ("Progressing", "")
    assert deployer.serving() == {"7": (0, False), "6": (100, True)}
    del world.kserve.outcomes[at("7")]
    world.kserve.settle()
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    assert deployer.serving() == {"7": (100, True)}


@pytest.mark.parametrize(
    ("outcome", "end"),
    [
        (not_loaded("ValueError: cannot unpickle"), ("Failed", "ModelLoadFailed")),
        (not_loaded("ModuleNotFoundError: No module named 'lightgbm'"), ("Failed", "DependencyMissing")),
        (not_downloaded("DigestMismatch: these are not the files"), ("Failed", "DigestMismatch")),
        (not_downloaded("NoSuchKey: the key does not exist"), ("Failed", "ArtifactNotFound")),
    ],
)
async def test_a_version_that_is_bad_fails_and_the_former_one_serves_on(
    world: World, outcome: Outcome, end: tuple[str, str]
) -> None:
    deployer = world.deployer()
    await deployer.call(1, "6")
    await world.rest(deployer)
    pods = world.pods()
    world.kserve.outcomes[at("7")] = outcome
    await deployer.call(2, "7")
    await world.rest(deployer)
    assert deployer.said() == end
    assert deployer.resource().message
    service = world.service()
    assert service is not None
    assert service["spec"]["predictor"]["model"]["storageUri"] == at("6")
    assert world.generation() == "2", "an older call must stay refused"
    assert deployer.serving() == {"6": (100, True)}
    assert len(world.pods()) == len(pods)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (UNSCHEDULABLE, "NoCapacity"),
        (OUT_OF_MEMORY, "NoCapacity"),
        (not_downloaded("An error occurred (AccessDenied) when calling GetObject"), "StorageDenied"),
        (not_downloaded("Could not connect to the endpoint URL"), "StorageUnreachable"),
        (LOADING, "ProgressDeadlineExceeded"),
        (NOT_PULLED, "RuntimeEnvFailed"),
    ],
)
async def test_what_is_broken_elsewhere_is_told_while_it_lasts_and_ends_at_the_deadline(
    world: World, outcome: Outcome, reason: str
) -> None:
    deployer = world.deployer()
    await deployer.call(1, "6")
    await world.rest(deployer)
    world.kserve.outcomes[at("7")] = outcome
    await deployer.call(2, "7")
    await world.rest(deployer)
    told = "" if outcome is LOADING else reason
    assert deployer.said() == ("Progressing", told)
    async with deployer.store.transaction() as state:
        state.resources["iris"].deadline_at = 0
    await world.rest(deployer)
    assert deployer.said() == ("Failed" if outcome is NOT_PULLED else "Errored", reason)
    assert deployer.serving() == {"6": (100, True)}


async def test_a_roll_that_kubernetes_gives_up_ends_before_our_own_deadline(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "6")
    await world.rest(deployer)
    world.kserve.outcomes[at("7")] = UNSCHEDULABLE
    await deployer.call(2, "7")
    await world.rest(deployer)
    world.kserve.pass_deadlines()
    await world.rest(deployer)
    assert deployer.said() == ("Errored", "NoCapacity")
    assert "Insufficient memory" in deployer.resource().message
    assert deployer.serving() == {"6": (100, True)}


async def test_a_first_version_that_is_bad_leaves_nothing_that_runs(world: World) -> None:
    world.kserve.outcomes[at("7")] = not_loaded("ValueError")
    for deployer, name in ((world.deployer(), "stopped"), (world.deployer(allow_delete=True), "deleted")):
        await deployer.call(1, "7", resource=name)
        await world.rest(deployer)
        assert deployer.said(name) == ("Failed", "ModelLoadFailed")
        assert deployer.serving(name) == {}
        assert not [each for each in world.deployments() if each.startswith(name)]
    stopped = world.service("stopped")
    assert stopped is not None
    assert stopped["metadata"]["annotations"]["serving.kserve.io/stop"] == "true"
    assert world.service("deleted") is None


async def test_what_kserve_said_of_the_version_before_is_not_said_of_the_next(world: World) -> None:
    deployer = world.deployer(settle_s=5)
    await deployer.call(1, "6")
    await world.rest(deployer)
    world.cluster.remove("servingruntimes", "countersign-mlflow", world.namespace)
    await deployer.call(2, "7")
    await world.rest(deployer)
    async with deployer.store.transaction() as state:
        state.resources["iris"].applied_at -= 6
    await world.rest(deployer)
    assert deployer.said() == ("Failed", "ConfigRefused")
    assert "countersign-mlflow" in deployer.resource().message
    runtime = {"metadata": {"name": "countersign-mlflow", "namespace": world.namespace}, "spec": {}}
    world.cluster.put("servingruntimes", runtime)
    world.kserve.is_paused = True
    await deployer.call(3, "7")
    for _ in range(3):
        await deployer.reconciler.reconcile()
    service = world.service()
    assert service is not None
    assert service["status"]["modelStatus"]["lastFailureInfo"]["reason"] == "RuntimeNotRecognized"
    assert deployer.said() == ("Progressing", "")
    world.kserve.is_paused = False
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")


async def test_a_canary_gets_its_share_when_it_is_up_and_is_promoted_without_a_restart(world: World) -> None:
    world.kserve.disallowed.update(CHANGING)
    deployer = world.deployer()
    await deployer.call(1, "6")
    await world.rest(deployer)
    pods = world.pods()
    world.kserve.outcomes[at("7")] = LOADING
    await deployer.call(2, "7", weight=10, stable="6")
    await world.rest(deployer)
    service = world.service()
    assert service is not None
    assert [each["trafficPercent"] for each in service["spec"]["canary"]] == [0], "KServe 0.20 would send it requests"
    del world.kserve.outcomes[at("7")]
    world.kserve.settle()
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    assert deployer.serving() == {"6": (90, True), "7": (10, True)}
    assert {each.version: each.name for each in deployer.resource().serving} == {
        "6": "iris-predictor",
        "7": "iris-green-predictor",
    }
    assert pods < (both := world.pods())
    await deployer.call(3, "7", weight=50, stable="6")
    await world.rest(deployer)
    assert deployer.serving() == {"6": (50, True), "7": (50, True)}
    await deployer.call(4, "7", weight=100, stable="6")
    await world.rest(deployer)
    assert deployer.serving() == {"6": (0, True), "7": (100, True)}, "what was stable stays loaded"
    await deployer.call(5, "7")
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    assert deployer.serving() == {"7": (100, True)}
    assert set(world.deployments()) == {"iris-green-predictor"}
    assert world.pods() == both - pods, "no pod was started anew"
    await deployer.call(6, "8", weight=0, stable="7")
    await world.rest(deployer)
    assert deployer.serving() == {"7": (100, True), "8": (0, True)}
    assert set(world.deployments()) == {"iris-green-predictor", "iris-blue-predictor"}


@pytest.mark.parametrize("waits_for_canaries", [False, True])
async def test_what_serves_keeps_its_pods_beside_a_canary_and_after_it(world: World, waits_for_canaries: bool) -> None:
    """KServe takes the canary's pods off the stable ones."""
    world.kserve.disallowed.update(CHANGING)
    world.kserve.waits_for_canaries = waits_for_canaries
    deployer = world.deployer()
    ten = {"config": {"min_replicas": 10}}
    await deployer.call(1, "6", **ten)
    await world.rest(deployer)
    pods = world.pods()
    world.kserve.outcomes[at("7")] = LOADING
    await deployer.call(2, "7", weight=5, stable="6", **ten)
    await world.rest(deployer)
    assert pods < world.pods()
    assert deployer.serving() == {"6": (100, True), "7": (0, False)}
    del world.kserve.outcomes[at("7")]
    world.kserve.settle()
    await world.rest(deployer)
    assert deployer.serving() == {"6": (95, True), "7": (5, True)}
    assert {name: each["spec"]["replicas"] for name, each in world.deployments().items()} == {
        "iris-predictor": 10,
        "iris-green-predictor": 10,
    }
    await deployer.call(3, "6", **ten)
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    assert len(world.pods()) == 10


async def test_a_canary_that_is_not_up_is_never_given_the_name_of_what_serves(world: World) -> None:
    """KServe deletes a Deployment whose name is not wanted any more at once."""
    deployer = world.deployer()
    await deployer.call(1, "6")
    await world.rest(deployer)
    world.kserve.outcomes[at("7")] = LOADING
    await deployer.call(2, "7", weight=10, stable="6")
    await world.rest(deployer)
    await deployer.call(3, "7")
    await world.rest(deployer)
    (deployment,) = world.deployments().values()
    assert deployment["metadata"]["name"] == "iris-predictor"
    assert deployment["status"]["availableReplicas"] == 1
    del world.kserve.outcomes[at("7")]
    world.kserve.settle()
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")


async def test_what_rolls_out_of_its_place_answers_on_though_it_is_to_be_the_canary(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "6")
    await world.rest(deployer)
    world.kserve.outcomes[at("5")] = LOADING
    await deployer.call(2, "6", weight=10, stable="5")
    await world.rest(deployer)
    assert deployer.said() == ("Progressing", "")
    assert deployer.serving() == {"5": (0, False), "6": (100, True)}


async def test_a_canary_that_fails_is_taken_away_and_nothing_else_is_touched(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "6")
    await world.rest(deployer)
    world.kserve.outcomes[at("7")] = not_loaded("ValueError")
    await deployer.call(2, "7", weight=10, stable="6")
    await world.rest(deployer)
    assert deployer.said() == ("Failed", "ModelLoadFailed")
    assert set(world.deployments()) == {"iris-predictor"}
    assert deployer.serving() == {"6": (100, True)}
    await deployer.call(3, "6")
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")


async def test_going_back_from_a_canary_takes_its_requests_and_its_pods_away(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "6")
    await world.rest(deployer)
    await deployer.call(2, "7", weight=50, stable="6")
    await world.rest(deployer)
    assert deployer.serving() == {"6": (50, True), "7": (50, True)}
    await deployer.call(3, "6")
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    assert deployer.serving() == {"6": (100, True)}
    assert set(world.deployments()) == {"iris-predictor"}


@pytest.mark.parametrize(
    ("version", "weight", "stable", "field"),
    [("0.19", 10, "6", "data.traffic.weight"), ("0.20", 10, None, "data.traffic.stable")],
)
async def test_a_share_that_this_kserve_cannot_give_is_refused_when_it_is_asked_for(
    world: World, version: str, weight: int, stable: str | None, field: str
) -> None:
    deployer = world.deployer(kserve_version=version)
    with pytest.raises(Problem) as refused:
        await deployer.call(1, "7", weight=weight, stable=stable)
    assert refused.value.status == 422
    assert refused.value.fields[0][0] == field
    assert not deployer.store.snapshot().resources


async def test_a_share_that_nothing_would_give_is_refused_and_what_served_serves_on(world: World) -> None:
    """Without the Gateway API, KServe makes an Ingress, and its status says the percent that was asked for."""
    world.kserve.has_gateway = False
    deployer = world.deployer()
    await deployer.call(1, "6")
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    await deployer.call(2, "7", stable="6", weight=10)
    await world.rest(deployer)
    assert deployer.said() == ("Failed", "ConfigRefused")
    assert "Gateway API" in deployer.resource().message
    assert deployer.serving() == {"6": (100, True)}
    assert set(world.deployments()) == {"iris-predictor"}
    await deployer.call(3, "7")
    await world.rest(deployer)
    assert deployer.serving() == {"7": (100, True)}, "all at once needs no split"


async def test_a_route_that_is_not_there_yet_is_waited_for(world: World) -> None:
    deployer = world.deployer(settle_s=60)
    await deployer.call(1, "6")
    await world.rest(deployer)
    world.kserve.has_gateway = False
    world.cluster.remove("httproutes", "iris-predictor", world.namespace)
    await deployer.call(2, "7", stable="6", weight=10)
    await world.rest(deployer)
    assert deployer.said() == ("Progressing", "ConfigRefused")
    world.kserve.has_gateway = True
    world.kserve.settle()
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    assert deployer.serving() == {"6": (90, True), "7": (10, True)}


async def test_an_autoscaler_that_wants_more_than_there_is_makes_nobody_ill(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7", config={"min_replicas": 2, "max_replicas": 6})
    await world.rest(deployer)
    world.kserve.is_paused = True
    scaled = world.deployments()["iris-predictor"]
    scaled["spec"]["replicas"] = 4
    scaled = world.cluster.put("deployments", scaled, manager="hpa")
    counts = {"replicas": 4, "updatedReplicas": 4, "availableReplicas": 2}
    status = {**scaled["status"], **counts, "observedGeneration": scaled["metadata"]["generation"]}
    world.cluster.put("deployments", {**scaled, "status": status}, subresource="status")
    await deployer.reconciler.reconcile()
    assert (deployer.said(), deployer.serving()) == (("Ready", ""), {"7": (100, True)})
    await deployer.call(2, "7", config={"min_replicas": 3, "max_replicas": 6})
    await deployer.reconciler.reconcile()
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Progressing", ""), "two are fewer than the plan's least"


async def test_without_canaries_all_at_once_lets_go_of_what_served(world: World) -> None:
    deployer = world.deployer(kserve_version="0.19")
    await deployer.call(1, "7", weight=100, stable="6")
    await world.rest(deployer)
    assert (deployer.said(), deployer.serving()) == (("Ready", ""), {"7": (100, True)})


async def test_a_cluster_whose_schema_says_nothing_of_canaries_has_none(world: World) -> None:
    deployer = world.deployer(kserve_version="auto")
    await deployer.call(1, "7", weight=10, stable="6")
    await world.rest(deployer)
    assert deployer.said() == ("Failed", "ConfigRefused")
    assert "KSERVE_VERSION" in deployer.resource().message
    assert deployer.serving() == {"6": (100, True)}, "what was to stay beside it serves alone"
    with pytest.raises(Problem):
        await deployer.call(2, "7", weight=10, stable="6")


async def test_a_model_that_is_removed_is_stopped_or_deleted(world: World) -> None:
    for deployer, name in ((world.deployer(), "stopped"), (world.deployer(allow_delete=True), "deleted")):
        await deployer.call(1, "7", resource=name)
        await world.rest(deployer)
        await deployer.call(2, None, resource=name)
        await world.rest(deployer)
        assert (deployer.said(name), deployer.serving(name)) == (("Ready", ""), {})
        await deployer.call(3, "7", resource=name)
        await world.rest(deployer)
        assert (deployer.said(name), deployer.serving(name)) == (("Ready", ""), {"7": (100, True)})


async def test_a_kserve_that_cannot_stop_refuses_to_remove_without_leave_to_delete(world: World) -> None:
    deployer = world.deployer(kserve_version="0.15")
    with pytest.raises(Problem, match="may not delete"):
        await deployer.call(1, None)


async def test_what_changes_after_the_end_is_told_and_ready_stays_ready(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    world.kserve.lose_pods("iris", world.namespace)
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Ready", "Unhealthy")
    assert deployer.serving() == {"7": (100, False)}, "nothing else takes its requests"
    world.kserve.settle()
    await world.rest(deployer)
    assert (deployer.said(), deployer.serving()) == (("Ready", ""), {"7": (100, True)})
    assert [phase for _, phase, _ in deployer.reports()][-1] == "Ready"


async def test_where_kserve_copies_the_generation_to_the_pods_the_pods_of_it_are_waited_for(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    assert deployer.resource().backend["kserve"]["restarts_with_each_generation"]
    world.kserve.is_paused = True
    await deployer.call(2, "7")
    for _ in range(3):
        await deployer.reconciler.reconcile()
    assert deployer.said() == ("Progressing", "")
    world.kserve.is_paused = False
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
