"""``aliasMoves`` and ``rollout`` of a policy's document: how the version comes to get its requests.

::

    aliasMoves: after_ready
    rollout:
      strategy: canary
      steps:
        - {weight: 0, hold: 2m}
        - {weight: 10, hold: 10m}
        - {weight: 50, hold: manual, gates: [errors]}
      gates:
        - name: errors
          query: sum(rate(errors_total{application="{{candidate_name}}"}[2m]))
          pass: "<= 0.02"
      onFailure: rollback
"""

from __future__ import annotations

from app.domain.documents import MOST, Fields, each_of, one_of, read_text
from app.domain.durations import parse_duration, write_duration
from app.domain.errors import InvalidInput
from app.domain.gate_queries import check_query
from app.domain.gates import parse_condition
from app.domain.rollouts import Gate, OnFailure, OnNoData, Rollout, Step, Strategy

MANUAL = "manual"
MOST_STEPS = 20
MOST_GATES = 20
LONGEST_WAIT_S = 7 * 86_400

_DEFAULT = Rollout()
_GATE = Gate("", "", "")
_GATE_FIELDS = ("name", "query", "pass", "interval", "failureLimit", "minPasses", "onNoData", "noDataFor")


def rollout_from_document(where: str, value: object) -> Rollout:
    """Read ``rollout``.

    Raises:
        InvalidInput: with the path of each wrong field and what was expected.
    """
    fields = Fields(where, value, ("strategy", "steps", "gates", "onFailure"))
    rollout = Rollout(
        strategy=fields.get("strategy", one_of(Strategy), _DEFAULT.strategy),
        planned=fields.get("steps", _steps, ()),
        gates=fields.get("gates", _gates, ()),
        on_failure=fields.get("onFailure", one_of(OnFailure), _DEFAULT.on_failure),
    )
    fields.check()
    return rollout


def rollout_document(rollout: Rollout) -> dict[str, object]:
    """What ``rollout_from_document`` reads back. It says everything."""
    return {
        "strategy": rollout.strategy.value,
        "steps": [
            {
                "weight": step.weight,
                "hold": MANUAL if step.hold_s is None else write_duration(step.hold_s),
                "gates": list(step.gates),
            }
            for step in rollout.planned
        ],
        "gates": [
            {
                "name": gate.name,
                "query": gate.query,
                "pass": gate.passes,
                "interval": write_duration(gate.interval_s),
                "failureLimit": gate.failure_limit,
                "minPasses": gate.min_passes,
                "onNoData": gate.on_no_data.value,
                "noDataFor": write_duration(gate.no_data_s),
            }
            for gate in rollout.gates
        ],
        "onFailure": rollout.on_failure.value,
    }


def _step(where: str, value: object) -> Step:
    fields = Fields(where, value, ("weight", "hold", "gates"))
    step = Step(
        weight=fields.needed("weight", _weight, 0),
        hold_s=fields.get("hold", _hold, 0),
        gates=fields.get("gates", each_of(read_text), ()),
    )
    fields.check()
    return step


def _gate(where: str, value: object) -> Gate:
    fields = Fields(where, value, _GATE_FIELDS)
    gate = Gate(
        name=fields.needed("name", read_text, ""),
        query=fields.needed("query", _query, ""),
        passes=fields.needed("pass", _condition, ""),
        interval_s=fields.get("interval", _wait, _GATE.interval_s),
        failure_limit=fields.get("failureLimit", _count, _GATE.failure_limit),
        min_passes=fields.get("minPasses", _count, _GATE.min_passes),
        on_no_data=fields.get("onNoData", one_of(OnNoData), _GATE.on_no_data),
        no_data_s=fields.get("noDataFor", _wait, _GATE.no_data_s),
    )
    fields.check()
    return gate


def _weight(where: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 100:
        raise InvalidInput(where, "expected a whole number from 0 to 100: percent of the requests")
    return value


def _hold(where: str, value: object) -> int | None:
    if value == MANUAL:
        return None
    if value in ("0s", 0) and not isinstance(value, bool):
        return 0
    try:
        return _wait(where, value)
    except InvalidInput as error:
        [(_, expected)] = error.problems
        raise InvalidInput(where, f"{expected}; or `{MANUAL}`, until a person says to go on; or 0s") from None


def _wait(where: str, value: object) -> int:
    seconds = parse_duration(where, value)
    if seconds > LONGEST_WAIT_S:
        raise InvalidInput(where, f"expected at most {write_duration(LONGEST_WAIT_S)}")
    return seconds


def _query(where: str, value: object) -> str:
    return check_query(where, read_text(where, value))


def _condition(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput(where, "expected a text such as `<= 0.02`, in quotes")
    parse_condition(where, value)
    return value.strip()


def _count(where: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise InvalidInput(where, f"expected a whole number from 1 to {MOST}")
    return value


def _steps(where: str, value: object) -> tuple[Step, ...]:
    steps = each_of(_step)(where, value)
    if len(steps) > MOST_STEPS:
        raise InvalidInput(where, f"expected at most {MOST_STEPS} steps")
    return steps


def _gates(where: str, value: object) -> tuple[Gate, ...]:
    gates = each_of(_gate)(where, value)
    if len(gates) > MOST_GATES:
        raise InvalidInput(where, f"expected at most {MOST_GATES} gates")
    return gates
