"""Who had a hand in a version, as the gateway saw it on real servers: it is written down, and found again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from app.adapters.clock import SystemClock
from app.adapters.postgres.unit_of_work import Database, UnitOfWork
from app.domain.contributions import CHANGES_ARTIFACTS, Hand, Involved
from app.domain.errors import Unavailable
from app.domain.policies import DEFAULT_POLICY
from app.domain.promotions import Kind, Promotion
from app.domain.routes import Guard
from app.domain.storage import Storage
from app.services.contributing import REMEMBERED_FOR, Contributing
from tests.platform import PATIENCE_S, Countersign, MlflowServer, until
from tests.principals import ISSUER, principal

MLFLOW = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RUN = "a" * 32
ANN, BOB = principal("ann"), principal("bob")


def native(service: Countersign, who: str, method: str, path: str, body: object = None) -> httpx.Response:
    """As MLflow's client calls."""
    headers = {"Authorization": f"Bearer {service.token(who)}"}
    return httpx.request(method, service.url + path, json=body, headers=headers, timeout=PATIENCE_S, trust_env=False)


def promotion_of(mlflow_server: MlflowServer, model: str, version: str) -> Promotion:
    """One that a viewer, who has no hand in anything, asked for."""
    named = {"name": model, "version": version}
    found = mlflow_server.call("GET", "model-versions/get", named)["model_version"]
    return promotion(
        model=model,
        to_version=version,
        version_created_at=int(found["creation_timestamp"]),
        run_id=found.get("run_id") or None,
        source_uri=mlflow_server.call("GET", "model-versions/get-download-uri", named)["artifact_uri"],
    )


def promotion(
    *, to_version: str, version_created_at: int, run_id: str | None, source_uri: str, model: str = "m"
) -> Promotion:
    return Promotion(
        id="prm_1",
        kind=Kind.PROMOTION,
        model=model,
        alias="production",
        to_version=to_version,
        from_version=None,
        model_created_at=1,
        run_id=run_id,
        source_uri=source_uri,
        uri="file:///a/",
        artifact_root=Storage("/a").artifact_root(source_uri),
        digest="sha256:" + "0" * 64,
        policy=DEFAULT_POLICY,
        requested_by=f"{ISSUER}|viewer",
        requested_by_name="viewer",
        reason="",
        created_at=NOON,
        updated_at=NOON,
        version_created_at=version_created_at,
    )


def involved(service: Countersign, promotion: Promotion) -> Involved:
    """Asked in this process, of the service's database."""

    async def ask() -> Involved:
        database = Database(service.environment["COUNTERSIGN_DATABASE_URL"])
        async with database.unit_of_work() as work:
            found = await Contributing(database.unit_of_work, SystemClock()).involved(work, promotion)
        await database.close()
        return found

    with ThreadPoolExecutor(1) as thread:  # a loop of the tests may belong to this one
        return thread.submit(asyncio.run, ask()).result()


def hands(service: Countersign, mlflow_server: MlflowServer, model: str, version: str) -> dict[str, str]:
    """What each of those who are known by name did, but who asked for the promotion."""
    found = involved(service, promotion_of(mlflow_server, model, version))
    return {who.rpartition("|")[2]: what for who, what in found.barred.items() if not what.startswith("asked for this")}


def registered(service: Countersign, who: str, model: str, **source: str) -> httpx.Response:
    return native(service, who, "POST", f"{MLFLOW}/model-versions/create", {"name": model, **source})


def test_each_hand_of_an_unmodified_client_is_known_and_stays_known_when_the_model_is_renamed(
    service: Countersign, mlflow_server: MlflowServer, model_name: str, tmp_path: Path
) -> None:
    people = ("scientist", "scientist-and-approver", "administrator")
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": service.url,
        "TOKENS": json.dumps([service.token(who) for who in people]),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    story = Path(__file__).with_name("many_hands_story.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(story), model_name],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    expected = {
        "scientist": "created the run that version 1 comes from",
        "scientist-and-approver": "created the logged model that is version 1 and changed the artifacts of version 1",
        "administrator": "registered version 1",
    }
    assert hands(service, mlflow_server, model_name, told["version"]) == expected
    renamed = {"name": model_name, "new_name": f"{model_name}-renamed"}
    assert native(service, "administrator", "POST", f"{MLFLOW}/registered-models/rename", renamed).is_success
    assert hands(service, mlflow_server, renamed["new_name"], told["version"]) == expected


def test_who_hides_the_run_that_a_logged_model_comes_from_does_not_hide_its_author(
    service: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    """A version need not name the run; the logged model has."""
    experiment = mlflow_server.call("POST", "experiments/create", {"name": model_name})["experiment_id"]
    run = native(service, "scientist", "POST", f"{MLFLOW}/runs/create", {"experiment_id": experiment}).json()
    body = {"experiment_id": experiment, "name": "m", "source_run_id": run["run"]["info"]["run_id"]}
    logged = native(service, "administrator", "POST", f"{MLFLOW}/logged-models", body).json()["model"]["info"]
    about = promotion(to_version="1", version_created_at=1, run_id=None, source_uri=logged["artifact_uri"])
    found = involved(service, about)
    assert found.barred[f"{service.issuer.url}|scientist"] == "created the run that version 1 comes from"


def test_a_number_that_is_given_out_again_has_another_author(
    service: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    mlflow_server.register(model_name)
    first = promotion_of(mlflow_server, model_name, "1")
    assert hands(service, mlflow_server, model_name, "1") == {}
    source = {"source": first.source_uri, "run_id": first.run_id or ""}
    for who in ("scientist", "scientist-and-approver"):
        named = {"name": model_name}
        assert native(service, "administrator", "DELETE", f"{MLFLOW}/registered-models/delete", named).is_success
        assert native(service, "administrator", "POST", f"{MLFLOW}/registered-models/create", named).is_success
        assert registered(service, who, model_name, **source).json()["model_version"]["version"] == "1"
        assert hands(service, mlflow_server, model_name, "1") == {who: "registered version 1"}


def test_who_has_mlflow_fail_after_it_registered_a_version_is_its_author_all_the_same(
    service: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    mlflow_server.register(model_name)
    experiment = mlflow_server.call("POST", "experiments/create", {"name": model_name})["experiment_id"]
    logged = mlflow_server.call("POST", "logged-models", {"experiment_id": experiment, "name": "m"})["model"]["info"]
    tag = {"tags": [{"key": "mlflow.modelVersions", "value": "no JSON"}]}
    mlflow_server.call("PATCH", f"logged-models/{logged['model_id']}/tags", tag)
    source = {"source": logged["artifact_uri"], "model_id": logged["model_id"]}
    assert registered(service, "scientist", model_name, **source).status_code >= 400
    said = "may have registered version 2, whose author was not recorded"
    assert hands(service, mlflow_server, model_name, "2") == {"scientist": said}
    renamed = {"name": model_name, "new_name": f"{model_name}-renamed"}
    assert native(service, "administrator", "POST", f"{MLFLOW}/registered-models/rename", renamed).is_success
    assert hands(service, mlflow_server, renamed["new_name"], "2") == {"scientist": said}


def test_who_hangs_up_before_mlflow_answers_is_an_author_all_the_same(
    service: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    mlflow_server.register(model_name)
    first = promotion_of(mlflow_server, model_name, "1")
    experiment = mlflow_server.call("POST", "experiments/create", {"name": model_name})["experiment_id"]
    assert mlflow_server.process is not None
    administrator = {"Authorization": f"Bearer {service.token('administrator')}"}

    def metric(name: str, **labels: str) -> float:
        lines = httpx.get(f"{service.url}/metrics", headers=administrator, trust_env=False).text.splitlines()
        parts = [f'{label}="{value}"' for label, value in labels.items()]
        wanted = [line for line in lines if line.startswith(name) and all(part in line for part in parts)]
        return sum(float(line.rpartition(" ")[2]) for line in wanted)

    gone = partial(metric, "countersign_proxy_requests_total", status="499")
    asks = [
        ("runs/create", {"experiment_id": experiment}),
        ("model-versions/create", {"name": model_name, "source": first.source_uri, "run_id": first.run_id}),
    ]
    before = gone()
    os.killpg(mlflow_server.process.pid, signal.SIGSTOP)
    try:
        for path, body in asks:
            with open_request(service, "scientist", f"{MLFLOW}/{path}", body):
                until(lambda: metric("countersign_upstream_in_flight"), "the request reaching MLflow")
        until(lambda: gone() == before + len(asks), "the end of both exchanges")
    finally:
        os.killpg(mlflow_server.process.pid, signal.SIGCONT)

    def is_told() -> bool:
        found = mlflow_server.call("GET", "registered-models/get", {"name": model_name})["registered_model"]
        newest = str(found["latest_versions"][0]["version"])
        return newest == "2" and hands(service, mlflow_server, model_name, "2") == {"scientist": "registered version 2"}

    until(is_told, "the author of the version")
    (run,) = mlflow_server.call("POST", "runs/search", {"experiment_ids": [experiment]})["runs"]
    about = promotion(
        to_version="1", version_created_at=1, run_id=run["info"]["run_id"], source_uri="mlflow-artifacts:/x"
    )
    created = "created the run that version 1 comes from"
    until(lambda: created in involved(service, about).barred.values(), "the author of the run")


def open_request(service: Countersign, who: str, path: str, body: object) -> socket.socket:
    """A request whose answer nobody waits for."""
    content, address = json.dumps(body), urlsplit(service.url)
    connection = socket.create_connection((address.hostname or "", address.port or 80))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.token(who)}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(f"{head}{content}".encode())
    return connection


def test_every_writer_of_a_version_is_known_and_two_hundred_files_are_written_down_once(
    service: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    mlflow_server.register(model_name)
    version = promotion_of(mlflow_server, model_name, "1")
    folder = version.source_uri.removeprefix("mlflow-artifacts:/")
    run_id = version.run_id

    def put(number: int) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{service.url}{FILES}/{folder}/{number // 20}/{number}"
        return client.put(url, content=b"x", headers=headers).status_code

    token = service.token("scientist")
    with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client, ThreadPoolExecutor(8) as threads:
        assert put(0) == 200
        written = writes(service, run_id or "")
        assert set(threads.map(put, range(1, 200))) == {200}
    assert len(written) == 1
    assert writes(service, run_id or "") == written
    upload = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run_id}&path=model/note.txt"
    headers = {"Authorization": f"Bearer {service.token('administrator')}"}
    assert httpx.post(service.url + upload, content=b"x", headers=headers, trust_env=False).is_success
    gone = native(service, "administrator", "DELETE", f"{FILES}/{folder}/0")
    assert gone.is_success, gone.text
    assert native(service, "viewer", "GET", f"{FILES}?path={folder}").is_success
    changed = "changed the artifacts of version 1"
    assert hands(service, mlflow_server, model_name, "1") == {"scientist": changed, "administrator": changed}


def writes(service: Countersign, run_id: str) -> list[tuple[str, ...]]:
    """Every row about the artifacts of a run, with the transaction that wrote it last."""
    with psycopg.connect(service.environment["COUNTERSIGN_DATABASE_URL"]) as connection:
        return connection.execute(
            "SELECT key, principal_id, xmin::text FROM contributions WHERE hand = 'artifact' AND key LIKE %s",
            [f"%{run_id}%"],
        ).fetchall()


class Counted:
    """Units of work, and how many were asked for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.count = 0

    def __call__(self) -> UnitOfWork:
        self.count += 1
        return self._database.unit_of_work()


@dataclass
class SetClock:
    """Stands where it was set."""

    at: datetime = NOON

    def now(self) -> datetime:
        return self.at


@pytest.fixture
async def counted(database_url: str) -> AsyncIterator[Counted]:
    database = Database(database_url)
    yield Counted(database)
    await database.close()


async def test_files_that_are_sent_at_once_are_written_down_once_and_again_after_some_minutes(counted: Counted) -> None:
    clock = SetClock()
    contributing = Contributing(counted, clock)

    async def send(*numbers: int) -> int:
        """How often the database was asked."""
        before = counted.count
        paths = [f"1/{RUN}/artifacts/{number}" for number in numbers]
        await asyncio.gather(
            *(contributing.changes(ANN, Guard.ARTIFACT_WRITE, {"path": path}, "default") for path in paths)
        )
        return counted.count - before

    assert await send(*range(200)) == 1
    clock.at += REMEMBERED_FOR - timedelta(seconds=1)
    assert await send(1) == 0
    clock.at += timedelta(seconds=2)
    assert await send(1, 2) == 1
    clock.at -= timedelta(days=1)
    assert await send(1) == 1
    await contributing.changes(BOB, Guard.ARTIFACT_WRITE, {"path": f"1/{RUN}/artifacts/1"}, "default")
    source = f"mlflow-artifacts:/1/{RUN}/artifacts/model"
    async with counted() as work:
        about = promotion(to_version="1", version_created_at=1, run_id=None, source_uri=source)
        barred = await contributing.barred(work, about)
    changed = "changed the artifacts of version 1"
    assert barred == {f"{ISSUER}|viewer": "asked for this promotion", ANN.id: changed, BOB.id: changed}


async def test_a_folder_beside_the_versions_own_is_not_its_own(counted: Counted) -> None:
    contributing = Contributing(counted, SetClock())
    for who, path in ((ANN, "team/model/x/weights"), (BOB, "team/model0/weights"), (BOB, "other/weights")):
        await contributing.changes(who, Guard.ARTIFACT_WRITE, {"path": path}, "default")
    about = promotion(to_version="1", version_created_at=1, run_id=None, source_uri="mlflow-artifacts:/team/model")
    async with counted() as work:
        assert (await contributing.barred(work, about)).keys() == {f"{ISSUER}|viewer", ANN.id}


@pytest.mark.parametrize("guard", sorted(CHANGES_ARTIFACTS))
async def test_nothing_is_changed_while_nobody_can_be_written_down(guard: Guard) -> None:
    away = Database("postgresql://localhost:1/away")
    fields = {"path": f"1/{RUN}/artifacts/x", "run_id": RUN}
    contributing = Contributing(away.unit_of_work, SetClock())
    with pytest.raises(Unavailable):
        await contributing.changes(ANN, guard, fields, "default")
    with pytest.raises(Unavailable):
        await contributing.asks(ANN, Hand.VERSION, {"name": "m"})
    await away.close()
