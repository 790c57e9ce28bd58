"""How fast one and the same model answers one and the same request behind each server, in turns in one run."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from bench.proxy.load import Contender, Load, Work, load
from bench.proxy.parts import PartFailed
from bench.serving.cluster import PLAIN, Cluster
from bench.serving.models import FIRST, NAME, Models
from bench.serving.prober import alike
from bench.serving.servers import INVOCATIONS, mlflow_models_serve, mlserver
from tests.deployers.kserve.serving import serving_python

OURS = "countersign on Ray Serve"
WARM_UP_S = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody who serves the model, and the request for it."""

    contender: Contender
    work: Work


@dataclass(frozen=True, slots=True)
class Row:
    """The medians of one contender's rounds at some connections."""

    connections: int
    name: str
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


def throughput(
    cluster: Cluster, folder: Path, console: Console, *, seconds: int, rounds: int, connections: Sequence[int]
) -> Mapping[str, Any]:
    """Run and print; the figures.

    Raises:
        PartFailed: somebody does not serve the model, or predicts something else.
    """
    models, python = cluster.models, serving_python()
    version = models.versions[FIRST]
    with cluster.deployer() as deployer:
        if (phase := deployer.roll_out(FIRST)) != "Ready":
            raise PartFailed(f"version {FIRST} is {phase}")
    cluster.declare_plain(version, beside=cluster.declared())
    with ExitStack() as stack:
        ray = (cluster.process,)
        servers = [
            (Contender(OURS, cluster.addresses.serve, ray), f"/{NAME}"),
            (Contender("Ray Serve alone", cluster.addresses.serve, ray), f"/{PLAIN}"),
            (stack.enter_context(mlflow_models_serve(version, folder)), INVOCATIONS),
            (stack.enter_context(mlserver(version, folder, python)), INVOCATIONS),
        ]
        asked = [Asked(each, Work("predict", "POST", path, models.body)) for each, path in servers]
        for each in asked:
            _require_same(each, models)
        rows = [row for number in connections for row in _turns(asked, number, seconds, rounds, folder)]
    _show(console, rows)
    return {"rows": [asdict(row) for row in rows]}


def _require_same(asked: Asked, models: Models) -> None:
    url = f"{asked.contender.url}{asked.work.path}"
    headers = {"Content-Type": "application/json"}
    with httpx.Client(trust_env=False, timeout=60) as client:
        answer = client.post(url, content=models.body, headers=headers)
    if answer.status_code != 200:
        raise PartFailed(f"{asked.contender.name} answers {answer.status_code}: {answer.text[:300]}")
    predictions = answer.json()["predictions"]
    if not alike(predictions, models.expected[FIRST]):
        raise PartFailed(f"{asked.contender.name} predicts {json.dumps(predictions)}, not {models.expected[FIRST]}")


def _turns(asked: Sequence[Asked], connections: int, seconds: int, rounds: int, folder: Path) -> Sequence[Row]:
    found: dict[str, list[Load]] = {each.contender.name: [] for each in asked}
    for each in asked:
        load(each.contender, each.work, connections, WARM_UP_S, folder)
    for number in range(rounds):
        first = number % len(asked)
        for each in (*asked[first:], *asked[:first]):
            time.sleep(0.3)  # what the load before left behind ends
            found[each.contender.name].append(load(each.contender, each.work, connections, seconds, folder))

    def middle(name: str, figure: str) -> float:
        return float(statistics.median(getattr(one, figure) for one in found[name]))

    return [
        Row(
            connections,
            name,
            middle(name, "rate"),
            middle(name, "p50_ms"),
            middle(name, "p99_ms"),
            middle(name, "cpu_us") / 1000,
        )
        for name in found
    ]


def _show(console: Console, rows: Sequence[Row]) -> None:
    table = Table("conn", "who", "answers/s", "ours is times", "p50 ms", "p99 ms", "CPU ms")
    for column in (0, *range(2, 7)):
        table.columns[column].justify = "right"
    for place, row in enumerate(rows):
        ours = next(each for each in rows if (each.connections, each.name) == (row.connections, OURS))
        table.add_row(
            str(row.connections),
            row.name,
            f"{row.rate:,.0f}",
            "" if row is ours else f"{ours.rate / row.rate:.2f}" if row.rate else "",
            f"{row.p50_ms:.1f}",
            f"{row.p99_ms:.1f}",
            f"{row.cpu_ms:.2f}",
            end_section=place + 1 == len(rows) or rows[place + 1].connections != row.connections,
        )
    console.print(table)
    console.print("The CPU of what is on Ray is that of its whole head.")
