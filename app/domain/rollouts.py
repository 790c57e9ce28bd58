"""How a version comes to get its requests: all at once, or by steps that must prove themselves.

A policy says the plan (``Rollout``); ``steps`` spells it out. What is done next, from what the targets report and what
was measured, is in ``app/domain/rolling_out.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class AliasMoves(StrEnum):
    """When the alias moves: before the targets are called, or after all of them are ready."""

    BEFORE = "before"
    AFTER_READY = "after_ready"


class Strategy(StrEnum):
    ALL_AT_ONCE = "all_at_once"
    DARK = "dark"
    """The version runs without requests first; when it has proved itself, it gets all of them."""
    CANARY = "canary"


class OnFailure(StrEnum):
    """What is done when the version does not come up, or a gate fails."""

    ROLLBACK = "rollback"
    """Requests and alias go back to what was there before."""
    PAUSE = "pause"
    """Everything stays as it is until a person decides."""


class OnNoData(StrEnum):
    """What a gate that measures nothing does. It never passes."""

    WAIT = "wait"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Gate:
    """A question to the target's Prometheus, asked while a step is held.

    Args:
        name: what people call it.
        query: PromQL that gives one number, with the placeholders of ``app/domain/gate_queries.py``.
        passes: the comparison that its answer must fulfil, such as ``<= 0.02``.
        interval_s: seconds between two measurements.
        failure_limit: consecutive failures after which the gate has failed.
        min_passes: passes without which a step does not end.
        on_no_data: what an empty or undefined answer is.
        no_data_s: seconds after which a gate that has measured nothing has failed, where it waits.
    """

    name: str
    query: str
    passes: str
    interval_s: int = 30
    failure_limit: int = 2
    min_passes: int = 1
    on_no_data: OnNoData = OnNoData.WAIT
    no_data_s: int = 600


@dataclass(frozen=True, slots=True)
class Step:
    """Have the version get ``weight`` percent of the requests, and hold that for ``hold_s`` seconds.

    ``hold_s`` none: until a person says to go on. ``gates``: those by name that are asked meanwhile; which they are
    where none is named is in ``app.domain.gates.asked``.
    """

    weight: int
    hold_s: int | None = 0
    gates: tuple[str, ...] = ()


EVERYTHING = Step(weight=100)


@dataclass(frozen=True, slots=True)
class Rollout:
    """The plan. ``planned`` are the steps of a canary, or the one without requests of a dark rollout."""

    strategy: Strategy = Strategy.ALL_AT_ONCE
    planned: tuple[Step, ...] = ()
    gates: tuple[Gate, ...] = ()
    on_failure: OnFailure = OnFailure.ROLLBACK

    @property
    def steps(self) -> tuple[Step, ...]:
        """Spelled out: the last one always has the version get everything."""
        if self.planned and self.planned[-1].weight == EVERYTHING.weight:
            return self.planned
        return (*self.planned, EVERYTHING)
