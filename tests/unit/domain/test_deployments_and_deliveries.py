"""Reports that count and reports that are late; when a delivery is tried again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.deliveries import LONGEST_WAIT_S, is_final_refusal, wait_before
from app.domain.deployments import Deployment, Phase, Report, given_up, observed

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
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


@pytest.mark.parametrize("generation", [1, 2, 4])
def test_a_report_for_another_generation_changes_nothing(generation: int) -> None:
    assert observed(DEPLOYMENT, report(generation=generation), at=NOON) is None


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
    assert given_up(DEPLOYMENT, reason="r", message="m", at=NOON).has_failed


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_wait_between_attempts_is_bounded(attempt: int, chance: float) -> None:
    assert 0 < wait_before(attempt, chance=chance) <= LONGEST_WAIT_S


def test_a_receiver_may_ask_for_time() -> None:
    assert wait_before(1, chance=0, retry_after_s=30) == 30
    assert wait_before(1, chance=0, retry_after_s=1e9) == LONGEST_WAIT_S


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
