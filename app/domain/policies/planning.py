"""Which rollouts are refused when a policy is applied: those that are at odds with themselves, or lead nowhere.

As in ``satisfying.py``, each problem is the path of a field and the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from app.domain.gates import asked
from app.domain.grants import LONGEST_NAME
from app.domain.policies.policy import DEFAULT_ROLLOUT, Policy
from app.domain.rollouts import EVERYTHING, AliasMoves, Gate, Rollout, Strategy

Problem = tuple[str, str]


def misplanned(policy: Policy) -> Iterator[Problem]:
    """What is wrong with how a policy rolls out, whatever its targets are."""
    if not policy.targets:
        if policy.rollout != DEFAULT_ROLLOUT:
            yield "rollout", "expected only beside `targets`: nothing is deployed, so that there is nothing to roll out"
        if policy.alias_moves is AliasMoves.AFTER_READY:
            yield "aliasMoves", "expected `before` where there are no `targets`: there is none to be ready"
    yield from _steps(policy.rollout)
    yield from _gates(policy.rollout)


def _steps(rollout: Rollout) -> Iterator[Problem]:
    weights = [step.weight for step in rollout.planned]
    for index, (before, weight) in enumerate(pairwise(weights), start=1):
        if weight <= before:
            yield (
                f"rollout.steps[{index}].weight",
                f"expected more than the {before} of the step before: weights only increase",
            )
    match rollout.strategy:
        case Strategy.ALL_AT_ONCE if weights and weights != [EVERYTHING.weight]:
            yield (
                "rollout.steps",
                "expected none, or the one of weight 100, where the strategy is all_at_once; for steps say `canary`",
            )
        case Strategy.DARK if weights not in ([0], [0, EVERYTHING.weight]):
            yield (
                "rollout.steps",
                "expected one of weight 0, and at most one of 100 after it, where the strategy is dark",
            )
        case Strategy.CANARY if not any(0 < weight < EVERYTHING.weight for weight in weights):
            yield "rollout.steps", "expected one of a weight from 1 to 99 at least, where the strategy is canary"


def _gates(rollout: Rollout) -> Iterator[Problem]:
    times = Counter(gate.name for gate in rollout.gates)
    for index, gate in enumerate(rollout.gates):
        yield from _gate(f"rollout.gates[{index}]", gate, times[gate.name])
    for index, step in enumerate(rollout.planned):
        for position, name in enumerate(step.gates):
            where = f"rollout.steps[{index}].gates[{position}]"
            if name not in times:
                yield where, f"there is no gate {name[:LONGEST_NAME]}; there are {', '.join(times) or 'none'}"
            elif step.gates.count(name) > 1:
                yield where, f"{name} is there {step.gates.count(name)} times"
    if any(name not in times for step in rollout.planned for name in step.gates):
        return
    used = {gate.name for step in rollout.steps for gate in asked(rollout, step, has_stable=True)}
    for index, gate in enumerate(rollout.gates):
        if gate.name not in used:
            how = "hold a step, as `{weight: 100, hold: 10m}`, or name it in one"
            yield f"rollout.gates[{index}]", f"no step asks for {gate.name[:LONGEST_NAME]}: {how}"


def _gate(where: str, gate: Gate, times: int) -> Iterator[Problem]:
    name = gate.name
    if times > 1:
        yield f"{where}.name", f"{name[:LONGEST_NAME]} is there {times} times; they are told apart by name"
    elif not name.isprintable() or name != name.strip() or "/" in name or len(name) > LONGEST_NAME:
        yield f"{where}.name", f"expected at most {LONGEST_NAME} printable characters without `/`"
    if gate.no_data_s < gate.interval_s:
        yield f"{where}.noDataFor", "expected at least the interval: it would fail before it is asked again"
