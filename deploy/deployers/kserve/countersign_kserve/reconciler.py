"""The loop that makes the cluster what the state says: look, apply what differs, judge, take the next step.

It is level-triggered: each pass starts from the saved state and a fresh look at the cluster, so it does not matter what
was lost in between, an event, an answer, or this process. Watches only wake it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import structlog
from countersign_deployer.contract import Deployment
from countersign_deployer.phases import Reason
from countersign_deployer.problems import Problem
from countersign_deployer.server import Signals
from countersign_deployer.state import StateStore

from countersign_kserve import live, names
from countersign_kserve.cluster import DEPLOYMENTS, PODS, REVISIONS, ROUTES, SERVICES, Cluster, Raced, Trouble, Watched
from countersign_kserve.judging import Judgement, judge
from countersign_kserve.live import Found, Json
from countersign_kserve.manifest import Place, place_of
from countersign_kserve.planning import next_object
from countersign_kserve.rollout import Seen, accept, advance, cannot_split
from countersign_kserve.settings import CANARY_SINCE, Settings
from countersign_kserve.state import Plan, Resource, State, Step

AT_ONCE = 8
"""Models that are looked at side by side."""
TRIES = 5
"""Looks at one model in a row while others change it, too."""
WATCH_PAUSE_S = 5
RETURN_S = 600
"""How long the way back is looked at as often as a rollout."""

log = structlog.get_logger()


class Reconciler:
    """Owns the writes to one cluster, for one target."""

    def __init__(self, settings: Settings, store: StateStore[State], cluster: Cluster, signals: Signals) -> None:
        self._settings = settings
        self._store = store
        self._cluster = cluster
        self._signals = signals
        self._wake = asyncio.Event()
        self._changed: set[tuple[str, str]] = set()
        self._trouble: tuple[Reason, str] | None = (Reason.UNREACHABLE, "The cluster was not looked at yet.")
        self._can_canary = _told(settings)
        self._restarts_noted = False

    def accept(self, state: State, wanted: Deployment, now: float) -> None:
        """Make a call the plan; see ``rollout.accept``."""
        accept(state, self._settings, wanted, now, can_canary=self._can_canary)

    def wake(self) -> None:
        """Look now, not at the next interval."""
        self._wake.set()

    async def ready(self) -> Mapping[str, object]:
        """Whether the cluster answers.

        Raises:
            Problem: it does not (503).
        """
        trouble = self._trouble
        if trouble is not None:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, trouble[1])
        return {"mode": self._settings.deployment_mode, "splits_requests": self._can_canary}

    async def run(self) -> None:
        """Reconcile for ever, woken by watches."""
        async with asyncio.TaskGroup() as group:
            for namespace in sorted(set(self._settings.namespaces.values())):
                group.create_task(self._listen(namespace))
            group.create_task(self._work())

    async def _work(self) -> None:
        """Look at all models now and then, and between that at those that move or were changed."""
        settings, all_due = self._settings, 0.0
        while True:
            self._wake.clear()
            changed, self._changed = self._changed, set()
            is_all = time.monotonic() >= all_due
            try:
                await self.reconcile(None if is_all else changed)
            except Exception:  # the loop is the deployer: one bad answer must not end it
                log.exception("reconcile.failed")
            if is_all:
                all_due = time.monotonic() + settings.reconcile_interval_s
            pause = all_due - time.monotonic()
            if any(_is_moving(resource) for resource in self._store.snapshot().resources.values()):
                pause = min(pause, settings.poll_interval_s)
            try:
                async with asyncio.timeout(max(0.0, pause)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _listen(self, namespace: str) -> None:
        """Wake when one of our objects changes. A watch that ends, for whatever reason, begins anew after a look."""
        while True:
            try:
                async for name in self._cluster.watch(namespace):
                    self._changed.add((namespace, name))
                    self.wake()
            except (Watched, Trouble, Raced):
                pass  # what happened meanwhile is seen when all are looked at
            except Exception:
                log.exception("watch.failed")
            await asyncio.sleep(min(WATCH_PAUSE_S, self._settings.poll_interval_s))

    async def reconcile(self, changed: Collection[tuple[str, str]] | None = None) -> None:
        """One pass over all models; or over those that move and those whose objects have changed.

        Args:
            changed: namespaces and names of objects; none: look at all models.
        """
        await self._learn()
        at_once = asyncio.Semaphore(AT_ONCE)

        async def one(resource: Resource) -> Seen:
            async with at_once:
                return await self._look(resource)

        before = self._store.snapshot()
        active = [each for each in before.resources.values() if each.step is not Step.YIELDED]
        if changed is not None:
            active = [each for each in active if _is_moving(each) or self._is_of(each, changed)]
        found = await asyncio.gather(*(one(resource) for resource in active))
        await self._note_reach(found)
        async with self._store.transaction() as state:
            for resource, seen in zip(active, found, strict=True):
                if resource.name in state.resources:
                    advance(state, self._settings, state.resources[resource.name], seen)
        after = self._store.snapshot()
        if after is not before:
            _log_changes(before, after)
            self._signals.reports_owed()
        if any(seen.newer is not None or seen.drift for seen in found):
            self._signals.drifted()
        if any(seen.was_there for seen in found):
            self.wake()

    def _is_of(self, resource: Resource, changed: Collection[tuple[str, str]]) -> bool:
        try:
            place = place_of(resource.name, self._settings)
        except KeyError:
            return False
        return (place.namespace, place.name) in changed

    async def _learn(self) -> None:
        """Find out, once, what the cluster's KServe can do; while it is not known, a share of the requests waits."""
        if self._can_canary is not None:
            return
        try:
            self._can_canary = _knows_canary(await self._cluster.schema())
        except (Trouble, Raced) as error:
            log.warning("cluster.schema_unknown", why=str(error))

    async def _note_reach(self, found: list[Seen]) -> None:
        trouble = next((seen.trouble for seen in found if seen.trouble and seen.trouble[0] is Reason.UNREACHABLE), None)
        if not found:
            try:
                namespace = next(iter(self._settings.namespaces.values()))
                await self._cluster.get(SERVICES, namespace, "countersign")
            except (Trouble, Raced) as error:
                trouble = (Reason.UNREACHABLE, str(error))
        if (trouble is None) != (self._trouble is None):
            log.info("cluster.answers") if trouble is None else log.warning("cluster.trouble", why=trouble[1])
        self._trouble = trouble

    async def _look(self, resource: Resource) -> Seen:
        """Look at one model, and apply what differs from its plan."""
        for _ in range(TRIES):
            try:
                return await self._step(resource)
            except Raced:
                continue  # somebody was quicker: what is there now decides
            except Trouble as error:
                return Seen(time.time(), resource.generation, trouble=(error.reason, error.message))
            except Exception as error:  # one object that is not understood must not hide the others
                log.exception("look.failed", model=resource.name)
                message = f"What the cluster says was not understood ({type(error).__name__})."
                return Seen(time.time(), resource.generation, trouble=(Reason.UNREACHABLE, message))
        return Seen(
            time.time(),
            resource.generation,
            trouble=(Reason.UNREACHABLE, "The object changes faster than it can be read."),
        )

    async def _step(self, resource: Resource) -> Seen:
        settings, plan = self._settings, resource.plan
        try:
            place = place_of(resource.name, settings)
        except KeyError:
            message = "No namespace is set any more for this model's workspace (NAMESPACES)."
            raise Trouble(Reason.POLICY_DENIED, message) from None
        service = await self._cluster.get(SERVICES, place.namespace, place.name)
        if service is not None:
            _refuse_others(settings, place, service)
            if (seen := _before_all(resource, service)) is not None:
                return seen
            if resource.is_unknown and not (live.is_stopped(service) or service["metadata"].get("deletionTimestamp")):
                return _first_look(resource, service, await self._find(resource, place, service))
        if plan.canary is not None and not self._can_canary:
            if self._can_canary is None:
                raise Trouble(Reason.UNREACHABLE, "What the cluster's KServe can do is not known yet.")
            raise Trouble(Reason.CONFIG_REFUSED, cannot_split(settings))
        found = await self._find(resource, place, service)
        is_applied, drift = await self._make(resource, place, service, next_object(settings, place, plan, found))
        return Seen(
            at=(now := time.time()),
            generation=resource.generation,
            judgement=judge(
                settings,
                place,
                plan,
                found,
                is_applied=is_applied,
                applied_for_s=now - resource.applied_at if resource.applied_at else 0,
                good=resource.good,
            ),
            is_applied=is_applied,
            drift=drift,
            backend=self._backend(place, found),
        )

    async def _make(
        self, resource: Resource, place: Place, service: Json | None, manifest: Json | None
    ) -> tuple[bool, str]:
        """Make the object as it is to be next: whether it was already, and what others did to it."""
        if resource.step is Step.LEFT:
            return manifest is not None and live.is_as_applied(service, manifest), ""
        if manifest is None:
            return await self._remove(place, service), ""
        if live.is_as_applied(service, manifest):
            return True, ""
        drift = _drift(resource, service)
        if not drift or self._settings.repair:
            await self._apply(resource, service, manifest)
            log.info("object.applied", name=place.name, generation=resource.plan.generation, drift=drift or None)
        return False, drift

    async def _apply(self, resource: Resource, service: Json | None, manifest: Json) -> None:
        """Try, and then do. Without the trial, an object that was made could be one that KServe's webhook hates."""
        if service is None or live.generation_of(service) < resource.plan.generation:
            await self._cluster.apply(manifest, dry_run=True)
        await self._cluster.apply(manifest, dry_run=False)

    async def _remove(self, place: Place, service: Json | None) -> bool:
        if service is None:
            return True
        if not self._settings.allow_delete:
            raise Trouble(
                Reason.POLICY_DENIED, f"The object '{place.name}' cannot be stopped, nor deleted (ALLOW_DELETE)."
            )
        if not service["metadata"].get("deletionTimestamp"):
            await self._cluster.delete(place.namespace, place.name, uid=service["metadata"]["uid"])
            log.info("object.deleted", name=place.name)
        return True

    async def _find(self, resource: Resource, place: Place, service: Json | None) -> Found:
        """What KServe has made of an object. Pods are looked at while not all is well, the route while it may move."""
        is_knative = self._settings.is_knative
        collection = REVISIONS if is_knative else DEPLOYMENTS
        labels = {names.OF_SERVICE: place.name}
        children = await self._cluster.find(collection, place.namespace, labels)
        if children is None:
            what = collection.rpartition("/")[2]
            raise Trouble(Reason.POLICY_DENIED, f"The deployer may not list {what} in '{place.namespace}'.")
        by_name = {child["metadata"]["name"]: child for child in children}
        found = Found(service, revisions=by_name) if is_knative else Found(service, deployments=by_name)
        pods = route = None
        if service is not None and not live.is_calm(found):
            pods = await self._cluster.find(PODS, place.namespace, labels)
        if service is not None and not is_knative and (resource.plan.canary is not None or _is_moving(resource)):
            route = await self._route(resource, place)
        return replace(found, pods=pods, route=route)

    async def _route(self, resource: Resource, place: Place) -> Mapping[str, int] | None:
        """The weights of KServe's route, where there is one. Without a canary we may do without reading it."""
        if not self._can_canary:
            return None
        try:
            route = await self._cluster.get(ROUTES, place.namespace, names.deployment_name(place.name, ""))
        except Trouble as error:
            if error.reason is Reason.UNREACHABLE:
                raise
            if resource.plan.canary is not None:
                why = f"What share of the requests each version gets, an HTTPRoute of the Gateway API says: {error}"
                raise Trouble(Reason.CONFIG_REFUSED, why) from None
            return None
        rules = ((route or {}).get("spec") or {}).get("rules") or []
        backends = rules[0].get("backendRefs") or [] if rules else []
        total = sum(int(each.get("weight", 1)) for each in backends)
        if not total:
            return None
        return {str(each["name"]): round(100 * int(each.get("weight", 1)) / total) for each in backends}

    def _backend(self, place: Place, found: Found) -> dict[str, Any]:
        restarts = any(names.GENERATION in live.pod_annotations(each) for each in found.deployments.values())
        if restarts and not self._restarts_noted:
            self._restarts_noted = True
            log.warning("pods.restart_with_each_generation", advice="set serviceAnnotationDisallowedList; see README")
        return {
            "kserve": {
                "namespace": place.namespace,
                "name": place.name,
                "mode": self._settings.deployment_mode,
                "children": sorted([*found.deployments, *found.revisions]),
                "restarts_with_each_generation": restarts,
            }
        }


@asynccontextmanager
async def open_reconciler(
    settings: Settings, cluster: Cluster, store: StateStore[State], signals: Signals
) -> AsyncIterator[Reconciler]:
    """What ``countersign_deployer.server`` runs."""
    yield Reconciler(settings, store, cluster, signals)


def _told(settings: Settings) -> bool | None:
    """Whether requests can be split, as far as the settings say."""
    if settings.is_knative:
        return True
    return None if settings.known_version is None else settings.known_version >= CANARY_SINCE


def _knows_canary(schema: Json | None) -> bool:
    """Whether the schema of an InferenceService has ``spec.canary``. One that lists no fields says nothing: no."""
    for name, each in (((schema or {}).get("components") or {}).get("schemas") or {}).items():
        if name.endswith("InferenceService"):
            spec = (each.get("properties") or {}).get("spec") or {}
            return "canary" in (spec.get("properties") or {})
    return False


def _refuse_others(settings: Settings, place: Place, service: Json) -> None:
    """Hands off what is not ours: made by others, by the deployer of another target, or for another model. The last
    is nobody's to take over: who may promote one model could end another by a name that comes to the same.
    """
    said = live.annotations_of(service)
    whose = None
    if said.get(names.RESOURCE, place.resource) != place.resource and live.is_ours(service):
        message = (
            f"The InferenceService '{place.name}' in '{place.namespace}' serves the model '{said[names.RESOURCE]}'."
        )
        raise Trouble(Reason.POLICY_DENIED, f"{message} It is left alone: call this model otherwise.")
    if not live.is_ours(service):
        whose = "was not made by a deployer"
    elif said.get(names.TARGET, settings.target) != settings.target:
        whose = f"belongs to the target '{said[names.TARGET]}'"
    if whose is not None and not settings.adopt:
        message = f"The InferenceService '{place.name}' in '{place.namespace}' {whose}; it is left alone (ADOPT)."
        raise Trouble(Reason.POLICY_DENIED, message)


def _drift(resource: Resource, service: Json | None) -> str:
    """What others did to an object that was as planned; empty if nobody did."""
    if resource.step is not Step.SETTLED or not resource.applied_at or resource.plan.main is None:
        return ""
    return "The object was deleted." if service is None else "The object was changed by others."


def _before_all(resource: Resource, service: Json) -> Seen | None:
    """What there is to see of an object before it may be changed, if that keeps us from it."""
    plan = resource.plan
    if (newer := live.generation_of(service)) > plan.generation:
        return Seen(time.time(), resource.generation, newer=newer)
    if service["metadata"].get("deletionTimestamp") and plan.main is not None:
        return _being_deleted(resource)
    return None


def _first_look(resource: Resource, service: Json, found: Found) -> Seen:
    """At an object that the state knows nothing of: what it serves is saved before anything is changed."""
    former, generation = None, live.generation_of(service)
    if generation < resource.plan.generation and (served := live.served_by(found)) is not None:
        former = Plan(generation=generation, main=served, options=resource.plan.options)
    return Seen(time.time(), resource.generation, was_there=True, former=former)


def _being_deleted(resource: Resource) -> Seen:
    """Somebody deletes the object, and it is not gone yet: what still runs says nothing of what will."""
    waits_for = "The object is being deleted; it is made anew when it is gone."
    judgement = Judgement(is_ready=False, serving=tuple(resource.serving), waits_for=waits_for)
    drift = waits_for if _drift(resource, None) else ""
    return Seen(time.time(), resource.generation, judgement=judgement, drift=drift, backend=resource.backend)


def _is_moving(resource: Resource) -> bool:
    """Whether something is on its way: a rollout; or the way back, for a while."""
    if resource.step is Step.ROLLING:
        return True
    return resource.step is Step.SETTLED and not resource.applied_at and time.time() - resource.reported_at < RETURN_S


def _log_changes(before: State, after: State) -> None:
    for name, resource in after.resources.items():
        old = before.resources.get(name)
        if old is None or (old.generation, old.phase, old.step) != (
            resource.generation,
            resource.phase,
            resource.step,
        ):
            log.info(
                "rollout.moved",
                model=name,
                generation=resource.generation,
                step=resource.step,
                phase=resource.phase,
                reason=resource.reason or None,
            )
