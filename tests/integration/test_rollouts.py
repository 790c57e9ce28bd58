"""Rollouts on the real MLflow and database: by steps, back by themselves, and resumed by whichever worker comes next.

The targets are scripted: a test says what each reports, and when. Nothing is sent; what would be is in the outbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.adapters.assertions import GatewayAssertion
from app.adapters.mlflow_registry import MlflowRegistry
from app.domain.deployments import Action, Report, Serving, Target
from app.domain.errors import (
    Conflict,
    Forbidden,
    IllegalMove,
    NotAnApprover,
    NotFound,
    PreconditionFailed,
    SelfApproval,
    UpstreamUnavailable,
)
from app.domain.events import EventType
from app.domain.identity import Credential, CredentialKind
from app.domain.phases import Phase, Reason
from app.domain.promotions import Kind, Promotion, State
from app.domain.rolling_out import Order, Outcome, Stage
from app.main import describe
from app.services.promotions import Wanted
from app.services.reconciling import Reconciling
from tests.conftest import database_of
from tests.door import MovableClock
from tests.failing import KilledError, failing
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer
from tests.rolling_out import CANARY, DARK, Fleet

APPROVING = (Order.RESUME, Order.ALL_AT_ONCE)
BOTH = pytest.mark.parametrize("moves", ["before", "after_ready"])


@pytest.fixture(scope="module")
async def court(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Court]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            async with court.database.unit_of_work() as work:
                for name in ("east", "west"):
                    secrets = {"secrets": ("file:/none",), "callback_secrets": ("file:/none",)}
                    target = Target(name, f"http://{name}.example/v1/deployments", **secrets, deadline_s=900)
                    await work.targets.put(target, at=court.clock.now())
                await work.commit()
            yield court


def new_fleet(court: Court, *targets: str, versions: int = 2) -> Fleet:
    return Fleet(court, court.model(versions), targets or ("east",))


@pytest.fixture
async def canary(court: Court) -> Fleet:
    """Version 1 is live on two targets; what comes next goes by steps."""
    fleet = new_fleet(court, "east", "west", versions=3)
    await fleet.policy()
    await fleet.live("1")
    await fleet.policy(rollout=CANARY)
    return fleet


# The way there.


async def resolved(fleet: Fleet, version: str) -> tuple[str | None, str | None]:
    """The digest, and the promotion by which it was approved, as a server that loads the version is told."""
    uri = f"models:/{fleet.model}/{version}"
    found = await fleet.court.gateway.services.resolver.resolve(fleet.court.bob, uri)
    return found.digest, found.promotion_id


async def test_what_targets_are_called_for_resolves_as_it_was_approved_wherever_the_alias_is(canary: Fleet) -> None:
    first = (await resolved(canary, "1"))[1]
    assert await resolved(canary, "2") == (None, None)
    await canary.policy(rollout=CANARY, aliasMoves="after_ready")
    second = await canary.begin("2")
    assert (canary.holder(), await resolved(canary, "2")) == ("1", (second.digest, second.id))
    await canary.fail("east")
    await canary.ready(second)
    assert await resolved(canary, "2") == (None, None)
    await canary.policy(rollout=CANARY)
    third = await canary.begin("3")
    # The replicas of what takes the rest are restarted, too.
    assert (canary.holder(), (await resolved(canary, "1"))[1]) == ("3", first)
    assert await resolved(canary, "3") == (third.digest, third.id)


@BOTH
async def test_all_at_once_is_live_when_every_target_is_ready(court: Court, moves: str) -> None:
    fleet = new_fleet(court, "east", "west")
    await fleet.policy(aliasMoves=moves)
    first = await fleet.begin("1")
    assert first.state is State.ROLLING_OUT
    assert await fleet.calls() == dict.fromkeys(fleet.targets, ("apply", "1", 100, None))
    assert fleet.holder() == ("1" if moves == "before" else None)
    await fleet.report(Phase.READY, "east")
    assert (await fleet.work(first)).state is State.ROLLING_OUT
    await fleet.report(Phase.READY, "west")
    live = await fleet.work(first)
    assert (live.state, fleet.holder()) == (State.LIVE, "1")
    assert (await fleet.progress(first)).stage is Stage.DONE
    await fleet.check_record("1")
    second = await fleet.begin("2")
    assert await fleet.calls() == dict.fromkeys(fleet.targets, ("apply", "2", 100, None))
    assert (await fleet.ready(second)).state is State.LIVE


async def test_a_dark_version_gets_nothing_and_then_everything(court: Court) -> None:
    fleet = new_fleet(court)
    await fleet.policy(rollout=DARK)
    first = await fleet.begin("1")
    assert await fleet.calls() == {"east": ("apply", "1", 100, None)}  # dark it would be of use to nobody
    assert (await fleet.ready(first)).state is State.LIVE
    second = await fleet.begin("2")
    assert await fleet.calls() == {"east": ("apply", "2", 0, "1")}
    await fleet.report()
    await fleet.later(second, 1)
    assert await fleet.calls() == {"east": ("apply", "2", 100, None)}


@BOTH
async def test_a_canary_gets_more_only_when_every_target_is_ready_and_the_time_is_over(
    canary: Fleet, moves: str
) -> None:
    await canary.policy(rollout=CANARY, aliasMoves=moves)
    second = await canary.begin("2")
    for weight in (10, 50):
        assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "2", weight, "1"))
        await canary.report(Phase.READY, "east")
        await canary.later(second)  # the time is over, and one target is not ready
        assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "2", weight, "1"))
        await canary.report(Phase.READY, "west")
        await canary.work(second)
        assert (await canary.progress(second)).stage is Stage.HOLDING
        await canary.later(second)
        assert canary.holder() == ("2" if moves == "before" else "1")
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "2", 100, None))
    assert (await canary.ready(second)).state is State.LIVE
    await canary.check_record("2")
    steps = (await canary.progress(second)).steps
    assert [(each.weight, each.outcome) for each in steps] == [(each, Outcome.PASSED) for each in (10, 50, 100)]
    assert (await canary.told(second)).count(EventType.ROLLOUT_STEP_BEGAN) == len(steps)


async def test_without_anything_that_could_take_the_rest_a_canary_is_all_at_once(court: Court) -> None:
    fleet = new_fleet(court)
    await fleet.policy(rollout=CANARY)
    first = await fleet.begin("1")
    (step,) = (await fleet.progress(first)).steps
    assert (step.weight, step.message) == (100, "Nothing else is served that could take a share: it gets all requests.")
    assert (await fleet.ready(first)).state is State.LIVE


async def test_a_last_step_that_is_held_keeps_what_was_served_before_until_it_has_passed(canary: Fleet) -> None:
    await canary.policy(rollout={"strategy": "canary", "steps": [{"weight": 100, "hold": "5m"}]})
    second = await canary.begin("2")
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "2", 100, "1"))
    await canary.ready(second)
    await canary.later(second)
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "2", 100, None))
    assert (await canary.ready(second)).state is State.LIVE


async def test_a_target_that_is_not_well_any_more_has_its_step_held_anew(canary: Fleet) -> None:
    second = await canary.ready(await canary.begin("2"))
    await canary.report(Phase.PROGRESSING, "east")
    assert (await canary.progress(second)).stage is Stage.MOVING
    await canary.later(second)
    assert (await canary.calls())["east"][2] == 10
    await canary.ready(second)
    assert (await canary.progress(second)).stage is Stage.HOLDING


@pytest.mark.parametrize("step", [0, 2])
async def test_a_target_that_is_ready_with_other_bytes_gets_no_more_and_neither_does_the_alias(
    canary: Fleet, step: int
) -> None:
    await canary.policy(rollout=CANARY, aliasMoves="after_ready")
    second = await canary.begin("2")
    for _ in range(step):
        await canary.report()
        await canary.later(second)
    weight, others = (10, 50, 100)[step], "sha256:" + "0" * 64
    rest = (Serving("1", 100 - weight, True),) if weight < 100 else ()
    await canary.report(serving=(Serving("2", weight, True, digest=others), *rest))
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "1", 100, None))
    assert "(DigestMismatch)" in (await canary.progress(second)).reason
    assert (await canary.ready(second)).state is State.ROLLED_BACK
    assert canary.holder() == "1"


async def test_a_target_that_serves_another_share_has_not_the_step_in_effect(canary: Fleet) -> None:
    await canary.policy(rollout=CANARY, aliasMoves="after_ready")
    second = await canary.begin("2")
    await canary.report(serving=(Serving("1", 100, True),))
    await canary.later(second)
    assert (await canary.progress(second)).stage is Stage.MOVING
    await canary.report(serving=(Serving("2", 10, True), Serving("1", 90, True)))
    assert (await canary.progress(second)).stage is Stage.HOLDING
    await canary.report(Phase.READY, "west", serving=(Serving("1", 100, True),))
    canary.court.clock.ahead += timedelta(minutes=16)
    await canary.court.worker.sweeping.sweep()
    progress = await canary.progress(second)
    assert progress.stage is Stage.GOING_BACK
    assert "target west failed (ProgressDeadlineExceeded)" in progress.reason
    assert "serves version 1 (100 %), and not version 2 (10 %) and version 1 the rest" in progress.reason
    assert (await canary.ready(second)).state is State.ROLLED_BACK


# Back again.


@pytest.mark.parametrize(("moves", "step"), [("before", 0), ("before", 2), ("after_ready", 2)])
async def test_a_step_that_fails_takes_requests_and_alias_back(canary: Fleet, moves: str, step: int) -> None:
    await canary.policy(rollout=CANARY, aliasMoves=moves)
    second = await canary.begin("2")
    for _ in range(step):
        await canary.report()
        await canary.later(second)
    await canary.fail("west")
    # In the transaction of the verdict, before any worker comes:
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "1", 100, None))
    assert (await canary.progress(second)).stage is Stage.GOING_BACK
    await canary.work(second)
    assert canary.holder() == "1"
    await canary.ready(second)
    undone = await canary.court.get(second)
    assert undone.state is State.ROLLED_BACK
    await canary.check_record("1")
    progress = await canary.progress(second)
    assert progress.stage is Stage.UNDONE
    assert progress.present.outcome is Outcome.FAILED
    assert progress.reason == (
        "target west failed (ModelLoadFailed): The model could not be loaded. no module named spam"
    )
    told = await canary.told(second)
    assert EventType.ROLLOUT_WENT_BACK in told
    assert told[-1] == EventType.ROLLED_BACK
    assert EventType.FAILED not in told
    if moves == "before":
        rollback = await rollback_of(canary, second)
        assert (rollback.kind, rollback.state, rollback.to_version) == (Kind.ROLLBACK, State.LIVE, "1")
        assert rollback.requested_by_name == "worker"
        assert undone.state_reason == f"{progress.reason}; rolled back by {rollback.id}"
    else:
        assert "production did not move" in (undone.state_reason or "")


async def test_a_version_that_falls_ill_while_it_is_held_goes_back_when_its_time_is_over(canary: Fleet) -> None:
    second = await canary.ready(await canary.begin("2"))
    assert (await canary.progress(second)).stage is Stage.HOLDING
    await canary.report(Phase.PROGRESSING, "east", reason=Reason.UNHEALTHY, message="a replica fell over")
    canary.court.clock.ahead += timedelta(minutes=14)
    await canary.court.worker.sweeping.sweep()
    assert (await canary.calls())["east"] == ("apply", "2", 10, "1")
    canary.court.clock.ahead += timedelta(minutes=2)
    await canary.court.worker.sweeping.sweep()
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "1", 100, None))
    await canary.work(second)
    ended = await canary.ready(second)
    assert (ended.state, canary.holder()) == (State.ROLLED_BACK, "1")
    assert "a replica fell over" in (ended.state_reason or "")


async def test_what_was_good_before_is_known_though_the_clock_was_set_back(canary: Fleet) -> None:
    clock = canary.court.clock
    clock.ahead -= timedelta(hours=2)
    try:
        second = await canary.begin("2")
        await canary.fail("west")
        await canary.work(second)
        undone = await canary.ready(second)
        assert (undone.state, (await rollback_of(canary, second)).to_version) == (State.ROLLED_BACK, "1")
    finally:
        clock.ahead += timedelta(hours=2)
    await canary.check_record("1")


async def rollback_of(fleet: Fleet, promotion: Promotion) -> Promotion:
    async with fleet.court.database.unit_of_work() as work:
        history = await work.promotions.history(promotion.key)
    return next(each for each in history if each.rolls_back == promotion.id)


@BOTH
async def test_a_first_promotion_that_fails_leaves_nothing(court: Court, moves: str) -> None:
    fleet = new_fleet(court, "east", "west")
    await fleet.policy(aliasMoves=moves)
    first = await fleet.begin("1")
    await fleet.fail("east")
    assert {each[0] for each in (await fleet.calls()).values()} == {Action.REMOVE.value}
    await fleet.work(first)
    await fleet.check_record(None)
    undone = await fleet.ready(first)
    assert undone.state is State.ROLLED_BACK, undone.state_reason
    assert "The model could not be loaded" in (undone.state_reason or "")
    again = await fleet.begin("2")
    assert (await fleet.ready(again)).state is State.LIVE


async def test_an_alias_that_no_promotion_put_there_goes_back_to_where_it_was(court: Court) -> None:
    fleet = new_fleet(court)
    court.mlflow.call("POST", "registered-models/alias", {"name": fleet.model, "alias": "production", "version": "1"})
    await fleet.policy()
    second = await fleet.begin("2")
    await fleet.fail()
    await fleet.work(second)
    assert fleet.holder() == "1"
    assert (await fleet.ready(second)).state is State.ROLLED_BACK


async def test_a_rollback_that_cannot_happen_leaves_the_requests_back_and_says_where_the_alias_is(
    canary: Fleet, desk: Desk
) -> None:
    second = await canary.begin("2")
    canary.court.mlflow.call("DELETE", "model-versions/delete", {"name": canary.model, "version": "1"})
    await canary.fail("east")
    failed = await canary.work(second)
    assert failed.state is State.FAILED
    assert failed.state_reason is not None
    for part in ("could not be loaded", "were sent back", "production is still held by version 2", "no version 1"):
        assert part in failed.state_reason.replace("There is no", "no")
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "1", 100, None))
    shown = (await desk.call("vera", "GET", f"/control/v1/promotions/{second.id}?wait=0.01")).json()
    assert (shown["state"], shown["settled"]) == ("failed", False)  # its targets are on their way back
    await canary.ready(second)
    shown = (await desk.call("vera", "GET", f"/control/v1/promotions/{second.id}?wait=60")).json()
    assert (shown["state"], shown["settled"]) == ("failed", True)
    assert (await canary.progress(second)).stage is Stage.UNDONE
    assert EventType.FAILED in await canary.told(second)
    # What failed is not deployed again, all at once, because somebody moves the alias away from it.
    court, calls = canary.court, await canary.calls()
    await canary.policy(drift="restore")
    court.mlflow.call("POST", "registered-models/alias", {"name": canary.model, "alias": "production", "version": "3"})
    court.clock.ahead += timedelta(minutes=1)
    registry = MlflowRegistry([court.mlflow.url], GatewayAssertion(None, court.clock))
    await Reconciling(court.database.unit_of_work, registry, court.clock, court.promotions, pause_s=0).reconcile()
    await registry.close()
    async with court.database.unit_of_work() as work:
        drift = await work.drifts.find_open(second.key)
    assert drift
    assert (drift.restoring, "a person has to decide" in (drift.obstacle or "")) == (None, True)
    assert await canary.calls() == calls


async def test_a_rollback_that_mlflow_refuses_on_the_way_is_said_of_what_it_was_to_undo(canary: Fleet) -> None:
    second = await canary.begin("2")
    await canary.fail("east")
    with failing(canary.court.worker.advancing, refuses=lambda name, *_: name == "set_alias"):
        failed = await canary.work(second)
    assert failed.state is State.FAILED
    assert "production is still held by version 2" in (failed.state_reason or "")
    assert "INVALID_PARAMETER_VALUE" in (failed.state_reason or "")


async def test_a_target_that_does_not_go_back_is_for_a_person(canary: Fleet) -> None:
    await canary.policy(rollout=CANARY, aliasMoves="after_ready")
    second = await canary.begin("2")
    await canary.fail("east")
    await canary.report(Phase.ERRORED, "west", reason=Reason.UNREACHABLE)
    failed = await canary.work(second)
    assert failed.state is State.FAILED
    assert "target west did not go back" in (failed.state_reason or "")
    assert "production did not move" in (failed.state_reason or "")
    assert (await canary.progress(second)).stage is Stage.FAILED


async def test_what_falls_ill_after_it_went_back_holds_nothing_up(canary: Fleet) -> None:
    await canary.policy(rollout=CANARY, aliasMoves="after_ready")
    second = await canary.begin("2")
    await canary.fail("east")
    await canary.report(Phase.READY, "east")
    await canary.report(Phase.PROGRESSING, "east", reason=Reason.UNHEALTHY, message="a replica fell over")
    assert (await canary.progress(second)).stage is Stage.GOING_BACK
    await canary.report(Phase.READY, "west")
    assert (await canary.court.get(second)).state is State.ROLLED_BACK


@pytest.mark.parametrize("serving", [(), (Serving("2", 100, True),)], ids=["silent", "does not let go"])
async def test_a_target_that_is_not_back_in_time_is_for_a_person(canary: Fleet, serving: tuple[Serving, ...]) -> None:
    await canary.policy(rollout=CANARY, aliasMoves="after_ready")
    second = await canary.begin("2")
    await canary.fail("east")
    await canary.report(Phase.READY, "east")
    await canary.report(Phase.READY if serving else Phase.ACCEPTED, "west", serving=serving)
    canary.court.clock.ahead += timedelta(minutes=14)
    await canary.court.worker.sweeping.sweep()
    assert (await canary.court.get(second)).state is State.ROLLING_OUT
    canary.court.clock.ahead += timedelta(minutes=2)
    await canary.court.worker.sweeping.sweep()
    failed = await canary.court.get(second)
    assert failed.state is State.FAILED
    assert "target west did not go back" in (failed.state_reason or "")


async def test_a_rollout_that_is_over_meanwhile_is_not_looked_at_again(canary: Fleet) -> None:
    second = await canary.ready(await canary.begin("2"))
    await canary.order(second, Order.GO_BACK)
    await canary.work(second)
    await canary.ready(second)
    async with canary.court.database.unit_of_work() as work:
        await work.rollouts.look_again(second.id, canary.court.clock.now())
        await work.commit()
        assert second.id not in await work.rollouts.due(canary.court.clock.now())


async def test_who_goes_back_is_looked_at_though_the_clock_was_set_back(canary: Fleet) -> None:
    second = await canary.begin("2")
    await canary.fail()
    canary.court.clock.ahead -= timedelta(hours=6)
    try:
        async with canary.court.database.unit_of_work() as work:
            assert second.id in await work.rollouts.due(canary.court.clock.now())
    finally:
        canary.court.clock.ahead += timedelta(hours=6)
    await canary.work(second)
    await canary.ready(second)


async def test_a_target_that_says_nothing_in_time_has_failed_for_what_it_waited_for(canary: Fleet) -> None:
    second = await canary.begin("2")
    await canary.report(Phase.READY, "east")
    await canary.report(Phase.PROGRESSING, "west", reason=Reason.NO_CAPACITY, message="0/3 nodes have room")
    canary.court.clock.ahead += timedelta(minutes=16)
    await canary.court.worker.sweeping.sweep()
    progress = await canary.progress(second)
    assert progress.stage is Stage.GOING_BACK
    assert "(NoCapacity)" in progress.reason
    assert "0/3 nodes have room" in progress.reason
    await canary.ready(second)


async def test_a_rollback_that_fails_is_not_rolled_back(canary: Fleet) -> None:
    await canary.policy()
    await canary.live("2")
    rollback, _ = await canary.court.promotions.roll_back(
        canary.court.bob, model=canary.model, alias="production", reason="it is bad"
    )
    await canary.work(rollback)
    await canary.fail("east")
    failed = await canary.work(rollback)
    assert failed.state is State.FAILED
    assert "the alias moved and is held by version 1" in (failed.state_reason or "")


# A world that moves.


async def test_a_newer_promotion_takes_the_targets_over(canary: Fleet) -> None:
    second = await canary.ready(await canary.begin("2"))
    third = await canary.begin("3")
    assert (await canary.court.get(second)).state is State.SUPERSEDED
    assert (await canary.progress(second)).stage is Stage.UNDONE
    # Version 2 has proved nothing: version 1 gets the rest.
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "3", 10, "1"))
    await canary.fail()
    await canary.work(third)
    await canary.ready(third)
    assert (await canary.court.get(third)).state is State.ROLLED_BACK
    await canary.check_record("1")


async def test_a_newer_promotion_that_is_not_applied_leaves_no_target_half_way(canary: Fleet) -> None:
    second = await canary.ready(await canary.begin("2"))
    third = await canary.court.ask(canary.model, "3")
    with failing(canary.court.worker.advancing, refuses=lambda name, *_: name == "set_alias"):
        assert (await canary.work(third)).state is State.STALE
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "1", 100, None))
    assert third.id in (await canary.progress(second)).reason


def refusing(fleet: Fleet, *versions: str) -> Any:
    """MLflow has none of these versions hold the alias."""
    refused = [(fleet.model, "production", version) for version in versions]
    return failing(
        fleet.court.worker.advancing, refuses=lambda name, *given: name == "set_alias" and given[:3] in refused
    )


@pytest.mark.parametrize("was", ["held", "failed", "paused"])
async def test_what_was_superseded_by_what_is_not_applied_gives_its_alias_back_too(canary: Fleet, was: str) -> None:
    second = await canary.ready(await canary.begin("2"))
    if was == "paused":
        await canary.order(second, Order.PAUSE)
    third = await canary.court.ask(canary.model, "3")
    away = failing(canary.court.worker.advancing, failure=UpstreamUnavailable("it is away"), fails_after=0)
    with away, pytest.raises(UpstreamUnavailable):
        await canary.work(third)
    if was == "failed":
        await canary.fail()
    with refusing(canary, "3"):
        assert (await canary.work(third)).state is State.STALE
    await canary.check_record("1")
    undone = await canary.ready(second)
    assert (undone.state, (await canary.progress(second)).stage) == (State.ROLLED_BACK, Stage.UNDONE)
    rollback = await rollback_of(canary, second)
    assert (undone.state_reason or "").endswith(f"; rolled back by {rollback.id}")
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "1", 100, None))
    told = await canary.told(second)
    assert [each for each in told if each in {EventType.SUPERSEDED, EventType.ROLLED_BACK}] == [
        EventType.SUPERSEDED,
        EventType.ROLLED_BACK,
    ]


@pytest.mark.parametrize("kind", ["promotion", "rollback"])
async def test_an_alias_that_cannot_be_given_back_is_said_of_who_holds_it(canary: Fleet, kind: str) -> None:
    second = await canary.ready(await canary.begin("2"))
    if kind == "promotion":
        newer = await canary.court.ask(canary.model, "3")
    else:
        newer, _ = await canary.court.promotions.roll_back(
            canary.court.bob, model=canary.model, alias="production", reason="it is bad"
        )
    with refusing(canary, "1", "3"):
        assert (await canary.work(newer)).state is State.STALE
    await canary.ready(second)
    failed = await canary.court.get(second)
    assert (failed.state, canary.holder()) == (State.FAILED, "2")
    assert "production is still held by version 2" in (failed.state_reason or "")
    assert (await canary.progress(second)).stage is Stage.UNDONE
    told = await canary.told(second)
    assert EventType.ROLLED_BACK not in told
    assert told.count(EventType.FAILED) == 1


async def test_an_alias_that_nobody_good_held_before_is_taken_away_when_the_newer_one_is_not_applied(
    court: Court,
) -> None:
    fleet = new_fleet(court)
    await fleet.policy()
    first = await fleet.begin("1")
    second = await fleet.court.ask(fleet.model, "2")
    with refusing(fleet, "2"):
        assert (await fleet.work(second)).state is State.STALE
    await fleet.work(first)
    await fleet.check_record(None)
    assert (await fleet.ready(first)).state is State.ROLLED_BACK
    assert (await fleet.calls())["east"][0] == Action.REMOVE.value


@pytest.mark.parametrize("targets", [("east", "west"), ("east",)])
@pytest.mark.parametrize("goes_well", [True, False])
async def test_what_waits_for_a_newer_one_to_take_the_alias_ends_with_it(
    canary: Fleet, targets: tuple[str, ...], *, goes_well: bool
) -> None:
    second = await canary.ready(await canary.begin("2"))
    await canary.policy(aliasMoves="after_ready", targets=list(targets))
    third = await canary.begin("3")
    await canary.work(second)
    # Version 2 serves nowhere any more, and holds the alias until it is known what becomes of version 3.
    assert (canary.holder(), (await canary.progress(second)).stage) == ("2", Stage.GOING_BACK)
    await (canary.report() if goes_well else canary.fail("east"))
    await canary.work(third)
    await canary.ready(third)
    await canary.ready(second)
    ends = {each.id: (await canary.court.get(each)).state for each in (second, third)}
    assert (await canary.progress(second)).stage is Stage.UNDONE
    if goes_well:
        assert ends == {second.id: State.SUPERSEDED, third.id: State.LIVE}
    else:
        assert ends == {second.id: State.ROLLED_BACK, third.id: State.ROLLED_BACK}
    await canary.check_record("3" if goes_well else "1")
    async with canary.court.database.unit_of_work() as work:
        assert await work.rollouts.open_of(second.key) == []


@pytest.mark.parametrize("by", ["a target", "a person"])
async def test_what_is_about_to_be_replaced_is_watched_and_can_be_stopped_while_mlflow_is_away(
    canary: Fleet, by: str
) -> None:
    second = await canary.ready(await canary.begin("2"))
    third = await canary.court.ask(canary.model, "3")
    away = failing(canary.court.worker.advancing, failure=UpstreamUnavailable("it is away"), fails_after=0)
    with away, pytest.raises(UpstreamUnavailable):
        await canary.work(third)
    canary.court.clock.ahead += timedelta(minutes=6)
    await canary.court.worker.going_back.advance(second.id)
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "2", 10, "1"))  # it gets no more
    with pytest.raises(IllegalMove):
        await canary.order(second, Order.ALL_AT_ONCE)
    await (canary.fail("west") if by == "a target" else canary.order(second, Order.GO_BACK))
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "1", 100, None))
    await canary.report()
    assert (canary.holder(), (await canary.progress(second)).stage) == ("2", Stage.GOING_BACK)
    await canary.work(third)
    assert (canary.holder(), (await canary.court.get(second)).state) == ("3", State.SUPERSEDED)
    assert (await canary.progress(second)).stage is Stage.UNDONE
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "3", 10, "1"))


@pytest.mark.parametrize("kind", ["promotion", "rollback"])
async def test_targets_that_no_policy_names_any_more_are_not_left_half_way(canary: Fleet, kind: str) -> None:
    second = await canary.ready(await canary.begin("2"))
    await canary.policy(targets=[])
    if kind == "promotion":
        newer = await canary.begin("3")
    else:
        newer, _ = await canary.court.promotions.roll_back(canary.court.bob, model=canary.model, alias="production")
        newer = await canary.work(newer)
    assert newer.state is State.APPLIED
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "1", 100, None))
    over = await canary.ready(second)
    assert over.state is (State.SUPERSEDED if kind == "promotion" else State.ROLLED_BACK)
    assert (await canary.progress(second)).stage is Stage.UNDONE
    await canary.check_record(newer.to_version)


async def test_a_target_that_the_newer_policy_leaves_alone_goes_back(canary: Fleet) -> None:
    second = await canary.ready(await canary.begin("2"))
    await canary.policy(targets=["east"])
    await canary.begin("3")
    calls = await canary.calls()
    assert calls == {"east": ("apply", "3", 100, None), "west": ("apply", "1", 100, None)}
    assert (await canary.progress(second)).stage is Stage.GOING_BACK
    await canary.report(Phase.READY, "west")
    assert (await canary.progress(second)).stage is Stage.UNDONE


async def test_an_alias_that_moved_meanwhile_takes_the_targets_back(canary: Fleet) -> None:
    await canary.policy(aliasMoves="after_ready")
    second = await canary.begin("2")
    canary.court.mlflow.call(
        "POST", "registered-models/alias", {"name": canary.model, "alias": "production", "version": "3"}
    )
    stale = await canary.ready(second)
    assert stale.state is State.STALE
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "1", 100, None))
    await canary.ready(second)
    assert (await canary.progress(second)).stage is Stage.UNDONE


async def test_what_is_not_what_was_approved_is_not_sent_to_any_target(canary: Fleet) -> None:
    await canary.policy(aliasMoves="after_ready")
    asked = await canary.court.ask(canary.model, "2")
    canary.court.mlflow.call("DELETE", "model-versions/delete", {"name": canary.model, "version": "2"})
    assert (await canary.work(asked)).state is State.STALE
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "1", 100, None))


async def test_a_person_does_not_roll_back_what_has_not_moved(canary: Fleet) -> None:
    await canary.policy(rollout=CANARY, aliasMoves="after_ready")
    await canary.begin("2")
    with pytest.raises(Conflict, match="has not moved yet"):
        await canary.court.promotions.roll_back(canary.court.bob, model=canary.model, alias="production")


async def test_a_persons_rollback_during_a_canary_is_all_at_once(canary: Fleet) -> None:
    second = await canary.ready(await canary.begin("2"))
    rollback, _ = await canary.court.promotions.roll_back(canary.court.bob, model=canary.model, alias="production")
    await canary.work(rollback)
    assert (await canary.court.get(second)).state is State.ROLLED_BACK
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "1", 100, None))
    assert (await canary.ready(rollback)).state is State.LIVE


@BOTH
@pytest.mark.parametrize("goes_back", [False, True])
async def test_an_emergency_waits_for_no_rollout_of_its_version(canary: Fleet, moves: str, *, goes_back: bool) -> None:
    await canary.policy(
        rollout=CANARY, aliasMoves=moves, autoApprove=False, approvals=[{"name": "one", "roles": ["approver"]}]
    )
    asked = await canary.court.ask(canary.model, "2")
    await canary.court.approve(asked)
    second = await canary.ready(await canary.work(asked))
    if goes_back:
        await canary.order(second, Order.GO_BACK)
        await canary.court.worker.going_back.advance(second.id)
    now = canary.court.clock.now()
    rae = replace(
        canary.court.person("rae", "responders"), credential=Credential(CredentialKind.SESSION, authenticated_at=now)
    )
    broken, is_new = await canary.court.promotions.break_glass(rae, Wanted(second.key, "2", "it is down"))
    if moves == "before" and not goes_back:
        assert (broken.id, is_new) == (second.id, False)  # it holds the alias, and nothing takes it back
        return
    assert (broken.kind, is_new) == (Kind.BREAK_GLASS, True)
    assert EventType.GLASS_BROKEN in await canary.told(broken)
    again, is_new = await canary.court.promotions.break_glass(rae, Wanted(second.key, "2", "it is down"))
    assert (again.id, is_new) == (broken.id, False)
    assert (await canary.work(broken)).state is State.ROLLING_OUT
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "2", 100, None))
    await canary.check_record("2")
    assert (await canary.ready(broken)).state is State.LIVE
    assert (await canary.court.get(second)).state is State.SUPERSEDED
    assert (await canary.progress(second)).stage is Stage.UNDONE


async def test_reports_of_older_generations_change_nothing(canary: Fleet) -> None:
    second = await canary.begin("2")
    old = await canary.deployments()
    await canary.report()
    await canary.later(second)
    for each in old.values():
        late = Report(each.generation, each.generation, 10_000, Phase.FAILED, Reason.UNHEALTHY, "too late")
        await canary.court.gateway.services.deployments.report(each.id, late)
    assert (await canary.progress(second)).stage is Stage.MOVING


# Workers that die.


@pytest.mark.parametrize("changes", [0, 1])
async def test_an_alias_that_is_taken_away_is_by_the_next_worker(court: Court, changes: int) -> None:
    fleet = new_fleet(court)
    await fleet.policy()
    first = await fleet.begin("1")
    await fleet.fail()
    with failing(court.worker.advancing, fails_after=changes), pytest.raises(KilledError):
        await court.worker.going_back.advance(first.id)
    assert (await fleet.court.get(first)).state is State.ROLLING_OUT
    await fleet.work(first)
    await fleet.check_record(None)
    assert (await fleet.ready(first)).state is State.ROLLED_BACK


@pytest.mark.parametrize("changes", [0, 1])
async def test_an_alias_goes_back_though_the_worker_dies(canary: Fleet, changes: int) -> None:
    second = await canary.begin("2")
    await canary.fail()
    with failing(canary.court.worker.advancing, fails_after=changes), pytest.raises(KilledError):
        await canary.work(second)
    await canary.work(second)
    await canary.ready(second)
    assert (await canary.court.get(second)).state is State.ROLLED_BACK
    await canary.check_record("1")


async def test_while_mlflow_does_not_answer_the_requests_are_back_and_the_alias_is_tried_again(canary: Fleet) -> None:
    second = await canary.begin("2")
    await canary.fail()
    away = failing(canary.court.worker.advancing, failure=UpstreamUnavailable("it is away"), fails_after=0)
    with away, pytest.raises(UpstreamUnavailable):
        await canary.work(second)
    await canary.report()
    assert (await canary.progress(second)).stage is Stage.GOING_BACK
    await canary.work(second)
    await canary.ready(second)
    assert (await canary.court.get(second)).state is State.ROLLED_BACK
    await canary.check_record("1")


async def test_a_promotion_of_another_alias_that_takes_a_target_ends_the_rollout(canary: Fleet) -> None:
    second = await canary.begin("2")
    document = {"autoApprove": True, "approvals": [], "targets": ["west"], "alias": "staging"}
    await canary.court.policy(models=canary.model, name=f"{canary.model}-staging", **document)
    await canary.court.work(await canary.court.ask(canary.model, "3", alias="staging"))
    await canary.work(second)
    over = await canary.court.get(second)
    assert (over.state, over.state_reason) == (State.SUPERSEDED, "another promotion has target west now")
    assert (await canary.calls())["east"] == ("apply", "1", 100, None)
    await canary.report()
    assert (await canary.progress(second)).stage is Stage.UNDONE


async def test_two_workers_do_each_step_once(canary: Fleet) -> None:
    second = await canary.begin("2")
    await canary.report()
    canary.court.clock.ahead += timedelta(minutes=6)
    before = (await canary.deployments())["east"].generation
    await asyncio.gather(*(canary.court.worker.going_back.advance(second.id) for _ in range(4)))
    assert (await canary.deployments())["east"].generation == before + 1


async def test_the_sweep_finds_a_step_whose_time_is_over(canary: Fleet) -> None:
    second = await canary.ready(await canary.begin("2"))
    canary.court.clock.ahead += timedelta(minutes=6)
    async with canary.court.database.unit_of_work() as work:
        assert second.id in await work.rollouts.due(canary.court.clock.now())
    await canary.court.worker.sweeping.sweep()


# People.


async def test_a_failure_that_pauses_waits_for_a_person_who_has_it_go_on(canary: Fleet) -> None:
    await canary.policy(rollout={**CANARY, "onFailure": "pause"})
    second = await canary.begin("2")
    await canary.fail("east")
    paused = await canary.work(second)
    assert paused.state is State.ROLLING_OUT
    progress = await canary.progress(second)
    assert progress.stage is Stage.PAUSED
    assert "target east failed" in progress.reason
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "2", 10, "1"))
    generation = (await canary.deployments())["east"].generation
    await canary.order(second, Order.RESUME, reason="the node is back")
    assert (await canary.deployments())["east"].generation == generation + 1
    assert (await canary.progress(second)).stage is Stage.MOVING
    told = await canary.told(second)
    assert EventType.ROLLOUT_PAUSED in told
    assert told[-2:] == [EventType.ROLLOUT_RESUMED, EventType.ROLLOUT_STEP_BEGAN]


async def test_a_person_has_it_paused_and_go_back(canary: Fleet) -> None:
    before = {name: each.served for name, each in (await canary.deployments()).items()}
    second = await canary.ready(await canary.begin("2"))
    await canary.order(second, Order.PAUSE, reason="let me look")
    await canary.later(second)
    assert (await canary.progress(second)).reason == "Bob paused it: let me look"
    assert (await canary.calls())["east"][2] == 10
    await canary.order(second, Order.GO_BACK)
    await canary.work(second)
    assert canary.holder() == "1"
    await canary.ready(second)
    assert (await canary.court.get(second)).state is State.ROLLED_BACK
    served = {name: each.served for name, each in (await canary.deployments()).items()}
    assert served == before, "a share for another version does not end what was served"


async def test_a_person_has_everything_at_once(canary: Fleet) -> None:
    second = await canary.begin("2")
    await canary.order(second, Order.ALL_AT_ONCE)
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "2", 100, None))
    assert (await canary.ready(second)).state is State.LIVE
    outcomes = [each.outcome for each in (await canary.progress(second)).steps]
    assert outcomes == [Outcome.SKIPPED, Outcome.SKIPPED, Outcome.PASSED]


async def test_a_step_that_is_held_by_hand_waits_for_a_person(canary: Fleet) -> None:
    await canary.policy(rollout={"strategy": "canary", "steps": [{"weight": 10, "hold": "manual"}]})
    second = await canary.ready(await canary.begin("2"))
    await canary.later(second, 600)
    progress = await canary.progress(second)
    assert (progress.stage, progress.waits_for_a_person) == (Stage.HOLDING, True)
    await canary.order(second, Order.RESUME)
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "2", 100, None))


async def test_what_people_may_not_say_is_refused(canary: Fleet) -> None:
    await canary.policy(
        autoApprove=False, approvals=[{"name": "one", "roles": ["approver"]}], rollout={**CANARY, "onFailure": "pause"}
    )
    asked = await canary.court.ask(canary.model, "2")
    await canary.court.approve(asked)
    second = await canary.work(asked)
    court = canary.court
    responder = court.person("rita", "responders")
    requester_and_approver = court.person("ada", "scientists", "approvers")
    for order in Order:
        with pytest.raises((Forbidden, SelfApproval)):
            await canary.order(second, order, by=court.ada)
        with pytest.raises(NotFound):
            await canary.order(second, order, by=court.person("stan"))
        with pytest.raises(PreconditionFailed):
            await canary.order(second, order, seen_revision=1)
    for order in APPROVING:
        with pytest.raises(Forbidden):
            await canary.order(second, order, by=responder)
        with pytest.raises(SelfApproval):
            await canary.order(second, order, by=requester_and_approver)
    with pytest.raises(IllegalMove, match="only one that waits for a person"):
        await canary.order(second, Order.RESUME)
    await canary.order(second, Order.PAUSE, by=responder)
    with pytest.raises(IllegalMove, match="is paused, in step 1 of 3"):
        await canary.order(second, Order.PAUSE, by=responder)
    await canary.order(second, Order.GO_BACK, by=requester_and_approver)
    for order in Order:
        with pytest.raises(IllegalMove, match="is going back"):
            await canary.order(second, order)


async def test_gates_are_skipped_by_nobody_who_could_not_have_approved_it(canary: Fleet) -> None:
    gates = [{"name": "errors", "query": "vector(1)", "pass": "< 1"}]
    court, rollout = canary.court, {**CANARY, "gates": gates, "onFailure": "pause"}
    await canary.policy(rollout=rollout)
    approver = court.person("ada", "scientists", "approvers")
    second = await canary.begin("2")
    with pytest.raises(SelfApproval):  # nobody needed to approve, and the gates are all that there is
        await canary.order(second, Order.ALL_AT_ONCE, by=approver)
    await canary.order(second, Order.GO_BACK)
    await canary.ready(second)
    named = [{"name": "the second line", "groups": ["risk"]}]
    await canary.policy(autoApprove=False, approvals=named, rollout=rollout)
    third = await canary.court.ask(canary.model, "3")
    await court.approve(third, by=court.cem)
    third = await canary.work(third)
    assert third.state is State.ROLLING_OUT
    for order in APPROVING:
        for who in (court.bob, court.person("root", "administrators")):
            with pytest.raises((NotAnApprover, Forbidden)):
                await canary.order(third, order, by=who)
    followed = await court.gateway.services.rollouts.get(court.bob, third.id)
    may = await court.gateway.services.rollouts.may_order(court.bob, followed)
    assert [order for order in APPROVING if may[order]] == []
    await canary.order(third, Order.ALL_AT_ONCE, by=court.cem)
    assert await canary.calls() == dict.fromkeys(canary.targets, ("apply", "3", 100, None))


async def test_a_promotion_without_targets_has_no_rollout(court: Court) -> None:
    fleet = new_fleet(court)
    await fleet.policy(targets=[])
    applied = await fleet.begin("1")
    assert applied.state is State.APPLIED
    with pytest.raises(NotFound, match="has no rollout"):
        await court.gateway.services.rollouts.get(court.bob, applied.id)
    with pytest.raises(NotFound, match="has no rollout"):
        await fleet.order(applied, Order.GO_BACK)


# Over HTTP.


@dataclass
class Desk:
    """The API and the console, as somebody."""

    http: httpx.AsyncClient
    issuer: Issuer
    clock: MovableClock

    async def call(self, who: str, method: str, path: str, **more: Any) -> httpx.Response:
        groups = {"bob": ["approvers"], "vera": ["viewers"], "rita": ["responders"]}[who]
        now = int(self.clock.now().timestamp())
        token = self.issuer.token(who, groups=groups, iat=now, nbf=now, exp=now + 600)
        headers = {"Authorization": f"Bearer {token}"} | more.pop("headers", {})
        return await self.http.request(method, path, headers=headers, **more)


@pytest.fixture(scope="module")
async def desk(court: Court, issuer: Issuer) -> AsyncIterator[Desk]:
    app = describe()
    app.state.services = court.gateway.services
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=court.settings.public_url) as http:
        yield Desk(http, issuer, court.clock)


async def test_the_api_tells_a_rollout_and_takes_what_people_say(canary: Fleet, desk: Desk) -> None:
    second = await canary.ready(await canary.begin("2"))
    path = f"/control/v1/promotions/{second.id}/rollout"
    shown = (await desk.call("vera", "GET", path)).json()
    assert (shown["stage"], shown["step"], shown["settled"]) == ("holding", 1, False)
    assert [(each["weight"], each["hold_s"]) for each in shown["steps"]] == [(10, 300), (50, 300), (100, 0)]
    targets = {each["name"]: (each["weight"], each["stable_version"], each["phase"]) for each in shown["targets"]}
    assert targets == dict.fromkeys(canary.targets, (10, "1", "Ready"))
    detail = (await desk.call("vera", "GET", f"/control/v1/promotions/{second.id}")).json()
    assert detail["rollout"] == shown
    for order, who, status in [
        ("pause", "vera", 403),
        ("resume", "rita", 403),
        ("all-at-once", "vera", 403),
        ("go-back", "vera", 403),
        ("resume", "bob", 409),
        ("pause", "rita", 200),
        ("resume", "bob", 200),
        ("go-back", "rita", 200),
        ("go-back", "rita", 409),
    ]:
        answer = await desk.call(who, "POST", f"{path}/{order}", json={"reason": "so"})
        assert answer.status_code == status, (order, who, answer.text)
    changed = await desk.call("bob", "POST", f"{path}/pause", headers={"If-Match": '"prm_x.1"'})
    assert changed.status_code == 412


async def test_the_console_shows_the_steps_and_offers_what_the_reader_may_do(canary: Fleet, desk: Desk) -> None:
    second = await canary.ready(await canary.begin("2"))
    path = f"/console/promotions/{second.id}"
    page = (await desk.call("bob", "GET", path)).text
    for part in ("How it is deployed", "Step 1: 10 %", "Step 3: 100 %", "held for 5m", 'value="go-back"'):
        assert part in page
    assert 'value="resume"' not in page  # it goes on by itself
    assert 'value="go-back"' not in (await desk.call("vera", "GET", path)).text
    form = {"order": "pause", "reason": "let me look", "revision": str((await canary.court.get(second)).revision)}
    headers = {"Origin": canary.court.settings.public_url}
    answer = await desk.call("bob", "POST", f"{path}/rollout", data=form, headers=headers)
    assert answer.status_code == 303, answer.text
    page = (await desk.call("bob", "GET", path)).text
    assert "paused it: let me look" in page
    assert 'value="resume"' in page
    stale = await desk.call("bob", "POST", f"{path}/rollout", data=form, headers=headers)
    assert stale.status_code == 409


async def test_the_console_says_once_why_it_went_back(canary: Fleet, desk: Desk) -> None:
    second = await canary.begin("2")
    path = f"/console/promotions/{second.id}"
    await canary.fail("west")
    why = (await canary.progress(second)).reason or ""
    assert (await desk.call("bob", "GET", path)).text.count(why) == 1
    await canary.work(second)
    await canary.ready(second)
    assert (await desk.call("bob", "GET", path)).text.count(why) == 1
