"""The deployer's HTTP application: the shared one, over Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus

import httpx
from countersign_deployer import server
from countersign_deployer.contract import Deployment
from countersign_deployer.problems import Problem
from countersign_deployer.state import StateStore
from fastapi import FastAPI

from countersign_ray_serve.reconciler import Reconciler
from countersign_ray_serve.rollout import accept
from countersign_ray_serve.serve_api import Ray, RayUnreachable, ServeApi
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import State


class RayBackend:
    """See ``countersign_deployer.server.Backend``."""

    def __init__(self, settings: Settings, ray: Ray, reconciler: Reconciler) -> None:
        self._settings = settings
        self._ray = ray
        self._reconciler = reconciler

    def accept(self, state: State, wanted: Deployment, now: float) -> None:
        accept(state, self._settings, wanted, now, self._reconciler.last.apps)

    def wake(self) -> None:
        self._reconciler.wake()

    async def run(self) -> None:
        await self._reconciler.run()

    async def ready(self) -> Mapping[str, object]:
        try:
            version = await self._ray.version()
        except RayUnreachable as error:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        if trouble := self._reconciler.last.trouble:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, trouble[1])
        return {"ray_version": version}


def create_app(settings: Settings, store: StateStore[State]) -> FastAPI:
    """The application. It owns ``store`` from here on and closes it at the end."""

    @asynccontextmanager
    async def open_backend(store: StateStore[State], signals: server.Signals) -> AsyncIterator[RayBackend]:
        async with _ray(settings) as ray, httpx.AsyncClient(follow_redirects=False) as probes:
            reconciler = Reconciler(settings, store, ray, probes, signals.reports_owed, signals.drifted)
            yield RayBackend(settings, ray, reconciler)

    return server.create_app(settings, store, open_backend, title="Countersign deployer for Ray Serve")


def _ray(settings: Settings) -> AbstractAsyncContextManager[Ray]:
    if settings.mode == "rest":
        return ServeApi(settings)
    from countersign_ray_serve.rayservice import RayService  # needs the extra `kuberay`

    return RayService(settings)
