"""What people are told of events."""

from __future__ import annotations

import pytest

from app.domain.events import CATALOGUE, EventType, is_alarm
from app.domain.notifications import LABELS, QUIET_EVENTS, TITLES, notification_of

URL = "https://gate.example"
PROMOTION = {
    "workspace": "default",
    "model": "iris",
    "alias": "production",
    "promotion": "prm_1",
    "from_version": "6",
    "to_version": "7",
    "reason": None,
    "requested_by": "ann@example.com",
    "approved_by": ["bob", "eve"],
    "by": "worker",
}


def message(kind: str, **data: object) -> dict[str, object]:
    return {"type": f"countersign.{kind}.v1", "source": URL, "data": PROMOTION | data}


def test_people_are_told_of_every_kind_of_event() -> None:
    assert set(TITLES) == set(EventType)
    for kind in EventType:
        members = dict.fromkeys(CATALOGUE[kind].data, "x")
        told = notification_of({"type": f"countersign.{kind.value}.v1", "data": members}, public_url=URL)
        assert "?" not in told.title
        assert told.text.startswith(CATALOGUE[kind].meaning)
        assert told.is_alarm is is_alarm(kind)


def test_every_alarm_but_those_of_deployments_is_told_unasked() -> None:
    # A deployment that failed fails its promotion, which is told.
    alarms = {kind for kind in EventType if is_alarm(kind)} - {EventType.DEPLOYMENT_FAILED}
    assert alarms <= set(QUIET_EVENTS)


def test_only_what_events_say_has_a_label() -> None:
    said = {name for kind in CATALOGUE.values() for name in kind.data}
    assert set(LABELS) <= said


def test_a_promotion_that_waits_is_told_in_plain_words_with_a_link() -> None:
    told = notification_of(message("promotion.ready_for_decision", waits_for="one of mlops"), public_url=URL)
    assert told.title == "iris 7 → @production: waits for a decision"
    assert told.text.splitlines()[1:] == [
        "Still missing: one of mlops",
        "Instead of version: 6",
        "Asked for by: ann@example.com",
        "Approved by: bob and eve",
        "By: worker",
    ]
    assert told.link == "https://gate.example/console/promotions/prm_1"


def test_what_goes_without_saying_is_not_said() -> None:
    told = notification_of(message("promotion.requested", by="ann@example.com", workspace="team-a"), public_url=URL)
    assert "By: ann@example.com" not in told.text.splitlines()
    assert told.text.splitlines()[-1] == "Workspace: team-a"


def test_what_is_of_no_promotion_leads_to_the_console() -> None:
    told = notification_of(
        {"type": "countersign.endpoint.disabled.v1", "data": {"endpoint": "ci", "reason": "away"}}, public_url=URL
    )
    assert told.title == "Endpoint ci is sent nothing any more"
    assert told.link == "https://gate.example/console/endpoints"
    assert notification_of({"type": "countersign.policy.changed.v1"}, public_url=URL).link == f"{URL}/console"


def test_a_version_that_is_not_there_is_said() -> None:
    moved = {
        "type": "countersign.alias.moved.v1",
        "data": {"model": "iris", "alias": "a", "version": "7", "from_version": None},
    }
    assert notification_of(moved, public_url=URL).title == "iris@a moved from none to 7"


@pytest.mark.parametrize(
    "words",
    [
        "<https://evil.example|Approve here>",
        "[Approve here](https://evil.example)",
        "<!channel> <@U123> <at>everyone</at>",
        "www.evil.example http://evil.example",
        "\u202eevil\u0000\x1b[31m",
        "a\nBy: somebody else",
    ],
)
@pytest.mark.parametrize("name", ["model", "reason", "requested_by", "comment"])
def test_what_anybody_wrote_becomes_no_link_no_mention_and_no_line(name: str, words: str) -> None:
    told = notification_of(message("promotion.failed", **{name: words}), public_url=URL)
    shown = f"{told.title}\n{told.text}"
    assert not any(each in shown for each in ("<", ">", "](", "://", "www.", "\u202e", "\x00", "\x1b"))
    plain = notification_of(message("promotion.failed", **{name: "x"}), public_url=URL)
    assert len(told.text.splitlines()) == len(plain.text.splitlines())


def test_a_promotion_id_cannot_change_the_link() -> None:
    told = notification_of(message("promotion.failed", promotion="../../x?y#z"), public_url=URL)
    assert told.link == "https://gate.example/console/promotions/..%2F..%2Fx%3Fy%23z"


@pytest.mark.parametrize("given", [{}, {"type": 7, "data": []}, {"type": "other.kind.v1", "data": None}])
def test_an_event_of_another_kind_is_told_too(given: dict[str, object]) -> None:
    assert notification_of(given, public_url=URL).title == "Something happened"


def test_long_words_are_cut() -> None:
    told = notification_of(message("promotion.failed", model="m" * 5000, reason="r" * 5000), public_url=URL)
    assert len(told.title) <= 150
    assert len(told.text) < 2000
