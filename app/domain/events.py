"""What happened, for whoever must be told; and the messages we send: CloudEvents 1.0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from app.domain.deployments import Deployment
from app.domain.promotions import AliasKey, Outcome, Promotion


class EventType(StrEnum):
    """Every kind of event, with what it means. Written in the transaction that makes it true."""

    REQUESTED = "promotion.requested"
    READY_FOR_DECISION = "promotion.ready_for_decision"
    REMINDER = "promotion.reminder"
    APPROVALS_VOID = "promotion.approvals_void"
    APPROVED = "promotion.approved"
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
    GLASS_BROKEN = "alias.glass_broken"
    """An alarm: somebody moved an alias without the policy's rules."""
    REVIEW_CLOSED = "alias.review_closed"
    DRIFTED = "alias.drifted"
    """An alarm: somebody moved an alias past the gateway."""
    DRIFT_ENDED = "alias.drift_ended"
    CHECK_POSTED = "check.posted"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an alias. ``subject`` is the id of the promotion, drift or check."""

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


DEPLOYMENT_REQUESTED = "countersign.deployment.requested.v1"


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, with microseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def deployment_requested(
    *,
    event_id: str,
    source: str,
    deployment: Deployment,
    promotion: Promotion,
    previous: Deployment | None,
    deadline_s: int,
) -> dict[str, object]:
    """What a deployer is asked to do. The URI is physical and pinned: a deployer never looks an alias up again."""
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": DEPLOYMENT_REQUESTED,
        "subject": f"{deployment.target}/{deployment.resource}",
        "time": timestamp(deployment.requested_at),
        "datacontenttype": "application/json",
        "data": {
            "deployment_id": deployment.id,
            "target": deployment.target,
            "resource": deployment.resource,
            "generation": deployment.generation,
            "action": "apply",
            "model": {
                # With its workspace, as the resource: two models of one name must not take each other's place.
                "name": deployment.resource,
                "version": promotion.to_version,
                "alias": promotion.alias,
                "run_id": promotion.run_id,
                "uri": promotion.uri,
                "digest": promotion.digest,
            },
            "previous": {"version": previous.version, "uri": previous.uri} if previous else None,
            "promotion": {
                "id": promotion.id,
                "requested_by": promotion.requested_by_name,
                "approved_by": [
                    decision.principal_name for decision in promotion.decisions if decision.outcome is Outcome.APPROVE
                ],
            },
            "callback": {"url": f"{source}/control/v1/deployments/{deployment.id}/status"},
            "deadline_s": deadline_s,
        },
    }
