"""What the gateway promises, as a table, and whether a measurement keeps it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from bench.proxy.load import Load
from bench.proxy.rounds import Result

Figure = Literal["rate", "p99_ms", "cpu_us"]
_SHORT: Mapping[Figure, str] = {"rate": "req/s", "p99_ms": "p99", "cpu_us": "µs CPU"}
_HOLDS: Mapping[str, Callable[[float, float], bool]] = {"≥": operator.ge, "≤": operator.le}

READS_AND_WRITES = frozenset({"alias", "download-uri", "runs/search", "log-metric"})


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on one figure of ours, or, with ``against``, on its ratio to that contender's."""

    section: str
    works: frozenset[str]
    connections: int
    figure: Figure
    holds: Literal["≥", "≤"]
    bound: float
    against: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target in words, what was measured, and whether that is enough."""

    target: str
    measured: float
    reached: bool


_STATIC, _BATCH = frozenset({"experiments/get"}), frozenset({"log-batch"})
_ALL = READS_AND_WRITES | _BATCH
_SHORT_WORKS = frozenset({"alias", "log-metric"})
"""A search keeps MLflow busy for so long that nothing before it can be three times as fast as something else."""

TARGETS = (
    Target("static", _STATIC, 16, "cpu_us", "≤", 150),
    Target("static", _STATIC, 64, "rate", "≥", 8000),
    Target("mlflow", READS_AND_WRITES, 1, "rate", "≥", 1.0, "nginx"),
    Target("mlflow", READS_AND_WRITES, 16, "rate", "≥", 1.1, "direct"),
    Target("mlflow", READS_AND_WRITES, 64, "rate", "≥", 1.25, "direct"),
    Target("mlflow", READS_AND_WRITES, 64, "p99_ms", "≤", 0.6, "direct"),
    Target("batch", _BATCH, 32, "rate", "≥", 1.3, "direct"),
    Target("batch", _BATCH, 32, "p99_ms", "≤", 0.2, "direct"),
    Target("workers", _ALL, 16, "rate", "≥", 1.5, "--workers 2"),
    Target("workers", _ALL, 64, "rate", "≥", 1.5, "--workers 2"),
    Target("peers", _SHORT_WORKS, 16, "rate", "≥", 3.0, "mlflow-oidc-auth"),
    Target("peers", _SHORT_WORKS, 16, "rate", "≥", 50.0, "basic-auth"),
)


def ratio(ours: Load, other: Load, figure: Figure) -> float:
    """Our figure by the other's; infinite where the other got nothing done."""
    theirs: float = getattr(other, figure)
    own: float = getattr(ours, figure)
    return own / theirs if theirs else float("inf")


def judge(section: str, work: str, connections: int, name: str, results: Mapping[str, Result]) -> list[Verdict]:
    """The verdicts on the contender ``name`` in one row of contenders."""
    ours, verdicts = results[name].medians, []
    for target in TARGETS:
        if (target.section, target.connections) != (section, connections) or work not in target.works or ours is None:
            continue
        other = results[target.against].medians if target.against and target.against in results else None
        if target.against and other is None:
            continue  # that one failed: its own row says so
        value: float = getattr(ours, target.figure)
        if other is not None:
            value = ratio(ours, other, target.figure)
        of = f" of {target.against}" if target.against else ""
        words = f"{_SHORT[target.figure]} {target.holds} {target.bound:g}{of}"
        verdicts.append(Verdict(words, value, _HOLDS[target.holds](value, target.bound)))
    return verdicts
