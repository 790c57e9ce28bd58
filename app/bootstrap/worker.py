"""Builds a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from app.adapters.clock import SystemClock
from app.adapters.lenient_yaml import load_or_nothing
from app.adapters.messenger import Messenger
from app.adapters.mlflow_registry import MlflowRegistry
from app.adapters.notifier import Notifier
from app.adapters.object_store import ObjectStores
from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.engine import FOR_QUEUES
from app.adapters.postgres.leases import ResolverLeases
from app.adapters.postgres.presence import PostgresPresences
from app.adapters.postgres.unit_of_work import Database
from app.adapters.prometheus import Prometheus
from app.adapters.webhook_sender import Asker, WebhookSender
from app.adapters.webhook_signatures import StandardWebhooks
from app.bootstrap.governance import assertion_of, governance_of, promotions_of, secrets_of
from app.domain.verifying import Rhythm
from app.ports import Clock
from app.services.advancing import Advancing
from app.services.applying import Applying
from app.services.calling import Calling
from app.services.contributing import Contributing
from app.services.deployments import Deployments
from app.services.disabling import Disabling
from app.services.dispatching import Dispatcher, Limits
from app.services.fanning_out import FanningOut
from app.services.gating import Gating
from app.services.going_back import GoingBack
from app.services.looking_at_targets import LookingAtTargets
from app.services.manifests import Manifests
from app.services.noticing import NewVersions
from app.services.receivers import Receivers
from app.services.reconciling import Reconciling
from app.services.rolling_out import RollingOut
from app.services.sweeping import Sweeping
from app.services.verifying import Verifying
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What one worker process runs."""

    database: Database
    advancing: Advancing
    going_back: GoingBack
    fanning_out: FanningOut
    dispatcher: Dispatcher
    sweeping: Sweeping
    reconciling: Reconciling
    verifying: Verifying
    new_versions: NewVersions
    looking_at_targets: LookingAtTargets


@asynccontextmanager
async def open_worker(settings: Settings, clock: Clock | None = None) -> AsyncIterator[WorkerServices]:
    """Everything a worker needs, closed in reverse order at the end."""
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url.get_secret_value())
        stack.push_async_callback(database.close)
        registry = MlflowRegistry(settings.upstream_urls, assertion_of(settings), has_workspaces=settings.workspaces)
        stack.push_async_callback(registry.close)
        proxy = settings.webhook_proxy.get_secret_value() if settings.webhook_proxy else None
        webhooks = WebhookSender(ca_file=settings.webhook_ca_file, proxy=proxy)
        sender = Messenger(webhooks, Notifier(settings.public_url))
        stack.push_async_callback(sender.close)
        clock, work = clock or SystemClock(), database.unit_of_work
        rolling_out = RollingOut(clock, Calling(clock, public_url=settings.public_url))
        deployments = Deployments(work, clock, rolling_out)
        governance = governance_of(settings, database, registry, clock, Contributing(work, clock))
        leases = ResolverLeases(settings.database_url.get_secret_value())
        leases.start()
        stack.push_async_callback(leases.close)
        store = ObjectStores(settings.artifacts_destination)
        manifests = Manifests(work, store, clock, load_or_nothing)
        rhythm = Rhythm(timedelta(seconds=settings.verify_s), timedelta(seconds=settings.verify_read_s))
        applying = Applying(
            work,
            registry,
            clock,
            pinning=governance.pinning,
            measuring=governance.measuring,
            forgotten=leases,
            manifests=manifests,
            rolling_out=rolling_out,
        )
        advancing = Advancing(
            work,
            clock,
            pinning=governance.pinning,
            measuring=governance.measuring,
            examining=governance.examining,
            lifecycle=governance.lifecycle,
            applying=applying,
            rolling_out=rolling_out,
        )
        prometheus = Prometheus(secrets_of(settings), ca_file=settings.webhook_ca_file)
        stack.push_async_callback(prometheus.close)
        changes = PostgresChanges(settings.database_url.get_secret_value())
        changes.start()
        stack.push_async_callback(changes.close)
        # Jobs may use up the connections of theirs; what is sent must not wait for them.
        sending = Database(settings.database_url.get_secret_value(), FOR_QUEUES)
        stack.push_async_callback(sending.close)
        outbox = sending.unit_of_work
        promotions = promotions_of(governance, database, changes, clock)
        asker = Asker(ca_file=settings.webhook_ca_file, proxy=proxy)
        stack.push_async_callback(asker.close)
        looking = LookingAtTargets(
            work,
            asker,
            secrets_of(settings),
            StandardWebhooks(),
            deployments,
            Calling(clock, public_url=settings.public_url),
            clock,
            every=timedelta(seconds=settings.inventory_s),
        )
        yield WorkerServices(
            database=database,
            advancing=advancing,
            going_back=GoingBack(
                work,
                clock,
                rolling_out=rolling_out,
                gating=Gating(work, prometheus, clock),
                applying=applying,
                promotions=promotions,
            ),
            fanning_out=FanningOut(outbox, changes, clock, public_url=settings.public_url),
            dispatcher=Dispatcher(
                outbox,
                PostgresPresences(settings.database_url.get_secret_value()),
                changes,
                sender,
                Receivers(outbox, secrets_of(settings), clock),
                Disabling(outbox, deployments, clock),
                clock,
                limits=Limits(per_receiver=settings.deliveries_per_receiver),
            ),
            sweeping=Sweeping(
                work, deployments, clock, looking=looking, deliveries_kept=timedelta(days=settings.deliveries_days)
            ),
            reconciling=Reconciling(work, registry, clock, promotions),
            verifying=Verifying(work, store, clock, manifests, rhythm=rhythm),
            new_versions=NewVersions(work, registry, clock),
            looking_at_targets=looking,
        )
