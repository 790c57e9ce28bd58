"""``kill -9`` of gateway and worker at every step: what was promised still happens, once, and the log tells one story.

Nothing in the processes knows that it is tested. They are stopped where they wait for something outside: for MLflow or
the deployer, at a toll gate; for the database, at a lock that the test holds.
"""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from app.adapters.postgres.audit import _CHAIN_LOCK
from app.adapters.postgres.queue import create_queue, rescue_jobs_of_dead_workers
from app.adapters.postgres.unit_of_work import Database
from tests.forking import Forked
from tests.issuer import Issuer
from tests.platform import Countersign, MlflowServer, environment_for, until
from tests.toll import Deployer, TollGate

SET_ALIAS = ("POST", "/registered-models/alias")
APPLIED = "promotion.applied"
HISTORY = ["promotion.requested", "decision.approved"]
HISTORY += [f"promotion.{event}" for event in ("approved", "applying", "applied", "rolling_out", "live")]


class Lock:
    """A lock in the database that processes run into."""

    def __init__(self, database_url: str, statement: str, *values: object, queued: bool = False) -> None:
        self._url = database_url
        self._connection = psycopg.connect(database_url)
        if queued:
            # Not waited for: others hold what it locks, and it is next.
            self._connection.execute("SELECT 1")
            self._connection.pgconn.send_query(statement.encode())
            until(self._waits, f"{statement} being queued")
        else:
            self._connection.execute(statement, values)  # type: ignore[call-overload]  # ours, all of them

    def wait_until_hit(self, query: str = "") -> None:
        """Until a process waits for this lock in a statement that contains ``query``."""
        found = (
            "SELECT 1 FROM pg_stat_activity"
            " WHERE %(holder)s = ANY (pg_blocking_pids(pid)) AND position(%(query)s in query) > 0"
        )
        with psycopg.connect(self._url, autocommit=True) as observer:
            values = {"holder": self._connection.info.backend_pid, "query": query}
            until(lambda: observer.execute(found, values).fetchone(), f"a process waiting for the lock in {query!r}")

    def release(self) -> None:
        self._connection.close()

    def _waits(self) -> bool:
        with psycopg.connect(self._url, autocommit=True) as observer:
            return bool(
                observer.execute(
                    "SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted", [self._connection.info.backend_pid]
                ).fetchone()
            )


@dataclass
class Site:
    """A gateway and a worker between MLflow and a deployer, with a toll gate on each way."""

    countersign: Countersign
    mlflow: MlflowServer
    registry: TollGate
    """What the worker takes for MLflow."""
    deployer: Deployer
    gateway: Forked | None = None
    workers: list[Forked] = field(default_factory=list)
    _locks: list[Lock] = field(default_factory=list)

    @property
    def database_url(self) -> str:
        return self.countersign.environment["COUNTERSIGN_DATABASE_URL"]

    def start_gateway(self) -> None:
        self.gateway = self.countersign.start("gateway")

    def start_worker(self) -> Forked:
        process = self.countersign.start("worker", COUNTERSIGN_UPSTREAM_URLS=self.registry.url)
        self.workers.append(process)
        return process

    def make_ready(self) -> None:
        """One gateway and one worker, whatever the last test left."""
        if self.gateway is None:
            self.start_gateway()
        if not self.workers:
            self.start_worker()

    def kill_gateway(self) -> None:
        assert self.gateway
        self.countersign.kill(self.gateway)
        self.gateway = None

    def kill_workers(self) -> None:
        while self.workers:
            self.countersign.kill(self.workers.pop())

    @contextmanager
    def paused_worker(self) -> Iterator[None]:
        """The worker sees nothing of what happens meanwhile."""
        for worker in self.workers:
            os.kill(worker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for worker in self.workers:
                os.kill(worker.pid, signal.SIGCONT)

    def lock(self, statement: str, *values: object, queued: bool = False) -> Lock:
        lock = Lock(self.database_url, statement, *values, queued=queued)
        self._locks.append(lock)
        return lock

    def lock_commits(self) -> Lock:
        """Every transaction that is recorded in the audit log waits for it, with its last statement before COMMIT."""
        return self.lock("SELECT pg_advisory_xact_lock(%s)", _CHAIN_LOCK)

    def release_all(self) -> None:
        for lock in self._locks:
            lock.release()

    def new_model(self) -> str:
        model = f"model-{uuid.uuid4().hex[:12]}"
        self.mlflow.register(model)
        return model

    def approved(self, model: str | None = None) -> dict[str, Any]:
        """A new promotion that the approver has just approved."""
        promotion = self.countersign.ask(model or self.new_model(), "1")
        assert self.countersign.approve(promotion["id"]).status_code == 200
        return promotion

    def state(self, promotion: dict[str, Any]) -> str:
        """As it is committed."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            row = connection.execute("SELECT state FROM promotions WHERE id = %s", [promotion["id"]]).fetchone()
        assert row
        return str(row[0])

    def check_became_live(self, promotion: dict[str, Any], *, sent: int | None = 1) -> None:
        """The promotion is applied and sent to the deployer, or will be: report it ready, and look at all that is left.

        ``sent`` is how often the deployer must have received the one message; ``None`` where that is left to chance.
        """
        model = promotion["model"]
        received = until(lambda: self.deployer.received(model), f"the deployer hearing of {model}")
        assert self.deployer.report(received[0][1], "Ready").status_code == 200
        done = self.countersign.follow(promotion["id"], "live")
        assert done["alias_moved"]
        assert self.mlflow.holder(model) == "1"
        assert self.countersign.audit(promotion["id"]) == HISTORY
        self.check_delivered(model, sent=sent)
        self.check_audit()

    def check_delivered(self, model: str, *, sent: int | None) -> None:
        """There is one message, the deployer took it, and all copies of it have the same id and content."""
        name, event = self.deployer.received(model)[0]
        assert name == event["id"]
        until(lambda: self._delivered(name), f"{name} being recorded as delivered")
        received = self.deployer.received(model)
        assert received == [(name, event)] * len(received)
        assert sent in {None, len(received)}
        assert not self.deployer.refusals

    def delivery(self, message: str) -> dict[str, Any]:
        """The delivery of a message, by the ``webhook-id``, with its attempts."""
        (found,) = self.countersign.call("administrator", "GET", f"/deliveries?message_id={message}").json()["items"]
        detail: dict[str, Any] = self.countersign.call("administrator", "GET", f"/deliveries/{found['id']}").json()
        return detail

    def _delivered(self, message: str) -> dict[str, Any] | None:
        found = self.delivery(message)
        return found if found["state"] == "delivered" else None

    def check_audit(self) -> None:
        answer = self.countersign.call("administrator", "GET", "/audit/verify").json()
        assert answer["intact"], answer


def target_and_policy(deployer: Deployer, folder: Path) -> Path:
    """The YAML by which every model is deployed to ``deployer`` when its production alias has moved."""
    (folder / "secret").write_text(deployer.secret)
    (folder / "callback-secret").write_text(deployer.callback_secret)
    target = {
        "kind": "Target",
        "name": "lab",
        "url": f"{deployer.url}/deploy",
        "secretFile": str(folder / "secret"),
        "callbackSecretFile": str(folder / "callback-secret"),
        "allowPrivateNetwork": True,
    }
    policy = {
        "kind": "Policy",
        "name": "production",
        "models": "*",
        "alias": "production",
        "approvals": [{"name": "a second person", "count": 1, "roles": ["approver"]}],
        "targets": ["lab"],
    }
    together = {
        "kind": "Policy",
        "name": "together",
        "models": "together-*",
        "alias": "production",
        "approvals": policy["approvals"],
        "companions": {"previous": "previous", "promoted": {"stage": "live"}, "archived": {"stage": "archived"}},
    }
    file = folder / "countersign.yaml"
    by_steps = {
        **policy,
        "name": "by steps",
        "models": "by-steps-*",
        "rollout": {"strategy": "canary", "steps": [{"weight": 10, "hold": "manual"}]},
    }
    file.write_text(yaml.safe_dump_all([target, policy, together, by_steps]))
    return file


@pytest.fixture(scope="module")
def whole_site(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Shared by the tests here: models are their own, and starting processes is what takes the time."""
    folder, name = tmp_path_factory.mktemp("site"), f"kills_{uuid.uuid4().hex}"
    with psycopg.connect(postgres("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")  # type: ignore[call-overload]
    environment = environment_for(
        database_url=postgres(name), upstream_url=mlflow_server.url, artifacts=mlflow_server.artifacts, issuer=issuer
    )
    countersign = Countersign(environment, folder, issuer)
    with TollGate(mlflow_server.url) as registry, Deployer() as deployer:
        countersign.run("migrate")
        countersign.run("apply", "-f", str(target_and_policy(deployer, folder)))
        yield Site(countersign, mlflow_server, registry, deployer)
        countersign.stop()


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    whole_site.make_ready()
    yield whole_site
    whole_site.release_all()
    if len(whole_site.workers) > 1:
        whole_site.kill_workers()


@contextmanager
def meanwhile(call: Callable[[], httpx.Response]) -> Iterator[Future[httpx.Response]]:
    """A call that is under way while the block runs."""
    with ThreadPoolExecutor(1) as executor:
        yield executor.submit(call)


# The worker, step by step.


def test_a_worker_killed_before_it_commits_that_it_begins_begins_again(site: Site) -> None:
    with site.paused_worker():
        promotion = site.approved()
        lock = site.lock_commits()
    lock.wait_until_hit("pg_advisory_xact_lock")
    site.kill_workers()
    lock.release()
    assert site.state(promotion) == "approved"
    site.start_worker()
    site.check_became_live(promotion)


def test_a_worker_killed_before_its_alias_call_reaches_mlflow_is_followed_by_one_that_calls(site: Site) -> None:
    hold = site.registry.hold(*SET_ALIAS, when="before")
    promotion = site.approved()
    hold.wait_until_held()
    site.kill_workers()
    assert site.state(promotion) == "applying"
    assert site.mlflow.holder(promotion["model"]) is None
    site.start_worker()
    site.countersign.follow(promotion["id"], "rolling_out")
    # The call of the dead arrives after all: a network may do that.
    calls = site.registry.count(*SET_ALIAS)
    hold.release()
    until(lambda: site.registry.count(*SET_ALIAS) > calls, "the arrival of the late call")
    site.check_became_live(promotion)


def test_a_worker_killed_before_it_knows_that_the_alias_moved_does_not_move_it_again(site: Site) -> None:
    calls = site.registry.count(*SET_ALIAS)
    hold = site.registry.hold(*SET_ALIAS, when="after")
    promotion = site.approved()
    hold.wait_until_held()
    site.kill_workers()
    hold.drop()
    assert site.state(promotion) == "applying"
    assert site.mlflow.holder(promotion["model"]) == "1"
    site.start_worker()
    site.check_became_live(promotion)
    assert site.registry.count(*SET_ALIAS) == calls + 1


def finishing(site: Site) -> tuple[dict[str, Any], Lock]:
    """A promotion whose alias the worker has moved and read back, and the lock that keeps it from committing that."""
    hold = site.registry.hold(*SET_ALIAS, when="after")
    promotion = site.approved()
    hold.wait_until_held()
    lock = site.lock_commits()
    hold.release()
    lock.wait_until_hit("pg_advisory_xact_lock")
    return promotion, lock


def test_a_worker_killed_before_it_records_that_the_alias_moved_records_it_after(site: Site) -> None:
    calls = site.registry.count(*SET_ALIAS)
    promotion, lock = finishing(site)
    site.kill_workers()
    lock.release()
    assert site.state(promotion) == "applying"
    assert site.deployer.received(promotion["model"]) == []
    site.start_worker()
    site.check_became_live(promotion)
    assert site.registry.count(*SET_ALIAS) == calls + 1


def test_a_worker_killed_before_it_sends_what_it_committed_sends_it_after(site: Site) -> None:
    promotion, lock = finishing(site)
    # Whoever reads deliveries after the commit waits here, so nothing can be sent.
    next_lock = site.lock("LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE", queued=True)
    lock.release()
    until(lambda: site.state(promotion) == "rolling_out", "the commit")
    next_lock.wait_until_hit("FROM deliveries AS each")
    site.kill_workers()
    assert site.deployer.received(promotion["model"]) == []
    next_lock.release()
    site.start_worker()
    site.check_became_live(promotion)


def test_a_worker_killed_before_it_hears_the_deployers_answer_sends_the_same_message_again(site: Site) -> None:
    hold = site.deployer.hold("POST", "/deploy", when="after")
    promotion = site.approved()
    hold.wait_until_held()
    site.kill_workers()
    hold.drop()
    site.start_worker()
    until(lambda: len(site.deployer.received(promotion["model"])) == 2, "the second sending")
    site.check_became_live(promotion, sent=2)


def test_a_worker_killed_before_it_records_the_deployers_answer_sends_the_same_message_again(site: Site) -> None:
    hold = site.deployer.hold("POST", "/deploy", when="before")
    promotion = site.approved()
    hold.wait_until_held()
    name = site.deployer.arrived[-1].headers["webhook-id"]
    lock = site.lock("SELECT FROM deliveries WHERE message_id = %s FOR NO KEY UPDATE", name)
    hold.release()
    lock.wait_until_hit("UPDATE deliveries")
    site.kill_workers()
    lock.release()
    site.start_worker()
    until(lambda: len(site.deployer.received(promotion["model"])) == 2, "the second sending")
    site.check_became_live(promotion, sent=2)
    delivery = site.delivery(name)
    assert [attempt["status"] for attempt in delivery["log"]] == [204]


def test_a_message_is_sent_until_the_deployer_takes_it_with_one_id(site: Site) -> None:
    site.deployer.answers = [500, 503]
    promotion = site.approved()
    until(lambda: len(site.deployer.received(promotion["model"])) == 3, "the third sending")
    site.check_became_live(promotion, sent=3)
    name = site.deployer.received(promotion["model"])[0][0]
    delivery = site.delivery(name)
    assert [attempt["status"] for attempt in delivery["log"]] == [500, 503, 204]


@pytest.mark.parametrize("status", [410, 422])
def test_a_deployer_that_refuses_for_good_is_not_asked_again(site: Site, status: int) -> None:
    site.deployer.answers = [status]
    promotion = site.approved()
    if status == 410:
        # Nothing is sent to a target that is gone: whether it went back, nobody knows.
        end = "failed"
    else:
        end = "rolled_back"
        until(lambda: len(site.deployer.received(promotion["model"])) == 2, "the call to go back")
        site.deployer.report(site.deployer.received(promotion["model"])[1][1], "Ready")
    ended = site.countersign.follow(promotion["id"], end)
    assert str(status) in ended["state_reason"]
    assert site.mlflow.holder(promotion["model"]) is None
    assert site.countersign.audit(promotion["id"]) == [*HISTORY[:-1], "rollout.went_back", f"promotion.{end}"]
    name, _ = site.deployer.received(promotion["model"])[0]
    delivery = site.delivery(name)
    assert (delivery["state"], delivery["attempts"]) == ("dead", 1)
    site.check_audit()
    # One that said that it is gone is not called any more until somebody says that it is back.
    target = site.countersign.call("administrator", "GET", "/targets/lab").json()
    assert target["state"] == ("disabled" if status == 410 else "active")
    assert site.countersign.call("administrator", "POST", "/targets/lab/enable").json()["state"] == "active"


def test_a_canary_goes_on_and_goes_back_though_gateway_and_worker_are_killed_in_every_step(site: Site) -> None:
    model = f"by-steps-{uuid.uuid4().hex[:12]}"
    site.mlflow.register(model, versions=2)

    def called(number: int) -> dict[str, Any]:
        """The call of a generation, which came once."""
        until(lambda: len(site.deployer.received(model)) == number, f"generation {number} being called for")
        event = site.deployer.received(model)[-1][1]
        assert event["data"]["generation"] == number
        return event

    def kill_and_start() -> None:
        site.kill_workers()
        site.kill_gateway()
        site.make_ready()

    first = site.approved(model)
    site.deployer.report(called(1), "Ready")
    site.countersign.follow(first["id"], "live")
    second = site.countersign.ask(model, "2")
    site.countersign.approve(second["id"])
    canary = called(2)
    assert canary["data"]["traffic"]["weight"] == 10
    site.deployer.report(canary, "Ready")
    kill_and_start()  # while the step is held
    resumed = site.countersign.call("approver", "POST", f"/promotions/{second['id']}/rollout/resume")
    assert resumed.status_code == 200, resumed.text
    everything = called(3)
    assert everything["data"]["model"]["version"] == "2"
    hold = site.registry.hold(*SET_ALIAS, when="before")
    site.deployer.report(everything, "Failed", reason="ModelLoadFailed", message="no module named spam")
    hold.wait_until_held()
    kill_and_start()  # the requests went back, the alias did not yet
    hold.drop()
    back = called(4)
    assert (back["data"]["model"]["version"], back["data"]["action"]) == ("1", "apply")
    site.deployer.report(back, "Ready")
    ended = site.countersign.follow(second["id"], "rolled_back")
    assert "no module named spam" in ended["state_reason"]
    assert site.mlflow.holder(model) == "1"
    story = [each for each in site.countersign.audit(second["id"]) if each.startswith("rollout.")]
    assert story == ["rollout.step_began", "rollout.resumed", "rollout.step_began", "rollout.went_back"]
    site.check_audit()


def test_of_two_workers_the_other_goes_on_and_takes_over_when_one_is_killed(site: Site) -> None:
    with TollGate(site.mlflow.url) as second_gate:
        first = site.workers[0]
        second = site.countersign.start("worker", COUNTERSIGN_UPSTREAM_URLS=second_gate.url)
        site.workers.append(second)
        gates = {first.pid: site.registry, second.pid: second_gate}
        holds = {pid: gate.hold(*SET_ALIAS, when="before") for pid, gate in gates.items()}
        promotion = site.approved()
        pid = until(lambda: next((pid for pid, hold in holds.items() if hold.is_held), None), "the alias call of one")
        killed, left = (first, second) if pid == first.pid else (second, first)
        holds[left.pid].cancel()
        site.countersign.kill(killed)
        site.workers = [left]
        others = [site.approved() for _ in range(2)]
        for other in others:
            site.check_became_live(other)
        site.check_became_live(promotion)
        # The next test needs one whose gate stays.
        site.kill_workers()


# What the killed leave in the queue.


def leave_job(database_url: str, *, task: str, lock: str | None, queueing_lock: str | None, status: str) -> None:
    """A job that waits (``todo``), or that a worker which is no more had begun (``doing``)."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args, status)"
            " VALUES ('default', %s, %s, %s, '{}', %s)",
            [task, lock, queueing_lock, status],
        )


def jobs_left(database_url: str) -> list[tuple[str, str]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute("SELECT task_name, status::text FROM procrastinate_jobs ORDER BY 1, 2").fetchall()


async def test_a_job_that_is_queued_again_already_does_not_keep_others_from_being_rescued(database_url: str) -> None:
    leave_job(database_url, task="sweep", lock=None, queueing_lock="sweep", status="doing")
    leave_job(database_url, task="sweep", lock=None, queueing_lock="sweep", status="doing")
    leave_job(database_url, task="sweep", lock=None, queueing_lock="sweep", status="todo")
    leave_job(database_url, task="advance_promotion", lock="promotion:1", queueing_lock=None, status="doing")
    queue = create_queue(database_url)
    async with queue.open_async():
        await rescue_jobs_of_dead_workers(queue)
    assert jobs_left(database_url) == [("advance_promotion", "todo"), ("sweep", "todo")]


@pytest.mark.parametrize("status", ["todo", "doing"])
async def test_the_sweep_queues_nothing_for_what_has_a_job(database_url: str, status: str) -> None:
    leave_job(database_url, task="advance_promotion", lock="promotion:1", queueing_lock=None, status=status)
    database = Database(database_url)
    for _ in range(2):
        async with database.unit_of_work() as work:
            await work.jobs.ensure_advancing("1")
            await work.jobs.ensure_advancing("2")
            await work.commit()
    await database.close()
    assert sorted(jobs_left(database_url)) == sorted([("advance_promotion", status), ("advance_promotion", "todo")])


# The gateway, step by step.


def through(site: Site, door: TollGate) -> Countersign:
    """The same callers, by way of a gate in front of the gateway."""
    return replace(site.countersign, environment=site.countersign.environment | {"COUNTERSIGN_PUBLIC_URL": door.url})


def test_a_gateway_killed_while_it_opens_a_promotion_has_opened_none(site: Site) -> None:
    model = site.new_model()
    asked = {"model": model, "alias": "production", "version": "1"}
    lock = site.lock_commits()
    with meanwhile(lambda: site.countersign.call("scientist", "POST", "/promotions", json=asked)) as asking:
        lock.wait_until_hit("pg_advisory_xact_lock")
        site.kill_gateway()
        with pytest.raises(httpx.TransportError):
            asking.result()
    lock.release()
    site.start_gateway()
    assert site.countersign.call("viewer", "GET", "/promotions", params={"model": model}).json()["items"] == []
    answers = [site.countersign.call("scientist", "POST", "/promotions", json=asked) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert site.countersign.audit(answers[0].json()["id"]) == ["promotion.requested"]
    site.check_audit()


def test_a_gateway_killed_while_it_approves_has_not_approved(site: Site) -> None:
    promotion = site.countersign.ask(site.new_model(), "1")
    lock = site.lock_commits()
    with meanwhile(lambda: site.countersign.approve(promotion["id"])) as approving:
        lock.wait_until_hit("pg_advisory_xact_lock")
        site.kill_gateway()
        with pytest.raises(httpx.TransportError):
            approving.result()
    lock.release()
    site.start_gateway()
    assert site.countersign.call("viewer", "GET", f"/promotions/{promotion['id']}").json()["state"] == "pending"
    assert site.countersign.approve(promotion["id"]).status_code == 200
    site.check_became_live(promotion)


def test_a_gateway_killed_before_it_says_that_it_approved_has_approved_once(site: Site) -> None:
    promotion = site.countersign.ask(site.new_model(), "1")
    with TollGate(site.countersign.url) as door:
        hold = door.hold("POST", "/approve", when="after")
        with meanwhile(lambda: through(site, door).approve(promotion["id"])) as approving:
            hold.wait_until_held()
            site.kill_gateway()
            hold.drop()
            with pytest.raises(httpx.TransportError):
                approving.result()
    site.start_gateway()
    again = site.countersign.approve(promotion["id"])
    assert again.status_code == 409
    assert again.json()["state"] in {"approved", "applying", "applied", "rolling_out"}
    site.check_became_live(promotion)


def test_who_waits_at_a_gateway_that_is_killed_can_wait_at_the_next_one(site: Site) -> None:
    promotion = site.countersign.ask(site.new_model(), "1")
    path = f"/promotions/{promotion['id']}"
    seen = {"If-None-Match": site.countersign.call("viewer", "GET", path).headers["etag"]}

    def wait(countersign: Countersign) -> httpx.Response:
        return countersign.call("viewer", "GET", path, params={"wait": 50}, headers=dict(seen))

    with TollGate(site.countersign.url) as door:
        with meanwhile(lambda: wait(through(site, door))) as waiting:
            until(lambda: door.arrived, "the wait")
            site.kill_gateway()
            with pytest.raises(httpx.TransportError):
                waiting.result()
        site.start_gateway()
        with site.paused_worker(), meanwhile(lambda: wait(through(site, door))) as waiting:
            until(lambda: len(door.arrived) == 2, "the second wait")
            assert site.countersign.approve(promotion["id"]).status_code == 200
            assert waiting.result().json()["state"] == "approved"
    site.check_became_live(promotion)


def test_what_is_approved_while_no_worker_runs_is_applied_by_the_next_one(site: Site) -> None:
    site.kill_workers()
    promotion = site.approved()
    site.kill_gateway()
    site.start_worker()
    site.start_gateway()
    site.check_became_live(promotion)


# Both, at random.


@dataclass
class Hunt:
    """Kills a process again and again, at random moments of its life; the last one lives."""

    start: Callable[[], object]
    kill: Callable[[], None]
    chance: random.Random
    kills: int = 0

    def run(self, times: int) -> None:
        self.start()
        while self.kills < times:
            time.sleep(self.chance.uniform(0.3, 1.5))
            self.kill()
            self.kills += 1
            self.start()


def patiently(call: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask until there is an answer: the gateway is killed now and then."""

    def answer() -> httpx.Response | None:
        try:
            return call()
        except httpx.TransportError:
            return None

    found: httpx.Response = until(answer, "an answer of the gateway", patience_s=120)
    return found


def test_promotions_survive_kills_at_random_moments(site: Site) -> None:
    models = [site.new_model() for _ in range(8)]
    site.kill_workers()
    site.kill_gateway()
    on_worker = Hunt(site.start_worker, site.kill_workers, random.Random(1))
    on_gateway = Hunt(site.start_gateway, site.kill_gateway, random.Random(2))
    promotions: list[dict[str, Any]] = []
    with ThreadPoolExecutor(2) as hunters:
        hunts = [hunters.submit(hunt.run, 5) for hunt in (on_worker, on_gateway)]
        for model in models:
            # Spread over the whole hunt.
            until(lambda: on_worker.kills + on_gateway.kills >= len(promotions), "the next kill")
            asked = {"model": model, "alias": "production", "version": "1"}
            opened = patiently(
                lambda asked=asked: site.countersign.call("scientist", "POST", "/promotions", json=asked)
            )
            assert opened.status_code in {200, 201}, opened.text
            approved = patiently(lambda opened=opened: site.countersign.approve(opened.json()["id"]))
            # 409: the gateway that approved it was killed before it said so.
            assert approved.status_code in {200, 409}, approved.text
            promotions.append(opened.json())
        for hunt in hunts:
            hunt.result()
    for promotion in promotions:
        site.check_became_live(promotion, sent=None)
    listed = site.countersign.call("viewer", "GET", "/promotions", params={"limit": 200}).json()["items"]
    assert sorted(item["model"] for item in listed if item["model"] in models) == sorted(models)


def tags_of(mlflow: MlflowServer, model: str, version: str) -> dict[str, str]:
    found = mlflow.call("GET", "model-versions/get", {"name": model, "version": version})["model_version"]
    return {tag["key"]: tag["value"] for tag in found.get("tags", [])}


def test_what_moves_together_survives_kills_at_random_moments(site: Site) -> None:
    models = [f"together-{uuid.uuid4().hex[:12]}" for _ in range(5)]
    for model in models:
        site.mlflow.register(model, versions=2)
        site.mlflow.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "1"})
    # One is too large to be read while somebody waits: the worker is killed while it reads it, or soon after.
    with (site.mlflow.folder_of(models[0], "2") / "weights" / "large.bin").open("wb") as file:
        file.truncate(80 * 1024 * 1024)
    site.kill_workers()
    on_worker = Hunt(site.start_worker, site.kill_workers, random.Random(3))
    with ThreadPoolExecutor(1) as hunter:
        hunt = hunter.submit(on_worker.run, 3)
        promotions = [site.countersign.ask(model, "2") for model in models]
        for promotion in [*promotions[1:], promotions[0]]:
            # 409: nobody decides on what is still being read.
            while site.countersign.approve(promotion["id"]).status_code == 409:
                time.sleep(0.05)
        hunt.result()
    for promotion in promotions:
        model = promotion["model"]
        site.countersign.follow(promotion["id"], "applied")
        assert (site.mlflow.holder(model), site.mlflow.holder(model, "previous")) == ("2", "1")
        assert (tags_of(site.mlflow, model, "2"), tags_of(site.mlflow, model, "1")) == (
            {"stage": "live"},
            {"stage": "archived"},
        )
        told = site.countersign.audit(promotion["id"])
        assert [each for each in told if each != "promotion.ready_for_decision"] == HISTORY[
            : HISTORY.index(APPLIED) + 1
        ]
    site.check_audit()
