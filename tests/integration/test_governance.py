"""The second signature on the real MLflow: what is approved is what is applied, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from app.domain.access import PrincipalKind
from app.domain.errors import (
    Conflict,
    Forbidden,
    IllegalMove,
    InvalidInput,
    NotAnApprover,
    NotFound,
    PreconditionFailed,
    SelfApproval,
)
from app.domain.promotions import Kind, Outcome, State
from app.services import promotions as promotions_module
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer


@pytest.fixture(scope="module")
async def court(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Court]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            yield court


async def test_two_rules_need_two_people_whoever_comes_first(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, approvals=[{"name": "ml", "groups": ["ml"]}, {"name": "risk", "groups": ["risk"]}])
    asked = await court.ask(model)
    assert (await court.approve(asked, court.bob)).state is State.PENDING
    assert (await court.work(asked)).state is State.PENDING
    assert court.mlflow.holder(model) is None
    assert (await court.approve(asked, court.cem)).state is State.APPROVED
    assert (await court.work(asked)).state is State.APPLIED
    assert court.mlflow.holder(model) == "1"


async def test_who_left_the_group_before_it_is_applied_does_not_count(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, approvals=[{"name": "ml", "groups": ["ml"]}])
    asked = await court.ask(model)
    assert (await court.approve(asked)).state is State.APPROVED
    async with court.database.unit_of_work() as work:
        await work.principals.vouch(court.person("bob", "approvers").identity, at=court.clock.now())
        await work.commit()
    waiting = await court.work(asked)
    assert waiting.state is State.PENDING
    assert "waits again for 1 approval by group ml" in str(waiting.state_reason)
    assert court.mlflow.holder(model) is None
    await court.approve(asked, court.person("eve", "approvers", "ml"))
    assert (await court.work(asked)).state is State.APPLIED


async def test_a_disabled_approver_does_not_count(court: Court) -> None:
    model = court.model()
    await court.policy(models=model)
    asked = await court.ask(model)
    dan = court.person("dan", "approvers")
    await court.approve(asked, dan)
    async with court.database.unit_of_work() as work:
        await work.principals.set_disabled(dan.id, at=court.clock.now(), by="an administrator")
        await work.commit()
    assert (await court.work(asked)).state is State.PENDING


async def test_approvals_are_void_when_a_tag_that_a_check_reads_changes(court: Court) -> None:
    model = court.model()
    court.tag(model, "1", risk="low")
    await court.policy(
        models=model,
        checks=[{"name": "risk is known", "expression": 'candidate.tags["risk"] in ["low", "high"]'}],
        windows=[court.window(effect="deny", hours=(-1, 1))],
    )
    asked = await court.ask(model)
    assert (await court.approve(asked)).state is State.APPROVED
    court.tag(model, "1", unrelated="x")
    assert (await court.work(asked)).state is State.APPROVED
    court.tag(model, "1", risk="high")
    void = await court.work(asked)
    assert (void.state, void.round) == (State.PENDING, 2)
    assert void.void_reason == 'the approvals are void: candidate.tags.risk was "low" and is "high"'
    assert "promotion.approvals_void" in await court.audit(asked)
    assert (await court.approve(asked)).state is State.APPROVED


async def test_a_failing_check_blocks_and_says_what_it_saw(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, checks=[{"name": "tagged", "expression": 'candidate.tags["dvc"] == "abc"'}])
    asked = await court.ask(model)
    assert (await court.approve(asked)).state is State.PENDING
    statuses, _ = await court.promotions.standing(await court.get(asked))
    check = next(each for each in statuses if each.rule == "check")
    assert check.standing.value == "blocked"
    assert "dvc" in check.message
    court.tag(model, "1", dvc="abc")
    # Nobody approved in the light of a tag that was not there: they look again.
    assert (await court.work(asked)).round == 2
    assert (await court.approve(asked)).state is State.APPROVED


@pytest.mark.parametrize("read_at_once", [promotions_module.READ_AT_ONCE, 10])
async def test_checks_of_bytes_see_the_same_whenever_they_look(
    court: Court, monkeypatch: pytest.MonkeyPatch, read_at_once: int
) -> None:
    model = court.model()
    await court.policy(models=model)
    first = await court.promoted(model)
    expression = (
        f'!difference.same_bytes && holder.digest == "{first.digest}" && candidate.digest.startsWith("sha256:") '
        "&& candidate.digest != holder.digest"
    )
    await court.policy(models=model, checks=[{"name": "new bytes", "expression": expression}])
    monkeypatch.setattr(promotions_module, "READ_AT_ONCE", read_at_once)
    asked = await court.ask(model, "2")
    if asked.digest is None:
        await court.work(asked)
    assert (await court.approve(asked)).state is State.APPROVED
    applied = await court.work(asked)
    assert (applied.state, applied.round, applied.void_reason) == (State.APPLIED, 1, None)


async def test_the_bytes_of_a_holder_that_nobody_promoted_are_not_known(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, checks=[{"name": "new bytes", "expression": "!difference.same_bytes"}])
    court.mlflow.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "1"})
    asked = await court.ask(model, "2")
    statuses, _ = await court.promotions.standing(asked)
    check = next(each for each in statuses if each.rule == "check")
    assert check.standing.value == "blocked"
    assert "difference.same_bytes" in check.message


async def test_changed_bytes_are_never_applied(court: Court) -> None:
    model = court.model()
    await court.policy(models=model)
    asked = await court.ask(model)
    await court.approve(asked)
    (court.mlflow.folder_of(model, "1") / "MLmodel").write_text("other")
    stale = await court.work(asked)
    assert stale.state is State.STALE
    assert "digest" in str(stale.state_reason)
    assert court.mlflow.holder(model) is None


async def test_a_model_that_was_deleted_and_made_again_is_another(court: Court) -> None:
    model = court.model()
    await court.policy(models=model)
    asked = await court.ask(model)
    await court.approve(asked)
    court.mlflow.call("DELETE", "registered-models/delete", {"name": model})
    court.mlflow.register(model)
    stale = await court.work(asked)
    assert (stale.state, court.mlflow.holder(model)) == (State.STALE, None)
    assert "was deleted and created again" in str(stale.state_reason)


async def test_a_holder_that_moved_meanwhile_makes_it_stale(court: Court) -> None:
    model = court.model()
    await court.policy(models=model)
    asked = await court.ask(model)
    await court.approve(asked)
    court.mlflow.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "2"})
    stale = await court.work(asked)
    assert stale.state is State.STALE
    assert "held by no version when this was asked for, and is by version 2 now" in str(stale.state_reason)


async def test_the_former_holder_gets_the_alias_and_tags_that_move_with_it(court: Court) -> None:
    model = court.model()
    companions = {"previous": "previous", "promoted": {"stage": "live"}, "archived": {"stage": "archived"}}
    await court.policy(models=model, companions=companions)
    await court.promoted(model, "1")
    await court.promoted(model, "2")
    assert (court.mlflow.holder(model), court.mlflow.holder(model, "previous")) == ("2", "1")
    assert (court.tags(model, "1")["stage"], court.tags(model, "2")["stage"]) == ("archived", "live")


async def test_the_alias_is_put_back_when_what_moves_with_it_cannot(court: Court) -> None:
    model = court.model()
    # MLflow refuses a tag whose key is longer than 250 characters, and that for good.
    await court.policy(models=model, companions={"promoted": {"k" * 300: "v"}})
    asked = await court.ask(model)
    await court.approve(asked)
    stale = await court.work(asked)
    assert stale.state is State.STALE
    assert "was put back" in str(stale.state_reason)
    assert not stale.alias_moved
    assert court.mlflow.holder(model) is None


async def test_a_crash_between_two_steps_is_finished_when_the_worker_comes_back(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, companions={"previous": "previous"})
    await court.promoted(model, "1")
    asked = await court.ask(model, "2")
    await court.approve(asked)
    begun = await court.worker.advancing._begin(await court.get(asked))  # where a crash is to be
    assert begun.state is State.APPLYING
    # The alias was set, and then the worker died.
    court.mlflow.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "2"})
    assert (await court.work(asked)).state is State.APPLIED
    assert (court.mlflow.holder(model), court.mlflow.holder(model, "previous")) == ("2", "1")


async def test_a_scheduled_promotion_waits_for_its_time(court: Court) -> None:
    model = court.model()
    await court.policy(models=model)
    asked = await court.ask(model, scheduled_for=court.clock.now() + timedelta(hours=2))
    await court.approve(asked)
    assert (await court.work(asked)).state is State.APPROVED
    court.clock.ahead += timedelta(hours=3)
    assert (await court.work(asked)).state is State.APPLIED


async def test_a_time_after_it_expires_is_refused(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, expiry={"after": "1h"})
    with pytest.raises(InvalidInput, match="scheduled_for"):
        await court.ask(model, scheduled_for=court.clock.now() + timedelta(hours=2))


async def test_it_reminds_and_then_expires(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, expiry={"after": "2d", "reminders": ["1d", "1h"]})
    asked = await court.ask(model)
    for hours, reminders in ((0, 0), (25, 1), (0, 1), (22.5, 2)):
        court.clock.ahead += timedelta(hours=hours)
        assert (await court.work(asked)).reminded == reminders
    court.clock.ahead += timedelta(hours=1)
    assert (await court.work(asked)).state is State.EXPIRED
    told = [each for each in await court.events(asked) if each["type"] == "promotion.reminder"]
    assert [each["waits_for"] for each in told] == ["1 approval by role approver"] * 2
    with pytest.raises(IllegalMove):
        await court.approve(asked)


async def test_it_must_have_held_staging_and_soaked_there(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, name=f"{model}-staging", alias="staging", autoApprove=True, approvals=[])
    await court.policy(models=model, after=["staging"], soak={"alias": "staging", "for": "24h"})
    asked = await court.ask(model)
    assert (await court.approve(asked)).state is State.PENDING
    staged = await court.ask(model, alias="staging")
    assert (await court.work(staged)).state is State.APPLIED
    assert (await court.work(asked)).state is State.APPROVED
    assert (await court.work(asked)).state is State.APPROVED
    court.clock.ahead += timedelta(hours=25)
    assert (await court.work(asked)).state is State.APPLIED


async def test_what_no_approver_is_asked_for_goes_at_once(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, autoApprove=True, approvals=[])
    asked = await court.ask(model)
    assert (asked.state, asked.state_reason) == (State.APPROVED, "the policy asks for no approver")
    assert (await court.work(asked)).state is State.APPLIED


async def test_artifacts_that_are_large_are_read_by_the_worker_and_nobody_decides_before(
    court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = court.model()
    await court.policy(models=model)
    # As if 64 bytes were large: the bound is the only thing that a test of seconds cannot have real.
    monkeypatch.setattr(promotions_module, "READ_AT_ONCE", 10)
    asked = await court.ask(model)
    assert asked.digest is None
    with pytest.raises(Conflict, match="still being read"):
        await court.approve(asked)
    read = await court.work(asked)
    assert str(read.digest).startswith("sha256:")
    assert "promotion.ready_for_decision" in await court.audit(asked)
    await court.approve(asked)
    assert (await court.work(asked)).state is State.APPLIED


async def test_approvers_are_told_at_once_of_what_waits_for_them_and_of_nothing_else(court: Court) -> None:
    model = court.model()
    await court.policy(models=model)
    waits = await court.ask(model)
    told = {each["type"]: each.get("waits_for") for each in await court.events(waits)}
    assert str(told["promotion.ready_for_decision"]).startswith("1 approval by")
    await court.policy(models=model, autoApprove=True)
    passes = await court.ask(model, "2")
    assert "promotion.ready_for_decision" not in {each["type"] for each in await court.events(passes)}


async def test_who_looked_at_another_revision_does_not_decide(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, approvals=[{"name": "two", "count": 2, "roles": ["approver"]}])
    asked = await court.ask(model)
    await court.approve(asked, court.cem)
    with pytest.raises(PreconditionFailed):
        await court.promotions.decide(court.bob, asked.id, Outcome.APPROVE, seen_revision=asked.revision)
    assert len((await court.get(asked)).decisions) == 1


async def test_a_reason_is_asked_for_where_the_policy_says_so(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, reasons=["request", "approve", "reject"])
    with pytest.raises(InvalidInput, match="reason"):
        await court.ask(model, reason="  ")
    asked = await court.ask(model, reason="better")
    for outcome in Outcome:
        with pytest.raises(InvalidInput, match="reason"):
            await court.promotions.decide(court.bob, asked.id, outcome)


async def test_another_persons_promotion_is_not_superseded_where_the_policy_forbids_it(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, supersede="own")
    asked = await court.ask(model, "1")
    with pytest.raises(Conflict, match=asked.id):
        await court.ask(model, "2", by=court.person("fay", "scientists"))
    newer = await court.ask(model, "2")
    assert (await court.get(asked)).state is State.SUPERSEDED
    assert newer.state is State.PENDING


async def test_a_promotion_is_bound_to_the_revision_that_it_began_under(court: Court) -> None:
    model = court.model()
    first = await court.policy(models=model)
    asked = await court.ask(model)
    stricter = await court.policy(models=model, approvals=[{"name": "nobody", "count": 9, "roles": ["approver"]}])
    assert stricter.revision == first.revision + 1
    await court.approve(asked)
    done = await court.work(asked)
    assert (done.state, done.policy.revision) == (State.APPLIED, first.revision)


async def test_the_most_specific_policy_counts_by_tag_too(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, autoApprove=True, approvals=[])
    await court.policy(models=model, name=f"{model}-risky", tags={"risk": "high"})
    assert (await court.ask(model, "1")).state is State.APPROVED
    asked = await court.get(await court.ask(model, "1"))
    court.mlflow.call("POST", "registered-models/set-tag", {"name": model, "key": "risk", "value": "high"})
    stale = await court.work(asked)
    assert stale.state is State.STALE
    assert f"under policy {model}-risky now" in str(stale.state_reason)
    assert (await court.ask(model, "2")).state is State.PENDING


async def test_who_is_named_as_the_user_of_the_run_does_not_approve(court: Court) -> None:
    model = court.model()
    version = court.mlflow.call("GET", "model-versions/get", {"name": model, "version": "1"})["model_version"]
    court.mlflow.call(
        "POST", "runs/set-tag", {"run_id": version["run_id"], "key": "mlflow.user", "value": "bob@example.com"}
    )
    await court.policy(models=model)
    asked = await court.ask(model)
    with pytest.raises(SelfApproval):
        await court.approve(asked, court.bob)
    assert (await court.approve(asked, court.cem)).state is State.APPROVED


async def test_services_count_only_where_the_policy_says_so(court: Court) -> None:
    model = court.model(versions=2)
    robot = court.person("robot", "approvers", kind=PrincipalKind.SERVICE)
    await court.policy(models=model)
    with pytest.raises(NotAnApprover):
        await court.approve(await court.ask(model, "1"), robot)
    await court.policy(models=model, approvals=[{"name": "robots", "roles": ["approver"], "services": True}])
    asked = await court.ask(model, "2")
    assert (await court.approve(asked, robot)).state is State.APPROVED


async def test_explaining_writes_nothing_and_says_what_an_asked_one_would(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, soak={"alias": "staging", "for": "1h"})
    wanted = promotions_module.Wanted(promotions_module.AliasKey("default", model, "production"), "1")
    draft, statuses = await court.promotions.explain(court.ada, wanted)
    assert draft.id == ""
    assert {status.rule: status.standing.value for status in statuses} == {
        "digest": "satisfied",
        "approvals": "waiting",
        "soak": "blocked",
    }
    async with court.database.unit_of_work() as work:
        assert await work.promotions.find_open(draft.key, "1") is None
    with pytest.raises(Forbidden):
        await court.promotions.explain(court.person("stranger"), wanted)


async def test_a_rollback_goes_back_to_the_very_bytes_that_were_good(court: Court) -> None:
    model = court.model()
    await court.policy(
        models=model,
        checks=[{"name": "small", "expression": "candidate.size < 1000"}],
    )
    await court.promoted(model, "1")
    await court.promoted(model, "2")
    back, _ = await court.promotions.roll_back(court.bob, model=model, alias="production")
    assert (back.kind, back.to_version, back.state) == (Kind.ROLLBACK, "1", State.APPROVED)
    assert (await court.work(back)).state is State.APPLIED
    assert court.mlflow.holder(model) == "1"


async def test_many_workers_and_people_at_once_make_one_legal_history(court: Court) -> None:
    model = court.model(versions=3)
    await court.policy(models=model, approvals=[{"name": "two", "count": 2, "roles": ["approver"]}])
    asked = [await court.ask(model, "1")]
    people = [court.bob, court.cem, court.person("eve", "approvers"), court.person("dan2", "approvers")]

    async def attempt(coroutine: object) -> object:
        try:
            return await coroutine  # type: ignore[misc]  # a coroutine
        except (Conflict, NotFound) as refused:
            return refused

    acts = [court.approve(asked[0], who) for who in people]
    acts += [court.promotions.withdraw(court.ada, asked[0].id)]
    acts += [court.promotions.decide(people[3], asked[0].id, Outcome.REJECT)]
    acts += [court.ask(model, "2"), court.ask(model, "3", by=court.person("fay", "scientists"))]
    await asyncio.gather(*(attempt(act) for act in acts))
    async with court.database.unit_of_work() as work:
        everything = await work.promotions.page(promotions_module.Filter(model=model), limit=50)
    await asyncio.gather(*(attempt(court.work(each)) for each in everything for _ in range(3)))
    ends = [await court.get(each) for each in everything]
    applied = [each for each in ends if each.state is State.APPLIED]
    assert court.mlflow.holder(model) == (applied[0].to_version if applied else None)
    assert len(applied) <= 1
    assert sum(each.state in {State.PENDING, State.APPROVED} for each in ends) <= 1


async def test_an_ordinary_promotion_does_not_take_the_place_of_a_rollback(court: Court) -> None:
    model = court.model(versions=3)
    await court.policy(models=model, rollback={"approvals": [{"name": "risk", "groups": ["risk"]}]})
    await court.promoted(model, "1")
    await court.promoted(model, "2")
    back, _ = await court.promotions.roll_back(court.bob, model=model, alias="production")
    assert back.state is State.PENDING
    with pytest.raises(Conflict, match="rollback"):
        await court.ask(model, "3")
    await court.approve(back, court.cem)
    assert (await court.work(back)).state is State.APPLIED
    assert (await court.ask(model, "3")).state is State.PENDING


async def test_a_version_that_was_copied_from_another_model_is_promoted_with_the_same_bytes(court: Court) -> None:
    dev, prod = court.model(), court.model()
    await court.policy(models=dev)
    await court.policy(models=prod)
    copied = court.mlflow.call("POST", "model-versions/create", {"name": prod, "source": f"models:/{dev}/1"})
    version = str(copied["model_version"]["version"])
    done = await court.promoted(prod, version)
    assert court.mlflow.holder(prod) == version
    assert done.digest == (await court.promoted(dev, "1")).digest


async def test_what_is_approved_while_another_is_applied_has_a_job_for_its_turn(court: Court) -> None:
    model = court.model(versions=2)
    await court.policy(models=model)
    first = await court.ask(model, "1")
    await court.approve(first)
    assert (await court.worker.advancing._begin(await court.get(first))).state is State.APPLYING
    second = await court.ask(model, "2")
    await court.approve(second)
    assert await court.jobs(second) == 1
    assert (await court.work(second)).state is State.APPROVED
    assert (await court.work(first)).state is State.APPLIED
    assert (await court.work(second)).state is State.STALE  # another holds the alias now than when it was asked for


async def test_an_alias_that_moves_with_another_is_not_asked_for_by_itself(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, companions={"previous": "previous"})
    with pytest.raises(NotFound, match="moves together with production"):
        await court.ask(model, alias="previous")
