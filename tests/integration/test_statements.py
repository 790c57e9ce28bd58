"""What the database is asked: no more statements for more rows, and an index for every one of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from app.adapters.postgres.engine import create_engine
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.bootstrap.gateway import Gateway, open_gateway
from app.bootstrap.worker import WorkerServices, open_worker
from app.domain.grants import Grant, Reach, Subject
from app.domain.promotions import Filter, Outcome
from app.domain.roles import Role
from app.settings import Settings
from bench.governance.lists import Size, cases, caught, fill, literals
from tests.conftest import database_of
from tests.issuer import Issuer
from tests.platform import MlflowServer, environment_for, protect
from tests.principals import principal

LONG = {"promotions", "decisions", "audit_entries", "events", "alias_history", "deployment_generations"}
"""Tables that only grow."""
READ_IN_ORDER = {"promotions", "audit", "events"}
"""Cases that begin at the end of a table and stop when the page is full."""
KNOWN_VALUES = {"governs what is below a folder"}
"""What a text begins with is looked up in an index when the text is known, not before."""

INDEXES = """
SELECT indexname FROM pg_indexes
WHERE tablename = ANY($1) AND indexname NOT IN (SELECT conname FROM pg_constraint) AND indexdef NOT LIKE '% UNIQUE %'
"""
"""Those that are for looking up, and hold no rule."""

SCIENTIST = principal("scientist", Role.REQUESTER)
APPROVER = principal("approver", Role.APPROVER, groups=["approvers"])
SOME = Grant("some", Role.VIEWER, Subject(group="viewers"), Reach(model="model-*"))
LIMITED = principal("limited", groups=["viewers"], grants=[SOME])


@contextmanager
def statements() -> Iterator[list[str]]:
    """Those that this process sends to any database meanwhile."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def number_of(call: Awaitable[Any]) -> tuple[int, Any]:
    with statements() as sent:
        answer = await call
    return len(sent), answer


@pytest.fixture
async def parts(
    database_url: str, mlflow_server: MlflowServer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Gateway, WorkerServices]]:
    """A gateway's services and a worker's, in this process."""
    environment = environment_for(
        database_url=database_url, upstream_url=mlflow_server.url, artifacts=mlflow_server.artifacts, issuer=issuer
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    protect(database_url)
    settings = Settings()
    async with open_gateway(settings) as gateway, open_worker(settings) as worker:
        yield gateway, worker


async def test_no_statement_is_sent_for_each_promotion_and_few_for_one(
    parts: tuple[Gateway, WorkerServices], mlflow_server: MlflowServer, model_name: str
) -> None:
    gateway, worker = parts
    promotions = gateway.services.promotions
    mlflow_server.register(model_name, versions=3)

    async def promoted(version: str) -> Mapping[str, int]:
        counts: dict[str, int] = {}
        counts["ask"], (promotion, _) = await number_of(
            promotions.create(SCIENTIST, model=model_name, alias="production", version=version)
        )
        counts["approve"], _ = await number_of(promotions.decide(APPROVER, promotion.id, Outcome.APPROVE))
        counts["apply"], _ = await number_of(worker.advancing.advance(promotion.id))
        counts["get"], applied = await number_of(promotions.get(SCIENTIST, promotion.id))
        counts["list"], page = await number_of(promotions.page(SCIENTIST, Filter()))
        counts["list some"], seen = await number_of(promotions.page(LIMITED, Filter()))
        assert (applied.state, len(page), len(seen)) == ("applied", int(version), int(version))
        return counts

    await promoted("1")  # what is read once and kept is read now
    second, third = await promoted("2"), await promoted("3")
    assert second == third
    assert third["get"] <= 2
    assert third["list"] <= 2
    assert third["list some"] <= 3
    assert third["ask"] <= 25
    assert third["approve"] <= 30
    assert third["apply"] <= 65


async def test_whatever_is_looked_up_in_a_long_table_has_an_index_and_every_index_is_used(
    postgres: Callable[[str], str], template_database: str
) -> None:
    size = Size(promotions=1000, entries=1000)
    with database_of(postgres, template_database) as url:
        await fill(url, size)
        connection, engine = await asyncpg.connect(url), create_engine(url)
        try:
            # What is dear with many rows, is made dear with few: reading through all of them, and sorting them.
            for setting in ("enable_seqscan = off", "cpu_tuple_cost = 10", "random_page_cost = 0"):
                await connection.execute(f"SET {setting}")
            await connection.execute("DROP INDEX promotions_by_time")
            indexes = {row["indexname"] for row in await connection.fetch(INDEXES, sorted(LONG))}
            scans: list[tuple[str, str]] = []
            for name, case in cases(size).items():
                with caught(engine) as sent:
                    async with UnitOfWork(engine) as work:
                        await case(work)
                mode = "force_custom_plan" if name in KNOWN_VALUES else "force_generic_plan"
                await connection.execute(f"SET plan_cache_mode = {mode}")
                for statement, parameters in sent:
                    await connection.execute(f"PREPARE asked AS {statement}")
                    plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked{literals(parameters)}")
                    await connection.execute("DEALLOCATE asked")
                    nodes = list(_nodes(json.loads(plan)[0]["Plan"]))
                    indexes -= {str(node.get("Index Name")) for node in nodes}
                    scans += [
                        (name, node["Node Type"])
                        for node in nodes
                        if node.get("Relation Name") in LONG and not _is_looked_up(node, name.removesuffix(", deep"))
                    ]
            assert indexes == set()
            assert scans == []
        finally:
            await connection.close()
            await engine.dispose()


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _is_looked_up(node: Mapping[str, Any], case: str) -> bool:
    """By an index, with a condition on it; or row by row in its order."""
    if node["Node Type"] == "Bitmap Heap Scan":
        return True
    return node["Node Type"].startswith("Index") and ("Index Cond" in node or case in READ_IN_ORDER)
