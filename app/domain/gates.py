"""What a gate measures, and when it has passed or failed.

A gate asks the target's Prometheus for one number and compares it. Whatever is not one number (nothing, NaN, infinity,
several series, no answer) is never a success: a step does not end by it, and it fails when that goes on for too long.
The terms are those of Argo Rollouts' analysis; its default of an empty answer (an error) is here said by the policy.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from app.domain.errors import InvalidInput
from app.domain.gate_queries import OF_STABLE, placeholders_of
from app.domain.rollouts import EVERYTHING, Gate, OnNoData, Rollout, Step


class Verdict(StrEnum):
    """What one measurement says."""

    PASSED = "passed"
    FAILED = "failed"
    NO_DATA = "no_data"
    """There was an answer, and no number in it."""
    BROKEN = "broken"
    """There was no answer, or one that no comparison can be made with: several series."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison with a number, such as ``<= 0.02``."""

    sign: str
    bound: float

    def holds(self, value: float) -> bool:
        return _SIGNS[self.sign](value, self.bound)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a Prometheus answered: the number of each series; or why it did not."""

    values: tuple[float, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of a gate at one time. ``value`` is none where there was not one number."""

    verdict: Verdict
    value: float | None
    message: str


@dataclass(frozen=True, slots=True)
class GateState:
    """How a gate is doing on a target during one step.

    ``began_at`` is when the step began to be held; ``no_data_since`` is the first measurement without a number since
    the last one with one.
    """

    target: str
    gate: str
    began_at: datetime
    passes: int = 0
    consecutive_failures: int = 0
    last_at: datetime | None = None
    no_data_since: datetime | None = None
    verdict: Verdict | None = None
    value: float | None = None
    message: str = ""


STALE_AFTER = 2
"""Intervals after which a pass says nothing of the present any more; at least ``FRESH_S``."""
FRESH_S = 60
"""Seconds. More than it takes to ask all gates of a rollout, however short their interval."""

_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
_CONDITION = re.compile(
    rf"\s*({'|'.join(_SIGNS)})\s*([+-]?(?:[0-9]{{1,30}}(?:\.[0-9]{{0,30}})?|\.[0-9]{{1,30}})(?:[eE][+-]?[0-9]{{1,3}})?)\s*"
)


def parse_condition(where: str, text: str) -> Condition:
    """Read a comparison. Raises ``InvalidInput`` naming ``where``."""
    found = _CONDITION.fullmatch(text)
    if found is None or not math.isfinite(bound := float(found[2])):
        raise InvalidInput(where, f"expected one of {', '.join(_SIGNS)} and a number, as `<= 0.02`")
    return Condition(found[1], bound)


def judge(gate: Gate, reading: Reading) -> Measurement:
    """What an answer says of a gate."""
    if reading.problem:
        return Measurement(Verdict.BROKEN, None, reading.problem)
    if not reading.values:
        return Measurement(Verdict.NO_DATA, None, "the query found no series")
    if len(reading.values) > 1:
        many = f"the query gives {len(reading.values)} series where one number is needed: aggregate it, as with sum()"
        return Measurement(Verdict.BROKEN, None, many)
    [value] = reading.values
    if not math.isfinite(value):
        return Measurement(Verdict.NO_DATA, None, f"the query gives {_written(value)}, which is no number")
    if parse_condition("pass", gate.passes).holds(value):
        return Measurement(Verdict.PASSED, value, f"{_written(value)} is {gate.passes.strip()}")
    return Measurement(Verdict.FAILED, value, f"{_written(value)} is not {gate.passes.strip()}")


def asked(rollout: Rollout, step: Step, *, has_stable: bool) -> tuple[Gate, ...]:
    """The gates that a step asks while it is held: those that it names, or else all that can tell anything.

    With weight 0 nobody asks the version anything. With 100 nobody else gets requests, so that there is nothing to
    compare with, and a last step that is not held is not there to be watched. A gate that compares with the stable
    version is never asked where there is none (``has_stable``): a model's first version.
    """
    by_name = {gate.name: gate for gate in rollout.gates}
    if step.gates:
        wanted = [by_name[name] for name in step.gates]
    elif step.weight == 0 or step == EVERYTHING:
        wanted = []
    else:
        wanted = [gate for gate in rollout.gates if step.weight < EVERYTHING.weight or not compares(gate)]
    return tuple(gate for gate in wanted if has_stable or not compares(gate))


def compares(gate: Gate) -> bool:
    """Whether it looks at the stable version too."""
    return bool(placeholders_of(gate.query) & OF_STABLE)


def begun(gates: Iterable[Gate], targets: Iterable[str], *, at: datetime) -> tuple[GateState, ...]:
    """The gates of a step that begins to be held: nothing is known yet, whatever an earlier step measured."""
    gates = tuple(gates)
    return tuple(GateState(target, gate.name, at) for target in targets for gate in gates)


def after(state: GateState, measurement: Measurement, gate: Gate, *, at: datetime) -> GateState:
    """The state with one more measurement.

    What is no number neither makes good nor worse what was measured before, except where the policy says that it
    fails; that there was no answer (``broken``) says nothing of the version, and waits in any case.
    """
    state = replace(
        state, last_at=at, verdict=measurement.verdict, value=measurement.value, message=measurement.message
    )
    match measurement.verdict:
        case Verdict.PASSED:
            return replace(state, passes=state.passes + 1, consecutive_failures=0, no_data_since=None)
        case Verdict.FAILED:
            return replace(state, consecutive_failures=state.consecutive_failures + 1, no_data_since=None)
        case Verdict.NO_DATA | Verdict.BROKEN:
            counts = measurement.verdict is Verdict.NO_DATA and gate.on_no_data is OnNoData.FAIL
            failures = state.consecutive_failures + (1 if counts else 0)
            return replace(state, consecutive_failures=failures, no_data_since=min(state.no_data_since or at, at))


def due_at(state: GateState, gate: Gate) -> datetime:
    """When it is to be measured next; first when the step was held for one interval."""
    return (state.last_at or state.began_at) + timedelta(seconds=gate.interval_s)


def is_due(state: GateState, gate: Gate, *, now: datetime) -> bool:
    """Whether to measure it now: an interval lies between, or would if the clock had not been set back."""
    return abs(now - (state.last_at or state.began_at)) >= timedelta(seconds=gate.interval_s)


def has_failed(state: GateState, gate: Gate, *, now: datetime) -> bool:
    """Whether it failed as often as it may, or has measured nothing for too long."""
    return state.consecutive_failures >= gate.failure_limit or _is_out_of_patience(state, gate, now)


def has_passed(state: GateState, gate: Gate, *, now: datetime) -> bool:
    """Whether the step may end: it passed often enough, also the last time, and that was not long ago."""
    if state.last_at is None or state.verdict is not Verdict.PASSED or state.passes < gate.min_passes:
        return False
    # Nor from the future: a clock that was set back makes no measurement a new one.
    return abs(now - state.last_at) <= timedelta(seconds=max(STALE_AFTER * gate.interval_s, FRESH_S))


def why_failed(state: GateState, gate: Gate) -> str:
    """One sentence for people, of a gate that has failed."""
    if state.consecutive_failures >= gate.failure_limit:
        times = f" ({state.consecutive_failures} times in a row)" if state.consecutive_failures > 1 else ""
        return f"gate {gate.name} failed on {state.target}: {state.message}{times}"
    return f"gate {gate.name} measured nothing on {state.target} for {gate.no_data_s} s: {state.message}"


def states_document(states: Iterable[GateState]) -> dict[str, object]:
    """As ``rollouts.gates`` keeps them, by target and gate. A target's name has no ``/``."""
    return {
        f"{state.target}/{state.gate}": {
            "target": state.target,
            "gate": state.gate,
            "began_at": state.began_at.isoformat(),
            "passes": state.passes,
            "consecutive_failures": state.consecutive_failures,
            "last_at": state.last_at.isoformat() if state.last_at else None,
            "no_data_since": state.no_data_since.isoformat() if state.no_data_since else None,
            "verdict": state.verdict.value if state.verdict else None,
            "value": state.value,
            "message": state.message,
        }
        for state in states
    }


def states_from_document(document: Mapping[str, Mapping[str, object]]) -> tuple[GateState, ...]:
    """What ``states_document`` wrote."""
    return tuple(_state(kept) for kept in document.values())


def _state(kept: Mapping[str, object]) -> GateState:
    value, verdict, began_at = kept["value"], kept["verdict"], _moment(kept["began_at"])
    if began_at is None:
        raise ValueError("began_at: expected a time")
    return GateState(
        target=str(kept["target"]),
        gate=str(kept["gate"]),
        began_at=began_at,
        passes=int(str(kept["passes"])),
        consecutive_failures=int(str(kept["consecutive_failures"])),
        last_at=_moment(kept["last_at"]),
        no_data_since=_moment(kept["no_data_since"]),
        verdict=Verdict(str(verdict)) if verdict is not None else None,
        value=float(str(value)) if value is not None else None,
        message=str(kept["message"]),
    )


def _moment(text: object) -> datetime | None:
    return None if text is None else datetime.fromisoformat(str(text))


def _is_out_of_patience(state: GateState, gate: Gate, now: datetime) -> bool:
    return state.no_data_since is not None and now - state.no_data_since >= timedelta(seconds=gate.no_data_s)


def _written(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return f"{value:.6g}" if math.isfinite(value) else f"{'+' if value > 0 else '-'}Inf"
