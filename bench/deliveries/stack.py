"""The real parts: PostgreSQL, workers and receivers, each a process that can be killed."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg

from app.adapters.clock import SystemClock
from app.adapters.postgres.schema import migrate
from app.adapters.postgres.unit_of_work import Database
from app.domain.endpoints import ANY_PRIVATE, Endpoint
from app.domain.events import Event, EventType
from app.domain.promotions import AliasKey
from app.embedded.ports import LOOPBACK
from app.services.identifiers import new_id
from bench.proxy.database import running_postgres
from bench.proxy.parts import free_port, running

REPOSITORY = Path(__file__).parents[2]
SECRET = "BENCH_SECRET"  # noqa: S105  # its name
AT_ONCE = 500


class Part:
    """A process that is started again after it was killed."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str], ready: Callable[[], bool]
    ) -> None:
        self._start = partial(running, name, command, ready, folder=folder, environment=environment)
        self._stack = ExitStack()
        self.process: psutil.Process | None = None

    def start(self) -> None:
        self.process = self._stack.enter_context(self._start())

    def kill(self) -> None:
        """As ``kill -9``."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        self._stack.close()


@dataclass(slots=True)
class Sink:
    """A receiver in a process of its own."""

    part: Part
    port: int
    file: Path

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def figures(self) -> dict[str, float]:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=10)
        try:
            connection.request("GET", "/")
            found: dict[str, float] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()

    def processed(self) -> list[str]:
        """Every ``webhook-id``, in the order in which it was processed, as often as it was."""
        return self.file.read_text().split()


@dataclass(slots=True)
class Stack:
    folder: Path
    database_url: str
    settings: Mapping[str, str]
    _parts: list[Part] = field(default_factory=list)

    def sink(self, *, fails: float = 0.0) -> Sink:
        port = free_port()
        file = self.folder / f"sink-{port}.txt"
        command = [sys.executable, "-m", "bench.deliveries.sink", str(port), str(file), "--fails", str(fails)]
        sink = Sink(self._part(f"sink-{port}", command, partial(_answers, port), {}), port, file)
        sink.part.start()
        return sink

    def worker(self, **settings: str) -> Part:
        name = f"worker-{new_id('w')}"
        command = [sys.executable, "-m", "app.cli", "worker"]
        log = self.folder / f"{name}.log"

        begun = itertools.count(1)
        wanted = [0]

        def is_ready() -> bool:
            text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            if text.count("worker_ready") <= wanted[0]:
                return False
            # When it is started again, its log has one more of them.
            wanted[0] = next(begun)
            return True

        part = self._part(name, command, is_ready, {**self.settings, **settings})
        part.start()
        return part

    def _part(
        self, name: str, command: Sequence[str], ready: Callable[[], bool], environment: Mapping[str, str]
    ) -> Part:
        part = Part(name, command, self.folder, {"PYTHONPATH": str(REPOSITORY), **environment}, ready)
        self._parts.append(part)
        return part

    async def endpoint(self, name: str, url: str, *, timeout_s: int = 10) -> None:
        endpoint = Endpoint(
            name=name, url=url, secrets=(f"env:{SECRET}",), allowed_networks=(ANY_PRIVATE,), timeout_s=timeout_s
        )
        database = Database(self.database_url)
        async with database.unit_of_work() as work:
            await work.endpoints.put(endpoint, at=SystemClock().now(), by="bench")
            await work.commit()
        await database.close()

    async def events(self, count: int, *, lanes: int) -> None:
        """So many events of so many models, one of each in turn."""
        database = Database(self.database_url)
        await self.emit(database, count, lanes=lanes)
        await database.close()

    async def emit(self, database: Database, count: int, *, lanes: int) -> None:
        """The same, on connections that are there."""
        clock = SystemClock()
        for start in range(0, count, AT_ONCE):
            async with database.unit_of_work() as work:
                for number in range(start, min(start + AT_ONCE, count)):
                    model = f"model-{number % lanes:05}"
                    data = {
                        "promotion": new_id("prm"),
                        "model": model,
                        "alias": "production",
                        "from_version": "1",
                        "to_version": "2",
                        "uri": f"s3://models/experiments/12/runs/{new_id('run')}/artifacts/model/",
                        "digest": "sha256:" + "0" * 64,
                        "by": "ada",
                    }
                    key = AliasKey("default", model, "production")
                    work.emit(Event(new_id("evn"), EventType.APPLIED, new_id("prm"), clock.now(), key, data))
                work.announce("events")
                await work.commit()

    def remove(self, name: str) -> None:
        """Take an endpoint away, and wait until nothing waits for it."""
        with psycopg.connect(self.database_url) as connection:
            connection.execute("DELETE FROM endpoints WHERE name = %s", [name])
        while self.rows("SELECT FROM delivery_lanes WHERE receiver = %s LIMIT 1", f"endpoint:{name}"):
            time.sleep(0.1)

    def rows(self, statement: str, *values: object) -> Sequence[tuple[Any, ...]]:
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(statement, values).fetchall()

    def wait_until_settled(self, name: str, count: int, *, within_s: float) -> None:
        """Return when an endpoint was sent so many messages."""
        deadline = time.monotonic() + within_s
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            while self.delivered(name, connection) < count:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{name} was not sent {count} messages within {within_s:g} s")
                time.sleep(0.2)

    def delivered(self, name: str, connection: psycopg.Connection[Any] | None = None) -> int:
        query = (
            "SELECT (SELECT count(*) FROM deliveries WHERE receiver = %(name)s)"
            " - (SELECT count(*) FROM deliveries WHERE receiver = %(name)s AND state = 'pending')"
        )
        with psycopg.connect(self.database_url) if connection is None else _kept(connection) as asked:
            (row,) = asked.execute(query, {"name": f"endpoint:{name}"}).fetchall()
        return int(row[0])

    def stop(self) -> None:
        for part in self._parts:
            part.stop()


@contextmanager
def _kept(connection: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    yield connection


@contextmanager
def running_stack(folder: Path) -> Iterator[Stack]:
    """A database, and nothing else yet."""
    with running_postgres(folder / "postgres") as postgres:
        migrate(postgres.url)
        settings = {
            "COUNTERSIGN_DATABASE_URL": postgres.url,
            "COUNTERSIGN_PUBLIC_URL": "https://countersign.example",
            # Nobody is there: what looks at MLflow now and then finds nothing, and sending does not ask it.
            "COUNTERSIGN_UPSTREAM_URLS": f"http://{LOOPBACK}:1",
            "COUNTERSIGN_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "COUNTERSIGN_OIDC_ISSUER": "https://issuer.example",
            "COUNTERSIGN_OIDC_AUDIENCE": "countersign",
            SECRET: "whsec_" + base64.b64encode(os.urandom(32)).decode(),
        }
        stack = Stack(folder, postgres.url, settings)
        try:
            yield stack
        finally:
            stack.stop()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
