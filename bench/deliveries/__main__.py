"""What sending costs, what is lost, and who pays for a receiver that is away: the command line and the tables."""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from app.adapters.postgres.unit_of_work import Database
from bench.deliveries.stack import REPOSITORY, Part, Sink, Stack, running_stack
from bench.proxy.parts import cpu_s, running

TARGET_PER_S = 500.0
NOTHING = 0.8
"""The part of a figure below which it differs by more than chance."""
TURNS = 3
"""In which each case is measured once: what else runs here is not always the same."""
ALONE, ANSWERS, HANGS = "alone", "beside one that answers too", "beside one that never answers"
LANES = 500
"""Models of which something happens."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one sender did: messages a second, and milliseconds of its processor for each."""

    name: str
    per_second: float
    cpu_ms: float


def main() -> int:
    """Run; 0 if every target is reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.deliveries", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="of: speed, storm, dead (default: all of them)")
    parser.add_argument("--messages", type=int, default=10_000, help="of speed (default: 10000)")
    parser.add_argument("--storm", type=int, default=100_000, help="messages of the storm (default: 100000)")
    parser.add_argument("--within", type=float, default=3600, help="seconds the storm may take (default: 3600)")
    options = parser.parse_args()
    console, began = Console(width=120), time.monotonic()
    console.print(f"{os.cpu_count()} cores · load average {os.getloadavg()[0]:.1f} · Python {sys.version.split()[0]}")
    parts: dict[str, Callable[[Stack], bool]] = {
        "speed": lambda stack: _speed(stack, console, options.messages),
        "storm": lambda stack: _storm(stack, console, options.storm, within_s=options.within),
        "dead": lambda stack: _dead(stack, console, options.messages // 2),
    }
    wanted = options.what or list(parts)
    if unknown := set(wanted) - parts.keys():
        parser.error(f"expected {', '.join(parts)}; not {', '.join(sorted(unknown))}")
    missed = []
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="cs-deliveries-") as folder, running_stack(Path(folder)) as stack:
            if not parts[name](stack):
                missed.append(name)
    console.print(f"{'missed: ' + ', '.join(missed) if missed else 'reached'}; {time.monotonic() - began:.0f} s")
    return int(bool(missed))


# How fast.


def _speed(stack: Stack, console: Console, messages: int) -> bool:
    """One worker and MLflow's own sender, to the same receiver, one after the other."""
    ours, theirs = _ours(stack, messages), _theirs(stack, messages)
    table = Table("messages to one receiver that answers at once", "a second", "ms of processor each")
    for column in table.columns[1:]:
        column.justify = "right"
    for rate in (ours, theirs):
        table.add_row(rate.name, f"{rate.per_second:.0f}", f"{rate.cpu_ms:.2f}")
    console.print(table)
    is_reached = ours.per_second >= TARGET_PER_S
    ratio = ours.per_second / theirs.per_second
    said = "reached" if is_reached else "missed"
    console.print(f"{said} ≥ {TARGET_PER_S:g} a second; {ratio:.2f} times MLflow's, which keeps no log and no order")
    return is_reached


def _ours(stack: Stack, messages: int) -> Rate:
    sink, worker = stack.sink(), stack.worker()
    asyncio.run(stack.endpoint("speed", f"{sink.url}/ours"))
    before = _used_s(worker)
    started = time.time()
    asyncio.run(stack.events(messages, lanes=LANES))
    stack.wait_until_settled("speed", messages, within_s=600)
    took = time.time() - started
    used = _used_s(worker) - before
    (attempts,) = stack.rows("SELECT count(*) FROM delivery_attempts")[0]
    if attempts != messages or len(set(sink.processed())) != messages:
        raise RuntimeError(f"{attempts} attempts of {messages} messages")
    worker.stop()
    return Rate("Countersign: in order, each recorded", messages / took, 1000 * used / messages)


def _theirs(stack: Stack, messages: int) -> Rate:
    sink = stack.sink()
    environment = {
        "PYTHONPATH": str(REPOSITORY),
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    }
    command = [sys.executable, "-m", "bench.deliveries.peer", f"{sink.url}/theirs", str(messages)]
    used = 0.0
    with running("peer", command, lambda: True, folder=stack.folder, environment=environment) as peer:
        deadline = time.monotonic() + 600
        while len(sink.processed()) < messages:
            if time.monotonic() > deadline:
                raise RuntimeError((stack.folder / "peer.log").read_text()[-2000:])
            if peer.is_running() and peer.status() != psutil.STATUS_ZOMBIE:
                used = cpu_s([peer])
            time.sleep(0.1)
    started = float((stack.folder / "peer.log").read_text().split()[0])
    took = sink.figures()["last"] - started
    return Rate("MLflow's sender: ten threads, nothing recorded", messages / took, 1000 * used / messages)


# What is lost.


def _storm(stack: Stack, console: Console, messages: int, *, within_s: float) -> bool:
    """Three answers of ten are failures; the receiver is killed twice, and each of two workers once."""
    sink, workers = stack.sink(fails=0.3), [stack.worker(), stack.worker()]
    asyncio.run(stack.endpoint("storm", f"{sink.url}/storm"))
    started, deadline = time.monotonic(), time.monotonic() + within_s
    asyncio.run(stack.events(messages, lanes=max(messages // 20, 10)))
    for part, at in ((sink.part, 0.2), (workers[0], 0.35), (sink.part, 0.5), (workers[1], 0.65)):
        _kill_and_start(part, stack, sink, round(at * messages), deadline)
    stack.wait_until_settled("storm", messages, within_s=deadline - time.monotonic())
    took = time.monotonic() - started
    return _judged(stack, console, sink, messages, took)


def _kill_and_start(part: Part, stack: Stack, sink: Sink, after: int, deadline: float) -> None:
    while len(sink.processed()) < after:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{stack.delivered('storm')} messages were sent in time")
        time.sleep(0.1)
    part.kill()
    time.sleep(1)
    part.start()


def _judged(stack: Stack, console: Console, sink: Sink, messages: int, took: float) -> bool:
    order = stack.rows("SELECT message_id, lane, state, attempts FROM deliveries ORDER BY sequence")
    place = {row[0]: number for number, row in enumerate(order)}
    lane_of = {row[0]: row[1] for row in order}
    processed = sink.processed()
    repeated = sum(count - 1 for count in Counter(processed).values())
    last: dict[str, int] = {}
    out_of_order = 0
    for message in processed:
        lane = lane_of[message]
        out_of_order += place[message] < last.get(lane, -1)
        last[lane] = max(place[message], last.get(lane, -1))
    states = Counter(row[2] for row in order)
    attempts = sum(row[3] for row in order)
    table = Table("a receiver that fails three times of ten and is killed twice, as are both workers once", "")
    table.add_row("messages, and those that were delivered", f"{messages}, {states['delivered']}")
    table.add_row("processed twice by a receiver that tells repetitions", str(repeated))
    table.add_row("processed, and processed out of their order", f"{len(processed)}, {out_of_order}")
    table.add_row("attempts on record, for each message", f"{attempts / messages:.2f}")
    table.add_row("messages, and attempts, a second", f"{messages / took:.0f}, {attempts / took:.0f}")
    console.print(table)
    return (
        states == {"delivered": messages} and not repeated and not out_of_order and sorted(processed) == sorted(place)
    )


# Who pays.


def _dead(stack: Stack, console: Console, messages: int) -> bool:
    """The same messages alone, beside a second endpoint that answers, and beside one that never does."""
    sink, worker = stack.sink(), stack.worker()
    asyncio.run(stack.endpoint("alive", f"{sink.url}/alive"))
    figures: dict[str, list[Sent]] = {ALONE: [], ANSWERS: [], HANGS: []}
    tried = 0
    for turn in range(TURNS):
        for case, path in ((ALONE, None), (ANSWERS, "other"), (HANGS, "hang")):
            name = f"{path}-{turn}"
            if path:
                asyncio.run(stack.endpoint(name, f"{sink.url}/{path}", timeout_s=5))
                # Where it hangs, this is what finds it out.
                asyncio.run(stack.events(LANES, lanes=LANES))
                time.sleep(2)
            figures[case].append(asyncio.run(_sent_to_alive(stack, sink, worker, messages // TURNS)))
            if path == "hang":
                query = "SELECT count(*) FROM delivery_attempts JOIN deliveries ON id = delivery_id WHERE receiver = %s"
                tried += stack.rows(query, f"endpoint:{name}")[0][0]
            stack.remove(name)
    worker.stop()
    table = Table("an endpoint whose receiver answers", "a second", "ms of processor each", "p50 ms", "p99 ms")
    for column in table.columns[1:]:
        column.justify = "right"
    middles = {case: [statistics.median(each) for each in zip(*found, strict=True)] for case, found in figures.items()}
    for case, (rate, cpu_ms, middle, late) in middles.items():
        table.add_row(case, f"{rate:.0f}", f"{cpu_ms:.2f}", f"{middle:.1f}", f"{late:.1f}")
    console.print(table)
    waiting = TURNS * LANES + messages
    console.print(f"{waiting} messages waited for those that never answer; they were tried {tried} times")
    # The worker's processor and the delay: messages a second are those of whatever else runs on this machine, too.
    (_, answering, usual, _), (_, hanging, beside, _) = middles[ANSWERS], middles[HANGS]
    return bool(hanging <= answering / NOTHING and beside <= usual / NOTHING)


Sent = tuple[float, float, float, float]
"""Messages a second; milliseconds of the worker's processor for each; and milliseconds from an event, one at a time, to
its arrival, in the median and late."""


async def _sent_to_alive(stack: Stack, sink: Sink, worker: Part, messages: int) -> Sent:
    (before,) = stack.rows("SELECT count(*) FROM deliveries WHERE receiver = 'endpoint:alive'")[0]
    started, used = time.time(), _used_s(worker)
    await stack.events(messages, lanes=LANES)
    await asyncio.to_thread(stack.wait_until_settled, "alive", before + messages, within_s=300)
    rate, cpu_ms = messages / (time.time() - started), 1000 * (_used_s(worker) - used) / messages
    await asyncio.sleep(1)
    delays, database, seen = [], Database(stack.database_url), sink.file.stat().st_size
    for _ in range(100):
        began = time.perf_counter()
        await stack.emit(database, 1, lanes=1)
        await asyncio.to_thread(_wait_for_more, sink, seen)
        delays.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.03)
        seen = sink.file.stat().st_size
    await database.close()
    return rate, cpu_ms, statistics.median(delays), statistics.quantiles(delays, n=100)[-1]


def _wait_for_more(sink: Sink, seen: int) -> None:
    while sink.file.stat().st_size == seen:
        time.sleep(0.0005)


def _used_s(*parts: Part) -> float:
    processes: Sequence[psutil.Process] = [part.process for part in parts if part.process]
    return cpu_s(processes)


if __name__ == "__main__":
    sys.exit(main())
