"""Verdicts that CI posts: whose counts, on which bytes, for how long; and what waits for them goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from app.domain.access import Principal, PrincipalKind
from app.domain.checks import PostedCheck, Posting, Verdict
from app.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from app.domain.promotions import Promotion, State
from app.services import checks as checks_module
from app.services import promotions as promotions_module
from app.services.checks import Checks, Listed
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer

OTHER_BYTES = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
async def court(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Court]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            yield court


def checks(court: Court) -> Checks:
    return court.gateway.services.checks


def pipeline(court: Court) -> Principal:
    return court.person("pipeline", "scientists", "ci", kind=PrincipalKind.SERVICE)


async def post(
    court: Court, on: Promotion | str, outcome: str = "pass", *, by: Principal | None = None, **more: Any
) -> PostedCheck:
    """On a promotion, or on version 1 of a model."""
    name = more.pop("name", "fairness")
    posting = Posting(name=name, outcome=Verdict(outcome), **more)
    who = by or pipeline(court)
    if isinstance(on, str):
        return await checks(court).post_on_version(who, on, "1", posting)
    return await checks(court).post_on_promotion(who, on.id, posting)


async def waiting(court: Court, **posted: Any) -> tuple[str, Promotion]:
    """A model whose policy asks for a posted check, and a promotion of it."""
    model = court.model()
    await court.policy(models=model, checks=[{"name": "fairness", "posted": posted}])
    return model, await court.ask(model)


async def standing(court: Court, promotion: Promotion) -> str:
    statuses, _ = await court.promotions.standing(await court.get(promotion))
    check = next(each for each in statuses if each.rule == "check")
    return f"{check.standing}: {check.message}"


async def test_a_required_check_is_waited_for_and_lets_it_pass(court: Court) -> None:
    _, asked = await waiting(court)
    assert (await court.approve(asked)).state is State.PENDING
    assert "No verdict has been posted" in await standing(court, asked)
    await post(court, asked, "running", link="https://ci.example/1")
    assert (await standing(court, asked)).startswith("waiting: Pipeline: is running")
    assert (await court.get(asked)).state is State.PENDING
    posted = await post(court, asked, message="parity 0.98")
    assert (posted.digest, posted.promotion_id) == (asked.digest, asked.id)
    assert (await court.get(asked)).state is State.APPROVED
    assert (await court.work(asked)).state is State.APPLIED
    assert "check.posted" in await audit_of(court, posted.id)


async def test_a_check_posted_before_anybody_asks_counts(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, checks=[{"name": "fairness", "posted": {}}])
    posted = await post(court, model)
    asked = await court.ask(model)
    assert posted.digest == asked.digest, "it is bound to the bytes, though it did not name them"
    assert (await court.approve(asked)).state is State.APPROVED


async def test_a_verdict_on_bytes_that_were_overwritten_does_not_count(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, checks=[{"name": "fairness", "posted": {}}])
    await post(court, model)
    (court.mlflow.folder_of(model, "1") / "MLmodel").write_text("other")
    asked = await court.ask(model)
    assert (await court.approve(asked)).state is State.PENDING
    assert "One was posted on other bytes" in await standing(court, asked)


async def test_a_verdict_that_fails_after_the_approvals_makes_them_void(court: Court) -> None:
    model = court.model()
    await court.policy(
        models=model,
        checks=[{"name": "fairness", "posted": {}}],
        windows=[court.window(effect="deny", hours=(-1, 1))],
    )
    await post(court, model)
    asked = await court.ask(model)
    assert (await court.approve(asked)).state is State.APPROVED
    await post(court, asked, "running")
    assert (await court.get(asked)).state is State.PENDING
    await court.work(asked)
    await post(court, asked, "fail", message="parity 0.4")
    void = await court.get(asked)
    assert (void.state, void.round) == (State.PENDING, 2)
    assert void.void_reason == "the approvals are void: checks.fairness was pass and is fail"
    assert (await standing(court, asked)).startswith("blocked: Pipeline: failed, parity 0.4")
    await post(court, asked)
    assert (await court.get(asked)).state is State.PENDING, "the approval of before does not come back"
    assert (await court.approve(asked)).state is State.APPROVED


async def test_a_verdict_runs_out_by_its_own_end_or_the_policys(court: Court) -> None:
    model, asked = await waiting(court, validFor="2h")
    await court.approve(asked)
    await post(court, model, expires_in_s=3600)
    other, by_policy = await waiting(court, validFor="2h")
    await post(court, other)
    for promotion, hours in ((asked, 1), (by_policy, 2)):
        court.clock.ahead = timedelta(hours=hours, seconds=-1)
        assert (await standing(court, promotion)).startswith("satisfied") or promotion is asked
        court.clock.ahead = timedelta(hours=hours, seconds=1)
        statuses = await standing(court, promotion) if promotion is by_policy else ""
        assert not statuses or "ran out" in statuses
    # What was approved in time, and is looked at again too late, is not applied.
    court.clock.ahead = timedelta(hours=1, seconds=1)
    try:
        assert (await court.work(asked)).state is State.PENDING
    finally:
        court.clock.ahead = timedelta()


async def test_the_policy_says_whose_verdict_counts(court: Court) -> None:
    _, asked = await waiting(court, by={"groups": ["ci"]})
    await court.approve(asked)
    await post(court, asked, by=court.ada)
    assert (await court.get(asked)).state is State.PENDING, "who asked for it is not CI"
    assert "Ada posted one, and the policy asks for one by group ci" in await standing(court, asked)
    await post(court, asked)
    assert (await court.get(asked)).state is State.APPROVED


async def test_others_cannot_bury_the_verdict_that_counts(court: Court) -> None:
    _, asked = await waiting(court, by={"groups": ["ci"]})
    await post(court, asked, "fail")
    for _ in range(3):
        await post(court, asked, by=court.ada)
        await post(court, asked, name="another")
    assert (await standing(court, asked)).startswith("blocked")


async def test_the_digest_of_other_bytes_is_refused(court: Court) -> None:
    model, asked = await waiting(court)
    for on in (asked, model):
        with pytest.raises(InvalidInput) as refused:
            await post(court, on, digest=OTHER_BYTES)
        assert refused.value.details["field"] == "digest"
        assert (await post(court, on, digest=asked.digest)).digest == asked.digest


async def test_of_large_artifacts_the_digest_must_be_said(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotions_module, "READ_AT_ONCE", 0)
    monkeypatch.setattr(checks_module, "READ_AT_ONCE", 0)
    model, asked = await waiting(court)
    assert asked.digest is None
    with pytest.raises(InvalidInput, match="countersign digest FOLDER"):
        await post(court, model)
    with pytest.raises(Conflict, match="still being read"):
        await post(court, asked)
    await post(court, model, digest=OTHER_BYTES)
    measured = await court.work(asked)
    assert measured.digest is not None
    await court.approve(asked)
    assert "One was posted on other bytes" in await standing(court, asked)
    await post(court, model, digest=measured.digest)
    assert (await court.get(asked)).state is State.APPROVED


async def test_a_model_that_was_made_again_has_no_verdicts_of_the_old_one(court: Court) -> None:
    model, asked = await waiting(court)
    await post(court, asked)
    court.mlflow.call("DELETE", "registered-models/delete", {"name": model})
    court.mlflow.register(model)
    assert await checks(court).of_version(court.ada, model, "1", Listed()) == []
    again = await court.ask(model, "1", by=court.person("eve", "scientists"))
    await court.approve(again)
    if again.id != asked.id:
        assert (await court.get(again)).state is not State.APPROVED
        assert "No verdict has been posted" in await standing(court, again)
    await post(court, model)
    assert (await court.get(asked)).state is not State.APPLIED


@pytest.mark.parametrize("who", ["viewer", "approver", "administrator", "stranger"])
async def test_who_may_not_post_is_refused(court: Court, who: str) -> None:
    model, asked = await waiting(court)
    with pytest.raises((Forbidden, NotFound)):
        await post(court, asked, by=court.person(who, f"{who}s"))
    with pytest.raises(Forbidden):
        await post(court, model, by=court.person(who, f"{who}s"))
    with pytest.raises(Forbidden):
        await checks(court).of_version(court.person("stranger"), model, "1", Listed())
    with pytest.raises(NotFound):
        await checks(court).of_promotion(court.person("stranger"), asked.id, Listed())


async def test_what_is_over_takes_no_checks(court: Court) -> None:
    _, asked = await waiting(court)
    await court.promotions.withdraw(court.ada, asked.id)
    with pytest.raises(Conflict, match="is withdrawn"):
        await post(court, asked)


async def test_the_newest_of_each_name_is_listed_and_all_of_them_page_by_page(court: Court) -> None:
    model, asked = await waiting(court)
    for number in range(3):
        await post(court, model, "fail", message=str(number))
    await post(court, asked, name="lineage")
    found = await checks(court).of_promotion(court.ada, asked.id, Listed())
    assert [(each.name, each.message) for each in found] == [("lineage", ""), ("fairness", "2")]
    first = await checks(court).of_version(court.ada, model, "1", Listed(history=True, limit=3))
    rest = await checks(court).of_version(
        court.ada, model, "1", Listed(history=True, before=first[-1].sequence, limit=3)
    )
    assert [each.message for each in (*first, *rest)] == ["", "2", "1", "0"]


async def test_posting_and_asking_at_once_never_leaves_a_promotion_waiting(court: Court) -> None:
    for _ in range(3):
        model = court.model()
        await court.policy(models=model, autoApprove=True, checks=[{"name": "fairness", "posted": {}}])
        _, asked = await asyncio.gather(post(court, model), court.ask(model))
        assert (await court.get(asked)).state is State.APPROVED


async def test_of_two_verdicts_at_once_the_later_one_counts(court: Court) -> None:
    model, asked = await waiting(court)
    await court.approve(asked)
    posted = await asyncio.gather(*(post(court, model, outcome) for outcome in ("fail", "pass") * 3))
    newest = (await checks(court).of_version(court.ada, model, "1", Listed()))[0]
    assert {each.id for each in posted} >= {newest.id}
    assert (await standing(court, asked)).startswith("blocked" if newest.outcome == "fail" else "satisfied")


async def audit_of(court: Court, object_id: str) -> list[str]:
    async with court.database.unit_of_work() as work:
        return [str(each.document["action"]) for each in await work.audit.page(object_id=object_id, limit=10)]
