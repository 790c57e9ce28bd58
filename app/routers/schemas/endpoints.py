"""Endpoints and targets as callers see them. Secrets are in the answers to who made a key, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import Body
from pydantic import Field

from app.domain.deliveries import Replay
from app.domain.endpoint_documents import cautions, endpoint_document, masked_document
from app.domain.endpoints import Channel, ReceiverState, Signing, StoredEndpoint
from app.domain.networks import shown
from app.domain.targets import StoredTarget, target_document
from app.routers.schemas.shared import Answer, Moment, Request
from app.services.endpoints import LONGEST_OVERLAP, WrittenEndpoint

EndpointBody = Annotated[
    dict[str, object],
    Body(
        description="A `kind: Endpoint` document, as in YAML: docs/guides/webhooks.md tells of every field.",
        examples=[
            {
                "url": "https://ci.example/hooks/countersign",
                "events": ["promotion.*", "version.registered"],
                "models": ["fraud-*"],
                "signing": "ed25519",
            }
        ],
    ),
]


class EndpointAnswer(Answer):
    """A receiver of events, and how it is doing. `document` says everything but secrets."""

    name: str
    channel: Channel
    state: ReceiverState
    state_reason: str | None
    failing_since: datetime | None = Field(description="Since when every attempt has failed; null while it is well.")
    revision: int
    document: Mapping[str, object] = Field(
        description="As it was written. Who does not administer endpoints sees the URL's query masked."
    )
    previous_key_until: datetime | None = Field(description="While two keys sign: until when the older one does.")
    cautions: Sequence[str] = Field(description="What is allowed, and likely a mistake.")
    created_at: datetime
    updated_at: datetime
    updated_by: str = Field(description="Who wrote it last: `<issuer>|<subject>`, or `operator`.")

    @classmethod
    def of(cls, stored: StoredEndpoint, *, in_full: bool) -> Self:
        endpoint = stored.endpoint
        document = endpoint_document(endpoint) if in_full else masked_document(endpoint)
        return cls(
            name=endpoint.name,
            channel=endpoint.channel,
            state=stored.state,
            state_reason=stored.state_reason,
            failing_since=stored.failing_since,
            revision=stored.revision,
            document=document,
            previous_key_until=endpoint.previous_until,
            cautions=cautions(endpoint),
            created_at=stored.created_at,
            updated_at=stored.updated_at,
            updated_by=stored.updated_by,
        )


class KeyAnswer(Answer):
    """A key that signs. Receivers verify ed25519 with the public one, which is no secret."""

    number: int = Field(description="Counts up by one with each rotation.")
    signing: Signing
    until: datetime | None = Field(description="When it signs no more; null for the newest.")
    public: str | None = Field(description="`whpk_…`, if it is of ed25519.")


class NewKeyAnswer(KeyAnswer):
    """A key that was made just now. `secret` is shown this once."""

    secret: str | None = Field(description="`whsec_…`, if it is of HMAC: give it to the receiver.")


class EndpointWrittenAnswer(EndpointAnswer):
    """An endpoint as it is now, and the key that it was given, if it was."""

    key: NewKeyAnswer | None

    @classmethod
    def of_written(cls, written: WrittenEndpoint) -> Self:
        return cls(
            **EndpointAnswer.of(written.stored, in_full=True).model_dump(),
            key=NewKeyAnswer.model_validate(written.key) if written.key else None,
        )


class DisableEndpoint(Request):
    reason: str = Field(default="", max_length=500, pattern=r"^[^\x00]*$", description="Why; others read it.")


class RotateKey(Request):
    """Give an endpoint a new key."""

    overlap_s: int = Field(
        default=86_400,
        ge=0,
        le=int(LONGEST_OVERLAP.total_seconds()),
        description="Seconds for which the key before signs too. 0: only the new one signs, at once.",
    )


class ReplayEvents(Request):
    """Have events that happened sent again, or for the first time, in their order."""

    since: Moment = Field(description="Those that happened from then on.")
    until: Moment | None = Field(default=None, description="And before then; none: until now.")
    types: Sequence[str] = Field(
        default=(), max_length=100, description="Patterns of types, as `promotion.*`; none: those that it hears."
    )
    only: Literal["failed", "all"] = Field(
        default="failed", description="`failed`: those that it did not get; `all`: those that it got, too."
    )
    dry_run: bool = Field(default=False, description="Say how many it would be, and send nothing.")

    def wanted(self) -> Replay:
        return Replay(since=self.since, until=self.until, types=tuple(self.types), only_missed=self.only == "failed")


class Replayed(Answer):
    count: int = Field(description="How many messages are sent, or would be.")
    dry_run: bool


class TargetAnswer(Answer):
    """Where models are deployed to, and how it is doing."""

    name: str
    state: ReceiverState
    state_reason: str | None
    failing_since: datetime | None
    document: Mapping[str, object] = Field(description="As it was written; it says everything but secrets.")
    updated_at: datetime

    @classmethod
    def of(cls, stored: StoredTarget) -> Self:
        document = target_document(stored.target)
        document["url"] = shown(stored.target.url)
        return cls(
            name=stored.target.name,
            state=stored.state,
            state_reason=stored.state_reason,
            failing_since=stored.failing_since,
            document=document,
            updated_at=stored.updated_at,
        )
