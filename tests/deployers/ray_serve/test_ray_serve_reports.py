"""Reports reach a real HTTP gateway: signed, in order, until it has answered, also over restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from countersign_deployer.contract import Deployment
from countersign_deployer.reporter import Reporter
from countersign_deployer.state import StateStore
from countersign_ray_serve.rollout import accept
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import State

Json = dict[str, Any]
MakeCall = Callable[..., Json]


@pytest.fixture(autouse=True)
def fresh_gateway(gateway: Any) -> None:
    gateway.answers.clear()
    gateway.ids.clear()
    gateway.reports.clear()


@asynccontextmanager
async def reporting(settings: Settings) -> AsyncIterator[StateStore[State]]:
    store = StateStore(settings.state_dir, State)
    async with httpx.AsyncClient() as client:
        task = asyncio.create_task(Reporter(settings, store, client).run())
        try:
            yield store
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            store.close()


async def owe(settings: Settings, *events: Json) -> None:
    """Accept calls while nobody reports."""
    store = StateStore(settings.state_dir, State)
    async with store.transaction() as state:
        for event in events:
            accept(state, settings, Deployment.model_validate_json(json.dumps(event["data"])), 1_780_000_000.0)
    store.close()


async def until_nothing_is_owed(store: StateStore[State]) -> None:
    async with asyncio.timeout(60):
        while store.snapshot().outbox:  # noqa: ASYNC110  # the store tells nobody
            await asyncio.sleep(0.01)


async def test_what_was_owed_before_a_restart_is_sent_in_order(
    settings: Settings, make_call: MakeCall, gateway: Any
) -> None:
    await owe(settings, make_call(generation=1, gateway=gateway.url), make_call(generation=2, gateway=gateway.url))
    async with reporting(settings) as store:
        await until_nothing_is_owed(store)
    assert [(r["generation"], r["phase"]) for r in gateway.reports] == [
        (1, "Accepted"),
        (1, "Superseded"),
        (2, "Accepted"),
    ]


@pytest.mark.parametrize("trouble", [500, 503, 429])
async def test_a_gateway_in_trouble_gets_the_same_message_again(
    settings: Settings, make_call: MakeCall, gateway: Any, trouble: int
) -> None:
    gateway.answers.append(trouble)
    await owe(settings, make_call(gateway=gateway.url))
    async with reporting(settings) as store:
        await until_nothing_is_owed(store)
    assert len(gateway.ids) == 2
    assert len(set(gateway.ids)) == 1


@pytest.mark.parametrize("refusal", [400, 404, 410, 422])
async def test_a_refused_report_is_dropped_and_the_next_one_is_sent(
    settings: Settings, make_call: MakeCall, gateway: Any, refusal: int
) -> None:
    gateway.answers.append(refusal)
    await owe(settings, make_call(generation=1, gateway=gateway.url), make_call(generation=2, gateway=gateway.url))
    async with reporting(settings) as store:
        await until_nothing_is_owed(store)
    assert len(gateway.reports) == 3


async def test_a_gateway_that_is_away_loses_nothing(settings: Settings, make_call: MakeCall, gateway: Any) -> None:
    await owe(settings, make_call(name="away", gateway="http://127.0.0.1:9"), make_call(gateway=gateway.url))
    async with reporting(settings) as store:
        async with asyncio.timeout(60):
            while len(store.snapshot().outbox) > 1:  # noqa: ASYNC110  # the store tells nobody
                await asyncio.sleep(0.01)
    assert [report["resource"] for report in gateway.reports] == ["iris"]
    assert [report.deployment_id for report in store.snapshot().outbox] == ["dep_61776179"]
