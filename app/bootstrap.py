"""Composition root: builds adapters and services once, from settings. The only importer of adapters beside services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial

import structlog
from prometheus_client import Counter, Histogram

from app.adapters.assertions import OURSELVES, GatewayAssertion
from app.adapters.calendar import RecurrenceCalendar
from app.adapters.clock import SystemClock
from app.adapters.expressions import CelExpressions
from app.adapters.identity_file import read_trusted
from app.adapters.lenient_yaml import load_or_nothing
from app.adapters.mlflow_registry import MlflowRegistry
from app.adapters.model_signatures import ModelSignatures
from app.adapters.object_store import ObjectStores
from app.adapters.oidc import TrustedIssuers
from app.adapters.oidc.relying_party import OidcRelyingParty
from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.freshness import IdentityFreshness
from app.adapters.postgres.unit_of_work import Database
from app.adapters.sealing import AesSealer
from app.adapters.secrets import Secrets
from app.adapters.webhook_sender import WebhookSender
from app.adapters.webhook_signatures import StandardWebhooks
from app.domain.access import Principal
from app.domain.admission import Limits
from app.domain.discovery import Discovery
from app.domain.errors import CountersignError, Forbidden, NotAuthenticated
from app.domain.grants import DEFAULT_WORKSPACE, grants_of_roles
from app.domain.lanes import Lane
from app.domain.problems import problem_of
from app.domain.roles import Role
from app.domain.routes import Route
from app.domain.sessions import Lifetimes, cookies_of
from app.ports import Clock
from app.proxy import Admission, ExchangeLimits, Proxy, Sizes, Upstream, Watch
from app.proxy.limited import Limited
from app.routers.browser_pages import PagesForBrowsers
from app.routers.pages import asset_address
from app.routers.services import Services
from app.services.advancing import Advancing
from app.services.aliases import Aliases
from app.services.applying import Applying
from app.services.attributing import Attributing
from app.services.authentication import Authentication
from app.services.callbacks import Callbacks
from app.services.cases import Cases
from app.services.checks import Checks
from app.services.comments import Comments
from app.services.configuration import Configuration
from app.services.contributing import Contributing, ContributionsNoted
from app.services.delegations import Delegations
from app.services.deliveries import Deliveries
from app.services.deployments import Deployments
from app.services.drifts import Drifts
from app.services.events import Events
from app.services.evidence import Evidence
from app.services.examining import Examining
from app.services.explaining import Explaining
from app.services.granting import GrantBook, PresentGrants
from app.services.grants import Grants
from app.services.guarding import RegistryGuard
from app.services.health import Health
from app.services.holders import AliasHoldersInMlflow
from app.services.lifecycle import Lifecycle
from app.services.logins import Logins
from app.services.measuring import Measuring
from app.services.owning import Owning
from app.services.pinning import Pinning
from app.services.policies import Policies
from app.services.principals import Noticing, Principals
from app.services.promotions import Promotions
from app.services.reach import Reach
from app.services.reconciling import Reconciling
from app.services.recording import AuditTrail, topic_of
from app.services.resolution import Resolver
from app.services.reviews import Reviews
from app.services.sessions import Sessions
from app.services.sign_in import Provider, SignIn
from app.services.sweeping import Sweeping
from app.services.throttling import Throttle
from app.services.token_exchange import TokenExchange
from app.services.tokens import Tokens
from app.settings import Settings
from app.telemetry import DENIALS, PROXY_REQUESTS, PROXY_SECONDS

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Gateway:
    """What one gateway process serves."""

    proxy: Proxy
    services: Services
    changes: PostgresChanges
    origins: frozenset[str]
    """Whose scripts may call us (CORS)."""


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What one worker process runs."""

    database: Database
    advancing: Advancing
    deliveries: Deliveries
    sweeping: Sweeping
    reconciling: Reconciling


@asynccontextmanager
async def open_gateway(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Gateway]:
    """Everything a gateway needs, closed in reverse order at the end."""
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url.get_secret_value())
        stack.push_async_callback(database.close)
        assertion = _assertion(settings)
        registry = MlflowRegistry(settings.upstream_urls, assertion, has_workspaces=settings.workspaces)
        stack.push_async_callback(registry.close)
        trusted = read_trusted(settings)
        clock, secrets, work = clock or SystemClock(), Secrets(), database.unit_of_work
        issuers = TrustedIssuers(trusted.issuers, clock)
        stack.push_async_callback(issuers.close)
        providers = []
        for each in trusted.issuers:
            if each.sign_in:
                party = OidcRelyingParty(each, clock)
                stack.push_async_callback(party.close)
                providers.append(Provider(each, party))
        changes = PostgresChanges(settings.database_url.get_secret_value())
        changes.start()
        stack.push_async_callback(changes.close)
        freshness = IdentityFreshness(settings.database_url.get_secret_value(), changes)
        freshness.start()
        stack.push_async_callback(freshness.close)
        admission = _admission(settings)
        for worker in admission.workers:
            stack.push_async_callback(worker.upstream.close)
        watch = Watch(admission, headers=partial(assertion.headers, OURSELVES))
        watch.start()
        stack.push_async_callback(watch.close)

        operators_grants = grants_of_roles(settings.roles)
        contributing = Contributing(work, clock)
        governance = _governance(settings, database, registry, clock, contributing)
        promotions = Promotions(
            work,
            changes,
            clock,
            pinning=governance.pinning,
            measuring=governance.measuring,
            examining=governance.examining,
            lifecycle=governance.lifecycle,
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
        reach = Reach(
            registry,
            work,
            clock,
            artifacts_destination=settings.artifacts_destination,
            has_workspaces=settings.workspaces,
        )
        deployments = Deployments(work, clock)
        audit = AuditTrail(work, clock)
        refusals = Throttle(settings.sign_in_rate)
        lifetimes = Lifetimes(
            idle=timedelta(seconds=settings.session_idle_s), absolute=timedelta(seconds=settings.session_lifetime_s)
        )
        sessions = Sessions(
            work,
            clock,
            lifetimes=lifetimes,
            providers={provider.name: provider.trusted.issuer for provider in providers},
        )
        book = GrantBook(work, freshness, operators_grants)
        tokens = Tokens(work, clock, longest_days=settings.token_days, most=settings.tokens_per_person)
        stack.push_async_callback(tokens.close)
        clients = trusted.clients
        authentication = Authentication(
            issuers=issuers,
            tokens=tokens,
            sessions=sessions,
            book=book,
            freshness=freshness,
            audit=audit,
            refusals=refusals,
            clock=clock,
            public_url=settings.public_url,
            cookie=cookies_of(settings.public_url).session,
            noticed=Noticing(work),
        )
        services = Services(
            authentication=authentication,
            promotions=promotions,
            checks=Checks(
                work,
                clock,
                pinning=governance.pinning,
                measuring=governance.measuring,
                lifecycle=governance.lifecycle,
            ),
            comments=Comments(work, clock),
            reviews=Reviews(work, clock, lifecycle=governance.lifecycle),
            delegations=Delegations(work, clock),
            aliases=Aliases(work, registry),
            drifts=Drifts(work),
            events=Events(work, changes),
            resolver=Resolver(work, registry, changes, artifacts_destination=settings.artifacts_destination),
            policies=_policies(database, clock),
            deployments=deployments,
            callbacks=Callbacks(deployments, secrets, StandardWebhooks()),
            deliveries=Deliveries(work, WebhookSender(), secrets, deployments, clock),
            audit=audit,
            health=Health(
                {
                    "database": database.check_alive,
                    "mlflow": partial(_check_mlflow, registry, admission),
                    "identity_provider": issuers.check_alive,
                },
                {"mlflow": admission.note},
            ),
            pages=PagesForBrowsers(settings.public_url),
            public_url=settings.public_url,
            sign_in=SignIn(
                work,
                clock,
                providers=providers,
                lifetimes=lifetimes,
                public_url=settings.public_url,
                refusals_per_minute=settings.sign_in_rate,
            ),
            sessions=sessions,
            grants=Grants(work, clock, settings=operators_grants, experiment_of=partial(_experiment_of, registry)),
            principals=Principals(work, clock),
            explaining=Explaining(work, operators_grants),
            token_days=settings.token_days,
            tokens=tokens,
            logins=Logins(
                work,
                clock,
                clients=clients,
                lifetime=timedelta(seconds=settings.login_lifetime_s),
                attempts=Throttle(settings.sign_in_rate),
            ),
            exchange=TokenExchange(work, clock, issuers=issuers, tokens=tokens, public_url=settings.public_url),
            discovery=Discovery(settings.public_url, [each.issuer for each in trusted.issuers if each.accepts_tokens]),
            refusals=refusals,
        )
        proxy = Proxy(
            admission=admission,
            assertion=assertion,
            public_url=settings.public_url,
            authenticate=services.authentication.authenticate,
            guard=ContributionsNoted(guard, contributing),
            denied=_DenialRecorder(services.audit),
            observe=_observe,
            pages=services.pages,
            limits=ExchangeLimits(
                json_body=settings.max_json_body,
                body=settings.max_body,
                idle_s=settings.client_idle_s,
                upstream_s=settings.upstream_timeout_s,
                upstream_s_of=settings.upstream_timeouts,
            ),
            openings=settings.open_routes,
            script=asset_address("account-link.js") if providers else None,
            limited=partial(
                _limited,
                reach,
                Owning(work, clock, reach),
                contributing,
                Attributing(work, registry, clock),
                settings,
            ),
        )
        with suppress(CountersignError):  # a database that is away for a moment is no reason not to start
            if await services.grants.nobody_administers():
                _log.warning("nobody_administers", hint="set COUNTERSIGN_ROLES, or `countersign apply` a Grant")
        yield Gateway(proxy, services, changes, clients.origins | frozenset(settings.allowed_origins))


@asynccontextmanager
async def open_worker(settings: Settings, clock: Clock | None = None) -> AsyncIterator[WorkerServices]:
    """Everything a worker needs, closed in reverse order at the end."""
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url.get_secret_value())
        stack.push_async_callback(database.close)
        registry = MlflowRegistry(settings.upstream_urls, _assertion(settings), has_workspaces=settings.workspaces)
        stack.push_async_callback(registry.close)
        sender = WebhookSender()
        stack.push_async_callback(sender.close)
        clock, work = clock or SystemClock(), database.unit_of_work
        deployments = Deployments(work, clock)
        governance = _governance(settings, database, registry, clock, Contributing(work, clock))
        applying = Applying(
            work,
            registry,
            clock,
            pinning=governance.pinning,
            measuring=governance.measuring,
            public_url=settings.public_url,
        )
        advancing = Advancing(
            work,
            clock,
            pinning=governance.pinning,
            measuring=governance.measuring,
            examining=governance.examining,
            lifecycle=governance.lifecycle,
            applying=applying,
        )
        promotions = Promotions(
            work,
            PostgresChanges(settings.database_url.get_secret_value()),  # not started: nobody waits for a change here
            clock,
            pinning=governance.pinning,
            measuring=governance.measuring,
            examining=governance.examining,
            lifecycle=governance.lifecycle,
        )
        yield WorkerServices(
            database=database,
            advancing=advancing,
            deliveries=Deliveries(work, sender, Secrets(), deployments, clock),
            sweeping=Sweeping(work, deployments, clock),
            reconciling=Reconciling(work, registry, clock, promotions),
        )


@dataclass(frozen=True, slots=True)
class Operator:
    """What an operator's command needs: the database and nothing else."""

    configuration: Configuration
    policies: Policies
    audit: AuditTrail
    explaining: Explaining


@asynccontextmanager
async def open_operator(
    database_url: str, roles: Mapping[Role, Sequence[str]] | None = None
) -> AsyncIterator[Operator]:
    """Args: roles: the operator's own grants, if they are known (``COUNTERSIGN_ROLES``)."""
    database = Database(database_url)
    grants = grants_of_roles(roles or {})
    try:
        clock, work = SystemClock(), database.unit_of_work
        policies = _policies(database, clock)
        configuration = Configuration(work, clock, policies, grants)
        yield Operator(configuration, policies, AuditTrail(work, clock), Explaining(work, grants))
    finally:
        await database.close()


@dataclass(frozen=True, slots=True)
class Governance:
    """What gateway and worker judge promotions with."""

    pinning: Pinning
    measuring: Measuring
    examining: Examining
    lifecycle: Lifecycle


def _governance(
    settings: Settings, database: Database, registry: MlflowRegistry, clock: Clock, contributing: Contributing
) -> Governance:
    work, store, destination = database.unit_of_work, ObjectStores(), settings.artifacts_destination
    cases = Cases(
        RecurrenceCalendar(clock),
        PresentGrants(grants_of_roles(settings.roles)),
        barred=contributing.barred,
    )
    return Governance(
        pinning=Pinning(work, registry, artifacts_destination=destination),
        measuring=Measuring(work, store, clock, topic_of=topic_of),
        examining=Examining(
            facts=Evidence(registry, store, load_or_nothing, artifacts_destination=destination),
            expressions=CelExpressions(),
            signatures=ModelSignatures(settings.sigstore_trust_file),
            store=store,
            clock=clock,
        ),
        lifecycle=Lifecycle(cases, clock),
    )


def _policies(database: Database, clock: Clock) -> Policies:
    return Policies(database.unit_of_work, clock, expressions=CelExpressions(), calendar=RecurrenceCalendar(clock))


def _assertion(settings: Settings) -> GatewayAssertion:
    secret = settings.assertion_secret
    return GatewayAssertion(
        secret.get_secret_value() if secret else None, SystemClock(), remote_user=settings.upstream_remote_user
    )


async def _experiment_of(registry: MlflowRegistry, workspace: str, name: str) -> str | None:
    """The id of an experiment that somebody may own."""
    found = await registry.experiment_named(name, None if workspace == DEFAULT_WORKSPACE else workspace)
    # Some databases find `Fraud` by `fraud`: that is another name to grants.
    return found.id if found and found.name == name else None


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
    return Limited(
        reach, owning, contributing, attributing, sealer, routes=routes, has_workspaces=settings.workspaces
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
