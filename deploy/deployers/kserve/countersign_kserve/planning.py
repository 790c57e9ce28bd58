"""What the object should be next, on the way from what it is to what is planned. Pure, and without memory: it looks at
what the cluster says, so a crash at any point loses nothing.

Standard mode. A version that takes the place of another is a rolling update of one Deployment, which keeps old pods
until new ones are available. A canary is a second Deployment, of another *slot*. It gets requests once it is available
(KServe 0.20 sends them before). It is promoted by giving the main predictor its slot's name, which restarts nothing,
and not before it is available: KServe deletes a Deployment whose name is not wanted any more at once, whether or not
another one is there to answer.

Knative mode. There is one predictor, and each change of it is a new Revision. KServe splits requests between the newest
Revision and the last one that had all of them. Going back first takes the requests from the newest (weight 0, quick),
then makes the former version the newest, and only then ends the split: without that, all requests would go to the
newest ready Revision, which is the one to get away from.
"""

from __future__ import annotations

from countersign_kserve import live, names
from countersign_kserve.live import Found, Json
from countersign_kserve.manifest import Layout, Place, inference_service, replicas, template_of
from countersign_kserve.options import Options
from countersign_kserve.settings import Settings
from countersign_kserve.state import Plan, Version


def next_object(settings: Settings, place: Place, plan: Plan, found: Found) -> Json | None:
    """The object to apply now; none if there should be none."""
    now = found.service
    if plan.main is None:
        main = live.version_on(live.predictor(now)) if now is not None else None
        if main is None or settings.allow_delete:
            return None
        kept = Layout(main, slot=_slot(now))
        return inference_service(settings, place, plan, kept, stop=True, now=now)
    layout = layout_of(settings, place, plan, found)
    return inference_service(settings, place, plan, layout, now=now)


def layout_of(settings: Settings, place: Place, plan: Plan, found: Found) -> Layout:
    """Where the plan's versions go now."""
    if plan.main is None:
        raise ValueError("nothing is planned to be served")
    return (_knative if settings.is_knative else _standard)(settings, place, plan, plan.main, found)


def is_last(plan: Plan, layout: Layout) -> bool:
    """Whether a layout is what the plan comes to in the end."""
    if plan.canary is None:
        return layout.canary is None and layout.percent is None
    return layout.canary == plan.canary and layout.percent == plan.weight


def _standard(settings: Settings, place: Place, plan: Plan, main: Version, found: Found) -> Layout:
    options = Options.model_validate(plan.options)
    now = found.service
    beside = live.canaries(now)
    least, _ = replicas(settings, options)

    def is_up(slot: str, template: str) -> bool:
        return live.is_rolled_out(found.deployments.get(names.deployment_name(place.name, slot)), template, least)

    main_template = template_of(settings, place.resource, options, main)
    slot = _slot(now)
    if live.template(live.predictor(now)) != main_template:
        slot = next(
            (
                name
                for name, entry in beside.items()
                if live.template(entry.get("predictor")) == main_template and is_up(name, main_template)
            ),
            slot,
        )
    if plan.canary is None:
        return Layout(main, slot)
    template = template_of(settings, place.resource, options, plan.canary)
    others = {name: entry for name, entry in beside.items() if name != slot}
    canary_slot = next(
        (name for name, entry in others.items() if live.template(entry.get("predictor")) == template),
        next(name for name in names.SLOTS if name != slot),
    )
    entry = others.get(canary_slot) or {}
    had_requests = live.template(entry.get("predictor")) == template and entry.get("trafficPercent", 0) > 0
    percent = plan.weight if had_requests or is_up(canary_slot, template) else 0
    return Layout(main, slot, plan.canary, canary_slot, percent)


def _slot(now: Json | None) -> str:
    return str(live.predictor(now).get("name") or "")


def _knative(settings: Settings, place: Place, plan: Plan, main: Version, found: Found) -> Layout:
    options = Options.model_validate(plan.options)
    now = live.predictor(found.service)
    percent: int | None = now.get("canaryTrafficPercent")
    said = found.predictor_status
    template = template_of(settings, place.resource, options, main)
    rolled_out = found.revisions.get(said.get("latestRolledoutRevision") or "")
    if plan.canary is not None and live.annotations_of(rolled_out).get(names.TEMPLATE) == template:
        return Layout(main, canary=plan.canary, percent=plan.weight)
    if percent is None:
        return Layout(main)
    if live.template(now) == template:
        newest_ready = found.revisions.get(said.get("latestReadyRevision") or "")
        return Layout(main, percent=None if live.is_ready_revision(newest_ready, template) else percent)
    newest = live.version_on(now)
    return Layout(main, percent=0) if percent == 0 or newest is None else Layout(main, canary=newest, percent=0)
