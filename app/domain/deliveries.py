"""Deliveries: one message to one receiver, with its attempts, in its lane, and when to try again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from app.domain.endpoints import Channel
from app.domain.grants import DEFAULT_WORKSPACE


class ReceiverKind(StrEnum):
    ENDPOINT = "endpoint"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class Receiver:
    """To whom. Written as ``endpoint:<name>`` or ``target:<name>``."""

    kind: ReceiverKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> Receiver:
        """Raises ``ValueError``: it is of no such form."""
        kind, _, name = text.partition(":")
        return cls(ReceiverKind(kind), name)


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"  # the receiver answered 2xx
    SUPERSEDED = "superseded"  # a newer generation made it pointless
    DEAD = "dead"  # the receiver refused it for good, was away for too long, or was disabled


class Cause(StrEnum):
    """Why there is a delivery."""

    EVENT = "event"
    DEPLOYMENT = "deployment"
    REPLAY = "replay"  # somebody had it sent again
    PING = "ping"  # somebody tries whether an endpoint hears


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message.

    ``message_id`` is the ``webhook-id``: the same over all attempts and replays, so that a receiver can tell a
    repetition. ``lane`` is what order is kept in, at one receiver: the model, with its workspace. ``body`` is what is
    signed and sent, character for character. ``generation`` and ``deployment_id`` are those of a call to a target.
    """

    id: str
    receiver: Receiver
    lane: str
    message_id: str
    event_type: str
    subject: str
    body: str
    cause: Cause
    created_at: datetime
    next_attempt_at: datetime | None
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    settled_at: datetime | None = None
    event_sequence: int | None = None
    replays: str | None = None
    deployment_id: str | None = None
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which deliveries are looked for; all of what is said must be so. ``since`` and ``until`` are of when they were
    made; ``workspace`` counts with ``model`` alone.
    """

    receiver: Receiver | None = None
    states: tuple[DeliveryState, ...] = ()
    event_type: str | None = None
    model: str | None = None
    workspace: str = DEFAULT_WORKSPACE
    message_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """What is to be sent again of what happened: since a time, until before another, or after one number of an event
    up to another one. ``types`` are patterns; none: of all types. ``only_missed``: what the endpoint did not get, be it
    that it was away or disabled; else everything that it hears.
    """

    since: datetime | None = None
    until: datetime | None = None
    after: int = 0
    last: int | None = None
    types: tuple[str, ...] = ()
    only_missed: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt that is to be made.

    ``secrets`` are the values that sign, the newest first (``whsec_…`` or ``whsk_…``); ``allowed_networks`` are the
    private networks in which the receiver may be. ``channel`` decides who sends: for people ``url`` is empty, and the
    first secret says where it goes.
    """

    url: str
    secrets: tuple[str, ...] = field(repr=False)
    message_id: str
    body: str
    number: int
    allowed_networks: tuple[str, ...] = ()
    timeout_s: float = 10.0
    channel: Channel = Channel.WEBHOOK


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try. ``status`` is the HTTP status, none when there was no answer; ``address`` is what was connected to.

    ``response`` is the beginning of the answer's body; secrets are masked in the headers.
    """

    number: int
    started_at: datetime
    duration_ms: int
    status: int | None
    error: str | None
    response: str
    address: str | None = None
    request_headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    response_headers: Mapping[str, str] = field(default_factory=dict, hash=False)


PING_LANE = ":ping"
"""No model's name has a colon: a ping waits for no model's messages."""


def lane_of(workspace: str, model: str) -> str:
    """Where what is said of a model waits; what is of no model has a lane of its own, without a name."""
    return model if workspace == DEFAULT_WORKSPACE or not model else f"{workspace}/{model}"


# When to try again.


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a kind of receiver is tried.

    The wait before the next attempt is a part, left to chance (full jitter), of a time that doubles from
    ``FIRST_WAIT_S`` to ``longest_wait_s``.
    """

    longest_wait_s: float
    gives_up_after: timedelta
    refusals_are_final: bool
    least_attempts: int = 1
    """Before it is given up: time alone may have passed while nobody tried, or by a clock that was put right."""

    def wait_before(self, attempt: int, *, chance: float, retry_after_s: float | None = None) -> float:
        """Seconds before the next try after attempt number ``attempt`` failed.

        Args:
            attempt: from 1.
            chance: a random number from 0 to 1.
            retry_after_s: what the receiver asked for (RFC 9110 section 10.2.3): the least, up to the longest wait. One
                that asks for no time at all, each time, is tried no more often for it.
        """
        ceiling = min(self.longest_wait_s, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 32))
        return min(self.longest_wait_s, max(SHORTEST_WAIT_S, ceiling * chance, retry_after_s or 0))


FIRST_WAIT_S = 2.0
SHORTEST_WAIT_S = 0.2

PATIENCE: Mapping[ReceiverKind, Patience] = {
    # Some twenty attempts over five days; Standard Webhooks asks for ten over three. What a subscriber refuses today
    # it may take when it is repaired: so every answer but success is tried again.
    ReceiverKind.ENDPOINT: Patience(
        longest_wait_s=12 * 3600.0, gives_up_after=timedelta(days=5), refusals_are_final=False, least_attempts=10
    ),
    # A rollout has a deadline: whoever waits for it wants to know soon.
    ReceiverKind.TARGET: Patience(longest_wait_s=600.0, gives_up_after=timedelta(hours=24), refusals_are_final=True),
}

RETRYABLE = frozenset({408, 425, 429})
GONE = 410
"""The receiver wants no more messages (Standard Webhooks), and an endpoint is disabled."""


def is_success(attempt: Attempt) -> bool:
    return attempt.status is not None and 200 <= attempt.status < 300


def is_final_refusal(status: int) -> bool:
    """Whether an answer means that trying again is no use: 3xx and 4xx, except those that say "later"."""
    return 300 <= status < 500 and status not in RETRYABLE


def after(
    delivery: Delivery, attempt: Attempt, *, at: datetime, chance: float, retry_after_s: float | None = None
) -> Delivery:
    """A delivery after an attempt: delivered, to be tried again, or dead."""
    tried, patience = replace(delivery, attempts=attempt.number), PATIENCE[delivery.receiver.kind]
    if is_success(attempt):
        return settled(tried, DeliveryState.DELIVERED, at=at)
    is_final = attempt.status is not None and is_final_refusal(attempt.status) and patience.refusals_are_final
    is_of_ping = delivery.cause is Cause.PING  # Somebody looks on, and asks again.
    is_hopeless = at - delivery.created_at > patience.gives_up_after and attempt.number >= patience.least_attempts
    if is_final or is_of_ping or attempt.status == GONE or is_hopeless:
        return settled(tried, DeliveryState.DEAD, at=at)
    wait = patience.wait_before(attempt.number, chance=chance, retry_after_s=retry_after_s)
    return replace(tried, next_attempt_at=at + timedelta(seconds=wait))


def settled(delivery: Delivery, state: DeliveryState, *, at: datetime) -> Delivery:
    """A delivery that is not tried again."""
    return replace(delivery, state=state, next_attempt_at=None, settled_at=at)
