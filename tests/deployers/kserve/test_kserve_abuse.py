"""What people, other controllers and a bad day do to what is served by KServe, and what is left then."""

from __future__ import annotations

import pytest
from countersign_deployer.calls import take
from countersign_deployer.contract import Deployment
from countersign_deployer.problems import Problem
from countersign_kserve.names import SLOTS, deployment_name, service_name
from countersign_kserve.state import Step

from tests.deployers.kserve.conftest import World, uri_of, wanted
from tests.deployers.kserve.simulator.kserve import LOADING, not_loaded


@pytest.mark.parametrize("end", ["green", "blue", "predictor", "transformer", "explainer"])
def test_no_model_is_called_as_what_kserve_makes_for_another(end: str) -> None:
    made = {deployment_name("iris", slot) for slot in ("", *SLOTS)} | {"iris-predictor"}
    name = service_name(f"iris-{end}", "models")
    assert not {name, deployment_name(name, "")} & made


async def test_nobody_takes_over_the_object_of_another_model_by_a_name_that_comes_to_the_same(world: World) -> None:
    both = {"default": world.namespace, "team-a": world.namespace}
    deployer = world.deployer(namespaces=both, adopt=True, force=True)
    await deployer.call(1, "7", resource="team-a/iris")
    await world.rest(deployer)
    (victim,) = world.cluster.list("inferenceservices", world.namespace)
    name = victim["metadata"]["name"]
    await deployer.call(2, "8", resource=name)
    await world.rest(deployer)
    assert deployer.said(name) == ("Failed", "PolicyDenied")
    assert "team-a/iris" in deployer.resource(name).message
    (left,) = world.cluster.list("inferenceservices", world.namespace)
    assert left["spec"] == victim["spec"]


async def test_a_workspace_whose_namespace_was_taken_away_holds_up_no_other(world: World) -> None:
    deployer = world.deployer(namespaces={"default": world.namespace, "team-a": world.namespace})
    await deployer.call(1, "7", resource="team-a/iris")
    await world.rest(deployer)
    deployer.settings.namespaces.pop("team-a")
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile({(world.namespace, "iris")})
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    assert deployer.said("team-a/iris") == ("Ready", "PolicyDenied")
    assert "NAMESPACES" in deployer.resource("team-a/iris").message


async def test_a_version_that_fails_after_the_state_was_lost_gives_way_to_what_served(world: World) -> None:
    first = world.deployer()
    await first.call(4, "7")
    await world.rest(first)
    world.kserve.outcomes[f"{uri_of('8')}/"] = not_loaded("ValueError: no")
    second = world.deployer()  # with a state of its own, which is empty
    await second.call(5, "8")
    await world.rest(second)
    assert second.said()[0] == "Failed"
    service = world.service()
    assert service is not None
    assert service["spec"]["predictor"]["model"]["storageUri"] == f"{uri_of('7')}/"
    assert "serving.kserve.io/stop" not in service["metadata"]["annotations"]
    assert second.serving() == {"7": (100, True)}


async def test_two_that_never_served_leave_nothing_half_deployed(world: World) -> None:
    """The first was superseded before it failed: it is nothing to go back to."""
    for version in ("7", "8"):
        world.kserve.outcomes[f"{uri_of(version)}/"] = not_loaded("ValueError: no")
    deployer = world.deployer()
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    await deployer.call(2, "8")
    await world.rest(deployer)
    assert deployer.said() == ("Failed", "ModelLoadFailed")
    assert not world.deployments()


@pytest.mark.parametrize("generation", [2, 3])
@pytest.mark.parametrize("allow_delete", [False, True])
async def test_a_roll_that_fails_after_the_state_was_lost_leaves_the_pods_that_serve(
    world: World, allow_delete: bool, generation: int
) -> None:
    """Nobody knows any more what they are of: the object says the version that does not come up."""
    first = world.deployer(allow_delete=allow_delete)
    await first.call(1, "6")
    await world.rest(first)
    serving = world.pods()
    world.kserve.outcomes[f"{uri_of('7')}/"] = LOADING
    await first.call(2, "7")
    await world.rest(first)
    second = world.deployer(allow_delete=allow_delete)  # with a state of its own, which is empty
    world.kserve.outcomes[f"{uri_of('7')}/"] = not_loaded("ValueError: no")
    await second.call(generation, "7")
    await world.rest(second)
    assert second.said() == ("Failed", "ModelLoadFailed")
    assert second.resource().message.endswith("What is there is left as it is.")
    assert serving < world.pods()
    await second.call(4, "8")
    await world.rest(second)
    assert (second.said(), second.serving()) == (("Ready", ""), {"8": (100, True)})


async def test_what_was_stopped_before_the_state_was_lost_is_stopped_again(world: World) -> None:
    first = world.deployer()
    for generation, version in ((1, "6"), (2, None)):
        await first.call(generation, version)
        await world.rest(first)
    world.kserve.outcomes[f"{uri_of('7')}/"] = not_loaded("ValueError: no")
    second = world.deployer()
    await second.call(3, "7")
    await world.rest(second)
    assert second.said() == ("Failed", "ModelLoadFailed")
    assert not world.pods()


async def test_what_was_taken_over_and_cannot_be_replaced_is_left(world: World) -> None:
    model = {"modelFormat": {"name": "mlflow"}, "storageUri": "s3://theirs/"}
    theirs = {
        "metadata": {"name": "iris", "namespace": world.namespace},
        "spec": {"predictor": {"minReplicas": 1, "model": model}},
    }
    world.cluster.put("inferenceservices", theirs)
    world.kserve.settle()
    serving = world.pods()
    world.kserve.outcomes[f"{uri_of('7')}/"] = not_loaded("ValueError: no")
    deployer = world.deployer(adopt=True, force=True, allow_delete=True)
    await deployer.call(1, "7")
    await world.rest(deployer)
    assert deployer.said() == ("Failed", "ModelLoadFailed")
    assert deployer.resource().message.endswith("What is there is left as it is.")
    assert serving < world.pods()
    mended = {"spec": {"predictor": {"model": {"storageUri": "s3://theirs/again/"}}}}
    world.cluster.patch("inferenceservices", "iris", mended, world.namespace, manager="kubectl-edit")
    await world.rest(deployer)
    service = world.service()
    assert service is not None
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://theirs/again/"


async def test_what_answers_is_not_taken_away_by_the_verdict_on_what_came_after(world: World) -> None:
    """The first version came up, and was superseded before anybody said so."""
    deployer = world.deployer(allow_delete=True)
    await deployer.call(1, "7")
    await deployer.reconciler.reconcile()
    world.kserve.settle()
    serving = world.pods()
    world.kserve.outcomes[f"{uri_of('8')}/"] = not_loaded("ValueError: no")
    await deployer.call(2, "8")
    await world.rest(deployer)
    assert deployer.said() == ("Failed", "ModelLoadFailed")
    assert serving < world.pods()
    assert deployer.resource().step is Step.LEFT
    world.cluster.remove("inferenceservices", "iris", world.namespace)
    await world.rest(deployer)
    assert world.service() is None, "what somebody cleared away is not made again"


async def test_an_object_on_its_way_out_is_waited_for_and_made_anew(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    held = {"metadata": {"finalizers": ["example.org/slow"]}}
    world.cluster.patch("inferenceservices", "iris", held, world.namespace, manager="somebody")
    service = world.service()
    assert service is not None
    await deployer.api.delete(world.namespace, "iris", uid=service["metadata"]["uid"])
    await deployer.call(2, "7")
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Progressing", "")
    assert "being deleted" in deployer.resource().message
    world.cluster.patch("inferenceservices", "iris", {"metadata": {"finalizers": None}}, world.namespace)
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    service = world.service()
    assert service is not None
    assert "deletionTimestamp" not in service["metadata"]


async def test_a_canary_that_somebody_adds_by_hand_is_told(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    predictor = {
        "name": "mine",
        "minReplicas": 1,
        "model": {"modelFormat": {"name": "mlflow"}, "storageUri": "s3://x/"},
    }
    change = {"spec": {"canary": [{"trafficPercent": 50, "predictor": predictor}]}}
    world.cluster.patch("inferenceservices", "iris", change, world.namespace, manager="kubectl-edit")
    for _ in range(4):
        await deployer.reconciler.reconcile()
        world.kserve.settle()
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Ready", "Unhealthy")
    assert deployer.resource().message == "Requests go to iris-mine-predictor, which is to get none."


@pytest.mark.parametrize("said", ["9" * 5000, "٣", "-1", "1e3", ""])
async def test_a_generation_that_is_no_number_is_none(world: World, said: str) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    change = {"metadata": {"annotations": {"countersign/generation": said}}}
    world.cluster.patch("inferenceservices", "iris", change, world.namespace, manager="kubectl-edit")
    await deployer.reconciler.reconcile()
    assert deployer.resource().step != "yielded"
    assert deployer.said()[1] in {"Unhealthy", "FieldManagerConflict"}


@pytest.mark.parametrize(
    "config",
    [
        {"env": [{"name": "AWS_ENDPOINT_URL", "value": "http://evil"}]},
        {"image": "evil"},
        {"storageUri": "s3://evil/"},
        {"service_account": "cluster-admin"},
        {"runtime": "theirs"},
        {"node_selector": {"a": "b"}},
        {"resources": {"requests": {"cpu": "٣"}}},
        {"resources": {"requests": {"cpu": "1"}, "claims": []}},
        {"min_replicas": True},
        {"min_replicas": 10**30},
        {"max_replicas": 0},
    ],
)
async def test_options_open_no_door(world: World, config: dict[str, object]) -> None:
    deployer = world.deployer()
    with pytest.raises(Problem) as refused:
        await deployer.call(1, "7", config=config)
    assert refused.value.status == 422
    assert refused.value.fields[0][0].startswith("data.config.")
    assert deployer.store.snapshot().resources == {}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": {"uri": "s3://models/$(AWS_SECRET_ACCESS_KEY)"}}, "data.model.uri"),
        ({"traffic": {"uri": "s3://models/$(HOME)"}}, "data.traffic.stable.uri"),
    ],
)
async def test_an_address_in_which_kubernetes_would_put_a_variable_is_refused(
    world: World, changes: dict[str, dict[str, str]], field: str
) -> None:
    deployer = world.deployer()
    call = wanted(1, "7", stable="6", weight=10).model_dump(mode="json")
    call["model"] |= changes.get("model", {})
    call["traffic"]["stable"] |= changes.get("traffic", {})
    with pytest.raises(Problem) as refused:
        await take(Deployment.model_validate(call), deployer.store, deployer.reconciler.accept)
    assert [name for name, _ in refused.value.fields] == [field]


async def test_a_verdict_while_the_cluster_is_away_is_put_right_when_it_is_back(world: World) -> None:
    deployer = world.deployer()
    await deployer.call(1, "7")
    await world.rest(deployer)
    world.kserve.is_paused = True
    await deployer.call(2, "8")
    await deployer.reconciler.reconcile()  # the object asks for version 8 now
    world.cluster.is_away = True
    async with deployer.store.transaction() as state:
        state.resources["iris"].deadline_at = 0
    await deployer.reconciler.reconcile()
    assert deployer.said() == ("Errored", "Unreachable")
    world.cluster.is_away, world.kserve.is_paused = False, False
    await world.rest(deployer)
    service = world.service()
    assert service is not None
    assert service["spec"]["predictor"]["model"]["storageUri"] == f"{uri_of('7')}/"
    assert deployer.serving() == {"7": (100, True)}
    assert deployer.said() == ("Errored", "Unreachable")
