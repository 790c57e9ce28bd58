"""Rounds in which contenders take turns, and the median of what each came to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bench.proxy.load import Contender, Load, Work, load, probe
from bench.proxy.parts import PartFailed, settle

WARM_UP_S = 1
LONGER_IF_SLOW = 6


@dataclass(frozen=True, slots=True)
class Result:
    """The medians of a contender's rounds, each figure's own, or why there are none.

    ``spread`` is the distance from the lowest to the highest rate, as a part of the median.
    """

    medians: Load | None
    spread: float = 0.0
    failure: str = ""


def take_turns(
    contenders: Sequence[Contender], work: Work, connections: int, *, seconds: int, rounds: int, folder: Path
) -> Mapping[str, Result]:
    """Measure all contenders, in an order that moves on by one each round. One that fails does not stop the others.

    Slow ones come last and once: what they leave behind takes longest to end.
    """
    found: dict[str, list[Load]] = {contender.name: [] for contender in contenders}
    failures: dict[str, str] = {}
    quick = [contender for contender in contenders if not contender.slow]
    turns = [(contender, WARM_UP_S) for contender in quick]
    for number in range(rounds):
        first = number % len(quick)
        turns += [(contender, seconds) for contender in (*quick[first:], *quick[:first])]
    turns += [(contender, seconds * LONGER_IF_SLOW) for contender in contenders if contender.slow]
    for contender, duration in turns:
        if contender.name in failures:
            continue
        try:
            probe(contender, work)
            settle()
            found[contender.name].append(load(contender, work, connections, duration, folder))
        except PartFailed as error:
            failures[contender.name] = str(error)
    for contender in quick:
        found[contender.name] = found[contender.name][1:]  # without the warm-up
    return {
        name: Result(None, failure=failures[name]) if name in failures else _summary(loads)
        for name, loads in found.items()
    }


def _summary(loads: Sequence[Load]) -> Result:
    medians = Load(*(statistics.median(getattr(one, field.name) for one in loads) for field in fields(Load)))
    rates = [one.rate for one in loads]
    return Result(medians, (max(rates) - min(rates)) / medians.rate if medians.rate else 0.0)
