"""What every schema shares: strict requests, and pages with an opaque cursor."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from fastapi import Header, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from app.domain.errors import InvalidInput

Item = TypeVar("Item")


def _in_utc(moment: datetime) -> datetime:
    """The same moment in UTC, as it is kept. There are some that UTC has no year for: ``9999-12-31T23:59-23:59``."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("expected a time that is in the years 1 to 9999 in UTC too") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time with its zone, in UTC."""


class Request(BaseModel):
    """What callers send: unknown fields are errors, so that a misspelt one is not lost silently."""

    model_config = ConfigDict(extra="forbid", str_max_length=10_000)


class Answer(BaseModel):
    """What we answer. Fields may be added in a later release; none is removed."""

    model_config = ConfigDict(from_attributes=True)


class Page(Answer, Generic[Item]):
    """Some items, and the cursor for those after them."""

    items: Sequence[Item]
    next_cursor: str | None = Field(description="Send it as `cursor` for the next page; null on the last one.")


LARGEST_NUMBER = 2**63 - 1
"""What PostgreSQL takes for a number of a row."""

Limit = Annotated[int, Query(ge=1, le=200, description="How many items at most.")]
Cursor = Annotated[str | None, Query(max_length=4000, description="`next_cursor` of the page before.")]
Workspace = Annotated[str, Query(max_length=63, description="MLflow's.")]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="Sent again with the same request, nothing is done twice."),
]
Wait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for a change before answering.")]


def write_cursor(moment: datetime, identifier: str) -> str:
    """The place behind an item of a list that is ordered by time and id."""
    return base64.urlsafe_b64encode(json.dumps([moment.isoformat(), identifier]).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> tuple[datetime, str] | None:
    """The place that a cursor names.

    Raises:
        InvalidInput: it is not one of ours.
    """
    if cursor is None:
        return None
    refusal = InvalidInput("cursor", "expected a `next_cursor` of an earlier answer")
    try:
        moment, identifier = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place = datetime.fromisoformat(moment)
        if place.tzinfo is None or not isinstance(identifier, str):
            raise refusal
        identifier.encode()  # half a surrogate pair is no text
        return _in_utc(place), identifier
    except (ValueError, TypeError, binascii.Error):
        raise refusal from None


def write_name_cursor(name: str) -> str:
    """The place behind an item of a list that is ordered by name."""
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def read_name_cursor(cursor: str | None) -> str:
    """The name that a cursor names; empty for the beginning.

    Raises:
        InvalidInput: it is not one of ours.
    """
    try:
        name = base64.urlsafe_b64decode((cursor or "") + "=" * (-len(cursor or "") % 4)).decode()
    except (ValueError, binascii.Error):
        raise InvalidInput("cursor", "expected a `next_cursor` of an earlier answer") from None
    if "\x00" in name:
        raise InvalidInput("cursor", "expected a `next_cursor` of an earlier answer")
    return name


def write_number_cursor(number: int) -> str:
    """The place behind an item of a list that is ordered by number."""
    return write_name_cursor(str(number))


def read_number_cursor(cursor: str | None) -> int | None:
    """The number that a cursor names; none for the beginning.

    Raises:
        InvalidInput: it is not one of ours.
    """
    number = read_name_cursor(cursor)
    if cursor is not None and not (number.isascii() and number.isdecimal() and len(number) < _LONGEST_NUMBER):
        raise InvalidInput("cursor", "expected a `next_cursor` of an earlier answer")
    return None if cursor is None else int(number)


_LONGEST_NUMBER = 10
