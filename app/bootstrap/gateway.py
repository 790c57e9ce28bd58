"""Builds a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import structlog

from app.adapters.clock import SystemClock
from app.adapters.mlflow_registry import MlflowRegistry
from app.adapters.object_store import ObjectStores
from app.adapters.object_store.lending import S3Lending
from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.leases import ResolverLease
from app.adapters.postgres.unit_of_work import Database
from app.adapters.webhook_signatures import StandardWebhooks
from app.bootstrap.door import open_admission, open_door
from app.bootstrap.governance import assertion_of, governance_of, policies_of, promotions_of, secrets_of
from app.bootstrap.identity import open_identity
from app.domain.errors import CountersignError
from app.domain.grants import DEFAULT_WORKSPACE, grants_of_roles
from app.ports import Clock
from app.proxy import Admission, Proxy
from app.routers.browser_pages import PagesForBrowsers
from app.routers.resolution import written
from app.routers.services import Services
from app.services.aliases import Aliases
from app.services.callbacks import Callbacks
from app.services.calling import Calling
from app.services.checks import Checks
from app.services.comments import Comments
from app.services.contributing import Contributing
from app.services.delegations import Delegations
from app.services.deliveries import Deliveries
from app.services.deployments import Deployments
from app.services.downloads import Downloads
from app.services.drifts import Drifts
from app.services.endpoints import Endpoints
from app.services.events import Events
from app.services.explaining import Explaining
from app.services.following import Following
from app.services.grants import Grants
from app.services.health import Health
from app.services.inventory import Inventory
from app.services.principals import Principals
from app.services.reach import Reach
from app.services.recording import UNGOVERNED_MOVES, AuditTrail
from app.services.resolution import Resolver
from app.services.resolution_memory import ResolutionMemory
from app.services.reviews import Reviews
from app.services.rolling_out import RollingOut
from app.services.rollouts import Rollouts
from app.services.storage_events import StorageEvents
from app.settings import Settings

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Gateway:
    """What one gateway process serves."""

    proxy: Proxy
    services: Services
    changes: PostgresChanges
    origins: frozenset[str]
    """Whose scripts may call us (CORS)."""


@asynccontextmanager
async def open_gateway(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Gateway]:
    """Everything a gateway needs, closed in reverse order at the end."""
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url.get_secret_value())
        stack.push_async_callback(database.close)
        assertion = assertion_of(settings)
        registry = MlflowRegistry(settings.upstream_urls, assertion, has_workspaces=settings.workspaces)
        stack.push_async_callback(registry.close)
        clock, secrets, work = clock or SystemClock(), secrets_of(settings), database.unit_of_work
        changes = PostgresChanges(settings.database_url.get_secret_value())
        changes.start()
        stack.push_async_callback(changes.close)
        audit, pages = AuditTrail(work, clock), PagesForBrowsers(settings.public_url)
        identity = await open_identity(stack, settings, database, changes, clock, audit)
        admission = open_admission(stack, settings, assertion)
        contributing = Contributing(work, clock)
        governance = governance_of(settings, database, registry, clock, contributing)
        promotions = promotions_of(governance, database, changes, clock)
        reach = Reach(
            registry,
            work,
            clock,
            artifacts_destination=settings.artifacts_destination,
            has_workspaces=settings.workspaces,
        )
        proxy = open_door(
            stack,
            settings,
            work,
            registry,
            clock,
            reach=reach,
            assertion=assertion,
            admission=admission,
            promotions=promotions,
            contributing=contributing,
            identity=identity,
            audit=audit,
            pages=pages,
        )
        calling = Calling(clock, public_url=settings.public_url)
        rolling_out = RollingOut(clock, calling)
        deployments, operators_grants = Deployments(work, clock, rolling_out), grants_of_roles(settings.roles)
        resolver = Resolver(work, registry, reach, storage=settings.storage)
        lease = ResolverLease(settings.database_url.get_secret_value(), changes)
        resolutions = ResolutionMemory(resolver.look_up, lease, written)
        following = Following(resolutions)
        stack.callback(following.end)
        changes.hear(UNGOVERNED_MOVES, partial(_moves, resolutions))
        lease.start(resolutions.forget)
        stack.push_async_callback(lease.close)
        services = Services(
            authentication=identity.authentication,
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
            storage_events=StorageEvents(work, clock),
            delegations=Delegations(work, clock),
            aliases=Aliases(work, registry),
            drifts=Drifts(work),
            events=Events(work, changes),
            resolver=resolver,
            resolutions=resolutions,
            following=following,
            downloads=Downloads(
                work,
                resolver,
                ObjectStores(settings.artifacts_destination),
                S3Lending(role_arn=settings.download_role_arn, public_endpoint=settings.download_endpoint_url),
                clock,
                roots=[settings.artifacts_destination, *settings.artifact_roots],
                longest_s=settings.download_longest_s,
            ),
            policies=policies_of(database, clock),
            deployments=deployments,
            rollouts=Rollouts(work, rolling_out, governance.lifecycle.cases),
            inventory=Inventory(work, calling, clock),
            callbacks=Callbacks(deployments, secrets, StandardWebhooks()),
            deliveries=Deliveries(work, clock, public_url=settings.public_url),
            endpoints=Endpoints(work, clock, secrets=secrets, networks=settings.webhook_networks),
            audit=audit,
            health=Health(
                {
                    "database": database.check_alive,
                    "mlflow": partial(_check_mlflow, registry, admission),
                    "identity_provider": identity.check_alive,
                },
                {"mlflow": admission.note},
            ),
            pages=pages,
            public_url=settings.public_url,
            sign_in=identity.sign_in,
            sessions=identity.sessions,
            grants=Grants(work, clock, settings=operators_grants, experiment_of=partial(_experiment_of, registry)),
            principals=Principals(work, clock),
            explaining=Explaining(work, operators_grants),
            token_days=settings.token_days,
            tokens=identity.tokens,
            logins=identity.logins,
            exchange=identity.exchange,
            discovery=identity.discovery,
            refusals=identity.refusals,
        )
        with suppress(CountersignError):  # a database that is away for a moment is no reason not to start
            if await services.grants.nobody_administers():
                _log.warning("nobody_administers", hint="set COUNTERSIGN_ROLES, or `countersign apply` a Grant")
        origins = identity.clients.origins | frozenset(settings.allowed_origins)
        yield Gateway(proxy, services, changes, origins)


def _moves(resolutions: ResolutionMemory, said: str) -> None:
    """MLflow is about to move an alias that nothing governs."""
    workspace, _, model = said.partition("/")
    resolutions.hold_off((workspace, model))


async def _experiment_of(registry: MlflowRegistry, workspace: str, name: str) -> str | None:
    """The id of an experiment that somebody may own."""
    found = await registry.experiment_named(name, None if workspace == DEFAULT_WORKSPACE else workspace)
    # Some databases find `Fraud` by `fraud`: that is another name to grants.
    return found.id if found and found.name == name else None


async def _check_mlflow(registry: MlflowRegistry, admission: Admission) -> None:
    """It answers us, and callers are let through to it: that may be known a moment later."""
    await registry.check_alive()
    admission.check_alive()
