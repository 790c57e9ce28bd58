"""Durations as people write them: ``30m``, ``24h``, ``7d``, ``1d12h``, or ``PT62H`` (RFC 5545 section 3.3.6).

They are exact seconds: a day is 24 hours and a week 7 days, summer time or not.
Months and years have no exact length and are refused.
"""

from __future__ import annotations

import re

from app.domain.errors import InvalidInput

LONGEST_S = 3_660 * 86_400
"""Ten years: more is a mistake, and would carry a date beyond what a calendar holds."""

_UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}

_SHORT = re.compile(
    r"(?:(?P<w>[0-9]{1,9})w)?(?:(?P<d>[0-9]{1,9})d)?(?:(?P<h>[0-9]{1,9})h)?(?:(?P<m>[0-9]{1,9})m)?(?:(?P<s>[0-9]{1,9})s)?"
)
_ISO = re.compile(
    r"P(?:(?P<w>[0-9]{1,9})W|(?:(?P<d>[0-9]{1,9})D)?"
    r"(?:T(?=[0-9])(?:(?P<h>[0-9]{1,9})H)?(?:(?P<m>[0-9]{1,9})M)?(?:(?P<s>[0-9]{1,9})S)?)?)"
)
_EXPECTED = "expected a duration such as 30m, 24h, 7d, 1d12h or PT62H (weeks, days, hours, minutes, seconds; no months)"


def parse_duration(where: str, value: object) -> int:
    """The seconds that a text such as ``24h`` or ``PT62H`` stands for, from 1 to ``LONGEST_S``.

    Raises:
        InvalidInput: names ``where``. A bare number is refused too: nothing says whether it counts seconds or hours.
    """
    found = (_ISO if value.startswith("P") else _SHORT).fullmatch(value) if isinstance(value, str) else None
    if found is None or not any(found.groups()):
        raise InvalidInput(where, _EXPECTED)
    seconds = sum(_UNITS[unit] * int(amount) for unit, amount in found.groupdict().items() if amount)
    if not 1 <= seconds <= LONGEST_S:
        raise InvalidInput(where, f"expected a duration above zero and up to {LONGEST_S // 86_400} days")
    return seconds


def write_duration(seconds: int) -> str:
    """The one way a duration is written back, ``1d12h``; ``parse_duration`` reads it to the same seconds."""
    parts = []
    for unit in "dhms":
        amount, seconds = divmod(seconds, _UNITS[unit])
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"
