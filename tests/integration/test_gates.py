"""Gates that ask a real Prometheus: what is read of it, and what becomes of a rollout.

Whatever else answers, or does not, is never taken for a number, and nothing but numbers lets a rollout go on.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from click.testing import Result
from prometheus_client import CollectorRegistry, Counter, Gauge
from typer.testing import CliRunner

from app.adapters.prometheus import MOST_BYTES, Prometheus
from app.adapters.secrets import Secrets
from app.cli import cli
from app.domain.deployments import MetricsSource, Report, Serving, Target
from app.domain.errors import InvalidInput
from app.domain.gate_queries import fill
from app.domain.gates import Reading, Verdict, judge
from app.domain.phases import Phase, Reason
from app.domain.promotions import Promotion, State
from app.domain.rolling_out import Order, Stage
from app.domain.rollouts import Gate
from app.routers.schemas.endpoints import TargetAnswer
from app.services.gating import Gating
from tests.configuring import configuration_of
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer, free_port
from tests.prometheus import Scraping, running_prometheus
from tests.rolling_out import Fleet

LOOPBACK = ("127.0.0.0/8",)
TOKEN = "a-token.of/prometheus~1=="
NASTY = ['iris"} or up{x="', "a\\b", "a\nb", "{}", ".*", "(", "é", "a|iris--v7"]
RATIO = (
    'sum(rate(errors_total{application="{{candidate_name}}"}[1s]))'
    ' / sum(rate(requests_total{application="{{candidate_name}}"}[1s]))'
)


@pytest.fixture(scope="module", autouse=True)
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraping]:
    registry = CollectorRegistry()
    quality = Gauge("quality", "of a version", ["application"], registry=registry)
    for name, value in (("iris--v7", 0.01), ("iris--v8", 0.5), ("hot", math.inf)):
        quality.labels(name).set(value)
    for number, name in enumerate(NASTY):
        quality.labels(name).set(100 + number)
    Counter("errors", "of requests", ["application"], registry=registry).labels("idle")
    Counter("requests", "of people", ["application"], registry=registry).labels("idle")
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), registry) as running:
        yield running


@pytest.fixture(scope="module")
def scraping(starting: Scraping) -> Scraping:
    """One that has scraped; what does not need it comes first, so that fewer wait for it."""
    starting.settle('rate(requests_total{application="idle"}[1s]) + 1')
    return starting


@pytest.fixture(scope="module")
async def prometheus() -> AsyncIterator[Prometheus]:
    client = Prometheus(Secrets(), answer_in_s=5)
    yield client
    await client.close()


def source(url: str, token: Path | None = None, networks: tuple[str, ...] = LOOPBACK) -> MetricsSource:
    return MetricsSource(url, f"file:{token}" if token else None, networks)


# Ones that are no Prometheus, or not well.

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def said(body: str, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, content_type="application/json")

    return handler


def vector(*samples: str) -> str:
    return f'{{"status":"success","data":{{"resultType":"vector","result":[{",".join(samples)}]}}}}'


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ("<html>Sign in</html>", 200, "no answer of a Prometheus"),
        ("<html>Sign in</html>", 403, "it answered 403: it wants another token"),
        ("", 200, "no answer of a Prometheus"),
        ("[]", 200, "no answer of a Prometheus"),
        ("[" * 100_000, 200, "no answer of a Prometheus"),
        ('{"status":"success"}', 200, "no answer of a Prometheus"),
        ('{"status":"success","data":{"resultType":"vector"}}', 200, "no answer of a Prometheus"),
        ('{"status":"success","data":{"resultType":"vector","result":{}}}', 200, "no answer of a Prometheus"),
        ('{"status":"success","data":{"resultType":["x"],"result":[]}}', 200, "no answer of a Prometheus"),
        (vector('{"value":[1,"0"]}'), 500, "it answered 500: an error without a reason"),
        (vector("1"), 200, "no answer of a Prometheus"),
        (vector('{"value":[1]}'), 200, "no answer of a Prometheus"),
        (vector('{"value":[1,null]}'), 200, "no answer of a Prometheus"),
        (vector('{"value":[1,"x"]}'), 200, "no answer of a Prometheus"),
        (vector('{"histogram":[1,{}]}'), 200, "gives a histogram"),
        (vector('{"value":[1,"0"]}')[:-1] + ',"warnings":["a store is away"]}', 200, "it warns: a store is away"),
        ('{"status":"error","error":"too many\\nsamples\\u0000"}', 503, "it answered 503: too many samples"),
        (" " * (MOST_BYTES + 1), 200, "too large"),
    ],
)
async def test_any_other_answer_is_a_problem_and_no_number(
    prometheus: Prometheus, body: str, status: int, reason: str
) -> None:
    async with answering(said(body, status)) as url:
        reading = await prometheus.read(source(url), "up")
    assert reading.values == ()
    assert reason in reading.problem
    assert reading.problem.isprintable()
    assert len(reading.problem) < 400


async def test_redirects_are_not_followed(prometheus: Prometheus) -> None:
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=307, headers={"location": "/other"})

    async with answering(elsewhere) as url:
        assert "redirects are not followed" in (await prometheus.read(source(url), "up")).problem
    assert asked == ["/api/v1/query"]


async def test_who_does_not_answer_is_not_waited_for_long() -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    impatient = Prometheus(Secrets(), answer_in_s=0.1)
    async with answering(never) as url:
        reading = await impatient.read(source(url), "up")
    assert reading == Reading(problem="Prometheus: no answer from 127.0.0.1 within 0.1 s")
    await impatient.close()


async def test_one_that_is_down_is_a_problem(prometheus: Prometheus) -> None:
    reading = await prometheus.read(source(f"http://127.0.0.1:{free_port()}"), "up")
    assert reading.problem == "Prometheus: no connection to 127.0.0.1: connection refused"


# A real one.


@pytest.mark.parametrize(
    ("query", "name", "verdict", "value"),
    [
        ('quality{application="{{candidate_name}}"}', "iris--v7", Verdict.PASSED, 0.01),
        ('quality{application="{{candidate_name}}"}', "iris--v8", Verdict.FAILED, 0.5),
        ('quality{application="{{candidate_name}}"}', "iris--v9", Verdict.NO_DATA, None),
        ('scalar(quality{application="{{candidate_name}}"})', "iris--v7", Verdict.PASSED, 0.01),
        ('scalar(quality{application="{{candidate_name}}"})', "iris--v9", Verdict.NO_DATA, None),
        (RATIO, "idle", Verdict.NO_DATA, None),
        (RATIO, "nobody", Verdict.NO_DATA, None),
        (
            f'{RATIO} and sum(increase(requests_total{{application="{{{{candidate_name}}}}"}}[1s])) > 50',
            "idle",
            Verdict.NO_DATA,
            None,
        ),
        ('quality{application="{{candidate_name}}"}', "hot", Verdict.NO_DATA, None),
        ('-quality{application="{{candidate_name}}"}', "hot", Verdict.NO_DATA, None),
        ('quality{application=~"iris--v.|{{candidate_name}}"}', "iris--v7", Verdict.BROKEN, None),
        ('max(quality{application=~"iris--v.|{{candidate_name}}"}) < 0', "iris--v7", Verdict.NO_DATA, None),
        ('quality{application="{{candidate_name}}"}[1m]', "iris--v7", Verdict.BROKEN, None),
        ('"{{candidate_name}}"', "iris--v7", Verdict.BROKEN, None),
        ("nosuch(quality)", "", Verdict.BROKEN, None),
        ("quality + on(job) quality", "", Verdict.BROKEN, None),
        ("", "", Verdict.BROKEN, None),
    ],
)
async def test_a_gate_compares_one_number_and_nothing_else(
    scraping: Scraping, prometheus: Prometheus, query: str, name: str, verdict: Verdict, value: float | None
) -> None:
    asked = query if query.startswith('"') else fill(query, {"candidate_name": name})
    measured = judge(Gate("g", query, "<= 0.02"), await prometheus.read(source(scraping.url), asked))
    assert (measured.verdict, measured.value) == (verdict, value), measured.message
    assert measured.message


@pytest.mark.parametrize("number", range(len(NASTY)))
async def test_a_name_finds_itself_and_nothing_else(scraping: Scraping, prometheus: Prometheus, number: int) -> None:
    for query in ('quality{application="{{candidate_name}}"}', "quality{application=~'{{candidate_name}}'}"):
        asked = fill(query, {"candidate_name": NASTY[number]})
        assert await prometheus.read(source(scraping.url), asked) == Reading((100.0 + number,))


async def test_what_prometheus_says_of_a_mistake_is_told(scraping: Scraping, prometheus: Prometheus) -> None:
    reading = await prometheus.read(source(scraping.url), "nosuch(quality)")
    assert reading.problem.startswith("Prometheus: it answered 400: ")
    assert "nosuch" in reading.problem
    wrong_place = await prometheus.read(source(f"{scraping.url}/elsewhere"), "up")
    assert "is `prometheusUrl` right?" in wrong_place.problem


@pytest.mark.parametrize("networks", [(), ("10.0.0.0/8",)])
async def test_it_is_asked_only_where_it_may_be(
    scraping: Scraping, prometheus: Prometheus, networks: Sequence[str]
) -> None:
    reading = await prometheus.read(source(scraping.url, networks=tuple(networks)), "up")
    assert reading.values == ()
    assert reading.problem.startswith("Prometheus: refused: ")


# One that wants to know who asks.


@asynccontextmanager
async def guarded(scraping: Scraping) -> AsyncIterator[str]:
    """The real one behind a proxy that wants a bearer token."""

    async def forward(request: web.Request) -> web.StreamResponse:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            error = f"not {request.headers.get('authorization')}"
            return web.json_response({"status": "error", "error": error}, status=401)
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                scraping.url + request.path,
                data=await request.read(),
                headers={"content-type": request.headers["content-type"]},
            ) as response,
        ):
            return web.Response(status=response.status, body=await response.read())

    async with answering(forward) as url:
        yield url


async def test_a_token_is_read_each_time_and_never_told(
    scraping: Scraping, prometheus: Prometheus, tmp_path: Path
) -> None:
    token, query = tmp_path / "token", 'quality{application="iris--v7"}'
    async with guarded(scraping) as url:
        token.write_text(f"{TOKEN}\n")
        assert await prometheus.read(source(f"{url}/", token), query) == Reading((0.01,))
        for other in ("another-one", "eyJ" + "A" * 900):  # the longer one is more than is kept of an answer
            token.write_text(other)
            refused = await prometheus.read(source(url, token), query)
            assert refused.problem == "Prometheus: it answered 401: not Bearer ***"
        assert (await prometheus.read(source(url), query)).problem == "Prometheus: it answered 401: not None"
        token.write_text("two lines\nx-evil: 1")
        assert (await prometheus.read(source(url, token), query)).problem == (
            f"Prometheus: The secret file:{token} is no bearer token."
        )
        token.unlink()
        missing = await prometheus.read(source(url, token), query)
        assert f"file:{token} cannot be read" in missing.problem


# A rollout that asks it.

STEPS = [{"weight": 10, "hold": "1m"}, {"weight": 50, "hold": "1m"}]
WELL, ILL, UNKNOWN, UNNAMED = "iris--v7", "iris--v8", "iris--v9", ""


@dataclass
class Gated(Fleet):
    """One whose target says what its metrics call the second version."""

    name: str = WELL

    async def report(
        self,
        phase: Phase = Phase.READY,
        *among: str,
        reason: Reason = Reason.NONE,
        message: str = "",
        serving: tuple[Serving, ...] = (),
    ) -> None:
        for each in (await self.deployments()).values():
            stable = () if each.stable is None else (Serving(each.stable.version, 100 - each.weight, True, name="old"),)
            told = serving or (Serving(each.version, each.weight, True, name=self.name), *stable)
            said = Report(each.generation, each.generation, next(self._sequence), phase, reason, message, told)
            await self.court.gateway.services.deployments.report(each.id, said)

    async def measured(self, promotion: Promotion) -> list[tuple[str, float | None]]:
        """Verdicts and values, the newest first."""
        async with self.court.database.unit_of_work() as work:
            found = await work.gate_measurements.of(promotion.id, limit=100)
        return [(each.measurement.verdict.value, each.measurement.value) for each in found]

    async def held(self) -> Promotion:
        """The second version at its first step, which is in effect."""
        promotion = await self.begin("2")
        return await self.ready(promotion)


@pytest.fixture(scope="module")
async def court(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    scraping: Scraping,
) -> AsyncIterator[Court]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            await put_target(court, "ray", source(scraping.url))
            await put_target(court, "blind", None)
            yield court


async def put_target(court: Court, name: str, metrics: MetricsSource | None) -> None:
    url, secret = "http://ray.example/v1/deployments", ("file:/none",)
    async with court.database.unit_of_work() as work:
        await work.targets.put(Target(name, url, secret, secret, metrics=metrics), at=court.clock.now())
        await work.commit()


@pytest.fixture
async def fleet(court: Court) -> Gated:
    """Version 1 is live; what comes next goes by steps with a gate."""
    fleet = Gated(court, court.model(2), ("ray",))
    await fleet.policy()
    await fleet.live("1")
    await fleet.policy(rollout=canary())
    return fleet


def canary(**gate: object) -> dict[str, object]:
    query = 'max(quality{application="{{candidate_name}}"})'
    return {
        "strategy": "canary",
        "steps": STEPS,
        "gates": [{"name": "quality", "query": query, "pass": "<= 0.02"} | gate],
    }


async def test_a_version_that_proves_itself_gets_more(fleet: Gated) -> None:
    second = await fleet.held()
    await fleet.later(second, 0.5)
    assert await fleet.measured(second) == [("passed", 0.01)]
    assert (await fleet.calls())["ray"] == ("apply", "2", 10, "1")
    await fleet.later(second, 0.5)
    assert (await fleet.calls())["ray"] == ("apply", "2", 50, "1")
    for _ in range(3):
        await fleet.ready(second)
        await fleet.later(second, 0.5)
    assert (await fleet.ready(second)).state is State.LIVE
    assert [verdict for verdict, _ in await fleet.measured(second)] == ["passed"] * 4


async def test_a_version_that_fails_its_gate_loses_its_requests(fleet: Gated) -> None:
    fleet.name = ILL
    second = await fleet.held()
    first_look = await fleet.later(second, 0.5)
    assert (first_look.state, (await fleet.calls())["ray"]) == (State.ROLLING_OUT, ("apply", "2", 10, "1"))
    ended = await fleet.later(second, 0.5)
    assert (await fleet.calls())["ray"] == ("apply", "1", 100, None)
    assert (ended.state, fleet.holder()) == (State.ROLLED_BACK, "1")
    progress = await fleet.progress(second)
    assert progress.reason == "gate quality failed on ray: 0.5 is not <= 0.02 (2 times in a row)"
    assert await fleet.measured(second) == [("failed", 0.5)] * 2


async def test_a_version_is_measured_though_the_clock_was_set_back(court: Court, fleet: Gated) -> None:
    fleet.name = ILL
    second = await fleet.held()
    await fleet.later(second, 0.5)
    court.clock.ahead -= timedelta(hours=6)
    try:
        async with court.database.unit_of_work() as work:
            assert second.id in await work.rollouts.due(court.clock.now())
        await fleet.work(second)
        assert await fleet.measured(second) == [("failed", 0.5)] * 2
        assert (await fleet.calls())["ray"] == ("apply", "1", 100, None)
    finally:
        court.clock.ahead += timedelta(hours=6)


@pytest.mark.parametrize(
    ("name", "verdict", "reason"),
    [
        (UNKNOWN, "no_data", "the query found no series"),
        (UNNAMED, "broken", "it is not known what {{candidate_name}} is"),
    ],
)
async def test_a_version_of_which_nothing_is_known_gets_no_more_and_fails_in_the_end(
    fleet: Gated, name: str, verdict: str, reason: str
) -> None:
    fleet.name = name
    await fleet.policy(rollout=canary(noDataFor="2m"))
    second = await fleet.held()
    for _ in range(2):
        await fleet.later(second, 1)
    assert (await fleet.calls())["ray"] == ("apply", "2", 10, "1")
    assert await fleet.measured(second) == [(verdict, None)] * 2
    await fleet.later(second, 1)
    assert (await fleet.calls())["ray"] == ("apply", "1", 100, None)
    said = (await fleet.progress(second)).reason
    assert said.startswith(f"gate quality measured nothing on ray for 120 s: {reason}")


async def test_a_prometheus_that_is_away_holds_a_rollout_and_ends_none(
    court: Court, fleet: Gated, scraping: Scraping
) -> None:
    second = await fleet.held()
    await put_target(court, "ray", source(f"http://127.0.0.1:{free_port()}"))
    for _ in range(2):
        await fleet.later(second, 1)
    assert (await fleet.calls())["ray"] == ("apply", "2", 10, "1")
    [state] = (await fleet.progress(second)).gates
    assert state.message == "Prometheus: no connection to 127.0.0.1: connection refused"
    await put_target(court, "ray", None)
    await fleet.later(second, 1)
    [state] = (await fleet.progress(second)).gates
    assert state.message == "target ray has no `metrics`: nobody can be asked"
    await put_target(court, "ray", source(scraping.url))
    await fleet.later(second, 1)
    assert (await fleet.calls())["ray"] == ("apply", "2", 50, "1")


async def test_what_was_measured_is_kept_as_long_as_the_log_of_deliveries(court: Court, fleet: Gated) -> None:
    second = await fleet.held()
    await fleet.later(second, 0.5)
    kept = await fleet.measured(second)
    assert kept
    court.clock.ahead += timedelta(days=29)
    await court.worker.sweeping.remove_expired()
    assert await fleet.measured(second) == kept
    court.clock.ahead += timedelta(days=2)
    await court.worker.sweeping.remove_expired()
    assert await fleet.measured(second) == []


async def test_two_workers_count_a_gate_once(court: Court, fleet: Gated) -> None:
    second = await fleet.held()
    court.clock.ahead += timedelta(seconds=31)
    await asyncio.gather(*(court.worker.going_back.advance(second.id) for _ in range(4)))
    assert await fleet.measured(second) == [("passed", 0.01)]
    [state] = (await fleet.progress(second)).gates
    assert (state.passes, state.consecutive_failures) == (1, 0)


@dataclass
class Meanwhile:
    """Metrics during whose answer something happens."""

    what: Callable[[], Awaitable[object]]

    async def read(self, source: MetricsSource, query: str) -> Reading:
        await self.what()
        return Reading((0.5,))


async def test_what_was_measured_of_a_step_that_is_over_does_not_count(court: Court, fleet: Gated) -> None:
    second = await fleet.held()
    court.clock.ahead += timedelta(seconds=31)

    async def pause() -> None:
        await fleet.order(second, Order.PAUSE)

    await Gating(court.database.unit_of_work, Meanwhile(pause), court.clock).measure(second.id)
    assert await fleet.measured(second) == []
    assert (await fleet.progress(second)).stage is Stage.PAUSED
    await Gating(court.database.unit_of_work, Meanwhile(pause), court.clock).measure(second.id)
    await Gating(court.database.unit_of_work, Meanwhile(pause), court.clock).measure("prm_none")


async def test_a_policy_whose_gates_could_never_measure_anything_is_refused(court: Court) -> None:
    document = {"models": court.model(), "alias": "production", "approvals": [{"name": "a", "roles": ["approver"]}]}
    policies, root = court.gateway.services.policies, court.person("root", "administrators")
    for targets, rollout, where, reason in (
        (["ray", "blind"], canary(), "targets[1]", "target blind has no `metrics`"),
        (["ray"], canary(query="quality[5m]"), "rollout.gates[0].query", "of a range, take a rate"),
    ):
        with pytest.raises(InvalidInput, match=reason) as refused:
            await policies.put(root, "gated", {**document, "targets": targets, "rollout": rollout})
        assert [field for field, _ in refused.value.problems] == [where]
    assert await policies.put(root, "gated", {**document, "targets": ["ray"], "rollout": canary()}, dry_run=True)


# Trying gates before there is a rollout.


async def test_gates_are_tried_with_what_the_deployer_reported(
    court: Court, fleet: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.held()
    monkeypatch.setenv("COUNTERSIGN_DATABASE_URL", court.settings.database_url.get_secret_value())
    file = tmp_path / "policy.json"
    document = {"kind": "Policy", "name": "p", "models": "*", "alias": "a", "autoApprove": True, "targets": ["ray"]}
    file.write_text(json.dumps(document | {"rollout": canary()}))
    command = ["policies", "try-gates", "-f", str(file), "--target", "ray", "--model", fleet.model]

    def run(*more: str) -> Result:
        return CliRunner().invoke(cli, [*command, *more])

    passed = await asyncio.to_thread(run, "--candidate", "2")
    assert passed.stdout == 'quality: passed: 0.01 is <= 0.02\n    max(quality{application="iris--v7"})\n'
    assert passed.exit_code == 0
    named = await asyncio.to_thread(run, "--candidate", "2", "--candidate-name", ILL, "--json")
    assert (named.exit_code, json.loads(named.stdout)[0]["verdict"]) == (3, "failed")
    unknown = await asyncio.to_thread(run, "--candidate", "9")
    assert "quality: broken: it is not known what {{candidate_name}} is" in unknown.stdout
    nowhere = await asyncio.to_thread(run, "--candidate", "2", "--target", "nowhere")
    assert "There is no target nowhere." in str(nowhere.exception)
    other = await asyncio.to_thread(run, "--candidate", "2", "--policy", "other")
    assert "expected the name of one policy" in str(other.exception)
    file.write_text(json.dumps(document | {"rollout": canary(query="{{model}}")}))
    wrong = await asyncio.to_thread(run, "--candidate", "2")
    assert "rollout.gates[0].query: {{model}}: expected it inside a quoted value" in str(wrong.exception)


async def test_a_target_and_the_policy_whose_gates_ask_it_are_applied_together_and_once(court: Court) -> None:
    metrics: dict[str, object] = {
        "prometheusUrl": "http://10.1.2.3:9090",
        "tokenEnv": "PROMETHEUS_TOKEN",
        "allowNetworks": ["10.0.0.0/8"],
    }
    target: dict[str, object] = {"kind": "Target", "name": "kserve", "url": "https://kserve.example", "secretEnv": "A"}
    target |= {"callbackSecretEnv": "B", "options": {"replicas": [1, 2.5, None, "x"]}, "metrics": metrics}
    policy: dict[str, object] = {
        "kind": "Policy",
        "name": "kserve",
        "models": court.model(),
        "alias": "a",
        "autoApprove": True,
    }
    policy |= {"targets": ["kserve"], "aliasMoves": "after_ready", "rollout": canary()}
    configuration = configuration_of(court.database)
    first = await configuration.apply([policy, target])
    assert [change.action for change in first] == ["created", "created"]
    again = await configuration.apply([policy, target])
    assert [change.changes for change in again] == [False, False]
    mute = {key: value for key, value in target.items() if key != "metrics"}
    with pytest.raises(InvalidInput, match="the gates of policy kserve ask it") as refused:
        await configuration.apply([mute])
    assert [where for where, _ in refused.value.problems] == ["document 1 (kserve), metrics"]
    answer = TargetAnswer.of(await court.gateway.services.endpoints.target("kserve"))
    assert (answer.document["metrics"], answer.document["options"]) == (metrics, target["options"])
