"""The deployer's HTTP application: takes calls, answers at once, works in the background."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import httpx
import structlog
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from countersign_ray_serve.calls import take, understand
from countersign_ray_serve.problems import Problem
from countersign_ray_serve.reconciler import Reconciler
from countersign_ray_serve.reporter import Reporter
from countersign_ray_serve.reports import status_of
from countersign_ray_serve.serve_api import RayUnreachable, ServeApi
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import StateStore

MAX_CALL_BYTES = 256 * 1024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Deployer:
    """The running parts."""

    store: StateStore
    ray: ServeApi
    reconciler: Reconciler
    reporter: Reporter


def create_app(settings: Settings, store: StateStore) -> FastAPI:  # noqa: C901  # four routes and their errors
    """The application. It owns ``store`` from here on and closes it at the end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(settings, store) as app.state.deployer:
            yield

    app = FastAPI(title="Countersign deployer for Ray Serve", lifespan=lifespan, openapi_url=None)
    app.add_exception_handler(Problem, _show_problem)

    @app.post("/v1/deployments")
    async def call(request: Request) -> Response:
        deployer: Deployer = request.app.state.deployer
        wanted = understand(await _body(request), request.headers, settings)
        answer = await take(wanted, deployer.store, settings)
        if answer.accepted:
            deployer.reconciler.wake()
            deployer.reporter.wake()
        return JSONResponse(answer.body, answer.status)

    @app.get("/v1/deployments/{deployment_id}")
    async def show(request: Request, deployment_id: str) -> Response:
        _authorise(request, settings)
        deployer: Deployer = request.app.state.deployer
        for resource in deployer.store.snapshot().resources.values():
            if resource.deployment_id == deployment_id:
                status = status_of(settings, resource, deployer.reconciler.last.apps)
                return JSONResponse(status.model_dump(mode="json"))
        raise Problem(HTTPStatus.NOT_FOUND, "No such deployment.")

    @app.get("/livez")
    async def live() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    async def ready(request: Request) -> Response:
        deployer: Deployer = request.app.state.deployer
        try:
            version = await deployer.ray.version()
        except RayUnreachable as error:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        if trouble := deployer.reconciler.last.trouble:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, trouble[1])
        return JSONResponse({"status": "ok", "ray_version": version})

    return app


@asynccontextmanager
async def _running(settings: Settings, store: StateStore) -> AsyncIterator[Deployer]:
    """The parts, with both loops running; they end at once, since all they must know is saved."""
    async with AsyncExitStack() as stack:
        stack.callback(store.close)
        ray = await stack.enter_async_context(ServeApi(settings))
        client = await stack.enter_async_context(httpx.AsyncClient(follow_redirects=False))
        reporter = Reporter(settings, store, client)
        reconciler = Reconciler(settings, store, ray, client, reporter.wake)
        tasks = [asyncio.create_task(reconciler.run()), asyncio.create_task(reporter.run())]
        try:
            yield Deployer(store, ray, reconciler, reporter)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _body(request: Request) -> bytes:
    """The body, up to the limit; a longer one is refused before it is read to its end."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_CALL_BYTES:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A call has at most {MAX_CALL_BYTES} bytes.")
    return bytes(body)


def _authorise(request: Request, settings: Settings) -> None:
    if settings.read_token is None:  # then we listen on loopback only
        return
    expected = f"Bearer {settings.read_token.get_secret_value()}"
    if not hmac.compare_digest(request.headers.get("authorization", "").encode(), expected.encode()):
        raise Problem(HTTPStatus.UNAUTHORIZED, "A valid bearer token is needed.")


async def _show_problem(_: Request, problem: Exception) -> Response:
    if not isinstance(problem, Problem):  # registered for Problem only
        raise problem
    if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("call.refused", status=int(problem.status), detail=problem.detail)
    return problem.response()
