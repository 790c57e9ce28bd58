"""The rollout of one model: what a call changes, and what an observation of Ray changes. Pure; time comes in as a
number.

A new version starts in the dark, gets the route when Ray says it runs, and is Ready when probes of the public route
were answered by it. Until then ``stable`` stays loaded and gets the route back if anything fails. Every step is saved
before Ray is told, so after a crash the next look at Ray goes on from the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from countersign_ray_serve.contract import Deployment, Phase, Reason
from countersign_ray_serve.diagnosis import diagnose, reason_for_delay, tail
from countersign_ray_serve.layout import ROUTER, AppStatus, app_name, backend_spec, with_attempt
from countersign_ray_serve.reports import content_of, report
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import App, Resource, State, Step

HEAL_EVERY_S = 60


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at Ray. ``apps``: by application name. ``proven``: models whose route answered as its route says, each
    with the application that was routed then (``None``: no route). ``trouble``: why Ray could not be looked at or
    told. ``orphans``: models that Ray serves and the state does not know.
    """

    at: float
    apps: Mapping[str, AppStatus] = field(default_factory=dict)
    proven: Mapping[str, str | None] = field(default_factory=dict)
    trouble: tuple[Reason, str] | None = None
    orphans: Mapping[str, Resource] = field(default_factory=dict)


def accept(state: State, settings: Settings, wanted: Deployment, now: float) -> None:
    """Make a call the desired state. Its generation is higher than the one we have, which it supersedes."""
    resource = state.resources.get(wanted.resource)
    if resource is not None and not resource.is_settled:
        _retreat(resource, settings, now)
        report(
            state, settings, resource, now, Phase.SUPERSEDED, message=f"Generation {wanted.generation} was called for."
        )
    resource = Resource(
        name=wanted.resource,
        deployment_id=wanted.deployment_id,
        generation=wanted.generation,
        content=content_of(wanted),
        callback_url=wanted.callback.url,
        deadline_at=now + min(wanted.deadline_s, settings.deadline_s),
        step=Step.STARTING,
        active=resource.active if resource else None,
        stable=resource.stable if resource else None,
        apps=resource.apps if resource else {},
    )
    state.resources[wanted.resource] = resource
    if wanted.model is not None and wanted.action == "apply":
        resource.candidate = app_name(wanted.model)
        app = resource.apps.get(resource.candidate)
        if app is None:
            spec = backend_spec(settings, wanted.model, attempt=wanted.generation)
            model = wanted.model
            resource.apps[resource.candidate] = App(
                version=model.version, uri=model.uri, digest=model.digest, spec=spec
            )
        else:
            app.drop_after = None
    else:
        resource.step = Step.REMOVING
        resource.active = resource.stable = None
        _retire(resource, now + settings.drain_s)
    report(state, settings, resource, now, Phase.ACCEPTED)


def advance(state: State, settings: Settings, resource: Resource, seen: Observation) -> None:
    """Take the next step that an observation allows, for one model."""
    resource.apps = {n: app for n, app in resource.apps.items() if app.drop_after is None or seen.at < app.drop_after}
    if resource.is_settled:
        _heal(resource, seen)
        return
    status = seen.apps.get(resource.candidate or "")
    if status is not None and status.has_failed:
        _fail(state, settings, resource, seen, *diagnose(status.message))
    elif seen.at >= resource.deadline_at:
        _fail(state, settings, resource, seen, *_delay(resource, seen, past_deadline=True))
    elif resource.step is Step.STARTING and status is not None and status.is_running:
        resource.step, resource.active = Step.SWITCHING, resource.candidate
        _keep_on(state, settings, resource, seen, "The version has started; its route is being switched.")
    elif resource.step is not Step.STARTING and seen.proven.get(resource.name, "") == resource.active:
        _settle(state, settings, resource, seen)
    else:
        reason, message = _delay(resource, seen, past_deadline=False)
        _keep_on(state, settings, resource, seen, message, reason)


def heal_router(state: State, seen: Observation) -> None:
    """Have Serve try the router again when it gave it up."""
    router = seen.apps.get(ROUTER)
    if router is not None and _is_given_up(router) and seen.at >= state.router_heal_after:
        state.router_attempt += 1
        state.router_heal_after = seen.at + HEAL_EVERY_S


def _settle(state: State, settings: Settings, resource: Resource, seen: Observation) -> None:
    resource.stable, resource.candidate, resource.step = resource.active, None, Step.SETTLED
    if resource.active is not None:
        still_warm = seen.at + settings.drain_s
        _retire(resource, max(seen.at + settings.rollback_window_s, still_warm), still_warm=still_warm)
    message = f"Version {resource.apps[resource.active].version} answers." if resource.active else "The route is gone."
    report(state, settings, resource, seen.at, Phase.READY, Reason.NONE, message, seen.apps)


def _fail(
    state: State, settings: Settings, resource: Resource, seen: Observation, reason: Reason, message: str
) -> None:
    candidate = resource.candidate
    _retreat(resource, settings, seen.at)
    report(state, settings, resource, seen.at, Phase.FAILED, reason, message, seen.apps, candidate)


def _retreat(resource: Resource, settings: Settings, now: float) -> None:
    """Give the route back to the stable version and forget the candidate; one that had the route ends its requests
    first.
    """
    candidate = resource.candidate
    had_route = resource.active == candidate
    if resource.step is not Step.REMOVING:
        resource.active = resource.stable
    resource.candidate, resource.step = None, Step.SETTLED
    if candidate is None or candidate == resource.stable:
        return
    if had_route:
        resource.apps[candidate].drop_after = now + settings.drain_s
    else:
        del resource.apps[candidate]


def _retire(resource: Resource, drop_after: float, *, still_warm: float | None = None) -> None:
    """Let every application without the route go at ``drop_after``; those already on their way, at ``still_warm``."""
    for name, app in resource.apps.items():
        if name == resource.active:
            app.drop_after = None
        elif app.drop_after is None:
            app.drop_after = drop_after
        elif still_warm is not None:
            app.drop_after = min(app.drop_after, still_warm)


def _heal(resource: Resource, seen: Observation) -> None:
    """Have Serve try again what it gave up: after its head was lost, say, while the artifacts could not be read."""
    status = seen.apps.get(resource.active or "")
    if resource.active is None or status is None or not _is_given_up(status):
        return
    app = resource.apps[resource.active]
    if seen.at >= app.heal_after:
        app.spec = with_attempt(app.spec, int(app.spec["args"]["attempt"]) + 1)
        app.heal_after = seen.at + HEAL_EVERY_S


def _is_given_up(status: AppStatus) -> bool:
    return status.matches and status.status == "DEPLOY_FAILED" and not status.has_running_replica


def _delay(resource: Resource, seen: Observation, *, past_deadline: bool) -> tuple[Reason, str]:
    if seen.trouble is not None:
        return seen.trouble
    status = seen.apps.get((resource.candidate if resource.step is Step.STARTING else None) or ROUTER)
    message = status.message if status is not None else ""
    reason = reason_for_delay(message)
    if reason is Reason.NONE and past_deadline:
        reason = Reason.PROGRESS_DEADLINE_EXCEEDED
        message = message or "The version was not ready in time."
    return reason, tail(message)


def _keep_on(
    state: State,
    settings: Settings,
    resource: Resource,
    seen: Observation,
    message: str,
    reason: Reason = Reason.NONE,
) -> None:
    """Report progress: at the first look, when the reason changes, and as a heartbeat."""
    changed = resource.phase is not Phase.PROGRESSING or resource.reason is not reason
    if changed or seen.at - resource.reported_at >= settings.heartbeat_s:
        report(state, settings, resource, seen.at, Phase.PROGRESSING, reason, message, seen.apps)
