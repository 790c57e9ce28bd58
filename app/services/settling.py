"""Writing down what came of attempts: those of many lanes in one transaction, and each lane goes on when it is written.

While one group is written the next one gathers, so that the more there is to do, the more is done at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app.adapters.postgres.delivery_lanes import LaneKey, Result
from app.ports import Clock
from app.services.recording import UnitOfWorkFactory

LARGEST_GROUP = 500
BUSY_S = 0.02
"""After which a lane is looked at again to which somebody is adding."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A lane that is to be given back, to be looked at again at ``due_at``."""

    lane: LaneKey
    due_at: datetime


@dataclass(slots=True)
class _Note:
    results: Sequence[Result]
    turn: Turn | None
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Settling:
    """For one dispatcher, known by its number."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock, number: int) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._number = number
        self._waiting: list[_Note] = []
        self._is_wanted = asyncio.Event()

    async def write(self, results: Sequence[Result], turn: Turn | None = None) -> None:
        """Return when it is written, and the lane given back if ``turn`` says so."""
        note = _Note(results, turn)
        self._waiting.append(note)
        self._is_wanted.set()
        await note.done

    async def run(self) -> None:
        """Write what is to be written, for ever. Raises ``Unavailable``; what was not written then never is."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            while self._waiting:
                group, self._waiting = self._waiting[:LARGEST_GROUP], self._waiting[LARGEST_GROUP:]
                await self._write(group)

    async def _write(self, group: Sequence[_Note]) -> None:
        turns = {note.turn.lane: note.turn.due_at for note in group if note.turn}
        async with self._unit_of_work() as work:
            await work.delivery_lanes.settle([result for note in group for result in note.results])
            ended = await work.delivery_lanes.end_turns(self._number, turns, now=self._clock.now())
            await work.commit()
        for note in group:
            if note.turn is None or note.turn.lane in ended:
                if not note.done.done():
                    note.done.set_result(None)
            else:
                note.results = ()
                asyncio.get_running_loop().call_later(BUSY_S, self._again, note)

    def _again(self, note: _Note) -> None:
        if not note.done.done():
            self._waiting.append(note)
            self._is_wanted.set()
