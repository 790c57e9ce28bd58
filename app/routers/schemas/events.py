"""Events, as callers see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import Field

from app.domain.events import EventType, StoredEvent
from app.routers.schemas.shared import Answer


class EventAnswer(Answer):
    """Something that happened: to an alias, to a model (then `alias` is empty), or to neither (then `model` is too)."""

    sequence: int = Field(description="Its place in the order.")
    id: str
    type: EventType
    subject: str = Field(description="What it happened to, such as the id of a promotion.")
    at: datetime
    workspace: str
    model: str
    alias: str
    data: Mapping[str, object] = Field(description="As the schema of its type says.")


class EventPage(Answer):
    items: Sequence[EventAnswer]
    next_after: int = Field(description="Send it as `after` for what happened since.")


class EventTypeAnswer(Answer):
    """A type of event."""

    type: EventType
    meaning: str
    subject: str = Field(description="What the `subject` of such an event is.")
    is_alarm: bool = Field(description="Whether a person should look at once.")
    dataschema: str = Field(description="Where the JSON Schema of its `data` is.")


class EventCatalogue(Answer):
    items: Sequence[EventTypeAnswer]


def event_answer(stored: StoredEvent) -> EventAnswer:
    event = stored.event
    return EventAnswer(
        sequence=stored.sequence,
        id=event.id,
        type=event.type,
        subject=event.subject,
        at=event.at,
        workspace=event.key.workspace,
        model=event.key.model,
        alias=event.key.alias,
        data=event.data,
    )
