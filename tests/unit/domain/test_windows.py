"""What windows mean together: deny wins, one that allows must be active where there are any, and when that changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidInput
from app.domain.windows import (
    HORIZON,
    Effect,
    Occurrence,
    Opening,
    Window,
    opening,
    window_document,
    window_from_document,
)

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Diary:
    """A calendar in which every occurrence is written down, in minutes after noon."""

    entries: Mapping[Window, list[tuple[int, int]]]

    def current(self, window: Window, at: datetime) -> Occurrence | None:
        covering = [entry for entry in self.entries[window] if entry[0] <= (at - NOON) / MINUTE < entry[1]]
        return _occurrence(*max(covering, key=lambda entry: entry[1])) if covering else None

    def following(self, window: Window, after: datetime) -> Occurrence | None:
        later = [entry for entry in self.entries[window] if entry[0] > (after - NOON) / MINUTE]
        return _occurrence(*min(later)) if later else None


def _occurrence(start: int, end: int) -> Occurrence:
    return Occurrence(minute(start), minute(end))


def minute(number: int) -> datetime:
    return NOON + number * MINUTE


def window(name: str, effect: Effect) -> Window:
    return Window(name, effect, "FREQ=DAILY", datetime.fromisoformat("2026-01-01T09:00"), 3_600, "Europe/Berlin")


OFFICE, NIGHT = window("office hours", Effect.ALLOW), window("night shift", Effect.ALLOW)
FREEZE = window("freeze", Effect.DENY)


def asked(at_minute: int, entries: Mapping[Window, list[tuple[int, int]]]) -> Opening:
    return opening(entries, NOON + at_minute * MINUTE, Diary(entries))


# The four rows of the table.


def test_without_windows_it_is_always_open() -> None:
    assert opening([], NOON, Diary({})) == Opening(True, "No windows are set: it is always open.", NOON, None)


def test_an_active_freeze_closes_and_names_itself_and_its_end_in_its_own_zone() -> None:
    found = asked(5, {FREEZE: [(0, 60)]})
    assert found == Opening(
        False, "The freeze window freeze closes it until Mon 2026-03-02 14:00 Europe/Berlin.", minute(60), None
    )


def test_between_freezes_it_is_open_until_the_next_one() -> None:
    assert asked(70, {FREEZE: [(0, 60), (90, 95)]}) == Opening(True, "No window closes it.", minute(70), minute(90))


def test_a_window_ends_before_the_moment_it_ends_at() -> None:
    assert not asked(59, {FREEZE: [(0, 60)]}).is_open
    assert asked(60, {FREEZE: [(0, 60)]}).is_open
    assert asked(0, {OFFICE: [(0, 60)]}).is_open
    assert not asked(60, {OFFICE: [(0, 60)]}).is_open


def test_outside_the_windows_that_allow_it_is_closed_until_the_next_one() -> None:
    found = asked(0, {OFFICE: [(30, 60)], NIGHT: [(20, 25)]})
    assert (found.is_open, found.opens_at) == (False, minute(20))
    assert found.reason == (
        "It is outside the deployment windows (office hours, night shift); "
        "night shift opens it on Mon 2026-03-02 13:20 Europe/Berlin."
    )


def test_one_window_that_allows_is_enough_and_the_next_may_take_over() -> None:
    found = asked(35, {OFFICE: [(30, 60)], NIGHT: [(50, 80)]})
    assert (found.is_open, found.closes_at) == (True, minute(80))
    assert found.reason == "The deployment window office hours is active until Mon 2026-03-02 14:00 Europe/Berlin."


def test_deny_wins_over_allow() -> None:
    found = asked(40, {OFFICE: [(0, 100)], FREEZE: [(30, 60)]})
    assert (found.is_open, found.opens_at) == (False, minute(60))


def test_a_window_wholly_under_a_freeze_does_not_open() -> None:
    found = asked(0, {OFFICE: [(10, 20), (200, 210)], FREEZE: [(5, 30)]})
    assert (found.is_open, found.opens_at) == (False, minute(200))
    assert found.reason.endswith("; office hours opens it on Mon 2026-03-02 16:20 Europe/Berlin.")


def test_freezes_that_touch_are_one() -> None:
    assert asked(0, {FREEZE: [(0, 10), (10, 20), (15, 30)]}).opens_at == minute(30)


def test_windows_that_never_come_again_never_open() -> None:
    found = asked(100, {OFFICE: [(0, 60)]})
    assert found == Opening(
        False, "It is outside the deployment windows (office hours), and will be for the next 400 days.", None, None
    )


def test_beyond_the_horizon_nothing_is_promised() -> None:
    far = int(HORIZON / MINUTE) + 1
    assert asked(0, {OFFICE: [(far, far + 10)]}).opens_at is None
    assert asked(0, {OFFICE: [(far - 1, far + 10)]}).opens_at == minute(far - 1)
    assert asked(0, {FREEZE: [(far, far + 10)]}).closes_at is None
    assert asked(0, {OFFICE: [(0, far)]}).closes_at is None
    assert asked(0, {OFFICE: [(0, far - 1)]}).closes_at == minute(far - 1)


def test_the_walk_from_boundary_to_boundary_ends() -> None:
    touching = [(start, start + 1) for start in range(700)]
    assert asked(0, {FREEZE: touching}).opens_at is None
    assert asked(0, {OFFICE: touching}).closes_at is None
    assert asked(300, {FREEZE: touching}).opens_at == minute(700)


@pytest.mark.parametrize("at", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_a_clock_at_the_ends_of_time_gets_an_answer(at: datetime) -> None:
    assert opening([FREEZE], at, Diary({FREEZE: [(0, 1)]})).is_open
    assert not opening([OFFICE], at, Diary({OFFICE: [(0, 1)]})).is_open


def test_the_moment_may_be_told_in_any_zone() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=9)))
    entries = {FREEZE: [(0, 60)]}
    assert opening(entries, there, Diary(entries)) == asked(0, entries)


# Against a walk minute by minute.

_stretches = st.lists(
    st.tuples(st.integers(-20, 60), st.integers(1, 25)).map(lambda found: (found[0], found[0] + found[1])), max_size=5
)
_entries = st.lists(st.tuples(st.sampled_from(Effect), _stretches), max_size=4).map(
    lambda found: {window(f"{effect} {index}", effect): stretches for index, (effect, stretches) in enumerate(found)}
)
_AFTER_ALL = 120


def is_open_at(at: int, entries: Mapping[Window, list[tuple[int, int]]]) -> bool:
    active = {each.effect for each, found in entries.items() if any(start <= at < end for start, end in found)}
    may_only_when_allowed = any(each.effect is Effect.ALLOW for each in entries)
    return Effect.DENY not in active and (Effect.ALLOW in active or not may_only_when_allowed)


@given(_entries, st.integers(-30, 90))
def test_the_answer_is_that_of_a_walk_minute_by_minute(
    entries: Mapping[Window, list[tuple[int, int]]], at: int
) -> None:
    found = asked(at, entries)
    ahead = range(at, _AFTER_ALL)
    is_open = is_open_at(at, entries)
    opens = next((number for number in ahead if is_open_at(number, entries)), None)
    closes = next((number for number in ahead if not is_open_at(number, entries)), None) if is_open else None
    assert found.is_open == is_open
    assert found.opens_at == (None if opens is None else minute(opens))
    assert found.closes_at == (None if closes is None else minute(closes))


@given(_entries, _stretches, st.integers(-30, 90))
def test_one_more_freeze_never_opens_anything(
    entries: Mapping[Window, list[tuple[int, int]]], freeze: list[tuple[int, int]], at: int
) -> None:
    with_freeze = {**entries, FREEZE: freeze}
    assert asked(at, entries).is_open or not asked(at, with_freeze).is_open
    if any(start <= at < end for start, end in freeze):
        assert not asked(at, with_freeze).is_open


# The document.

WEEKEND = {
    "name": "weekend",
    "effect": "deny",
    "rule": "FREQ=WEEKLY;BYDAY=FR",
    "starts": "2026-01-02T18:00",
    "duration": "62h",
    "timezone": "Europe/Berlin",
}


def test_a_window_is_read_and_written_back() -> None:
    read = window_from_document("windows[0]", WEEKEND)
    assert read == Window(
        "weekend",
        Effect.DENY,
        "FREQ=WEEKLY;BYDAY=FR",
        datetime.fromisoformat("2026-01-02T18:00"),
        223_200,
        "Europe/Berlin",
    )
    assert window_document(read) == {**WEEKEND, "duration": "2d14h"}
    assert window_from_document("windows[0]", window_document(read)) == read


def test_seconds_are_kept() -> None:
    read = window_from_document("w", {**WEEKEND, "starts": "2026-01-02 18:00:05"})
    assert window_document(read)["starts"] == "2026-01-02T18:00:05"
    assert window_from_document("w", window_document(read)) == read


def test_a_date_and_time_that_yaml_has_read_is_taken() -> None:
    starts = datetime.fromisoformat("2026-01-02T18:00")
    assert window_from_document("w", {**WEEKEND, "starts": starts}).starts == starts


def test_the_prefix_of_a_rule_is_stripped_and_its_case_does_not_matter() -> None:
    read = window_from_document("w", {**WEEKEND, "rule": " rrule:freq=weekly;byday=fr "})
    assert read == window_from_document("w", WEEKEND)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", None, "expected a name"),
        ("name", "", "expected a name"),
        ("name", "two\nlines", "expected a name"),
        ("name", " padded", "expected a name"),
        ("name", "n" * 101, "expected a name"),
        ("effect", None, "expected allow or deny"),
        ("effect", "Deny", "expected allow or deny"),
        ("effect", ["deny"], "expected allow or deny"),
        ("rule", None, "expected one RRULE value"),
        ("rule", "", "expected one RRULE value"),
        ("rule", "every friday", "expected one RRULE value"),
        ("rule", "FREQ=DAILY;", "expected one RRULE value"),
        ("rule", "FREQ=DAILY\nEXRULE:FREQ=DAILY", "expected one RRULE value"),
        ("rule", "DTSTART:20260101T000000\nRRULE:FREQ=DAILY", "expected one RRULE value"),
        ("rule", "FREQ=DAILY;BYHOUR=" + ",".join(["1"] * 300), "expected one RRULE value"),
        ("starts", None, "expected the local date and time"),
        ("starts", date(2026, 1, 2), "expected the local date and time"),
        ("starts", "2026-01-02", "expected the local date and time"),
        ("starts", "2026-W01-5T18:00", "expected the local date and time"),
        ("starts", "tomorrow", "expected the local date and time"),
        ("starts", 20260102, "expected the local date and time"),
        ("starts", "2026-02-30T18:00", "no such date and time"),
        ("starts", "2026-01-02T24:30", "no such date and time"),
        ("starts", "2026-01-02T18:00Z", "without Z or offset"),
        ("starts", "2026-01-02T18:00+01:00", "without Z or offset"),
        ("starts", NOON, "without Z or offset"),
        ("starts", datetime.fromisoformat("2026-01-02T18:00:00.000001"), "whole seconds"),
        ("starts", "1969-12-31T18:00", "a year from 1970 to 2199"),
        ("starts", "2200-01-01T18:00", "a year from 1970 to 2199"),
        ("duration", None, "expected a duration"),
        ("duration", 62, "expected a duration"),
        ("duration", "0h", "above zero"),
        ("duration", "367d", "at most 366 days"),
        ("timezone", None, "expected the name of an IANA time zone"),
        ("timezone", "", "expected the name of an IANA time zone"),
        ("timezone", "CET", "expected the name of an IANA time zone"),
        ("timezone", "+01:00", "expected the name of an IANA time zone"),
        ("timezone", "/etc/localtime", "expected the name of an IANA time zone"),
        ("timezone", "../../etc/passwd", "expected the name of an IANA time zone"),
        ("timezone", "Europe/Berlin\n", "expected the name of an IANA time zone"),
        ("timezone", 1, "expected the name of an IANA time zone"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(field: str, value: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        window_from_document("windows[3]", {**WEEKEND, field: value})
    assert refused.value.details["field"] == f"windows[3].{field}"


def test_nothing_may_be_missing_and_nothing_else_be_there() -> None:
    with pytest.raises(InvalidInput, match=r"^windows\[0\]\.until: unknown field; expected one of duration, effect"):
        window_from_document("windows[0]", {**WEEKEND, "until": "2027"})
    for field in WEEKEND:
        with pytest.raises(InvalidInput, match=rf"^windows\[0\]\.{field}: "):
            window_from_document("windows[0]", {name: value for name, value in WEEKEND.items() if name != field})
    with pytest.raises(InvalidInput, match=r"^windows\[0\]: expected an object"):
        window_from_document("windows[0]", ["weekend"])
