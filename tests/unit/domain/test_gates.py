"""What a gate says of an answer, and when it has passed or failed: nothing but a number passes it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidInput
from app.domain.gates import (
    GateState,
    Measurement,
    Reading,
    Verdict,
    after,
    asked,
    begun,
    due_at,
    has_failed,
    has_passed,
    is_due,
    judge,
    parse_condition,
    states_document,
    states_from_document,
    why_failed,
)
from app.domain.rollouts import EVERYTHING, Gate, OnNoData, Rollout, Step, Strategy

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GATE = Gate("errors", 'sum(rate(errors_total{application="{{candidate_name}}"}[2m]))', "<= 0.02", interval_s=30)
COMPARING = Gate("slower", 'x{v="{{candidate}}"} / x{v="{{stable}}"}', "< 1.2")
NEW = GateState("ray", "errors", T0)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def walk(gate: Gate, *readings: Reading) -> tuple[GateState, datetime]:
    """The state after one reading each interval, and when the last one was."""
    state, now = begun([gate], ["ray"], at=T0)[0], T0
    for reading in readings:
        now = due_at(state, gate)
        state = after(state, judge(gate, reading), gate, at=now)
    return state, now


GOOD, BAD, NOTHING, DOWN = Reading((0.01,)), Reading((0.5,)), Reading(), Reading(problem="no answer")


@pytest.mark.parametrize(
    ("reading", "verdict", "value"),
    [
        (Reading((0.02,)), Verdict.PASSED, 0.02),
        (Reading((0.03,)), Verdict.FAILED, 0.03),
        (Reading(()), Verdict.NO_DATA, None),
        (Reading((math.nan,)), Verdict.NO_DATA, None),
        (Reading((math.inf,)), Verdict.NO_DATA, None),
        (Reading((-math.inf,)), Verdict.NO_DATA, None),
        (Reading((0.0, 0.0)), Verdict.BROKEN, None),
        (Reading((0.0,), problem="no answer"), Verdict.BROKEN, None),
    ],
)
def test_only_one_finite_number_is_compared(reading: Reading, verdict: Verdict, value: float | None) -> None:
    found = judge(GATE, reading)
    assert (found.verdict, found.value) == (verdict, value)
    assert found.message


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">=", "==", "!="])
def test_minus_infinity_passes_no_comparison(sign: str) -> None:
    for value in (math.nan, math.inf, -math.inf):
        assert judge(replace(GATE, passes=f"{sign} 0"), Reading((value,))).verdict is Verdict.NO_DATA


@given(
    readings=st.lists(
        st.builds(
            Reading,
            st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 0.5]), max_size=2).map(tuple),
            st.sampled_from(["", "down"]),
        )
    ),
    on_no_data=st.sampled_from(OnNoData),
)
def test_nothing_but_a_number_that_holds_ever_passes(readings: list[Reading], on_no_data: OnNoData) -> None:
    gate = replace(GATE, on_no_data=on_no_data)
    state, now = walk(gate, *readings)
    assert not has_passed(state, gate, now=now)


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("<= 0.02", 0.02, True),
        ("<0.02", 0.02, False),
        (">= -1.5e3", -1500.0, True),
        (" > 0 ", 0.0, False),
        ("== 1", 1.0, True),
        ("!= .5", 0.5, False),
    ],
)
def test_a_condition_is_a_sign_and_a_number(text: str, value: float, *, holds: bool) -> None:
    assert parse_condition("pass", text).holds(value) is holds


@pytest.mark.parametrize(
    "text", ["", "0.02", "<=", "<= x", "=< 1", "<= 1 2", "<= nan", "<= inf", "<= 1e999", "< 1\n> 0", "<= ٣"]
)
def test_any_other_condition_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="expected one of"):
        parse_condition("pass", text)


def test_it_passes_when_it_passed_often_enough() -> None:
    gate = replace(GATE, min_passes=2)
    state, now = walk(gate, GOOD)
    assert not has_passed(state, gate, now=now)
    state, now = walk(gate, GOOD, GOOD)
    assert has_passed(state, gate, now=now)
    assert has_passed(state, gate, now=now + timedelta(seconds=60))


def test_a_pass_of_long_ago_says_nothing_of_the_present() -> None:
    for interval_s, counts_s in ((1, 60), (30, 60), (300, 600)):
        gate = replace(GATE, interval_s=interval_s)
        state, now = walk(gate, GOOD)
        assert has_passed(state, gate, now=now + timedelta(seconds=counts_s))
        assert not has_passed(state, gate, now=now + timedelta(seconds=counts_s + 1))
        assert not has_passed(state, gate, now=now - timedelta(hours=1))  # the clock was set back


def test_it_has_not_passed_while_it_fails_or_measures_nothing() -> None:
    for last in (BAD, NOTHING, DOWN):
        state, now = walk(GATE, GOOD, GOOD, last)
        assert not has_passed(state, GATE, now=now)
        assert not has_failed(state, GATE, now=now)


def test_it_fails_by_failures_in_a_row() -> None:
    state, now = walk(GATE, BAD, GOOD, BAD)
    assert not has_failed(state, GATE, now=now)
    state, now = walk(GATE, BAD, GOOD, BAD, NOTHING, DOWN, BAD)
    assert has_failed(state, GATE, now=now)
    assert why_failed(state, GATE) == "gate errors failed on ray: 0.5 is not <= 0.02 (2 times in a row)"


def test_it_fails_when_it_measured_nothing_for_too_long() -> None:
    gate = replace(GATE, no_data_s=60)
    state, now = walk(gate, GOOD, DOWN, NOTHING)
    assert not has_failed(state, gate, now=now)
    assert has_failed(state, gate, now=now + timedelta(seconds=30))
    state, now = walk(gate, GOOD, DOWN, NOTHING, NOTHING)
    assert has_failed(state, gate, now=now)
    assert why_failed(state, gate) == "gate errors measured nothing on ray for 60 s: the query found no series"


def test_one_number_makes_the_waiting_begin_anew() -> None:
    gate = replace(GATE, no_data_s=60)
    state, now = walk(gate, NOTHING, NOTHING, BAD, NOTHING, NOTHING)
    assert state.no_data_since == now - timedelta(seconds=30)
    assert not has_failed(state, gate, now=now)


def test_no_data_counts_as_a_failure_where_the_policy_says_so() -> None:
    gate = replace(GATE, on_no_data=OnNoData.FAIL)
    state, now = walk(gate, NOTHING, NOTHING)
    assert has_failed(state, gate, now=now)


def test_that_nobody_answers_is_no_failure_of_the_version_even_then() -> None:
    gate = replace(GATE, on_no_data=OnNoData.FAIL)
    state, now = walk(gate, DOWN, DOWN, DOWN)
    assert not has_failed(state, gate, now=now)
    assert has_failed(state, gate, now=at(30 + gate.no_data_s))


def test_it_is_asked_first_after_one_interval() -> None:
    assert due_at(NEW, GATE) == at(30)
    assert due_at(replace(NEW, last_at=at(42)), GATE) == at(72)


def test_a_clock_that_was_set_back_keeps_no_gate_from_being_measured() -> None:
    measured, patient = replace(NEW, last_at=at(7200)), replace(NEW, last_at=at(7200), no_data_since=at(7200))
    assert not is_due(measured, GATE, now=at(7201))
    assert not is_due(measured, GATE, now=at(7190))  # another worker's clock is a little behind
    assert is_due(measured, GATE, now=at(7230))
    assert is_due(measured, GATE, now=at(60))
    waiting = after(patient, judge(GATE, NOTHING), GATE, at=at(60))
    assert has_failed(waiting, GATE, now=at(60 + GATE.no_data_s))


def test_what_is_kept_is_what_was_measured() -> None:
    full = after(NEW, Measurement(Verdict.NO_DATA, None, "nothing"), GATE, at=at(30))
    states = (NEW, full, replace(full, gate="other", verdict=Verdict.PASSED, value=0.25, passes=3))
    kept = json.loads(json.dumps(states_document([NEW, replace(full, target="kserve"), states[2]])))
    assert states_from_document(kept) == (NEW, replace(full, target="kserve"), states[2])


# Which gates a step asks.

PLAN = Rollout(Strategy.CANARY, (Step(0), Step(10), Step(100, 60)), (GATE, COMPARING))


@pytest.mark.parametrize(
    ("step", "names"),
    [
        (Step(10), ["errors", "slower"]),
        (Step(10, 60, ("slower",)), ["slower"]),
        (Step(0, 60), []),
        (Step(0, 60, ("errors",)), ["errors"]),
        (Step(100, 60), ["errors"]),
        (EVERYTHING, []),
    ],
)
def test_a_step_asks_what_it_names_or_all_that_can_tell_anything(step: Step, names: list[str]) -> None:
    assert [gate.name for gate in asked(PLAN, step, has_stable=True)] == names


def test_nothing_is_compared_with_a_version_that_there_is_not() -> None:
    assert asked(PLAN, Step(10), has_stable=False) == (GATE,)
    assert asked(PLAN, Step(10, 60, ("slower",)), has_stable=False) == ()
