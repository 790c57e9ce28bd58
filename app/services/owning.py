"""Creators own what they create: who created an experiment or model is written down when MLflow has made it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import structlog

from app.domain.access import Principal
from app.domain.audit import Entry
from app.domain.errors import CountersignError
from app.domain.grants import ResourceKind
from app.ports import Clock
from app.services.reach import Reach
from app.services.recording import UnitOfWorkFactory, actor_of

_log = structlog.stdlib.get_logger(__name__)

CHANGES_OWNERS = frozenset(
    {"CreateExperiment", "CreateRegisteredModel", "DeleteRegisteredModel", "RenameRegisteredModel"}
)
"""The messages after which something has another owner, or none. An experiment keeps its id, and so its owner, whatever
it is called; and one that was deleted can be restored."""


class Owning:
    """Args: reach: forgets that there was nothing where something was created."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock, reach: Reach) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._reach = reach

    async def note(
        self, principal: Principal, message: str, fields: Mapping[str, object], answer: bytes, workspace: str
    ) -> None:
        """Write down what MLflow has done. It is done: a failure is logged, and changes nothing for the caller.

        Args:
            principal: who had it done.
            message: one of ``CHANGES_OWNERS``.
            fields: what MLflow was asked.
            answer: what MLflow answered.
            workspace: where.
        """
        name = str(fields.get("name", ""))
        try:
            if message == "CreateExperiment":
                experiment_id = str(json.loads(answer)["experiment_id"])
                self._reach.forget_experiment(experiment_id, workspace)
                await self._created(principal, ResourceKind.EXPERIMENT, experiment_id, name, workspace)
            elif message == "CreateRegisteredModel":
                await self._created(principal, ResourceKind.MODEL, name, name, workspace)
            else:
                await self._moved(name, str(fields.get("new_name", "")), workspace)
        except (CountersignError, ValueError, KeyError, TypeError) as error:
            _log.error("owner_not_recorded", message=message, name=name, error=type(error).__name__, exc_info=error)

    async def _created(self, principal: Principal, kind: ResourceKind, key: str, name: str, workspace: str) -> None:
        now = self._clock.now()
        async with self._unit_of_work() as work:
            await work.owners.put(kind.value, workspace, key, principal.id, at=now)
            details = {"kind": kind.value, "name": name, "workspace": workspace}
            work.record(Entry(now, actor_of(principal), "owner.recorded", f"{kind.value}:{key}"[:500], details))
            await work.commit()

    async def _moved(self, name: str, new_name: str, workspace: str) -> None:
        """A model was renamed, or deleted: what is made of its name again belongs to whoever makes it."""
        async with self._unit_of_work() as work:
            if new_name:
                await work.owners.rename(ResourceKind.MODEL.value, workspace, name, new_name)
            else:
                await work.owners.remove(ResourceKind.MODEL.value, workspace, name)
            await work.commit()
