"""A worker that stops between any two steps of moving an alias: what moves together is moved, or is as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from app.domain.digests import Measured
from app.domain.errors import UpstreamUnavailable
from app.domain.promotions import AliasKey, Promotion, State
from tests.conftest import database_of
from tests.failing import KilledError, failing
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer

PROMOTED, ARCHIVED = {"stage": "live", "seen": "yes"}, {"stage": "archived"}
COMPANIONS = {"previous": "previous", "promoted": PROMOTED, "archived": ARCHIVED}
STEPS = ["previous", "stage of the new", "seen of the new", "stage of the former"]
"""What is set after the alias, in this order."""

World = tuple[str | None, str | None, dict[str, str], dict[str, str]]


def refusing(step: str, asked: Promotion) -> Callable[..., bool]:
    """Whether a call would set this one of ``STEPS``. To put it back is another."""
    new, key = step.endswith(" of the new"), step.split(maxsplit=1)[0]
    if key == "previous":
        called: tuple[str | None, ...] = ("set_alias", asked.model, "previous", asked.from_version)
    else:
        version, tags = (asked.to_version, PROMOTED) if new else (asked.from_version, ARCHIVED)
        called = ("set_version_tag", asked.model, version, key, tags[key])
    return lambda *call: call[: len(called)] == called


@dataclass
class Stage:
    """A model whose production alias goes to and fro between two versions, with what moves with it."""

    court: Court
    model: str

    def see(self) -> World:
        mlflow = self.court.mlflow
        held = (mlflow.holder(self.model), mlflow.holder(self.model, "previous"))
        return (*held, self.court.tags(self.model, "1"), self.court.tags(self.model, "2"))

    async def approved(self) -> Promotion:
        """A promotion of the version that does not hold the alias."""
        return await self.court.ask(self.model, "1" if self.court.mlflow.holder(self.model) == "2" else "2")

    async def dies(
        self, asked: Promotion, failure: type[BaseException] = KilledError, *, refused: str = "", **how: Any
    ) -> bool:
        """Whether a worker died, or gave up for now, on the way. ``refused`` is one of ``STEPS``."""
        if refused:
            how["refuses"] = refusing(refused, asked)
        with failing(self.court.worker.advancing, failure=failure("it is away"), **how):
            try:
                await self.court.work(asked)
            except failure:
                return True
        return False

    async def check_moved(self, asked: Promotion, before: World) -> None:
        """It was applied, with all that moves together."""
        done = await self.court.get(asked)
        assert done.state is State.APPLIED, (done.state, done.state_reason)
        new, former = int(done.to_version) + 1, int(str(done.from_version)) + 1
        expected: list[Any] = [done.to_version, done.from_version, before[2], before[3]]
        expected[new] = expected[new] | PROMOTED
        expected[former] = expected[former] | ARCHIVED
        assert self.see() == tuple(expected)
        assert await self.held() == (done.to_version, done.from_version)

    async def held(self) -> tuple[str | None, str | None]:
        """Who holds production and previous, as our history has it."""
        async with self.court.database.unit_of_work() as work:
            last = [
                await work.history.last(AliasKey("default", self.model, name)) for name in ("production", "previous")
            ]
        return (last[0].version if last[0] else None, last[1].version if last[1] else None)

    async def check_undone(self, asked: Promotion, before: World) -> None:
        """It is stale, and everything is as it was."""
        done = await self.court.get(asked)
        assert (done.state, done.alias_moved) == (State.STALE, False), done.state_reason
        assert self.see() == before


@pytest.fixture(scope="module")
async def court(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Court]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            yield court


async def new_stage(court: Court) -> Stage:
    """Version 1 holds production."""
    model = court.model(versions=3)
    await court.policy(models=model, companions=COMPANIONS, autoApprove=True, approvals=[])
    await court.promoted(model, "1")
    return prepared(Stage(court, model))


def prepared(stage: Stage) -> Stage:
    """What is to move was something else before: an alias, a tag of another value, and none."""
    mlflow, model = stage.court.mlflow, stage.model
    mlflow.call("POST", "registered-models/alias", {"name": model, "alias": "previous", "version": "3"})
    new = "1" if mlflow.holder(model) == "2" else "2"
    stage.court.tag(model, new, stage="candidate")
    mlflow.call("DELETE", "model-versions/delete-tag", {"name": model, "version": new, "key": "seen"})
    return stage


@pytest.fixture(scope="module")
async def shared_stage(court: Court) -> Stage:
    return await new_stage(court)


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    """For tests that leave it fit for others."""
    return prepared(shared_stage)


@pytest.fixture
async def own_stage(court: Court) -> Stage:
    return await new_stage(court)


async def test_what_stops_after_any_step_is_finished_by_the_next_worker(stage: Stage) -> None:
    for changes in range(1 + len(STEPS) + 1):
        asked, before = await stage.approved(), stage.see()
        assert await stage.dies(asked, fails_after=changes)
        assert (await stage.court.get(asked)).state is State.APPLYING
        await stage.court.work(asked)
        await stage.check_moved(asked, before)


async def test_what_mlflow_does_not_answer_is_done_when_it_does(stage: Stage) -> None:
    asked, before = await stage.approved(), stage.see()
    assert await stage.dies(asked, UpstreamUnavailable, fails_after=2)
    assert await stage.dies(asked, UpstreamUnavailable, fails_after=0)
    await stage.court.work(asked)
    await stage.check_moved(asked, before)


@pytest.mark.parametrize("step", STEPS)
async def test_what_mlflow_refuses_undoes_all_that_moved_before(stage: Stage, step: str) -> None:
    asked, before, held = await stage.approved(), stage.see(), await stage.held()
    await stage.dies(asked, refused=step)
    await stage.check_undone(asked, before)
    assert "could not be moved: MLflow refused it" in str((await stage.court.get(asked)).state_reason)
    assert await stage.held() == held


MOVED = len(STEPS)  # the alias, and all that moves with it but the last, which is refused


@pytest.mark.parametrize("undone", [0, 2, MOVED])
async def test_an_undoing_that_stops_after_any_step_is_done_again(stage: Stage, undone: int) -> None:
    asked, before = await stage.approved(), stage.see()
    assert await stage.dies(asked, refused=STEPS[-1], fails_after=MOVED + undone)
    await stage.dies(asked, refused=STEPS[-1])
    await stage.check_undone(asked, before)


async def test_an_undoing_that_stopped_is_forgotten_when_nothing_is_refused_any_more(stage: Stage) -> None:
    asked, before = await stage.approved(), stage.see()
    assert await stage.dies(asked, refused=STEPS[-1], fails_after=MOVED + 2)
    await stage.court.work(asked)
    await stage.check_moved(asked, before)


async def test_bytes_that_change_while_no_worker_runs_have_the_alias_put_back(own_stage: Stage) -> None:
    asked, before = await own_stage.approved(), own_stage.see()
    await own_stage.dies(asked, fails_after=MOVED)
    assert own_stage.see()[0] == "2"
    (own_stage.court.mlflow.folder_of(own_stage.model, "2") / "MLmodel").write_text("other")
    await own_stage.court.work(asked)
    await own_stage.check_undone(asked, before)
    reason = str((await own_stage.court.get(asked)).state_reason)
    assert "the artifacts changed" in reason
    assert reason.endswith("; everything was put back")


async def test_what_somebody_else_moved_meanwhile_is_left_as_they_made_it(own_stage: Stage) -> None:
    asked, before = await own_stage.approved(), own_stage.see()
    await own_stage.dies(asked, fails_after=MOVED)
    own_stage.court.mlflow.call(
        "POST", "registered-models/alias", {"name": own_stage.model, "alias": "production", "version": "3"}
    )
    own_stage.court.tag(own_stage.model, "2", seen="no")
    stale = await own_stage.court.work(asked)
    assert stale.state is State.STALE
    assert "is by version 3 now" in str(stale.state_reason)
    assert own_stage.see() == ("3", *before[1:3], before[3] | {"seen": "no"})


async def test_what_cannot_be_put_back_is_named_and_a_person_must_look(own_stage: Stage) -> None:
    asked, before = await own_stage.approved(), own_stage.see()
    await own_stage.dies(asked, fails_after=MOVED)
    own_stage.court.mlflow.call("DELETE", "model-versions/delete", {"name": own_stage.model, "version": "3"})
    await own_stage.dies(asked, refused=STEPS[-1])
    failed = await own_stage.court.get(asked)
    assert (failed.state, failed.alias_moved) == (State.FAILED, False)
    assert str(failed.state_reason).endswith("; alias previous could not be put back")
    assert own_stage.see() == (before[0], "1", *before[2:])


async def test_a_worker_that_was_thought_dead_moves_nothing_when_others_have_gone_on(
    own_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, court = await own_stage.approved(), own_stage.court
    measuring: Any = court.worker.advancing._applying._measuring
    left: list[World] = []

    async def again(*values: str) -> Measured:
        """The others, while it reads the bytes."""
        monkeypatch.undo()
        assert (await court.work(asked)).state is State.APPLIED
        back, _ = await court.promotions.roll_back(court.bob, model=own_stage.model, alias="production")
        assert (await court.work(back)).state is State.APPLIED
        left.append(own_stage.see())
        found: Measured = await measuring.again(*values)
        return found

    monkeypatch.setattr(measuring, "again", again)
    assert (await court.work(asked)).state is State.ROLLED_BACK
    assert [own_stage.see()] == left
    assert own_stage.see()[:2] == ("1", "2")


async def test_two_workers_at_one_promotion_do_not_undo_each_others_work(own_stage: Stage) -> None:
    for _ in range(3):
        asked, before = await own_stage.approved(), own_stage.see()
        await asyncio.gather(*(own_stage.court.work(asked) for _ in range(3)))
        await own_stage.check_moved(asked, before)


async def test_an_alias_that_mlflow_does_not_let_be_moved_is_left_where_it_is(stage: Stage) -> None:
    asked, before = await stage.approved(), stage.see()
    with failing(stage.court.worker.advancing, refuses=lambda name, *_: name == "set_alias"):
        await stage.court.work(asked)
    await stage.check_undone(asked, before)
    assert "production could not be moved" in str((await stage.court.get(asked)).state_reason)
