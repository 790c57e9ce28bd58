"""Writing down who had a hand in what the door lets through, and saying who may not approve for it.

A change of artifacts is written down before MLflow is asked, so that nothing that happens afterwards loses its author.
What MLflow gives an id is written down when it has; that somebody asks for a version, of which another person must be
able to say who registered it, is written down before as well.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

import structlog

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Principal
from app.domain.contributions import (
    CHANGES_ARTIFACTS,
    Contribution,
    Hand,
    Involved,
    asked_key,
    asked_prefix,
    folder_of,
    involved,
    rests_on,
    run_folder,
    version_key,
)
from app.domain.errors import CountersignError
from app.domain.grants import DEFAULT_WORKSPACE, fold
from app.domain.promotions import Promotion
from app.domain.registrations import is_prompt, registration_of
from app.domain.routes import Guard, Ruling
from app.ports import Clock
from app.services.guarding import RegistryGuard
from app.services.identifiers import new_id
from app.services.noticing import notice
from app.services.recording import UnitOfWorkFactory

_log = structlog.stdlib.get_logger(__name__)

REMEMBERED = 10_000
"""Hands that a process remembers having written down."""
REMEMBERED_FOR = timedelta(minutes=5)

_Known = tuple[str, str]
"""A key of artifacts, and the id of a principal."""


class Contributing:
    """See the module. One for each process: it remembers what it has written down of artifacts."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._written: OrderedDict[_Known, datetime] = OrderedDict()
        self._locks: WeakValueDictionary[_Known, asyncio.Lock] = WeakValueDictionary()

    async def changes(self, principal: Principal, guard: Guard, fields: Mapping[str, str], workspace: str) -> None:
        """Write down that somebody is about to change artifacts.

        Args:
            principal: who.
            guard: one of ``CHANGES_ARTIFACTS``.
            fields: those that the guard is asked with.
            workspace: where.
        """
        if guard is Guard.RUN_ARTIFACT_WRITE:
            key = run_folder(fields["run_id"])
        else:
            key = folder_of(fields["path"], workspace=workspace, is_deleted=guard is Guard.ARTIFACT_DELETE)
        known = (key, principal.id)
        if self._is_written(known):
            return
        # Files are sent several at once: one of them writes, the others wait for it.
        async with self._locks.setdefault(known, asyncio.Lock()):
            if self._is_written(known):
                return
            now = self._clock.now()
            async with self._unit_of_work() as work:
                await work.contributions.put(Contribution(Hand.ARTIFACT, key, principal.id, principal.name, now))
                await work.commit()
            self._written[known] = now
            self._written.move_to_end(known)
            while len(self._written) > REMEMBERED:
                self._written.popitem(last=False)

    async def asks(self, principal: Principal, creates: Hand, fields: Mapping[str, object]) -> str | None:
        """Write down that somebody is about to have MLflow create something, where that cannot wait for its id.

        MLflow may have registered a version and answer that it failed, or answer nobody.

        Args:
            principal: who.
            creates: what.
            fields: what MLflow shall be asked.

        Returns:
            what ``created`` is to be told.
        """
        if creates is not Hand.VERSION:
            return None
        now = self._clock.now()
        key = asked_key(str(fields.get("name", "")), now, new_id("ask"))
        async with self._unit_of_work() as work:
            await work.contributions.put(Contribution(Hand.VERSION_ASKED, key, principal.id, principal.name, now))
            await work.commit()
        return key

    async def created(
        self, principal: Principal, creates: Hand, answer: bytes, asked: str | None, workspace: str
    ) -> None:
        """Write down what MLflow has created. It has: a failure is logged, and changes nothing for the caller.

        Args:
            principal: who had it done.
            creates: what.
            answer: what MLflow answered.
            asked: what ``asks`` returned.
            workspace: where it was created.
        """
        try:
            found = json.loads(answer)
            key, run_id = _read(creates, found)
            async with self._unit_of_work() as work:
                now = self._clock.now()
                await work.contributions.put(Contribution(creates, key, principal.id, principal.name, now))
                if run_id:
                    await work.contributions.pass_on(run_id, key)
                if asked:
                    await work.contributions.answered(asked)
                if creates is Hand.VERSION and not is_prompt(found["model_version"]):
                    registered = registration_of(found["model_version"], workspace)
                    await notice(work, [registered], at=now, by=principal.name)
                await work.commit()
        except (CountersignError, ValueError, KeyError, TypeError) as error:
            _log.error(
                "author_not_recorded",
                what=creates.value,
                principal=principal.id,
                error=type(error).__name__,
                exc_info=error,
            )

    async def renamed(self, fields: Mapping[str, object]) -> None:
        """MLflow has given a model the ``new_name`` of ``fields``. A failure changes nothing for the caller."""
        try:
            async with self._unit_of_work() as work:
                await work.contributions.renamed(
                    asked_prefix(str(fields["name"])), asked_prefix(str(fields["new_name"]))
                )
                await work.commit()
        except CountersignError as error:
            _log.error("rename_not_recorded", name=fields["name"], error=type(error).__name__, exc_info=error)

    async def involved(self, work: UnitOfWork, promotion: Promotion) -> Involved:
        """Who had a hand in what a promotion is of, and whose hand is not known. One query."""
        return involved(promotion, await work.contributions.to(rests_on(promotion)))

    async def barred(self, work: UnitOfWork, promotion: Promotion) -> Mapping[str, str]:
        """Who may not approve a promotion, by id, and for what: ``registered version 7``."""
        return (await self.involved(work, promotion)).barred

    def _is_written(self, known: _Known) -> bool:
        at = self._written.get(known)
        return at is not None and abs(self._clock.now() - at) < REMEMBERED_FOR


class ContributionsNoted:
    """A guard that writes down whose changes of artifacts it lets through (``app.proxy.gateway.RegistryGuard``)."""

    def __init__(self, guard: RegistryGuard, contributing: Contributing) -> None:
        self._guard = guard
        self._contributing = contributing

    async def check(
        self, guard: Guard, principal: Principal, fields: Mapping[str, str], workspace: str = DEFAULT_WORKSPACE
    ) -> Ruling:
        """As the guard itself.

        Raises:
            CountersignError: its refusal. Unavailable: nobody could be written down, so nothing may be changed.
        """
        ruling = await self._guard.check(guard, principal, fields, workspace)
        if guard in CHANGES_ARTIFACTS:
            await self._contributing.changes(principal, guard, fields, workspace)
        return ruling


def _read(creates: Hand, answer: Any) -> tuple[str, str]:  # noqa: ANN401 - whatever MLflow says
    """The key of what was created, and the run that it says it comes from."""
    if creates is Hand.VERSION:
        version = answer["model_version"]
        return version_key(str(version["version"]), int(version["creation_timestamp"])), ""
    if creates is Hand.RUN:
        return fold(str(answer["run"]["info"]["run_id"])), ""
    info = answer["model"]["info"]
    return fold(str(info["model_id"])), fold(str(info.get("source_run_id") or ""))
