"""What it costs to ask where the bytes are, and to be told: the command line, the loads, the watchers, the tables."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
import psycopg
from rich.console import Console
from rich.table import Table

from bench.governance.stack import ALIAS, APPROVER, REQUESTER, Stack, running_stack
from bench.proxy.load import Contender, Load, Work
from bench.proxy.parts import PartFailed, cpu_s, rss
from bench.proxy.rounds import take_turns

API, RESOLVE, STREAM = "/api/2.0/mlflow", "/control/v1/resolve", "/control/v1/resolve/stream"
US, UNCHANGED, MLFLOW = "countersign", "countersign, 304", "MLflow, two calls"
TARGETS: Mapping[int, float] = {1: 60, 16: 100}
"""How many times as fast as the two calls, by connections."""
FEW = 10
MOST_KIB, FEW_MS, ALL_MS, IDLE_PERCENT = 20.0, 10.0, 150.0, 2.0
"""Of a watcher; until the last of a few is told; until the last of all is; of one core while nothing happens."""
WITHIN_S = 60.0

Ask = Callable[[], Mapping[str, Sequence[float]]]
"""When each watcher was told of something else since it was asked last, by path."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What watchers cost. Milliseconds are those from the moment at which PostgreSQL tells everybody."""

    watchers: int
    kib_each: float
    cpu_us_to_open: float
    cpu_us_to_tell: float
    """Of the processor, for one of all who are told, the promotion included."""
    idle_percent: float
    few_ms: Sequence[float]
    all_ms: Sequence[float]


def main() -> int:
    """Run; 0 if every target is reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.resolve", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3, help="of each load (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="in which contenders take turns (default: 3)")
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 16, 64], help="(default: 1 16 64)")
    parser.add_argument("--watchers", type=int, default=5000, help="on one gateway (default: 5000)")
    parser.add_argument("--moves", type=int, default=5, help="of an alias that is watched (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if options.watchers <= FEW or options.moves < 1:
        parser.error(f"--watchers: expected more than {FEW}, which watch another model; --moves: at least 1")
    if shutil.which("wrk") is None:
        print("a program is missing; on Debian and Ubuntu: apt install wrk", file=sys.stderr)
        return 2
    _allow_connections()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    console, began = Console(width=130), time.monotonic()
    console.print(f"{os.cpu_count()} cores · load average {os.getloadavg()[0]:.1f} · Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory(prefix="cs-resolve-") as folder, running_stack(Path(folder)) as stack:
        few, everybodys = stack.register(2)
        with stack.workers(1):
            for model in (few, everybodys):
                _promote(stack, model, "1")
            missed, loads = _loads(console, stack, everybodys, options)
            watched = _watchers(stack, few, everybodys, watchers=options.watchers, moves=options.moves)
        missed |= _print_watched(console, watched)
    if options.json:
        options.json.write_text(json.dumps({"loads": loads, "watchers": asdict(watched)}, indent=2) + "\n")
    console.print(f"{'missed' if missed else 'reached'}; {time.monotonic() - began:.0f} s")
    return int(missed)


# How fast.


def _loads(
    console: Console, stack: Stack, model: str, options: argparse.Namespace
) -> tuple[bool, list[dict[str, object]]]:
    """Ours against the two calls, side by side, by connections."""
    with stack.caller(REQUESTER) as caller:
        authorization, url = caller.headers["authorization"], stack.settings["COUNTERSIGN_PUBLIC_URL"]
        etag = _ok(caller.get("/resolve", params={"uri": _uri(model)})).headers["etag"]
    gateway, mlflow = stack.processes["gateway"], stack.processes["MLflow"]
    ours = Contender(US, url, tuple(gateway), authorization)
    theirs = Contender(MLFLOW, stack.mlflow_url, tuple(mlflow))
    asking = f"{RESOLVE}?uri={_uri(model)}"
    calls = (
        f"registered-models/alias?name={model}&alias={ALIAS}",
        f"model-versions/get-download-uri?name={model}&version=1",
    )
    works = {
        US: (ours, Work("resolve", "GET", asking)),
        UNCHANGED: (
            _Knowing(US, url, tuple(gateway), authorization, etag=etag),
            Work("resolve", "GET", asking, expected=304),
        ),
        MLFLOW: (theirs, Work("two calls", "GET", f"{API}/@RUN@&ignored=@STEP@", runs=calls)),
    }
    table = Table("conn", "what", "answers/s", "±", "times", "p50 ms", "p99 ms", "CPU µs", "target")
    for column in (0, *range(2, 8)):
        table.columns[column].justify = "right"
    missed, rows = False, []
    for connections in options.connections:
        each: dict[str, list[Load]] = {name: [] for name in works}
        for _ in range(options.rounds):
            for name, (contender, work) in works.items():
                turn = take_turns(
                    [contender], work, connections, seconds=options.seconds, rounds=1, folder=stack.folder
                )[contender.name]
                if turn.medians is None:
                    raise PartFailed(turn.failure)
                each[name].append(turn.medians)
        rates = {name: statistics.median(load.rate for load in loads) for name, loads in each.items()}
        rates[MLFLOW] /= 2  # an answer takes both
        for name, loads in each.items():
            times = rates[name] / rates[MLFLOW]
            target = TARGETS.get(connections) if name == US else None
            is_missed = target is not None and times < target
            missed |= is_missed
            spread = (max(load.rate for load in loads) - min(load.rate for load in loads)) / (
                statistics.median(load.rate for load in loads) or 1
            )
            row = {
                "connections": connections,
                "what": name,
                "rate": rates[name],
                "spread": spread,
                "times": times,
                "p50_ms": statistics.median(load.p50_ms for load in loads),
                "p99_ms": statistics.median(load.p99_ms for load in loads),
                "cpu_us": statistics.median(load.cpu_us for load in loads),
            }
            rows.append(row)
            told = f"{'missed' if is_missed else 'reached'} ≥ {target:g}" if target else ""
            table.add_row(
                str(connections), name, f"{rates[name]:,.0f}", f"{spread:.0%}", f"{times:,.1f}", f"{row['p50_ms']:.2f}",
                f"{row['p99_ms']:.2f}", f"{row['cpu_us']:.0f}", told,
            )  # fmt: skip
        table.add_section()
    console.print(table)
    return missed, rows


# Who waits.


def _watchers(stack: Stack, few: str, everybodys: str, *, watchers: int, moves: int) -> Watched:
    [gateway] = stack.processes["gateway"]
    before, used = rss([gateway]), cpu_s([gateway])
    wanted = {_following(few): FEW, _following(everybodys): watchers - FEW}
    with stack.caller(REQUESTER) as caller:
        token = caller.headers["authorization"].removeprefix("Bearer ")
    with _watching(stack.settings["COUNTERSIGN_PUBLIC_URL"], token, wanted) as ask:
        opening_us = (cpu_s([gateway]) - used) / watchers * 1e6
        each = (rss([gateway]) - before) / watchers / 1024
        idle = _idle_percent(gateway)
        late: dict[str, list[float]] = {few: [], everybodys: []}
        telling_us = 0.0
        with _notices(stack.database_url) as notices:
            for number in range(moves):
                for model, times in late.items():
                    ask()
                    used = cpu_s([gateway])
                    _promote(stack, model, str(2 - number % 2))
                    moments = _told(ask, _following(model), wanted[_following(model)])
                    told = max(at for at in notices(model) if at <= min(moments) + 0.001)
                    telling_us = (cpu_s([gateway]) - used) / len(moments) * 1e6
                    times.append(1000 * (max(moments) - told))
    return Watched(watchers, each, opening_us, telling_us, idle, late[few], late[everybodys])


def _told(ask: Ask, path: str, number: int) -> Sequence[float]:
    """When each of the watchers was told, once all were."""
    moments: list[float] = []
    deadline = time.monotonic() + WITHIN_S
    while len(moments) < number:
        if time.monotonic() > deadline:
            raise PartFailed(f"{number - len(moments)} of {number} watchers were not told")
        time.sleep(0.3)
        moments += ask()[path]
    return moments


def _idle_percent(gateway: psutil.Process, seconds: float = 15.0) -> float:
    """Of one core, over all signs of life that each stream is given."""
    time.sleep(2)
    before = cpu_s([gateway])
    time.sleep(seconds)
    return 100 * (cpu_s([gateway]) - before) / seconds


@contextmanager
def _watching(url: str, token: str, wanted: Mapping[str, int]) -> Iterator[Ask]:
    command = [sys.executable, "-m", "bench.resolve.watchers", url, token]
    command += [f"{path}={number}" for path, number in wanted.items()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # our own words
        assert process.stdin is not None
        assert process.stdout is not None
        said, asked = process.stdout, process.stdin

        def ask() -> Mapping[str, Sequence[float]]:
            asked.write("\n")
            asked.flush()
            answer: Mapping[str, Sequence[float]] = json.loads(said.readline())
            return answer

        if not said.readline():
            raise PartFailed("the watchers could not be opened")
        try:
            yield ask
        finally:
            asked.close()


@contextmanager
def _notices(database_url: str) -> Iterator[Callable[[str], Sequence[float]]]:
    """When PostgreSQL told that something about a model is to be forgotten."""
    heard: list[tuple[float, str]] = []
    is_over = threading.Event()

    def listen() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("LISTEN countersign_changes")
            while not is_over.is_set():
                heard.extend((time.monotonic(), notice.payload) for notice in connection.notifies(timeout=0.2))

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield lambda model: [
            at for at, payload in heard if payload.startswith("resolution:") and payload.endswith(f"/{model}")
        ]
    finally:
        is_over.set()
        listener.join()


def _print_watched(console: Console, watched: Watched) -> bool:
    """The table; whether a target is missed."""
    table = Table(f"{watched.watchers:,} watchers", "median", "worst", "target")
    rows = [
        ("KiB each", [watched.kib_each], MOST_KIB),
        ("% of a core, idle", [watched.idle_percent], IDLE_PERCENT),
        (f"ms until the last of {FEW} is told", watched.few_ms, FEW_MS),
        ("ms until the last of the others is told", watched.all_ms, ALL_MS),
    ]
    missed = False
    for name, values, bound in rows:
        middle = statistics.median(values)
        missed |= middle > bound
        told = f"{'missed' if middle > bound else 'reached'} ≤ {bound:g}"
        table.add_row(name, f"{middle:.1f}", f"{max(values):.1f}", told)
    table.add_row("µs of processor to open one", f"{watched.cpu_us_to_open:.0f}", "", "")
    table.add_row("µs of processor to tell one", f"{watched.cpu_us_to_tell:.0f}", "", "")
    console.print(table)
    return missed


# What both need.


@dataclass(frozen=True, slots=True)
class _Knowing(Contender):
    """Asked by who knows the answer already."""

    etag: str = ""

    def headers(self, work: Work) -> dict[str, str]:
        return Contender.headers(self, work) | {"If-None-Match": self.etag}


def _uri(model: str) -> str:
    return f"models:/{model}@{ALIAS}"


def _following(model: str) -> str:
    return f"{STREAM}?uri={_uri(model)}"


def _promote(stack: Stack, model: str, version: str) -> None:
    with stack.caller(REQUESTER) as requester, stack.caller(APPROVER) as approver:
        body = {"model": model, "alias": ALIAS, "version": version, "reason": "faster"}
        promotion = _ok(requester.post("/promotions", json=body)).json()["id"]
        _ok(approver.post(f"/promotions/{promotion}/approve"))
        deadline = time.monotonic() + WITHIN_S
        while _ok(requester.get(f"/promotions/{promotion}")).json()["state"] != "applied":
            if time.monotonic() > deadline:
                raise PartFailed(f"{promotion} was not applied")
            time.sleep(0.02)


def _ok(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        raise PartFailed(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    return answer


def _allow_connections() -> None:
    """As many as the machine lets us have; what is started here inherits it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
