"""Drifts that are known: opened and ended in the words of the audit log and the events, and listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import structlog

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may
from app.domain.audit import SYSTEM_WORKER, Entry
from app.domain.drifts import Drift, DriftEnd
from app.domain.events import EventType
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.promotions import Kind, Promotion
from app.services.recording import UnitOfWorkFactory, alias_topic, emit
from app.services.resources import readable

_log = structlog.stdlib.get_logger(__name__)


class Drifts:
    def __init__(self, unit_of_work: UnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def page(
        self,
        principal: Principal,
        *,
        is_open: bool | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> Sequence[Drift]:
        """Newest first, those before the key (found_at, id) of the last one seen: what the principal may read."""
        async with self._unit_of_work() as work:
            among = None
            if not may(principal, Permission.PROMOTIONS_READ):
                among = await readable(work, principal, Permission.PROMOTIONS_READ, await work.drifts.aliases())
            return await work.drifts.page(is_open=is_open, among=among, before=before, limit=limit)


def tell_of(work: UnitOfWork, drift: Drift, action: str, *, at: datetime, **details: str | int | bool | None) -> None:
    """Put what happened to a drift into the audit log, and make it an event if there is one of that name."""
    said = {
        "model": drift.key.model,
        "alias": drift.key.alias,
        **({} if drift.key.workspace == DEFAULT_WORKSPACE else {"workspace": drift.key.workspace}),
        "expected_version": drift.expected.version,
        "seen_version": drift.seen.version,
        "message": drift.message,
        **({"promotion": drift.holding} if drift.holding else {}),
        **details,
    }
    work.record(Entry(at, SYSTEM_WORKER, action, drift.id, said))
    if action in frozenset(EventType):
        kind = EventType(action)
        known = {**said, "drift": drift.id, "promotion": drift.holding, "ended_by": drift.ended_by}
        emit(work, kind, subject=drift.id, key=drift.key, at=at, known=known)
    work.announce(alias_topic(drift.key))


async def end(
    work: UnitOfWork, drift: Drift, how: DriftEnd, *, at: datetime, promotion: Promotion | None = None
) -> None:
    """A drift is over. Part of the caller's transaction, with the alias locked."""
    over = replace(
        drift, ended_at=at, ended_how=how, ended_by=promotion.id if promotion else None, next_attempt_at=None
    )
    if await work.drifts.save(over):
        by = {"by": promotion.id} if promotion else {}
        tell_of(work, over, "alias.drift_ended", at=at, how=how.value, **by)
        _log.info("alias_drift_ended", drift=drift.id, alias=str(drift.key), how=how.value, **by)


async def end_by(work: UnitOfWork, promotion: Promotion) -> None:
    """A promotion was applied: what its alias was before does not matter any more. Part of the caller's transaction."""
    drift = await work.drifts.find_open(promotion.key)
    if drift:
        how = DriftEnd.RESTORED if promotion.kind is Kind.RESTORE else DriftEnd.PROMOTION
        await end(work, drift, how, at=promotion.updated_at, promotion=promotion)
