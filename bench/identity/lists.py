"""What a filtered list costs beside the whole one: ``python -m bench.identity.lists``.

10,000 models in MLflow; one caller sees all, others see 1,000 of them, by a thousand grants of one name each or by a
pattern, side by side in the list or every tenth. Each asks for a first page of 100, and for all pages. A round asks
everybody in turn, so that a slow moment of the machine meets all alike; what is compared is the median of the processor
time of MLflow and the gateway together, which other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
from joserfc import jwt

from app.adapters.clock import SystemClock
from app.adapters.postgres.schema import migrate
from app.adapters.postgres.unit_of_work import Database
from app.domain.grants import Grant, Reach, Subject
from app.domain.roles import Role
from app.embedded.mlflow_server import HARDENING
from app.embedded.ports import LOOPBACK
from bench.proxy.database import running_postgres
from bench.proxy.issuer import AUDIENCE, Issuer, running_issuer
from bench.proxy.parts import answers, free_port, running

MODELS, SEEN, PAGE = 10_000, 1_000, 100
AT_ONCE = 25
"""Calls of one caller in a row: the system counts processor time in hundredths of a second."""
TARGET = 1.3
SEARCH = "/api/2.0/mlflow/registered-models/search"
NAMES = [f"model-{index:05}" for index in range(MODELS)]
ALL = "everything"
CALLERS: Mapping[str, Sequence[Reach]] = {
    ALL: [Reach()],
    "1,000 grants, side by side": [Reach(model=name) for name in NAMES[:SEEN]],
    "1,000 grants, every tenth": [Reach(model=name) for name in NAMES[:: MODELS // SEEN]],
    "a pattern, side by side": [Reach(model="model-00*")],
    "a pattern, every tenth": [Reach(model="model-*0")],
}
FIRST, WHOLE = "first page of 100", "all pages of 100, for each"
Figures = dict[tuple[str, str], list[float]]
"""Milliseconds by caller and case, one for each round."""


def main() -> int:
    """Run; 0 if a thousand grants cost no more than the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    figures: Figures = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="cs-lists-") as folder, _gateway(Path(folder)) as (url, issuer, processes):
        clients = {who: httpx.Client(base_url=url, headers=_as(issuer, who), timeout=60) for who in CALLERS}
        for number in range(options.rounds + 1):  # the first warms up
            for who, client in clients.items():
                several = [_listing(client, processes, pages=1) for _ in range(AT_ONCE)]
                assert {count for _, count in several} == {PAGE}, (who, several)
                if number:
                    figures[who, FIRST].append(statistics.mean(milliseconds for milliseconds, _ in several))
        for _ in range(max(3, options.rounds // 2)):
            for who, client in clients.items():
                there = MODELS if who == ALL else SEEN
                several = [_listing(client, processes, pages=MODELS) for _ in range(MODELS // there)]
                assert {count for _, count in several} == {there}, (who, several)
                figures[who, WHOLE].append(sum(used for used, _ in several) / (MODELS / PAGE))
    return _print(figures, options.json)


def _listing(client: httpx.Client, processes: Sequence[psutil.Process], *, pages: int) -> tuple[float, int]:
    """Milliseconds of processor for so many pages, MLflow's and the gateway's, and the models on them."""
    began, count, token = _used(processes), 0, ""
    for _ in range(pages):
        answer = client.get(SEARCH, params={"max_results": PAGE, **({"page_token": token} if token else {})})
        answer.raise_for_status()
        document = answer.json()
        count += len(document.get("registered_models", []))
        if not (token := document.get("next_page_token", "")):
            break
    return (_used(processes) - began) * 1000, count


def _used(processes: Sequence[psutil.Process]) -> float:
    """Seconds of processor that the servers have used."""
    every = [each for process in processes for each in (process, *process.children(recursive=True))]
    return sum(sum(each.cpu_times()[:2]) for each in every)


@contextmanager
def _gateway(folder: Path) -> Iterator[tuple[str, Issuer, Sequence[psutil.Process]]]:
    """A gateway with all callers' grants, before an MLflow with the models."""
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres(folder / "postgres"))
        issuer = stack.enter_context(running_issuer())
        migrate(postgres.url)
        asyncio.run(_give(postgres.url))
        upstream, port = free_port(), free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(upstream)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
        command += ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
        ready = answers(upstream, "/health")
        mlflow = stack.enter_context(running("mlflow", command, ready, folder=folder, environment=HARDENING))
        _fill(folder / "mlflow.db")
        url = f"http://{LOOPBACK}:{port}"
        settings = {
            "COUNTERSIGN_DATABASE_URL": postgres.url,
            "COUNTERSIGN_PUBLIC_URL": url,
            "COUNTERSIGN_PORT": str(port),
            "COUNTERSIGN_UPSTREAM_URLS": f"http://{LOOPBACK}:{upstream}",
            "COUNTERSIGN_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "COUNTERSIGN_OIDC_ISSUER": issuer.url,
            "COUNTERSIGN_OIDC_AUDIENCE": AUDIENCE,
        }
        command = [sys.executable, "-m", "app.cli", "gateway"]
        repository = Path(__file__).parents[2]
        environment = {**settings, "PYTHONPATH": str(repository)}
        ready = answers(port, "/readyz")
        gateway = stack.enter_context(running("gateway", command, ready, folder=folder, environment=environment))
        yield url, issuer, (mlflow, gateway)


async def _give(database_url: str) -> None:
    database = Database(database_url)
    try:
        async with database.unit_of_work() as work:
            for who, reaches in CALLERS.items():
                for index, on in enumerate(reaches):
                    name = f"{[*CALLERS].index(who)}-{index}"
                    grant = Grant(name, Role.VIEWER, Subject(group=who), on)
                    await work.grants.put(grant, at=SystemClock().now(), by="bench")
            await work.commit()
    finally:
        await database.close()


def _fill(path: Path) -> None:
    """The models, each with two versions."""
    now = 1_700_000_000_000
    with sqlite3.connect(path, timeout=60) as database:
        database.executemany(
            "INSERT INTO registered_models (name, creation_time, last_updated_time, description, workspace)"
            " VALUES (?, ?, ?, 'what it is for', 'default')",
            [(name, now, now) for name in NAMES],
        )
        database.executemany(
            "INSERT INTO model_versions"
            " (name, version, creation_time, last_updated_time, current_stage, source, status, workspace)"
            " VALUES (?, ?, ?, ?, 'None', 's3://bucket/model', 'READY', 'default')",
            [(name, version, now, now) for name in NAMES for version in (1, 2)],
        )


def _as(issuer: Issuer, who: str) -> dict[str, str]:
    now = int(time.time())
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": who, "groups": [who], "iat": now, "exp": now + 3600}
    header = {"alg": "RS256", "kid": issuer.key.kid, "typ": "at+jwt"}
    return {"Authorization": f"Bearer {jwt.encode(header, claims, issuer.key, algorithms=['RS256'])}"}


def _print(figures: Figures, path: Path | None) -> int:
    missed = 0
    for case in (FIRST, WHOLE):
        whole = statistics.median(figures[ALL, case])
        print(f"{case}:  everything {whole:.1f} ms")
        for who in CALLERS:
            if who == ALL:
                continue
            median = statistics.median(figures[who, case])
            missed += who.startswith("1,000") and median > TARGET * whole
            print(f"  {who:30} {median:6.1f} ms   {median / whole:.2f}x")
    if path:
        rows = [{"who": who, "case": case, "milliseconds": values} for (who, case), values in figures.items()]
        path.write_text(json.dumps(rows, indent=1))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
