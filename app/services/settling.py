"""Writing down what came of attempts: those of many lanes in one transaction, and each lane goes on when it is written.

While one group is written the next one gathers, so that the more there is to do, the more is done at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app.adapters.postgres.delivery_lanes import LaneKey, Result
from app.domain.errors import Unavailable
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
        """Return when it is written, and the lane given back if ``turn`` says so. Raises what keeps it from that."""
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
                await self._write_each(group)

    async def _write_each(self, group: Sequence[_Note]) -> None:
        try:
            await self._write(group)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001  # what cannot be written of one must not keep that of others
            if len(group) == 1:
                if not group[0].done.done():
                    group[0].done.set_exception(error)
                return
            for note in group:
                await self._write_each([note])

    async def _write(self, group: Sequence[_Note]) -> None:
        async with self._unit_of_work() as work:
            written = await work.delivery_lanes.settle([result for note in group for result in note.results])
            turns = {note.turn.lane: self._due(note, note.turn, written) for note in group if note.turn}
            ended = await work.delivery_lanes.end_turns(self._number, turns, now=self._clock.now())
            await work.commit()
        for note in group:
            if note.turn is None or note.turn.lane in ended:
                if not note.done.done():
                    note.done.set_result(None)
            else:
                note.results, note.turn = (), Turn(note.turn.lane, turns[note.turn.lane])
                asyncio.get_running_loop().call_later(BUSY_S, self._again, note)

    def _due(self, note: _Note, turn: Turn, written: Collection[str]) -> datetime:
        """What failed and was given up meanwhile, by somebody else, has nobody wait for its next attempt."""
        is_void = bool(note.results) and note.results[-1].delivery.id not in written
        return self._clock.now() if is_void else turn.due_at

    def _again(self, note: _Note) -> None:
        if not note.done.done():
            self._waiting.append(note)
            self._is_wanted.set()
