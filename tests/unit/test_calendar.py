"""When windows occur: as RFC 5545 says, in zones whose clocks jump, and never with unbounded work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr
from hypothesis import assume, given
from hypothesis import strategies as st

from app.adapters import calendar as module
from app.adapters.calendar import RecurrenceCalendar
from app.domain.errors import InvalidInput
from app.domain.windows import Effect, Occurrence, Window, opening


@dataclass(frozen=True, slots=True)
class StoppedClock:
    at: datetime

    def now(self) -> datetime:
        return self.at


NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
CALENDAR = RecurrenceCalendar(StoppedClock(NOW))
HOUR = 3_600


def window(
    rule: str, starts: str, zone: str = "Europe/Berlin", duration_s: int = HOUR, effect: Effect = Effect.DENY
) -> Window:
    return Window("window", effect, rule, datetime.fromisoformat(starts), duration_s, zone)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def starts_of(found: Window, after: str, count: int) -> list[str]:
    """The next starts, in UTC, to the minute."""
    starts, moment = [], utc(after)
    for _ in range(count):
        occurrence = CALENDAR.following(found, moment)
        if occurrence is None:
            break
        moment = occurrence.starts_at
        starts.append(moment.strftime("%Y-%m-%dT%H:%M"))
    return starts


# What a rule names.


@pytest.mark.parametrize(
    ("rule", "starts", "expected"),
    [
        ("FREQ=WEEKLY;BYDAY=FR", "2026-01-02T18:00", ["2026-01-02T18:00", "2026-01-09T18:00"]),
        ("FREQ=WEEKLY", "2026-01-02T18:00", ["2026-01-02T18:00", "2026-01-09T18:00"]),
        ("FREQ=DAILY;COUNT=2", "2026-01-30T18:00", ["2026-01-30T18:00", "2026-01-31T18:00"]),
        ("FREQ=DAILY;COUNT=1", "2026-12-20T00:00", ["2026-12-20T00:00"]),
        ("FREQ=DAILY;BYMONTH=12;BYMONTHDAY=-1", "2025-12-31T06:00", ["2025-12-31T06:00", "2026-12-31T06:00"]),
        ("FREQ=DAILY;UNTIL=20260103T090000Z", "2026-01-02T09:00", ["2026-01-02T09:00", "2026-01-03T09:00"]),
        ("FREQ=DAILY;UNTIL=20260103T085959Z", "2026-01-02T09:00", ["2026-01-02T09:00"]),
        ("FREQ=MONTHLY;BYDAY=-1FR", "2026-01-30T09:00", ["2026-01-30T09:00", "2026-02-27T09:00"]),
        (
            "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1",
            "2026-01-30T09:00",
            ["2026-01-30T09:00", "2026-02-27T09:00", "2026-03-31T09:00"],
        ),
        ("FREQ=MONTHLY", "2026-01-31T09:00", ["2026-01-31T09:00", "2026-03-31T09:00", "2026-05-31T09:00"]),
        ("FREQ=YEARLY", "2024-02-29T09:00", ["2024-02-29T09:00", "2028-02-29T09:00"]),
        ("FREQ=YEARLY;BYDAY=1MO", "2026-01-05T09:00", ["2026-01-05T09:00", "2027-01-04T09:00"]),
        ("FREQ=YEARLY;BYMONTH=11;BYDAY=4TH", "2025-11-27T00:00", ["2025-11-27T00:00", "2026-11-26T00:00"]),
        ("FREQ=YEARLY;BYYEARDAY=-1", "2025-12-31T09:00", ["2025-12-31T09:00", "2026-12-31T09:00"]),
        ("FREQ=YEARLY;BYWEEKNO=53;BYDAY=SU", "2027-01-03T09:00", ["2027-01-03T09:00", "2033-01-02T09:00"]),
        ("FREQ=HOURLY;INTERVAL=7", "2026-01-01T20:00", ["2026-01-01T20:00", "2026-01-02T03:00", "2026-01-02T10:00"]),
        ("FREQ=DAILY;BYHOUR=9,17", "2026-01-01T09:00", ["2026-01-01T09:00", "2026-01-01T17:00", "2026-01-02T09:00"]),
        # The two of RFC 5545 section 3.3.10 that differ in WKST alone.
        (
            "FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO",
            "1997-08-05T09:00",
            ["1997-08-05T09:00", "1997-08-10T09:00", "1997-08-19T09:00", "1997-08-24T09:00"],
        ),
        (
            "FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU",
            "1997-08-05T09:00",
            ["1997-08-05T09:00", "1997-08-17T09:00", "1997-08-19T09:00", "1997-08-31T09:00"],
        ),
    ],
)
def test_a_rule_names_what_rfc_5545_says(rule: str, starts: str, expected: list[str]) -> None:
    count = len(expected) + (1 if "COUNT" in rule or "UNTIL" in rule else 0)
    assert starts_of(window(rule, starts, "UTC"), "1990-01-01T00:00", count) == expected


@st.composite
def _rules(draw: st.DrawFn) -> str:
    frequency = draw(st.sampled_from(["HOURLY", "DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    interval = draw(st.sampled_from([1, 1, 2, 3, 5, 7]))
    parts = [f"FREQ={frequency}", f"INTERVAL={interval}"]
    days = st.lists(st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"]), min_size=1, max_size=4, unique=True)

    def numbers(lowest: int, highest: int) -> str:
        return ",".join(map(str, draw(st.lists(st.integers(lowest, highest).filter(bool), min_size=1, max_size=4))))

    if draw(st.booleans()):
        parts.append(f"BYMONTH={numbers(1, 12)}")
    if draw(st.booleans()):
        named = draw(days)
        if frequency in {"MONTHLY", "YEARLY"} and draw(st.booleans()):
            named = [f"{draw(st.sampled_from([1, 2, 4, -1, -2]))}{day}" for day in named]
        parts.append(f"BYDAY={','.join(named)}")
    if frequency != "WEEKLY" and draw(st.booleans()):
        parts.append(f"BYMONTHDAY={numbers(-31, 31)}")
    if frequency == "YEARLY" and draw(st.integers(0, 3)) == 0:
        parts.append(f"BYYEARDAY={numbers(-366, 366)}")
    if frequency in {"DAILY", "WEEKLY"} and draw(st.booleans()):
        parts.append(f"BYHOUR={draw(st.integers(0, 23))},{draw(st.integers(0, 23))}")
    if frequency in {"MONTHLY", "YEARLY"} and len(parts) > 2 and draw(st.booleans()):
        parts.append(f"BYSETPOS={numbers(-3, 3)}")
    if draw(st.booleans()):
        parts.append(f"WKST={draw(st.sampled_from(['MO', 'SU', 'WE']))}")
    return ";".join(parts)


_weeks = st.builds(
    "FREQ=YEARLY;INTERVAL={};BYWEEKNO={};BYDAY={},WE;WKST={}".format,
    st.integers(1, 3),
    st.integers(-53, 53).filter(bool),
    st.sampled_from(["MO", "SU"]),
    st.sampled_from(["MO", "SU", "TH"]),
)


@given(_rules() | _weeks, st.datetimes(datetime.fromisoformat("1995-01-01"), datetime.fromisoformat("2030-01-01")))
def test_it_agrees_with_dateutil_wherever_dateutil_gives_an_answer(rule: str, near: datetime) -> None:
    near = near.replace(second=0, microsecond=0, fold=0)
    # A first occurrence for DTSTART. Found by us: dateutil might look for one up to the year 9999.
    try:
        CALENDAR.following(window(rule, near.isoformat(), "UTC"), utc("1990-01-01"))
    except InvalidInput as refused:
        first = refused.message.rpartition(" ")[2] if refused.details["field"] == "window.starts" else None
        assume(first is not None)
        found = window(rule, str(first), "UTC")
    else:
        found = window(rule, near.isoformat(), "UTC")
    assume(CALENDAR.following(found, found.starts.replace(tzinfo=UTC)) is not None)
    expected, theirs = [], iter(rrulestr(rule, dtstart=found.starts))
    for _ in range(6):
        moment = expected[-1] if expected else found.starts - timedelta(seconds=1)
        ours = CALENDAR.following(found, moment.replace(tzinfo=UTC))
        if ours is None:
            break
        expected.append(next(theirs))
        assert ours.starts_at.replace(tzinfo=None) == expected[-1]
    assert expected


# Zones.


@pytest.mark.parametrize(
    ("starts", "zone", "after", "expected"),
    [
        # Clocks go forward at 02:00: 02:30 does not exist and is read with the offset before, which is 03:30 after.
        ("2026-01-01T02:30", "Europe/Berlin", "2026-03-28T00:00", ["03-28T01:30", "03-29T01:30", "03-30T00:30"]),
        ("2026-01-01T02:30", "America/New_York", "2026-03-07T00:00", ["03-07T07:30", "03-08T07:30", "03-09T06:30"]),
        # Clocks go back: what is there twice means the first.
        ("2026-01-01T02:30", "Europe/Berlin", "2026-10-24T00:00", ["10-24T00:30", "10-25T00:30", "10-26T01:30"]),
        ("2026-01-01T01:30", "America/New_York", "2026-10-31T00:00", ["10-31T05:30", "11-01T05:30", "11-02T06:30"]),
        # The wall time stays, the moment moves.
        ("2026-01-01T18:00", "Europe/Berlin", "2026-03-28T00:00", ["03-28T17:00", "03-29T16:00"]),
        ("2026-01-01T18:00", "America/New_York", "2026-10-31T12:00", ["10-31T22:00", "11-01T23:00"]),
        ("2026-01-01T18:00", "Asia/Kolkata", "2026-03-28T00:00", ["03-28T12:30", "03-29T12:30"]),
        ("2026-01-01T18:00", "UTC", "2026-03-28T00:00", ["03-28T18:00", "03-29T18:00"]),
    ],
)
def test_local_times_are_read_as_rfc_5545_section_3_3_5_says(
    starts: str, zone: str, after: str, expected: list[str]
) -> None:
    found = window("FREQ=DAILY", starts, zone)
    assert starts_of(found, after, len(expected)) == [f"2026-{start}" for start in expected]


def test_a_duration_is_exact_across_a_change_of_the_clock() -> None:
    # Friday 18:00 and 62 hours are Monday 08:00, but 09:00 on the night that has an hour less.
    weekend = window("FREQ=WEEKLY;BYDAY=FR", "2026-01-02T18:00", duration_s=62 * HOUR)
    ends = [CALENDAR.following(weekend, utc(after)) for after in ("2026-03-20T00:00", "2026-03-27T00:00")]
    local = [found.ends_at.astimezone(ZoneInfo("Europe/Berlin")).strftime("%a %H:%M") for found in ends if found]
    assert local == ["Mon 08:00", "Mon 09:00"]


def test_a_time_in_a_gap_before_midnight_may_pass_the_next_days_first() -> None:
    # In Pyongyang 23:30 to 24:00 of 4 May 2018 did not exist: 23:45 is 00:15 of the 5th, after its 00:00.
    found = window("FREQ=DAILY;BYHOUR=0,23;BYMINUTE=0,45", "2018-01-01T00:00", "Asia/Pyongyang", duration_s=60)
    expected = ["2018-05-04T14:30", "2018-05-04T15:00", "2018-05-04T15:15", "2018-05-04T15:45"]
    assert starts_of(found, "2018-05-04T12:00", 4) == expected
    for start in map(utc, expected):
        assert CALENDAR.current(found, start) == Occurrence(start, start + timedelta(seconds=60))
    longer = window(found.rule, "2018-01-01T00:00", "Asia/Pyongyang", duration_s=600)
    assert CALENDAR.current(longer, utc("2018-05-04T15:20")) == Occurrence(
        utc("2018-05-04T15:15"), utc("2018-05-04T15:25")
    )


def test_midnight_that_came_before_the_clock_went_back_to_yesterday_still_counts() -> None:
    # In St. John's 00:01 of 7 November 2010 was 23:01 of the 6th again; 00:00 had been there.
    found = window("FREQ=DAILY", "2010-01-01T00:00", "America/St_Johns")
    assert CALENDAR.current(found, utc("2010-11-07T03:00")) == Occurrence(
        utc("2010-11-07T02:30"), utc("2010-11-07T03:30")
    )


def test_until_is_in_utc_also_where_the_local_year_is_the_next() -> None:
    found = window("FREQ=DAILY;UNTIL=20261231T233000Z", "2026-01-01T05:00", "Asia/Kolkata")
    assert starts_of(found, "2026-12-30T00:00", 5) == ["2026-12-30T23:30", "2026-12-31T23:30"]


# Questions.


def test_an_occurrence_covers_its_start_and_not_its_end() -> None:
    found = window("FREQ=DAILY", "2026-01-01T09:00", "UTC")
    covering = Occurrence(utc("2026-02-01T09:00"), utc("2026-02-01T10:00"))
    assert CALENDAR.current(found, covering.starts_at) == covering
    assert CALENDAR.current(found, covering.ends_at - timedelta(microseconds=1)) == covering
    assert CALENDAR.current(found, covering.ends_at) is None
    assert CALENDAR.current(found, covering.starts_at - timedelta(microseconds=1)) is None
    following = CALENDAR.following(found, covering.starts_at)
    assert following is not None
    assert following.starts_at == utc("2026-02-02T09:00")


def test_before_dtstart_there_is_nothing_and_after_the_end_neither() -> None:
    found = window("FREQ=DAILY;COUNT=2", "2026-01-01T09:00", "UTC", duration_s=48 * HOUR)
    assert CALENDAR.current(found, utc("2026-01-01T08:59")) is None
    assert CALENDAR.current(found, utc("2026-01-04T08:59")) == Occurrence(
        utc("2026-01-02T09:00"), utc("2026-01-04T09:00")
    )
    assert CALENDAR.current(found, utc("2026-01-04T09:00")) is None
    assert CALENDAR.following(found, utc("2026-01-02T09:00")) is None


def test_of_occurrences_that_overlap_the_one_that_ends_last_covers() -> None:
    found = window("FREQ=DAILY", "2026-01-01T09:00", "UTC", duration_s=366 * 24 * HOUR)
    current = CALENDAR.current(found, utc("2026-06-01T12:00"))
    assert current is not None
    assert current.starts_at == utc("2026-06-01T09:00")


@given(
    st.sampled_from(
        [
            window("FREQ=WEEKLY;BYDAY=FR", "2025-01-03T18:00", duration_s=62 * HOUR),
            window("FREQ=DAILY;BYHOUR=0,2,3,23;BYMINUTE=30", "2025-01-01T02:30", "America/New_York", 5 * HOUR),
            window("FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=20", "2024-12-20T00:00", duration_s=18 * 24 * HOUR),
            window("FREQ=HOURLY;INTERVAL=5", "2025-01-01T02:30", "America/Nuuk", HOUR),
            window("FREQ=MONTHLY;BYDAY=2TU", "2025-01-14T03:00", "Pacific/Apia", 30 * HOUR),
        ]
    ),
    st.datetimes(datetime.fromisoformat("2025-01-15"), datetime.fromisoformat("2028-01-01")),
)
def test_current_and_following_tell_one_story(found: Window, local: datetime) -> None:
    at = local.replace(tzinfo=UTC)
    current, following = CALENDAR.current(found, at), CALENDAR.following(found, at)
    assert following is not None
    assert following.starts_at > at
    assert CALENDAR.current(found, following.starts_at) == following
    just_before = CALENDAR.current(found, following.starts_at - timedelta(microseconds=1))
    if current is None:
        assert just_before is None
    else:
        assert current.starts_at <= at < current.ends_at
        assert CALENDAR.following(found, current.starts_at) == following


def test_an_opening_is_found_in_the_real_calendar() -> None:
    office = window("FREQ=WEEKLY;BYDAY=MO,TU,WE,TH", "2026-01-01T09:00", duration_s=8 * HOUR, effect=Effect.ALLOW)
    holidays = window("FREQ=YEARLY", "2025-12-19T00:00", duration_s=18 * 24 * HOUR)
    asked = opening([office, holidays], utc("2026-12-17T16:30"), CALENDAR)
    assert (asked.is_open, asked.opens_at) == (False, utc("2027-01-06T08:00"))
    asked = opening([office, holidays], utc("2026-12-17T12:00"), CALENDAR)
    assert (asked.is_open, asked.closes_at) == (True, utc("2026-12-17T16:00"))


# Bounds.


@pytest.mark.parametrize("at", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_a_clock_at_the_ends_of_time_finds_nothing_and_breaks_nothing(at: datetime) -> None:
    found = window("FREQ=DAILY", "2026-01-01T00:00", "Pacific/Kiritimati")
    assert CALENDAR.current(found, at) is None
    assert CALENDAR.following(found, at) is None


def test_a_clock_that_jumps_far_gets_the_answers_of_that_time() -> None:
    found = window("FREQ=DAILY", "2026-01-01T00:00", "UTC")
    assert starts_of(found, "1970-01-01T00:00", 1) == ["2026-01-01T00:00"]
    assert starts_of(found, "9000-05-05T05:00", 1) == ["9000-05-06T00:00"]


@pytest.mark.parametrize(
    ("rule", "starts"),
    [
        ("FREQ=HOURLY;INTERVAL=365", "1970-01-01T00:00"),
        ("FREQ=HOURLY;INTERVAL=359;BYHOUR=5;BYMONTH=2;BYMONTHDAY=29;BYDAY=MO", "1988-02-29T05:00"),
        ("FREQ=HOURLY;INTERVAL=361;BYMONTH=2;BYMONTHDAY=29", "1972-02-29T00:00"),
        ("FREQ=DAILY;INTERVAL=366;BYMONTH=2;BYMONTHDAY=29", "1972-02-29T00:00"),
        ("FREQ=DAILY;BYHOUR=0,1,2,3,4,5;BYMINUTE=0,15,30,45", "1970-01-01T00:00"),
        ("FREQ=YEARLY;INTERVAL=366", "1970-01-01T00:00"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYDAY=MO", "1988-02-29T00:00"),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYSETPOS=31", "1970-01-31T00:00"),
    ],
)
def test_no_question_looks_at_more_than_forty_years_of_days(rule: str, starts: str) -> None:
    # Work is counted, not timed: a year is at most 366 days, whatever the rule, and costs a fraction of a millisecond.
    found = window(rule, starts)
    for at in ("1969-01-01T00:00", "2026-01-01T00:00", "9990-01-01T00:00"):
        CALENDAR.current(found, utc(at))
        before = module._days.cache_info().misses
        CALENDAR.following(found, utc(at))
        assert module._days.cache_info().misses - before <= 41


# Refusals.


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("", "no such part: ;"),
        ("BYDAY=FR", "FREQ is missing"),
        ("FREQ=SECONDLY", "SECONDLY is not offered; expected FREQ to be one of HOURLY, DAILY"),
        ("FREQ=MINUTELY", "MINUTELY is not offered"),
        ("FREQ=FORTNIGHTLY", "FORTNIGHTLY is not offered"),
        ("FREQ=DAILY;BYEASTER=0", "no such part: BYEASTER"),
        ("FREQ=DAILY;FREQ=DAILY", "FREQ is there twice"),
        ("FREQ=DAILY;COUNT=2;UNTIL=20270101T000000Z", "exclude each other"),
        ("FREQ=DAILY;COUNT=0", "COUNT: expected whole numbers from 1 to 1000"),
        ("FREQ=DAILY;COUNT=1001", "COUNT: expected"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL: expected whole numbers from 1 to 366"),
        ("FREQ=DAILY;INTERVAL=367", "INTERVAL: expected"),
        ("FREQ=DAILY;INTERVAL=+2", "INTERVAL: expected"),
        ("FREQ=DAILY;INTERVAL=²", "INTERVAL: expected"),
        ("FREQ=DAILY;BYHOUR=24", "BYHOUR: expected whole numbers from 0 to 23"),
        ("FREQ=DAILY;BYHOUR=", "BYHOUR: expected"),
        ("FREQ=DAILY;BYMINUTE=60", "BYMINUTE: expected"),
        ("FREQ=DAILY;BYSECOND=60", "BYSECOND: expected"),
        ("FREQ=DAILY;BYHOUR=-1", "BYHOUR: expected"),
        ("FREQ=DAILY;BYMONTH=13", "BYMONTH: expected"),
        ("FREQ=DAILY;BYMONTHDAY=0", "BYMONTHDAY: expected whole numbers from 1 to 31, or negative ones"),
        ("FREQ=DAILY;BYMONTHDAY=+-1", "BYMONTHDAY: expected"),
        ("FREQ=YEARLY;BYYEARDAY=367", "BYYEARDAY: expected"),
        ("FREQ=YEARLY;BYWEEKNO=54;BYDAY=MO", "BYWEEKNO: expected"),
        ("FREQ=YEARLY;BYWEEKNO=20", "BYWEEKNO: expected BYDAY beside it"),
        ("FREQ=MONTHLY;BYDAY=MO;BYSETPOS=367", "BYSETPOS: expected"),
        ("FREQ=MONTHLY;BYSETPOS=1", "BYSETPOS selects from what another BY part names"),
        ("FREQ=WEEKLY;BYDAY=MO;BYSETPOS=1", "BYSETPOS goes with FREQ=MONTHLY or YEARLY only"),
        ("FREQ=MONTHLY;BYDAY=MO;BYHOUR=1,2;BYSETPOS=1", "BYSETPOS: expected one time of the day"),
        ("FREQ=WEEKLY;BYMONTHDAY=1", "BYMONTHDAY goes with FREQ=HOURLY or DAILY or MONTHLY or YEARLY only"),
        ("FREQ=DAILY;BYYEARDAY=1", "BYYEARDAY goes with"),
        ("FREQ=MONTHLY;BYWEEKNO=1", "BYWEEKNO goes with FREQ=YEARLY only"),
        ("FREQ=WEEKLY;BYDAY=XX", "BYDAY: expected days such as MO,TU"),
        ("FREQ=MONTHLY;BYDAY=0MO", "BYDAY: expected days"),
        ("FREQ=YEARLY;BYDAY=54MO", "BYDAY: expected days"),
        ("FREQ=WEEKLY;BYDAY=1MO", "a number before a day goes with"),
        ("FREQ=YEARLY;BYWEEKNO=1;BYDAY=1MO", "a number before a day goes with"),
        ("FREQ=MONTHLY;BYDAY=MO,1TU", "all days with a number or none"),
        ("FREQ=WEEKLY;WKST=1", "WKST: expected one of MO"),
        ("FREQ=DAILY;UNTIL=20270101", "UNTIL: expected UTC, such as"),
        ("FREQ=DAILY;UNTIL=20270101T000000", "UNTIL: expected UTC, such as"),
        ("FREQ=DAILY;UNTIL=20270230T000000Z", "UNTIL: expected UTC, such as"),
        ("FREQ=DAILY;UNTIL=20260101T080000Z", "it is over"),  # one occurrence, on the last second
        ("FREQ=DAILY;UNTIL=20260101T075959Z", "it never occurs: UNTIL is before starts"),
        ("FREQ=HOURLY;BYMINUTE=0,30", "expected at most 24 occurrences in a day"),
        ("FREQ=DAILY;BYHOUR=1,2,3,4,5;BYMINUTE=0,1,2,3,4", "expected at most 24 occurrences in a day"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "it never occurs in the 40 years from starts on"),
        ("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "it never occurs"),
        ("FREQ=MONTHLY;BYDAY=MO;BYSETPOS=6", "it never occurs"),
        ("FREQ=YEARLY;COUNT=42", "COUNT=42 is not reached in 40 years"),
        ("FREQ=DAILY;COUNT=20", "it is over: no occurrence is to come"),
        ("FREQ=DAILY;UNTIL=20260201T000000Z", "it is over"),
    ],
)
def test_a_rule_that_nobody_can_have_meant_is_refused(rule: str, message: str) -> None:
    found = window(rule, "2026-01-01T09:00")
    with pytest.raises(InvalidInput, match=message) as refused:
        CALENDAR.check(found, "windows[2]")
    assert refused.value.details["field"] == "windows[2].rule"


@pytest.mark.parametrize(
    "zone",
    [
        "Europe/Atlantis",
        "europe/berlin",
        "Europe",
        "localtime",
        "EST",
        "right/Europe/Berlin",
        "posix/Europe/Berlin",
        "../Europe/Berlin",
        "/etc/localtime",
        "Europe/Berlin\n",
        "Europe/Berlin\0",
        "",
    ],
)
def test_a_zone_that_does_not_exist_is_refused_in_every_question(zone: str) -> None:
    found = window("FREQ=DAILY", "2026-01-01T09:00", zone)
    with pytest.raises(InvalidInput, match="no such time zone") as refused:
        CALENDAR.check(found)
    assert refused.value.details["field"] == "window.timezone"
    # What was stored with a zone that is gone does not read as open.
    with pytest.raises(InvalidInput, match="no such time zone"):
        opening([found], NOW, CALENDAR)


def test_a_start_that_is_no_occurrence_is_refused_with_the_first_that_is() -> None:
    found = window("FREQ=WEEKLY;BYDAY=FR", "2026-01-01T18:00")
    with pytest.raises(InvalidInput, match=r"the first is 2026-01-02T18:00:00$") as refused:
        CALENDAR.check(found, "w")
    assert refused.value.details["field"] == "w.starts"


def test_what_is_current_or_to_come_is_taken() -> None:
    for found in (
        window("FREQ=WEEKLY;BYDAY=FR", "2026-01-02T18:00"),
        window("FREQ=DAILY;COUNT=1", "2026-03-01T09:00", duration_s=48 * HOUR),  # in its midst
        window("FREQ=DAILY;COUNT=1", "2027-12-20T00:00"),
        window("FREQ=DAILY", "2026-01-01T00:00", duration_s=48 * HOUR),  # longer than the time to the next
    ):
        CALENDAR.check(found)


def test_starts_come_in_order_through_both_changes_of_the_clock() -> None:
    found = window("FREQ=HOURLY", "2026-01-01T00:30", duration_s=60)
    starts = starts_of(found, "2026-03-28T20:00", 12) + starts_of(found, "2026-10-24T20:00", 12)
    assert all(earlier < later for earlier, later in pairwise(starts))
