"""What resolves, remembered: an answer costs a look into a dictionary for as long as it is known to be right.

Right means: nobody was told that the alias has moved before the question came. Three things hold it so. What is
remembered counts while the lease holds (``app.ports.Lease``). What was looked up while something was being forgotten is
looked up again, and is not remembered if that goes on. And nobody is given what somebody else had begun to look up
before they asked, unless it is remembered since. While an alias is being moved, it is not remembered
(``Remember.NOT``).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.domain.grants import fold
from app.domain.names import ModelReference
from app.domain.resolutions import Found, Remember, Resolution
from app.ports import Lease

MOST = 10_000
BRIEFLY_S = 1.0
"""For what MLflow alone knows, and may change past us."""
HELD_OFF_S = 5.0
"""How long an alias is not remembered after a call that moves it was let through to MLflow."""
_TRIES = 3

Address = tuple[str, ModelReference]
"""What is asked for: a workspace, and what a ``models:/`` URI names in it."""
Concern = tuple[str, str]
"""Workspace and name of a model that something changed about."""
LookUp = Callable[[ModelReference, str], Awaitable[Found]]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A resolution as it is sent.

    ``etag`` is quoted (RFC 9110 section 8.8.3); ``is_ledgers`` says that a change of it will be announced.
    """

    resolution: Resolution
    etag: bytes
    body: bytes
    is_ledgers: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: Answer
    until: float


class ResolutionMemory:
    """Of one process.

    Args:
        look_up: finds what is not remembered.
        lease: whether what is remembered counts.
        write: a resolution as JSON.
        most: how many answers are remembered; those that were asked for last.
    """

    def __init__(
        self, look_up: LookUp, lease: Lease, write: Callable[[Resolution], bytes], *, most: int = MOST
    ) -> None:
        self._look_up = look_up
        self._lease = lease
        self._write = write
        self._most = most
        self._entries: OrderedDict[Address, _Entry] = OrderedDict()
        self._flights: dict[Address, asyncio.Task[Answer]] = {}
        self._held_off: dict[Concern, float] = {}
        self._generation = 0
        self._told: Callable[[Concern | None], None] = _nobody

    def tell(self, told: Callable[[Concern | None], None]) -> None:
        """Have ``told`` called whenever something was forgotten."""
        self._told = told

    def recall(self, address: Address) -> Answer | None:
        """The answer, if it is remembered and right at this moment."""
        entry = self._entries.get(address)
        if entry is None or not self._lease.holds() or entry.until < time.monotonic():
            return None
        self._entries.move_to_end(address)
        return entry.answer

    async def get(self, address: Address) -> Answer:
        """The answer: right at some moment after this was called.

        Raises:
            Unresolvable, NotFound, Unavailable: as ``Resolver.look_up``.
        """
        if answer := self.recall(address):
            return answer
        if earlier := self._flights.get(address):
            await asyncio.wait([earlier])
            if answer := self.recall(address):
                return answer
        # One that flies now took off after we came.
        return await asyncio.shield(self._flights.get(address) or self._take_off(address))

    def forget(self, concern: Concern | None = None) -> None:
        """Forget what is about one model, or everything; at once."""
        self._generation += 1
        if concern is None:
            self._entries.clear()
        else:
            for address in [each for each in self._entries if concerns(concern, each)]:
                del self._entries[address]
        self._told(concern)

    def hold_off(self, concern: Concern) -> None:
        """MLflow is about to move an alias of a model of its own accord: do not remember any for a while."""
        now = time.monotonic()
        self._held_off = {each: until for each, until in self._held_off.items() if until > now}
        self._held_off[_folded(concern)] = now + HELD_OFF_S
        self.forget(concern)

    def _take_off(self, address: Address) -> asyncio.Task[Answer]:
        flight = self._flights[address] = asyncio.create_task(self._fly(address))
        flight.add_done_callback(lambda done: self._land(address, done))
        return flight

    def _land(self, address: Address, flight: asyncio.Task[Answer]) -> None:
        del self._flights[address]
        if not flight.cancelled():
            flight.exception()  # whoever waited has it

    async def _fly(self, address: Address) -> Answer:
        workspace, reference = address
        for tried in range(1, _TRIES + 1):
            generation = self._generation
            found = await self._look_up(reference, workspace)
            is_undisturbed = generation == self._generation
            if is_undisturbed or tried == _TRIES:
                break
        resolution, remember = found.resolution, found.remember
        answer = Answer(
            resolution,
            b'"%s"' % resolution.etag.encode(),
            self._write(resolution),
            is_ledgers=remember is not Remember.BRIEFLY,
        )
        if is_undisturbed and remember is not Remember.NOT:
            self._remember(address, answer, remember)
        return answer

    def _remember(self, address: Address, answer: Answer, remember: Remember) -> None:
        now = time.monotonic()
        if remember is Remember.BRIEFLY:
            if self._held_off.get(_folded((address[0], address[1].model)), 0) > now:
                return
            until = now + BRIEFLY_S
        else:
            until = float("inf")
        self._entries[address] = _Entry(answer, until)
        self._entries.move_to_end(address)
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)


def concerns(concern: Concern | None, address: Address) -> bool:
    """Whether a change could change the answer.

    Some databases of MLflow's take ``Fraud`` and ``fraud`` for one name; an address without a name may be of any model.
    """
    if concern is None or not address[1].model:
        return True
    return _folded(concern) == _folded((address[0], address[1].model))


def _folded(concern: Concern) -> Concern:
    return concern[0], fold(concern[1])


def _nobody(_concern: Concern | None) -> None:
    """Nobody waits for it."""
