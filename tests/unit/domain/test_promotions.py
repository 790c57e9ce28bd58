"""The moves of a promotion, and decisions on it."""

from __future__ import annotations

from dataclasses import replace
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
    measured,
    moved,
    voided,
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


def test_only_void_approvals_bring_a_promotion_back_to_a_state_it_left() -> None:
    def visit(state: State, path: tuple[State, ...]) -> None:
        assert state not in path
        for following in MOVES[state] - again.get(state, set()):
            visit(following, (*path, state))

    # The alias moves once: before the targets are called, or after.
    for order in ({State.APPLIED: {State.ROLLING_OUT}}, {State.ROLLING_OUT: {State.APPLYING}}):
        again = {State.APPROVED: {State.PENDING}, **order}
        visit(State.PENDING, ())


def test_an_alias_is_never_moved_without_an_approval() -> None:
    assert {state for state in State if State.APPLYING in MOVES[state]} == {State.APPROVED, State.ROLLING_OUT}
    assert {state for state in State if State.ROLLING_OUT in MOVES[state]} == {State.APPROVED, State.APPLIED}
    assert {state for state in State if State.APPROVED in MOVES[state]} == {State.PENDING}
    assert {state for state in State if State.APPLIED in MOVES[state]} == {State.APPLYING}


def test_what_is_in_flight_cannot_be_withdrawn_or_rejected() -> None:
    for state in IN_FLIGHT:
        assert not MOVES[state] & {State.WITHDRAWN, State.REJECTED}


def test_the_named_sets_of_states_agree_with_the_table() -> None:
    assert {state for state in State if State.SUPERSEDED in MOVES[state]} >= TAKES_NEWER
    assert {state for state in State if State.REJECTED in MOVES[state]} == UNDECIDED
    assert {state for state in State if MOVES[state]} - GOOD - {State.FAILED, State.SUPERSEDED} == UNSETTLED
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
        decided(once, decision())


def test_who_approved_may_still_reject_and_not_the_other_way_round() -> None:
    regretted = decided(decided(promotion(), decision()), decision(outcome=Outcome.REJECT))
    assert [each.outcome for each in regretted.decisions] == [Outcome.APPROVE, Outcome.REJECT]
    with pytest.raises(AlreadyDecided):
        decided(regretted, decision())


def test_an_approved_promotion_takes_a_rejection_and_no_approval() -> None:
    assert decided(promotion(State.APPROVED), decision(outcome=Outcome.REJECT)).decisions
    with pytest.raises(IllegalMove):
        decided(promotion(State.APPROVED), decision())


def test_the_word_of_one_person_counts_once_whoever_speaks_it() -> None:
    spoken = decided(promotion(), decision())
    with pytest.raises(AlreadyDecided):
        decided(
            spoken, replace(decision(), principal_id="https://idp|dan", on_behalf_of=(decision().principal_id, "x"))
        )


def test_void_approvals_are_of_an_earlier_round_and_one_may_decide_again() -> None:
    approved = moved(decided(promotion(), decision()), State.APPROVED, at=NOON)
    void = voided(approved, "candidate.tags.risk was low and is high", at=NOON)
    assert (void.state, void.round, void.standing_decisions) == (State.PENDING, 2, ())
    again = decided(void, decision())
    assert [each.round for each in again.decisions] == [1, 2]
    assert len(again.standing_decisions) == 1


def test_a_digest_is_pinned_once() -> None:
    unread = replace(promotion(), digest=None)
    known = measured(unread, "sha256:" + "0" * 64, at=NOON)
    with pytest.raises(IllegalMove):
        measured(known, "sha256:" + "1" * 64, at=NOON)


def test_an_applied_promotion_is_settled_only_when_its_policy_names_no_target() -> None:
    applied = promotion(State.APPLIED)
    assert applied.is_settled
    assert not replace(applied, policy=replace(DEFAULT_POLICY, targets=("ray",))).is_settled


@given(st.sampled_from(State))
def test_a_settled_promotion_is_where_nothing_happens_by_itself(state: State) -> None:
    by_itself = {State.APPLYING, State.APPLIED, State.ROLLING_OUT, State.LIVE, State.APPROVED}
    if promotion(state).is_settled:
        assert not MOVES[state] & (by_itself - {State.ROLLING_OUT, State.LIVE})


def test_moving_the_alias_is_remembered() -> None:
    applied = moved(promotion(State.APPLYING), State.APPLIED, at=NOON)
    failed = moved(moved(applied, State.ROLLING_OUT, at=NOON), State.FAILED, at=NOON)
    assert failed.alias_moved
    assert failed.applied_at == NOON
