"""What a promotion costs over moving the alias in MLflow directly: the command line, the loads, and the tables."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from bench.governance.stack import ALIAS, APPROVER, REQUESTER, Stack, running_stack

TARGET_MS = 300.0
"""From the approval to the alias moved, in the median, with an idle worker."""
CALLERS = 8
"""Who ask and approve at once while it is counted how many promotions a second there are."""
WITHIN_S = 60.0
POLL_S = 0.005
SQL_OF_DELAYS = """
SELECT 1000 * extract(epoch FROM p.applied_at - max(d.decided_at)), p.id
FROM promotions AS p JOIN decisions AS d ON d.promotion_id = p.id WHERE p.id = ANY(%s) GROUP BY p.id
"""


@dataclass(frozen=True, slots=True)
class Many:
    """Promotions a second, and milliseconds of processor that each part used for one."""

    per_second: float
    cpu_ms: Mapping[str, float]


Figures = dict[str, list[float]]
"""Milliseconds by what was measured."""

BARE, CREATE, APPROVE = "MLflow: set the alias, directly", "ask for a promotion", "approve it"
SEEN = "approval sent → alias seen moved in MLflow"
RECORDED = "approval written → applied written, in the database"
WHOLE = "asked → applied, as told to who waits for it"


def main() -> int:
    """Run; 0 if the target is reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.governance", description=__doc__.splitlines()[0])
    parser.add_argument("--one-by-one", type=int, default=40, help="promotions, with nothing else to do (default: 40)")
    parser.add_argument("--many", type=int, default=100, help="promotions of as many models (default: 100)")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4], help="how many processes (default: 1 4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cs-governance-") as folder, running_stack(Path(folder)) as stack:
        models = iter(stack.register(2 * options.one_by_one + len(options.workers) * options.many))
        with stack.workers(1):
            figures = _one_by_one(stack, list(itertools.islice(models, 2 * options.one_by_one)))
        rates = {}
        for workers in options.workers:
            with stack.workers(workers):
                rates[workers] = _many(stack, list(itertools.islice(models, options.many)))
    missed = _print(figures, rates)
    if options.json:
        options.json.write_text(
            json.dumps(
                {"milliseconds": figures, "workers": {number: asdict(each) for number, each in rates.items()}}, indent=2
            )
            + "\n"
        )
    print(f"{'missed' if missed else 'reached'} ≤ {TARGET_MS:g} ms; {time.monotonic() - began:.0f} s")
    return int(missed)


def _one_by_one(stack: Stack, models: Sequence[str]) -> Figures:
    """One promotion after another. Half of them are watched in MLflow, which is work for it: the others only by us."""
    figures: Figures = {name: [] for name in (BARE, CREATE, APPROVE, SEEN, RECORDED, WHOLE)}
    watched, others = models[::2], models[1::2]
    with stack.mlflow() as mlflow, stack.caller(REQUESTER) as requester, stack.caller(APPROVER) as approver:
        for number in range(2 * len(others)):
            body = {"name": others[number % len(others)], "alias": "unprotected", "version": str(1 + number % 2)}
            figures[BARE].append(_milliseconds(partial(mlflow.post, "/registered-models/alias", json=body)))
        for model in watched:
            promotion = _ask(requester, model)
            started = time.perf_counter()
            _approve(approver, promotion)
            _until(partial(_holds, mlflow, model), f"{ALIAS} of {model} moving")
            figures[SEEN].append((time.perf_counter() - started) * 1000)
            _applied(requester, promotion)
        ids = []
        for model in others:
            started = time.perf_counter()
            promotion = _ask(requester, model)
            asked = time.perf_counter()
            _approve(approver, promotion)
            figures[CREATE].append((asked - started) * 1000)
            figures[APPROVE].append((time.perf_counter() - asked) * 1000)
            _applied(requester, promotion)
            figures[WHOLE].append((time.perf_counter() - started) * 1000)
            ids.append(promotion)
    figures[RECORDED] = [float(row[0]) for row in stack.rows(SQL_OF_DELAYS, [ids])]
    return figures


def _many(stack: Stack, models: Sequence[str]) -> Many:
    """From the first that is asked for to the last that is applied."""
    with stack.caller(REQUESTER) as requester, stack.caller(APPROVER) as approver, ThreadPoolExecutor(CALLERS) as pool:

        def promote(model: str) -> str:
            promotion = _ask(requester, model)
            _approve(approver, promotion)
            return promotion

        started, before = time.perf_counter(), stack.used_s()
        for promotion in list(pool.map(promote, models)):
            _applied(requester, promotion)
        took = time.perf_counter() - started
        used = {part: 1000 * (seconds - before[part]) / len(models) for part, seconds in stack.used_s().items()}
        return Many(len(models) / took, used)


def _ask(requester: httpx.Client, model: str) -> str:
    body = {"model": model, "alias": ALIAS, "version": "1", "reason": "faster"}
    return str(_ok(requester.post("/promotions", json=body)).json()["id"])


def _approve(approver: httpx.Client, promotion: str) -> None:
    _ok(approver.post(f"/promotions/{promotion}/approve"))


def _applied(caller: httpx.Client, promotion: str) -> None:
    """Wait for it as a pipeline does: told, not asking all the time."""
    seen: dict[str, str] = {}

    def is_applied() -> bool:
        answer = _ok(caller.get(f"/promotions/{promotion}", params={"wait": 30}, headers=seen))
        seen["If-None-Match"] = answer.headers["etag"]
        state = answer.json()["state"]
        if state not in {"pending", "approved", "applying", "applied"}:
            raise RuntimeError(f"{promotion} is {state}: {answer.json()['state_reason']}")
        return bool(state == "applied")

    _until(is_applied, f"{promotion} being applied")


def _holds(mlflow: httpx.Client, model: str) -> bool:
    return mlflow.get("/registered-models/alias", params={"name": model, "alias": ALIAS}).status_code == 200


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} took more than {WITHIN_S:g} s")
        time.sleep(POLL_S)


def _milliseconds(call: Callable[[], httpx.Response]) -> float:
    started = time.perf_counter()
    _ok(call())
    return (time.perf_counter() - started) * 1000


def _ok(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        raise RuntimeError(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    return answer


def _print(figures: Figures, rates: Mapping[int, Many]) -> bool:
    """The tables; whether the target is missed."""
    console = Console(width=120)
    console.print(f"{os.cpu_count()} cores · load average {os.getloadavg()[0]:.1f} · Python {sys.version.split()[0]}")
    table = Table("one by one, the worker idle", "p50 ms", "p95 ms", "to the bare call", "target")
    for column in table.columns[1:4]:
        column.justify = "right"
    bare, missed = statistics.median(figures[BARE]), False
    for name, values in figures.items():
        middle = statistics.median(values)
        is_late = name in {SEEN, RECORDED} and middle > TARGET_MS
        missed |= is_late
        target = f"{'missed' if is_late else 'reached'} ≤ {TARGET_MS:g}" if name in {SEEN, RECORDED} else ""
        late = statistics.quantiles(values, n=20)[-1]
        table.add_row(name, f"{middle:.1f}", f"{late:.1f}", f"{middle / bare:.1f}", target)
    console.print(table)
    table = Table("workers", "asked for, approved and applied a second", *next(iter(rates.values())).cpu_ms)
    table.title = "many at once, and milliseconds of processor for each"
    for workers, many in rates.items():
        used = (f"{milliseconds:.0f}" for milliseconds in many.cpu_ms.values())
        table.add_row(str(workers), f"{many.per_second:.1f}", *used)
    console.print(table)
    return missed


if __name__ == "__main__":
    sys.exit(main())
