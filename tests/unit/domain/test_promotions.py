"""The moves of a promotion, and decisions on it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import AlreadyDecided, IllegalMove
from app.domain.policies import DEFAULT_POLICY
from app.domain.promotions import (
    GOOD,
    IN_FLIGHT,
    MOVES,
    OPEN,
    TAKES_NEWER,
    UNDECIDED,
    UNSETTLED,
    Decision,
    Kind,
    Outcome,
    Promotion,
    State,
    decided,
    moved,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def promotion(state: State = State.PENDING) -> Promotion:
    return Promotion(
        id="prm_1",
        kind=Kind.PROMOTION,
        model="m",
        alias="production",
        to_version="2",
        from_version="1",
        model_created_at=1,
        run_id=None,
        source_uri="mlflow-artifacts:/1/r/artifacts/model",
        uri="file:///a/1/r/artifacts/model/",
        digest="sha256:" + "0" * 64,
        policy=DEFAULT_POLICY,
        requested_by="i|scientist",
        requested_by_name="scientist",
        reason="",
        created_at=NOON,
        updated_at=NOON,
        state=state,
    )


def decision(who: str = "approver", outcome: Outcome = Outcome.APPROVE) -> Decision:
    return Decision(principal_id=f"i|{who}", principal_name=who, outcome=outcome, reason="", decided_at=NOON)


@given(st.sampled_from(State), st.sampled_from(State))
def test_a_promotion_makes_exactly_the_moves_of_the_table(start: State, end: State) -> None:
    before = promotion(start)
    if end in MOVES[start]:
        after = moved(before, end, at=NOON, reason="because")
        assert (after.state, after.state_reason, after.revision) == (end, "because", before.revision + 1)
    else:
        with pytest.raises(IllegalMove) as refused:
            moved(before, end, at=NOON)
        assert refused.value.details["state"] == start.value


def test_every_state_is_in_the_table_and_reachable_from_pending() -> None:
    assert set(MOVES) == set(State)
    reached, frontier = {State.PENDING}, [State.PENDING]
    while frontier:
        for state in MOVES[frontier.pop()] - reached:
            reached.add(state)
            frontier.append(state)
    assert reached == set(State)


def test_no_history_returns_to_a_state_it_left() -> None:
    def visit(state: State, path: tuple[State, ...]) -> None:
        assert state not in path
        for following in MOVES[state]:
            visit(following, (*path, state))

    visit(State.PENDING, ())


def test_an_alias_is_never_moved_without_an_approval() -> None:
    assert {state for state in State if State.APPLYING in MOVES[state]} == {State.APPROVED}
    assert {state for state in State if State.APPROVED in MOVES[state]} == {State.PENDING}
    assert {state for state in State if State.APPLIED in MOVES[state]} == {State.APPLYING}


def test_what_is_in_flight_cannot_be_withdrawn_or_rejected() -> None:
    for state in IN_FLIGHT:
        assert not MOVES[state] & {State.WITHDRAWN, State.REJECTED}


def test_the_named_sets_of_states_agree_with_the_table() -> None:
    assert {state for state in State if State.SUPERSEDED in MOVES[state]} >= TAKES_NEWER
    assert {state for state in State if {State.APPROVED, State.REJECTED} <= MOVES[state]} >= UNDECIDED
    assert {state for state in State if MOVES[state]} - GOOD - {State.FAILED} == UNSETTLED
    assert all(State.ROLLED_BACK in MOVES[state] for state in GOOD)
    assert OPEN | IN_FLIGHT == UNSETTLED


@given(st.sampled_from([state for state in State if state not in UNDECIDED]), st.sampled_from(Outcome))
def test_what_is_decided_takes_no_further_decision(state: State, outcome: Outcome) -> None:
    with pytest.raises(IllegalMove) as refused:
        decided(promotion(state), decision(outcome=outcome))
    assert refused.value.details["state"] == state.value


def test_nobody_decides_twice() -> None:
    once = decided(promotion(), decision())
    with pytest.raises(AlreadyDecided):
        decided(once, decision(outcome=Outcome.REJECT))


def test_an_applied_promotion_is_settled_only_when_its_policy_names_no_target() -> None:
    from dataclasses import replace

    applied = promotion(State.APPLIED)
    assert applied.is_settled
    assert not replace(applied, policy=replace(DEFAULT_POLICY, targets=("ray",))).is_settled


@given(st.sampled_from(State))
def test_a_settled_promotion_is_where_nothing_happens_by_itself(state: State) -> None:
    by_itself = {State.APPLYING, State.APPLIED, State.ROLLING_OUT, State.LIVE, State.APPROVED}
    if promotion(state).is_settled:
        assert not MOVES[state] & (by_itself - {State.ROLLING_OUT})


def test_moving_the_alias_is_remembered() -> None:
    applied = moved(promotion(State.APPLYING), State.APPLIED, at=NOON)
    failed = moved(moved(applied, State.ROLLING_OUT, at=NOON), State.FAILED, at=NOON)
    assert failed.alias_moved
    assert failed.applied_at == NOON
