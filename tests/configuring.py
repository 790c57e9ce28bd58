"""The services that write policies, targets and grants, on a test's database."""

from __future__ import annotations

from collections.abc import Iterable

from app.adapters.calendar import RecurrenceCalendar
from app.adapters.clock import SystemClock
from app.adapters.expressions import CelExpressions
from app.adapters.postgres.unit_of_work import Database
from app.adapters.promql import PromqlParser
from app.domain.grants import Grant
from app.services.configuration import Configuration
from app.services.policies import Policies


def policies_of(database: Database) -> Policies:
    clock = SystemClock()
    return Policies(
        database.unit_of_work,
        clock,
        expressions=CelExpressions(),
        queries=PromqlParser(),
        calendar=RecurrenceCalendar(clock),
    )


def configuration_of(database: Database, settings: Iterable[Grant] = ()) -> Configuration:
    return Configuration(database.unit_of_work, SystemClock(), policies_of(database), settings)
