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
    is_refused,
    judged,
    meaning_of,
    pause_before_calling_again,
    served_in_words,
    shares_in_words,
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
        "ready_at": NOW - timedelta(hours=1),
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


NEVER: dict[str, Any] = {"ready_at": None, "served": None}
BEFORE: dict[str, Any] = {"ready_at": None, "served": Served("6", 2, "prm_0", NOW)}
CASES: list[tuple[Drift | None, dict[str, Any]]] = [
    (None, {}),
    (None, {"serving": ()}),  # it does not say
    (None, {"serving": (Serving("7", 100, is_ready=True, digest=OURS),)}),
    (Drift.OTHER_BYTES, {"serving": (Serving("7", 100, is_ready=True, digest=OTHERS),)}),
    (Drift.OTHER_VERSION, {"serving": (Serving("7", 90, is_ready=True), Serving("5", 10, is_ready=True))}),
    (None, {"serving": (Serving("7", 100, is_ready=True), Serving("5", 0, is_ready=True))}),  # warm, for a way back
    (Drift.OTHER_VERSION, {"phase": Phase.SUPERSEDED}),
    (Drift.OTHER_VERSION, {"phase": Phase.SUPERSEDED, "observed_generation": 5}),
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
    (
        None,
        {"phase": Phase.REQUESTED, **NEVER, "serving": (Serving("6", 100, is_ready=True),)},
    ),
    (
        None,
        {
            "phase": Phase.PROGRESSING,
            "ready_at": None,
            "served": Served("6", 2, "prm_0", NOW),
            "reason": Reason.NO_CAPACITY,
        },
    ),
    # It ended without ever having been ready.
    (
        Drift.OTHER_VERSION,
        {"phase": Phase.FAILED, **NEVER, "serving": (Serving("6", 100, is_ready=True),)},
    ),
    (Drift.UNHEALTHY, {"phase": Phase.FAILED, **NEVER, "serving": ()}),
    # Taken away.
    (None, {"action": Action.REMOVE, **NEVER, "serving": ()}),
    (Drift.OTHER_VERSION, {"action": Action.REMOVE, **NEVER}),
    (
        None,
        {
            "action": Action.REMOVE,
            "ready_at": None,
            "served": None,
            "serving": (),
            "obstacle": "no answer",
            "heard_at": None,
        },
    ),
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
    assert drift_of(deployment(phase=Phase.FAILED, **NEVER), Standing(NOW)) is None
    assert drift_of(deployment(phase=Phase.FAILED, **NEVER), APPROVED) is Drift.UNHEALTHY


def test_messages_say_what_is_served_and_what_should_be() -> None:
    served = (Serving("7", 90, is_ready=True), Serving("5", 10, is_ready=False))
    message = drift_message(judged(deployment(serving=served), APPROVED))
    assert message == ("It serves version 7 (90 %) and version 5 (10 %, not ready), and is to serve version 7 (100 %).")
    lost = judged(deployment(phase=Phase.ERRORED, reason=Reason.UNHEALTHY, message="out of memory."), APPROVED)
    assert drift_message(lost) == "Version 7 is not well (Unhealthy: out of memory)."
    elsewhere = deployment(phase=Phase.SUPERSEDED, observed_generation=5, serving=(Serving("8", 100, is_ready=True),))
    assert drift_message(judged(elsewhere, APPROVED)) == (
        "It says that generation 5, newer than generation 3, was asked of it. "
        "It serves version 8 (100 %), and is to serve version 7 (100 %)."
    )
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
        (Health.UNKNOWN, {"phase": Phase.PROGRESSING, **NEVER}),
        (Health.UNKNOWN, {"phase": Phase.REQUESTED, **BEFORE}),
        (Health.UNKNOWN, {"drift": Drift.SILENT}),
        (Health.UNKNOWN, {"phase": Phase.SUPERSEDED, "observed_generation": 5}),
        (Health.GONE, {"action": Action.REMOVE}),
    ],
)
def test_health_is_what_was_reported_last(health: Health, changed: dict[str, Any]) -> None:
    assert deployment(**changed).health is health


# Called again.


def test_what_a_target_goes_on_not_knowing_of_is_called_ever_more_rarely() -> None:
    pauses = [
        pause_before_calling_again(deployment(heard_at=NOW), NOW + timedelta(minutes=at))
        for at in (-5, 1, 2, 4, 8, 500)
    ]
    assert [pause / timedelta(minutes=1) for pause in pauses] == [-5, 1, 2, 4, 8, 60]


def test_what_a_target_refused_is_not_sent_again() -> None:
    assert is_refused(deployment(phase=Phase.FAILED, reason=Reason.CALL_REFUSED))
    assert not is_refused(deployment(phase=Phase.FAILED, reason=Reason.MODEL_LOAD_FAILED))
    assert not is_refused(deployment())


# What is served, since when.


def ready(present: Deployment, **changed: Any) -> Deployment:
    """What was desired changes, and the target is ready with that."""
    asked = replace(present, generation=present.generation + 1, phase=Phase.REQUESTED, ready_at=None, **changed)
    said = report(Phase.READY, generation=asked.generation, observed_generation=asked.generation)
    after = observed(asked, said, at=NOW)
    assert after is not None
    assert (after.ready_at, after.was_ready) == (NOW, after.action is Action.APPLY)
    return after


def test_since_when_a_version_is_served_lasts_until_another_gets_all_requests() -> None:
    first = deployment()
    assert ready(first).served == first.served
    newer = Bytes("7", "s3://b/7/", OURS)
    dark = ready(first, version="8", promotion_id="prm_2", weight=0, stable=newer)
    canary = ready(dark, weight=10)
    assert (dark.served, canary.served) == (first.served, first.served)
    back = ready(canary, version="7", weight=100, stable=None)
    assert back.served == first.served
    whole = ready(canary, weight=100)
    assert whole.served == Served("8", 6, "prm_2", NOW)
    failed = observed(deployment(version="8", ready_at=None), report(Phase.FAILED), at=NOW)
    assert failed is not None
    assert (failed.served, failed.was_ready) == (first.served, False)
    assert ready(first, action=Action.REMOVE).served is None


def test_a_generation_was_ready_when_it_was_so_first() -> None:
    again = observed(deployment(), report(Phase.READY), at=NOW)
    assert again is not None
    assert again.ready_at == deployment().ready_at


CANARY = {"version": "8", "weight": 10, "stable": Bytes("7", "s3://b/7/", OURS)}


@pytest.mark.parametrize(
    ("words", "alone", "desired", "changed"),
    [
        ("version 7", True, True, {}),
        ("version 7 (not ready)", True, True, {"serving": (Serving("7", 100, is_ready=False),)}),
        (
            "version 7 (90 %) and version 8 (10 %, not ready)",
            False,
            True,
            {**CANARY, "serving": (Serving("8", 10, is_ready=False), Serving("7", 90, is_ready=True))},
        ),
        # Loaded, and without requests.
        ("version 7", True, False, {**CANARY, "serving": (Serving("8", 0, True), Serving("7", 100, True))}),
        ("version 5", False, False, {"serving": (Serving("5", 100, is_ready=True),)}),
        ("", False, False, {"serving": (Serving("7", 0, is_ready=True),)}),
        # It does not say.
        ("version 7 (90 %) and version 8 (10 %)", False, True, {**CANARY, "serving": ()}),
        ("version 7", True, False, {**CANARY, "serving": (), "phase": Phase.REQUESTED}),
        ("", False, False, {"serving": (), "phase": Phase.REQUESTED, "served": None}),
        ("", False, True, {"serving": (), "action": Action.REMOVE, "served": None}),
    ],
)
def test_what_is_served_is_what_gets_requests(
    words: str, changed: dict[str, Any], *, alone: bool, desired: bool
) -> None:
    found = deployment(**changed)
    assert (shares_in_words(found), found.serves_alone, found.shares_as_desired) == (words, alone, desired)


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
