"""Notices the versions that are registered in MLflow, and says so, once of each.

The gateway says it of those that it lets through (``app/services/contributing.py``), at once and by whom. What was
registered past it, or when the gateway died between MLflow's answer and its own, is found by a look at what MLflow
lists as newest. A look goes a while further back than the last one came: a version can be seen later than one that was
created after it, and clocks of several servers differ. It goes as much further back than the present, too, however far
a clock that was ahead had let the last one come. It may be repeated, and may be the last before a crash: the note that
a version is known and the event are one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import structlog

from app.adapters.postgres.noticed import named
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.events import EventType, timestamp
from app.domain.registrations import Registration
from app.ports import Clock, ModelRegistry
from app.services.recording import UnitOfWorkFactory, emit

_log = structlog.stdlib.get_logger(__name__)

FURTHER_BACK_MS = 10 * 60 * 1000
"""How much further back than the newest known version a look goes."""

KNOWN_FOR_MS = 24 * 3600 * 1000
"""How long before the last look those were registered that are still known. A clock that falls behind lets a look go as
much further back, and what is forgotten would be said again."""

SETTLED = timedelta(seconds=3)
"""A version as young as this is left to the gateway, which knows who registered it."""

AT_A_TIME = 100
"""Versions of one transaction."""


class NewVersions:
    def __init__(self, unit_of_work: UnitOfWorkFactory, registry: ModelRegistry, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._clock = clock

    async def look(self) -> None:
        """Look once at the newest versions of every workspace.

        Raises:
            UpstreamUnavailable, Unavailable: MLflow or the database went away; what was found until then is said.
        """
        for workspace in await self._registry.workspaces():
            await self._look_at(workspace)

    async def _look_at(self, workspace: str) -> None:
        async with self._unit_of_work() as work:
            looked = await work.noticed.until(workspace)
        now = self._clock.now()
        until = None if looked is None else min(looked, _milliseconds(now))
        found = await self._newest(workspace, until)
        # A clock of MLflow's that is ahead must not hide what is registered when it was put right.
        newest = min(max((each.created_at for each in found), default=0), _milliseconds(now))
        reached = max(until or 0, newest)
        if until is None:
            await self._begin(workspace, found, reached)
            return
        async with self._unit_of_work() as work:
            known = await work.noticed.since(workspace, until - FURTHER_BACK_MS)
        new = [each for each in found if named(each) not in known and not self._is_young(each, now)]
        new.sort(key=named)
        for start in range(0, len(new), AT_A_TIME):
            async with self._unit_of_work() as work:
                await notice(work, new[start : start + AT_A_TIME], at=now, by=None)
                await work.commit()
        if reached != looked:
            async with self._unit_of_work() as work:
                await work.noticed.looked(workspace, until=reached, forget_before=until - KNOWN_FOR_MS)
                await work.commit()

    async def _begin(self, workspace: str, found: Sequence[Registration], reached: int) -> None:
        """The first look: what is there already is no news."""
        async with self._unit_of_work() as work:
            for start in range(0, len(found), AT_A_TIME):
                await work.noticed.add(found[start : start + AT_A_TIME])
            await work.noticed.looked(workspace, until=reached, forget_before=reached - KNOWN_FOR_MS)
            await work.commit()
        _log.info("versions_first_seen", workspace=workspace)

    async def _newest(self, workspace: str, until: int | None) -> list[Registration]:
        """Those that may be news, newest first; MLflow is not asked for more."""
        found: list[Registration] = []
        async with aclosing(self._registry.newest_versions(workspace)) as versions:
            async for version in versions:
                until = version.created_at if until is None else until
                if version.created_at < until - FURTHER_BACK_MS:
                    break
                found.append(version)
        return found

    @staticmethod
    def _is_young(registration: Registration, now: datetime) -> bool:
        return abs(now - _moment(registration.created_at)) < SETTLED


async def notice(work: UnitOfWork, registrations: Sequence[Registration], *, at: datetime, by: str | None) -> None:
    """Say that versions were registered, of those of which it was not said yet. Part of the caller's transaction.

    Args:
        work: the transaction.
        registrations: the versions; no prompts.
        at: the present.
        by: the name of who registered them, if it is known.
    """
    for each in await work.noticed.add(registrations):
        known = {
            "version": each.version,
            "source": each.shown_source,
            "run_id": each.run_id,
            "registered_at": timestamp(_moment(each.created_at)),
            "by": by,
        }
        subject = f"{each.key.resource}/{each.version}"
        emit(work, EventType.VERSION_REGISTERED, subject=subject, key=each.key, at=at, known=known)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
