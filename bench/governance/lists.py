"""What lists and look-ups cost when there is much: ``python -m bench.governance.lists``.

A million promotions of 10,000 models and ten million audit entries, on PostgreSQL with its own settings. The statements
are those that the repositories send, caught on their way; each is prepared as the driver prepares it and run by
``EXPLAIN ANALYZE`` until the server would have settled for a plan without the parameters' values (it may from the sixth
time on). What is told is the fastest of the last twenty, as others may use the machine: planning and execution in the
database, without the network.

The rows are made by ``generate_series``, the audit entries with made-up hashes: their chain does not verify.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import md5
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.adapters.postgres.engine import create_engine
from app.adapters.postgres.schema import migrate
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.deployments import Filter as Deployed
from app.domain.events import EventType
from app.domain.policies import DEFAULT_POLICY, document_of
from app.domain.promotions import AliasKey, Filter, State
from bench.proxy.database import running_postgres

TARGET_MS = 10.0
DEEP = 10_000
"""The page that is to cost what the first costs."""
PAGE = 50
DEEPER, NOISE_MS = 1.5, 1.0
"""How many times what the first page costs a deep one may, and what is not told apart, in milliseconds."""
MODELS = 10_000
BEGAN = datetime(2024, 1, 1, tzinfo=UTC)
EVERY = timedelta(seconds=30)
ME, CI = "prn_me", "prn_ci"
PREPARED_TIMES = 25
"""From the sixth run on, the server may use one plan for all values."""

POLICY = "INSERT INTO policy_revisions VALUES ('bench', 1, $1::jsonb, now(), 'bench')"

PROMOTIONS = """
INSERT INTO promotions (id, kind, workspace, model, alias, to_version, from_version, model_created_at,
    version_created_at, run_id, source_uri, artifact_root, uri, digest, policy_name, policy_revision, requested_by,
    requested_by_name, reason, created_at, updated_at, state, alias_moved, applied_at, expires_at, due_at, revision)
SELECT 'prm_' || lpad(i::text, 20, '0'), 'promotion', CASE WHEN i % 100 = 7 THEN 'team-a' ELSE 'default' END,
    'model-' || lpad(m::text, 5, '0'), a, i::text, (i - 1)::text, 1700000000000, 1700000000000 + i, run,
    'mlflow-artifacts:/1/' || run || '/artifacts/model', '1/' || run || '/artifacts/model',
    'file:///artifacts/1/' || run || '/artifacts/model/', 'sha256:' || encode(sha256(i::text::bytea), 'hex'),
    'bench', 1,
    who, who, 'better than the last', at, at + interval '1 hour', s, s IN ('applied', 'live'),
    CASE WHEN s IN ('applied', 'live', 'rolled_back', 'rolling_out') THEN at + interval '1 hour' END,
    at + interval '30 days', CASE WHEN s IN ('pending', 'approved') THEN at + interval '7 days' END, 5
FROM (
    SELECT i, md5(i::text) AS run, $1::timestamptz + i * interval '30 seconds' AS at,
        -- One model is promoted all the time.
        CASE WHEN i % 50 = 0 THEN 0 ELSE (i * 7919::bigint) % 10000 END AS m,
        CASE WHEN i % 10 < 7 THEN 'production' WHEN i % 10 < 9 THEN 'staging' ELSE 'canary' END AS a,
        CASE WHEN i % 2 = 0 THEN 'prn_ci' WHEN i % 1000 = 1 THEN 'prn_me' ELSE 'prn_' || i % 200 END AS who,
        CASE WHEN i > $2 - 10 AND i % 50 > 0 THEN 'applying' WHEN i > $2 - $2 / 200 OR i % 10000 = 3 THEN 'pending'
             WHEN i % 1000 = 5 THEN 'approved' WHEN i % 2000 = 17 THEN 'failed'
             WHEN i % 100 < 60 THEN 'applied' WHEN i % 100 < 70 THEN 'live' WHEN i % 100 < 75 THEN 'rolled_back'
             WHEN i % 100 < 90 THEN 'superseded' WHEN i % 100 < 97 THEN 'rejected' ELSE 'withdrawn' END AS s
    FROM generate_series(1::bigint, $2::bigint) AS i
) AS drawn
"""

REST = [
    """
    INSERT INTO decisions (promotion_id, principal_id, principal_name, outcome, reason, decided_at, groups, roles,
        is_service)
    SELECT id, CASE WHEN run_id < '8' THEN 'prn_me' ELSE 'prn_approver' END, 'somebody',
        CASE WHEN state = 'rejected' THEN 'reject' ELSE 'approve' END, '', updated_at, '{approvers}', '{approver}',
        false
    FROM promotions WHERE state NOT IN ('withdrawn', 'superseded')
    """,
    """
    INSERT INTO alias_holders (workspace, model, alias, version, promotion_id, since)
    SELECT DISTINCT ON (workspace, model, alias) workspace, model, alias, to_version, id, applied_at
    FROM promotions WHERE state IN ('applied', 'live') ORDER BY workspace, model, alias, applied_at DESC
    """,
    """
    INSERT INTO promoted_aliases (workspace, model, alias, folded_model)
    SELECT DISTINCT workspace, model, alias, model FROM promotions
    """,
    """
    INSERT INTO alias_history (workspace, model, alias, model_created_at, version, since, cause, promotion_id)
    SELECT workspace, model, alias, model_created_at, to_version, applied_at, 'promotion', id
    FROM promotions WHERE applied_at IS NOT NULL ORDER BY applied_at
    """,
    """
    INSERT INTO alias_present (workspace, model, alias, model_created_at, version, sequence)
    SELECT DISTINCT ON (workspace, model, alias) workspace, model, alias, model_created_at, version, sequence
    FROM alias_history ORDER BY workspace, model, alias, sequence DESC
    """,
    """
    INSERT INTO events (id, type, subject, at, workspace, model, alias, data)
    SELECT replace(id, 'prm', 'evn'), CASE WHEN state = 'failed' THEN 'promotion.failed' ELSE 'promotion.applied' END,
        id, updated_at, workspace, model, alias, '{"state": "applied"}'
    FROM promotions ORDER BY created_at
    """,
    """
    INSERT INTO deployments (id, target, workspace, model, generation, version, uri, digest, promotion_id, phase,
        reason, message, observed_generation, sequence, requested_at, updated_at, heard_at, call)
    SELECT 'dep_' || md5(p.model), 'bench', p.workspace, p.model, 1, p.to_version, p.uri, p.digest, p.id, 'Ready', '',
        '', 1, 1, p.applied_at, p.applied_at, p.applied_at, '{"action": "apply"}'
    FROM alias_holders JOIN promotions p ON p.id = promotion_id
    WHERE p.workspace = 'default' AND p.alias = 'production'
    """,
    """
    INSERT INTO deployment_generations (deployment_id, generation, action, version, uri, digest, weight, promotion_id,
        phase, reason, message, requested_at, ready_at, updated_at)
    SELECT d.id, row_number() OVER (PARTITION BY p.model ORDER BY p.created_at), 'apply', p.to_version, p.uri, p.digest,
        100, p.id, 'Ready', '', '', p.applied_at, p.applied_at, p.applied_at
    FROM promotions p JOIN deployments d ON d.workspace = p.workspace AND d.model = p.model
    WHERE p.alias = 'production' AND p.applied_at IS NOT NULL
    """,
]

AUDIT = """
INSERT INTO audit_entries (sequence, entry, previous_hash, hash)
SELECT i, jsonb_build_object('sequence', i, 'at', $1::timestamptz + i * interval '3 seconds',
    'actor', jsonb_build_object('id', 'prn_' || i % 200, 'name', 'Somebody ' || i % 200),
    'action', 'promotion.applied',
    'object', CASE WHEN i % 100 = 0 THEN 'GET /control/v1/audit' ELSE 'prm_' || lpad((i / 10)::text, 20, '0') END,
    'details', jsonb_build_object('model', 'model-' || i % 10000, 'alias', 'production', 'state', 'applied',
        'from_version', '1', 'to_version', '2')),
    encode(sha256((i - 1)::text::bytea), 'hex'), encode(sha256(i::text::bytea), 'hex')
FROM generate_series(1::bigint, $2::bigint) AS i
"""

QUICKLY = ["session_replication_role = replica", "synchronous_commit = off", "maintenance_work_mem = '512MB'"]
"""Foreign keys are not looked up row by row, and nothing waits for the disk: this database is for the scrap."""
FILLED = (
    *("promotions", "decisions", "alias_holders", "alias_history", "alias_present", "events", "audit_entries"),
    *("deployments", "deployment_generations"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How many rows there are."""

    promotions: int
    entries: int

    def at(self, number: int) -> datetime:
        """When the promotion of this number was made."""
        return BEGAN + number * EVERY

    def promotion(self, number: int) -> str:
        return f"prm_{number:020}"

    def page(self, number: int) -> tuple[datetime, str]:
        """The cursor behind which this page of all promotions begins."""
        last = self.promotions - (number - 1) * PAGE + 1
        return self.at(last), self.promotion(last)


Case = Callable[[UnitOfWork], Awaitable[object]]


def cases(size: Size) -> Mapping[str, Case]:
    """Everything that a request or the sweep asks, by name; what is read deep follows what it is compared with."""
    deep = size.page(min(DEEP, size.promotions // PAGE // 2))
    hot, usual = (AliasKey("default", f"model-{model:05}", "production") for model in (0, 7919 % MODELS))
    middle = size.promotions // 2 - size.promotions // 2 % 100 + 1
    among = tuple(AliasKey("default", f"model-{model:05}", "production") for model in range(0, MODELS, 10))
    few = tuple(AliasKey("default", f"model-{model:05}", "canary") for model in (1271, 461))
    now = size.at(size.promotions) + timedelta(hours=1)

    def page(before: tuple[datetime, str] | None = None, **wanted: Any) -> Case:  # noqa: ANN401  # of the filter
        return lambda work: work.promotions.page(Filter(**wanted), before=before, limit=PAGE)

    def pages(name: str, **wanted: Any) -> Mapping[str, Case]:  # noqa: ANN401  # the same
        return {name: page(**wanted), f"{name}, deep": page(deep, **wanted)}

    async def holder_before(work: UnitOfWork) -> object:
        return await work.promotions.last_good_before(await work.promotions.get(size.promotion(middle)))

    async def ahead(work: UnitOfWork) -> object:
        return await work.promotions.ahead_of(await work.promotions.get(size.promotion(middle)))

    run = "0cc175b9c0f1b6a831c399e269772661"
    called_most = f"dep_{md5(hot.model.encode(), usedforsecurity=False).hexdigest()}"
    return {
        **pages("promotions"),
        **pages("of a model", model=usual.model),
        **pages("of the model promoted most", model=hot.model),
        **pages("of an alias", alias="production"),
        **pages("of an alias that is rare", alias="canary"),
        **pages("of an alias that nobody has", alias="nothing"),
        **pages("of a model's alias", model=hot.model, alias=hot.alias),
        **pages("of a workspace", workspace="team-a"),
        **pages("of a workspace that is empty", workspace="team-b"),
        **pages("pending", states=(State.PENDING,)),
        **pages("applied", states=(State.APPLIED,)),
        **pages("failed", states=(State.FAILED,)),
        **pages("open", states=(State.PENDING, State.APPROVED, State.APPLYING)),
        **pages("failed, expired or stale", states=(State.FAILED, State.EXPIRED, State.STALE)),
        **pages("mine", requested_by=ME),
        **pages("of who asks most", requested_by=CI),
        **pages("pending of who asks most", requested_by=CI, states=(State.PENDING,)),
        **pages("awaiting me", awaiting=ME),
        **pages("of 1,000 aliases", among=among),
        **pages("of 1,000 aliases, pending", among=among, states=(State.PENDING,)),
        **pages("of 1,000 aliases, failed", among=among, states=(State.FAILED,)),
        **pages("of 1,000 aliases, awaiting me", among=among, awaiting=ME),
        **pages("of 1,000 aliases, mine", among=among, requested_by=ME),
        **pages("of 1,000 aliases, of who asks most", among=among, requested_by=CI),
        **pages("of 2 aliases", among=few),
        "aliases of all promotions": lambda work: work.promotions.aliases(Filter()),
        "aliases of a model": lambda work: work.promotions.aliases(Filter(model=usual.model)),
        "one promotion": lambda work: work.promotions.get(size.promotion(middle)),
        "open promotion of a version": lambda work: work.promotions.find_open(hot, str(size.promotions)),
        "waiting of an alias": lambda work: work.promotions.waiting(hot),
        "waiting of a version": lambda work: work.promotions.waiting_for_version("default", hot.model, "1"),
        "rolling out of an alias": lambda work: work.promotions.in_state(hot, State.ROLLING_OUT),
        "ahead of a promotion": ahead,
        "last good holder": holder_before,
        "moves of an alias": lambda work: work.promotions.history(hot),
        "moves of an alias, deep": lambda work: work.promotions.history(hot, until=size.at(size.promotions // 100)),
        "sweep: due": lambda work: work.promotions.due(size.at(size.promotions // 2)),
        "sweep: applying": lambda work: work.promotions.unsettled([State.APPLYING], untouched_since=now),
        "sweep: rolling out": lambda work: work.promotions.unsettled([State.ROLLING_OUT], untouched_since=now),
        "sweep: counts": lambda work: work.promotions.counts(),
        "what runs where": lambda work: work.deployments.page(Deployed()),
        "what runs where, deep": lambda work: work.deployments.page(Deployed(), after=called_most),
        "what a target is to serve": lambda work: work.deployments.desired("bench", after="dep_8", limit=500),
        "generations of what is called most": lambda work: work.deployments.generations(called_most),
        "generations of what is called most, deep": lambda work: work.deployments.generations(called_most, before=60),
        "holder of an alias": lambda work: work.aliases.get(hot),
        "what resolves of an alias": lambda work: work.resolutions.of_alias(hot),
        "what resolves of a version": lambda work: work.resolutions.of_version(
            "default", hot.model, str(size.promotions // 50 * 50 - 5000)
        ),
        "governs a version": lambda work: work.aliases.governing_version("default", [hot.model], "1"),
        "governs a model": lambda work: work.aliases.governing_model("default", [usual.model.upper()]),
        "governs the model promoted most": lambda work: work.aliases.governing_model("default", [hot.model]),
        "governs no such model": lambda work: work.aliases.governing_model("default", ["unknown"]),
        "governs a run": lambda work: work.aliases.governing_run(run),
        "governs an artifact": lambda work: work.aliases.governing_artifacts(
            ["1", f"1/{run}", f"1/{run}/artifacts", f"1/{run}/artifacts/model"]
        ),
        "governs what is below a folder": lambda work: work.aliases.governing_below(f"1/{run}"),
        "governs a logged model": lambda work: work.aliases.governing_logged_model("m-0cc175b9c0f1b6a831c399e2"),
        "history of an alias": lambda work: work.history.page(hot),
        "history of an alias, at a time": lambda work: work.history.page(
            hot, until=size.at(size.promotions // 100), limit=1
        ),
        "holders of all aliases": lambda work: work.history.latest(),
        "holders of the model promoted most": lambda work: work.history.held_of("default", hot.model),
        "whether a version ever held an alias": lambda work: work.history.ever_held(
            hot, "1", 1_700_000_000_000, not_before=BEGAN
        ),
        "audit": lambda work: work.audit.page(newest_first=True),
        "audit, deep": lambda work: work.audit.page(newest_first=True, after=size.entries - DEEP * 100),
        "audit of an object": lambda work: work.audit.page(object_id=size.promotion(middle)),
        "audit of an object named often": lambda work: work.audit.page(object_id="GET /control/v1/audit"),
        "audit of an object named often, deep": lambda work: work.audit.page(
            object_id="GET /control/v1/audit", after=size.entries // 2
        ),
        "events": lambda work: work.events.page(after=0, limit=PAGE),
        "events, deep": lambda work: work.events.page(after=size.promotions // 2, limit=PAGE),
        "events of 1,000 aliases": lambda work: work.events.page(after=0, limit=PAGE, among=among),
        "events of 1,000 aliases, deep": lambda work: work.events.page(
            after=size.promotions // 2, limit=PAGE, among=among
        ),
        "events of a type that is rare": lambda work: work.events.page(after=0, limit=PAGE, types=[EventType.FAILED]),
        "events of 2 aliases": lambda work: work.events.page(after=0, limit=PAGE, among=few),
    }


@dataclass(frozen=True, slots=True)
class Cost:
    """Of all statements of one case."""

    milliseconds: float
    buffers: int
    statements: int
    plans: tuple[str, ...]


async def measure(url: str, named: Mapping[str, Case]) -> Mapping[str, Cost]:
    """What each case costs in the database."""
    engine, connection = create_engine(url), await asyncpg.connect(url)
    costs: dict[str, Cost] = {}
    try:
        for name, case in named.items():
            with caught(engine) as sent:
                async with UnitOfWork(engine) as work:
                    await case(work)
            explained = [await _explained(connection, *each) for each in sent]
            costs[name] = Cost(
                sum(milliseconds for milliseconds, _, _ in explained),
                sum(buffers for _, buffers, _ in explained),
                len(explained),
                tuple(plan for _, _, plan in explained),
            )
    finally:
        await connection.close()
        await engine.dispose()
    return costs


@contextmanager
def caught(engine: AsyncEngine) -> Iterator[Sequence[tuple[str, Sequence[object]]]]:
    """The statements that are sent meanwhile, with their parameters."""
    sent: list[tuple[str, Sequence[object]]] = []

    def catch(*given: Any) -> None:  # noqa: ANN401  # SQLAlchemy's
        _, _, statement, parameters, *_ = given
        sent.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", catch)
    try:
        yield sent
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", catch)


async def _explained(
    connection: asyncpg.Connection[asyncpg.Record], statement: str, parameters: Sequence[object]
) -> tuple[float, int, str]:
    """Milliseconds, pages of 8 KiB, and the last plan, of a statement that is prepared and run several times."""
    values = literals(parameters)
    await connection.execute(f"PREPARE bench AS {statement}")
    try:
        found = []
        for _ in range(PREPARED_TIMES):
            answer = await connection.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE bench{values}"
            )
            plan = json.loads(answer)[0]
            used = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
            found.append((plan["Planning Time"] + plan["Execution Time"], used))
        shown = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE bench{values}")
        milliseconds, buffers = min(found[-20:])
        return milliseconds, buffers, statement + "\n" + "\n".join(row[0] for row in shown)
    finally:
        await connection.execute("DEALLOCATE bench")


def literals(parameters: Sequence[object]) -> str:
    """What is given to a prepared statement."""
    return f"({', '.join(_literal(each) for each in parameters)})" if parameters else ""


def _literal(value: object) -> str:
    """A value of ours, as SQL: nobody else gives any."""
    if value is None:
        return "NULL"
    if isinstance(value, int | bool):
        return str(value)
    if isinstance(value, list):
        return f"ARRAY[{', '.join(_literal(each) for each in value)}]::text[]"
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return "'" + text.replace("'", "''") + "'"


async def fill(url: str, size: Size) -> None:
    """Bring the rows, first without the indexes that no rule needs."""
    connection = await asyncpg.connect(url, command_timeout=None)
    try:
        for setting in QUICKLY:
            await connection.execute(f"SET {setting}")
        indexes = await _indexes(connection)
        for name, _ in indexes:
            await connection.execute(f"DROP INDEX {name}")
        await connection.execute("ALTER TABLE audit_entries DROP CONSTRAINT audit_entries_hash_key")
        await connection.execute(POLICY, json.dumps({**document_of(DEFAULT_POLICY), "name": "bench"}))
        await connection.execute(PROMOTIONS, BEGAN, size.promotions)
        for statement in REST:
            await connection.execute(statement)
        await connection.execute(AUDIT, BEGAN, size.entries)
        for _, definition in indexes:
            await connection.execute(definition)
        await connection.execute("ALTER TABLE audit_entries ADD UNIQUE (hash)")
        for table in FILLED:
            await connection.execute(f"VACUUM (ANALYZE) {table}")
    finally:
        await connection.close()


async def _indexes(connection: asyncpg.Connection[asyncpg.Record]) -> Sequence[tuple[str, str]]:
    found = await connection.fetch(
        """
        SELECT indexname, indexdef FROM pg_indexes
        WHERE tablename = ANY($1) AND indexname NOT IN (SELECT conname FROM pg_constraint)
        """,
        list(FILLED),
    )
    return [(row["indexname"], row["indexdef"]) for row in found]


def main() -> int:
    """Run; 0 if every case is within the target."""
    parser = argparse.ArgumentParser(prog="python -m bench.governance.lists", description=__doc__.splitlines()[0])
    parser.add_argument("--promotions", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=10_000_000, help="of the audit log")
    parser.add_argument("--folder", type=Path, help="keep the database there, and use it again")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--plans", action="store_true", help="show them")
    options = parser.parse_args()
    size = Size(options.promotions, options.entries)
    with tempfile.TemporaryDirectory(prefix="cs-lists-") as scratch:
        folder = options.folder or Path(scratch)
        is_new = not (folder / "postgres").exists()
        with running_postgres(folder) as postgres:
            if is_new:
                began = time.monotonic()
                migrate(postgres.url)
                asyncio.run(fill(postgres.url, size))
                print(f"filled in {time.monotonic() - began:.0f} s")
            named = {name: case for name, case in cases(size).items() if options.only in name}
            costs = asyncio.run(measure(postgres.url, named))
    return report(costs, plans=options.plans)


def report(costs: Mapping[str, Cost], *, plans: bool) -> int:
    """The table; 1 if a case is slower than the target, or slower than where it begins."""
    table = Table("case", "ms", "pages", "statements", "", title="in the database")
    for column in table.columns[1:4]:
        column.justify = "right"
    missed = 0
    for name, cost in costs.items():
        first = costs.get(name.removesuffix(", deep"), cost)
        is_missed = cost.milliseconds > min(TARGET_MS, DEEPER * first.milliseconds + NOISE_MS)
        missed += is_missed
        table.add_row(name, f"{cost.milliseconds:.2f}", f"{cost.buffers:,}", str(cost.statements), "missed" * is_missed)
        if plans:
            print("", name, *cost.plans, sep="\n")
    Console(width=120).print(table)
    print(f"{missed or 'no'} of {len(costs)} cases above {TARGET_MS:g} ms, or dearer when they are read deep")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
