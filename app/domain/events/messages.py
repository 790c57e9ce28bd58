"""The messages we send: CloudEvents 1.0 in their structured JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from app.domain.deployments import Deployment
from app.domain.events.catalogue import schema_address
from app.domain.events.happened import StoredEvent, timestamp
from app.domain.promotions import Outcome, Promotion

DEPLOYMENT_REQUESTED = "countersign.deployment.requested.v1"
"""What a deployer is asked; it is no event, and goes to its target alone."""

SEQUENCE_DIGITS = 19
"""Of the largest ``bigint``: texts of one length sort as their numbers do (CloudEvents' extension *sequence*)."""


def cloud_event(stored: StoredEvent, *, source: str) -> dict[str, object]:
    """An event as subscribers get it.

    Args:
        stored: the event. Its id is that of every message that carries it, so that a repetition can be told.
        source: our public URL, without a slash at its end.
    """
    event = stored.event
    data = dict(event.data)
    if promotion := data.get("promotion"):
        # The address is that of now: what is stored outlives it.
        data["console"] = f"{source}/console/promotions/{promotion}"
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": f"countersign.{event.type.value}.v1",
        "subject": event.subject,
        "time": timestamp(event.at),
        "datacontenttype": "application/json",
        "dataschema": schema_address(source, event.type),
        "sequence": f"{stored.sequence:0{SEQUENCE_DIGITS}d}",
        "data": data,
    }


def call_of(
    *,
    source: str,
    deployment: Deployment,
    promotion: Promotion,
    previous: Deployment | None,
    options: Mapping[str, object],
    deadline_s: int,
) -> dict[str, object]:
    """What a deployer is asked to do. The URI is physical and pinned: a deployer never looks an alias up again."""
    return {
        "deployment_id": deployment.id,
        "target": deployment.target,
        "resource": deployment.resource,
        "generation": deployment.generation,
        "action": deployment.action.value,
        "model": {
            # With its workspace, as the resource: two models of one name must not take each other's place.
            "name": deployment.resource,
            "version": deployment.version,
            "alias": promotion.alias,
            "run_id": promotion.run_id if deployment.version == promotion.to_version else None,
            "uri": deployment.uri,
            "digest": deployment.digest,
        },
        "traffic": {
            "weight": deployment.weight,
            "stable": asdict(deployment.stable) if deployment.stable else None,
        },
        "config": dict(options),
        "previous": {"version": previous.version, "uri": previous.uri} if previous else None,
        "promotion": {
            "id": promotion.id,
            "requested_by": promotion.requested_by_name,
            "approved_by": [
                decision.principal_name
                for decision in promotion.standing_decisions
                if decision.outcome is Outcome.APPROVE
            ],
        },
        "callback": {"url": f"{source}/control/v1/deployments/{deployment.id}/status"},
        "deadline_s": deadline_s,
    }


def call_event(*, event_id: str, source: str, deployment: Deployment, call: Mapping[str, object]) -> dict[str, object]:
    """The message that asks for ``call``. Of a generation that is the same however often it is sent."""
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": DEPLOYMENT_REQUESTED,
        "subject": f"{deployment.target}/{deployment.resource}",
        "time": timestamp(deployment.requested_at),
        "datacontenttype": "application/json",
        "data": dict(call),
    }
