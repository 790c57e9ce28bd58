"""What a reference means, looked up in the ledger and in MLflow: in this process, with every step at hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from app.adapters.mlflow_registry import MlflowRegistry
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.bootstrap.governance import assertion_of
from app.domain.errors import BytesChanged, Forbidden, NotFound, Overloaded, Unresolvable, UpstreamUnavailable
from app.domain.grants import Effect, Grant, Reach, Subject
from app.domain.names import parse_models_uri
from app.domain.policies import Policy
from app.domain.promotions import State, moved
from app.domain.resolutions import Found, Known, Remember
from app.domain.roles import Role
from app.services import resolution
from app.services.resolution import MLFLOW_AT_ONCE
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.integration.test_statements import statements
from tests.issuer import Issuer
from tests.platform import MlflowServer
from tests.principals import principal

EVERYBODY = Subject(group="*")


@pytest.fixture(scope="module")
async def court(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Court]:
    """Without a policy: a model is governed from when a test says so."""
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            yield court


async def look_up(court: Court, uri: str) -> Found:
    return await court.gateway.services.resolver.look_up(parse_models_uri(uri), "default")


def set_alias(court: Court, model: str, alias: str, version: str) -> None:
    court.mlflow.call("POST", "registered-models/alias", {"name": model, "alias": alias, "version": version})


def stage(court: Court, model: str, version: str, name: str) -> None:
    body = {"name": model, "version": version, "stage": name, "archive_existing_versions": False}
    court.mlflow.call("POST", "model-versions/transition-stage", body)


async def execute(court: Court, statement: str, *values: object) -> None:
    connection = await asyncpg.connect(court.settings.database_url.get_secret_value())
    try:
        await connection.execute(statement, *values)
    finally:
        await connection.close()


# What moves by itself.


async def test_a_stage_and_the_latest_version_resolve_for_a_model_that_no_policy_is_for(court: Court) -> None:
    model = court.model(versions=3)
    stage(court, model, "1", "Staging")
    for end, version in (("@latest", "3"), ("/latest", "3"), ("/LATEST", "3"), ("/staging", "1"), ("/None", "3")):
        found = await look_up(court, f"models:/{model}{end}")
        assert (found.resolution.version, found.remember) == (version, Remember.BRIEFLY)
    for uri, missing in ((f"models:/{model}/Archived", "stage archived"), ("models:/no-such/latest", "no-such")):
        with pytest.raises(NotFound, match=missing):
            await look_up(court, uri)
    await court.policy(models=model)
    for end in ("@latest", "/latest", "/Staging"):
        with pytest.raises(Unresolvable, match=f"{model} is governed by policy {model}"):
            await look_up(court, f"models:/{model}{end}")


async def test_whether_a_model_is_governed_by_its_tags_is_asked_of_mlflow(court: Court) -> None:
    model = court.model()
    await court.policy(models=model, tags={"tier": "1"})
    assert (await look_up(court, f"models:/{model}/latest")).resolution.version == "2"
    court.mlflow.call("POST", "registered-models/set-tag", {"name": model, "key": "tier", "value": "1"})
    with pytest.raises(Unresolvable, match="is governed"):
        await look_up(court, f"models:/{model}/latest")


async def test_a_source_in_a_run_is_looked_up_there_unless_a_policy_is_for_the_model(court: Court) -> None:
    model = court.model(versions=1)
    pinned = await look_up(court, f"models:/{model}/1")
    run = pinned.resolution.run_id
    body = {"name": model, "source": f"runs:/{run}/model", "run_id": run}
    court.mlflow.call("POST", "model-versions/create", body)
    found = (await look_up(court, f"models:/{model}/2")).resolution
    assert (found.uri, found.source_uri) == (pinned.resolution.uri, f"runs:/{run}/model")
    await court.policy(models=model)
    with pytest.raises(Unresolvable, match="looked up again at every load"):
        await look_up(court, f"models:/{model}/2")


@pytest.mark.parametrize("source", ["s3://somewhere/else", "gs://x/y", "dbfs:/x", "foo://x/y", "s3://k:secret@b/x"])
async def test_a_place_that_is_not_allowed_is_not_given_out_and_not_promoted_whoever_governs_it(
    court: Court, source: str
) -> None:
    model = court.model(versions=1)
    court.mlflow.call("POST", "model-versions/create", {"name": model, "source": source})
    set_alias(court, model, "champion", "2")
    for end in ("/2", "@champion", "/latest"):
        with pytest.raises(Unresolvable) as refused:
            await look_up(court, f"models:/{model}{end}")
        assert "secret" not in refused.value.message
    await court.policy(models=model)
    with pytest.raises(Unresolvable):
        await court.ask(model, "2")


# What the ledger knows.


async def test_one_statement_finds_what_was_approved(court: Court) -> None:
    model = court.model()
    await court.policy(models=model)
    await court.promoted(model)
    for end in ("@production", "/1"):
        with statements() as sent:
            found = await look_up(court, f"models:/{model}{end}")
        assert found.remember is Remember.UNTIL_CHANGED
        assert found.resolution.promotion_id is not None
        assert len(sent) == 1, sent


async def test_a_version_is_answered_from_the_ledger_while_one_of_its_aliases_is_protected(court: Court) -> None:
    model = court.model()
    await court.policy(models=model)
    staging = await court.policy(name=f"{model}-staging", models=model, alias="staging")
    production = await court.promoted(model)
    last = await court.promoted(model, alias="staging")
    found = await look_up(court, f"models:/{model}/1")
    assert (found.resolution.promotion_id, found.resolution.alias) == (last.id, None)
    await retire(court, staging)
    assert (await look_up(court, f"models:/{model}/1")).resolution.promotion_id == production.id


async def test_an_alias_that_is_being_moved_is_not_remembered_and_is_the_old_one_until_it_has_moved(
    court: Court,
) -> None:
    model = court.model()
    await court.policy(models=model, companions={"previous": "previous"})
    await court.promoted(model, "1")
    set_alias(court, model, "previous", "1")
    promotion = await court.ask(model, "2")
    await court.approve(promotion)
    approved = await court.get(promotion)
    async with court.database.unit_of_work() as work:
        await work.promotions.save(approved, moved(approved, State.APPLYING, at=court.clock.now()))
        await work.commit()
    for end, remember in (
        ("@production", Remember.NOT),
        ("@previous", Remember.NOT),  # moves with it
        ("/1", Remember.UNTIL_CHANGED),
        ("/2", Remember.NOT),
    ):
        found = await look_up(court, f"models:/{model}{end}")
        assert found.remember is remember, end
        assert found.resolution.version == ("2" if end == "/2" else "1")
    await court.work(promotion)
    found = await look_up(court, f"models:/{model}@production")
    assert (found.resolution.version, found.remember) == ("2", Remember.UNTIL_CHANGED)


async def test_what_is_not_as_approved_resolves_under_no_name(court: Court) -> None:
    model, other = court.model(), court.model(versions=1)
    await court.policy(models=model)
    await court.promoted(model)
    source = court.mlflow.call("GET", "model-versions/get", {"name": model, "version": "1"})["model_version"]
    copy = {"name": other, "source": source["source"], "run_id": source["run_id"]}
    court.mlflow.call("POST", "model-versions/create", copy)
    folder = source["source"]
    for lies_at in (f"{folder}/weights", folder.rpartition("/")[0], f"{folder}-old"):
        court.mlflow.call("POST", "model-versions/create", {**copy, "source": lies_at})
    uris = [f"models:/{model}@production", f"models:/{model}/1", f"models:/{other}/2"]
    inside, above, beside = (f"models:/{other}/{version}" for version in (3, 4, 5))
    assert len({(await look_up(court, uri)).resolution.uri for uri in uris}) == 1
    for state, more in (("changed", [inside, above]), ("gone", [inside])):
        await execute(court, "UPDATE verifications SET state = $1, message = 'x' WHERE model = $2", state, model)
        for uri in (*uris, *more):
            with pytest.raises(BytesChanged):
                await look_up(court, uri)
        assert (await look_up(court, beside)).resolution.version == "5"
        assert (await look_up(court, f"models:/{model}/2")).resolution.version == "2"
    await execute(court, "UPDATE verifications SET state = 'as_approved', message = NULL WHERE model = $1", model)
    assert (await look_up(court, uris[0])).remember is Remember.UNTIL_CHANGED


async def test_who_asks_for_what_does_not_exist_leaves_mlflow_to_others(
    court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver, asking, most = court.gateway.services.resolver, 0, 0
    stranger = court.person("stan")

    async def counted(*_: object) -> None:
        nonlocal asking, most
        asking, most = asking + 1, max(most, asking + 1)
        await asyncio.sleep(0)
        asking -= 1
        raise NotFound("There is none.")

    for name in ("get_holder", "get_model", "get_version"):
        monkeypatch.setattr(resolver._registry, name, counted)
    uris = [f"models:/made-up-{number}{end}" for number in range(6) for end in ("@production", "/1")]
    asked = [look_up(court, uri) for uri in uris] + [resolver.check_may_resolve(stranger, uri) for uri in uris]
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(end) for end in ends} == {NotFound}
    assert most == MLFLOW_AT_ONCE
    monkeypatch.setattr(resolution, "_LONGEST_WAIT_S", 0.01)
    for _ in range(MLFLOW_AT_ONCE):
        await resolver._turns.acquire()
    with pytest.raises(Overloaded, match="Too much is asked"):
        await look_up(court, uris[0])
    for _ in range(MLFLOW_AT_ONCE):
        resolver._turns.release()


async def test_an_alias_that_nothing_protects_any_more_is_as_mlflow_says(court: Court) -> None:
    model = court.model()
    policy = await court.policy(models=model)
    await court.promoted(model)
    set_alias(court, model, "production", "2")
    assert (await look_up(court, f"models:/{model}@production")).resolution.version == "1"
    await retire(court, policy)
    found = await look_up(court, f"models:/{model}@production")
    assert (found.resolution.version, found.resolution.digest, found.remember) == ("2", None, Remember.BRIEFLY)
    # Another policy protects it as well as the one under which it was promoted.
    await court.policy(name=f"{model}-b", models=model)
    assert (await look_up(court, f"models:/{model}@production")).resolution.version == "1"


async def retire(court: Court, policy: Policy) -> None:
    async with court.database.unit_of_work() as work:
        await work.policies.retire(policy, at=court.clock.now(), by="test")
        await work.commit()


# What MLflow says.


class Interleaved(MlflowRegistry):
    """Somebody does something whenever a version's address is looked up."""

    meanwhile: Callable[[], object]

    async def location_of(self, name: str, version: str, workspace: str | None) -> str | None:
        found = await super().location_of(name, version, workspace)
        self.meanwhile()
        return found


@pytest.fixture
async def interleaved(court: Court) -> AsyncIterator[Interleaved]:
    registry = Interleaved(court.settings.upstream_urls, assertion_of(court.settings))
    yield registry
    await registry.close()


async def test_an_alias_that_moves_while_it_is_looked_up_is_looked_up_again(
    court: Court, interleaved: Interleaved
) -> None:
    model = court.model(versions=3)
    set_alias(court, model, "champion", "1")
    moves = iter(["2"])
    interleaved.meanwhile = lambda: [set_alias(court, model, "champion", each) for each in moves]
    found = await interleaved.get_holder(model, "champion")
    second = await interleaved.get_version(model, "2")
    assert found is not None
    assert (found.version, found.source_uri) == ("2", second.source_uri)
    versions = iter(["1", "2"] * 9)
    interleaved.meanwhile = lambda: set_alias(court, model, "champion", next(versions))
    with pytest.raises(UpstreamUnavailable, match="moves while it is looked up"):
        await interleaved.get_holder(model, "champion")


async def test_a_version_that_is_deleted_while_it_is_looked_up_holds_nothing(
    court: Court, interleaved: Interleaved
) -> None:
    model = court.model()
    set_alias(court, model, "champion", "1")
    deletions = iter([{"name": model, "version": "1"}])
    interleaved.meanwhile = lambda: [court.mlflow.call("DELETE", "model-versions/delete", each) for each in deletions]
    assert await interleaved.get_holder(model, "champion") is None


@pytest.mark.parametrize(
    ("end", "message"),
    [("@champion", "has no alias champion"), ("@Champion", "has no alias Champion"), ("/9", "no version 9")],
)
async def test_what_is_not_there_is_named(court: Court, end: str, message: str) -> None:
    model = court.model(versions=1)
    with pytest.raises(NotFound, match=message):
        await look_up(court, f"models:/{model}{end}")
    with pytest.raises(NotFound, match="There is no model"):
        await look_up(court, "models:/no-such@champion")


# Who may know.


def serving(*grants: Grant) -> Any:
    return principal("serving", grants=grants)


async def test_a_logged_model_is_resolved_by_who_may_resolve_what_is_of_its_experiment(court: Court) -> None:
    resolver, name = court.gateway.services.resolver, court.model(versions=0)
    experiment = court.mlflow.call("POST", "experiments/create", {"name": f"of-{name}"})["experiment_id"]
    body = {"experiment_id": experiment, "name": name}
    model_id = court.mlflow.call("POST", "logged-models", body)["model"]["info"]["model_id"]
    uri, unknown = f"models:/{model_id}", "models:/m-0123456789abcdef"
    allowed = Grant("a", Role.SERVING, EVERYBODY, Reach(experiment=f"of-{name}"))
    assert (await resolver.resolve(serving(allowed), uri)).model_id == model_id
    for grants in (
        [],
        [Grant("b", Role.SERVING, EVERYBODY, Reach(experiment="another"))],
        [Grant("c", Role.SERVING, EVERYBODY, Reach(model="*"))],
        [Grant("d", Role.SERVING, EVERYBODY), Grant("e", Role.VIEWER, EVERYBODY, allowed.on, Effect.DENY)],
    ):
        messages = []
        for each in (uri, unknown):
            with pytest.raises(NotFound) as refused:
                await resolver.resolve(serving(*grants), each)
            messages.append(refused.value.message.replace(each.removeprefix("models:/"), "<it>"))
        assert messages[0] == messages[1]
    reader = [Grant("f", Role.VIEWER, EVERYBODY), Grant("g", Role.SERVING, EVERYBODY, allowed.on, Effect.DENY)]
    with pytest.raises(Forbidden):
        await resolver.resolve(serving(*reader), uri)


async def test_a_model_that_one_may_not_know_of_is_as_one_that_is_not_there(court: Court) -> None:
    resolver, model = court.gateway.services.resolver, court.model(versions=1)
    set_alias(court, model, "champion", "1")
    other = serving(Grant("a", Role.SERVING, EVERYBODY, Reach(model="another")))
    for end in ("@champion", "@nothing", "/1", "/9", "/latest", "@latest", "/Staging"):
        messages = []
        for name in (model, "no-such"):
            with pytest.raises(NotFound) as refused:
                await resolver.resolve(other, f"models:/{name}{end}")
            messages.append(refused.value.message.replace(name, "<it>"))
        assert messages[0] == messages[1]


async def test_a_grant_on_one_alias_opens_the_model_by_no_other_name(court: Court) -> None:
    resolver, model = court.gateway.services.resolver, court.model()
    for alias, version in (("staging", "1"), ("production", "2"), ("STAGING", "2")):
        set_alias(court, model, alias, version)
    one = serving(Grant("a", Role.SERVING, EVERYBODY, Reach(model=model, alias="staging")))
    assert (await resolver.resolve(one, f"models:/{model}@staging")).version == "1"
    for end in ("@production", "@STAGING", "@staging-2", "@latest", "/1", "/2", "/latest", "/Staging"):
        with pytest.raises((NotFound, Forbidden)):
            await resolver.resolve(one, f"models:/{model}{end}")


async def test_the_ledger_is_asked_for_names_as_they_are(court: Court) -> None:
    async with court.database.unit_of_work() as work:
        assert await _knows_nothing(work, "' OR true --")
        assert await _knows_nothing(work, "%")


async def _knows_nothing(work: UnitOfWork, name: str) -> bool:
    known = await work.resolutions.of_version("default", name, "1")
    return known == Known()
