"""What is kept of an attempt for people to read: bounded, of characters that the database holds, secrets masked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from app.domain.networks import MASK, shown

MOST_HEADERS = 32
LONGEST_NAME = 80
LONGEST_VALUE = 200
KEPT_BYTES = 2048
"""Of a body."""

_SECRET = re.compile(r"auth|cookie|key|passw|secret|session|signature|token", re.IGNORECASE)
_ADDRESSES = frozenset({"location", "content-location", "refresh", "link"})
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")
"""What PostgreSQL's text does not hold, and bytes that were no characters."""


def of_request(headers: Mapping[str, str]) -> dict[str, str]:
    """Our headers: the signatures are masked, and their versions are not."""
    return {
        name: " ".join(f"{each.partition(',')[0]},{MASK}" for each in value.split())
        if name == "webhook-signature"
        else value
        for name, value in headers.items()
    }


def of_response(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Theirs. Of a repeated header all values are kept, joined as RFC 9110 section 5.2 has it."""
    kept: dict[str, str] = {}
    for given, value in headers:
        name = given.lower()[:LONGEST_NAME]
        if len(kept) >= MOST_HEADERS and name not in kept:
            break
        if _is_secret(name):
            kept[name] = MASK
            continue
        text = shown(value) if name in _ADDRESSES else value
        kept[name] = clean((f"{kept[name]}, {text}" if name in kept else text)[:LONGEST_VALUE])
    return kept


def of_body(body: bytes, encoding: str) -> str:
    """The beginning of a body; of a compressed one only that it is."""
    if encoding and encoding != "identity":
        return clean(f"[{encoding[:20]}, not shown]") if body else ""
    return clean(body[:KEPT_BYTES].decode("utf-8", errors="replace"))


def clean(text: str) -> str:
    return _NOT_TEXT.sub("\ufffd", text) if "\x00" in text or not text.isascii() else text


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET.search(name) is not None
