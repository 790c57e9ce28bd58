"""What every deployer has from the package: it pulls what is desired, takes calls once, numbers and keeps reports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from countersign_deployer import puller, reporter
from countersign_deployer.calls import Answer, take, take_all
from countersign_deployer.contract import Deployment, Serving
from countersign_deployer.phases import Phase, Reason
from countersign_deployer.problems import Problem, policy_denied
from countersign_deployer.puller import NotPulled, Puller
from countersign_deployer.reporter import Reporter
from countersign_deployer.reports import begin, report, report_change, status_of
from countersign_deployer.settings import DeployerSettings
from countersign_deployer.signatures import sign, verify
from countersign_deployer.state import Resource, State, StateStore

from tests.deployers.contract.third import CALLS, REPORTS

Json = dict[str, Any]
GATEWAY = "https://gateway.test"
DIGEST = f"sha256:{'7' * 64}"


@pytest.fixture
def settings(tmp_path: Path) -> DeployerSettings:
    values: Json = {
        "target": "ray prod",
        "gateway_url": GATEWAY,
        "webhook_secret": CALLS,
        "callback_secret": REPORTS,
        "allowed_uri_prefixes": "s3://models/",
        "state_dir": tmp_path,
    }
    return DeployerSettings(**values)


def wanted(generation: int = 1, **changes: Any) -> Json:
    model = {"name": "iris", "version": "7", "uri": "s3://models/iris/7/", "digest": DIGEST}
    callback = {"url": f"{GATEWAY}/control/v1/deployments/dep_1/status"}
    data = {"deployment_id": "dep_1", "target": "ray prod", "resource": "iris", "generation": generation}
    return {**data, "action": "apply", "model": model, "callback": callback, **changes}


def understood(generation: int = 1, **changes: Any) -> Deployment:
    return Deployment.model_validate_json(json.dumps(wanted(generation, **changes)))


# --- pulling


class Desires:
    """A gateway that says what is desired, page by page; ``secret`` and ``answers`` say how well."""

    def __init__(self, *pages: list[Any], secret: str = CALLS, message_id: str = "", target: str = "ray prod") -> None:
        self.pages = pages
        self.secret = secret
        self.message_id = message_id
        self.target = target
        self.fed: list[Deployment] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.partition(b"?")[0].decode()
        verify(f"GET {path}".encode(), request.headers, [REPORTS])
        assert path == "/control/v1/targets/ray%20prod/desired"
        page = int(request.url.params["after"] or 0)
        next_after = str(page + 1) if page + 1 < len(self.pages) else None
        body = json.dumps({"target": self.target, "items": self.pages[page], "next_after": next_after})
        message_id = self.message_id or request.headers["webhook-id"]
        return httpx.Response(200, content=body, headers=sign(message_id, body, self.secret) if self.secret else {})

    async def feed(self, items: Sequence[Deployment]) -> list[Answer | Problem]:
        self.fed += items
        return [Answer(202, {}, accepted=True) for _ in items]

    async def pulled(self, settings: DeployerSettings) -> list[int]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(self.answer)) as client:
            await Puller(settings, client, self.feed).pull()
        return [item.generation for item in self.fed]


async def test_all_pages_of_what_is_desired_are_taken(settings: DeployerSettings) -> None:
    assert await Desires([wanted(1), wanted(2)], [], [wanted(3)]).pulled(settings) == [1, 2, 3]


@pytest.mark.parametrize(
    "bad",
    [
        {"generation": 1},
        "nonsense",
        wanted(target="other"),
        wanted(surprise=True),
        wanted(callback={"url": "https://elsewhere.test/"}),
        wanted(model={"name": "iris", "version": "7", "uri": "s3://secrets/", "digest": DIGEST}),
        wanted(traffic={"weight": 0, "stable": {"version": "6", "uri": "file:///etc/", "digest": DIGEST}}),
    ],
)
async def test_an_item_that_may_not_be_followed_does_not_hide_the_others(settings: DeployerSettings, bad: Any) -> None:
    assert await Desires([bad, wanted(2)]).pulled(settings) == [2]


@pytest.mark.parametrize(
    ("gateway", "why"),
    [
        (Desires([wanted()], secret=""), "not signed"),
        (Desires([wanted()], secret=REPORTS), "not signed with the target's secret"),
        (Desires([wanted()], message_id="req_of_yesterday"), "to another question"),
        (Desires([wanted()], target="kserve"), "for another target"),
    ],
)
async def test_an_answer_that_is_not_the_gateways_to_this_question_is_not_followed(
    settings: DeployerSettings, gateway: Desires, why: str
) -> None:
    with pytest.raises(NotPulled, match=why):
        await gateway.pulled(settings)
    assert gateway.fed == []


async def test_who_pulls_goes_on_after_any_trouble(settings: DeployerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puller, "LEAST_PAUSE_S", 0.001)
    gateway, asked = Desires([wanted()]), 0
    taken = asyncio.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise httpx.ConnectError("nobody there")
        return httpx.Response(503) if asked == 2 else gateway.answer(request)

    async def feed(items: Sequence[Deployment]) -> list[Answer | Problem]:
        taken.set()
        return await gateway.feed(items)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        running = asyncio.create_task(Puller(settings, client, feed).run())
        async with asyncio.timeout(30):
            await taken.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [item.generation for item in gateway.fed] == [1]


# --- taking


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[StateStore[State[Resource]]]:
    store = StateStore(tmp_path / "state", State[Resource])
    yield store
    store.close()


@pytest.fixture
def accept(settings: DeployerSettings) -> Callable[[State[Resource], Deployment, float], None]:
    def accept(state: State[Resource], item: Deployment, now: float) -> None:
        begin(state, settings, item, now, Resource)

    return accept


async def test_of_two_at_once_the_higher_generation_stays(store: Any, accept: Any) -> None:
    answers = await asyncio.gather(*(take(understood(g), store, accept) for g in (3, 1, 4, 2)))
    assert store.snapshot().resources["iris"].generation == 4
    assert [answer.body["result"] for answer in answers] == ["accepted", "superseded", "accepted", "superseded"]


async def test_a_generation_is_taken_once_more_when_nobody_knows_its_content(store: Any, accept: Any) -> None:
    await take(understood(3), store, accept)
    async with store.transaction() as state:
        state.resources["iris"].content = ""
    assert (await take(understood(3), store, accept)).status == 202
    with pytest.raises(Problem) as refused:
        await take(understood(3, config={"replicas": 2}), store, accept)
    assert refused.value.status == 409


class Counting(StateStore[State[Resource]]):
    """Counts how often the whole state is copied."""

    copies = 0

    def transaction(self) -> AbstractAsyncContextManager[State[Resource]]:
        self.copies += 1
        return super().transaction()


async def test_what_is_old_news_costs_no_copy_of_the_state_and_what_is_new_costs_one(
    tmp_path: Path, accept: Any
) -> None:
    store = Counting(tmp_path / "counted", State[Resource])
    page = [named(f"iris-{number}") for number in range(50)]
    try:
        assert {each.status for each in answers_of(await take_all(page, store, accept))} == {202}
        assert store.copies == 1
        assert {each.status for each in answers_of(await take_all(page, store, accept))} == {200}
        older = await take(named("iris-1", generation=1), store, accept)
        assert older.body["result"] == "superseded"
        assert store.copies == 1
    finally:
        store.close()


async def test_what_is_refused_of_a_page_leaves_no_trace_and_does_not_hide_the_others(store: Any, accept: Any) -> None:
    def choosy(state: State[Resource], item: Deployment, now: float) -> None:
        accept(state, item, now)  # what comes before a refusal is undone
        if item.config:
            raise policy_denied("data.config", "It is not known.")

    page = [named("first"), named("bad", config={"a": 1}), named("second"), named("worse", config={"a": 1})]
    outcomes = await take_all(page, store, choosy)
    assert [each.status for each in outcomes] == [202, 422, 202, 422]
    assert sorted(store.snapshot().resources) == ["first", "second"]
    conflicting = named("first", model={**wanted()["model"], "name": "first", "version": "8"})
    assert [each.status for each in await take_all([conflicting, named("third")], store, choosy)] == [409, 202]


def named(resource: str, generation: int = 2, **changes: Any) -> Deployment:
    model = {**wanted()["model"], "name": resource}
    return understood(generation, **{"resource": resource, "deployment_id": resource, "model": model, **changes})


def answers_of(outcomes: Sequence[Answer | Problem]) -> list[Answer]:
    return [each for each in outcomes if isinstance(each, Answer)]


async def test_what_cannot_be_followed_leaves_no_trace(store: Any) -> None:
    def refuse(*_: object) -> None:
        raise policy_denied("data.traffic.weight", "Requests cannot be split here.")

    with pytest.raises(Problem):
        await take(understood(), store, refuse)
    assert store.snapshot().resources == {}


# --- reporting


def test_a_higher_generation_supersedes_what_has_not_ended_and_keeps_what_serves(settings: DeployerSettings) -> None:
    state: State[Resource] = State[Resource]()
    serving = [Serving(version="7", weight=100, ready=True)]
    report(state, settings, begin(state, settings, understood(1), 1, Resource), 1, Phase.READY, serving=serving)
    begin(state, settings, understood(2), 2, Resource)
    third = begin(state, settings, understood(3), 3, Resource)
    told = [json.loads(owed.body)["data"] for owed in state.outbox]
    assert [(each["generation"], each["phase"]) for each in told] == [
        (1, "Accepted"),
        (1, "Ready"),
        (2, "Accepted"),
        (2, "Superseded"),
        (3, "Accepted"),
    ]
    assert status_of(settings, third).serving == serving


def test_only_news_and_heartbeats_are_reported(settings: DeployerSettings) -> None:
    state: State[Resource] = State[Resource]()
    iris = begin(state, settings, understood(), 1000, Resource)
    well, ill = ([Serving(version="7", weight=100, ready=ready)] for ready in (True, False))
    numbers = [iris.sequence]
    for at, phase, reason, serving in (
        (1001, Phase.PROGRESSING, Reason.NONE, []),
        (1002, Phase.PROGRESSING, Reason.NONE, []),  # nothing new
        (1003, Phase.PROGRESSING, Reason.NO_CAPACITY, []),
        (1040, Phase.PROGRESSING, Reason.NO_CAPACITY, []),  # a heartbeat
        (1041, Phase.READY, Reason.NONE, well),
        (9999, Phase.READY, Reason.NONE, well),  # nothing new
        (9999, Phase.PROGRESSING, Reason.UNHEALTHY, ill),
        (1, Phase.READY, Reason.NONE, well),  # the clock went back
    ):
        report_change(state, settings, iris, at, phase, reason, serving=serving)
        numbers.append(iris.sequence)
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 7


def test_while_the_gateway_is_away_only_the_last_of_each_end_is_kept(settings: DeployerSettings) -> None:
    state: State[Resource] = State[Resource]()
    iris = begin(state, settings, understood(), 1, Resource)
    for at in range(2, 50):
        phase = Phase.READY if at % 2 else Phase.PROGRESSING
        report(state, settings, iris, at, phase, serving=[Serving(version="7", weight=100, ready=bool(at % 2))])
    assert [owed.phase for owed in state.outbox] == [Phase.ACCEPTED, Phase.READY]


def test_no_secret_is_reported_whoever_wrote_the_message(settings: DeployerSettings) -> None:
    state: State[Resource] = State[Resource]()
    iris = begin(state, settings, understood(), 1, Resource)
    report(
        state, settings, iris, 2, Phase.PROGRESSING, Reason.STORAGE_UNREACHABLE, "https://user:hunter2@store/x fails"
    )
    assert json.loads(state.outbox[-1].body)["data"]["message"] == "https://***@store/x fails"


class Full:
    """A disk without room, once the gateway has seen a report: nothing can be saved then."""

    def __init__(self, folder: Path) -> None:
        self.blocked = folder / "state.tmp"
        self.ids: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.ids.append(request.headers["webhook-id"])
        self.blocked.mkdir(exist_ok=True)
        return httpx.Response(200)


async def test_a_report_is_sent_once_though_that_cannot_be_saved(
    settings: DeployerSettings, store: Any, accept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "FIRST_PAUSE_S", 0.001)
    disk = Full(tmp_path / "state")
    for generation in (1, 2):  # the deployment owes three reports, one after the other
        await take(understood(generation), store, accept)
    owed = [each.id for each in store.snapshot().outbox]
    async with httpx.AsyncClient(transport=httpx.MockTransport(disk.answer)) as client:
        running = asyncio.create_task(Reporter(settings, store, client).run())
        async with asyncio.timeout(30):
            while len(disk.ids) < len(owed):  # noqa: ASYNC110  # the reporter tells nobody
                await asyncio.sleep(0.001)
            assert store.trouble == "The state cannot be saved: Is a directory."
            disk.blocked.rmdir()
            while store.snapshot().outbox:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert disk.ids == owed
    assert store.trouble == ""


def test_a_message_is_cut_to_what_the_gateway_takes(settings: DeployerSettings) -> None:
    state: State[Resource] = State[Resource]()
    iris = begin(state, settings, understood(), 1, Resource)
    report(state, settings, iris, 2, Phase.FAILED, Reason.MODEL_LOAD_FAILED, "x" * 20_000 + "the error")
    message = json.loads(state.outbox[-1].body)["data"]["message"]
    assert len(message) == 10_000
    assert message.endswith("the error")
