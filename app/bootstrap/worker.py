"""Builds a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from app.adapters.clock import SystemClock
from app.adapters.mlflow_registry import MlflowRegistry
from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.unit_of_work import Database
from app.adapters.secrets import Secrets
from app.adapters.webhook_sender import WebhookSender
from app.bootstrap.governance import assertion_of, governance_of, promotions_of
from app.ports import Clock
from app.services.advancing import Advancing
from app.services.applying import Applying
from app.services.contributing import Contributing
from app.services.deliveries import Deliveries
from app.services.deployments import Deployments
from app.services.reconciling import Reconciling
from app.services.sweeping import Sweeping
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What one worker process runs."""

    database: Database
    advancing: Advancing
    deliveries: Deliveries
    sweeping: Sweeping
    reconciling: Reconciling


@asynccontextmanager
async def open_worker(settings: Settings, clock: Clock | None = None) -> AsyncIterator[WorkerServices]:
    """Everything a worker needs, closed in reverse order at the end."""
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url.get_secret_value())
        stack.push_async_callback(database.close)
        registry = MlflowRegistry(settings.upstream_urls, assertion_of(settings), has_workspaces=settings.workspaces)
        stack.push_async_callback(registry.close)
        sender = WebhookSender()
        stack.push_async_callback(sender.close)
        clock, work = clock or SystemClock(), database.unit_of_work
        deployments = Deployments(work, clock)
        governance = governance_of(settings, database, registry, clock, Contributing(work, clock))
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
        # Not started: nobody waits for a change here.
        changes = PostgresChanges(settings.database_url.get_secret_value())
        promotions = promotions_of(governance, database, changes, clock)
        yield WorkerServices(
            database=database,
            advancing=advancing,
            deliveries=Deliveries(work, sender, Secrets(), deployments, clock),
            sweeping=Sweeping(work, deployments, clock),
            reconciling=Reconciling(work, registry, clock, promotions),
        )
