"""Rollouts in KServe's Knative mode, where each change is a Revision and KServe splits between the last two."""

from __future__ import annotations

import pytest

from tests.deployers.kserve.conftest import Deployer, World, uri_of
from tests.deployers.kserve.simulator.kserve import LOADING, not_loaded

KNATIVE = {"deployment_mode": "Knative"}


def percent(world: World) -> int | None:
    service = world.service()
    assert service is not None
    found: int | None = service["spec"]["predictor"].get("canaryTrafficPercent")
    return found


async def first(world: World) -> Deployer:
    deployer = world.deployer(**KNATIVE)
    await deployer.call(1, "6")
    await world.rest(deployer)
    return deployer


@pytest.fixture(autouse=True)
def _stable_pods(world: World) -> None:
    from countersign_kserve.names import CHANGING

    world.kserve.disallowed.update(CHANGING)


async def test_a_version_is_ready_when_its_revision_is(world: World) -> None:
    deployer = await first(world)
    assert (deployer.said(), deployer.serving()) == (("Ready", ""), {"6": (100, True)})
    assert deployer.resource().serving[0].name == "iris-predictor-00001"


async def test_the_old_revision_serves_until_the_new_one_can(world: World) -> None:
    deployer = await first(world)
    world.kserve.outcomes[f"{uri_of('7')}/"] = LOADING
    await deployer.call(2, "7")
    await world.rest(deployer)
    assert deployer.said() == ("Progressing", "")
    assert deployer.serving() == {"7": (0, False), "6": (100, True)}
    del world.kserve.outcomes[f"{uri_of('7')}/"]
    world.kserve.settle()
    await world.rest(deployer)
    assert (deployer.said(), deployer.serving()) == (("Ready", ""), {"7": (100, True)})


async def test_a_revision_that_fails_is_left_behind(world: World) -> None:
    deployer = await first(world)
    world.kserve.outcomes[f"{uri_of('7')}/"] = not_loaded("ValueError")
    await deployer.call(2, "7")
    await world.rest(deployer)
    assert deployer.said() == ("Failed", "ModelLoadFailed")
    assert deployer.serving() == {"6": (100, True)}


async def test_a_revision_that_knative_gives_up_on_ends_as_errored(world: World) -> None:
    deployer = await first(world)
    world.kserve.outcomes[f"{uri_of('7')}/"] = LOADING
    await deployer.call(2, "7")
    await world.rest(deployer)
    world.kserve.pass_deadlines()
    await world.rest(deployer)
    assert deployer.said() == ("Errored", "ProgressDeadlineExceeded")


async def test_a_canary_gets_its_share_and_is_promoted(world: World) -> None:
    deployer = await first(world)
    for generation, weight in ((2, 0), (3, 10), (4, 50)):
        await deployer.call(generation, "7", weight=weight, stable="6")
        await world.rest(deployer)
        assert deployer.said() == ("Ready", "")
        assert deployer.serving() == {"6": (100 - weight, True), "7": (weight, True)}
        assert percent(world) == weight
    await deployer.call(5, "7")
    await world.rest(deployer)
    assert (deployer.said(), deployer.serving(), percent(world)) == (("Ready", ""), {"7": (100, True)}, None)
    assert len(world.cluster.list("revisions", world.namespace)) == 2, "nothing was started anew"


async def test_going_back_first_takes_the_requests_away(world: World) -> None:
    """Without its canary, KServe would send all requests to the newest revision that is ready: the bad one."""
    deployer = await first(world)
    await deployer.call(2, "7", weight=50, stable="6")
    await world.rest(deployer)
    await deployer.call(3, "6")
    shares = []
    for _ in range(6):
        await deployer.reconciler.reconcile()
        world.kserve.settle()
        service = world.service()
        assert service is not None
        traffic = service["status"]["components"]["predictor"]["traffic"]
        shares.append({each["revisionName"]: each["percent"] for each in traffic}.get("iris-predictor-00002", 0))
    assert set(shares) == {0}
    await world.rest(deployer)
    assert (deployer.said(), deployer.serving(), percent(world)) == (("Ready", ""), {"6": (100, True)}, None)


async def test_a_share_beside_what_is_not_served_yet_waits_until_it_is(world: World) -> None:
    deployer = await first(world)
    await deployer.call(2, "8", weight=10, stable="7")
    await world.rest(deployer)
    assert deployer.said() == ("Ready", "")
    assert deployer.serving() == {"7": (90, True), "8": (10, True)}
