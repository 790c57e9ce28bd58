"""One ASGI application: a switch by path between MLflow (the proxy) and ours (the routers)."""

from __future__ import annotations

import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.types import ASGIApp

from app.bootstrap.gateway import Gateway, open_gateway
from app.proxy.asgi import Event, Receive, Scope, Send
from app.routers import (
    aliases,
    auth,
    break_glass,
    checks,
    comments,
    consent,
    console,
    delegations,
    deliveries,
    deployments,
    downloads,
    endpoints,
    grants,
    happenings,
    oauth,
    operations,
    permissions,
    policies,
    principals,
    promotions,
    records,
    resolution,
    reviews,
    rollouts,
    sessions,
    storage_events,
    tokens,
)
from app.routers.cross_origin import CrossOriginAccess
from app.routers.problems import PROBLEM_RESPONSES, bounded, install_problem_handlers
from app.routers.protecting import ProtectiveHeaders
from app.routers.readable import ReadableAnswers
from app.routers.resolving import METHODS, PATHS, Resolving
from app.settings import Settings
from app.telemetry import REQUEST_ID, new_request_id

OURS = re.compile(r"/(?:control|console|auth|\.well-known|livez|readyz|metrics)(?:/.*)?", re.DOTALL)
"""Paths that are ours; every other one is MLflow's."""

DESCRIPTION = """\
Countersign stands in front of MLflow. A protected alias moves only through an approved *promotion*.
Sign in at [/auth/sign-in](/auth/sign-in), or send an access token: `Authorization: Bearer <token>`. Errors are RFC 9457
problems.
"""


def create_app(settings: Settings) -> Application:
    """The gateway. Nothing connects before it is started."""
    return Application(settings)


class Application:
    """Switches, and lends each request an id that is logged and answered as ``X-Request-Id``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._gateway: Gateway | None = None
        self._control = describe()
        # Once in a process: its metrics are of the whole process.
        Instrumentator(
            excluded_handlers=["/livez", "/readyz", "/metrics"], should_instrument_requests_inprogress=True
        ).instrument(self._control)
        self._ours: ASGIApp = self._control
        self._resolving: Resolving | None = None
        self.is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        assert self._gateway is not None  # the server starts the lifespan first
        assert self._resolving is not None
        is_of_resolving = scope["path"] in PATHS and scope.get("method") in METHODS and not self.is_draining
        if is_of_resolving and (answer := self._resolving.at_once(scope)):
            status, headers, body = answer
            headers = [*headers, (b"x-request-id", new_request_id().encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        is_ours = OURS.fullmatch(scope["path"])
        if scope["type"] != "http":
            await self._gateway.proxy(scope, receive, send)
            return
        shown_id = new_request_id()
        request_id = shown_id.encode()
        REQUEST_ID.set(shown_id)

        async def send_with_id(event: Event) -> None:
            if event["type"] == "http.response.start":
                event["headers"] = [*event.get("headers", ()), (b"x-request-id", request_id)]
                if self.is_draining:
                    event["headers"].append((b"connection", b"close"))
            await send(event)

        if is_of_resolving:
            await self._resolving.directly(scope, receive, send_with_id, self._answer)
        elif is_ours:
            await self._answer(scope, receive, send_with_id)
        else:
            await self._gateway.proxy(scope, receive, send_with_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is ours, with all that browsers need."""
        await self._ours(scope, bounded(receive), send)

    def begin_to_drain(self) -> None:
        """The server stops in a moment: every answer closes its connection, and ``/readyz`` says 503."""
        self.is_draining = True
        if self._gateway:
            self._gateway.services.health.is_stopping = True

    def drain(self) -> None:
        """Answer whoever waits for a change now: the server stops, and waits for open requests."""
        if self._gateway:
            self._gateway.changes.end_waits()
            self._gateway.services.following.end()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._open():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with open_gateway(self._settings) as gateway:
            self._control.state.services = gateway.services
            self._resolving = Resolving(self._control, gateway.services)
            readable = ReadableAnswers(self._resolving, self._settings.public_url)
            self._ours = ProtectiveHeaders(CrossOriginAccess(readable, gateway.origins))
            self._gateway = gateway
            _spare_the_collector()
            yield


def _spare_the_collector() -> None:
    """Leave what was imported and built out of every later garbage collection, and collect less often.

    Half a million objects that never go away were looked through while requests waited: with 256 connections that was
    a third of the CPU, and a p99 of 233 ms instead of 75 (measured with a static upstream).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def describe() -> FastAPI:
    """What is ours, as an application without services: it can say what it would answer (``openapi()``)."""
    # Swagger UI from this process: the browser of an approver may not reach a CDN.
    app = FastAPIOffline(
        title="Countersign",
        version="1",
        description=DESCRIPTION,
        openapi_url="/control/v1/openapi.json",
        docs_url="/control/docs",
        static_url="/control/docs/assets",
        redoc_url=None,
        redirect_slashes=False,
    )
    control = APIRouter(prefix="/control/v1", responses=PROBLEM_RESPONSES)
    for part in (
        promotions,
        checks,
        comments,
        reviews,
        rollouts,
        storage_events,
        delegations,
        aliases,
        break_glass,
        resolution,
        downloads,
        deployments,
        deliveries,
        endpoints,
        policies,
        records,
        happenings,
        grants,
        permissions,
        principals,
        sessions,
        tokens,
    ):
        control.include_router(part.router)
    app.include_router(control)
    app.include_router(operations.router, responses=PROBLEM_RESPONSES)
    app.include_router(auth.router)
    app.include_router(oauth.router)
    app.include_router(consent.router)
    app.include_router(console.router)
    install_problem_handlers(app)
    return app
