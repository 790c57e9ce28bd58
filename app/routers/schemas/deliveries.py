"""Deliveries as callers see them: one message to one receiver, with every attempt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Self

from pydantic import Field, field_validator

from app.domain.advice import advice
from app.domain.deliveries import Attempt, Cause, Delivery, DeliveryState
from app.routers.schemas.shared import Answer


class DeliveryAnswer(Answer):
    """One message to one receiver."""

    id: str
    receiver: str = Field(description="`endpoint:<name>` or `target:<name>`.")
    message_id: str = Field(description="The `webhook-id`: the same in all attempts and repetitions of a message.")
    event_type: str
    subject: str
    lane: str = Field(description="The model; at one receiver, its messages go out in their order, one at a time.")
    cause: Cause
    replays: str | None = Field(description="The delivery that this one repeats.")
    generation: int | None = Field(description="Of the deployment, if a deployer is called.")
    state: DeliveryState
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None
    settled_at: datetime | None

    @field_validator("receiver", mode="before")
    @classmethod
    def _as_written(cls, value: object) -> str:
        return str(value)


class AttemptAnswer(Answer):
    """One try: what was sent and answered. What is secret is masked."""

    number: int
    started_at: datetime
    duration_ms: int
    address: str | None = Field(description="What was connected to.")
    status: int | None = Field(description="The HTTP status; null if there was no answer.")
    error: str | None = Field(description="Why there was no answer, or why it does not count.")
    response: str = Field(description="The beginning of the answer's body.")
    request_headers: Mapping[str, str]
    response_headers: Mapping[str, str]
    advice: str = Field(description="What the answer means, for a person; empty where it says all itself.")

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        return cls(**asdict(attempt), advice=advice(attempt))


class DeliveryDetail(DeliveryAnswer):
    """A delivery with its message and log."""

    payload: Any = Field(description="What was signed and sent, as JSON.")
    log: Sequence[AttemptAnswer]

    @classmethod
    def of_log(cls, delivery: Delivery, attempts: Sequence[Attempt]) -> DeliveryDetail:
        return cls(
            **DeliveryAnswer.model_validate(delivery).model_dump(),
            payload=json.loads(delivery.body),
            log=[AttemptAnswer.of(attempt) for attempt in attempts],
        )
