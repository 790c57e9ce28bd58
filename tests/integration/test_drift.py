"""Aliases that somebody moves past the gateway, and the history of every alias: on the real MLflow and database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest

from app.adapters.assertions import GatewayAssertion
from app.adapters.mlflow_registry import MlflowRegistry
from app.domain.drifts import Drift, DriftEnd
from app.domain.errors import UpstreamUnavailable
from app.domain.events import Event, EventType
from app.domain.promotions import AliasKey, Kind, Promotion, State
from app.main import describe
from app.services.identifiers import new_id
from app.services.reconciling import Reconciling
from tests.conftest import database_of
from tests.door import until
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import Countersign, MlflowServer, free_port
from tests.platform import until as until_so

GROUPS = {"ada": "scientists", "bob": "approvers", "vera": "viewers", "stan": "nobody"}


@dataclass
class Scene:
    """The court with its HTTP side, MLflow past the gateway, and a reconciler that looks when a test says so."""

    court: Court
    http: httpx.AsyncClient
    through: httpx.AsyncClient
    """MLflow's API through the gateway."""
    issuer: Issuer
    reconciling: Reconciling

    def headers(self, who: str, *groups: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.issuer.token(who, groups=[*(groups or (GROUPS[who],))])}"}

    def move(self, model: str, version: str | None, alias: str = "production") -> None:
        """Move an alias past the gateway."""
        if version is None:
            self.court.mlflow.call("DELETE", "registered-models/alias", {"name": model, "alias": alias})
        else:
            values = {"name": model, "alias": alias, "version": version}
            self.court.mlflow.call("POST", "registered-models/alias", values)

    async def look(self) -> None:
        await self.reconciling.reconcile()

    async def get(self, path: str, who: str = "vera", **query: Any) -> httpx.Response:
        return await self.http.get(f"/control/v1{path}", params=query, headers=self.headers(who))

    async def alias(self, model: str, alias: str = "production", **query: Any) -> dict[str, Any]:
        answer = await self.get(f"/models/{model}/aliases/{alias}", **query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def held(self, model: str, alias: str = "production") -> list[tuple[str | None, str]]:
        """Who held an alias and why, oldest first."""
        page = (await self.get(f"/models/{model}/aliases/{alias}/history")).json()["items"]
        return [(each["version"], each["cause"]) for each in reversed(page)]

    async def drifts(self, model: str) -> list[Drift]:
        """Of one model, newest first."""
        async with self.court.database.unit_of_work() as work:
            found = await work.drifts.page(limit=200)
        return [each for each in found if each.key.model == model]

    async def drift(self, model: str) -> Drift:
        """The only one of a model."""
        (drift,) = await self.drifts(model)
        return drift

    async def said(self, drift: Drift) -> list[str]:
        async with self.court.database.unit_of_work() as work:
            found = await work.audit.page(object_id=drift.id, limit=500)
        return [str(entry.document["action"]) for entry in found]

    async def promotion(self, promotion_id: str | None) -> Promotion:
        assert promotion_id is not None
        async with self.court.database.unit_of_work() as work:
            return await work.promotions.get(promotion_id)

    async def restored(self, model: str) -> Promotion:
        """Have the alias put back by the promotion that the last look asked for."""
        drift = (await self.drifts(model))[0]
        return await self.court.work(await self.promotion(drift.restoring))


@pytest.fixture(scope="module")
async def scene(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Scene]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            app = describe()
            app.state.services = court.gateway.services
            registry = MlflowRegistry([mlflow_server.url], GatewayAssertion(None, court.clock))
            reconciling = looking(court, registry)
            base_url = court.settings.public_url
            async with (
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url) as http,
                httpx.AsyncClient(transport=httpx.ASGITransport(court.gateway.proxy), base_url=base_url) as through,
            ):
                await reconciling.reconcile()  # the first look, at whatever other tests have left
                yield Scene(court, http, through, issuer, reconciling)
            await registry.close()


def looking(court: Court, registry: MlflowRegistry, **changed: Any) -> Reconciling:
    waiting: dict[str, Any] = {"pause_s": 0, "settled": timedelta()} | changed
    return Reconciling(court.database.unit_of_work, registry, court.clock, court.promotions, **waiting)


# Drift.


async def test_an_alias_that_was_moved_past_the_gateway_is_reported_and_not_believed(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    holding = await scene.court.promoted(model)
    await scene.look()
    assert await scene.drifts(model) == []
    scene.move(model, "2")
    await scene.look()
    await scene.look()
    drift = await scene.drift(model)
    assert (drift.expected.version, drift.seen.version, drift.holding) == ("1", "2", holding.id)
    assert (
        drift.message == f"Version 2 of model {model} holds production, and version 1 should (promotion {holding.id})."
    )
    assert await scene.said(drift) == ["alias.drifted"]
    now = await scene.alias(model)
    assert (now["version"], now["promotion_id"], now["drift"]["seen_version"]) == ("1", holding.id, "2")
    assert await scene.held(model) == [("1", "promotion"), ("2", "drift")]
    listed = (await scene.get("/drifts", open=True)).json()["items"]
    assert drift.id in {each["id"] for each in listed}
    assert scene.court.mlflow.holder(model) == "2"


async def test_a_drift_ends_when_the_alias_is_moved_back_past_the_gateway(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    await scene.court.promoted(model)
    scene.move(model, None)
    await scene.look()
    assert (await scene.drift(model)).seen.version is None
    scene.move(model, "2")
    await scene.look()
    scene.move(model, "1")
    await scene.look()
    drift = await scene.drift(model)
    assert (drift.ended_how, drift.ended_by) == (DriftEnd.BY_ITSELF, None)
    assert await scene.said(drift) == ["alias.drifted", "alias.drifted", "alias.drift_ended"]
    assert (await scene.alias(model))["drift"] is None
    assert await scene.held(model) == [("1", "promotion"), (None, "drift"), ("2", "drift"), ("1", "drift")]


async def test_a_promotion_ends_a_drift(scene: Scene) -> None:
    model = scene.court.model(versions=3)
    await scene.court.policy(models=model)
    await scene.court.promoted(model)
    scene.move(model, "2")
    await scene.look()
    newer = await scene.court.promoted(model, "3")
    drift = await scene.drift(model)
    assert (drift.ended_how, drift.ended_by) == (DriftEnd.PROMOTION, newer.id)
    await scene.look()
    assert await scene.said(await scene.drift(model)) == ["alias.drifted", "alias.drift_ended"]


async def test_the_alias_is_put_back_where_the_policy_says_so(scene: Scene) -> None:
    model = scene.court.model(versions=3)
    await scene.court.policy(models=model, drift="restore")
    holding = await scene.court.promoted(model)
    waiting = await scene.court.ask(model, "3")
    scene.move(model, "2")
    await scene.look()
    await scene.look()
    restore = await scene.restored(model)
    assert (restore.kind, restore.state, restore.to_version) == (Kind.RESTORE, State.APPLIED, "1")
    assert scene.court.mlflow.holder(model) == "1"
    drift = await scene.drift(model)
    assert (drift.ended_how, drift.ended_by) == (DriftEnd.RESTORED, restore.id)
    assert await scene.held(model) == [("1", "promotion"), ("2", "drift"), ("1", "promotion")]
    assert (await scene.alias(model))["promotion_id"] == restore.id
    assert restore.digest == holding.digest
    await scene.look()
    assert len(await scene.drifts(model)) == 1
    await scene.court.approve(waiting)
    assert (await scene.court.work(waiting)).state is State.APPLIED


async def test_what_cannot_be_put_back_is_said_once_and_tried_again_after_longer_and_longer(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model, drift="restore")
    await scene.court.promoted(model)
    scene.move(model, "2")
    (scene.court.mlflow.folder_of(model, "1") / "MLmodel").write_text("other bytes")
    await scene.look()
    first = await scene.drift(model)
    assert first.obstacle
    assert "is not what was promoted" in first.obstacle
    await scene.look()
    assert (await scene.drift(model)).attempts == 1
    scene.court.clock.ahead += timedelta(seconds=31)
    await scene.look()
    second = await scene.drift(model)
    assert second.attempts == 2
    assert second.next_attempt_at
    assert second.next_attempt_at - scene.court.clock.now() > timedelta(seconds=50)
    assert await scene.said(second) == ["alias.drifted", "alias.not_restored"]
    assert scene.court.mlflow.holder(model) == "2"


async def test_an_alias_that_nobody_may_hold_is_taken_away(scene: Scene) -> None:
    reported, restored = scene.court.model(), scene.court.model()
    await scene.court.policy(models=reported)
    await scene.court.policy(models=restored, drift="restore")
    for model in (reported, restored):
        scene.move(model, "1")
    await scene.look()
    assert (await scene.drift(reported)).message.endswith("nobody should: no promotion put it there.")
    assert scene.court.mlflow.holder(reported) == "1"
    assert scene.court.mlflow.holder(restored) is None
    assert (await scene.drift(restored)).ended_how is DriftEnd.RESTORED
    assert await scene.held(restored) == [("1", "drift"), (None, "restored")]
    assert (await scene.alias(restored))["version"] is None


async def test_a_model_that_was_deleted_or_made_again_is_another(scene: Scene) -> None:
    gone, again = scene.court.model(), scene.court.model()
    for model in (gone, again):
        await scene.court.policy(models=model, drift="restore")
        await scene.court.promoted(model)
        scene.court.mlflow.call("DELETE", "registered-models/delete", {"name": model})
    scene.court.mlflow.register(again)
    scene.move(again, "1")
    await scene.look()
    missing, other = await scene.drift(gone), await scene.drift(again)
    assert missing.message.startswith(f"There is no model {gone} any more")
    assert "deleted and created again" in other.message
    assert missing.obstacle
    assert other.obstacle
    assert scene.court.mlflow.holder(again) == "1"


async def test_an_alias_that_moves_together_with_a_protected_one_drifts_too(scene: Scene) -> None:
    model = scene.court.model(versions=3)
    await scene.court.policy(models=model, companions={"previous": "previous"})
    await scene.court.promoted(model)
    await scene.court.promoted(model, "2")
    await scene.look()
    assert await scene.drifts(model) == []
    assert await scene.held(model, "previous") == [("1", "companion")]
    scene.move(model, "3", "previous")
    await scene.look()
    assert (await scene.drift(model)).key.alias == "previous"


async def test_who_took_an_alias_past_the_gateway_is_no_former_holder_when_it_is_put_back(scene: Scene) -> None:
    model = scene.court.model(versions=3)
    companions = {"previous": "previous", "promoted": {"stage": "live"}, "archived": {"stage": "archived"}}
    await scene.court.policy(models=model, drift="restore", companions=companions)
    await scene.court.promoted(model)
    await scene.court.promoted(model, "2")
    scene.move(model, "3")
    await scene.look()
    assert (await scene.restored(model)).state is State.APPLIED
    assert (scene.court.mlflow.holder(model), scene.court.mlflow.holder(model, "previous")) == ("2", "1")
    assert await scene.held(model, "previous") == [("1", "companion")]
    assert "stage" not in scene.court.tags(model, "3")


async def test_no_promotion_that_is_being_applied_is_taken_for_drift(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model, autoApprove=True, approvals=[], companions={"previous": "previous"})
    promoting = True

    async def keep_looking() -> None:
        while promoting:
            await scene.look()

    looking = asyncio.create_task(keep_looking())
    for number in range(8):
        await scene.court.promoted(model, str(1 + number % 2))
    promoting = False
    await looking
    await scene.look()
    assert await scene.drifts(model) == []
    assert [cause for _, cause in await scene.held(model)] == ["promotion"] * 8
    assert {cause for _, cause in await scene.held(model, "previous")} == {"companion"}


async def test_what_moved_a_moment_ago_is_not_judged_for_a_replica_may_be_behind(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    await scene.court.promoted(model)
    scene.move(model, "2")
    registry = MlflowRegistry([scene.court.mlflow.url], GatewayAssertion(None, scene.court.clock))
    patient = looking(scene.court, registry, settled=timedelta(minutes=1))
    await patient.reconcile()
    assert await scene.drifts(model) == []
    scene.court.clock.ahead += timedelta(minutes=1)
    await patient.reconcile()
    scene.court.clock.ahead -= timedelta(minutes=1)
    await registry.close()
    assert (await scene.drift(model)).seen.version == "2"


async def test_a_drift_is_over_when_no_policy_protects_the_alias(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    await scene.court.promoted(model)
    scene.move(model, "2")
    await scene.look()
    await scene.court.policy(models=f"not-{model}", name=model)
    await scene.look()
    assert (await scene.drift(model)).ended_how is DriftEnd.UNPROTECTED


async def test_nothing_is_concluded_while_mlflow_is_away(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    await scene.court.promoted(model)
    registry = MlflowRegistry([f"http://127.0.0.1:{free_port()}"], GatewayAssertion(None, scene.court.clock))
    with pytest.raises(UpstreamUnavailable):
        await looking(scene.court, registry).reconcile()
    await registry.close()
    assert await scene.drifts(model) == []


# What the worker does by itself.


def test_a_worker_looks_when_it_starts(service: Countersign) -> None:
    until_so(lambda: "aliases.first_seen" in service.audit("default"), "the first look")


async def test_what_is_due_is_looked_at_though_nothing_else_happens(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model, expiry={"after": "1h", "reminders": []})
    asked = await scene.court.ask(model)
    scene.court.clock.ahead += timedelta(hours=2)
    await scene.court.worker.sweeping.sweep()
    scene.court.clock.ahead -= timedelta(hours=2)
    connection = await asyncpg.connect(scene.court.settings.database_url.get_secret_value())
    try:
        query = "SELECT task_name FROM procrastinate_jobs WHERE lock = $1 AND status = 'todo'"
        assert await connection.fetchval(query, f"promotion:{asked.id}") == "advance_promotion"
    finally:
        await connection.close()


# History.


async def test_what_was_there_at_the_first_look_is_unattributed_and_no_drift(
    scene: Scene, postgres: Callable[[str], str], template_database: str
) -> None:
    free, protected = scene.court.model(), scene.court.model()
    scene.move(free, "2", "champion")
    scene.move(protected, "1")
    with database_of(postgres, template_database) as url:
        async with open_court(url, scene.court.mlflow, scene.issuer) as court:
            await court.policy(models=protected)
            before = court.clock.now()
            registry = MlflowRegistry([court.mlflow.url], GatewayAssertion(None, court.clock))
            looks = looking(court, registry)
            await looks.reconcile()
            await looks.reconcile()
            async with court.database.unit_of_work() as work:
                assert await work.drifts.page(is_open=True) == []
                one = await work.history.last(AliasKey("default", free, "champion"))
                other = await work.history.last(AliasKey("default", protected, "production"))
            assert one
            assert other
            assert (one.version, one.cause, one.principal_id) == ("2", "unattributed", None)
            assert (other.version, other.cause) == ("1", "unattributed")
            assert one.since >= before
            scene.move(protected, "2")
            await looks.reconcile()
            async with court.database.unit_of_work() as work:
                (drift,) = await work.drifts.page(is_open=True)
            assert (drift.expected.version, drift.seen.version, drift.holding) == ("1", "2", None)
            await registry.close()


async def test_an_unprotected_alias_is_known_by_whose_hand_it_moved(scene: Scene) -> None:
    model, renamed = scene.court.model(), f"{scene.court.model()}-renamed"
    ada = scene.headers("ada")
    api = "/api/2.0/mlflow/registered-models"
    values = {"name": model, "alias": "champion", "version": "1"}
    assert (await scene.through.post(f"{api}/alias", json=values, headers=ada)).status_code == 200
    now = await scene.alias(model, "champion")
    assert (now["version"], now["cause"], now["promotion_id"], now["drift"]) == ("1", "direct", None, None)
    assert now["by"]["id"] == f"{scene.issuer.url}|ada"
    scene.move(model, "2", "champion")
    await scene.look()
    past = await scene.alias(model, "champion")
    assert (past["version"], past["cause"], past["by"]) == ("2", "drift", None)
    assert await scene.drifts(model) == []
    gone = await scene.through.request("DELETE", f"{api}/alias", json={"name": model, "alias": "champion"}, headers=ada)
    assert gone.status_code == 200
    assert (await scene.alias(model, "champion"))["version"] is None
    assert (await scene.through.post(f"{api}/alias", json=values, headers=ada)).status_code == 200
    named = {"name": model, "new_name": renamed}
    assert (await scene.through.post(f"{api}/rename", json=named, headers=ada)).status_code == 200
    await scene.look()
    expected = [("1", "direct"), ("2", "drift"), (None, "direct"), ("1", "direct"), (None, "direct")]
    assert await scene.held(model, "champion") == expected
    assert await scene.held(renamed, "champion") == [("1", "direct")]


async def test_a_version_or_model_that_is_deleted_holds_nothing_any_more(scene: Scene) -> None:
    model, ada = scene.court.model(), scene.headers("ada")
    for alias, version in (("champion", "1"), ("challenger", "2")):
        values = {"name": model, "alias": alias, "version": version}
        moved = await scene.through.post("/api/2.0/mlflow/registered-models/alias", json=values, headers=ada)
        assert moved.status_code == 200
    for path, values in (("model-versions", {"version": "1"}), ("registered-models", {})):
        sent = {"name": model} | values
        gone = await scene.through.request("DELETE", f"/api/2.0/mlflow/{path}/delete", json=sent, headers=ada)
        assert gone.status_code == 200, gone.text
        assert (await scene.held(model, "champion"))[-1] == (None, "direct")
    await scene.look()
    assert await scene.held(model, "champion") == [("1", "direct"), (None, "direct")]
    assert await scene.held(model, "challenger") == [("2", "direct"), (None, "direct")]


async def test_any_time_has_an_answer_also_when_the_clock_was_set_back(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    before = scene.court.clock.now()
    first = await scene.court.promoted(model)
    between = scene.court.clock.now()
    scene.court.clock.ahead -= timedelta(minutes=5)
    second = await scene.court.promoted(model, "2")
    scene.court.clock.ahead += timedelta(minutes=5)
    rows = (await scene.get(f"/models/{model}/aliases/production/history", limit=1)).json()
    assert [each["promotion_id"] for each in rows["items"]] == [second.id]
    rest = await scene.get(f"/models/{model}/aliases/production/history", cursor=rows["next_cursor"])
    (oldest,) = rest.json()["items"]
    # By our clock the second began before the first; the order is that in which they happened.
    assert oldest["promotion_id"] == first.id
    assert oldest["since"] < oldest["until"] == rows["items"][0]["since"]
    assert rows["items"][0]["until"] is None
    for at, version, cause in (
        (before, None, "unknown"),
        (between, "2", "promotion"),
        (between + timedelta(days=365), "2", "promotion"),
        (before - timedelta(days=9000), None, "unknown"),
    ):
        then = await scene.alias(model, at=at.isoformat())
        assert (then["version"], then["cause"]) == (version, cause), at
    assert (await scene.get(f"/models/{model}/aliases/never")).status_code == 404
    assert (await scene.get(f"/models/{model}/aliases/never", at=between.isoformat())).status_code == 404
    assert (await scene.get(f"/models/{model}/aliases/production", workspace="é")).status_code == 400


# Who is told.


def event(key: AliasKey, at: datetime) -> Event:
    data = {"policy": "some", "revision": 2, "outcome": "revised", "by": "ann"}
    return Event(new_id("evn"), EventType.POLICY_CHANGED, "some", at, key, data)


async def test_no_event_is_seen_after_one_with_a_larger_number(scene: Scene) -> None:
    slow, fast = AliasKey("default", "slow", "a"), AliasKey("default", "fast", "a")
    database, now = scene.court.database, scene.court.clock.now()
    async with database.unit_of_work() as one:
        await one.events.append([event(slow, now)])

        async def other() -> None:
            async with database.unit_of_work() as work:
                work.emit(event(fast, now))
                await work.commit()

        waiting = asyncio.create_task(other())
        await until(partial(somebody_waits, scene.court), "the second writer's waiting")
        async with database.unit_of_work() as reader:
            seen = await reader.events.page(after=0, limit=10_000)
        assert {"slow", "fast"}.isdisjoint(each.event.key.model for each in seen)
        await one.commit()
    await waiting
    async with database.unit_of_work() as reader:
        seen = await reader.events.page(after=0, limit=10_000)
    ours = [each for each in seen if each.event.key in {slow, fast}]
    assert [each.event.key.model for each in ours] == ["slow", "fast"]


async def somebody_waits(court: Court) -> bool:
    """For an advisory lock."""
    connection = await asyncpg.connect(court.settings.database_url.get_secret_value())
    try:
        query = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        return bool(await connection.fetchval(query))
    finally:
        await connection.close()


async def test_events_are_read_in_order_and_waited_for(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    last = (await scene.get("/events", limit=200)).json()
    while last["items"]:
        last = (await scene.get("/events", limit=200, after=last["next_after"])).json()
    after = last["next_after"]
    asking = asyncio.create_task(scene.get("/events", after=after, wait=20))
    await asyncio.sleep(0)
    holding = await scene.court.promoted(model)
    first = (await asking).json()
    assert first["items"][0]["type"] == "promotion.requested"
    types = [EventType.APPLIED.value, EventType.DRIFTED.value]
    applied = (await scene.get("/events", after=after, type=types)).json()["items"]
    assert [(each["type"], each["subject"]) for each in applied] == [("promotion.applied", holding.id)]
    scene.move(model, "2")
    await scene.look()
    drifted = (await scene.get("/events", after=applied[-1]["sequence"], type=types)).json()["items"]
    assert [(each["alias"], each["data"]["seen_version"]) for each in drifted] == [("production", "2")]
    assert (await scene.get("/events", after=drifted[-1]["sequence"], type=types)).json()["items"] == []


async def test_who_may_read_some_aliases_is_told_of_those_alone(scene: Scene) -> None:
    seen, hidden = scene.court.model(), scene.court.model()
    for model in (seen, hidden):
        await scene.court.policy(models=model)
        await scene.court.promoted(model)
        scene.move(model, "2")
    await scene.look()
    assert (await scene.get("/drifts", who="stan")).status_code == 403
    assert (await scene.get("/events", who="stan")).status_code == 403
    grant: Mapping[str, Any] = {"role": "viewer", "subject": {"group": "nobody"}, "on": {"model": seen}}
    await give(scene, grant)
    for path in ("/drifts", "/events"):
        told = (await scene.get(path, who="stan", limit=200)).json()["items"]
        assert {each["model"] for each in told} == {seen}, path
    assert (await scene.get(f"/models/{hidden}/aliases/production/history", who="stan")).json()["items"] == []


async def give(scene: Scene, grant: Mapping[str, Any]) -> None:
    """A grant, as soon as it is in force."""
    headers = scene.headers("root", "administrators")
    answer = await scene.http.put("/control/v1/grants/some-models", json=dict(grant), headers=headers)
    assert answer.status_code == 201, answer.text

    async def is_in_force() -> bool:
        return (await scene.get("/drifts", who="stan")).status_code == 200

    await until(is_in_force, "the grant being in force")
