"""Builds what an operator's command needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.adapters.clock import SystemClock
from app.adapters.postgres.unit_of_work import Database
from app.bootstrap.governance import policies_of
from app.domain.grants import grants_of_roles
from app.domain.roles import Role
from app.services.configuration import Configuration
from app.services.explaining import Explaining
from app.services.policies import Policies
from app.services.recording import AuditTrail


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
        policies = policies_of(database, clock)
        configuration = Configuration(work, clock, policies, grants)
        yield Operator(configuration, policies, AuditTrail(work, clock), Explaining(work, grants))
    finally:
        await database.close()
