"""What is told of what happens, and to whom: on the real MLflow and database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from app.adapters.postgres.changes import PostgresChanges
from app.domain.deployments import Deployment, Report, Target
from app.domain.events import EventType, StoredEvent
from app.domain.phases import Phase, Reason
from app.domain.promotions import Outcome, Promotion
from app.domain.registrations import Registration
from app.main import describe
from app.routers import happenings
from app.services.noticing import SETTLED, NewVersions
from tests.conftest import database_of
from tests.door import until
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer
from tests.telling import events_of

GROUPS = {"ada": "scientists", "bob": "approvers", "root": "administrators", "vera": "viewers", "stan": "nobody"}


@dataclass
class Stream:
    """What somebody is sent who follows events."""

    status: int = 0
    sent: list[dict[str, Any]] = field(default_factory=list)
    last_id: str = ""
    beats: int = 0
    is_over: bool = False
    is_stuck: bool = False
    """Takes nothing any more."""
    _buffer: str = ""

    async def take(self, message: Mapping[str, Any]) -> None:
        """ASGI's ``send``."""
        if self.is_stuck:
            await asyncio.Event().wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        *blocks, self._buffer = (self._buffer + message.get("body", b"").decode()).split("\n\n")
        for block in blocks:
            self._read(block)

    def _read(self, block: str) -> None:
        fields = dict(line.partition(": ")[::2] for line in block.split("\n"))
        self.beats += ":" in fields
        self.last_id = fields.get("id", self.last_id)
        if "data" in fields:
            self.sent.append({**json.loads(fields["data"]), "event": fields["event"], "last_id": self.last_id})

    async def has(self, number: int) -> bool:
        return len(self.sent) >= number


@dataclass
class Scene:
    court: Court
    app: Any
    http: httpx.AsyncClient
    through: httpx.AsyncClient
    """MLflow's API through the gateway."""
    issuer: Issuer

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.issuer.token(who, groups=[GROUPS[who]])}"}

    async def get(self, path: str, who: str = "vera", **query: Any) -> httpx.Response:
        return await self.http.get(f"/control/v1{path}", params=query, headers=self.headers(who))

    async def last(self) -> int:
        async with self.court.database.unit_of_work() as work:
            return await work.events.last()

    async def since(self, number: int, model: str = "") -> list[StoredEvent]:
        """What happened since, of one model or of none."""
        found = await events_of(self.court.database)
        return [each for each in found if each.sequence > number and each.event.key.model == model]

    @asynccontextmanager
    async def follow(self, query: str, who: str = "vera", **headers: str) -> AsyncIterator[Stream]:
        """``/events/stream``, until it is left."""
        stream, gone = Stream(), asyncio.Event()
        said = {**self.headers(who), **headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/control/v1/events/stream",
            "raw_path": b"/control/v1/events/stream",
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in said.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            await self.app(scope, receive, stream.take)
            stream.is_over = True

        task = asyncio.create_task(run())
        try:
            yield stream
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
async def scene(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Scene]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            app = describe()
            app.state.services = court.gateway.services
            base_url = court.settings.public_url
            async with (
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url) as http,
                httpx.AsyncClient(transport=httpx.ASGITransport(court.gateway.proxy), base_url=base_url) as through,
            ):
                await court.worker.new_versions.look()  # the first look, at whatever other tests have left
                yield Scene(court, app, http, through, issuer)


def kinds(found: list[StoredEvent]) -> list[EventType]:
    return [each.event.type for each in found]


# What is told of promotions.


async def test_a_promotion_is_told_step_by_step_and_whose_signature_is_missing(scene: Scene) -> None:
    court, before = scene.court, await scene.last()
    model = court.model()
    await court.policy(models=model, approvals=[{"name": "ml", "groups": ["ml"]}, {"name": "risk", "groups": ["risk"]}])
    asked = await court.ask(model, reason="r2 0.52")
    await court.promotions.decide(court.bob, asked.id, Outcome.APPROVE, reason="as I see it")
    await court.approve(asked, court.cem)
    await court.work(asked)
    found = await scene.since(before, model)
    assert kinds(found) == [
        EventType.REQUESTED,
        EventType.READY_FOR_DECISION,
        EventType.DECIDED,
        EventType.DECIDED,
        EventType.APPROVED,
        EventType.APPLYING,
        EventType.APPLIED,
        EventType.ALIAS_MOVED,
    ]
    said = [dict(each.event.data) for each in found]
    assert said[0]["comment"] == "r2 0.52"
    decided = [(each["by"], each["outcome"], each["comment"], each["missing"]) for each in said[2:4]]
    assert decided == [("Bob", "approve", "as I see it", 1), ("Cem", "approve", "", 0)]
    assert "1 approval by group ml and 1 approval by group risk" in str(said[1]["waits_for"])
    assert "1 approval by group risk" in str(said[2]["waits_for"])
    applied = await court.get(asked)
    for each in said[6:]:
        assert (each["uri"], each["digest"], each["run_id"]) == (applied.uri, applied.digest, applied.run_id)
        assert (each["workspace"], each["promotion"], each["kind"]) == ("default", asked.id, "promotion")
    assert (said[6]["approved_by"], said[6]["requested_by"]) == (["Bob", "Cem"], "Ada")
    assert said[6]["policy"] == {"name": model, "revision": 1}
    moved = found[7].event
    assert (moved.subject, said[7]["from_version"], said[7]["version"]) == (f"{model}@production", None, "1")


async def test_a_rejection_is_told_with_its_reason(scene: Scene) -> None:
    court, before = scene.court, await scene.last()
    model = court.model()
    await court.policy(models=model)
    asked = await court.ask(model)
    await court.promotions.decide(court.bob, asked.id, Outcome.REJECT, reason="too slow")
    rejected = (await scene.since(before, model))[-2:]
    assert kinds(rejected) == [EventType.DECIDED, EventType.REJECTED]
    assert rejected[0].event.data["comment"] == "too slow"
    assert rejected[1].event.data["reason"] == "rejected by Bob: too slow"


async def test_each_other_end_of_a_promotion_is_told(scene: Scene) -> None:
    court = scene.court
    model = court.model(versions=3)
    await court.policy(
        models=model,
        approvals=[{"name": "ml", "groups": ["ml"]}],
        rollback={"approvals": []},
        expiry={"after": "1h"},
    )
    await court.promoted(model)
    before = await scene.last()
    second = await court.promoted(model, "2")
    back, _ = await court.promotions.roll_back(court.bob, model=model, alias="production")
    await court.work(back)
    replaced = await court.ask(model, "2")
    newer = await court.ask(model, "3")
    await court.approve(newer)
    async with court.database.unit_of_work() as work:
        await work.principals.vouch(court.person("bob", "approvers").identity, at=court.clock.now())
        await work.commit()
    await court.work(newer)
    await court.promotions.withdraw(court.ada, newer.id, reason="never mind")
    late = await court.ask(model, "3")
    court.clock.ahead += timedelta(hours=2)
    await court.work(late)
    court.clock.ahead -= timedelta(hours=2)
    stale = await court.ask(model, "3")
    values = {"name": model, "alias": "production", "version": "2"}
    court.mlflow.call("POST", "registered-models/alias", values)
    await court.approve(stale, court.person("eve", "approvers", "ml"))
    await court.work(stale)
    told = {(each.event.type, each.event.subject): each.event.data for each in await scene.since(before, model)}
    assert told[EventType.ROLLED_BACK, second.id]["replaced_by"] == back.id
    assert told[EventType.APPLIED, back.id]["rolls_back"] == second.id
    assert told[EventType.SUPERSEDED, replaced.id]["replaced_by"] == newer.id
    assert "waits again" in str(told[EventType.WAITS_AGAIN, newer.id]["reason"])
    assert told[EventType.WITHDRAWN, newer.id]["comment"] == "never mind"
    assert told[EventType.EXPIRED, late.id]["reason"] == "nobody settled it in time"
    assert told[EventType.STALE, stale.id]["state"] == "stale"


async def test_an_alias_that_moves_along_is_told_too(scene: Scene) -> None:
    court = scene.court
    model = court.model(versions=2)
    await court.policy(models=model, companions={"previous": "previous"}, rollback={"approvals": []})
    await court.promoted(model)
    before = await scene.last()
    await court.promoted(model, "2")
    moved = [each for each in await scene.since(before, model) if each.event.type is EventType.ALIAS_MOVED]
    told = {each.event.subject: each.event.data for each in moved}
    assert told.keys() == {f"{model}@production", f"{model}@previous"}
    along = told[f"{model}@previous"]
    assert (along["cause"], along["from_version"], along["version"]) == ("companion", None, "1")


# Deployments.


async def test_deployments_are_told_phase_by_phase(scene: Scene) -> None:
    court = scene.court
    model = court.model(versions=2)
    async with court.database.unit_of_work() as work:
        target = Target("t", "http://127.0.0.1:1/", ("env:A",), ("env:B",))
        await work.targets.put(target, at=court.clock.now())
        await work.commit()
    await court.policy(models=model, targets=["t"])
    before = await scene.last()

    async def rolled_out(version: str) -> Deployment:
        asked: Promotion = await court.ask(model, version)
        await court.approve(asked)
        assert (await court.work(asked)).state == "rolling_out"
        async with court.database.unit_of_work() as work:
            (deployment,) = await work.deployments.of_promotion(asked.id)
        return deployment

    async def reports(deployment: Deployment, *phases: Phase) -> None:
        for sequence, phase in enumerate(phases, start=1):
            report = Report(deployment.generation, deployment.generation, sequence, phase, Reason.UNHEALTHY, "it is so")
            await court.gateway.services.deployments.report(deployment.id, report)

    await reports(await rolled_out("1"), Phase.ACCEPTED, Phase.PROGRESSING, Phase.PROGRESSING, Phase.READY)
    await rolled_out("2")
    await reports(await rolled_out("1"), Phase.FAILED)
    of_deployments = [each for each in await scene.since(before, model) if each.event.type.startswith("deployment.")]
    assert [(each.event.type, each.event.data["version"]) for each in of_deployments] == [
        (EventType.DEPLOYMENT_DESIRED, "1"),
        (EventType.DEPLOYMENT_ACCEPTED, "1"),
        (EventType.DEPLOYMENT_PROGRESSING, "1"),
        (EventType.DEPLOYMENT_READY, "1"),
        (EventType.DEPLOYMENT_DESIRED, "2"),
        (EventType.DEPLOYMENT_SUPERSEDED, "2"),
        (EventType.DEPLOYMENT_DESIRED, "1"),
        (EventType.DEPLOYMENT_FAILED, "1"),
    ]
    failed = of_deployments[-1].event.data
    assert (failed["target"], failed["generation"], failed["message"], failed["by"]) == ("t", 3, "it is so", "t")
    assert {EventType.LIVE, EventType.ROLLING_OUT, EventType.FAILED} <= set(kinds(await scene.since(before, model)))


async def test_policies_are_told_to_who_may_read_all_of_them(scene: Scene) -> None:
    before, document = await scene.last(), {"models": "told-*", "alias": "production", "autoApprove": True}
    for changed in (document, {**document, "drift": "restore"}):
        answer = await scene.http.put("/control/v1/policies/told", json=changed, headers=scene.headers("root"))
        assert answer.is_success, answer.text
    assert (await scene.http.delete("/control/v1/policies/told", headers=scene.headers("root"))).is_success
    found = await scene.since(before)
    assert kinds(found) == [EventType.POLICY_CHANGED] * 3
    told = [(each.event.data["outcome"], each.event.data["revision"]) for each in found]
    assert told == [("created", 1), ("revised", 2), ("retired", 3)]
    assert len((await scene.get("/events", after=before)).json()["items"]) == 3


# Versions.


def versions_of(found: list[StoredEvent]) -> list[tuple[str, object]]:
    return [
        (each.event.subject, each.event.data["by"]) for each in found if each.event.type is EventType.VERSION_REGISTERED
    ]


async def test_a_version_is_told_once_whether_or_not_it_came_through_the_gateway(scene: Scene) -> None:
    court, before = scene.court, await scene.last()
    model = court.model(versions=1)  # past the gateway
    first = court.mlflow.call("GET", "model-versions/get", {"name": model, "version": "1"})["model_version"]
    values = {"name": model, "source": first["source"], "run_id": first["run_id"]}
    answer = await scene.through.post(
        "/api/2.0/mlflow/model-versions/create", json=values, headers=scene.headers("ada")
    )
    assert answer.is_success, answer.text
    assert versions_of(await scene.since(before, model)) == [(f"{model}/2", "ada")]
    look = court.worker.new_versions.look
    await look()  # the first version is so young that the gateway may be about to tell it
    assert versions_of(await scene.since(before, model)) == [(f"{model}/2", "ada")]
    court.clock.ahead += SETTLED
    try:
        await asyncio.gather(look(), look())
        await look()
    finally:
        court.clock.ahead -= SETTLED
    found = await scene.since(before, model)
    assert versions_of(found) == [(f"{model}/2", "ada"), (f"{model}/1", None)]
    for each in found:
        assert (each.event.data["source"], each.event.data["run_id"]) == (first["source"], first["run_id"])
    shown = (await scene.get("/events", model=model, alias="", type="version.registered")).json()["items"]
    assert [each["subject"] for each in shown] == [f"{model}/2", f"{model}/1"]


async def test_prompts_are_not_told(scene: Scene) -> None:
    court, before = scene.court, await scene.last()
    name, mark = f"{court.model()}-prompt", {"key": "mlflow.prompt.is_prompt", "value": "true"}
    for path, more in (("registered-models", {}), ("model-versions", {"source": "dummy-source"})):
        answer = await scene.through.post(
            f"/api/2.0/mlflow/{path}/create",
            json={"name": name, "tags": [mark, {"key": "mlflow.prompt.text", "value": "Hello"}], **more},
            headers=scene.headers("ada"),
        )
        assert answer.is_success, answer.text
    court.clock.ahead += SETTLED
    await court.worker.new_versions.look()
    court.clock.ahead -= SETTLED
    assert await scene.since(before, name) == []


async def test_the_first_look_at_an_old_server_tells_nothing(scene: Scene, database_url: str, issuer: Issuer) -> None:
    mlflow = scene.court.mlflow
    async with open_court(database_url, mlflow, issuer) as court:
        old = court.model()
        for _ in range(2):
            court.clock.ahead += timedelta(minutes=1)
            await court.worker.new_versions.look()
        assert await events_of(court.database) == []
        # Whatever the clocks say, what comes later is news: ours is ahead by two minutes, then behind.
        mlflow.register(old)
        await court.worker.new_versions.look()
        court.clock.ahead -= timedelta(minutes=30)
        mlflow.register(old)
        await court.worker.new_versions.look()
        told = versions_of(await events_of(court.database))
        assert told == [(f"{old}/3", None), (f"{old}/4", None)]


class DatedRegistry:
    """What MLflow lists, by a clock that the test sets."""

    def __init__(self) -> None:
        self.registered: list[Registration] = []

    def register(self, version: str, at: datetime) -> None:
        created_at = int(at.timestamp() * 1000)
        self.registered.append(Registration("default", "m", version, created_at, None, ""))

    async def workspaces(self) -> list[str]:
        return ["default"]

    async def newest_versions(self, workspace: str) -> AsyncIterator[Registration]:
        for each in sorted(self.registered, key=lambda each: each.created_at, reverse=True):
            yield each


async def test_every_version_is_told_once_whatever_the_clocks_were(
    scene: Scene, database_url: str, issuer: Issuer
) -> None:
    async with open_court(database_url, scene.court.mlflow, issuer) as court:
        registry = DatedRegistry()
        new = NewVersions(court.database.unit_of_work, registry, court.clock)  # type: ignore[arg-type]  # all that it uses
        registry.register("1", court.clock.now() - timedelta(days=1))
        await new.look()
        # One clock is everybody's: it is ahead by a day, is put right, and falls behind.
        ahead, right = timedelta(days=1), timedelta(minutes=20) - timedelta(days=1)
        for version, step in (("2", timedelta(0)), ("3", ahead), ("4", right)):
            court.clock.ahead += step
            registry.register(version, court.clock.now())
            court.clock.ahead += SETTLED
            await new.look()
        told = [("m/2", None), ("m/3", None), ("m/4", None)]
        assert versions_of(await events_of(court.database)) == told
        # Nobody looks for half an hour.
        registry.register("5", court.clock.now() + timedelta(minutes=5))
        court.clock.ahead += timedelta(minutes=30)
        await new.look()
        told.append(("m/5", None))
        assert versions_of(await events_of(court.database)) == told
        court.clock.ahead -= timedelta(minutes=30)
        await new.look()
        assert versions_of(await events_of(court.database)) == told


# The stream.


async def test_a_stream_tells_what_happens_and_goes_on_where_it_was(scene: Scene) -> None:
    court, before = scene.court, await scene.last()
    model, other = court.model(), court.model()
    await court.policy(models=model)
    await court.policy(models=other)
    query = f"model={model}&type=promotion.requested&type=alias.moved"
    async with scene.follow(query) as stream:
        await until(partial(began, stream), "the beginning")
        assert (stream.status, stream.last_id) == (200, str(before))
        await court.promoted(other)
        await court.promoted(model)
        await until(partial(stream.has, 2), "two events")
    assert [each["event"] for each in stream.sent] == ["promotion.requested", "alias.moved"]
    first = stream.sent[0]
    assert first["type"] == "countersign.promotion.requested.v1"
    assert first["last_id"] == str(int(first["sequence"]))
    assert first["data"]["console"] == f"{court.settings.public_url}/console/promotions/{first['data']['promotion']}"
    async with scene.follow(query, **{"Last-Event-ID": first["last_id"]}) as again:
        await until(partial(again.has, 1), "what was missed")
        assert [each["event"] for each in again.sent] == ["alias.moved"]
    assert (await scene.get("/events/stream", after="x")).status_code == 400
    assert (await scene.get("/events/stream", who="stan")).status_code == 403


async def began(stream: Stream) -> bool:
    return bool(stream.last_id)


async def over(stream: Stream) -> bool:
    return stream.is_over


async def test_a_stream_ends_when_its_reader_may_not_read_any_more(scene: Scene) -> None:
    court, root = scene.court, scene.headers("root")
    model = court.model()
    await court.policy(models=model)
    grant = {"role": "viewer", "subject": {"group": "nobody"}, "on": {"model": model}}
    assert (await scene.http.put("/control/v1/grants/stan", json=grant, headers=root)).status_code == 201

    async def may() -> bool:
        return (await scene.get("/events", who="stan")).status_code == 200

    await until(may, "the grant being in force")
    async with scene.follow("", who="stan") as stream:
        await until(partial(began, stream), "the beginning")
        await court.ask(model)
        await until(partial(stream.has, 1), "an event")
        assert (await scene.http.delete("/control/v1/grants/stan", headers=root)).status_code == 204

        async def may_not() -> bool:
            return not await may()

        await until(may_not, "the grant being gone")
        other = court.model()
        await court.policy(models=other)
        await court.ask(other)  # something happens, that he is told nothing of
        await until(partial(over, stream), "the end")
    assert {each["data"].get("model") for each in stream.sent} == {model}


async def test_a_stream_beats_while_nothing_happens_and_ends_when_the_process_stops(scene: Scene) -> None:
    changes = PostgresChanges(scene.court.settings.database_url.get_secret_value())
    events = type(scene.court.gateway.services.events)(scene.court.database.unit_of_work, changes)

    async def vera() -> Any:
        return scene.court.person("vera", "viewers")

    pages = events.follow(vera, after=await scene.last(), heartbeat_s=0.01)
    assert [await anext(pages), await anext(pages)] == [[], []]
    changes.end_waits()
    with pytest.raises(StopAsyncIteration):
        await anext(pages)


async def test_a_reader_that_takes_nothing_is_cut_off(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happenings, "STUCK_S", 0.05)
    model = scene.court.model()
    await scene.court.policy(models=model)
    async with scene.follow("") as stream:
        await until(partial(began, stream), "the beginning")
        stream.is_stuck = True
        await scene.court.ask(model)
        await until(partial(over, stream), "the end")
    assert stream.sent == []


# Reading.


async def test_the_last_ones_can_be_had_first(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    await scene.court.promoted(model)
    for query in ({}, {"model": model}, {"type": ["alias.moved", "promotion.applied"]}):
        page = (await scene.get("/events", newest_first=True, limit=2, **query)).json()
        assert [each["type"] for each in page["items"]] == ["alias.moved", "promotion.applied"], query
        assert page["next_after"] == page["items"][0]["sequence"]
    assert (await scene.get("/events", model="no-such-model")).json()["items"] == []
    assert (await scene.get("/events", model=model, workspace="elsewhere")).json()["items"] == []
    assert (await scene.get("/events", model="a\0b")).status_code == 400
    misspelled = (await scene.get("/events", type=["alias.moved", "version.registerd"])).json()
    assert misspelled["field"] == "type"
    assert misspelled["detail"].startswith("type: Did you mean 'version.registered'?")


async def test_schemas_are_for_everybody(scene: Scene) -> None:
    listed = (await scene.http.get("/control/v1/events/schemas")).json()["items"]
    assert [each["type"] for each in listed] == list(EventType)
    address = next(each["dataschema"] for each in listed if each["type"] == "alias.drifted")
    answer = await scene.http.get(address)
    assert answer.headers["content-type"] == "application/schema+json"
    Draft202012Validator.check_schema(answer.json())
    assert answer.json()["$id"] == address
    assert (await scene.http.get("/control/v1/events/schemas/alias.unheard")).status_code == 404
