"""Deliveries: one message to one receiver, with its attempts, and when to try again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"  # the receiver answered 2xx
    SUPERSEDED = "superseded"  # a newer generation made it pointless
    DEAD = "dead"  # the receiver refused it for good, or was away for too long


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message.

    ``id`` is the ``webhook-id``: the same over all attempts, so that a receiver can tell a repetition.
    """

    id: str
    target: str
    event_type: str
    subject: str
    generation: int
    payload: Mapping[str, object]
    state: DeliveryState
    attempts: int
    created_at: datetime
    next_attempt_at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try. ``status`` is the HTTP status, none when there was no answer."""

    number: int
    started_at: datetime
    duration_ms: int
    status: int | None
    error: str | None
    response: str


FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 600.0
GIVE_UP_AFTER = timedelta(hours=24)
RETRYABLE = frozenset({408, 425, 429})


def is_final_refusal(status: int) -> bool:
    """Whether an answer means that trying again is no use: 3xx and 4xx, except those that say "later"."""
    return 300 <= status < 500 and status not in RETRYABLE


def wait_before(attempt: int, *, chance: float, retry_after_s: float | None = None) -> float:
    """Seconds before the next try after attempt number ``attempt`` failed: exponential with full jitter, bounded.

    Args:
        attempt: from 1.
        chance: a random number from 0 to 1.
        retry_after_s: what the receiver asked for (RFC 9110 section 10.2.3); honoured up to the longest wait.
    """
    ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 20))
    if retry_after_s is not None:
        return min(LONGEST_WAIT_S, max(retry_after_s, 0.0))
    return max(0.2, ceiling * chance)
