"""Reports to the gateway: what they say, when one is owed, and the order they are numbered in. Pure."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from countersign_deployer.calls import content_of
from countersign_deployer.contract import LONGEST_MESSAGE, STATUS, Deployment, DeploymentStatus, Serving
from countersign_deployer.masking import masked
from countersign_deployer.phases import Phase, Reason
from countersign_deployer.settings import DeployerSettings
from countersign_deployer.state import Report, Resource, ResourceT, State


def begin(
    state: State[ResourceT],
    settings: DeployerSettings,
    wanted: Deployment,
    now: float,
    kind: type[ResourceT],
    **own: Any,
) -> ResourceT:
    """Take a call on: the generation before it is superseded if it has not ended, the new one is accepted.

    What serves is told on as it was until something changes.

    Args:
        state: to be changed.
        settings: the deployer's.
        wanted: the call.
        now: seconds since the epoch.
        kind: what the deployer remembers of a resource.
        own: its own fields.
    """
    old = state.resources.get(wanted.resource)
    if old is not None and not old.phase.is_end:
        detail = f"Generation {wanted.generation} was called for."
        report(state, settings, old, now, Phase.SUPERSEDED, message=detail)
    new = kind(
        name=wanted.resource,
        deployment_id=wanted.deployment_id,
        generation=wanted.generation,
        content=content_of(wanted),
        callback_url=wanted.callback.url,
        deadline_at=now + min(wanted.deadline_s, settings.deadline_s),
        **own,
    )
    state.resources[new.name] = new
    report(state, settings, new, now, Phase.ACCEPTED, serving=old.serving if old else [])
    return new


def report(
    state: State[Any],
    settings: DeployerSettings,
    resource: Resource,
    now: float,
    phase: Phase,
    reason: Reason = Reason.NONE,
    message: str = "",
    *,
    serving: Sequence[Serving] | None = None,
    backend: Mapping[str, Any] | None = None,
) -> None:
    """Record where a model's generation stands, and owe the gateway a report of it.

    Without ``serving`` or ``backend``, what was last reported of them is said again. While the gateway is away, only
    the last report of progress matters, and the last one of each end: those before it that were not taken are dropped.
    What looks like a secret in the message is masked, whoever wrote it.
    """
    resource.phase, resource.reason, resource.message = phase, reason, masked(message, longest=LONGEST_MESSAGE)
    resource.reported_at = now
    resource.serving = list(resource.serving if serving is None else serving)
    resource.backend = dict(resource.backend if backend is None else backend)
    # By the clock, so that it counts on where it was when the state is lost; and up even when the clock goes back.
    resource.sequence = max(resource.sequence + 1, int(now * 1000))
    event_id = f"evt_{secrets.token_hex(16)}"
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"countersign-deployer/{quote(settings.target, safe='')}",
        "type": STATUS,
        "subject": f"{settings.target}/{resource.name}",
        "time": datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": status_of(settings, resource).model_dump(mode="json"),
    }
    state.outbox = [
        owed
        for owed in state.outbox
        if owed.deployment_id != resource.deployment_id
        or (owed.phase is not Phase.PROGRESSING and (owed.phase, owed.generation) != (phase, resource.generation))
    ]
    state.outbox.append(
        Report(
            id=event_id,
            url=resource.callback_url,
            deployment_id=resource.deployment_id,
            generation=resource.generation,
            phase=phase,
            body=json.dumps(event, ensure_ascii=False, separators=(",", ":")),
        )
    )


def report_change(
    state: State[Any],
    settings: DeployerSettings,
    resource: Resource,
    now: float,
    phase: Phase,
    reason: Reason = Reason.NONE,
    message: str = "",
    *,
    serving: Sequence[Serving],
    backend: Mapping[str, Any] | None = None,
) -> None:
    """Report what is observed if it is news: another phase, reason or serving, or the heartbeat of what progresses."""
    is_news = (resource.phase, resource.reason, resource.serving) != (phase, reason, list(serving))
    is_due = not phase.is_end and now - resource.reported_at >= settings.heartbeat_s
    if is_news or is_due:
        report(state, settings, resource, now, phase, reason, message, serving=serving, backend=backend)


def status_of(settings: DeployerSettings, resource: Resource) -> DeploymentStatus:
    """What was last reported of a model; the gateway may ask for it, too."""
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
        serving=resource.serving,
        backend=resource.backend,
    )
