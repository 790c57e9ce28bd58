"""The order in which a request is looked at: canonicalise, classify, authenticate, authorise, guard, forward."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import structlog

from app.domain.access import Principal, authorise
from app.domain.canonical import (
    JsonObject,
    canonical_artifact_path,
    canonical_path,
    canonical_query,
    judged_parameters,
    parse_message,
    require,
    serialise,
    serialise_query,
)
from app.domain.errors import (
    CountersignError,
    Forbidden,
    InvalidInput,
    RouteRefused,
    Unavailable,
    UnknownRoute,
    Unsupported,
)
from app.domain.routes import BodyKind, Decision, Done, Guard, Match, Message, Route, Ruling, match
from app.domain.verdicts import Deny
from app.proxy.asgi import ClientDisconnected, Headers, Inbound, Outbound, Receive, Scope, Send, refuse_websocket
from app.proxy.capabilities import without_presigned
from app.proxy.errors import answer_error
from app.proxy.forwarding import AnswerBroken, Upstream, UpstreamRequest
from app.proxy.headers import check_json, check_origin, has_body, inward, one, without

_log = structlog.stdlib.get_logger(__name__)

CLIENT_CLOSED = 499
"""The status that is observed when the caller went away; nobody is sent it."""

_ARTIFACT = "artifact_path"
_RENAMED = {"run_uuid": "run_id", _ARTIFACT: "path"}
"""Parameters of MLflow that a guard is asked with by another name."""


class RegistryGuard(Protocol):
    """Who knows the promotions."""

    async def check(self, guard: Guard, principal: Principal, fields: Mapping[str, str]) -> Ruling:
        """Answer the question ``guard``, asked with the canonical ``fields`` named beside it.

        Raises:
            CountersignError: the refusal, for the caller.
        """
        ...


Authenticate = Callable[[Headers], Awaitable[Principal]]
DeniedHook = Callable[[Principal | None, Route | None, str, str, CountersignError], Awaitable[None]]
"""Called with the principal and route as far as they are known, the method, the path, and the refusal."""
Observe = Callable[[str, str, int, float], None]
"""Called with the route's class and decision (``unknown`` without a route), the status, and seconds."""


@dataclass(slots=True)
class _Exchange:
    """One request and its answer, and what is known of it so far."""

    scope: Scope
    inbound: Inbound
    answer: Outbound
    path: str
    match: Match | None = None
    principal: Principal | None = None

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def headers(self) -> Headers:
        sent: Headers = self.scope["headers"]
        return sent

    @property
    def route(self) -> Route | None:
        return self.match.route if self.match else None


class Proxy:
    """An ASGI application for MLflow's paths.

    Args:
        upstream: the MLflow server; who made it closes it.
        public_url: the address callers use.
        authenticate: who sent these headers; raises ``NotAuthenticated``.
        guard: answers for the guarded routes.
        denied: is told of every refusal. If it fails the refusal stands.
        observe: is told of every exchange.
        max_json_body: bytes of a message that is judged.
    """

    def __init__(
        self,
        *,
        upstream: Upstream,
        public_url: str,
        authenticate: Authenticate,
        guard: RegistryGuard,
        denied: DeniedHook,
        observe: Observe,
        max_json_body: int,
    ) -> None:
        self._upstream = upstream
        self._public_url = public_url.rstrip("/")
        self._authenticate = authenticate
        self._guard = guard
        self._denied = denied
        self._observe = observe
        self._max_json_body = max_json_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await refuse_websocket(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"the proxy serves http, not {scope['type']}")
        started = perf_counter()
        inbound = Inbound(receive)
        exchange = _Exchange(scope, inbound, Outbound(send, before_end=inbound.close), _shown(scope["raw_path"]))
        try:
            await self._answer(exchange)
        finally:
            inbound.close()
            route = exchange.route
            self._observe(
                route.route_class if route else "unknown",
                route.decision if route else "unknown",
                exchange.answer.status or CLIENT_CLOSED,
                perf_counter() - started,
            )

    async def _answer(self, exchange: _Exchange) -> None:
        try:
            await self._serve(exchange)
        except CountersignError as error:
            await self._refuse(error, exchange)
        except AnswerBroken as error:
            # Returning without the end of the body makes the server cut the connection: the caller must not take half
            # an answer for a whole one.
            _log.warning("answer_broken", method=exchange.method, path=exchange.path, error=str(error))
        except (asyncio.CancelledError, ClientDisconnected):
            if not exchange.inbound.disconnected:
                raise
            if task := asyncio.current_task():
                task.uncancel()
        except Exception:  # noqa: BLE001 - whatever broke, MLflow's client must be able to read the answer
            _log.exception("proxy_failed", method=exchange.method, path=exchange.path)
            if not exchange.answer.started:
                failure = CountersignError("Countersign failed to handle this.")
                await answer_error(exchange.answer, failure, self._public_url)

    async def _serve(self, exchange: _Exchange) -> None:
        refusal = _classify(exchange)
        if exchange.route is None or exchange.route.decision is not Decision.PUBLIC:
            # First of all: nobody who has not said who they are learns which routes there are.
            exchange.principal = await self._authenticate(exchange.headers)
        if refusal:
            raise refusal
        assert exchange.match is not None  # else there was a refusal
        _admit(exchange.match.route, exchange.principal)
        check_origin(exchange.scope, self._public_url)
        await self._judge_and_forward(exchange, exchange.match)

    async def _judge_and_forward(self, exchange: _Exchange, match: Match) -> None:
        route = match.route
        query = canonical_query(exchange.scope["query_string"])
        judged: Mapping[str, object] = match.params
        body: bytes | None = None
        if route.message:
            judged = await self._read_message(exchange, query, route.message, match.params)
            body = serialise(judged)
        elif route.judged_query:
            judged = {**match.params, **judged_parameters(query, route.judged_query)}
        elif route.body is BodyKind.NONE and has_body(exchange.headers):
            raise InvalidInput("body", f"expected none with {route.method}")
        if route.guard and exchange.principal and await self._is_done(route.guard, exchange.principal, judged):
            await exchange.answer.answer(200, [(b"content-type", b"application/json")], b"{}")
            return
        target = match.path() + (f"?{serialise_query(query)}" if query else "")
        await self._forward(exchange, route, target, body)

    async def _read_message(
        self, exchange: _Exchange, query: list[tuple[str, str]], message: Message, params: Mapping[str, str]
    ) -> JsonObject:
        """The fields of a judged body, with those that the path gives."""
        if query:
            raise InvalidInput("query", f"expected none; {message.name} is sent in the body")
        if has_body(exchange.headers):
            check_json(exchange.headers)
        fields = parse_message(await exchange.inbound.read(self._max_json_body), message)
        for name, value in params.items():
            if fields.setdefault(name, value) != value:
                raise InvalidInput(name, "expected the same in path and body")
        require(fields, message)
        return fields

    async def _is_done(self, guard: Guard, principal: Principal, judged: Mapping[str, object]) -> bool:
        fields = {_RENAMED.get(name, name): value for name, value in judged.items() if isinstance(value, str)}
        if guard in _ARTIFACT_GUARDS:
            canonical_artifact_path(fields["path"])
        return isinstance(await self._guard.check(guard, principal, fields), Done)

    async def _forward(self, exchange: _Exchange, route: Route, target: str, judged: bytes | None) -> None:
        headers = inward(exchange.scope, self._public_url)
        body: bytes | AsyncIterator[bytes] | None = judged
        length: bytes | None = None
        if judged is not None:
            headers = [*without(headers, "content-type"), ("content-type", "application/json")]
        elif has_body(exchange.headers):
            body, length = exchange.inbound.chunks(), one(exchange.headers, b"content-length")
        if not isinstance(body, AsyncIterator):
            exchange.inbound.watch()
        rewrite = None
        if route.template.endswith("/server-info"):
            headers, rewrite = without(headers, "accept-encoding"), without_presigned
        request = UpstreamRequest(route.method, target, headers, body, int(length) if length else None)
        await self._upstream.forward(request, exchange.inbound, exchange.answer, rewrite=rewrite)

    async def _refuse(self, error: CountersignError, exchange: _Exchange) -> None:
        if not isinstance(error, Unavailable):
            _log.info("refused", method=exchange.method, path=exchange.path, error=type(error).__name__)
            try:
                await self._denied(exchange.principal, exchange.route, exchange.method, exchange.path, error)
            except Exception:  # noqa: BLE001 - a refusal stands even if nobody can be told of it
                _log.exception("denied_hook_failed", method=exchange.method, path=exchange.path)
        await answer_error(exchange.answer, error, self._public_url)


_ARTIFACT_GUARDS = {Guard.ARTIFACT_WRITE, Guard.ARTIFACT_DELETE, Guard.RUN_ARTIFACT_WRITE}


def _classify(exchange: _Exchange) -> CountersignError | None:
    """Find the route, or say what is wrong; it is not said aloud before the caller is known."""
    try:
        exchange.path = canonical_path(exchange.scope["raw_path"])
    except InvalidInput as error:
        return error
    exchange.match = match(exchange.method, exchange.path)
    if exchange.match is None or exchange.match.route.decision is Decision.ABSENT:
        return UnknownRoute(f"There is no {exchange.method} {exchange.path[:200]} here.")
    return None


def _admit(route: Route, principal: Principal | None) -> None:
    """Whether this principal may use this route at all.

    Raises:
        RouteRefused: nobody may. Forbidden: the principal may not. Unsupported: the client must do it another way.
    """
    if route.decision is Decision.REFUSE:
        raise RouteRefused(route.reason)
    if route.permission:
        verdict = authorise(principal, route.permission) if principal else Deny("Nobody was authenticated.")
        if isinstance(verdict, Deny):
            raise Forbidden(verdict.reason, permission=route.permission.value)
    if route.decision is Decision.UNSUPPORTED:
        raise Unsupported(route.reason)


def _shown(raw_path: bytes) -> str:
    """A path that may not be canonical, fit for a log."""
    return raw_path[:200].decode("ascii", "backslashreplace")
