"""What resolves, remembered by two gateways: nobody who was told that an alias has moved is answered where it was."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import asyncpg
import pytest

from app.adapters.postgres.leases import LEASE_S, ResolverLeases, elapsed
from app.bootstrap.gateway import Gateway, open_gateway
from app.domain.errors import Unavailable
from app.domain.names import parse_models_uri
from app.domain.promotions import State
from app.services.recording import UNGOVERNED_MOVES
from app.services.resolution_memory import Address, Answer
from tests.conftest import database_of
from tests.door import until
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer

MOVES = 5
DEAFEN = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'
"""
"""Nobody hears of a change for a second."""


@dataclass
class Pair:
    """The court, and a second gateway on its database."""

    court: Court
    other: Gateway

    @property
    def gateways(self) -> list[Gateway]:
        return [self.court.gateway, self.other]

    async def governed(self, versions: int = 2) -> tuple[str, Address]:
        """A model whose first version holds `production`, and the address of that."""
        model = self.court.model(versions)
        await self.court.policy(models=model)
        await self.court.promoted(model)
        return model, address(model)

    async def sql(self, statement: str, *values: object) -> str:
        connection = await asyncpg.connect(self.court.settings.database_url.get_secret_value())
        try:
            return str(await connection.execute(statement, *values))
        finally:
            await connection.close()


def address(model: str) -> Address:
    return "default", parse_models_uri(f"models:/{model}@production")


@asynccontextmanager
async def open_pair(url: str, mlflow: MlflowServer, issuer: Issuer) -> AsyncIterator[Pair]:
    async with open_court(url, mlflow, issuer) as court, open_gateway(court.settings, court.clock) as other:
        yield Pair(court, other)


@pytest.fixture(scope="module")
async def pair(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Pair]:
    with database_of(postgres, template_database) as url:
        async with open_pair(url, mlflow_server, issuer) as pair:
            yield pair


async def remembered(gateway: Gateway, of: Address) -> Answer:
    """What the gateway remembers, when it does."""
    while True:
        await gateway.services.resolutions.get(of)
        if answer := gateway.services.resolutions.recall(of):
            return answer
        await asyncio.sleep(0.01)


async def version(gateway: Gateway, of: Address) -> int:
    return int((await gateway.services.resolutions.get(of)).resolution.version)


async def test_an_answer_is_remembered_until_the_alias_moves(pair: Pair) -> None:
    model, of = await pair.governed()
    for gateway in pair.gateways:
        first = await remembered(gateway, of)
        assert await gateway.services.resolutions.get(of) is first
    await pair.court.promoted(model, "2")
    for gateway in pair.gateways:
        assert await version(gateway, of) == 2


async def moved(
    pair: Pair, model: str, of: Address, versions: range, how: Callable[[str, str], Awaitable[object]] | None = None
) -> int:
    """Move an alias from version to version while readers ask on both gateways as fast as they can; how often they did.

    Linearizable: nobody is answered less than what anybody was told before they asked.
    """
    told, is_over, asked, move = versions.start - 1, False, 0, how or pair.court.promoted

    async def read(gateway: Gateway) -> None:
        nonlocal told, asked
        while not is_over:
            least = told
            try:
                got = await version(gateway, of)
            except Unavailable:
                await asyncio.sleep(0.05)
                continue
            assert got >= least
            told = max(told, got)  # what one reader was answered, every later one must know
            asked += 1
            await asyncio.sleep(0.001)

    async def move_on() -> None:
        nonlocal told, is_over
        try:
            for each in versions:
                await move(model, str(each))
                told = max(told, each)
        finally:
            is_over = True

    async with asyncio.TaskGroup() as group:
        for gateway in pair.gateways * 2:
            group.create_task(read(gateway))
        group.create_task(move_on())
    for gateway in pair.gateways:
        assert await version(gateway, of) == versions.stop - 1
    return asked


async def test_nobody_is_answered_less_than_what_somebody_was_told_before_they_asked(pair: Pair) -> None:
    model, of = await pair.governed(versions=MOVES)
    assert await moved(pair, model, of, range(2, MOVES + 1)) > MOVES


async def test_a_change_that_nobody_was_told_of_is_seen_all_the_same(pair: Pair) -> None:
    model, of = await pair.governed()
    for gateway in pair.gateways:
        await remembered(gateway, of)
    await pair.sql(DEAFEN)
    await moved(pair, model, of, range(2, 3))


async def test_a_gateway_that_neither_hears_nor_says_anything_answers_nothing_old(pair: Pair) -> None:
    """As one that is cut off: the promotion waits until nothing that it remembers counts."""
    model, of = await pair.governed()
    asked = await pair.court.ask(model, "2")
    await pair.court.approve(asked)
    for gateway in pair.gateways:
        await remembered(gateway, of)

    async def apply(_model: str, _version: str) -> None:
        assert (await pair.court.work(asked)).state is State.APPLIED

    connection = await asyncpg.connect(pair.court.settings.database_url.get_secret_value())
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE resolvers IN EXCLUSIVE MODE")
            await connection.execute(DEAFEN)
            await moved(pair, model, of, range(2, 3), apply)
            for gateway in pair.gateways:
                assert gateway.services.resolutions.recall(of) is None
    finally:
        await connection.close()
    for gateway in pair.gateways:
        await remembered(gateway, of)


async def test_a_database_that_has_lost_who_remembers_is_not_believed(pair: Pair) -> None:
    """What is not logged is gone after a crash, and so are all connections; the gateways live on."""
    model, of = await pair.governed()
    for gateway in pair.gateways:
        await remembered(gateway, of)
    await pair.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid()"
    )
    await pair.sql("TRUNCATE resolvers")
    await moved(pair, model, of, range(2, 3))


async def test_a_new_connection_believes_no_row_before_a_lease_is_over(pair: Pair) -> None:
    leases = ResolverLeases(pair.court.settings.database_url.get_secret_value())
    began = elapsed()
    await leases.wait()
    await leases.close()
    assert elapsed() - began >= LEASE_S


async def test_a_gateway_that_is_gone_holds_up_one_promotion_and_no_more(pair: Pair) -> None:
    await pair.sql("INSERT INTO resolvers VALUES ('gone', 0, now() + interval '1 hour')")
    model, of = await pair.governed(versions=3)
    await moved(pair, model, of, range(2, 4))
    assert await pair.sql("DELETE FROM resolvers WHERE id = 'gone'") == "DELETE 0"


async def test_an_alias_that_only_mlflow_knows_is_asked_for_again_when_somebody_moves_it_here(pair: Pair) -> None:
    model = pair.court.model()
    pair.court.mlflow.call("POST", "registered-models/alias", {"name": model, "alias": "blue", "version": "1"})
    of = ("default", parse_models_uri(f"models:/{model}@blue"))
    for gateway in pair.gateways:
        await remembered(gateway, of)
    async with pair.court.database.unit_of_work() as work:
        work.announce(f"{UNGOVERNED_MOVES}:default/{model}")
        await work.commit()

    async def remembers_no_more(gateway: Gateway) -> bool:
        await gateway.services.resolutions.get(of)
        return gateway.services.resolutions.recall(of) is None

    for gateway in pair.gateways:
        await until(partial(remembers_no_more, gateway), "the word that it moves")
    pair.court.mlflow.call("POST", "registered-models/alias", {"name": model, "alias": "blue", "version": "2"})
    for gateway in pair.gateways:
        assert await version(gateway, of) == 2


async def test_a_policy_that_changes_makes_all_be_looked_up_again(pair: Pair) -> None:
    _, of = await pair.governed()
    before = [await remembered(gateway, of) for gateway in pair.gateways]
    async with pair.court.database.unit_of_work() as work:
        work.forget_resolutions()
        await work.commit()

    async def knows_it(gateway: Gateway, old: Answer) -> bool:
        return await remembered(gateway, of) is not old

    for gateway, old in zip(pair.gateways, before, strict=True):
        await until(partial(knows_it, gateway, old), "looking it up again")


async def test_who_follows_an_alias_is_woken_when_it_means_something_else(pair: Pair) -> None:
    model, of = await pair.governed()
    for gateway in pair.gateways:
        with gateway.services.following.watch([of]) as watcher:
            (first,) = await watcher.look()
            assert isinstance(first, Answer)
    with contextlib.ExitStack() as stack:
        watchers = [stack.enter_context(gateway.services.following.watch([of])) for gateway in pair.gateways]
        for watcher in watchers:
            await watcher.look()
        await pair.court.promoted(model, "2")
        for watcher in watchers:
            seen = None
            while not (isinstance(seen, Answer) and seen.resolution.version == "2"):
                assert await watcher.wait_for(20)
                (seen,) = watcher.states
