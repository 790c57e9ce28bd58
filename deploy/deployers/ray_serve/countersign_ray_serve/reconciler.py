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

from countersign_ray_serve.adoption import orphans
from countersign_ray_serve.contract import Reason
from countersign_ray_serve.diagnosis import tail
from countersign_ray_serve.layout import ROUTER, AppStatus, foreign_apps, has_drifted, observe, serve_config
from countersign_ray_serve.reports import public_url
from countersign_ray_serve.rollout import Observation, advance, heal_router
from countersign_ray_serve.serve_api import RayRefused, RayUnreachable, ServeApi
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import Resource, State, StateStore, Step

PROBE_TIMEOUT_S = 10

log = structlog.get_logger()


class Reconciler:
    """Owns the writes to one Ray cluster. ``on_change`` is called when reports may be owed."""

    def __init__(
        self,
        settings: Settings,
        store: StateStore,
        ray: ServeApi,
        probes: httpx.AsyncClient,
        on_change: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._ray = ray
        self._probes = probes
        self._on_change = on_change
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
            if not all(resource.is_settled for resource in self._store.snapshot().resources.values()):
                pause = self._settings.poll_interval_s
            await _wait(self._wake.wait(), pause)

    async def _pass(self) -> bool:
        """One pass; whether Ray must be told something new at once."""
        before = self._store.snapshot()
        seen = await self._look(before)
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
            details = await self._ray.details()
            if foreign := foreign_apps(details):
                message = f"Ray runs applications that others declared, and we would delete them: {', '.join(foreign)}"
                return Observation(at=time.time(), trouble=(Reason.POLICY_DENIED, message))
            if unknown := orphans(state, details):
                log.warning("models.adopted", models=sorted(unknown))
                return Observation(at=time.time(), orphans=unknown)
            if has_drifted(wanted, details):
                await self._ray.apply(wanted)
                log.info("ray.applied", applications=[spec["name"] for spec in wanted["applications"]])
                details = await self._ray.details()
        except RayUnreachable as error:
            return Observation(at=time.time(), trouble=(Reason.UNREACHABLE, str(error)))
        except RayRefused as error:
            return Observation(at=time.time(), trouble=(Reason.CONFIG_REFUSED, tail(str(error))))
        apps = observe(wanted, details)
        proven = await self._prove(state, apps)
        return Observation(at=time.time(), apps=apps, proven=proven)

    async def _prove(self, state: State, apps: dict[str, AppStatus]) -> dict[str, str | None]:
        """Probe the routes that were changed, once every router replica has the new routes."""
        router = apps.get(ROUTER)
        if router is None or not router.is_running:
            return {}
        waiting = [r for r in state.resources.values() if r.step in {Step.SWITCHING, Step.REMOVING}]
        answers = await asyncio.gather(*(self._probe(resource) for resource in waiting))
        return {resource.name: resource.active for resource, proven in zip(waiting, answers, strict=True) if proven}

    async def _probe(self, resource: Resource) -> bool:
        """Whether several probes in a row see the routed version, or no model where there is no route."""
        expected = (200, resource.apps[resource.active].version) if resource.active else (404, None)
        for _ in range(self._settings.probe_count):
            try:
                answer = await self._probes.get(public_url(self._settings, resource.name), timeout=PROBE_TIMEOUT_S)
            except httpx.HTTPError:
                return False
            if (answer.status_code, answer.headers.get("X-Model-Version")) != expected:
                return False
        return True

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
