"""What clients notice of an update, of the way back, and of a version that cannot be loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.proxy.parts import PartFailed
from bench.serving.cluster import Cluster
from bench.serving.models import BROKEN, FIRST, SECOND
from bench.serving.prober import Prober, Window

OURS, THEIRS = "countersign", "Ray Serve alone"
UPDATE, BACK, BAD, MENDED = "1 → 2", "2 → 1", "1 → one that cannot be loaded", "… and 1 declared again"
QUIET_S = 1.5
"""Of asking before and after each step."""
BACK_WITHIN_S = 1.0

Step = tuple[str, str, Callable[[], str], str]
"""Its name, the version, how it is asked for, and how that must end."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One step as a client saw it. Seconds count from the call; ``first_s``: to the first answer of the version."""

    step: str
    who: str
    window: Window
    first_s: float | None
    settled_s: float


def updates(cluster: Cluster, console: Console, *, per_second: float) -> tuple[bool, Mapping[str, Any]]:
    """Run and print; whether what is promised is missed, and the figures.

    Raises:
        PartFailed: a step did not end as it should.
    """
    ours, theirs = _ours(cluster, per_second), _theirs(cluster, per_second)
    _show(console, ours, theirs, per_second)
    failed = sum(seen.window.failed for seen in ours)
    back_s = next(seen.first_s for seen in ours if seen.step == BACK)
    is_missed = failed > 0 or back_s is None or back_s > BACK_WITHIN_S
    said = "missed" if is_missed else "reached"
    told = "never came" if back_s is None else f"came after {back_s:.2f} s (≤ {BACK_WITHIN_S:g})"
    console.print(f"{said}: {failed} requests of ours failed (0), and the old version's first answer {told}")
    return is_missed, {"steps": [asdict(seen) for seen in (*ours, *theirs)]}


def _ours(cluster: Cluster, per_second: float) -> Sequence[Seen]:
    with cluster.deployer() as deployer:
        if (phase := deployer.roll_out(FIRST)) != "Ready":
            raise PartFailed(f"version {FIRST} is {phase}")
        steps = [
            (UPDATE, SECOND, lambda: deployer.roll_out(SECOND), "Ready"),
            (BACK, FIRST, lambda: deployer.roll_out(FIRST), "Ready"),
            (BAD, BROKEN, lambda: deployer.roll_out(BROKEN), "Failed"),
        ]
        return _walked(OURS, steps, cluster.ours, cluster, per_second)


def _theirs(cluster: Cluster, per_second: float) -> Sequence[Seen]:
    versions = cluster.models.versions
    if (status := cluster.declare_plain(versions[FIRST])) != "RUNNING":
        raise PartFailed(f"Ray Serve's application is {status}")
    steps = [
        (UPDATE, SECOND, lambda: cluster.declare_plain(versions[SECOND]), "RUNNING"),
        (BACK, FIRST, lambda: cluster.declare_plain(versions[FIRST]), "RUNNING"),
        (BAD, BROKEN, lambda: cluster.declare_plain(versions[BROKEN]), "DEPLOY_FAILED"),
        (MENDED, FIRST, lambda: cluster.declare_plain(versions[FIRST]), "RUNNING"),
    ]
    return _walked(THEIRS, steps, cluster.plain, cluster, per_second)


def _walked(who: str, steps: Sequence[Step], url: str, cluster: Cluster, per_second: float) -> Sequence[Seen]:
    models, moments = cluster.models, []
    with Prober(url, models.body, per_second=per_second, expected=models.expected) as prober:
        for name, _, ask, wanted in steps:
            time.sleep(QUIET_S)
            called = time.time()
            if (ended := ask()) != wanted:
                raise PartFailed(f"{who}, {name}: {ended}")
            settled = time.time()
            time.sleep(QUIET_S)
            moments.append((called, settled, time.time()))
    seen = []
    for (name, version, _, _), (called, settled, until) in zip(steps, moments, strict=True):
        first = prober.first_of(version, called)
        window = prober.window(called, until)
        seen.append(Seen(name, who, window, first and first - called, settled - called))
    return seen


def _show(console: Console, ours: Sequence[Seen], theirs: Sequence[Seen], per_second: float) -> None:
    table = Table(f"{per_second:g} requests/s", "who", "asked", "failed", "longest pause s", "first answer s", "told s")
    for column in range(2, 7):
        table.columns[column].justify = "right"
    for step in dict.fromkeys(seen.step for seen in (*ours, *theirs)):
        for seen in (*ours, *theirs):
            if seen.step != step:
                continue
            window = seen.window
            table.add_row(
                step,
                seen.who,
                str(window.asked),
                str(window.failed),
                f"{window.pause_s:.2f}",
                "none" if seen.first_s is None else f"{seen.first_s:.2f}",
                f"{seen.settled_s:.1f}",
            )
        table.add_section()
    console.print(table)
    for seen in (*ours, *theirs):
        for failure in seen.window.failures[:3]:
            console.print(f"{seen.who}, {seen.step}: {failure}", markup=False)
    for mine in ours:
        other = next(seen for seen in theirs if seen.step == mine.step)
        ratio = other.window.pause_s / mine.window.pause_s
        console.print(f"{mine.step}: the longest pause is {ratio:.0f} times as long without us")
