"""The rollout of one model: what a call changes, and what a look at the cluster changes. Pure; time is a number.

What is planned is made true until the plan has an end: *Ready*; or a verdict, and then the last good plan is the plan
again, so that nothing stays half deployed. Before a higher generation, whoever made it, a plan yields.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from countersign_deployer.calls import content_of
from countersign_deployer.contract import Deployment, Serving
from countersign_deployer.phases import REASONS, Phase, Reason
from countersign_deployer.problems import policy_denied
from countersign_deployer.reports import report, report_change

from countersign_kserve import names
from countersign_kserve.judging import Judgement
from countersign_kserve.manifest import place_of
from countersign_kserve.options import understand_options
from countersign_kserve.settings import CANARY_SINCE, STOP_SINCE, Settings
from countersign_kserve.state import Plan, Resource, State, Step, Version

FINAL_REASONS = {reason for reason, kind in REASONS.items() if kind.ends_in is Phase.FAILED}
"""Of what the cluster refuses: trying again is no use."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a model's object. ``judgement`` is of the plan at that moment. ``trouble``: the cluster refused, or
    did not answer. ``newer``: the generation of the object, if it is higher than ours. ``drift``: what others did to
    it. ``was_there``: it was, before the state knew of the model, and served ``former``, if that can be told; nothing
    was changed yet.
    """

    at: float
    generation: int
    judgement: Judgement | None = None
    is_applied: bool = False
    trouble: tuple[Reason, str] | None = None
    newer: int | None = None
    drift: str = ""
    was_there: bool = False
    former: Plan | None = None
    backend: dict[str, Any] | None = None


def accept(state: State, settings: Settings, wanted: Deployment, now: float, *, can_canary: bool | None) -> None:
    """Make a call the plan. Its generation is higher than the one we have, which it supersedes.

    Args:
        state: what is desired of all models.
        settings: the deployer's.
        wanted: the call's data.
        now: seconds since the epoch.
        can_canary: whether the cluster's KServe can split requests in this mode; none if nobody could tell yet.

    Raises:
        Problem: it cannot be followed (422).
    """
    try:
        place_of(wanted.resource, settings)
    except KeyError:
        raise policy_denied("data.resource", "No namespace is set for this model's workspace (NAMESPACES).") from None
    options = understand_options(wanted.config, settings)
    plan = _plan(wanted, settings, can_canary=can_canary)
    plan.options = options.model_dump(exclude_none=True)
    former = state.resources.get(wanted.resource)
    if former is not None and not former.phase.is_end:
        message = f"Generation {wanted.generation} was called for."
        report(state, settings, former, now, Phase.SUPERSEDED, message=message)
    resource = Resource(
        name=wanted.resource,
        deployment_id=wanted.deployment_id,
        generation=wanted.generation,
        content=content_of(wanted),
        callback_url=wanted.callback.url,
        deadline_at=now + min(wanted.deadline_s, settings.deadline_s),
        serving=former.serving if former else [],
        plan=plan,
        good=former.good if former else None,
        is_unknown=former.is_unknown if former else True,
        was_there=former.was_there if former else False,
    )
    state.resources[wanted.resource] = resource
    report(state, settings, resource, now, Phase.ACCEPTED)


def _plan(wanted: Deployment, settings: Settings, *, can_canary: bool | None) -> Plan:
    plan = Plan(generation=wanted.generation, notes=_notes(wanted))
    if wanted.action == "remove" or wanted.model is None:
        version = settings.known_version
        if not settings.allow_delete and version is not None and version < STOP_SINCE:
            raise policy_denied(
                "data.action", "This deployer may not delete (ALLOW_DELETE), and this KServe cannot stop."
            )
        return plan
    candidate = Version(version=wanted.model.version, uri=wanted.model.uri, digest=wanted.model.digest)
    weight, stable = wanted.traffic.weight, wanted.traffic.stable
    for field, uri in (("data.model.uri", candidate.uri), ("data.traffic.stable.uri", stable.uri if stable else "")):
        if "$" in uri:
            raise policy_denied(field, "It has a '$': Kubernetes would put the pod's variables in the place of '$(…)'.")
    if stable is not None and (stable.version, stable.digest) == (candidate.version, candidate.digest):
        plan.main = candidate
    elif stable is None and weight < 100:
        raise policy_denied(
            "data.traffic.stable",
            "KServe sends all requests to the only version there is: one that is to get less needs another beside it.",
        )
    elif stable is None or (weight == 100 and (settings.is_knative or can_canary is False)):
        plan.main = candidate
    elif can_canary is False:
        raise policy_denied("data.traffic.weight", cannot_split(settings))
    else:
        plan.main = Version(version=stable.version, uri=stable.uri, digest=stable.digest)
        plan.canary, plan.weight = candidate, weight
    return plan


def cannot_split(settings: Settings) -> str:
    """Why a share of the requests is refused."""
    since = ".".join(str(part) for part in CANARY_SINCE)
    return (
        f"This cluster's KServe cannot split requests in mode {settings.deployment_mode}: that takes KServe {since}, "
        "or mode Knative. Promote all at once, or tell the deployer its version (KSERVE_VERSION)."
    )


def _notes(wanted: Deployment) -> dict[str, str]:
    """Where a plan comes from, as annotations. Persons are not named on objects that everybody may read."""
    found = {names.DEPLOYMENT_ID: wanted.deployment_id}
    if wanted.promotion is not None:
        found[names.PROMOTION_ID] = wanted.promotion.id
        approvers = (hashlib.sha256(name.encode()).hexdigest()[:16] for name in sorted(wanted.promotion.approved_by))
        found[names.APPROVED_BY] = ",".join(approvers)
    if wanted.model is not None:
        found |= {
            name: value
            for name, value in (
                (names.ALIAS, wanted.model.alias),
                (names.RUN_ID, wanted.model.run_id),
                (names.MODEL_ID, wanted.model.model_id),
            )
            if value
        }
    return {name: value for name, value in found.items() if value}


def advance(state: State, settings: Settings, resource: Resource, seen: Seen) -> None:
    """Take the next step that a look allows, for one model."""
    if resource.step is Step.YIELDED or seen.generation != resource.generation:
        return
    if seen.newer is not None:
        _yield(state, settings, resource, seen, seen.newer)
        return
    if seen.was_there:
        resource.was_there, resource.good = True, seen.former
    if seen.was_there or seen.judgement is not None:
        resource.is_unknown = False
    if seen.is_applied:
        resource.applied_at = resource.applied_at or seen.at
    elif seen.trouble is None and not seen.drift:
        resource.applied_at = 0
    if resource.step in {Step.SETTLED, Step.LEFT}:
        _keep(state, settings, resource, seen)
    elif seen.judgement is not None and seen.judgement.is_ready:
        _settle(state, settings, resource, seen, seen.judgement)
    elif (verdict := _verdict(resource, seen)) is not None:
        _fail(state, settings, resource, seen, *verdict)
    else:
        _report(state, settings, resource, seen, Phase.PROGRESSING, *_delay(seen))


def _verdict(resource: Resource, seen: Seen) -> tuple[Reason, str] | None:
    """Why a rollout ends here, if it does: it is no use to wait, or the time is over."""
    symptom = seen.judgement.symptom if seen.judgement is not None else None
    if seen.trouble is not None and seen.trouble[0] in FINAL_REASONS:
        return seen.trouble
    if symptom is not None and symptom.is_final:
        return symptom.reason, symptom.message
    if seen.at < resource.deadline_at:
        return None
    reason, message = _delay(seen)
    if reason is Reason.NONE:
        return Reason.PROGRESS_DEADLINE_EXCEEDED, f"It was not ready in time. {message}".strip()
    return reason, message


def _delay(seen: Seen) -> tuple[Reason, str]:
    if seen.trouble is not None:
        return seen.trouble
    if seen.judgement is None:
        return Reason.NONE, ""
    if seen.judgement.symptom is not None:
        return seen.judgement.symptom.reason, seen.judgement.symptom.message
    return Reason.NONE, seen.judgement.waits_for


def _settle(state: State, settings: Settings, resource: Resource, seen: Seen, judgement: Judgement) -> None:
    resource.step, resource.good, resource.was_there = Step.SETTLED, resource.plan, False
    versions = [serving.version for serving in judgement.serving if serving.ready]
    message = (
        f"Version {' and '.join(versions)} answer{'s' if len(versions) == 1 else ''}."
        if versions
        else ("Nothing is served any more.")
    )
    _report(state, settings, resource, seen, Phase.READY, Reason.NONE, message)


def _fail(state: State, settings: Settings, resource: Resource, seen: Seen, reason: Reason, message: str) -> None:
    """The verdict; and back to what was good, under the present generation, so that older calls stay refused.

    Where nothing was: to what was to stay beside it; or to nothing, if nothing answers. What answers may be what was
    there before, so no verdict takes it away; nor what was there before us; nor what nobody could look at.
    """
    answers = seen.judgement is None or seen.judgement.is_available
    resource.step, resource.applied_at = Step.SETTLED, 0
    if resource.good is not None and resource.good.main is not None:
        resource.plan = resource.good.model_copy(deep=True, update={"generation": resource.generation})
    elif resource.plan.canary is not None or not (answers or resource.was_there):
        main = resource.plan.main if resource.plan.canary is not None else None
        resource.plan = Plan(generation=resource.generation, main=main, options=resource.plan.options)
    else:
        resource.step = Step.LEFT
        if resource.was_there or seen.judgement is not None:
            message = f"{message.rstrip('. ')}. What is there is left as it is."
    _report(state, settings, resource, seen, REASONS[reason].ends_in, reason, message)


def _yield(state: State, settings: Settings, resource: Resource, seen: Seen, newer: int) -> None:
    resource.step = Step.YIELDED
    message = f"The object is of generation {newer} already."
    if not resource.phase.is_end:
        report(state, settings, resource, seen.at, Phase.SUPERSEDED, message=message, backend=seen.backend)


def _keep(state: State, settings: Settings, resource: Resource, seen: Seen) -> None:
    """After the end: report what changes. What does not answer for a while is not news of the model."""
    if seen.trouble is not None and seen.trouble[0] is Reason.UNREACHABLE:
        return
    if resource.phase is not Phase.READY:
        _report(state, settings, resource, seen, resource.phase, resource.reason, resource.message)
        return
    reason, message = Reason.NONE, resource.message if resource.reason is Reason.NONE else "All is well again."
    if seen.trouble is not None:
        reason, message = seen.trouble
    elif seen.drift:
        reason, message = Reason.UNHEALTHY, seen.drift
    elif seen.judgement is not None and not seen.judgement.is_ready:
        symptom = seen.judgement.symptom
        reason, message = Reason.UNHEALTHY, symptom.message if symptom else seen.judgement.waits_for
    _report(state, settings, resource, seen, Phase.READY, reason, message)


def _report(
    state: State, settings: Settings, resource: Resource, seen: Seen, phase: Phase, reason: Reason, message: str
) -> None:
    serving: Sequence[Serving] = seen.judgement.serving if seen.judgement is not None else resource.serving
    report_change(state, settings, resource, seen.at, phase, reason, message, serving=serving, backend=seen.backend)
