"""Reports to the gateway: what they say, and the order they are numbered in. Pure."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from countersign_ray_serve.contract import (
    STATUS,
    Backend,
    Deployment,
    DeploymentStatus,
    Phase,
    RayStatus,
    Reason,
    Serving,
)
from countersign_ray_serve.layout import AppStatus
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import Report, Resource, State

NOTHING_SEEN: Mapping[str, AppStatus] = {}


def content_of(wanted: Deployment) -> str:
    """What makes two calls of one generation the same: what to do, and with which bytes."""
    model = wanted.model
    what = [model.name, model.version, model.uri, model.digest] if model and wanted.action == "apply" else []
    return fingerprint(wanted.deployment_id, wanted.action, what)


def fingerprint(deployment_id: str, action: str, what: list[str]) -> str:
    """One value for the content of a call; ``what``: name, version, URI and digest of the model version."""
    return hashlib.sha256(json.dumps([deployment_id, action, what]).encode()).hexdigest()


def report(
    state: State,
    settings: Settings,
    resource: Resource,
    now: float,
    phase: Phase,
    reason: Reason = Reason.NONE,
    message: str = "",
    apps: Mapping[str, AppStatus] = NOTHING_SEEN,
    about: str | None = None,
) -> None:
    """Record where a model's generation stands, and owe the gateway a report of it.

    ``about`` names an application that is no longer the resource's own: one that failed. A report of progress that
    was not taken yet is replaced: while the gateway is away, only the last one matters.
    """
    resource.phase, resource.reason, resource.message, resource.reported_at = phase, reason, message, now
    resource.sequence += 1
    event_id = f"evt_{secrets.token_hex(16)}"
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"countersign-ray-serve/{quote(settings.target, safe='')}",
        "type": STATUS,
        "subject": f"{settings.target}/{resource.name}",
        "time": datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": status_of(settings, resource, apps, about).model_dump(mode="json"),
    }
    state.outbox = [
        r for r in state.outbox if r.deployment_id != resource.deployment_id or r.phase is not Phase.PROGRESSING
    ]
    state.outbox.append(
        Report(
            id=event_id,
            url=resource.callback_url,
            deployment_id=resource.deployment_id,
            phase=phase,
            body=json.dumps(event, ensure_ascii=False, separators=(",", ":")),
        )
    )


def status_of(
    settings: Settings, resource: Resource, apps: Mapping[str, AppStatus], about: str | None = None
) -> DeploymentStatus:
    """Desired and observed state of one model, as the gateway reads it."""
    about = about or resource.candidate or resource.active
    known = apps.get(about or "")
    return DeploymentStatus(
        deployment_id=resource.deployment_id,
        target=settings.target,
        resource=resource.name,
        generation=resource.generation,
        observed_generation=resource.generation,
        sequence=resource.sequence,
        phase=resource.phase,
        reason=resource.reason,
        message=resource.message,
        serving=_serving(settings, resource, apps),
        backend=Backend(ray=RayStatus(app=about, status=known.status if known else None)),
    )


def public_url(settings: Settings, model: str) -> str:
    """Where a model answers."""
    return f"{settings.serve_url}/{quote(model, safe='')}"


def _serving(settings: Settings, resource: Resource, apps: Mapping[str, AppStatus]) -> list[Serving]:
    if resource.active is None:
        return []
    known = apps.get(resource.active)
    # Without a look at Ray, a version is ready if probes have proven it: that is what makes it the stable one.
    ready = known.is_running if known else resource.active == resource.stable
    version = resource.apps[resource.active].version
    return [Serving(version=version, weight=100, ready=ready, url=public_url(settings, resource.name))]
