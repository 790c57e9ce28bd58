"""Whether a plan is what the cluster serves, why it is not yet, and which versions answer meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from countersign_deployer.contract import Serving
from countersign_deployer.phases import Reason

from countersign_kserve import live, names
from countersign_kserve.diagnosis import INVALID_SPEC, Symptom, is_bad, of_deployment, of_failure, of_pods
from countersign_kserve.live import Found
from countersign_kserve.manifest import Layout, Place, replicas, template_of
from countersign_kserve.options import Options
from countersign_kserve.planning import is_last, layout_of
from countersign_kserve.settings import Settings
from countersign_kserve.state import Plan, Version

NO_ROUTE = (
    "KServe made no HTTPRoute for this model, and nothing else splits requests in Standard mode: that takes the "
    "Gateway API (enableGatewayApi in KServe's inferenceservice-config). Turn it on, or promote all at once."
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """``is_ready``: what was planned is loaded, and the weights are in effect. Else ``symptom`` may say why not, or
    ``waits_for`` what comes next. ``is_available``: something answers, of whichever version.
    """

    is_ready: bool
    serving: tuple[Serving, ...] = ()
    symptom: Symptom | None = None
    waits_for: str = ""
    is_available: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    """The pods of one version. ``is_up``: all are of the template, and as many available as are planned at least;
    ``is_available``: so many are, of whichever template.
    """

    version: Version
    template: str
    name: str
    is_up: bool
    is_available: bool


def judge(
    settings: Settings,
    place: Place,
    plan: Plan,
    found: Found,
    *,
    is_applied: bool,
    applied_for_s: float,
    good: Plan | None,
) -> Judgement:
    """What one look at the cluster means for a plan.

    Args:
        settings: the deployer's.
        place: where the object is.
        plan: what it is to be.
        found: what it is.
        is_applied: the object is as the plan wants it at this moment of the rollout.
        applied_for_s: how long it has been so, in seconds. What KServe said before is still there for a moment.
        good: what the plan was when all was well the last time.
    """
    if plan.main is None:
        return _judge_removal(settings, found)
    layout = layout_of(settings, place, plan, found)
    judge_parts = _knative if settings.is_knative else _standard
    parts, weights, waits_for = judge_parts(settings, place, plan, plan.main, layout, found)
    serving = _serving(parts, weights, found, good)
    is_last_layout = is_last(plan, layout)
    if is_applied and is_last_layout and not waits_for:
        return Judgement(is_ready=True, serving=serving, is_available=True)
    symptom = None
    if is_applied:
        served = _templates(settings, place, good)
        symptom = _symptom(settings, parts, layout, found, served, applied_for_s=applied_for_s)
    else:
        waits_for = waits_for or "The object is being changed."
    return Judgement(
        is_ready=False,
        serving=serving,
        symptom=symptom,
        waits_for=waits_for or "The weights are being changed.",
        is_available=_has_pods(found),
    )


def _judge_removal(settings: Settings, found: Found) -> Judgement:
    is_gone = found.service is None or (live.is_stopped(found.service) and not settings.allow_delete)
    if is_gone and not found.deployments and not found.revisions:
        return Judgement(is_ready=True)
    return Judgement(is_ready=False, waits_for="What is served is being taken away.", is_available=_has_pods(found))


def _standard(
    settings: Settings, place: Place, plan: Plan, main: Version, layout: Layout, found: Found
) -> tuple[list[_Part], Mapping[str, int], str]:
    options = Options.model_validate(plan.options)
    least, _ = replicas(settings, options)

    def part(version: Version, slot: str) -> _Part:
        name = names.deployment_name(place.name, slot)
        template = template_of(settings, place.resource, options, version)
        deployment = found.deployments.get(name)
        is_up = live.is_rolled_out(deployment, template, least) and _is_told(deployment, plan)
        return _Part(version, template, name, is_up, live.is_available(deployment, least))

    parts = [part(main, layout.slot)]
    if layout.canary is not None:
        parts.append(part(layout.canary, layout.canary_slot))
    weights = _weights(place, parts, layout, found)
    waits_for = next((f"Version {each.version.version} is starting." for each in parts if not each.is_up), "")
    if not waits_for and found.condition("Ready").get("status") != "True":
        waits_for = f"KServe: {found.condition('Ready').get('message') or 'the InferenceService is not ready'}"
    if not waits_for and _lacks_route(layout, found):
        waits_for = NO_ROUTE
    if not waits_for:
        wanted = {parts[0].name: 100 - (layout.percent or 0)}
        if layout.canary is not None:
            wanted[parts[1].name] = layout.percent or 0
        in_effect = _without_zeros(weights)
        if others := sorted(in_effect.keys() - wanted.keys()):
            waits_for = f"Requests go to {' and '.join(others)}, which is to get none."
        elif in_effect != _without_zeros(wanted):
            waits_for = "The weights are being changed."
        elif any(name not in wanted for name in found.deployments):
            waits_for = "What is not wanted any more is being taken away."
    return parts, weights, waits_for


def _lacks_route(layout: Layout, found: Found) -> bool:
    """Whether nothing gives a canary its share, though KServe says that all it makes is made."""
    return layout.canary is not None and found.route is None and found.condition("Ready").get("status") == "True"


def _weights(place: Place, parts: list[_Part], layout: Layout, found: Found) -> Mapping[str, int]:
    """The requests that each Deployment gets: as the HTTPRoute says, if there is one.

    KServe's own word is the spec's: of our canary it would be our wish, of somebody else's it is all there is to see.
    """
    if found.route is not None:
        return found.route
    if layout.canary is not None:
        return {parts[0].name: 100}
    said = {
        names.deployment_name(place.name, str(each.get("name", ""))): int(each.get("trafficPercent", 0))
        for each in found.status.get("canaryStatuses") or []
    }
    return {parts[0].name: 100 - sum(said.values()), **said}


def _is_told(deployment: live.Json | None, plan: Plan) -> bool:
    """Whether the pods are of the present generation, where a cluster copies it to them (see ``names.CHANGING``)."""
    return live.pod_annotations(deployment).get(names.GENERATION, str(plan.generation)) == str(plan.generation)


def _knative(
    settings: Settings, place: Place, plan: Plan, main: Version, layout: Layout, found: Found
) -> tuple[list[_Part], Mapping[str, int], str]:
    options = Options.model_validate(plan.options)
    said = found.predictor_status
    created = str(said.get("latestCreatedRevision") or "")
    traffic = _traffic(said)

    def part(version: Version, *candidates: str) -> _Part:
        template = template_of(settings, place.resource, options, version)
        up = (name for name in candidates if live.is_ready_revision(found.revisions.get(name), template))
        name = next(up, None)
        is_up = name is not None
        return _Part(version, template, name or next(iter(candidates), ""), is_up, is_available=is_up)

    parts, wanted = [part(main, created)], {}
    if layout.canary is not None:
        parts = [part(main, *(name for name in traffic if name != created)), part(layout.canary, created)]
        wanted[parts[1].name] = layout.percent or 0
    wanted[parts[0].name] = 100 - (layout.percent or 0)
    waits_for = next((f"Version {each.version.version} is starting." for each in parts if not each.is_up), "")
    if not waits_for and _without_zeros(traffic) != _without_zeros(wanted):
        waits_for = "The weights are being changed."
    if not waits_for and found.condition("Ready").get("status") != "True":
        waits_for = f"KServe: {found.condition('Ready').get('message') or 'the InferenceService is not ready'}"
    return parts, traffic, waits_for


def _traffic(said: Mapping[str, Any]) -> dict[str, int]:
    """The requests that each revision gets, in percent."""
    found: dict[str, int] = {}
    for each in said.get("traffic") or []:
        name = each.get("revisionName") or (said.get("latestReadyRevision") if each.get("latestRevision") else None)
        if name:
            found[name] = found.get(name, 0) + int(each.get("percent") or 0)
    return found


def _without_zeros(weights: Mapping[str, int]) -> dict[str, int]:
    return {name: weight for name, weight in weights.items() if weight}


def _serving(parts: list[_Part], weights: Mapping[str, int], found: Found, good: Plan | None) -> tuple[Serving, ...]:
    """What answers: the versions of the plan; and while one rolls in the place of another, that other one, which may
    have pods beside it, too.

    A version that was good keeps its requests while its pods are exchanged or lost: nothing else takes them.
    """
    url = str(found.status.get("url") or "")
    left = 100
    former = [good.main, good.canary] if good is not None else []
    said: dict[str, Serving] = {}
    for part in parts:
        was_good = part.version in former
        weight = max(0, min(left, weights.get(part.name, 0))) if part.is_up or was_good else 0
        left -= weight
        is_ready = part.is_up or (was_good and part.is_available)
        said[part.version.version] = _said(part.version, weight, part.name, url, ready=is_ready)
    rolls = not parts[0].is_up and parts[0].version not in former
    if left and good is not None and good.main is not None and _has_pods(found):
        beside = said.get(good.main.version)
        if beside is None or rolls:
            weight, name = (beside.weight, beside.name) if beside is not None else (0, "")
            said[good.main.version] = _said(good.main, weight + left, name, url, ready=True)
    return tuple(said.values())


def _said(version: Version, weight: int, name: str, url: str, *, ready: bool) -> Serving:
    return Serving(
        version=version.version, weight=weight, ready=ready, url=url if ready else "", name=name, digest=version.digest
    )


def _has_pods(found: Found) -> bool:
    """Whether anything is available, of whichever version."""
    if found.deployments:
        return any((each.get("status") or {}).get("availableReplicas", 0) for each in found.deployments.values())
    return found.condition("Ready").get("status") == "True" or bool(found.predictor_status.get("latestReadyRevision"))


def _templates(settings: Settings, place: Place, good: Plan | None) -> set[str]:
    """What the pods of a plan that was good are told by."""
    if good is None:
        return set()
    options = Options.model_validate(good.options)
    versions = (version for version in (good.main, good.canary) if version is not None)
    return {template_of(settings, place.resource, options, version) for version in versions}


def _symptom(
    settings: Settings,
    parts: list[_Part],
    layout: Layout,
    found: Found,
    served: Collection[str],
    *,
    applied_for_s: float,
) -> Symptom | None:
    """Why what is applied does not come up: what is final first, and what is new before what has served."""
    symptoms: list[Symptom] = []
    for part in sorted(parts, key=lambda each: each.template in served):
        if not part.is_up:
            said = _symptoms_of(settings, part, layout, found, applied_for_s=applied_for_s)
            symptoms += [_named(part, each, has_served=part.template in served) for each in said]
    if not symptoms and not settings.is_knative and _lacks_route(layout, found):
        return Symptom(Reason.CONFIG_REFUSED, NO_ROUTE, is_final=applied_for_s >= settings.settle_s)
    return next(iter(sorted(symptoms, key=lambda each: not each.is_final)), None)


def _named(part: _Part, symptom: Symptom, *, has_served: bool) -> Symptom:
    """Whose symptom it is. What has served just so is ill, not bad: that is no verdict on anything new."""
    message = f"Version {part.version.version}: {symptom.message}"
    if not has_served:
        return replace(symptom, message=message)
    return Symptom(Reason.UNHEALTHY if is_bad(symptom.reason) else symptom.reason, message)


def _symptoms_of(
    settings: Settings, part: _Part, layout: Layout, found: Found, *, applied_for_s: float
) -> list[Symptom]:
    """What is said of one version: by its pods, by their owner, and by KServe, in this order."""
    deployment = found.deployments.get(part.name)
    is_told = live.pod_annotations(deployment).get(names.TEMPLATE) == part.template
    revision = found.revisions.get(part.name)
    is_revised = live.annotations_of(revision).get(names.TEMPLATE) == part.template
    symptoms = [
        of_pods(found.pods or (), part.template, crash_restarts=settings.crash_restarts),
        of_deployment(deployment) if is_told else None,
        _of_revision(revision or {}) if is_revised else None,
    ]
    if applied_for_s >= settings.settle_s and symptoms[0] is None:
        symptoms.append(_failure(settings, part, layout, found, is_handled=is_told or is_revised))
    said = [symptom for symptom in symptoms if symptom is not None]
    if is_told and live.is_gone_over(deployment):
        reason, message = Reason.PROGRESS_DEADLINE_EXCEEDED, "Kubernetes gave up: the pods were not available in time."
        if said:
            reason, message = said[0].reason, said[0].message
        return [Symptom(reason, message, is_final=True)]
    return said


def _failure(settings: Settings, part: _Part, layout: Layout, found: Found, *, is_handled: bool) -> Symptom | None:
    """What KServe says has failed, if it is about this version.

    An invalid spec is said before any pod is made; a failing model, of pods that are there. The caller waits until what
    was said of the spec before must be gone.
    """
    said: Mapping[str, Any] = found.status.get("modelStatus") or {}
    if not settings.is_knative and layout.canary is not None and part.version == layout.canary:
        statuses = found.status.get("canaryStatuses") or []
        said = next((each.get("modelStatus") or {} for each in statuses if each.get("name") == layout.canary_slot), {})
    info = said.get("lastFailureInfo") or {}
    kind = info.get("reason")
    if kind in INVALID_SPEC and said.get("transitionStatus") in {"InvalidSpec", "BlockedByFailedLoad"}:
        return of_failure(info)
    if kind and is_handled and said.get("transitionStatus") == "BlockedByFailedLoad":
        return of_failure(info)
    return None


def _of_revision(revision: Mapping[str, Any]) -> Symptom | None:
    """Of Knative: why a revision is not ready, once it says that it will not be."""
    ready = live.condition(revision.get("status") or {}, "Ready")
    if ready.get("status") != "False":
        return None
    kind, message = str(ready.get("reason", "")), str(ready.get("message", ""))
    if kind == "Unschedulable" or "nodes are available" in message:
        return Symptom(Reason.NO_CAPACITY, f"No node has room: {message}")
    if kind == "ProgressDeadlineExceeded":
        return Symptom(Reason.PROGRESS_DEADLINE_EXCEEDED, f"Knative gave up: {message}", is_final=True)
    if kind in {"ContainerMissing", "ImagePullBackOff", "ErrImagePull"}:
        return Symptom(Reason.RUNTIME_ENV_FAILED, f"{kind}: {message}")
    return of_failure({"reason": kind, "message": message})
