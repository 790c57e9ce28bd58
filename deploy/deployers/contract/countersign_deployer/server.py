"""The HTTP application of a deployer: takes calls, answers at once, works in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, Protocol, TypeVar

import httpx
import structlog
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from countersign_deployer.calls import Answer, authenticate, take, take_all, understand
from countersign_deployer.contract import MOST_BYTES, Deployment
from countersign_deployer.problems import Problem
from countersign_deployer.puller import Puller
from countersign_deployer.reporter import Reporter
from countersign_deployer.reports import status_of
from countersign_deployer.settings import DeployerSettings
from countersign_deployer.signatures import get_content, sign
from countersign_deployer.state import State, StateStore, StateT

log = structlog.get_logger()

StateT_contra = TypeVar("StateT_contra", bound=State[Any], contravariant=True)


class Backend(Protocol[StateT_contra]):
    """What a deployer is, beside its messages: what a call changes, and the loop that makes it true."""

    def accept(self, state: StateT_contra, wanted: Deployment, now: float) -> None:
        """Make ``wanted`` the desired state, within the transaction; it is newer than what is there.

        Raises:
            Problem: it cannot be followed (422).
        """

    def wake(self) -> None:
        """The desired state has changed."""

    async def run(self) -> None:
        """Make the serving system what the state says, for ever; cancelled at the end."""

    async def ready(self) -> Mapping[str, object]:
        """What ``/readyz`` tells.

        Raises:
            Problem: the serving system does not answer, or may not be written to (503).
        """


@dataclass(frozen=True, slots=True)
class Signals:
    """What a backend may say. ``reports_owed``: there may be something to send. ``drifted``: what is served is not
    what the state says, so ask the gateway what it should be.
    """

    reports_owed: Callable[[], None]
    drifted: Callable[[], None]


OpenBackend = Callable[[StateStore[StateT], Signals], AbstractAsyncContextManager[Backend[StateT]]]


def create_app(
    settings: DeployerSettings, store: StateStore[StateT], open_backend: OpenBackend[StateT], *, title: str
) -> FastAPI:
    """The application. It owns ``store`` from here on and closes it at the end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(settings, store, open_backend) as app.state.deployer:
            yield

    app = FastAPI(title=title, lifespan=lifespan, openapi_url=None)
    app.add_exception_handler(Problem, _show_problem)

    @app.post("/v1/deployments")
    async def call(request: Request) -> Response:
        deployer: _Deployer[StateT] = request.app.state.deployer
        wanted = understand(await _body(request), request.headers, settings)
        try:
            answer = await deployer.take(wanted)
        except Problem as problem:
            if problem.status == HTTPStatus.CONFLICT:  # one of us is wrong about this generation
                deployer.puller.wake()
            raise
        return JSONResponse(answer.body, answer.status)

    @app.get("/v1/deployments/{deployment_id}")
    async def show(request: Request, deployment_id: str) -> Response:
        path = request.scope["raw_path"].decode("ascii", "replace")
        authenticate(get_content(path).encode(), request.headers, settings)
        for resource in store.snapshot().resources.values():
            if resource.deployment_id == deployment_id:
                body = status_of(settings, resource).model_dump_json()
                signed = sign(request.headers["webhook-id"], body, settings.callback_secret.get_secret_value())
                return Response(body, headers=signed, media_type="application/json")
        raise Problem(HTTPStatus.NOT_FOUND, "No such deployment.")

    @app.get("/livez")
    async def live(request: Request) -> Response:
        deployer: _Deployer[StateT] = request.app.state.deployer
        deployer.must_live()
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    async def ready(request: Request) -> Response:
        deployer: _Deployer[StateT] = request.app.state.deployer
        return JSONResponse({"status": "ok", **await deployer.ready()})

    return app


class _Deployer(Generic[StateT]):
    """The running parts."""

    def __init__(self, settings: DeployerSettings, store: StateStore[StateT], client: httpx.AsyncClient) -> None:
        self._store = store
        self.reporter = Reporter(settings, store, client)
        self.puller = Puller(settings, client, self.take_all)
        self.backend: Backend[StateT]
        self.tasks: list[asyncio.Task[None]] = []

    async def take(self, wanted: Deployment) -> Answer:
        """Take what a call wants."""
        answer = await take(wanted, self._store, self.backend.accept)
        self._wake_for([answer])
        return answer

    async def take_all(self, items: Sequence[Deployment]) -> Sequence[Answer | Problem]:
        """Take what is new of all that is wanted."""
        outcomes = await take_all(items, self._store, self.backend.accept)
        self._wake_for(outcomes)
        return outcomes

    def _wake_for(self, outcomes: Sequence[Answer | Problem]) -> None:
        if any(isinstance(each, Answer) and each.accepted for each in outcomes):
            self.backend.wake()
            self.reporter.wake()

    async def ready(self) -> Mapping[str, object]:
        """What the backend tells of itself.

        Raises:
            Problem: what is taken could not be saved, or it cannot be followed (503).
        """
        if self._store.trouble:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, self._store.trouble)
        return await self.backend.ready()

    def must_live(self) -> None:
        """That every loop goes on.

        Raises:
            Problem: one has ended (503); only a new process begins it again.
        """
        if any(task.done() for task in self.tasks):
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "A part of this deployer has ended; the log says why.")


@asynccontextmanager
async def _running(
    settings: DeployerSettings, store: StateStore[StateT], open_backend: OpenBackend[StateT]
) -> AsyncIterator[_Deployer[StateT]]:
    """The parts, with their loops running; they end at once, since all they must know is saved."""
    async with AsyncExitStack() as stack:
        stack.callback(store.close)
        client = await stack.enter_async_context(httpx.AsyncClient(follow_redirects=False))
        deployer = _Deployer(settings, store, client)
        signals = Signals(reports_owed=deployer.reporter.wake, drifted=deployer.puller.wake)
        deployer.backend = await stack.enter_async_context(open_backend(store, signals))
        loops = (deployer.backend.run(), deployer.reporter.run(), deployer.puller.run())
        tasks = deployer.tasks = [asyncio.create_task(loop) for loop in loops]
        for task in tasks:
            task.add_done_callback(_tell_end)
        try:
            yield deployer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _tell_end(task: asyncio.Task[None]) -> None:
    """A loop that ends by itself is a mistake, and must not end unheard."""
    if not task.cancelled():
        log.critical("loop.ended", exc_info=task.exception())


async def _body(request: Request) -> bytes:
    """The body, up to the limit; a longer one is refused before it is read to its end."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A call has at most {MOST_BYTES} bytes.")
    return bytes(body)


async def _show_problem(_: Request, problem: Exception) -> Response:
    if not isinstance(problem, Problem):  # registered for Problem only
        raise problem
    if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("call.refused", status=int(problem.status), detail=problem.detail)
    return problem.response()
