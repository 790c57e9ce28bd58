"""Composition root: builds adapters and services once, from settings. The only importer of adapters beside services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial

from prometheus_client import Counter, Histogram

from app.adapters.assertions import OURSELVES, GatewayAssertion
from app.adapters.clock import SystemClock
from app.adapters.mlflow_registry import MlflowRegistry
from app.adapters.object_store import ObjectStores
from app.adapters.oidc import OidcProvider, TrustedIssuer
from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.unit_of_work import Database
from app.adapters.secrets import Secrets
from app.adapters.webhook_sender import WebhookSender
from app.adapters.webhook_signatures import StandardWebhooks
from app.domain.access import Principal
from app.domain.admission import Limits
from app.domain.errors import CountersignError, Forbidden, NotAuthenticated
from app.domain.lanes import Lane
from app.domain.problems import problem_of
from app.domain.routes import Route
from app.proxy import Admission, ExchangeLimits, Proxy, Sizes, Upstream, Watch
from app.routers.services import Services
from app.services.aliases import Aliases
from app.services.applying import Applying
from app.services.authentication import Authentication
from app.services.callbacks import Callbacks
from app.services.configuration import Configuration
from app.services.deliveries import Deliveries
from app.services.deployments import Deployments
from app.services.guarding import RegistryGuard
from app.services.health import Health
from app.services.holders import AliasHoldersInMlflow
from app.services.promotions import Promotions
from app.services.recording import AuditTrail
from app.services.resolution import Resolver
from app.services.sweeping import Sweeping
from app.settings import Settings
from app.telemetry import DENIALS, PROXY_REQUESTS, PROXY_SECONDS


@dataclass(frozen=True, slots=True)
class Gateway:
    """What one gateway process serves."""

    proxy: Proxy
    services: Services
    changes: PostgresChanges


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What one worker process runs."""

    database: Database
    applying: Applying
    deliveries: Deliveries
    sweeping: Sweeping


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """Everything a gateway needs, closed in reverse order at the end."""
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url.get_secret_value())
        stack.push_async_callback(database.close)
        assertion = _assertion(settings)
        registry = MlflowRegistry(settings.upstream_urls, assertion)
        stack.push_async_callback(registry.close)
        provider = OidcProvider(_trusted_issuer(settings))
        stack.push_async_callback(provider.close)
        changes = PostgresChanges(settings.database_url.get_secret_value())
        changes.start()
        stack.push_async_callback(changes.close)
        admission = _admission(settings)
        for worker in admission.workers:
            stack.push_async_callback(worker.upstream.close)
        watch = Watch(admission, headers=partial(assertion.headers, OURSELVES))
        watch.start()
        stack.push_async_callback(watch.close)

        clock, secrets, work = SystemClock(), Secrets(), database.unit_of_work
        promotions = Promotions(
            work, registry, ObjectStores(), changes, clock, artifacts_destination=settings.artifacts_destination
        )
        holders = AliasHoldersInMlflow(work, registry, clock, artifacts_destination=settings.artifacts_destination)
        stack.push_async_callback(holders.close)
        guard = RegistryGuard(
            work,
            registry,
            promotions,
            holders,
            public_url=settings.public_url,
            artifacts_destination=settings.artifacts_destination,
        )
        deployments = Deployments(work, clock)
        services = Services(
            authentication=Authentication(provider),
            promotions=promotions,
            aliases=Aliases(work, registry),
            resolver=Resolver(work, registry, changes, artifacts_destination=settings.artifacts_destination),
            configuration=Configuration(work, clock),
            deployments=deployments,
            callbacks=Callbacks(deployments, secrets, StandardWebhooks()),
            deliveries=Deliveries(work, WebhookSender(), secrets, deployments, clock),
            audit=AuditTrail(work, clock),
            health=Health(
                {
                    "database": database.check_alive,
                    "mlflow": partial(_check_mlflow, registry, admission),
                    "identity_provider": provider.check_alive,
                },
                {"mlflow": admission.note},
            ),
            public_url=settings.public_url,
            oauth_metadata={
                "resource": settings.public_url,
                "authorization_servers": [settings.oidc_issuer],
                "bearer_methods_supported": ["header"],
                "resource_name": "Countersign",
            },
        )
        proxy = Proxy(
            admission=admission,
            assertion=assertion,
            public_url=settings.public_url,
            authenticate=services.authentication.authenticate,
            guard=guard,
            denied=_DenialRecorder(services.audit),
            observe=_observe,
            limits=ExchangeLimits(
                json_body=settings.max_json_body,
                body=settings.max_body,
                idle_s=settings.client_idle_s,
                upstream_s=settings.upstream_timeout_s,
                upstream_s_of=settings.upstream_timeouts,
            ),
            openings=settings.open_routes,
        )
        yield Gateway(proxy, services, changes)


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncIterator[WorkerServices]:
    """Everything a worker needs, closed in reverse order at the end."""
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url.get_secret_value())
        stack.push_async_callback(database.close)
        registry = MlflowRegistry(settings.upstream_urls, _assertion(settings))
        stack.push_async_callback(registry.close)
        sender = WebhookSender()
        stack.push_async_callback(sender.close)
        clock, work = SystemClock(), database.unit_of_work
        deployments = Deployments(work, clock)
        yield WorkerServices(
            database=database,
            applying=Applying(work, registry, ObjectStores(), clock, public_url=settings.public_url),
            deliveries=Deliveries(work, sender, Secrets(), deployments, clock),
            sweeping=Sweeping(work, deployments, clock),
        )


@asynccontextmanager
async def open_operator(database_url: str) -> AsyncIterator[tuple[Configuration, AuditTrail]]:
    """What an operator's command needs: the database and nothing else."""
    database = Database(database_url)
    try:
        clock = SystemClock()
        yield Configuration(database.unit_of_work, clock), AuditTrail(database.unit_of_work, clock)
    finally:
        await database.close()


def _assertion(settings: Settings) -> GatewayAssertion:
    secret = settings.assertion_secret
    return GatewayAssertion(
        secret.get_secret_value() if secret else None, SystemClock(), remote_user=settings.upstream_remote_user
    )


def _trusted_issuer(settings: Settings) -> TrustedIssuer:
    return TrustedIssuer(
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        algorithms=tuple(settings.oidc_algorithms),
        groups_claim=settings.oidc_groups_claim,
        username_claim=settings.oidc_username_claim,
        leeway_s=settings.oidc_leeway_s,
        roles=settings.roles,
        service_groups=frozenset(settings.service_groups),
    )


async def _check_mlflow(registry: MlflowRegistry, admission: Admission) -> None:
    """It answers us, and callers are let through to it: that may be known a moment later."""
    await registry.check_alive()
    admission.check_alive()


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
