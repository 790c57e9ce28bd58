"""When a window occurs: RFC 5545 recurrences in time zones, with work that has a bound for every rule.

``dateutil`` knows which days of a year a rule names. It is asked about one year at a time and never walks by itself: it
would return only with an occurrence, so a 30 February keeps it busy up to the year 9999, and it starts at DTSTART for
every question. INTERVAL, BYSETPOS, COUNT and UNTIL are applied here, to days that were found.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import MAXYEAR, UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import groupby, islice, product
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from dateutil.rrule import YEARLY, rrule, weekday

from app.domain.errors import InvalidInput
from app.domain.windows import Occurrence, Window
from app.ports import Clock

_YEARS = 40
"""How far an occurrence is looked for. The rarest sensible date, 29 February on a given weekday, comes that often."""

_LAST_YEAR = MAXYEAR - 3
"""Beyond it nothing is answered: a window of a year and an offset must still fit the calendar."""

_MOST_TIMES = 24
"""Occurrences in one day."""

_DAY = timedelta(days=1)

_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_FREQUENCIES = ("HOURLY", "DAILY", "WEEKLY", "MONTHLY", "YEARLY")


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What a part that is a list of numbers may hold, and with which frequencies (RFC 5545 section 3.3.10)."""

    lowest: int
    highest: int
    signed: bool = False
    frequencies: tuple[str, ...] = _FREQUENCIES


_LISTS: Mapping[str, _Numbers] = {
    "BYSECOND": _Numbers(0, 59),
    "BYMINUTE": _Numbers(0, 59),
    "BYHOUR": _Numbers(0, 23),
    "BYMONTHDAY": _Numbers(1, 31, signed=True, frequencies=("HOURLY", "DAILY", "MONTHLY", "YEARLY")),
    "BYYEARDAY": _Numbers(1, 366, signed=True, frequencies=("HOURLY", "YEARLY")),
    "BYWEEKNO": _Numbers(1, 53, signed=True, frequencies=("YEARLY",)),
    "BYMONTH": _Numbers(1, 12),
    # In a day or a week it would select from what is the same each time: those can be named.
    "BYSETPOS": _Numbers(1, 366, signed=True, frequencies=("MONTHLY", "YEARLY")),
}
_SINGLE: Mapping[str, _Numbers] = {"INTERVAL": _Numbers(1, 366), "COUNT": _Numbers(1, 1_000)}
_OTHERS = frozenset({"FREQ", "UNTIL", "BYDAY", "WKST"})

_PERIOD: Mapping[str, Callable[[datetime, int], int]] = {
    "YEARLY": lambda moment, _: moment.year,
    "MONTHLY": lambda moment, _: moment.year * 12 + moment.month,
    "WEEKLY": lambda moment, week_starts: (moment.toordinal() - 1 - week_starts) // 7,
    "DAILY": lambda moment, _: moment.toordinal(),
    "HOURLY": lambda moment, _: moment.toordinal() * 24 + moment.hour,
}
"""Which period a local moment is in, counted from anywhere; INTERVAL takes every n-th from that of DTSTART."""

_BYDAY = re.compile(r"(?P<nth>[+-]?[0-9]{1,2})?(?P<day>MO|TU|WE|TH|FR|SA|SU)")
_UNTIL = re.compile(r"[0-9]{8}T[0-9]{6}Z")


class RecurrenceCalendar:
    """``app.domain.windows.Calendar``; what it found is kept, so that a question costs microseconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def current(self, window: Window, at: datetime) -> Occurrence | None:
        at = at.astimezone(UTC)
        recurrence = _recurrence(window)
        started = recurrence.last_until(at, not_before=at - recurrence.duration) if _is_answered(at) else None
        return recurrence.occurrence(started) if started is not None and at < started + recurrence.duration else None

    def following(self, window: Window, after: datetime) -> Occurrence | None:
        after = after.astimezone(UTC)
        recurrence = _recurrence(window)
        starts = recurrence.first_after(after) if _is_answered(after) else None
        return recurrence.occurrence(starts) if starts is not None else None

    def check(self, window: Window, where: str = "window") -> None:
        """Refuse a window that nobody can have meant.

        Raises:
            InvalidInput: names ``where`` and the field: ``timezone`` does not exist; ``rule`` is malformed, too
                frequent, never occurs or does not occur any more; ``starts`` is not the first occurrence.
        """
        _recurrence(window, where)
        now = self._clock.now()
        if self.current(window, now) is None and self.following(window, now) is None:
            raise InvalidInput(f"{where}.rule", "it is over: no occurrence is to come; remove the window or mend it")


def _is_answered(moment: datetime) -> bool:
    """Whether dates around it can be reckoned with; a clock that jumped to the ends of time gets no occurrence."""
    return 2 < moment.year <= _LAST_YEAR


@dataclass(frozen=True, slots=True, eq=False)
class _Recurrence:
    """A rule that was read, with the parts that it takes from DTSTART. Caches know it by identity: ``eq=False``."""

    frequency: str
    interval: int
    week_starts: int
    starts: datetime
    zone: ZoneInfo
    duration: timedelta
    by: Mapping[str, Any]
    """Arguments of ``rrule`` that say which days of a year are named."""
    positions: tuple[int, ...]
    times: tuple[time, ...]
    until: datetime | None
    """UTC, inclusive."""
    last: datetime | None = None
    """The local time of the last occurrence, where COUNT says that there is one."""

    def occurrence(self, starts_at: datetime) -> Occurrence:
        return Occurrence(starts_at, starts_at + self.duration)

    def first_after(self, after: datetime) -> datetime | None:
        """The first start after a moment.

        Each day is looked at together with the next: a local time that does not exist is moved on by the gap, which may
        carry it past a start of the next day (clocks go forward at 23:00 in America/Nuuk).
        """
        found: datetime | None = None
        found_on = 0
        for day in self._ascending((after.astimezone(self.zone).date() - _DAY).toordinal()):
            if found is not None and day > found_on + 1:
                break
            starts = _starts(self, day)
            index = bisect_right(starts, after)
            if index < len(starts) and (found is None or starts[index] < found):
                found, found_on = starts[index], found_on or day
        return found

    def last_until(self, at: datetime, *, not_before: datetime) -> datetime | None:
        """The last start up to a moment; starts before ``not_before`` need not be found. Days in pairs, as above."""
        found: datetime | None = None
        found_on = 0
        lowest = (not_before.astimezone(self.zone).date() - _DAY).toordinal()
        for day in self._descending((at.astimezone(self.zone).date() + _DAY).toordinal(), lowest):
            if found is not None and day < found_on - 1:
                break
            starts = _starts(self, day)
            index = bisect_right(starts, at)
            if index and (found is None or starts[index - 1] > found):
                found, found_on = starts[index - 1], found_on or day
        return found

    def locals_on(self, day: int) -> Iterator[datetime]:
        """The local starts of a day that the rule names, before UNTIL ends it."""
        for at in self.times:
            local = datetime.combine(date.fromordinal(day), at)
            if local < self.starts or (self.last is not None and local > self.last):
                continue
            if self.frequency != "HOURLY" or self._in_phase(local):
                yield local

    def locals_from_the_start(self) -> Iterator[datetime]:
        """Local starts from DTSTART on, for ``_YEARS``."""
        for day in self._ascending(self.starts.toordinal()):
            yield from self.locals_on(day)

    def starts_on(self, day: int) -> tuple[datetime, ...]:
        """The starts of a local day, in UTC and in order.

        RFC 5545 section 3.3.5: a local time that does not exist is read with the offset before the gap, and one that
        exists twice means the first; both are what ``fold=0`` stands for (PEP 495).
        """
        starts = (local.replace(tzinfo=self.zone).astimezone(UTC) for local in self.locals_on(day))
        return tuple(sorted(start for start in starts if self.until is None or start <= self.until))

    def _ascending(self, lowest: int) -> Iterator[int]:
        lowest = max(lowest, self.starts.toordinal())
        first = date.fromordinal(lowest).year
        for year in range(first, min(first + _YEARS, _LAST_YEAR, self._last_year) + 1):
            days = _days(self, year)
            yield from days[bisect_left(days, lowest) :]

    def _descending(self, highest: int, lowest: int) -> Iterator[int]:
        lowest = max(lowest, self.starts.toordinal())
        for year in range(date.fromordinal(highest).year, date.fromordinal(lowest).year - 1, -1):
            days = _days(self, year)
            yield from reversed(days[bisect_left(days, lowest) : bisect_right(days, highest)])

    @property
    def _last_year(self) -> int:
        """No occurrence is after it; UNTIL is in UTC, so the local year may be the next."""
        ends = [self.until.year + 1] if self.until is not None else []
        return min([*ends, self.last.year if self.last is not None else MAXYEAR])

    def days_of(self, year: int) -> tuple[int, ...]:
        """The days of a year that the rule names, as ordinals, in order; DTSTART, COUNT and UNTIL are not looked at."""
        if self.frequency == "YEARLY" and (year - self.starts.year) % self.interval:
            return ()
        # An interval beyond the last year: one year is looked at, and then no other.
        named = list(rrule(YEARLY, dtstart=datetime(year, 1, 1), interval=MAXYEAR, **self.by))  # noqa: DTZ001  # local
        if self.positions:
            named = [day for _, period in groupby(named, self._period) for day in self._selected(list(period))]
        return tuple(day.toordinal() for day in named if self.frequency == "HOURLY" or self._in_phase(day))

    def _selected(self, days: list[datetime]) -> list[datetime]:
        """BYSETPOS: the n-th of a period, counted from one, or from its end."""
        indexes = {position - 1 if position > 0 else len(days) + position for position in self.positions}
        return [day for index, day in enumerate(days) if index in indexes]

    def _period(self, moment: datetime) -> int:
        return _PERIOD[self.frequency](moment, self.week_starts)

    def _in_phase(self, moment: datetime) -> bool:
        return (self._period(moment) - self._period(self.starts)) % self.interval == 0


@lru_cache(maxsize=4_096)
def _days(recurrence: _Recurrence, year: int) -> tuple[int, ...]:
    return recurrence.days_of(year)


@lru_cache(maxsize=4_096)
def _starts(recurrence: _Recurrence, day: int) -> tuple[datetime, ...]:
    return recurrence.starts_on(day)


# Reading a rule.


@lru_cache(maxsize=1_024)
def _recurrence(window: Window, where: str = "window") -> _Recurrence:
    """Read the rule of a window.

    Raises:
        InvalidInput: see ``RecurrenceCalendar.check``.
    """
    in_rule = f"{where}.rule"
    parts = _parts(in_rule, window.rule)
    frequency, numbers = parts["FREQ"], _number_lists(in_rule, parts)
    recurrence = _Recurrence(
        frequency=frequency,
        interval=_single(in_rule, parts, "INTERVAL") or 1,
        week_starts=_week_starts(in_rule, parts),
        starts=window.starts,
        zone=_zone(f"{where}.timezone", window.timezone),
        duration=timedelta(seconds=window.duration_s),
        by=_days_named(in_rule, parts, numbers, window.starts),
        positions=numbers.get("BYSETPOS", ()),
        times=_times(in_rule, frequency, numbers, window.starts),
        until=_until(in_rule, parts),
    )
    _check_starts(where, recurrence)
    if (count := _single(in_rule, parts, "COUNT")) is None:
        return recurrence
    last = next(islice(recurrence.locals_from_the_start(), count - 1, None), None)
    if last is None:
        raise InvalidInput(in_rule, f"COUNT={count} is not reached in {_YEARS} years: leave it out, or lower it")
    return replace(recurrence, last=last)


def _parts(where: str, rule: str) -> Mapping[str, str]:
    parts: dict[str, str] = {}
    for part in rule.split(";"):
        name, _, value = part.partition("=")
        if name not in _LISTS and name not in _SINGLE and name not in _OTHERS:
            raise InvalidInput(where, f"no such part: {name[:20]}; expected an RRULE value of RFC 5545")
        if name in parts:
            raise InvalidInput(where, f"{name} is there twice")
        parts[name] = value
    frequency = parts.get("FREQ", "")
    if frequency not in _FREQUENCIES:
        what = f"{frequency[:20]} is not offered" if frequency else "FREQ is missing"
        raise InvalidInput(where, f"{what}; expected FREQ to be one of {', '.join(_FREQUENCIES)}")
    if "COUNT" in parts and "UNTIL" in parts:
        raise InvalidInput(where, "COUNT and UNTIL exclude each other")
    if "BYSETPOS" in parts and not any(name.startswith("BY") and name != "BYSETPOS" for name in parts):
        raise InvalidInput(where, "BYSETPOS selects from what another BY part names; there is none")
    return parts


def _number_lists(where: str, parts: Mapping[str, str]) -> Mapping[str, tuple[int, ...]]:
    lists = {}
    for name, allowed in _LISTS.items():
        if name not in parts:
            continue
        if parts["FREQ"] not in allowed.frequencies:
            raise InvalidInput(where, f"{name} goes with FREQ={' or '.join(allowed.frequencies)} only")
        numbers = {_number(where, name, text, allowed) for text in parts[name].split(",")}
        lists[name] = tuple(sorted(numbers))
    return lists


def _single(where: str, parts: Mapping[str, str], name: str) -> int | None:
    return _number(where, name, parts[name], _SINGLE[name]) if name in parts else None


def _number(where: str, name: str, text: str, allowed: _Numbers) -> int:
    digits = text.removeprefix("-" if text.startswith("-") else "+") if allowed.signed else text
    well_formed = digits.isascii() and digits.isdigit() and len(digits) <= 4
    if not well_formed or not allowed.lowest <= int(digits) <= allowed.highest:
        raise InvalidInput(
            where,
            f"{name}: expected whole numbers from {allowed.lowest} to {allowed.highest}"
            + (", or negative ones, which count from the end" if allowed.signed else ""),
        )
    return -int(digits) if text.startswith("-") else int(digits)


def _week_starts(where: str, parts: Mapping[str, str]) -> int:
    day = parts.get("WKST", "MO")
    if day not in _WEEKDAYS:
        raise InvalidInput(where, f"WKST: expected one of {', '.join(_WEEKDAYS)}")
    return _WEEKDAYS.index(day)


def _weekdays(where: str, parts: Mapping[str, str]) -> list[weekday]:
    """BYDAY. A number before a day, ``-1FR``, counts within the month or year."""
    days = []
    for text in parts["BYDAY"].split(","):
        found = _BYDAY.fullmatch(text)
        nth = int(found["nth"]) if found and found["nth"] else None
        if found is None or nth == 0 or abs(nth or 1) > 53:
            raise InvalidInput(where, "BYDAY: expected days such as MO,TU or, with a number from 1 to 53, 1MO,-1FR")
        days.append(weekday(_WEEKDAYS.index(found["day"]), nth))
    numbered = {day.n is not None for day in days}
    if True in numbered and (parts["FREQ"] not in {"MONTHLY", "YEARLY"} or "BYWEEKNO" in parts):
        raise InvalidInput(where, "BYDAY: a number before a day goes with FREQ=MONTHLY or YEARLY, without BYWEEKNO")
    if len(numbered) > 1:
        raise InvalidInput(where, "BYDAY: expected all days with a number or none; write two windows")
    return days


def _days_named(
    where: str, parts: Mapping[str, str], numbers: Mapping[str, tuple[int, ...]], starts: datetime
) -> Mapping[str, Any]:
    """What ``rrule`` is asked of a year. Parts that a rule leaves out come from DTSTART (RFC 5545 section 3.3.10)."""
    if "BYWEEKNO" in parts and "BYDAY" not in parts:
        raise InvalidInput(where, "BYWEEKNO: expected BYDAY beside it, to say which days of the week")
    by: dict[str, Any] = {
        name.lower(): numbers[name] for name in ("BYMONTHDAY", "BYYEARDAY", "BYWEEKNO") if name in numbers
    }
    if "BYDAY" in parts:
        by["byweekday"] = _weekdays(where, parts)
    months = numbers.get("BYMONTH")
    if not by:
        every_day, this_day = {"bymonthday": range(1, 32)}, {"bymonthday": starts.day}
        weekly = {"byweekday": starts.weekday()}
        by.update({"WEEKLY": weekly, "MONTHLY": this_day, "YEARLY": this_day}.get(parts["FREQ"], every_day))
        if parts["FREQ"] == "YEARLY" and months is None:
            months = (starts.month,)
    if parts["FREQ"] == "MONTHLY" and months is None:
        months = tuple(range(1, 13))  # so that 1MO is the first of a month, not of the year
    return {**by, "bymonth": months, "wkst": _week_starts(where, parts)}


def _times(where: str, frequency: str, numbers: Mapping[str, tuple[int, ...]], starts: datetime) -> tuple[time, ...]:
    every_hour = tuple(range(24)) if frequency == "HOURLY" else (starts.hour,)
    hours, minutes = numbers.get("BYHOUR", every_hour), numbers.get("BYMINUTE", (starts.minute,))
    seconds = numbers.get("BYSECOND", (starts.second,))
    if len(hours) * len(minutes) * len(seconds) > _MOST_TIMES:
        raise InvalidInput(where, f"expected at most {_MOST_TIMES} occurrences in a day")
    times = tuple(time(*parts) for parts in product(hours, minutes, seconds))
    if "BYSETPOS" in numbers and len(times) > 1:
        raise InvalidInput(where, "BYSETPOS: expected one time of the day beside it")
    return times


def _until(where: str, parts: Mapping[str, str]) -> datetime | None:
    if "UNTIL" not in parts:
        return None
    text = parts["UNTIL"]
    try:
        until = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if _UNTIL.fullmatch(text) else None
    except ValueError:
        until = None
    if until is None:
        raise InvalidInput(
            where,
            "UNTIL: expected UTC, such as 20261231T225959Z, since starts has a time zone (RFC 5545 section 3.3.10)",
        )
    return until


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    """Names that mean the same everywhere: not ``localtime``, and no abbreviations, of which some know no summer."""
    return frozenset({"UTC", *(name for name in available_timezones() if "/" in name)})


def _zone(where: str, name: str) -> ZoneInfo:
    if name not in _zone_names():
        raise InvalidInput(where, f"no such time zone: {name[:64]}; expected an IANA name such as Europe/Berlin or UTC")
    return ZoneInfo(name)


def _check_starts(where: str, recurrence: _Recurrence) -> None:
    """DTSTART must be an occurrence: what a rule means otherwise is undefined (RFC 5545 section 3.8.5.3)."""
    if recurrence.until is not None and recurrence.starts.replace(tzinfo=recurrence.zone) > recurrence.until:
        raise InvalidInput(f"{where}.rule", "it never occurs: UNTIL is before starts")
    first = next(recurrence.locals_from_the_start(), None)
    if first is None:
        raise InvalidInput(f"{where}.rule", f"it never occurs in the {_YEARS} years from starts on")
    if first != recurrence.starts:
        raise InvalidInput(f"{where}.starts", f"expected an occurrence of the rule; the first is {first.isoformat()}")
