"""The router: owns ``/`` and deals each model's requests out to its versions by their weights. Runs inside Ray.

Routes come as ``user_config``, which Serve hands to running replicas: no restart, no lost request. Nothing may fail in
``reconfigure``, for Serve then stops the replica. No MLflow here, so that it starts in two seconds.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.util import metrics
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

WARM_UP_S = 5
ALL = 100  # weights are percentages
VERSION = "X-Model-Version"
PROBE = "X-Countersign-Probe"
CLIENT_LEFT = 499  # of no answer; what Ray's own metrics call it

_log = logging.getLogger("ray.serve")


class TooLarge(Exception):
    """The request body is larger than allowed."""


class TooSlow(Exception):
    """The request body did not come in time."""


class TooMany(Exception):
    """A version holds so many requests that others would find no place."""


@dataclass(frozen=True, slots=True)
class Share:
    """One loaded version of a model, and the percentage of the requests that it gets."""

    app: str
    version: str
    weight: int


def dealt(shares: Sequence[Share], point: int) -> Share | None:
    """The share that a point from 0 to 99 falls on; ``None`` where the weights leave the rest to nobody.

    Points are drawn anew for each request: dealing in turns would put clients that ask in turns always on one version.
    """
    for share in shares:
        if point < share.weight:
            return share
        point -= share.weight
    return None


class Router:
    """One replica of the router. A plain ``__call__``: behind FastAPI, ``GET /<model>`` would be a redirect.

    Args:
        timeout_s: for a prediction, and for a body to come.
        max_request_bytes: of a body.
        slots: how many requests Serve lets in at a time.
    """

    def __init__(self, timeout_s: float, max_request_bytes: int, slots: int) -> None:
        self._timeout_s = timeout_s
        self._max_request_bytes = max_request_bytes
        self._slots = slots
        self._held = Counter[str]()  # by application
        self._routes: dict[str, list[Share]] = {}  # by model
        self._handles: dict[str, DeploymentHandle[Any]] = {}  # by application
        self._probe_token = ""
        self._allow_pins = False
        self._id = _replica_id()
        # Here, and not where predictions are made: a replica that hangs or has died counts nothing. Ray's counter, and
        # not Serve's, which would put the router's name where the version's application belongs.
        self._counted = metrics.Counter(
            "countersign_answers", "Predictions asked of a version, by the HTTP status.", ("application", "status")
        )

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new routes. A new version's handle is warmed up first, so that its first request does not wait."""
        routes = {
            model: [Share(str(s["app"]), str(s["version"]), int(s["weight"])) for s in route["shares"]]
            for model, route in user_config["routes"].items()
        }
        named = {share.app for shares in routes.values() for share in shares}
        await asyncio.gather(*(self._warm_up(app) for app in named - self._handles.keys()))
        self._routes = routes
        self._probe_token = str(user_config["probe_token"])
        self._allow_pins = bool(user_config["allow_pins"])
        self._handles = {app: handle for app, handle in self._handles.items() if app in named}

    async def __call__(self, request: Request) -> Response:
        model = request.scope["path"].removeprefix(request.scope.get("root_path", "")).strip("/")
        shares = self._routes.get(model, [])
        if self._is_probe(request):
            return await self._tell(shares)
        pinned = request.headers.get(VERSION) if self._allow_pins else None
        if pinned is not None:
            shares = [Share(each.app, each.version, ALL) for each in shares if each.version == pinned]
        if not any(share.weight for share in shares):
            which = f"Version {pinned}" if pinned is not None else "No version"
            verb = "is not" if pinned is not None else "is"
            return refusal(404, "RESOURCE_DOES_NOT_EXIST", f"{which} of the model '{model}' {verb} deployed here.")
        if request.method not in {"GET", "HEAD", "POST"}:
            return refusal(405, "BAD_REQUEST", "Use GET (is it up?) or POST (predict).", {"Allow": "GET, HEAD, POST"})
        share = dealt(shares, secrets.randbelow(ALL))
        if share is None:
            message = "No version of the model is there yet for this part of the requests."
            return refusal(503, "TEMPORARILY_UNAVAILABLE", message, {"Retry-After": "1"})
        if request.method != "POST":
            return await self._asked(share.app, self._ready)
        status = 500
        try:
            response = await self._asked(share.app, lambda app: self._predict(app, request))
            status = response.status_code
        except (asyncio.CancelledError, ClientDisconnect):
            status = CLIENT_LEFT
            raise
        finally:
            self._counted.inc(tags={"application": share.app, "status": str(status)})
        return response

    async def _asked(self, app: str, ask: Callable[[str], Awaitable[Response]]) -> Response:
        """What a version answers, or why it does not."""
        try:
            with self._slot(app):
                return await ask(app)
        except TooLarge:
            return refusal(413, "BAD_REQUEST", f"The body is larger than {self._max_request_bytes} bytes.")
        except TooSlow:
            return refusal(408, "BAD_REQUEST", "The body did not come in time.")
        except TimeoutError:
            return refusal(504, "TEMPORARILY_UNAVAILABLE", "The model did not answer in time.")
        except (BackPressureError, TooMany):
            return refusal(
                503, "TEMPORARILY_UNAVAILABLE", "Too many requests wait for this model.", {"Retry-After": "1"}
            )
        except (DeploymentUnavailableError, RayServeException, RayError):
            return refusal(503, "TEMPORARILY_UNAVAILABLE", "The model is not available now.", {"Retry-After": "1"})

    @contextmanager
    def _slot(self, app: str) -> Iterator[None]:
        """Hold one of this replica's slots. A version may hold as many as are free: one that hangs gets half of them,
        two get a third each, and for another there is always something left.
        """
        if self._held[app] >= self._slots - self._held.total():
            raise TooMany
        self._held[app] += 1
        try:
            yield
        finally:
            self._held[app] -= 1
            self._held += Counter()  # forgets those that hold none

    def _is_probe(self, request: Request) -> bool:
        given = request.headers.get(PROBE)
        if given is None or not self._probe_token:
            return False
        return hmac.compare_digest(given.encode(), self._probe_token.encode())

    async def _tell(self, shares: Sequence[Share]) -> Response:
        """What this replica knows of a model, and whether each of its versions answers: the deployer's proof."""
        ready = await asyncio.gather(*(self._answers(share) for share in shares))
        told = [{**asdict(share), "ready": answers} for share, answers in zip(shares, ready, strict=True)]
        return JSONResponse({"router": self._id, "shares": told})

    async def _answers(self, share: Share) -> bool:
        try:
            async with asyncio.timeout(WARM_UP_S):
                version: str = await (await self._handle(share.app)).ready.remote()
        except Exception as error:
            _log.info("%s does not answer: %s", share.app, error)
            return False
        return version == share.version

    async def _predict(self, app: str, request: Request) -> Response:
        body = await self._body(request)
        async with asyncio.timeout(self._timeout_s):
            handle = await self._handle(app)
            status, text, version = await handle.predict.remote(body)
        return Response(text, status, {VERSION: version}, media_type="application/json")

    async def _ready(self, app: str) -> Response:
        async with asyncio.timeout(self._timeout_s):
            handle = await self._handle(app)
            version = await handle.ready.remote()
        return PlainTextResponse("ok", headers={VERSION: version})

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._max_request_bytes:
                        raise TooLarge
        except TimeoutError:
            raise TooSlow from None
        return bytes(body)

    async def _handle(self, app: str) -> DeploymentHandle[Any]:
        if app not in self._handles:
            # Asks the controller and blocks, so it must not run on the event loop.
            self._handles[app] = await asyncio.to_thread(serve.get_app_handle, app)
        return self._handles[app]

    async def _warm_up(self, app: str) -> None:
        try:
            async with asyncio.timeout(WARM_UP_S):
                await (await self._handle(app)).ready.remote()
        except Exception as error:
            # A route to an application that is not up yet answers 503 until it is.
            _log.info("the route to %s is not warm yet: %s", app, error)


def refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error in the shape MLflow's clients read."""
    return JSONResponse({"error_code": code, "message": message}, status, headers)


def _replica_id() -> str:
    return str(serve.get_replica_context().replica_id.unique_id)


def build_router(args: dict[str, Any]) -> Application:
    """What Serve calls with the application's ``args``."""
    deployment = serve.deployment(name="Router")(Router)
    return deployment.bind(args["timeout_s"], args["max_request_bytes"], args["slots"])
