"""What gateway, worker and operator judge promotions with."""

from __future__ import annotations

from dataclasses import dataclass

from app.adapters.assertions import GatewayAssertion
from app.adapters.calendar import RecurrenceCalendar
from app.adapters.clock import SystemClock
from app.adapters.expressions import CelExpressions
from app.adapters.lenient_yaml import load_or_nothing
from app.adapters.mlflow_registry import MlflowRegistry
from app.adapters.model_signatures import ModelSignatures
from app.adapters.object_store import ObjectStores
from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.unit_of_work import Database
from app.adapters.promql import PromqlParser
from app.adapters.secrets import Secrets
from app.domain.grants import grants_of_roles
from app.ports import Clock
from app.services.cases import Cases
from app.services.contributing import Contributing
from app.services.evidence import Evidence
from app.services.examining import Examining
from app.services.granting import PresentGrants
from app.services.lifecycle import Lifecycle
from app.services.measuring import Measuring
from app.services.pinning import Pinning
from app.services.policies import Policies
from app.services.promotions import Promotions
from app.services.recording import topic_of
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Governance:
    """What gateway and worker judge promotions with."""

    pinning: Pinning
    measuring: Measuring
    examining: Examining
    lifecycle: Lifecycle


def governance_of(
    settings: Settings, database: Database, registry: MlflowRegistry, clock: Clock, contributing: Contributing
) -> Governance:
    work, store, storage = database.unit_of_work, ObjectStores(settings.artifacts_destination), settings.storage
    cases = Cases(
        RecurrenceCalendar(clock),
        PresentGrants(grants_of_roles(settings.roles)),
        barred=contributing.barred,
    )
    return Governance(
        pinning=Pinning(work, registry, storage=storage),
        measuring=Measuring(work, store, clock, topic_of=topic_of),
        examining=Examining(
            work,
            facts=Evidence(registry, store, load_or_nothing, storage=storage),
            expressions=CelExpressions(),
            signatures=ModelSignatures(settings.sigstore_trust_file),
            store=store,
            clock=clock,
        ),
        lifecycle=Lifecycle(cases, clock),
    )


def policies_of(database: Database, clock: Clock) -> Policies:
    return Policies(
        database.unit_of_work,
        clock,
        expressions=CelExpressions(),
        queries=PromqlParser(),
        calendar=RecurrenceCalendar(clock),
    )


def promotions_of(governance: Governance, database: Database, changes: PostgresChanges, clock: Clock) -> Promotions:
    """The use cases of promotions."""
    return Promotions(
        database.unit_of_work,
        changes,
        clock,
        pinning=governance.pinning,
        measuring=governance.measuring,
        examining=governance.examining,
        lifecycle=governance.lifecycle,
    )


def secrets_of(settings: Settings) -> Secrets:
    key = settings.webhook_key
    return Secrets(key.get_secret_value() if key else None)


def assertion_of(settings: Settings) -> GatewayAssertion:
    secret = settings.assertion_secret
    return GatewayAssertion(
        secret.get_secret_value() if secret else None, SystemClock(), remote_user=settings.upstream_remote_user
    )
