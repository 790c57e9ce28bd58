"""The messages we send: CloudEvents 1.0, built from what was decided and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime

from app.domain.deployments import Deployment
from app.domain.promotions import Outcome, Promotion

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
        "subject": f"{deployment.target}/{deployment.model}",
        "time": timestamp(deployment.requested_at),
        "datacontenttype": "application/json",
        "data": {
            "deployment_id": deployment.id,
            "target": deployment.target,
            "resource": deployment.model,
            "generation": deployment.generation,
            "action": "apply",
            "model": {
                "name": promotion.model,
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
