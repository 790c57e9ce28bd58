"""What happened, for whoever must be told: its kinds, what is said of each, and the messages that carry it."""

from app.domain.events.catalogue import CATALOGUE, EventKind, is_alarm, schema_address, schema_of
from app.domain.events.happened import OF_NO_MODEL, Event, EventType, StoredEvent, timestamp
from app.domain.events.messages import DEPLOYMENT_REQUESTED, call_event, call_of, cloud_event

__all__ = [
    "CATALOGUE",
    "DEPLOYMENT_REQUESTED",
    "OF_NO_MODEL",
    "Event",
    "EventKind",
    "EventType",
    "StoredEvent",
    "call_event",
    "call_of",
    "cloud_event",
    "is_alarm",
    "schema_address",
    "schema_of",
    "timestamp",
]
