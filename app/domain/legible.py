"""What a person may be shown: texts that somebody else chose, with nothing that hides or turns round; sizes; lists.

Names, tags and reasons are anybody's. Characters that are not seen, or that change the order of those around them,
could make one thing look like another: they are shown by their code points.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_HIDING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but tab and line feed
    "\u00ad\u061c\u115f\u1160\u180e"  # soft hyphen, Arabic letter mark, fillers, Mongolian vowel separator
    "\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069"  # without width, marks and overrides of direction, separators
    "\u3164\ufeff\uffa0"  # fillers, byte order mark
    "\ufff9-\ufffb"  # interlinear annotation
    "\U000e0000-\U000e0fff"  # tags: not seen at all
    "\ud800-\udfff"  # no characters
    "]"
)
"""Joiners (U+200C, U+200D) stay: Persian and emoji need them."""


def legible(text: str) -> str:
    """The text with each character that hides or turns something round written as ``[U+202E]``."""
    return _HIDING.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def listed(parts: Iterable[str]) -> str:
    """Several things in a sentence: ``a, b and c``."""
    *others, last = [*parts] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def written_size(size: float) -> str:
    """Bytes, for a person: ``1.2 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
