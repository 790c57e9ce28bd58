"""The loop that makes Ray what the desired state says: look, put what differs, probe, take the next step.

The only writer to Ray. It is level-triggered: every pass starts from the saved state and a fresh look at Ray, so it
does not matter what was lost in between, a message of ours, this process, or Ray's head with everything Serve knew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx
import structlog
from countersign_deployer.masking import tail
from countersign_deployer.phases import Reason
from countersign_deployer.state import StateStore

from countersign_ray_serve.adoption import orphans
from countersign_ray_serve.layout import (
    ROUTER,
    AppStatus,
    Json,
    declared,
    foreign_apps,
    has_drifted,
    lost_surge,
    observe,
    serve_config,
)
from countersign_ray_serve.packages import content_of, needed
from countersign_ray_serve.reports import public_url
from countersign_ray_serve.rollout import Observation, advance, heal_router
from countersign_ray_serve.serve_api import Ray, RayRefused, RayUnreachable, is_untested, judge_version
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import Resource, Share, State

PROBE_TIMEOUT_S = 10
PROBE = "X-Countersign-Probe"  # serving.router reads it
MOST_PROBES_PER_ROUTER = 10
ILL_PAUSE_S = 2

log = structlog.get_logger()


class Reconciler:
    """Owns the writes to one Ray cluster. ``on_change`` is called when reports may be owed, ``on_loss`` when Ray
    has not any more what it was told.
    """

    def __init__(
        self,
        settings: Settings,
        store: StateStore[State],
        ray: Ray,
        probes: httpx.AsyncClient,
        on_change: Callable[[], None],
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._ray = ray
        self._probes = probes
        self._on_change = on_change
        self._on_loss = on_loss
        self._resets = settings.serve_reset_on_start
        self._applied: Json | None = None
        self._warned: set[str] = set()
        self._wake = asyncio.Event()
        self._last = Observation(at=0, trouble=(Reason.UNREACHABLE, "Ray was not looked at yet."))

    @property
    def last(self) -> Observation:
        """The last look at Ray."""
        return self._last

    def wake(self) -> None:
        """Look now, not at the next interval."""
        self._wake.set()

    async def run(self) -> None:
        """Reconcile for ever."""
        while True:
            self._wake.clear()
            pause = self._settings.reconcile_interval_s
            try:
                if await self._pass():
                    continue
            except Exception:  # the loop is the deployer: one bad answer must not end it
                log.exception("reconcile.failed")
            resources = self._store.snapshot().resources.values()
            if self._resets or not all(resource.is_settled for resource in resources):
                pause = self._settings.poll_interval_s
            elif any(resource.ill_since is not None for resource in resources):
                pause = min(pause, ILL_PAUSE_S)
            await _wait(self._wake.wait(), pause)

    async def _pass(self) -> bool:
        """One pass; whether Ray must be told something new at once."""
        before = self._store.snapshot()
        try:
            seen = await self._look(before)
        except Exception as error:  # deadlines do not wait until somebody understands it
            log.exception("look.failed")
            message = f"What Ray says was not understood ({type(error).__name__})."
            seen = Observation(at=time.time(), trouble=(Reason.UNREACHABLE, message))
        if (seen.trouble is None) != (self._last.trouble is None):
            log.info("ray.answers") if seen.trouble is None else log.warning("ray.trouble", reason=seen.trouble[0])
        self._last = seen
        async with self._store.transaction() as state:
            state.resources = {**seen.orphans, **state.resources}
            for resource in state.resources.values():
                advance(state, self._settings, resource, seen)
            heal_router(state, seen)
        after = self._store.snapshot()
        if after is before:
            return False
        self._log_changes(before, after)
        self._on_change()
        return serve_config(self._settings, after) != serve_config(self._settings, before)

    async def _look(self, state: State) -> Observation:
        wanted = serve_config(self._settings, state)
        try:
            if unsupported := self._judge(await self._ray.version()):
                return Observation(at=time.time(), trouble=(Reason.CONFIG_REFUSED, unsupported))
            details = await self._ray.details()
            if foreign := foreign_apps(details, self._settings.target):
                message = f"Ray runs applications that others declared, and we would delete them: {', '.join(foreign)}"
                return Observation(at=time.time(), trouble=(Reason.POLICY_DENIED, message))
            if self._resets and await self._reset(wanted, details):
                return Observation(at=time.time(), trouble=(Reason.UNREACHABLE, "Serve is being reset."))
            if unknown := orphans(state, details):
                log.warning("models.adopted", models=sorted(unknown))
                return Observation(at=time.time(), orphans=unknown)
            await self._ship(wanted)
            if has_drifted(wanted, details):
                if wanted == self._applied:
                    log.warning("ray.lost")
                    self._on_loss()
                await self._ray.apply(wanted)
                self._applied = wanted
                log.info("ray.applied", applications=[spec["name"] for spec in wanted["applications"]])
                details = await self._ray.details()
        except RayUnreachable as error:
            return Observation(at=time.time(), trouble=(Reason.UNREACHABLE, str(error)))
        except RayRefused as error:
            return Observation(at=time.time(), trouble=(Reason.CONFIG_REFUSED, tail(str(error))))
        if lost_surge(details):
            self._warn("Ray ignores max_surge_percent: a change of the router's settings will interrupt requests.")
        apps = observe(wanted, details)
        proven = await self._prove(state, apps)
        return Observation(at=time.time(), apps=apps, proven=proven)

    def _judge(self, version: str) -> str | None:
        if is_untested(version):
            self._warn(f"Ray {version} is newer than what was tested.")
        return judge_version(version)

    def _warn(self, message: str) -> None:
        """Once."""
        if message not in self._warned:
            self._warned.add(message)
            log.warning("ray.doubtful", message=message)

    async def _reset(self, wanted: Json, details: Json) -> bool:
        """End what was declared, so that it starts anew; whether that still goes on. Never by ``DELETE``, which would
        take what others started with it.
        """
        if not declared(details):
            self._resets = False
            return False
        if any(app.get("status") != "DELETING" for app in declared(details).values()):
            await self._ray.apply({**wanted, "applications": []})
            log.warning("ray.reset", applications=sorted(declared(details)))
        return True

    async def _ship(self, wanted: Json) -> None:
        """Give Ray the packages that it does not have, or not any more."""
        for uri in needed(wanted):
            if await self._ray.has_package(uri):
                continue
            content = await asyncio.to_thread(content_of, uri, self._settings.state_dir)
            if content is None:
                self._warn(f"The package {uri} of an earlier release is lost: deploy the models that need it again.")
                continue
            await self._ray.put_package(uri, content)
            log.info("ray.package_uploaded", package=uri)

    async def _prove(self, state: State, apps: dict[str, AppStatus]) -> dict[str, list[Share]]:
        """Probe the routes that were changed, or of what was ill, once Serve says that every router has them."""
        router = apps.get(ROUTER)
        if router is None or not router.is_running:
            return {}
        waiting = [r for r in state.resources.values() if not r.is_settled or r.ill_since is not None]
        answers = await asyncio.gather(*(self._probe(resource, state.probe_token, router) for resource in waiting))
        return {resource.name: resource.routed for resource, proven in zip(waiting, answers, strict=True) if proven}

    async def _probe(self, resource: Resource, token: str, router: AppStatus) -> bool:
        """Whether every router has the model's routes, and each version answers through it. Who answers is chosen by
        Serve, so it is asked until all have.
        """
        expected = [
            {"app": share.app, "version": resource.apps[share.app].version, "weight": share.weight, "ready": True}
            for share in resource.routed
        ]
        count = len(router.replicas) if router.replicas else self._settings.router_replicas
        met: set[str] = set()
        for asked in range(1, max(self._settings.probe_count, count * MOST_PROBES_PER_ROUTER) + 1):
            try:
                answer = await self._probes.get(
                    public_url(self._settings, resource.name), headers={PROBE: token}, timeout=PROBE_TIMEOUT_S
                )
                told = answer.json() if answer.is_success else {}
            except (httpx.HTTPError, ValueError):
                return False
            if not isinstance(told, dict) or told.get("shares") != expected:
                return False
            met.add(str(told.get("router")))
            has_all = router.replicas <= met if router.replicas else len(met) >= count
            if has_all and asked >= self._settings.probe_count:
                return True
        return False

    def _log_changes(self, before: State, after: State) -> None:
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


async def _wait(event: Awaitable[object], timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event
    except TimeoutError:
        pass
