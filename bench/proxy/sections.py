"""What is compared with what: one function for each section of the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.proxy import servers
from bench.proxy.environments import oidc_auth_environment
from bench.proxy.load import Contender, Work, load
from bench.proxy.parts import PartFailed, settle
from bench.proxy.report import Report
from bench.proxy.rounds import take_turns
from bench.proxy.servers import Site
from bench.proxy.targets import Verdict
from bench.proxy.transfers import Move, fetch, fetch_at_once, send, take_turns_moving
from bench.proxy.works import STATIC_PUBLIC, STATIC_READ, STATIC_REFUSED, seed, works

MOST = (1, 16, 64, 256)
BATCH_SECONDS = 10
"""A stall of MLflow lasts several seconds; a shorter load would end within one."""
AT_ONCE, PART_AT_ONCE = 64, 16
"""Downloads at the same time, each of this part of the large artifact."""
GROWTH_MIB, OF_DIRECT = 32, 0.9
WATCHED = "SELECT value FROM identity_epoch"
"""What each process asks twice a second, whether it serves anybody or not (ADR 0018)."""
BY_THE_WAY = 2
"""Statements that the gateway may send during one load for other reasons: it asks now and then whether it is heard."""


@dataclass(slots=True)
class Bench:
    """One run: where, how long, and what was found so far."""

    site: Site
    report: Report
    seconds: int
    rounds: int
    connections: Sequence[int] | None
    mebibytes: int
    _works: Mapping[str, Work] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.site.folder

    def work(self, upstream: Contender, name: str) -> Work:
        """A work by name. MLflow gets its data the first time that one is asked for."""
        if not self._works:
            self._works = works(seed(upstream.url, self.site.artifacts))
        return self._works[name]

    def compare(
        self,
        section: str,
        work: Work,
        contenders: Sequence[Contender],
        connections: Sequence[int],
        *,
        baseline: str | None,
        seconds: int | None = None,
    ) -> None:
        """Measure and print one table."""
        cells = {
            number: take_turns(
                contenders, work, number, seconds=seconds or self.seconds, rounds=self.rounds, folder=self.folder
            )
            for number in self.connections or connections
        }
        self.report.table(section, work.name, cells, baseline=baseline)

    def enter(self, stack: ExitStack, *parts: AbstractContextManager[Contender]) -> list[Contender]:
        """Start contenders; one that does not start is reported and left out."""
        started = []
        for part in parts:
            try:
                started.append(stack.enter_context(part))
            except PartFailed as error:
                self.report.fail(str(error))
        return started


def static(bench: Bench) -> None:
    """What passing on costs by itself, before an upstream that costs next to nothing."""
    with ExitStack() as stack:
        upstream = stack.enter_context(servers.static_upstream(bench.site))
        nginx = stack.enter_context(servers.nginx_before(bench.site, upstream))
        us = stack.enter_context(servers.gateway(bench.site, [upstream]))
        bench.compare("static", STATIC_READ, [upstream, nginx, us], MOST, baseline=nginx.name)
        stranger = dataclasses.replace(us, name="countersign, no token", authorization=None)
        bench.compare("static", STATIC_REFUSED, [stranger], (16,), baseline=None)
        bench.compare("static", STATIC_PUBLIC, [nginx, stranger], (16,), baseline=nginx.name)
        _count_statements(bench, "static", us, STATIC_READ)


def mlflow(bench: Bench) -> None:
    """One MLflow of one worker on PostgreSQL: direct, behind nginx, behind us."""
    table: Mapping[str, Sequence[int]] = {
        "alias": MOST,
        "download-uri": (16, 64),
        "runs/search": (1, 16, 64),
        "log-metric": (1, 16, 64),
        "artifact down": (16,),
        "artifact up": (16,),
    }
    with ExitStack() as stack:
        direct = stack.enter_context(servers.mlflow(bench.site))
        nginx = stack.enter_context(servers.nginx_before(bench.site, direct))
        us = stack.enter_context(servers.gateway(bench.site, [direct]))
        for name, connections in table.items():
            bench.compare("mlflow", bench.work(direct, name), [direct, nginx, us], connections, baseline=direct.name)
        for name in (*table, "log-batch"):
            _count_statements(bench, "mlflow", us, bench.work(direct, name))


def batch(bench: Bench) -> None:
    """Concurrent ``runs/log-batch``, in which MLflow's connection pool runs dry."""
    with ExitStack() as stack:
        direct = stack.enter_context(servers.mlflow(bench.site))
        us = stack.enter_context(servers.gateway(bench.site, [direct]))
        work, seconds = bench.work(direct, "log-batch"), max(bench.seconds, BATCH_SECONDS)
        bench.compare("batch", work, [direct, us], (32,), baseline=direct.name, seconds=seconds)


def workers(bench: Bench) -> None:
    """Two MLflow servers of one worker each behind us, against one of two workers that share a socket."""
    with ExitStack() as stack:
        together = stack.enter_context(servers.mlflow(bench.site, "--workers 2", workers=2))
        ones = [stack.enter_context(servers.mlflow(bench.site, f"one-{number}")) for number in (1, 2)]
        us = stack.enter_context(servers.gateway(bench.site, ones))
        for name in ("alias", "log-metric", "log-batch"):
            bench.compare("workers", bench.work(together, name), [together, us], (16, 64), baseline=together.name)


def peers(bench: Bench) -> None:
    """What else authenticates before MLflow. All of it runs in one environment."""
    python = oidc_auth_environment()
    with ExitStack() as stack:
        direct = stack.enter_context(servers.mlflow(bench.site, python=python))
        us = stack.enter_context(servers.gateway(bench.site, [direct]))
        others = bench.enter(stack, servers.oidc_auth(bench.site, python), servers.basic_auth(bench.site, python))
        for name in ("alias", "runs/search", "log-metric"):
            work = bench.work(direct, name)
            bench.compare("peers", work, [direct, *others, us], (16,), baseline=direct.name)


def artifacts(bench: Bench) -> None:
    """Large artifacts: the rate beside direct, and what the gateway's memory grows by."""
    size, part = bench.mebibytes, max(bench.mebibytes // PART_AT_ONCE, 1)
    with ExitStack() as stack:
        direct = stack.enter_context(servers.mlflow(bench.site))
        us = stack.enter_context(servers.gateway(bench.site, [direct]))
        send(us, "bench/large.bin", 1)
        fetch(us, "bench/large.bin", 1)
        send(direct, "bench/part.bin", part)
        _move(bench, f"{size} MiB up", direct, us, lambda one: send(one, "bench/large.bin", size))
        _move(bench, f"{size} MiB down", direct, us, lambda one: fetch(one, "bench/large.bin", size))
        many = f"{AT_ONCE} times {part} MiB down at once"
        _move(bench, many, direct, us, lambda one: fetch_at_once(one, "bench/part.bin", part, AT_ONCE), as_fast=False)


def _move(bench: Bench, name: str, direct: Contender, us: Contender, move: Move, *, as_fast: bool = True) -> None:
    moved = take_turns_moving([direct, us], move, bench.rounds)
    for one, found in moved.items():
        if found.failure:
            bench.report.fail(f"{name}: {found.failure}")
            continue
        speed = memory = None
        if one == us.name:
            memory = Verdict(f"growth ≤ {GROWTH_MIB} MiB", found.growth_mib, found.growth_mib <= GROWTH_MIB)
            if as_fast and (theirs := moved[direct.name].rate):
                speed = Verdict(
                    f"MiB/s ≥ {OF_DIRECT:g} of direct", found.rate / theirs, found.rate / theirs >= OF_DIRECT
                )
        bench.report.fact("artifacts", f"{name}, {one}", found.rate, "MiB/s", speed)
        bench.report.fact("artifacts", f"{name}, {one}: memory", found.growth_mib, "MiB more", memory)


def _count_statements(bench: Bench, section: str, us: Contender, work: Work) -> None:
    """How many statements reach our database while a caller that was seen before asks as fast as it can."""
    try:
        with bench.site.postgres.statements() as sent:
            found = load(us, work, 16, bench.seconds, bench.folder)
            statements = [statement for statement in sent() if WATCHED not in statement]
        settle()
    except PartFailed as error:
        bench.report.fail(f"{section}, {work.name}, statements: {error}")
        return
    requests, number = round(found.rate * bench.seconds), len(statements)
    verdict = Verdict(f"SQL ≤ {BY_THE_WAY} statements", number, number <= BY_THE_WAY)
    bench.report.fact(
        section, f"{work.name}: SQL of the gateway in {requests:,} requests", number, "statements", verdict
    )
    if number > BY_THE_WAY:
        bench.report.say(f"  the first: {statements[0]}")


SECTIONS: Mapping[str, Callable[[Bench], None]] = {
    "static": static,
    "mlflow": mlflow,
    "batch": batch,
    "workers": workers,
    "peers": peers,
    "artifacts": artifacts,
}
