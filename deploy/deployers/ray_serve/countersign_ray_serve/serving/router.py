"""The router: owns ``/`` and sends each model's requests to the version that its route names. Runs inside Ray.

Routes come as ``user_config``, which Serve hands to running replicas: no restart, no lost request. Nothing may fail in
``reconfigure``, for Serve then stops the replica. No MLflow here, so that it starts in two seconds.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

WARM_UP_S = 5

_log = logging.getLogger("ray.serve")


class TooLarge(Exception):
    """The request body is larger than allowed."""


class Router:
    """One replica of the router. A plain ``__call__``: behind FastAPI, ``GET /<model>`` would be a redirect."""

    def __init__(self, timeout_s: float, max_request_bytes: int) -> None:
        self._timeout_s = timeout_s
        self._max_request_bytes = max_request_bytes
        self._routes: dict[str, str] = {}  # model to application
        self._handles: dict[str, DeploymentHandle[Any]] = {}

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new routes. A new version's handle is warmed up first, so that its first request does not wait."""
        routes = {model: str(route["app"]) for model, route in user_config["routes"].items()}
        await asyncio.gather(*(self._warm_up(app) for app in set(routes.values()) - self._handles.keys()))
        self._routes = routes
        self._handles = {app: handle for app, handle in self._handles.items() if app in routes.values()}

    async def __call__(self, request: Request) -> Response:
        model = request.scope["path"].removeprefix(request.scope.get("root_path", "")).strip("/")
        app = self._routes.get(model)
        if app is None:
            return refusal(404, "RESOURCE_DOES_NOT_EXIST", f"No version of the model '{model}' is deployed here.")
        if request.method not in {"GET", "HEAD", "POST"}:
            return refusal(405, "BAD_REQUEST", "Use GET (is it up?) or POST (predict).", {"Allow": "GET, HEAD, POST"})
        try:
            async with asyncio.timeout(self._timeout_s):
                return await (self._predict(app, request) if request.method == "POST" else self._ready(app))
        except TooLarge:
            return refusal(413, "BAD_REQUEST", f"The body is larger than {self._max_request_bytes} bytes.")
        except TimeoutError:
            return refusal(504, "TEMPORARILY_UNAVAILABLE", "The model did not answer in time.")
        except BackPressureError:
            return refusal(
                503, "TEMPORARILY_UNAVAILABLE", "Too many requests wait for this model.", {"Retry-After": "1"}
            )
        except (DeploymentUnavailableError, RayServeException, RayError):
            return refusal(503, "TEMPORARILY_UNAVAILABLE", "The model is not available now.", {"Retry-After": "1"})

    async def _predict(self, app: str, request: Request) -> Response:
        body = await self._body(request)
        handle = await self._handle(app)
        status, text, version = await handle.predict.remote(body)
        return Response(text, status, {"X-Model-Version": version}, media_type="application/json")

    async def _ready(self, app: str) -> Response:
        handle = await self._handle(app)
        version = await handle.ready.remote()
        return PlainTextResponse("ok", headers={"X-Model-Version": version})

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_request_bytes:
                raise TooLarge
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


def build_router(args: dict[str, Any]) -> Application:
    """What Serve calls with the application's ``args``."""
    deployment = serve.deployment(name="Router")(Router)
    return deployment.bind(args["timeout_s"], args["max_request_bytes"])
