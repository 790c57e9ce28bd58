"""Reads JSON and base64url that have one meaning only: who checked a token and who acts on it must read the same."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Never


def strict_object(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 without duplicate names, without NaN, and with text that can be stored.

    Raises:
        ValueError: it is something else. The message does not quote it.
    """
    try:
        text = data.decode("utf-8")
        value = _DECODER.decode(text)
        if "\\u" in text:
            _check_text(text, value)
    except (RecursionError, UnicodeError, json.JSONDecodeError):
        raise ValueError("not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004  # a value from outside, not a mistake of ours
    return value


def from_base64url(text: bytes) -> bytes:
    """Decode the one spelling that the bytes have (RFC 7515 section 2): no padding, no spaces, no stray bits.

    Raises:
        ValueError: it is another spelling, or no base64url.
    """
    try:
        data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text:
        raise ValueError("not base64url")
    return data


def _check_text(text: str, value: object) -> None:
    json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    if "\\u0000" in text:
        raise ValueError("a text has a NUL, which no database holds")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _no_number(_name: str) -> Never:
    raise ValueError("not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
