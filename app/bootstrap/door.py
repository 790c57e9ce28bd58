"""What stands between callers and MLflow: guard, limits, lines, and the proxy itself."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AsyncExitStack
from functools import cache, partial

from prometheus_client import Counter, Histogram

from app.adapters.assertions import OURSELVES, GatewayAssertion
from app.adapters.mlflow_registry import MlflowRegistry
from app.adapters.sealing import AesSealer
from app.bootstrap.identity import IdentityServices
from app.domain.access import Principal
from app.domain.admission import Limits
from app.domain.errors import CountersignError, Forbidden, NotAuthenticated
from app.domain.lanes import Lane
from app.domain.problems import problem_of
from app.domain.routes import Route
from app.ports import Clock
from app.proxy import Admission, ExchangeLimits, Proxy, Sizes, Upstream, Watch
from app.proxy.limited import Limited
from app.routers.browser_pages import PagesForBrowsers
from app.routers.pages import asset_address
from app.services.attributing import Attributing
from app.services.contributing import Contributing, ContributionsNoted
from app.services.guarding import RegistryGuard
from app.services.holders import AliasHoldersInMlflow
from app.services.owning import Owning
from app.services.promotions import Promotions
from app.services.reach import Reach
from app.services.recording import AuditTrail, UnitOfWorkFactory
from app.settings import Settings
from app.telemetry import DENIALS, PROXY_REQUESTS, PROXY_SECONDS


def open_door(
    stack: AsyncExitStack,
    settings: Settings,
    work: UnitOfWorkFactory,
    registry: MlflowRegistry,
    clock: Clock,
    *,
    reach: Reach,
    assertion: GatewayAssertion,
    admission: Admission,
    promotions: Promotions,
    contributing: Contributing,
    identity: IdentityServices,
    audit: AuditTrail,
    pages: PagesForBrowsers,
) -> Proxy:
    """What stands between callers and MLflow; closed with the stack."""
    destination = settings.artifacts_destination
    holders = AliasHoldersInMlflow(work, registry, clock, artifacts_destination=destination)
    stack.push_async_callback(holders.close)
    guard = RegistryGuard(
        work, registry, promotions, holders, public_url=settings.public_url, artifacts_destination=destination
    )
    return Proxy(
        admission=admission,
        assertion=assertion,
        public_url=settings.public_url,
        authenticate=identity.authentication.authenticate,
        guard=ContributionsNoted(guard, contributing),
        denied=_DenialRecorder(audit),
        observe=_observe,
        pages=pages,
        limits=ExchangeLimits(
            json_body=settings.max_json_body,
            body=settings.max_body,
            idle_s=settings.client_idle_s,
            upstream_s=settings.upstream_timeout_s,
            upstream_s_of=settings.upstream_timeouts,
        ),
        openings=settings.open_routes,
        script=asset_address("account-link.js") if identity.has_sign_in else None,
        limited=partial(
            _limited, reach, Owning(work, clock, reach), contributing, Attributing(work, registry, clock), settings
        ),
    )


def open_admission(stack: AsyncExitStack, settings: Settings, assertion: GatewayAssertion) -> Admission:
    """The lines in front of MLflow, and the watch that looks whether it answers; closed with the stack."""
    admission = _admission(settings)
    for worker in admission.workers:
        stack.push_async_callback(worker.upstream.close)
    watch = Watch(admission, headers=partial(assertion.headers, OURSELVES))
    watch.start()
    stack.push_async_callback(watch.close)
    return admission


def _limited(
    reach: Reach,
    owning: Owning,
    contributing: Contributing,
    attributing: Attributing,
    settings: Settings,
    routes: Collection[Route],
) -> Limited:
    # What only the processes of this installation know; the tokens hold nothing but a place in a list.
    secret = settings.assertion_secret.get_secret_value() if settings.assertion_secret else ""
    sealer = AesSealer(f"{secret}\n{settings.database_url.get_secret_value()}")
    return Limited(reach, owning, contributing, attributing, sealer, routes=routes, has_workspaces=settings.workspaces)


def _admission(settings: Settings) -> Admission:
    return Admission(
        [Upstream(url) for url in settings.upstream_urls],
        limits=Limits(
            settings.admission_per_worker,
            {
                Lane.NESTED: settings.admission_nested_per_worker,
                Lane.STREAM: settings.admission_streams_per_worker,
            },
        ),
        sizes=Sizes(settings.admission_queue, settings.admission_share, settings.admission_deadline_s),
    )


@cache
def _counter(route_class: str, decision: str, status: int) -> Counter:
    # Finding a metric by its labels costs more than counting: once for each combination is enough.
    return PROXY_REQUESTS.labels(route_class=route_class, decision=decision, status=str(status))


@cache
def _histogram(route_class: str) -> Histogram:
    return PROXY_SECONDS.labels(route_class=route_class)


def _observe(route_class: str, decision: str, status: int, seconds: float) -> None:
    _counter(route_class, decision, status).inc()
    _histogram(route_class).observe(seconds)


class _DenialRecorder:
    """Counts every refusal and puts those of a known principal into the audit log."""

    def __init__(self, audit: AuditTrail) -> None:
        self._audit = audit

    async def __call__(
        self, principal: Principal | None, route: Route | None, method: str, path: str, error: CountersignError
    ) -> None:
        if isinstance(error, Forbidden | NotAuthenticated):
            DENIALS.labels(problem=problem_of(error).slug).inc()
        if isinstance(error, Forbidden):
            details = {"route_class": route.route_class.value} if route else {}
            await self._audit.record_denial(principal, what=f"{method} {path}", error=error, details=details)
