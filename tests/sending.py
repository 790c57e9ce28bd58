"""Dispatchers in this process, a database that is real, and a receiver that answers as a test wants it to."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import asyncpg
from aiohttp import web

from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.engine import FOR_QUEUES
from app.adapters.postgres.presence import PostgresPresences
from app.adapters.postgres.unit_of_work import Database
from app.adapters.secrets import Secrets
from app.adapters.webhook_sender import WebhookSender
from app.domain.deliveries import Cause, Delivery, DeliveryState, Receiver, ReceiverKind
from app.domain.endpoints import ANY_PRIVATE, Endpoint
from app.domain.events import Event, EventType
from app.domain.promotions import AliasKey
from app.domain.roles import Role
from app.services.calling import Calling
from app.services.deliveries import Deliveries
from app.services.deployments import Deployments
from app.services.disabling import Disabling
from app.services.dispatching import Dispatcher, Limits
from app.services.fanning_out import FanningOut
from app.services.identifiers import new_id
from app.services.receivers import Receivers
from app.services.rolling_out import RollingOut
from tests.principals import principal

PUBLIC_URL = "https://countersign.example"
ADMINISTRATOR = principal("root", Role.ADMINISTRATOR)
PATIENCE_S = 30
QUICK = Limits(look_every_s=0.05, grace_s=2)


class FastClock:
    """A thousand times as fast as others, so that the waits between attempts are short; and it may be moved."""

    def __init__(self) -> None:
        self._start, self._began = datetime(2026, 3, 1, 12, tzinfo=UTC), time.monotonic()
        self._moved = timedelta(0)

    def now(self) -> datetime:
        return self._start + self._moved + timedelta(seconds=(time.monotonic() - self._began) * 1000)

    def move(self, by: timedelta) -> None:
        self._moved += by


Answer = Callable[[web.Request], Awaitable[web.Response]]


class Sink:
    """An HTTP server. Paths are receivers; each answers 204 unless it was told otherwise."""

    def __init__(self) -> None:
        self.received: defaultdict[str, list[str]] = defaultdict(list)
        """The ``webhook-id`` of each message, by receiver, in the order in which they were taken."""
        self.arrived: defaultdict[str, int] = defaultdict(int)
        self.answers: dict[str, Answer] = {}
        self._runner: web.AppRunner | None = None
        self._socket: socket.socket | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def open(self) -> None:
        application = web.Application()
        application.router.add_post("/{receiver}", self._take)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self._socket = socket.create_server(("127.0.0.1", self._port))
        self._port = self._socket.getsockname()[1]
        await web.SockSite(self._runner, self._socket).start()

    async def close(self) -> None:
        if self._runner and self._socket:
            # A connection that asyncio has accepted and not made when its server closes is never closed by anybody:
            # none is accepted any more, and those that were are made, before it does.
            asyncio.get_running_loop().remove_reader(self._socket)
            for _ in range(5):
                await asyncio.sleep(0)
            await self._runner.cleanup()
            self._runner = self._socket = None

    async def _take(self, request: web.Request) -> web.Response:
        name = request.match_info["receiver"]
        self.arrived[name] += 1
        answer = await self.answers[name](request) if name in self.answers else web.Response(status=204)
        if answer.status < 300:
            self.received[name].append(request.headers["webhook-id"])
        return answer


@dataclass
class Office:
    """Where messages are sent from."""

    url: str
    database: Database
    changes: PostgresChanges
    sender: WebhookSender
    sink: Sink
    clock: FastClock
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def deliveries(self) -> Deliveries:
        return Deliveries(self.database.unit_of_work, self.clock, public_url=PUBLIC_URL)

    @property
    def fanning_out(self) -> FanningOut:
        return FanningOut(self.database.unit_of_work, self.changes, self.clock, public_url=PUBLIC_URL)

    def dispatcher(self, limits: Limits = QUICK) -> Dispatcher:
        work = self.database.unit_of_work
        return Dispatcher(
            work,
            PostgresPresences(self.url),
            self.changes,
            self.sender,
            Receivers(work, Secrets(), self.clock),
            Disabling(
                work,
                Deployments(
                    work,
                    self.clock,
                    RollingOut(self.clock, Calling(self.clock, public_url="https://countersign.example")),
                ),
                self.clock,
            ),
            self.clock,
            limits=limits,
        )

    @asynccontextmanager
    async def sending(self, dispatchers: int = 1, limits: Limits = QUICK) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.dispatcher(limits).run()) for _ in range(dispatchers)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def endpoint(self, **changed: Any) -> str:
        """A new one, at a path of the sink that is its name."""
        name = changed.pop("name", f"endpoint-{next(self._numbers)}")
        endpoint = Endpoint(
            name=name,
            url=f"{self.sink.url}/{name}",
            allowed_networks=(ANY_PRIVATE,),
            **{"secrets": ("env:SECRET_OF_TESTS",), "models": ("of-another-test",), **changed},
        )
        async with self.database.unit_of_work() as work:
            await work.endpoints.put(endpoint, at=self.clock.now(), by="test")
            await work.commit()
        return name

    def message(self, name: str, lane: str = "", **changed: Any) -> Delivery:
        now = self.clock.now()
        return Delivery(
            **{
                "id": new_id("dlv"),
                "receiver": Receiver(ReceiverKind.ENDPOINT, name),
                "lane": lane,
                "message_id": f"{lane}#{next(self._numbers)}",
                "event_type": "test",
                "subject": "test",
                "body": '{"a":1}',
                "cause": Cause.EVENT,
                "created_at": now,
                "next_attempt_at": now,
                **changed,
            }
        )

    async def post(self, messages: Sequence[Delivery]) -> Sequence[str]:
        """Add messages in one transaction; returns their ids."""
        async with self.database.unit_of_work() as work:
            await work.deliveries.add(messages)
            await work.commit()
        return [each.id for each in messages]

    async def event(self, model: str = "", type_: EventType = EventType.APPLIED) -> str:
        """Something happens; returns the event's id."""
        event = Event(new_id("evn"), type_, "prm_1", self.clock.now(), AliasKey("default", model, ""), {"model": model})
        async with self.database.unit_of_work() as work:
            work.emit(event)
            work.announce("events")
            await work.commit()
        return event.id

    async def rows(self, query: str, *values: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def explained(self, settings: str, query: str) -> list[asyncpg.Record]:
        """PostgreSQL's plan."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(settings)
            return list(await connection.fetch(f"EXPLAIN {query}"))
        finally:
            await connection.close()

    async def states(self, name: str) -> list[str]:
        """Of all deliveries to an endpoint, in their order."""
        found = await self.rows(
            "SELECT state FROM deliveries WHERE receiver = $1 ORDER BY sequence", f"endpoint:{name}"
        )
        return [row["state"] for row in found]

    async def settled(self, name: str = "") -> None:
        """Wait until nothing is pending, of one endpoint or of all; and no lane is left."""
        pending = (
            "SELECT (SELECT count(*) FROM deliveries WHERE state = $1 AND receiver LIKE $2)"
            " + (SELECT count(*) FROM delivery_lanes WHERE receiver LIKE $2) AS left"
        )
        connection = await asyncpg.connect(self.url)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await connection.fetchval(pending, DeliveryState.PENDING.value, f"%:{name or '%'}"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            await connection.close()


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something in this process."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come to be within {PATIENCE_S} seconds"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def open_office(url: str) -> AsyncIterator[Office]:
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    database, changes, sink, clock = Database(url, FOR_QUEUES), PostgresChanges(url), Sink(), FastClock()
    sender = WebhookSender(clock=clock)
    changes.start()
    await sink.open()
    try:
        with patch.dict(os.environ, {"SECRET_OF_TESTS": secret}):
            yield Office(url, database, changes, sender, sink, clock)
    finally:
        await sink.close()
        await sender.close()
        await changes.close()
        await database.close()
