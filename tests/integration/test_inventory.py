"""What runs where: reports after a rollout, what targets pull, questions to them, drift, and being called again."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from countersign_deployer.calls import content_of
from countersign_deployer.contract import Deployment as CalledFor
from standardwebhooks import Webhook

from app.adapters.webhook_sender.asking import Asker, is_undisturbed
from app.domain.deployments import Deployment, Drift, Filter, Report, Serving, Target
from app.domain.endpoints import ANY_PRIVATE, ReceiverState
from app.domain.events import EventType
from app.domain.inventory import SILENT_AFTER
from app.domain.phases import Phase, Reason
from app.domain.promotions import Promotion, State
from app.main import describe
from app.ports import Question
from app.services.looking_at_targets import LOST, NO_SUCH_TARGET
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.integration.test_statements import number_of
from tests.issuer import Issuer
from tests.platform import MlflowServer
from tests.telling import events_of
from tests.toll import Deployer, Reply

GROUPS = {
    "ada": "scientists",
    "rita": "responders",
    "root": "administrators",
    "vera": "viewers",
    "depp": "deployers",
    "stan": "nobody",
}
ROLES = {
    "requester": ["scientists"],
    "approver": ["approvers"],
    "responder": ["responders"],
    "administrator": ["administrators"],
    "viewer": ["viewers"],
    "deployer": ["deployers"],
}
FULL = (Serving("1", 100, is_ready=True),)


@dataclass
class Scene:
    """The court with its HTTP side, and a deployer that answers what a test wants it to."""

    court: Court
    http: httpx.AsyncClient
    issuer: Issuer
    deployer: Deployer

    def headers(self, who: str, **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.issuer.token(who, groups=[GROUPS[who]])}", **more}

    async def get(self, path: str, who: str = "vera", **query: Any) -> httpx.Response:
        return await self.http.get(f"/control/v1{path}", params=query, headers=self.headers(who))

    async def post(self, path: str, body: object = None, who: str = "rita", **more: str) -> httpx.Response:
        return await self.http.post(f"/control/v1{path}", json=body, headers=self.headers(who, **more))

    async def shown(self, deployment: Deployment) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get(f"/deployments/{deployment.id}")).json()
        return found

    async def target(self, name: str = "ray", **changed: Any) -> Target:
        values = {"url": f"{self.deployer.url}/v1/deployments", "allowed_networks": (ANY_PRIVATE,), **changed}
        target = Target(name, secrets=("env:OF_CALLS",), callback_secrets=("env:OF_REPORTS",), **values)
        async with self.court.database.unit_of_work() as work:
            await work.targets.put(target, at=self.court.clock.now())
            await work.commit()
        return target

    async def rolling(self, model: str, version: str = "1", target: str = "ray") -> tuple[Promotion, Deployment]:
        """A promotion whose target was called, and what it was called for."""
        asked = await self.court.ask(model, version)
        if asked.state is State.PENDING:
            await self.court.approve(asked)
        promotion = await self.court.work(asked)
        assert promotion.state is State.ROLLING_OUT, (promotion.state, promotion.state_reason)
        async with self.court.database.unit_of_work() as work:
            (deployment,) = await work.deployments.find(model=model, target=target)
        return promotion, deployment

    async def live(self, model: str | None = None, version: str = "1", target: str = "ray") -> Deployment:
        """One that is ready, of a new model if none is named."""
        if model is None:
            model = self.court.model()
            await self.court.policy(models=model, targets=[target])
        promotion, deployment = await self.rolling(model, version, target)
        after = await self.reports(deployment, Phase.READY, serving=(Serving(version, 100, is_ready=True),))
        assert (await self.court.get(promotion)).state is State.LIVE
        return after

    async def reports(
        self,
        deployment: Deployment,
        phase: Phase,
        reason: Reason = Reason.NONE,
        message: str = "",
        *,
        serving: tuple[Serving, ...] = (),
    ) -> Deployment:
        present = await self.present(deployment)
        report = Report(present.generation, present.generation, present.sequence + 1, phase, reason, message, serving)
        _, after = await self.court.gateway.services.deployments.report(deployment.id, report)
        return after

    async def present(self, deployment: Deployment) -> Deployment:
        async with self.court.database.unit_of_work() as work:
            return await work.deployments.get(deployment.id)

    async def look(self) -> None:
        await self.court.worker.looking_at_targets.look()

    async def events(self, deployment: Deployment) -> list[Mapping[str, Any]]:
        """Of drift."""
        found = [each.event for each in await events_of(self.court.database)]
        of_drift = {EventType.DEPLOYMENT_DRIFTED, EventType.DEPLOYMENT_DRIFT_ENDED}
        return [
            {"type": each.type, **each.data}
            for each in found
            if each.subject == deployment.id and each.type in of_drift
        ]

    async def calls(self, deployment: Deployment) -> list[Mapping[str, Any]]:
        """The calls that were made about a deployment, oldest first."""
        rows = await self.sql("SELECT body FROM deliveries WHERE deployment_id = $1 ORDER BY sequence", deployment.id)
        return [json.loads(row["body"])["data"] for row in rows]

    async def calls_told(self, deployment: Deployment) -> int:
        """How often it was written down that a deployment was called again."""
        statement = "SELECT entry ->> 'action' AS action FROM audit_entries WHERE entry ->> 'object' = $1"
        return [row["action"] for row in await self.sql(statement, deployment.id)].count("deployment.called_again")

    async def sql(self, statement: str, *values: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.court.settings.database_url.get_secret_value())
        try:
            return list(await connection.fetch(statement, *values))
        finally:
            await connection.close()

    async def arrived(self) -> None:
        """Whatever waits to be sent to targets has arrived."""
        await self.sql(
            "UPDATE deliveries SET state = 'delivered', settled_at = now(), next_attempt_at = NULL "
            "WHERE state = 'pending' AND deployment_id IS NOT NULL"
        )

    def says(self, deployment: Deployment, phase: str, sequence: int, **more: Any) -> None:
        """What the deployer answers when it is asked."""
        status = {
            "deployment_id": deployment.id,
            "target": deployment.target,
            "resource": deployment.resource,
            "generation": deployment.generation,
            "observed_generation": deployment.generation,
            "sequence": sequence,
            "phase": phase,
            "reason": "",
            "message": "",
            "serving": [{"version": deployment.version, "weight": 100, "ready": True, "url": "", "name": ""}],
            "backend": {"kind": "of its own"},
        }
        self.deployer.known[deployment.id] = {**status, **more}

    async def desired(self, target: str = "ray", *, secret: str | None = None, **query: Any) -> httpx.Response:
        """What the deployer pulls, signed as it does."""
        path, now = f"/control/v1/targets/{target}/desired", datetime.now(UTC)
        signature = Webhook(secret or self.deployer.callback_secret).sign("msg_1", now, f"GET {path}")
        headers = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signature,
        }
        return await self.http.get(path, params=query, headers=headers)


@pytest.fixture(scope="module")
async def scene(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
) -> AsyncIterator[Scene]:
    with (
        Deployer() as deployer,
        database_of(postgres, template_database) as url,
        pytest.MonkeyPatch.context() as environment,
    ):
        deployer.answers_questions = True
        environment.setenv("OF_CALLS", deployer.secret)
        environment.setenv("OF_REPORTS", deployer.callback_secret)
        async with open_court(url, mlflow_server, issuer, COUNTERSIGN_ROLES=json.dumps(ROLES)) as court:
            app = describe()
            app.state.services = court.gateway.services
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url=court.settings.public_url) as http:
                scene = Scene(court, http, issuer, deployer)
                await scene.target()
                yield scene


# Reports after a rollout.


async def test_a_settled_promotion_is_not_undone_by_a_later_report_and_an_alarm_tells_it(scene: Scene) -> None:
    deployment = await scene.live()
    sick = await scene.reports(deployment, Phase.ERRORED, Reason.UNHEALTHY, "out of memory", serving=FULL)
    assert (sick.drift, sick.health) == (Drift.UNHEALTHY, "unhealthy")
    async with scene.court.database.unit_of_work() as work:
        promotion = await work.promotions.get(deployment.promotion_id)
    assert promotion.state is State.LIVE
    shown = await scene.shown(deployment)
    assert (shown["phase"], shown["health"], shown["drift"]) == ("Errored", "unhealthy", "unhealthy")
    assert shown["drift_message"] == "Version 1 is not well (Unhealthy: out of memory)."
    assert shown["served"]["promotion_id"] == deployment.promotion_id
    assert shown["serving"] == [{"version": "1", "weight": 100, "ready": True, "url": "", "name": "", "digest": None}]
    await scene.look()  # which finds what is known already
    await scene.reports(deployment, Phase.READY, serving=FULL)
    began, ended = await scene.events(deployment)
    assert (began["type"], began["drift"], began["by"]) == (EventType.DEPLOYMENT_DRIFTED, "unhealthy", "worker")
    assert (ended["type"], ended["drift"]) == (EventType.DEPLOYMENT_DRIFT_ENDED, "unhealthy")
    assert ended["drifted_since"] == began["drifted_since"]
    listed = (await scene.get("/deployments", target="ray", model=deployment.model, drifted=False)).json()["items"]
    assert [each["health"] for each in listed] == ["healthy"]


async def test_bytes_and_versions_that_are_not_those_that_were_called_for_are_drift(scene: Scene) -> None:
    deployment = await scene.live()
    other = (Serving("1", 100, is_ready=True, digest="sha256:" + "0" * 64),)
    assert (await scene.reports(deployment, Phase.READY, serving=other)).drift is Drift.OTHER_BYTES
    others = (*FULL, Serving("9", 5, is_ready=True))
    assert (await scene.reports(deployment, Phase.READY, serving=others)).drift is Drift.OTHER_VERSION
    assert (await scene.reports(deployment, Phase.READY, serving=FULL)).drift is None
    assert [each["drift"] for each in await scene.events(deployment)] == [
        "other_bytes",
        "other_version",
        "other_version",
    ]


async def test_a_reason_that_is_not_on_the_list_is_refused_with_the_list(scene: Scene) -> None:
    deployment = await scene.live()
    data = {
        "deployment_id": deployment.id,
        "generation": 1,
        "observed_generation": 1,
        "sequence": 9,
        "phase": "Errored",
        "reason": "Weather",
        "conditions": ["a member of a third party's own"],
    }
    event = {"specversion": "1.0", "id": "1", "type": "countersign.deployment.status.v1", "data": data}
    answer = await scene.post(f"/deployments/{deployment.id}/status", event, who="depp")
    assert (answer.status_code, answer.json()["field"]) == (400, "data.reason")
    assert "'ArtifactNotFound'" in answer.json()["detail"]
    assert "'ProgressDeadlineExceeded'" in answer.json()["detail"]
    data["reason"] = "Unhealthy"
    answer = await scene.post(f"/deployments/{deployment.id}/status", event, who="depp")
    assert answer.json() == {"result": "taken", "phase": "Errored"}


# Approved and desired.


async def test_what_no_policy_approves_for_the_target_any_more_is_drift_until_one_does(scene: Scene) -> None:
    deployment = await scene.live()
    await scene.look()
    assert (await scene.present(deployment)).drift is None
    await scene.court.policy(models=deployment.model)  # which names no target any more
    await scene.look()
    found = await scene.present(deployment)
    assert (found.drift, found.phase) == (Drift.UNAPPROVED, Phase.READY)
    await scene.reports(deployment, Phase.READY, serving=FULL)  # a report knows nothing of that
    assert (await scene.present(deployment)).drift is Drift.UNAPPROVED
    refused = await scene.post(f"/deployments/{deployment.id}/redeploy")
    assert (refused.status_code, "holds no alias" in refused.json()["detail"]) == (409, True)
    await scene.court.policy(models=deployment.model, targets=["ray"])
    await scene.look()
    assert (await scene.present(deployment)).drift is None
    assert [each["type"] for each in await scene.events(deployment)] == [
        EventType.DEPLOYMENT_DRIFTED,
        EventType.DEPLOYMENT_DRIFT_ENDED,
    ]


async def test_what_a_promotion_is_moving_is_not_judged(scene: Scene) -> None:
    deployment = await scene.live()
    promotion, called = await scene.rolling(deployment.model, "2")
    await scene.look()
    assert (await scene.present(called)).drift is None
    failed = await scene.reports(called, Phase.FAILED, Reason.MODEL_LOAD_FAILED, "no", serving=FULL)
    assert failed.drift is None
    assert (await scene.court.get(promotion)).state is not State.LIVE


# What a target is to serve.


async def test_a_deployer_pulls_exactly_what_it_was_called_for(scene: Scene) -> None:
    await scene.target("pulled", options={"replicas": 2, "b": [1, {"x": None}]})
    first, second = await scene.live(target="pulled"), await scene.live(target="pulled")
    await scene.target("pulled", options={"replicas": 9})  # of the next generation
    answer = await scene.desired("pulled")
    assert answer.status_code == 200, answer.text
    Webhook(scene.deployer.secret).verify(answer.content, dict(answer.headers))  # it is the gateway's,
    assert answer.headers["webhook-id"] == "msg_1"  # and the answer to this question
    page = answer.json()
    assert (page["target"], page["next_after"]) == ("pulled", None)
    by_id = {item["deployment_id"]: item for item in page["items"]}
    for deployment in (first, second):
        (called,) = await scene.calls(deployment)
        assert by_id[deployment.id] == called
        pulled, pushed = (CalledFor.model_validate(each) for each in (by_id[deployment.id], called))
        assert content_of(pulled) == content_of(pushed)
    assert len(by_id) == 2
    pages = []
    after: str | None = ""
    while after is not None:
        page = (await scene.desired("pulled", after=after, limit=1)).json()
        pages += [item["deployment_id"] for item in page["items"]]
        after = page["next_after"]
    assert sorted(pages) == sorted(by_id)
    removed = await scene.post(f"/deployments/{first.id}/remove", {"reason": "not wanted"})
    assert removed.status_code == 200, removed.text
    items = (await scene.desired("pulled")).json()["items"]
    assert {item["action"] for item in items if item["deployment_id"] == first.id} == {"remove"}


async def test_what_is_desired_is_told_to_its_target_and_to_deployers_alone(scene: Scene) -> None:
    deployment = await scene.live()
    forged = "whsec_" + base64.b64encode(b"made up by somebody else").decode()
    for answer in (
        await scene.desired(secret=forged),
        await scene.desired(secret=scene.deployer.secret),
        await scene.desired("no-such-target"),
        await scene.http.get("/control/v1/targets/ray/desired"),
    ):
        assert answer.status_code == 401, answer.text
        assert "items" not in answer.json()
    assert (await scene.get("/targets/ray/desired", who="vera")).status_code == 403
    assert (await scene.get("/targets/ray/desired", who="root")).status_code == 403
    assert (await scene.get("/targets/no-such-target/desired", who="depp")).status_code == 404
    assert (await scene.get("/targets/ray/desired", who="depp", after="a\x00")).status_code == 400
    every = (await scene.get("/targets/ray/desired", who="depp")).json()["items"]
    assert deployment.id in {each["deployment_id"] for each in every}
    grant = {"role": "deployer", "subject": {"group": "nobody"}, "on": {"model": deployment.model}}
    put = await scene.http.put("/control/v1/grants/stan-deploys", json=grant, headers=scene.headers("root"))
    assert put.status_code == 201, put.text
    for _ in range(100):
        own = await scene.get("/targets/ray/desired", who="stan")
        if own.status_code == 200:
            break
        await asyncio.sleep(0.02)
    assert [each["deployment_id"] for each in own.json()["items"]] == [deployment.id]
    listed = (await scene.get("/deployments", who="stan")).json()["items"]
    assert [each["id"] for each in listed] == [deployment.id]
    other = await scene.live()
    assert (await scene.get(f"/deployments/{other.id}", who="stan")).status_code == 404
    assert (await scene.get(f"/deployments/{other.id}/generations", who="stan")).status_code == 404


# Asking targets.


async def test_a_lost_report_is_found_by_asking(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model, targets=["ray"])
    promotion, deployment = await scene.rolling(model)
    scene.says(deployment, "Ready", 4)
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()
    found = await scene.present(deployment)
    assert (found.phase, found.sequence, found.obstacle) == (Phase.READY, 4, None)
    assert found.heard_at == found.looked_at
    assert (await scene.court.get(promotion)).state is State.LIVE
    assert scene.deployer.refusals == []  # every question was signed


async def test_a_target_is_asked_before_its_time_is_over_and_then_given_up(scene: Scene) -> None:
    late, lost = [], []
    for into in (late, lost):
        model = scene.court.model()
        await scene.court.policy(models=model, targets=["ray"])
        into.append(await scene.rolling(model))
    await scene.arrived()
    scene.says(late[0][1], "Progressing", 2, reason="NoCapacity", message="no node has room")
    scene.says(lost[0][1], "Ready", 2)
    scene.court.clock.ahead += timedelta(seconds=901)
    await scene.court.worker.sweeping.sweep()
    assert (await scene.court.get(lost[0][0])).state is State.LIVE
    async with scene.court.database.unit_of_work() as work:
        given_up = (await work.deployments.generations(late[0][1].id))[-1]  # its requests went back in another one
    assert (given_up.generation, given_up.phase, given_up.reason) == (1, Phase.ERRORED, Reason.NO_CAPACITY)
    assert (await scene.court.get(late[0][0])).state is not State.LIVE


async def test_who_has_lost_its_state_is_called_again_with_the_same_once_for_each_time_it_is_asked(
    scene: Scene,
) -> None:
    deployment = await scene.live()
    await scene.arrived()
    scene.deployer.known.pop(deployment.id, None)
    scene.court.clock.ahead += timedelta(seconds=61)
    await asyncio.gather(scene.look(), scene.look())
    assert len(await scene.calls(deployment)) == 2
    found = await scene.present(deployment)
    assert (found.obstacle, found.sequence, found.drift) == (LOST, deployment.sequence, None)
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()  # what waits to be sent is not sent twice
    first, second = await scene.calls(deployment)
    assert first == second
    assert await scene.calls_told(deployment) == 1


async def test_a_report_of_before_is_not_believed_because_somebody_says_that_the_target_knows_nothing(
    scene: Scene,
) -> None:
    """Whoever stands in between can answer 404 without a signature, and play what was signed before."""
    deployment = await scene.live()
    await scene.arrived()
    well = Report(1, 1, deployment.sequence + 1, Phase.READY, Reason.NONE, "", FULL)
    services = scene.court.gateway.services
    await services.deployments.report(deployment.id, well)
    await scene.reports(deployment, Phase.ERRORED, Reason.UNHEALTHY, "out of memory", serving=FULL)
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()
    assert (await scene.present(deployment)).obstacle == LOST
    await services.deployments.report(deployment.id, well)
    assert (await scene.present(deployment)).phase is Phase.ERRORED
    scene.says(deployment, "Ready", 1)  # that it counts from one again is believed of its answer
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()
    found = await scene.present(deployment)
    assert (found.phase, found.sequence, found.obstacle) == (Phase.READY, 1, None)


async def test_who_goes_on_knowing_nothing_is_called_ever_more_rarely_and_it_is_said_once(scene: Scene) -> None:
    deployment = await scene.live()
    for _ in range(9):
        await scene.arrived()
        scene.court.clock.ahead += timedelta(seconds=61)
        await scene.look()
    assert 3 < len(await scene.calls(deployment)) <= 1 + 4  # after one minute, two, four and eight, and not each minute
    assert await scene.calls_told(deployment) == 1
    assert (await scene.present(deployment)).drift is Drift.SILENT
    await scene.arrived()
    await scene.reports(deployment, Phase.READY, serving=FULL)
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()
    assert await scene.calls_told(deployment) == 2


async def test_who_refused_a_call_is_not_called_again_with_it(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model, targets=["ray"])
    _, deployment = await scene.rolling(model)
    for generation in (1, 2):  # as what goes back is refused, too
        async with scene.court.database.unit_of_work() as work:
            await scene.court.gateway.services.deployments.give_up(
                work, deployment.id, generation=generation, reason=Reason.CALL_REFUSED, message="it answered 422"
            )
            await work.commit()
        await scene.arrived()
    before = await scene.present(deployment)
    for _ in range(3):
        scene.court.clock.ahead += timedelta(seconds=61)
        await scene.look()
    after = await scene.present(deployment)
    assert (after.generation, after.reason, after.obstacle) == (before.generation, Reason.CALL_REFUSED, None)
    assert len(await scene.calls(deployment)) == before.generation
    assert await scene.calls_told(deployment) == 0


async def test_a_target_that_does_not_answer_is_silent_after_a_while_and_asked_few_times(scene: Scene) -> None:
    away = await scene.target("away", url="http://127.0.0.1:9/v1")  # the port of discard: nobody is there
    several = [await scene.live(target=away.name) for _ in range(3)]
    await scene.arrived()
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()
    found = await scene.present(several[0])
    assert (found.drift, "127.0.0.1" in (found.obstacle or "")) == (None, True)
    scene.court.clock.ahead += SILENT_AFTER
    await scene.look()
    for each in several:
        found = await scene.present(each)
        assert (found.drift, found.health) == (Drift.SILENT, "unknown")
    (event,) = await scene.events(several[0])
    assert str(event["drift_message"]).startswith("The target is not heard of: no connection to 127.0.0.1")
    closed = await scene.target(away.name, allowed_networks=())
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()
    assert "private address" in ((await scene.present(several[0])).obstacle or ""), closed
    heard = await scene.reports(several[0], Phase.READY, serving=FULL)
    assert heard.drift is None
    async with scene.court.database.unit_of_work() as work:
        await work.targets.set_state(away.name, ReceiverState.DISABLED, reason="it is gone")
        await work.commit()
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()
    assert (await scene.present(several[1])).obstacle == NO_SUCH_TARGET
    refused = await scene.post(f"/deployments/{several[0].id}/redeploy")
    assert (refused.status_code, "is disabled" in refused.json()["detail"]) == (409, True)


@pytest.mark.parametrize(
    ("answer", "obstacle"),
    [
        (Reply(404, [("content-type", "text/html")]), None),
        (Reply(405), None),
        (Reply(503), "it answered 503"),
        (Reply(302, [("location", "http://127.0.0.1/")]), "it answered 302"),
        (Reply(200, body=b"{"), "its answer cannot be read"),
        (Reply(200, body=b"x" * 300_000), "its answer is larger than 256 KiB"),
        (Reply(200, body=b'{"deployment_id": "dep_1"}'), "its answer cannot be read: generation"),
    ],
)
async def test_what_is_no_answer_changes_nothing(scene: Scene, answer: Reply, obstacle: str | None) -> None:
    deployment = await scene.live()
    scene.deployer.known[deployment.id] = answer
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()
    found = await scene.present(deployment)
    assert (found.phase, found.sequence, found.drift) == (Phase.READY, 1, None)
    assert (found.obstacle or "").startswith(obstacle or "")
    assert bool(found.obstacle) == bool(obstacle)
    assert len(await scene.calls(deployment)) == 1


async def test_an_answer_about_another_deployment_is_not_believed(scene: Scene) -> None:
    deployment, other = await scene.live(), await scene.live()
    scene.says(other, "Failed", 9)
    scene.deployer.known[deployment.id] = scene.deployer.known[other.id]
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()
    found = await scene.present(deployment)
    assert (found.phase, "deployment_id" in (found.obstacle or "")) == (Phase.READY, True)


OTHERS = [{"version": "8", "weight": 100, "ready": True}]


async def test_a_target_at_a_later_generation_is_an_alarm_and_the_next_call_is_later_still(scene: Scene) -> None:
    """The database was put back to what it was before, or somebody else calls the target."""
    deployment = await scene.live()
    await scene.arrived()
    scene.says(deployment, "Ready", 9, generation=5, observed_generation=5, serving=OTHERS)
    for _ in range(3):
        scene.court.clock.ahead += timedelta(seconds=61)
        await scene.look()
    shown = await scene.shown(deployment)
    assert (shown["drift"], shown["health"], shown["phase"]) == ("other_version", "unknown", "Superseded")
    assert shown["drift_message"] == (
        "It says that generation 5, newer than generation 1, was asked of it. "
        "It serves version 8 (100 %), and is to serve version 1 (100 %)."
    )
    assert [each["version"] for each in shown["serving"]] == ["8"]
    (event,) = await scene.events(deployment)
    assert (event["type"], event["serving"]) == (EventType.DEPLOYMENT_DRIFTED, "version 8 (100 %)")
    again = await scene.post(f"/deployments/{deployment.id}/redeploy", {"reason": "the database was restored"})
    assert again.json()["generation"] == 6, again.text
    assert (await scene.calls(deployment))[-1]["generation"] == 6
    assert (await scene.reports(deployment, Phase.READY, serving=FULL)).drift is None


async def test_a_promotion_whose_target_is_at_a_later_generation_ends_before_its_deadline(scene: Scene) -> None:
    deployment = await scene.live()
    promotion, called = await scene.rolling(deployment.model, "2")
    await scene.arrived()
    scene.says(called, "Ready", 9, generation=5, observed_generation=5, serving=OTHERS)
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()
    async with scene.court.database.unit_of_work() as work:
        rollout = await work.rollouts.get(promotion.id)
    assert "It was asked for generation 5 before, and we are at 2." in rollout.reason
    back = (await scene.calls(deployment))[-1]  # what served before has to win over what somebody else asked for
    assert (back["generation"], back["model"]["version"]) == (6, "1")


async def test_a_generation_that_nobody_can_count_on_from_is_no_answer(scene: Scene) -> None:
    deployment = await scene.live()
    scene.says(deployment, "Ready", 9, generation=2**40, observed_generation=2**40)
    scene.court.clock.ahead += timedelta(seconds=61)
    await scene.look()
    assert "its answer cannot be read: generation" in str((await scene.present(deployment)).obstacle)


@pytest.mark.parametrize("is_right", [True, False])
async def test_an_answer_that_is_signed_counts_if_the_target_signed_it(scene: Scene, *, is_right: bool) -> None:
    deployment = await scene.live()
    scene.says(deployment, "Errored", 7, reason="Unhealthy")
    scene.court.clock.ahead += timedelta(seconds=61)
    scene.deployer.signs_answers_with = scene.deployer.callback_secret if is_right else scene.deployer.secret
    try:
        await scene.look()
    finally:
        scene.deployer.signs_answers_with = ""
    found = await scene.present(deployment)
    assert (found.phase is Phase.ERRORED) == is_right
    assert (found.obstacle == "the signature of its answer does not verify") != is_right


async def test_what_comes_in_the_clear_through_a_proxy_must_be_signed_wherever_that_is() -> None:
    """The address is the proxy's: of who is behind it, nobody knows anything."""
    with Deployer() as proxy:  # it answers whatever host it is asked for
        asker = Asker(proxy=proxy.url)
        question = Question("http://deployer.example.org/v1/deployments", "dep_1", "msg_1", (proxy.secret,))
        through = await asker.ask(question)
        straight = await asker.ask(
            replace(question, url=f"{proxy.url}/v1/deployments", allowed_networks=(ANY_PRIVATE,))
        )
        await asker.close()
    assert through.status is not None
    assert [each.is_undisturbed for each in (through, straight)] == [False, True]


def test_what_comes_in_the_clear_from_another_machine_must_be_signed() -> None:
    undisturbed = [("https", "192.0.2.1"), ("http", "127.0.0.1"), ("http", "::1")]
    assert [is_undisturbed(*each) for each in undisturbed] == [True, True, True]
    assert not any(is_undisturbed("http", address) for address in ("192.0.2.1", "10.0.0.1", "fe80::1%eth0", None))


# Called again, and taken away.


async def test_a_target_is_called_again_with_the_same_once_for_each_key(scene: Scene) -> None:
    deployment = await scene.live()
    path, body = f"/deployments/{deployment.id}/redeploy", {"reason": "the cluster was rebuilt"}
    answers = [await scene.post(path, body, **{"Idempotency-Key": "1"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    assert [answer.json()["generation"] for answer in answers] == [2, 2]
    first, second = await scene.calls(deployment)
    assert (second["generation"], second["model"]["version"], second["model"]["uri"]) == (2, "1", first["model"]["uri"])
    assert (answers[0].json()["phase"], answers[0].json()["served"]["generation"]) == ("Requested", 1)
    assert (await scene.present(deployment)).promotion_id == deployment.promotion_id
    ready = await scene.reports(deployment, Phase.READY, serving=FULL)
    assert ready.served is not None
    assert deployment.served is not None
    assert (ready.was_ready, ready.served) == (True, deployment.served)
    history = (await scene.get(f"/deployments/{deployment.id}/generations", limit=1)).json()
    assert [(each["generation"], each["phase"]) for each in history["items"]] == [(2, "Ready")]
    rest = await scene.get(f"/deployments/{deployment.id}/generations", cursor=history["next_cursor"])
    assert [(each["generation"], bool(each["ready_at"])) for each in rest.json()["items"]] == [(1, True)]
    entries = await scene.sql("SELECT entry FROM audit_entries WHERE entry ->> 'object' = $1", deployment.id)
    (said,) = [each for row in entries if (each := json.loads(row["entry"]))["action"] == "deployment.redeployed"]
    assert (said["actor"]["name"], said["details"]["reason"]) == ("rita", "the cluster was rebuilt")


async def test_a_model_is_taken_away_from_a_target_and_brought_back(scene: Scene) -> None:
    deployment = await scene.live()
    path = f"/deployments/{deployment.id}"
    assert (await scene.post(f"{path}/remove", {"reason": " "})).status_code == 400
    assert (await scene.post(f"{path}/remove", {})).status_code == 400
    removed = await scene.post(f"{path}/remove", {"reason": "not wanted there"}, who="root")
    assert (removed.json()["action"], removed.json()["generation"]) == ("remove", 2)
    assert (await scene.calls(deployment))[-1]["action"] == "remove"
    gone = await scene.reports(deployment, Phase.READY)
    await scene.look()
    gone = await scene.present(deployment)
    assert (gone.health, gone.drift, gone.served) == ("gone", None, None)
    assert (await scene.post(f"{path}/remove", {"reason": "again"})).status_code == 409
    back = await scene.post(f"{path}/redeploy", {})
    assert (back.json()["action"], back.json()["weight"], back.json()["generation"]) == ("apply", 100, 3)


async def test_what_a_promotion_rolls_out_is_left_to_it(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model, targets=["ray"])
    promotion, deployment = await scene.rolling(model)
    for what, body in (("redeploy", {}), ("remove", {"reason": "now"})):
        answer = await scene.post(f"/deployments/{deployment.id}/{what}", body)
        assert (answer.status_code, answer.json()["promotion"]) == (409, promotion.id)
    assert (await scene.present(deployment)).generation == 1


async def test_only_who_administers_deployments_of_the_model_has_targets_called(scene: Scene) -> None:
    deployment = await scene.live()
    for what, body in (("redeploy", {}), ("remove", {"reason": "now"})):
        path = f"/deployments/{deployment.id}/{what}"
        for who in ("vera", "ada", "depp", "stan"):
            answer = await scene.post(path, body, who=who)
            # Who knows nothing of it by a grant of a test before is not told that there is such a one.
            assert (answer.status_code, answer.json()["permission"]) == (403, "deployments:administer"), who
        assert (await scene.post(f"/deployments/dep_nothing/{what}", body)).status_code == 404
    assert (await scene.present(deployment)).generation == 1


async def test_people_see_what_runs_where_and_have_it_called_again_in_the_console(scene: Scene) -> None:
    await scene.target("<b>ray</b>")
    deployment = await scene.live(target="<b>ray</b>")
    await scene.reports(deployment, Phase.ERRORED, Reason.UNHEALTHY, "<script>alert(1)</script>", serving=FULL)
    page = f"/console/deployments/{deployment.id}"

    async def see(path: str, who: str = "vera", **query: str) -> str:
        headers = scene.headers(who, Accept="text/html")
        answer = await scene.http.get(path, params=query, headers=headers)
        assert answer.status_code == 200, (path, answer.text)
        return answer.text

    listed = await see("/console/deployments", model=deployment.model, drift="any")
    assert f"/console/deployments/{deployment.id}" in listed
    assert "Failing" in listed
    assert "<b>ray" not in listed
    assert "Nothing is found" in await see("/console/deployments", model=deployment.model, drift="silent")
    shares = (Serving("1", 90, is_ready=True), Serving("9", 10, is_ready=True))
    shown = await see(page)
    assert "It serves <bdi>version 1</bdi> since" in shown
    await scene.reports(deployment, Phase.ERRORED, Reason.UNHEALTHY, "<script>alert(1)</script>", serving=shares)
    listed = await see("/console/deployments", model=deployment.model)
    assert "<bdi>version 1 (90 %) and version 9 (10 %)</bdi>; is to serve version 1 (100 %)" in listed
    shown = await see(page)
    assert "<bdi>version 1 (90 %) and version 9 (10 %)</bdi>; version 1 served alone from" in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert "<script>alert" not in shown
    assert f'action="{page}/redeploy"' not in shown
    assert f'action="{page}/redeploy"' in await see(page, "rita")
    assert f"/console/deployments/{deployment.id}" in await see(
        f"/console/models/{deployment.model}/aliases/production"
    )
    assert f"/console/deployments/{deployment.id}" in await see(f"/console/promotions/{deployment.promotion_id}")
    headers = scene.headers("rita", Accept="text/html", Origin=scene.court.settings.public_url)
    for what, status in (("remove", 400), ("redeploy", 303), ("redeploy", 303)):
        answer = await scene.http.post(f"{page}/{what}", data={"key": "1", "reason": ""}, headers=headers)
        assert answer.status_code == status, answer.text
    assert (await scene.present(deployment)).generation == 2
    for who in ("vera", "depp"):
        denied = await scene.http.post(f"{page}/redeploy", data={}, headers={**headers, **scene.headers(who)})
        assert denied.status_code == 403
    stranger = await scene.http.get("/console/deployments/dep_nothing", headers=headers)
    assert stranger.status_code == 404


# Lists.


async def test_lists_are_filtered_and_paged_with_as_many_statements_for_many(scene: Scene) -> None:
    await scene.target("listed")
    found = [await scene.live(target="listed") for _ in range(3)]
    await scene.reports(found[1], Phase.ERRORED, Reason.UNHEALTHY, serving=FULL)
    inventory, vera = scene.court.gateway.services.inventory, scene.court.person("vera", "viewers")

    async def listed(**query: Any) -> list[str]:
        answer = await scene.get("/deployments", target="listed", **query)
        assert answer.status_code == 200, answer.text
        return [each["model"] for each in answer.json()["items"]]

    models = sorted(each.model for each in found)
    assert await listed() == models
    assert await listed(drifted=True) == await listed(drift="unhealthy") == [found[1].model]
    assert await listed(drift=["silent", "missing"]) == []
    assert await listed(phase="Ready", model=found[0].model, version="1", workspace="default") == [found[0].model]
    assert await listed(promotion=found[2].promotion_id) == [found[2].model]
    assert await listed(version="2") == []
    assert (await scene.get("/deployments", phase="Splendid")).status_code == 400
    assert (await scene.get("/deployments", model="a\x00")).status_code == 400
    assert (await scene.get("/deployments", cursor="gA")).status_code == 400
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = (
            await scene.get("/deployments", target="listed", limit=2, **({"cursor": cursor} if cursor else {}))
        ).json()
        seen += [each["model"] for each in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == models
    one, _ = await number_of(inventory.page(vera, Filter(target="listed"), limit=1))
    many, page = await number_of(inventory.page(vera, Filter(target="listed"), limit=50))
    assert (one, len(page)) == (many, 3)
    assert many == 1
    assert (await number_of(inventory.desired("listed")))[0] == 2


async def test_judging_asks_the_database_the_same_for_one_deployment_and_for_many(scene: Scene) -> None:
    looking = scene.court.worker.looking_at_targets
    await looking.judge()  # what other tests have left
    before, _ = await number_of(looking.judge())
    await scene.live()
    after, _ = await number_of(looking.judge())
    assert before == after <= 6
