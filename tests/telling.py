"""What events say, checked against the catalogue: strictly, so that nothing is said that is not written down."""

from __future__ import annotations

import json
from functools import cache

from jsonschema import Draft202012Validator

from app.adapters.postgres.unit_of_work import Database
from app.domain.events import EventType, StoredEvent, cloud_event, schema_of

SOURCE = "https://gateway.example"
LONGEST_BODY = 20_000
"""Bytes; what Standard Webhooks asks for (``spec/standard-webhooks.md``, *Payload size*)."""


@cache
def _validator(kind: EventType) -> Draft202012Validator:
    return Draft202012Validator(schema_of(kind, is_open=False), format_checker=Draft202012Validator.FORMAT_CHECKER)


def check_event(stored: StoredEvent) -> None:
    """Return if an event says what its schema says, and no more."""
    body = cloud_event(stored, source=SOURCE)
    found = [error.message for error in _validator(stored.event.type).iter_errors(body["data"])]
    assert found == [], (stored.event.type, found, body["data"])
    assert len(json.dumps(body, ensure_ascii=False).encode()) < LONGEST_BODY


async def events_of(database: Database) -> list[StoredEvent]:
    """All that there are, each checked."""
    found: list[StoredEvent] = []
    while True:
        async with database.unit_of_work() as work:
            page = await work.events.page(after=found[-1].sequence if found else 0, limit=1000)
        if not page:
            return found
        for stored in page:
            check_event(stored)
        found += page
