"""What counts as drift, how a deployment does, and what an answer to a question means."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.deployments import (
    HEALTH,
    Action,
    Bytes,
    Deployment,
    Drift,
    Health,
    Report,
    Served,
    Serving,
    observed,
)
from app.domain.inventory import (
    RULES,
    SILENT_AFTER,
    Meaning,
    Standing,
    drift_message,
    drift_of,
    judged,
    meaning_of,
    served_in_words,
)
from app.domain.phases import Phase, Reason

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OURS, OTHERS = "sha256:" + "a" * 64, "sha256:" + "b" * 64
STABLE = Bytes("6", "s3://b/6/", OTHERS)
APPROVED = Standing(NOW, frozenset({"7"}))


def deployment(**changed: Any) -> Deployment:
    """Version 7 with all requests, ready since an hour."""
    served = Served("7", 3, "prm_1", NOW - timedelta(hours=1))
    values: dict[str, Any] = {
        "id": "dep_1",
        "target": "ray",
        "model": "iris",
        "generation": 3,
        "version": "7",
        "uri": "s3://b/7/",
        "digest": OURS,
        "promotion_id": "prm_1",
        "phase": Phase.READY,
        "reason": Reason.NONE,
        "message": "",
        "observed_generation": 3,
        "sequence": 5,
        "requested_at": NOW - timedelta(hours=1),
        "updated_at": NOW - timedelta(hours=1),
        "heard_at": NOW,
        "served": served,
        "serving": (Serving("7", 100, is_ready=True),),
        **changed,
    }
    return Deployment(**values)


def report(phase: Phase, *, sequence: int = 6, **changed: Any) -> Report:
    return Report(
        **{"generation": 3, "observed_generation": 3, "reason": Reason.NONE, "message": "", **changed},
        sequence=sequence,
        phase=phase,
    )


CASES: list[tuple[Drift | None, dict[str, Any]]] = [
    (None, {}),
    (None, {"serving": ()}),  # it does not say
    (None, {"serving": (Serving("7", 100, is_ready=True, digest=OURS),)}),
    (Drift.OTHER_BYTES, {"serving": (Serving("7", 100, is_ready=True, digest=OTHERS),)}),
    (Drift.OTHER_VERSION, {"serving": (Serving("7", 90, is_ready=True), Serving("5", 10, is_ready=True))}),
    (None, {"serving": (Serving("7", 100, is_ready=True), Serving("5", 0, is_ready=True))}),  # warm, for a way back
    (Drift.OTHER_VERSION, {"phase": Phase.SUPERSEDED}),
    (Drift.OTHER_WEIGHT, {"serving": (Serving("7", 90, is_ready=True),)}),
    (
        None,
        {"weight": 10, "stable": STABLE, "serving": (Serving("7", 10, is_ready=True), Serving("6", 90, is_ready=True))},
    ),
    (
        Drift.OTHER_BYTES,
        {"weight": 10, "stable": STABLE, "serving": (Serving("7", 10, True), Serving("6", 90, True, digest=OURS))},
    ),
    (Drift.MISSING, {"phase": Phase.ERRORED, "reason": Reason.UNHEALTHY, "serving": ()}),
    (Drift.MISSING, {"phase": Phase.PROGRESSING, "serving": (Serving("7", 100, is_ready=False),)}),
    (Drift.UNHEALTHY, {"phase": Phase.PROGRESSING, "reason": Reason.NO_CAPACITY}),
    (Drift.UNHEALTHY, {"phase": Phase.FAILED, "reason": Reason.UNHEALTHY}),
    (None, {"phase": Phase.PROGRESSING}),  # ready still, and something is being put right
    (Drift.UNAPPROVED, {"version": "8", "served": Served("8", 3, "prm_1", NOW), "serving": ()}),
    (None, {"obstacle": "no answer", "heard_at": NOW - SILENT_AFTER}),
    (Drift.SILENT, {"obstacle": "no answer", "heard_at": NOW - SILENT_AFTER - timedelta(seconds=1)}),
    (Drift.SILENT, {"obstacle": "no answer", "heard_at": None}),
    (None, {"obstacle": None, "heard_at": NOW - timedelta(days=9)}),  # it answers no questions, and needs not
    # Under way: its promotion tells that.
    (None, {"phase": Phase.REQUESTED, "served": None, "serving": (Serving("6", 100, is_ready=True),)}),
    (None, {"phase": Phase.PROGRESSING, "served": Served("6", 2, "prm_0", NOW), "reason": Reason.NO_CAPACITY}),
    # It ended without ever having been ready.
    (Drift.OTHER_VERSION, {"phase": Phase.FAILED, "served": None, "serving": (Serving("6", 100, is_ready=True),)}),
    (Drift.UNHEALTHY, {"phase": Phase.FAILED, "served": None, "serving": ()}),
    # Taken away.
    (None, {"action": Action.REMOVE, "served": None, "serving": ()}),
    (Drift.OTHER_VERSION, {"action": Action.REMOVE, "served": None}),
    (None, {"action": Action.REMOVE, "served": None, "serving": (), "obstacle": "no answer", "heard_at": None}),
]


@pytest.mark.parametrize(("drift", "changed"), CASES)
def test_drift_is_what_the_table_says(drift: Drift | None, changed: dict[str, Any]) -> None:
    found = judged(deployment(**changed), APPROVED)
    assert found.drift is drift
    assert found.drifted_since == (NOW if drift else None)
    assert bool(drift_message(found)) == bool(drift)


def test_every_kind_of_drift_has_a_rule_and_a_case() -> None:
    assert {drift for drift, _ in RULES} == set(Drift) == {drift for drift, _ in CASES} - {None}


def test_a_drift_that_lasts_began_when_it_was_found_first() -> None:
    first = judged(deployment(phase=Phase.SUPERSEDED), APPROVED)
    later = judged(first, Standing(NOW + timedelta(hours=1), APPROVED.approved))
    assert later == first
    other = judged(replace(first, phase=Phase.FAILED), Standing(NOW + timedelta(hours=1), APPROVED.approved))
    assert (other.drift, other.drifted_since) == (Drift.UNHEALTHY, NOW + timedelta(hours=1))


def test_while_a_promotion_moves_things_what_was_found_unapproved_stays_and_nothing_new_is() -> None:
    unapproved = deployment(version="8", serving=(), served=Served("8", 3, "prm_1", NOW))
    assert drift_of(unapproved, Standing(NOW)) is None
    assert drift_of(judged(unapproved, APPROVED), Standing(NOW)) is Drift.UNAPPROVED


def test_a_failure_before_it_was_ever_ready_is_its_promotions_to_tell_while_that_goes_on() -> None:
    assert drift_of(deployment(phase=Phase.FAILED, served=None), Standing(NOW)) is None
    assert drift_of(deployment(phase=Phase.FAILED, served=None), APPROVED) is Drift.UNHEALTHY


def test_messages_say_what_is_served_and_what_should_be() -> None:
    served = (Serving("7", 90, is_ready=True), Serving("5", 10, is_ready=False))
    message = drift_message(judged(deployment(serving=served), APPROVED))
    assert message == ("It serves version 7 (90 %) and version 5 (10 %, not ready), and is to serve version 7 (100 %).")
    lost = judged(deployment(phase=Phase.ERRORED, reason=Reason.UNHEALTHY, message="out of memory."), APPROVED)
    assert drift_message(lost) == "Version 7 is not well (Unhealthy: out of memory)."
    assert served_in_words(()) == "nothing"


# Health.


def test_health_is_total_over_the_phases() -> None:
    assert set(HEALTH) == set(Phase)


@pytest.mark.parametrize(
    ("health", "changed"),
    [
        (Health.HEALTHY, {}),
        (Health.DEGRADED, {"serving": (Serving("7", 100, is_ready=False),)}),
        (Health.DEGRADED, {"phase": Phase.PROGRESSING}),
        (Health.UNHEALTHY, {"phase": Phase.PROGRESSING, "reason": Reason.UNHEALTHY}),
        (Health.UNHEALTHY, {"phase": Phase.ERRORED}),
        (Health.UNKNOWN, {"phase": Phase.PROGRESSING, "served": None}),
        (Health.UNKNOWN, {"phase": Phase.REQUESTED, "served": Served("6", 2, "prm_0", NOW)}),
        (Health.UNKNOWN, {"drift": Drift.SILENT}),
        (Health.GONE, {"action": Action.REMOVE}),
    ],
)
def test_health_is_what_was_reported_last(health: Health, changed: dict[str, Any]) -> None:
    assert deployment(**changed).health is health


# What is served, since when.


def test_since_when_a_version_is_served_lasts_as_long_as_the_version_does() -> None:
    first = deployment().served
    assert first is not None
    again = observed(deployment(generation=4), report(Phase.READY, generation=4, observed_generation=4), at=NOW)
    assert again is not None
    assert again.served == Served("7", 4, "prm_1", first.since)
    newer = deployment(version="8", promotion_id="prm_2", served=first)
    other = observed(newer, report(Phase.READY), at=NOW)
    assert other is not None
    assert other.served == Served("8", 3, "prm_2", NOW)
    failed = observed(newer, report(Phase.FAILED), at=NOW)
    assert failed is not None
    assert failed.served == first
    gone = observed(deployment(action=Action.REMOVE), report(Phase.READY, serving=()), at=NOW)
    assert gone is not None
    assert gone.served is None


# Questions.


def test_an_answer_that_counts_anew_is_believed_unless_a_report_came_meanwhile() -> None:
    present = deployment(sequence=5)
    low = report(Phase.ERRORED, sequence=2)
    assert observed(present, low, at=NOW) is None
    believed = observed(present, low, at=NOW, asked_after=5)
    assert believed is not None
    assert (believed.phase, believed.sequence) == (Phase.ERRORED, 2)
    assert observed(present, low, at=NOW, asked_after=4) is None
    assert observed(present, report(Phase.READY, sequence=5), at=NOW, asked_after=5) is None


@pytest.mark.parametrize(
    ("status", "content_type", "meaning"),
    [
        (200, "application/json", Meaning.TOLD),
        (404, "application/problem+json; charset=utf-8", Meaning.LOST),
        (404, "text/html", Meaning.MUTE),
        (405, "application/problem+json", Meaning.MUTE),
        (501, "", Meaning.MUTE),
        (401, "application/problem+json", Meaning.AWAY),
        (302, "", Meaning.AWAY),
        (503, "", Meaning.AWAY),
        (None, "", Meaning.AWAY),
    ],
)
def test_what_an_answer_means(status: int | None, content_type: str, meaning: Meaning) -> None:
    assert meaning_of(status, content_type) is meaning
