"""The rollout of one model: what a call changes, and what an observation of Ray changes. Pure; time comes in as a
number.

Versions start in the dark, get their weights when Ray says they run, and are Ready when every router was seen to have
the weights and each version to answer. Until then the routes that were proven last are there to go back to. Every step
is saved before Ray is told, so after a crash the next look at Ray goes on from the same place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from countersign_deployer.contract import Deployment
from countersign_deployer.phases import REASONS, Phase, Reason
from countersign_deployer.reports import begin, report, report_change

from countersign_ray_serve.diagnosis import diagnose, error_first, reason_for_delay
from countersign_ray_serve.layout import (
    ROUTER,
    AppStatus,
    Version,
    app_name,
    backend_spec,
    with_next_attempt,
)
from countersign_ray_serve.options import options_of
from countersign_ray_serve.reports import backend_of, serving_of
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import App, Resource, Share, State, Step

ALL = 100  # weights are percentages
RETRY_EVERY_S = 15  # what Ray gave up for a reason that may go away, within a rollout
HEAL_EVERY_S = 60  # the same, of what served already
ILL_AFTER_S = 10  # what passes sooner is not told: a router taking new routes, say

NOTHING_SEEN: Mapping[str, AppStatus] = {}


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at Ray. ``apps``: by application name. ``proven``: for models, the routes that every router was seen to
    have, with each version answering. ``trouble``: why Ray could not be looked at or told. ``orphans``: models that Ray
    serves and the state does not know.
    """

    at: float
    apps: Mapping[str, AppStatus] = field(default_factory=dict)
    proven: Mapping[str, Sequence[Share]] = field(default_factory=dict)
    trouble: tuple[Reason, str] | None = None
    orphans: Mapping[str, Resource] = field(default_factory=dict)


def accept(
    state: State,
    settings: Settings,
    wanted: Deployment,
    now: float,
    running: Mapping[str, AppStatus] = NOTHING_SEEN,
) -> None:
    """Make a call the desired state. Its generation is higher than the one we have, which it supersedes.

    Args:
        state: to be changed.
        settings: the deployer's.
        wanted: the call.
        now: seconds since the epoch.
        running: the last look at Ray. What ran then gets its weight at once: a way back must not wait for a look.

    Raises:
        Problem: its ``config`` cannot be followed (422).
    """
    old = state.resources.get(wanted.resource)
    former = dict(old.apps) if old else {}
    had = frozenset(former)
    for share in old.proven if old else []:
        former[share.app].has_served = True
    if old is not None and not old.is_settled:
        _retreat(old, settings, now)
    resource = begin(
        state,
        settings,
        wanted,
        now,
        Resource,
        step=Step.STARTING,
        start_by=now + min(wanted.deadline_s, settings.deadline_s, settings.serve_wait_timeout),
        routed=old.routed if old else [],
        proven=old.proven if old else [],
        apps=old.apps if old else {},
    )
    if wanted.action == "remove" or wanted.model is None:
        resource.step = Step.SWITCHING
        resource.routed = resource.proven = []
        _retire(resource, now + settings.drain_s)
        return
    model, stable = wanted.model, wanted.traffic.stable
    shares = [(Version(model.name, model.version, model.uri, model.digest), wanted.traffic.weight)]
    if stable is not None and stable.version != model.version:
        rest = ALL - wanted.traffic.weight
        shares.append((Version(model.name, stable.version, stable.uri, stable.digest), rest))
    elif stable is not None:
        shares = [(shares[0][0], ALL)]
    loaded = [_loaded(former, version, old.routed if old else []) for version, _ in shares]
    if [(app, weight) for app, (_, weight) in zip(loaded, shares, strict=True)] == [
        (share.app, share.weight) for share in resource.proven
    ]:
        # It serves already: it was called again for its options, which are those of the replicas.
        loaded = [None for _ in shares]
    # Not looked at for what is loaded: a mistake in them must not be in the way of a way back.
    options = options_of(settings, wanted) if None in loaded else {}
    for (version, weight), app in zip(shares, loaded, strict=True):
        name = app or app_name(version, options)
        if name not in former:
            spec = backend_spec(settings, version, options, attempt=wanted.generation)
            former[name] = App(version=version.version, uri=version.uri, digest=version.digest, spec=spec)
        elif (known := running.get(name)) and known.is_given_up:
            former[name].spec = with_next_attempt(former[name].spec)
        former[name].drop_after = None
        resource.apps[name] = former[name]  # also what a superseded generation had begun to load
        resource.wanted.append(Share(app=name, weight=weight))
    _route(resource, {name: known for name, known in running.items() if name in had})


def advance(state: State, settings: Settings, resource: Resource, seen: Observation) -> None:
    """Take the next step that an observation allows, for one model."""
    resource.apps = {n: app for n, app in resource.apps.items() if app.drop_after is None or seen.at < app.drop_after}
    if resource.is_settled:
        _heal(resource, seen)
        _watch(state, settings, resource, seen)
        return
    failed = next((s.app for s in resource.wanted if _has_failed(resource.apps[s.app], seen.apps.get(s.app))), None)
    if failed is not None and not _retries(resource, failed, seen):
        _fail(state, settings, resource, seen, *_diagnosis(seen.apps[failed]), failed)
    elif seen.trouble is not None and seen.trouble[0] is Reason.CONFIG_REFUSED:
        _fail(state, settings, resource, seen, *seen.trouble)  # and what Ray took before is told again, for the others
    elif seen.at >= resource.deadline_at or (resource.step is Step.STARTING and seen.at >= resource.start_by):
        _fail(state, settings, resource, seen, *_delay(resource, seen, past_deadline=True))
    elif _route(resource, seen.apps):
        _keep_on(state, settings, resource, seen, "The version has started; its weight is being put in effect.")
    elif resource.routed == resource.wanted and seen.proven.get(resource.name) == resource.routed:
        _settle(state, settings, resource, seen)
    elif failed is not None:
        reason, message = _diagnosis(seen.apps[failed])
        _keep_on(state, settings, resource, seen, message, reason)
    else:
        reason, message = _delay(resource, seen, past_deadline=False)
        _keep_on(state, settings, resource, seen, message, reason)


def _has_failed(app: App, known: AppStatus | None) -> bool:
    """Ray calls a whole application UNHEALTHY while it replaces one of its replicas. Of a version that never served it
    is a verdict; of one that did, nothing to go back for, the less where it is what one goes back to.
    """
    return known is not None and known.has_failed and not (app.has_served and known.status == "UNHEALTHY")


def heal_router(state: State, seen: Observation) -> None:
    """Have Serve try the router again when it gave it up."""
    router = seen.apps.get(ROUTER)
    if router is not None and router.is_given_up and seen.at >= state.router_heal_after:
        state.router_attempt += 1
        state.router_heal_after = seen.at + HEAL_EVERY_S


def _loaded(apps: Mapping[str, App], version: Version, routed: Sequence[Share]) -> str | None:
    """The application that has these bytes already. Its options are as they were: nothing that serves is restarted."""
    names = [
        name
        for name, app in apps.items()
        if (app.version, app.uri, app.digest) == (version.version, version.uri, version.digest)
    ]
    in_use = [name for name in names if name in {share.app for share in routed}]
    return next(iter([*in_use, *names]), None)


def _route(resource: Resource, apps: Mapping[str, AppStatus]) -> bool:
    """Tell the router of what is wanted and runs, once all that is to get requests does; whether that is news.

    What is only to be loaded is told of when it runs: nobody's requests wait for it. What has requests already may take
    more of them while one of its replicas is replaced: a way back must not wait for that.
    """
    serves = {share.app for share in resource.routed if share.weight}
    runs = {
        s.app
        for s in resource.wanted
        if (known := apps.get(s.app)) and (known.is_running or (s.app in serves and known.answers))
    }
    told = {share.app for share in resource.routed} if resource.step is Step.SWITCHING else set()
    if not runs | told or any(s.weight and s.app not in runs | told for s in resource.wanted):
        return False
    routes = [share for share in resource.wanted if share.app in runs | told]
    is_news = resource.step is Step.STARTING or routes != resource.routed
    resource.step, resource.routed = Step.SWITCHING, routes
    return is_news


def _settle(state: State, settings: Settings, resource: Resource, seen: Observation) -> None:
    resource.proven, resource.wanted, resource.step = resource.routed, [], Step.SETTLED
    if resource.routed:
        still_warm = seen.at + settings.drain_s
        _retire(resource, max(seen.at + settings.rollback_window_s, still_warm), still_warm=still_warm)
    message = _summary(resource) if resource.routed else "The routes are gone."
    _say(state, settings, resource, seen, Phase.READY, Reason.NONE, message)


def _summary(resource: Resource) -> str:
    weights = [f"version {resource.apps[s.app].version} gets {s.weight} %" for s in resource.routed]
    text = ", ".join(weights)
    return f"{text[0].upper()}{text[1:]} of the requests."


def _retries(resource: Resource, app: str, seen: Observation) -> bool:
    """Have Serve try again what failed for a reason that may go away, until the deadline."""
    known = seen.apps[app]
    reason, _ = _diagnosis(known)
    in_time = seen.at < resource.deadline_at and (resource.step is not Step.STARTING or seen.at < resource.start_by)
    if REASONS[reason].ends_in is not Phase.ERRORED or known.status == "UNHEALTHY" or not in_time:
        return False
    _try_again(resource.apps[app], seen.at, RETRY_EVERY_S)
    return True


def _diagnosis(known: AppStatus) -> tuple[Reason, str]:
    if known.status == "UNHEALTHY":
        return Reason.UNHEALTHY, error_first(known.message) or "It started and did not stay well."
    return diagnose(known.message)


def _fail(
    state: State,
    settings: Settings,
    resource: Resource,
    seen: Observation,
    reason: Reason,
    message: str,
    failed: str | None = None,
) -> None:
    rest = [share for share in resource.routed if share.app != failed and share.weight]
    asked = [share for share in resource.wanted if share.weight]
    if resource.step is Step.SWITCHING and rest == asked and resource.routed != resource.wanted:
        # What gets requests is as it was asked for: going back for the sake of one that gets none would be no use.
        resource.proven = rest
    _retreat(resource, settings, seen.at)
    _say(state, settings, resource, seen, REASONS[reason].ends_in, reason, message)


def _retreat(resource: Resource, settings: Settings, now: float) -> None:
    """Go back to the routes that were proven, and forget what they do not name; one that had requests ends them
    first.
    """
    had, keep = {share.app for share in resource.routed}, {share.app for share in resource.proven}
    for share in resource.wanted:
        if share.app in keep or share.app not in resource.apps:
            continue
        if share.app in had:
            resource.apps[share.app].drop_after = now + settings.drain_s
        else:
            del resource.apps[share.app]
    resource.routed, resource.wanted, resource.step = resource.proven, [], Step.SETTLED


def _retire(resource: Resource, drop_after: float, *, still_warm: float | None = None) -> None:
    """Let every application without a route go at ``drop_after``; those already on their way, at ``still_warm``."""
    routed = {share.app for share in resource.routed}
    for name, app in resource.apps.items():
        if name in routed:
            app.drop_after = None
        elif app.drop_after is None:
            app.drop_after = drop_after
        elif still_warm is not None:
            app.drop_after = min(app.drop_after, still_warm)


def _heal(resource: Resource, seen: Observation) -> None:
    """Have Serve try again what it gave up: after its head was lost, say, while the artifacts could not be read."""
    for share in resource.routed:
        if (known := seen.apps.get(share.app)) and known.is_given_up:
            _try_again(resource.apps[share.app], seen.at, HEAL_EVERY_S)


def _try_again(app: App, now: float, every_s: float) -> None:
    if now >= app.heal_after:
        app.spec = with_next_attempt(app.spec)
        app.heal_after = now + every_s


def _watch(state: State, settings: Settings, resource: Resource, seen: Observation) -> None:
    """Report when what serves is no longer well, and when it is again."""
    reason, message = _health(resource, seen)
    if reason is Reason.NONE:
        resource.ill_since = None
    elif resource.ill_since is None:
        resource.ill_since = seen.at
    is_lasting = resource.ill_since is None or seen.at - resource.ill_since >= ILL_AFTER_S
    if not is_lasting or not resource.callback_url:
        return
    if resource.phase is not Phase.READY:  # it failed: what is left may fall ill, that is no other end
        reason, message = resource.reason, resource.message
    elif reason is Reason.NONE and resource.routed:
        message = _summary(resource)
    serving = serving_of(settings, resource, seen.apps)
    backend = backend_of(resource, seen.apps)
    report_change(state, settings, resource, seen.at, resource.phase, reason, message, serving=serving, backend=backend)


def _health(resource: Resource, seen: Observation) -> tuple[Reason, str]:
    """Whether what serves is well. Once it was not, it is when probes have shown it."""
    if not resource.routed:
        return Reason.NONE, resource.message
    if seen.trouble is not None:
        return seen.trouble
    for name in (ROUTER, *(share.app for share in resource.routed)):
        known = seen.apps.get(name)
        what = "The router" if name == ROUTER else f"Version {resource.apps[name].version}"
        if known is None:
            return Reason.UNHEALTHY, f"{what} was lost; Ray is told of it again."
        if known.is_given_up and name != ROUTER:
            return diagnose(known.message)
        if not known.is_running:
            return Reason.UNHEALTHY, f"{what} is {known.status}. {error_first(known.message)}".strip()
    if resource.ill_since is not None and seen.proven.get(resource.name) != resource.routed:
        return Reason.UNHEALTHY, "It runs, and does not answer as it should."
    return Reason.NONE, resource.message


def _delay(resource: Resource, seen: Observation, *, past_deadline: bool) -> tuple[Reason, str]:
    if seen.trouble is not None:
        return seen.trouble
    waiting = [s.app for s in resource.wanted if (known := seen.apps.get(s.app)) is None or not known.is_running]
    status = seen.apps.get(next(iter(waiting), ROUTER))
    message = status.message if status is not None else ""
    reason = _diagnosis(status)[0] if status is not None and status.has_failed else reason_for_delay(message)
    if reason is Reason.NONE and past_deadline:
        reason = Reason.PROGRESS_DEADLINE_EXCEEDED
        message = message or "The version was not ready in time."
    return reason, error_first(message)


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
        _say(state, settings, resource, seen, Phase.PROGRESSING, reason, message)


def _say(
    state: State,
    settings: Settings,
    resource: Resource,
    seen: Observation,
    phase: Phase,
    reason: Reason,
    message: str,
) -> None:
    serving = serving_of(settings, resource, seen.apps)
    backend = backend_of(resource, seen.apps)
    report(state, settings, resource, seen.at, phase, reason, message, serving=serving, backend=backend)
