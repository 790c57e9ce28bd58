"""The order in which a request is looked at: canonicalise, classify, authenticate, authorise, guard, admit, forward."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from time import perf_counter
from typing import Protocol

import structlog

from app.domain.access import Permission, Principal, holds_somewhere, may, require
from app.domain.canonical import canonical_path
from app.domain.errors import (
    CountersignError,
    Forbidden,
    InvalidInput,
    RouteRefused,
    Unavailable,
    UnknownRoute,
    Unsupported,
)
from app.domain.routes import Decision, Done, Forward, Guard, Matcher, Route, Ruling, routes_with
from app.ports import Assertion, BrowserPages
from app.proxy.admission import Admission
from app.proxy.asgi import ClientDisconnected, Inbound, Outbound, Receive, Scope, Send, refuse_websocket
from app.proxy.carrying import Carrier
from app.proxy.errors import ANSWERED, answer_error, closes_after
from app.proxy.exchange import Exchange
from app.proxy.forwarding import AnswerBroken
from app.proxy.headers import announces_body, check_origin
from app.proxy.judging import Judgement, judge
from app.proxy.limited import Limited
from app.proxy.plans import ExchangeLimits, plan_of

_log = structlog.stdlib.get_logger(__name__)

CLIENT_CLOSED = 499
"""The status that is observed when the caller went away; nobody is sent it."""


class RegistryGuard(Protocol):
    """Who knows the promotions."""

    async def check(self, guard: Guard, principal: Principal, fields: Mapping[str, str], workspace: str) -> Ruling:
        """Answer the question ``guard``, asked with the canonical ``fields`` named beside it, of a workspace.

        Raises:
            CountersignError: the refusal, for the caller.
        """
        ...


Authenticate = Callable[[Scope], Awaitable[Principal]]
DeniedHook = Callable[[Principal | None, Route | None, str, str, CountersignError], Awaitable[None]]
"""Called with the principal and route as far as they are known, the method, the path, and the refusal."""
Observe = Callable[[str, str, int, float], None]
"""Called with the route's class and decision (``unknown`` without a route), the status, and seconds."""


class Proxy:
    """An ASGI application for MLflow's paths, of one event loop.

    Args:
        admission: shares MLflow's workers among requests.
        assertion: how MLflow knows that it is us, and for whom we ask.
        public_url: the address callers use.
        authenticate: whose request of this scope it is; raises ``NotAuthenticated``.
        guard: answers for the guarded routes.
        denied: is told of every refusal. If it fails the refusal stands.
        observe: is told of every exchange.
        pages: what a person in a browser is answered instead of an error for programs.
        limits: what callers may send, and how long MLflow may take.
        openings: the closed routes that the operator has opened (``app/domain/routes/openings.py``).
        script: the address of ours that is added to the page of MLflow's interface, if one is.
        limited: makes what judges and answers those who may see some models and experiments only; none where
            everybody may see all or nothing.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        assertion: Assertion,
        public_url: str,
        authenticate: Authenticate,
        guard: RegistryGuard,
        denied: DeniedHook,
        observe: Observe,
        pages: BrowserPages,
        limits: ExchangeLimits,
        openings: Collection[str] = (),
        limited: Callable[[Collection[Route]], Limited] | None = None,
        script: str | None = None,
    ) -> None:
        self._public_url = public_url.rstrip("/")
        self._authenticate = authenticate
        self._guard = guard
        self._denied = denied
        self._observe = observe
        self._pages = pages
        self._limits = limits
        self._loop: asyncio.AbstractEventLoop | None = None
        self._carrier = Carrier(admission, assertion, public_url=self._public_url, limits=limits)
        routes = tuple(routes_with(openings))
        self._limited = limited(routes) if limited else None
        self._matcher = Matcher(routes)
        https = self._public_url.startswith("https:")
        self._plans = {
            (route.method, route.template): plan_of(route, limits, https=https, openings=openings, script=script)
            for route in routes
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await refuse_websocket(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"the proxy serves http, not {scope['type']}")
        started = perf_counter()
        # Asked once: Python 3.11 makes a system call to answer which loop is running.
        self._loop = self._loop or asyncio.get_running_loop()
        inbound = Inbound(receive, loop=self._loop, idle_s=self._limits.idle_s)
        exchange = Exchange(scope, inbound, Outbound(send, before_end=inbound.close), _shown(scope["raw_path"]))
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

    async def _answer(self, exchange: Exchange) -> None:
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

    async def _serve(self, exchange: Exchange) -> None:
        refusal = self._classify(exchange)
        if exchange.route is None or exchange.route.decision is not Decision.PUBLIC:
            # First of all: nobody who has not said who they are learns which routes there are.
            exchange.principal = await self._authenticate(exchange.scope)
        if refusal:
            raise refusal
        assert exchange.match is not None  # else there was a refusal
        route = exchange.match.route
        _authorise(route, exchange.principal)
        check_origin(exchange.scope, self._public_url)
        if route.answer is not None:
            await exchange.answer.answer(200, ANSWERED, route.answer.encode())
            return
        limits = None
        if self._limited is not None and exchange.principal is not None:
            self._limited.settle_workspace(exchange, route, exchange.principal)
            limits = self._limited.limits_of(exchange, route, exchange.principal)
        judgement = await judge(exchange, exchange.match, json_limit=self._limits.json_body, limits=limits)
        for permission in judgement.permissions:
            _require(permission, exchange.principal)
        plan = self._plans[route.method, route.template]
        # Nothing rests on what does not exist, and MLflow has its own words for it.
        asked_guard = None if judgement.phantoms else route.guard
        guard = partial(self._ask_guard, exchange, asked_guard, judgement.asked)
        if not plan.is_upload and isinstance(await guard(), Done):
            await exchange.answer.answer(200, ANSWERED, b"{}")
            return
        if self._limited is None or (limits is None and route.message is None and plan.creates is None):
            await self._carrier.carry(exchange, route, plan, judgement, guard)
            return

        async def carry(exchange: Exchange, judgement: Judgement) -> None:
            await self._carrier.carry(exchange, route, plan, judgement, guard)

        await self._limited.carry(exchange, route, judgement, limits, carry, plan.creates)
        if judgement.phantoms is not None and judgement.phantoms.hides:
            # Afterwards, so that the time of the answer does not tell it from what does not exist.
            await self._tell(
                Forbidden("What was asked for is hidden; it was answered as if it did not exist."), exchange
            )

    async def _ask_guard(self, exchange: Exchange, guard: Guard | None, asked: Mapping[str, str] | None) -> Ruling:
        if guard is None:
            return Forward()
        assert exchange.principal is not None  # a guarded route has a permission
        assert asked is not None  # and was judged
        return await self._guard.check(guard, exchange.principal, asked, exchange.workspace)

    def _classify(self, exchange: Exchange) -> CountersignError | None:
        """Find the route, or say what is wrong; it is not said aloud before the caller is known."""
        raw_path: bytes = exchange.scope["raw_path"]
        exchange.match = self._matcher.match_plain(exchange.method, raw_path)
        if exchange.match is None:
            try:
                exchange.path = canonical_path(raw_path)
            except InvalidInput as error:
                return error
            exchange.match = self._matcher.match(exchange.method, exchange.path)
        if exchange.match is None or exchange.match.route.decision is Decision.ABSENT:
            return UnknownRoute(f"There is no {exchange.method} {exchange.path[:200]} here.")
        return None

    async def _tell(self, error: CountersignError, exchange: Exchange) -> None:
        """Note a refusal."""
        _log.info("refused", method=exchange.method, path=exchange.path, error=type(error).__name__)
        try:
            await self._denied(exchange.principal, exchange.route, exchange.method, exchange.path, error)
        except Exception:  # noqa: BLE001 - a refusal stands even if nobody can be told of it
            _log.exception("denied_hook_failed", method=exchange.method, path=exchange.path)

    async def _refuse(self, error: CountersignError, exchange: Exchange) -> None:
        if not isinstance(error, Unavailable):
            await self._tell(error, exchange)
        is_waited_for = exchange.principal is not None and not exchange.inbound.is_read  # strangers are not
        if is_waited_for and announces_body(exchange.headers) and closes_after(error, exchange.headers):
            await exchange.inbound.discard()
        if page := self._pages.instead_of(error, exchange.scope):
            await exchange.answer.answer(page.status, [*page.headers], page.body)
            return
        await answer_error(exchange.answer, error, self._public_url)


def _authorise(route: Route, principal: Principal | None) -> None:
    """Whether this principal may use this route at all.

    Raises:
        RouteRefused: nobody may. Forbidden: the principal may not. Unsupported: the client must do it another way.
    """
    if route.decision is Decision.REFUSE:
        raise RouteRefused(route.reason)
    if route.permission:
        _require(route.permission, principal)
    if route.decision is Decision.UNSUPPORTED:
        raise Unsupported(route.reason)


def _require(permission: Permission, principal: Principal | None) -> None:
    """Return if the permission is held on everything, or somewhere: then what the request names is looked at.

    Raises:
        InsufficientScope, Forbidden: it is not.
    """
    if principal is None:
        raise Forbidden("Nobody was authenticated.", permission=permission.value)
    if not may(principal, permission) and not holds_somewhere(principal, permission):
        require(principal, permission)


def _shown(raw_path: bytes) -> str:
    """A path that may not be canonical, fit for a log."""
    return raw_path[:200].decode("ascii", "backslashreplace")
