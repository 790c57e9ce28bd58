"""Reports that count and reports that are late; when a delivery is tried again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.deliveries import (
    PATIENCE,
    SHORTEST_WAIT_S,
    Attempt,
    Cause,
    Delivery,
    DeliveryState,
    Receiver,
    ReceiverKind,
    after,
    is_final_refusal,
    lane_of,
)
from app.domain.deployments import Deployment, Report, given_up, observed
from app.domain.phases import Phase, Reason
from app.domain.receiver_health import (
    DISABLED_AFTER,
    LONGEST_PAUSE_S,
    TRIPS_AT,
    WELL,
    Health,
    after_failure,
    is_to_be_disabled,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
AT_ONCE = timedelta(0)
DEPLOYMENT = Deployment(
    id="dep_1",
    target="ray",
    model="m",
    generation=3,
    version="2",
    uri="file:///a/",
    digest="sha256:" + "0" * 64,
    promotion_id="prm_1",
    phase=Phase.REQUESTED,
    reason="",
    message="",
    observed_generation=0,
    sequence=0,
    requested_at=NOON,
    updated_at=NOON,
)


def report(phase: Phase = Phase.READY, *, generation: int = 3, sequence: int = 1) -> Report:
    return Report(generation, generation, sequence, phase, "", "")


def test_a_report_for_the_desired_generation_counts() -> None:
    after = observed(DEPLOYMENT, report(), at=NOON)
    assert after
    assert after.is_ready


@pytest.mark.parametrize("generation", [1, 2])
def test_a_report_for_an_earlier_generation_changes_nothing(generation: int) -> None:
    assert observed(DEPLOYMENT, report(generation=generation), at=NOON) is None


def test_a_report_for_a_later_generation_says_that_the_desired_one_will_not_be() -> None:
    """The database was restored, or somebody else calls the target."""
    ready = observed(DEPLOYMENT, report(sequence=9), at=NOON)
    assert ready
    behind = observed(ready, report(generation=5), at=NOON)
    assert behind
    assert (behind.phase, behind.observed_generation, behind.ready_at) == (Phase.SUPERSEDED, 5, NOON)
    assert (behind.is_behind, behind.is_ready, behind.has_failed) == (True, False, True)
    assert behind.message == "It was asked for generation 5 before, and we are at 3."
    assert observed(behind, report(generation=5), at=NOON) is None  # nothing new
    # What was recorded before is not believed; that it is back is, of an answer.
    assert observed(behind, report(sequence=10), at=NOON) is None
    back = observed(behind, report(sequence=10), at=NOON, asked_after=behind.sequence)
    assert back
    assert (back.is_behind, back.is_ready) == (False, True)
    assert observed(DEPLOYMENT, replace(report(generation=5), observed_generation=3), at=NOON) is None


def test_a_new_generation_begins_its_own_sequence() -> None:
    earlier = replace(DEPLOYMENT, observed_generation=2, sequence=99)
    assert observed(earlier, report(sequence=1), at=NOON) is not None


@given(st.permutations(range(1, 6)))
def test_whatever_order_reports_arrive_in_the_last_one_sent_wins(order: list[int]) -> None:
    phases = {1: Phase.ACCEPTED, 2: Phase.PROGRESSING, 3: Phase.PROGRESSING, 4: Phase.PROGRESSING, 5: Phase.READY}
    present = DEPLOYMENT
    for sequence in [*order, *order]:
        present = observed(present, report(phases[sequence], sequence=sequence), at=NOON) or present
    assert present.phase is Phase.READY
    assert present.sequence == 5


def test_what_was_given_up_has_failed() -> None:
    assert given_up(DEPLOYMENT, reason=Reason.UNREACHABLE, message="m", at=NOON).has_failed


@pytest.mark.parametrize("kind", ReceiverKind)
@given(attempt=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_the_wait_between_attempts_is_bounded(kind: ReceiverKind, attempt: int, chance: float) -> None:
    patience = PATIENCE[kind]
    assert 0 < patience.wait_before(attempt, chance=chance) <= patience.longest_wait_s


@pytest.mark.parametrize("kind", ReceiverKind)
def test_a_receiver_may_ask_for_time(kind: ReceiverKind) -> None:
    patience = PATIENCE[kind]
    assert patience.wait_before(1, chance=0, retry_after_s=30) == 30
    assert patience.wait_before(1, chance=0, retry_after_s=0) == SHORTEST_WAIT_S
    assert patience.wait_before(1, chance=0, retry_after_s=1e9) == patience.longest_wait_s


def test_one_that_always_asks_for_no_time_is_not_tried_more_often_for_it() -> None:
    patience = PATIENCE[ReceiverKind.ENDPOINT]
    assert patience.wait_before(12, chance=0.5, retry_after_s=0) == patience.wait_before(12, chance=0.5) > 1000


def test_a_message_is_not_given_up_before_it_was_tried_some_times_whatever_the_clock_says() -> None:
    assert attempted(500, number=2, age=timedelta(days=6)).state is DeliveryState.PENDING
    assert attempted(500, number=10, age=timedelta(days=6)).state is DeliveryState.DEAD
    assert attempted(500, number=2, to=ReceiverKind.TARGET, age=timedelta(days=6)).state is DeliveryState.DEAD


def attempted(
    status: int | None, *, number: int = 1, to: ReceiverKind = ReceiverKind.ENDPOINT, age: timedelta = AT_ONCE
) -> Delivery:
    """A delivery of some age, after an attempt that was answered so."""
    delivery = Delivery(
        id="dlv_1",
        receiver=Receiver(to, "r"),
        lane="m",
        message_id="evn_1",
        event_type="promotion.applied",
        subject="prm_1",
        body="{}",
        cause=Cause.EVENT,
        created_at=NOON - age,
        next_attempt_at=NOON,
        attempts=number - 1,
    )
    return after(delivery, Attempt(number, NOON, 1, status, None, ""), at=NOON, chance=1.0)


def test_an_endpoint_that_never_answers_is_tried_ten_times_and_more_over_days() -> None:
    number, at = 1, timedelta(0)
    while (tried := attempted(None, number=number, age=at)).state is DeliveryState.PENDING:
        assert tried.next_attempt_at
        number, at = number + 1, at + (tried.next_attempt_at - NOON)
    assert tried.state is DeliveryState.DEAD
    # Standard Webhooks: ten attempts over some 75 hours.
    assert number >= 10
    assert at > timedelta(hours=75)


@pytest.mark.parametrize(
    ("status", "endpoint", "target"),
    [
        (200, DeliveryState.DELIVERED, DeliveryState.DELIVERED),
        (204, DeliveryState.DELIVERED, DeliveryState.DELIVERED),
        (302, DeliveryState.PENDING, DeliveryState.DEAD),
        (404, DeliveryState.PENDING, DeliveryState.DEAD),
        (410, DeliveryState.DEAD, DeliveryState.DEAD),
        (429, DeliveryState.PENDING, DeliveryState.PENDING),
        (500, DeliveryState.PENDING, DeliveryState.PENDING),
        (None, DeliveryState.PENDING, DeliveryState.PENDING),
    ],
)
def test_a_refusal_ends_a_call_to_a_target_and_an_endpoint_may_be_repaired(
    status: int | None, endpoint: DeliveryState, target: DeliveryState
) -> None:
    assert attempted(status).state is endpoint
    assert attempted(status, to=ReceiverKind.TARGET).state is target


def test_a_lane_is_a_model_with_its_workspace() -> None:
    assert (lane_of("default", "iris"), lane_of("team-a", "iris")) == ("iris", "team-a/iris")
    assert lane_of("default", "") == lane_of("", "") == lane_of("team-a", "") == ""


# How a receiver does.


def failed(times: int, *, health: Health = WELL, retry_after_s: float | None = None) -> Health:
    for _ in range(times):
        health = after_failure(health, at=NOON, chance=1.0, retry_after_s=retry_after_s)
    return health


def test_a_receiver_that_fails_now_and_then_is_sent_to_as_before() -> None:
    health = failed(TRIPS_AT - 1)
    assert (health.is_away, health.lanes(8, NOON)) == (False, 8)


def test_one_that_fails_again_and_again_is_left_alone_for_a_while_and_then_tried_by_one() -> None:
    health = failed(TRIPS_AT)
    assert health.pause_until
    assert (health.is_away, health.lanes(8, NOON)) == (True, 0)
    assert health.lanes(8, health.pause_until) == 1
    # Those that were on their way when it was found to be away say nothing new.
    assert failed(50, health=health) == health


@given(st.lists(st.floats(0, 1), max_size=60))
def test_the_pauses_of_one_that_is_away_are_bounded(chances: list[float]) -> None:
    at, health = NOON, failed(TRIPS_AT)
    for chance in chances:
        assert health.pause_until
        assert timedelta(0) < health.pause_until - at <= timedelta(seconds=LONGEST_PAUSE_S)
        at = health.pause_until
        health = after_failure(health, at=at, chance=chance)


def test_one_that_asks_for_time_is_given_it_for_all_its_messages_and_an_hour_at_most() -> None:
    asked = failed(1, retry_after_s=60)
    assert (asked.lanes(8, NOON), asked.lanes(8, NOON + timedelta(seconds=60))) == (0, 8)
    assert failed(1, retry_after_s=1e9).lanes(8, NOON + timedelta(hours=1)) == 8


def test_one_that_failed_for_days_is_to_be_disabled() -> None:
    assert not is_to_be_disabled(None, NOON)
    assert not is_to_be_disabled(NOON - DISABLED_AFTER + timedelta(seconds=1), NOON)
    assert is_to_be_disabled(NOON - DISABLED_AFTER, NOON)


@pytest.mark.parametrize(
    ("status", "final"),
    [
        (301, True),
        (400, True),
        (401, True),
        (408, False),
        (410, True),
        (422, True),
        (425, False),
        (429, False),
        (500, False),
    ],
)
def test_trying_again_stops_where_it_is_no_use(status: int, final: bool) -> None:
    assert is_final_refusal(status) is final
