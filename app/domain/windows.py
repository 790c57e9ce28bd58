"""Freeze and deployment windows: recurring stretches of time in which an alias may move, or may not. Deny wins.

A window is an RFC 5545 recurrence (section 3.3.10) with a duration and a time zone. Which stretches that makes is a
calendar's answer (``Calendar``); what they mean together is decided here:

==========================  ==========  ======================================
windows of the policy       active now  the alias may move
==========================  ==========  ======================================
none                        none        yes
some that deny              one denies  no, whatever allows
some that allow             none        no
some that allow             one allows  yes, unless one denies
==========================  ==========  ======================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol
from zoneinfo import ZoneInfo

from app.domain.durations import parse_duration, write_duration
from app.domain.errors import InvalidInput

HORIZON = timedelta(days=400)
"""How far ahead an opening is looked for: a yearly window is found, a mistake is not followed for ever."""

_MOST_STEPS = 500
"""From one boundary to the next, at most this often: a bound on work for windows that touch each other."""

LONGEST_WINDOW_S = 366 * 86_400
LONGEST_RULE = 500
FIRST_YEAR, LAST_YEAR = 1970, 2199


class Effect(StrEnum):
    """What a window does to the alias while it is active."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Window:
    """One recurring stretch of time.

    ``rule`` is an RRULE value, ``FREQ=WEEKLY;BYDAY=FR``. ``starts`` is the local wall time of the first occurrence
    (DTSTART), naive, and is read in ``timezone``, an IANA name. ``duration_s`` are exact seconds.
    """

    name: str
    effect: Effect
    rule: str
    starts: datetime
    duration_s: int
    timezone: str


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One stretch, in UTC; the end is not part of it."""

    starts_at: datetime
    ends_at: datetime


class Calendar(Protocol):
    """Knows when windows occur.

    Both raise ``InvalidInput`` for a window that cannot be read, as one of a time zone that is gone: what cannot be
    told is not an open window.
    """

    def current(self, window: Window, at: datetime) -> Occurrence | None:
        """The occurrence that covers ``at``, the one that ends last if several do."""

    def following(self, window: Window, after: datetime) -> Occurrence | None:
        """The first occurrence that starts after ``after``."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether an alias may move at a moment, why, and when that changes."""

    is_open: bool
    reason: str
    """A sentence for a person: which window decides, until when, in its own zone."""
    opens_at: datetime | None
    """When it is open next, which is the moment itself if it is open; none if not within the horizon."""
    closes_at: datetime | None
    """When an open one closes; none if it is closed, or does not close within the horizon."""


def opening(windows: Iterable[Window], at: datetime, calendar: Calendar) -> Opening:
    """Whether an alias under these windows may move at ``at`` (aware).

    Raises:
        InvalidInput: a window cannot be read; see ``Calendar``.
    """
    at = at.astimezone(UTC)
    timeline = _Timeline(windows, calendar)
    blocked = timeline.blocked(at)
    if blocked is None:
        return Opening(True, timeline.why_open(at), opens_at=at, closes_at=timeline.closes_after(at))
    opens_at = timeline.opens_after(blocked, at)
    return Opening(False, timeline.why_closed(at, opens_at), opens_at=opens_at, closes_at=None)


@dataclass(frozen=True, slots=True)
class _Blocked:
    """Closed at a moment, and certainly until ``until``; none if nothing opens it again."""

    until: datetime | None


class _Timeline:
    """The windows of one policy, asked from one boundary to the next."""

    def __init__(self, windows: Iterable[Window], calendar: Calendar) -> None:
        windows = tuple(windows)
        self._calendar = calendar
        self._denying = tuple(window for window in windows if window.effect is not Effect.ALLOW)
        self._allowing = tuple(window for window in windows if window.effect is Effect.ALLOW)

    def blocked(self, at: datetime) -> _Blocked | None:
        """Nothing if it is open at ``at``."""
        if denying := self._active(self._denying, at):
            return _Blocked(denying[1].ends_at)
        if not self._allowing or self._active(self._allowing, at):
            return None
        return _Blocked(self._next_start(self._allowing, at))

    def opens_after(self, blocked: _Blocked, at: datetime) -> datetime | None:
        """From ``blocked`` at ``at`` on, boundary by boundary, to the first moment that nothing blocks."""
        horizon = _horizon(at)
        for _ in range(_MOST_STEPS):
            moment = blocked.until
            if moment is None or moment > horizon:
                return None
            still = self.blocked(moment)
            if still is None:
                return moment
            blocked = still
        return None

    def closes_after(self, at: datetime) -> datetime | None:
        """When what is open at ``at`` closes: at the next denial, or where the chain of allowing windows breaks."""
        horizon = _horizon(at)
        denied_at = self._next_start(self._denying, at)
        closes_at = self._allowed_until(at, min(denied_at or horizon, horizon)) or denied_at
        return closes_at if closes_at is not None and closes_at <= horizon else None

    def _allowed_until(self, at: datetime, limit: datetime) -> datetime | None:
        """Where the windows that allow, one reaching into the next, leave a gap; none if not before ``limit``."""
        moment = at
        for _ in range(_MOST_STEPS if self._allowing else 0):
            allowing = self._active(self._allowing, moment)
            if allowing is None:
                return moment
            moment = allowing[1].ends_at
            if moment > limit:
                return None
        return None

    def why_open(self, at: datetime) -> str:
        allowing = self._active(self._allowing, at)
        if allowing is None:
            return "No window closes it." if self._denying else "No windows are set: it is always open."
        window, occurrence = allowing
        return f"The deployment window {window.name} is active until {_local(occurrence.ends_at, window)}."

    def why_closed(self, at: datetime, opens_at: datetime | None) -> str:
        denying = self._active(self._denying, at)
        if denying is not None:
            window, occurrence = denying
            return f"The freeze window {window.name} closes it until {_local(occurrence.ends_at, window)}."
        outside = f"It is outside the deployment windows ({', '.join(window.name for window in self._allowing)})"
        opening_it = self._active(self._allowing, opens_at) if opens_at is not None else None
        if opens_at is None or opening_it is None:
            return f"{outside}, and will be for the next {HORIZON.days} days."
        return f"{outside}; {opening_it[0].name} opens it on {_local(opens_at, opening_it[0])}."

    def _active(self, windows: tuple[Window, ...], at: datetime) -> tuple[Window, Occurrence] | None:
        """The active one that ends last."""
        active = [
            (window, occurrence) for window in windows if (occurrence := self._calendar.current(window, at)) is not None
        ]
        return max(active, key=lambda found: found[1].ends_at, default=None)

    def _next_start(self, windows: tuple[Window, ...], after: datetime) -> datetime | None:
        found = (self._calendar.following(window, after) for window in windows)
        return min((occurrence.starts_at for occurrence in found if occurrence is not None), default=None)


def _horizon(at: datetime) -> datetime:
    """The end of what is looked at, also where a clock that jumped leaves no room for it."""
    return min(at, datetime.max.replace(tzinfo=UTC) - HORIZON) + HORIZON


def _local(moment: datetime, window: Window) -> str:
    return f"{moment.astimezone(ZoneInfo(window.timezone)):%a %Y-%m-%d %H:%M} {window.timezone}"


# The document.

_FIELDS = frozenset({"name", "effect", "rule", "starts", "duration", "timezone"})
_STARTS = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?")
_STARTS_WITH_ZONE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+ ?([Zz]|[+-][0-9:]+)")
_RULE = re.compile(r"[A-Z]+=[A-Z0-9,+-]+(;[A-Z]+=[A-Z0-9,+-]+)*")
_ZONE = re.compile(r"UTC|[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)+")


def window_from_document(where: str, document: object) -> Window:
    """Read a window as people write it; whether its rule ever occurs and its zone exists is for a calendar to say.

    Raises:
        InvalidInput: names ``where`` and the field.
    """
    if not isinstance(document, Mapping):
        raise InvalidInput(where, f"expected an object with {', '.join(sorted(_FIELDS))}")
    if unknown := sorted(map(str, set(document) - _FIELDS)):
        raise InvalidInput(f"{where}.{unknown[0]}", f"unknown field; expected one of {', '.join(sorted(_FIELDS))}")
    duration_s = parse_duration(f"{where}.duration", document.get("duration"))
    if duration_s > LONGEST_WINDOW_S:
        raise InvalidInput(f"{where}.duration", f"expected at most {LONGEST_WINDOW_S // 86_400} days")
    return Window(
        name=_name(f"{where}.name", document.get("name")),
        effect=_effect(f"{where}.effect", document.get("effect")),
        rule=_rule(f"{where}.rule", document.get("rule")),
        starts=_starts(f"{where}.starts", document.get("starts")),
        duration_s=duration_s,
        timezone=_zone(f"{where}.timezone", document.get("timezone")),
    )


def window_document(window: Window) -> dict[str, object]:
    """The document that ``window_from_document`` reads back to the same window."""
    return {
        "name": window.name,
        "effect": window.effect.value,
        "rule": window.rule,
        "starts": window.starts.isoformat(timespec="seconds" if window.starts.second else "minutes"),
        "duration": write_duration(window.duration_s),
        "timezone": window.timezone,
    }


def _name(where: str, value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 100 or not value.isprintable() or value != value.strip():
        raise InvalidInput(where, "expected a name of 1 to 100 printable characters")
    return value


def _effect(where: str, value: object) -> Effect:
    if not isinstance(value, str) or value not in set(Effect):
        raise InvalidInput(where, f"expected {' or '.join(Effect)}")
    return Effect(value)


def _rule(where: str, value: object) -> str:
    """RFC 5545 section 3.3.10; the names in it are case-insensitive (section 2)."""
    rule = value.strip().upper().removeprefix("RRULE:") if isinstance(value, str) else ""
    if len(rule) > LONGEST_RULE or not rule.isascii() or not _RULE.fullmatch(rule):
        raise InvalidInput(where, "expected one RRULE value of RFC 5545, such as FREQ=WEEKLY;BYDAY=FR")
    return rule


def _starts(where: str, value: object) -> datetime:
    expected = "expected the local date and time of the first occurrence, such as 2026-01-02T18:00"
    if isinstance(value, str):
        if _STARTS_WITH_ZONE.fullmatch(value):
            raise InvalidInput(where, "expected local time without Z or offset; timezone says where")
        try:
            value = datetime.fromisoformat(value) if _STARTS.fullmatch(value) else None
        except ValueError as error:
            raise InvalidInput(where, f"no such date and time; {expected}") from error
    if not isinstance(value, datetime):
        raise InvalidInput(where, expected)
    if value.tzinfo is not None:
        raise InvalidInput(where, "expected local time without Z or offset; timezone says where")
    if value.microsecond:
        raise InvalidInput(where, "expected whole seconds")
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise InvalidInput(where, f"expected a year from {FIRST_YEAR} to {LAST_YEAR}")
    return value.replace(fold=0)


def _zone(where: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > 64 or not _ZONE.fullmatch(value):
        raise InvalidInput(where, "expected the name of an IANA time zone, such as Europe/Berlin or UTC")
    return value
