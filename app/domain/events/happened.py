"""Events: something that happened, written in the transaction that makes it true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from app.domain.promotions import AliasKey


class EventType(StrEnum):
    """Every kind of event; what each means is in the catalogue (``app/domain/events/catalogue.py``)."""

    REQUESTED = "promotion.requested"
    READY_FOR_DECISION = "promotion.ready_for_decision"
    DECIDED = "promotion.decided"
    REMINDER = "promotion.reminder"
    APPROVALS_VOID = "promotion.approvals_void"
    APPROVED = "promotion.approved"
    WAITS_AGAIN = "promotion.waits_again"
    APPLYING = "promotion.applying"
    APPLIED = "promotion.applied"
    ROLLING_OUT = "promotion.rolling_out"
    LIVE = "promotion.live"
    REJECTED = "promotion.rejected"
    WITHDRAWN = "promotion.withdrawn"
    EXPIRED = "promotion.expired"
    SUPERSEDED = "promotion.superseded"
    STALE = "promotion.stale"
    FAILED = "promotion.failed"
    ROLLED_BACK = "promotion.rolled_back"
    COMMENTED = "promotion.commented"
    ROLLOUT_STEP_BEGAN = "rollout.step_began"
    ROLLOUT_PAUSED = "rollout.paused"
    ROLLOUT_RESUMED = "rollout.resumed"
    ROLLOUT_WENT_BACK = "rollout.went_back"
    ALIAS_MOVED = "alias.moved"
    GLASS_BROKEN = "alias.glass_broken"
    REVIEW_CLOSED = "alias.review_closed"
    DRIFTED = "alias.drifted"
    NOT_RESTORED = "alias.not_restored"
    DRIFT_ENDED = "alias.drift_ended"
    CHECK_POSTED = "check.posted"
    VERSION_REGISTERED = "version.registered"
    BYTES_CHANGED = "version.bytes_changed"
    BYTES_RESTORED = "version.bytes_restored"
    DEPLOYMENT_DESIRED = "deployment.desired"
    DEPLOYMENT_ACCEPTED = "deployment.accepted"
    DEPLOYMENT_PROGRESSING = "deployment.progressing"
    DEPLOYMENT_READY = "deployment.ready"
    DEPLOYMENT_FAILED = "deployment.failed"
    DEPLOYMENT_SUPERSEDED = "deployment.superseded"
    DEPLOYMENT_DRIFTED = "deployment.drifted"
    DEPLOYMENT_DRIFT_ENDED = "deployment.drift_ended"
    POLICY_CHANGED = "policy.changed"
    ENDPOINT_DISABLED = "endpoint.disabled"
    ENDPOINT_ENABLED = "endpoint.enabled"
    ENDPOINT_PINGED = "endpoint.pinged"


OF_NO_MODEL = AliasKey("", "", "")
"""Of what is of no model, such as a policy or an endpoint."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    ``subject`` names what it happened to, as the catalogue says: the id of a promotion, the address of an alias.
    ``key`` says of which model and alias it is; the alias is empty for what is of a model itself, and all of it for
    what is of none (``OF_NO_MODEL``).
    """

    id: str
    type: EventType
    subject: str
    at: datetime
    key: AliasKey
    data: Mapping[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event and its place in the order."""

    sequence: int
    event: Event


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, with microseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
