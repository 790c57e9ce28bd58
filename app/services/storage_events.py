"""A store says that something changed: the versions that lie there are looked at now, not at the next time."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.access import Permission, Principal, require
from app.domain.storage_events import folders_of
from app.ports import Clock
from app.services.recording import UnitOfWorkFactory


class StorageEvents:
    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def note(self, principal: Principal, message: Mapping[str, object]) -> int:
        """Have the versions looked at that a message may be about; how many there are.

        Raises:
            Forbidden: the principal may not know of every model where its bytes are.
        """
        require(principal, Permission.MODELS_RESOLVE)
        folders = folders_of(message)
        if not folders:
            return 0
        async with self._unit_of_work() as work:
            count = await work.verifications.make_due(folders, at=self._clock.now())
            if count:
                await work.jobs.verify()
                await work.commit()
        return count
