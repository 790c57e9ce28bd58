"""From a request that may pass to MLflow's answer: its body, a place at one of MLflow's workers, the way there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from app.domain.errors import UpstreamNotReached
from app.domain.routes import Route
from app.ports import Assertion
from app.proxy.admission import Admission
from app.proxy.bodies import IN_MEMORY, SpooledBody, whole
from app.proxy.exchange import Exchange
from app.proxy.forwarding import Chunks, UpstreamRequest
from app.proxy.headers import declared_length, forwarded, inward, without
from app.proxy.judged_again import JudgedAgain
from app.proxy.judging import Judgement
from app.proxy.plans import ExchangeLimits, Plan

Ask = Callable[[], Awaitable[object]]
"""Asks the guard of a route, if it has one; raises the refusal."""


class Carrier:
    """Carries requests to MLflow and answers back.

    Args:
        admission: shares MLflow's workers among requests.
        assertion: how MLflow knows that it is us, and for whom we ask.
        public_url: the address callers use.
        limits: what callers may send.
    """

    def __init__(self, admission: Admission, assertion: Assertion, *, public_url: str, limits: ExchangeLimits) -> None:
        self._admission = admission
        self._assertion = assertion
        self._forwarded = forwarded(public_url)
        self._limits = limits

    async def carry(self, exchange: Exchange, route: Route, plan: Plan, judgement: Judgement, guard: Ask) -> None:
        """Ask MLflow and pass its answer on.

        Args:
            exchange: the request.
            route: what it matched.
            plan: how requests of that route are passed on.
            judgement: what was understood of it.
            guard: asked when time has passed between the judgement and the deed; and the first time for a file.

        Raises:
            Overloaded, TooManyRequests: no place was free in time. UpstreamUnavailable: MLflow does not answer.
            AnswerBroken: its answer ended early. TooLarge, TooSlow: the caller's body.
        """
        headers = inward(exchange.scope, self._forwarded)
        if exchange.workspace_header is not None:
            headers.append(("x-mlflow-workspace", exchange.workspace_header))
        if plan.rewrite or judgement.is_read:
            headers = without(headers, "accept-encoding")
        if judgement.body is not None:
            headers = [*without(headers, "content-type"), ("content-type", "application/json")]
        body, length = await self._body(exchange, plan, judgement, guard)
        if not plan.is_upload:
            exchange.inbound.watch()

        def request() -> UpstreamRequest:
            # Asserted when it is sent: what was asserted before the body came or a place was free may be too old.
            return UpstreamRequest(
                route.method,
                judgement.target,
                [*headers, *self._assertion.headers(exchange.principal, judgement.judged)],
                body,
                timeout_s=plan.timeout_s,
                content_length=length,
                rewrite=plan.rewrite,
                protective=plan.protective,
            )

        try:
            await self._ask(exchange, plan, request, guard)
        finally:
            if isinstance(body, SpooledBody):
                body.close()

    async def _body(
        self, exchange: Exchange, plan: Plan, judgement: Judgement, guard: Ask
    ) -> tuple[bytes | Chunks | None, int | None]:
        """The body for MLflow, and its length where the client library does not know it.

        While a caller sends its body the world may change: the guard is asked when all of it is there.
        """
        if judgement.body is not None:
            return judgement.body, None
        declared = declared_length(exchange.headers) if exchange.has_body else 0
        body: bytes | SpooledBody
        if not plan.is_upload:
            if declared == 0:
                return None, None
            body = await whole(exchange.inbound, limit=self._limits.body, declared=declared)
        elif declared is not None and declared <= IN_MEMORY:
            body = await exchange.inbound.read(IN_MEMORY)
        else:
            await guard()
            return JudgedAgain(exchange.inbound, declared, guard), declared
        await guard()
        return body, body.length if isinstance(body, SpooledBody) else None

    async def _ask(self, exchange: Exchange, plan: Plan, request: Callable[[], UpstreamRequest], guard: Ask) -> None:
        """Ask a worker that has room; if it turns out to be away, another one, until there is none."""
        while True:
            place = await self._admission.admit(plan.lane, exchange.caller)
            try:
                if place.waited and not plan.is_upload:
                    await guard()
                upstream = place.worker.upstream
                await upstream.forward(request(), exchange.inbound, exchange.answer, began=place.began)
            except UpstreamNotReached:
                place.not_reached()
            else:
                return
            finally:
                place.release()
