"""Who is admitted to MLflow next, when more ask than it bears: pure, without clock and I/O.

Each lane has one line per principal. Within a lane the lines are served in turn, so that a thousand requests of one
principal delay another one's by one request. Between lanes, interactive requests go first; a lane that was passed over
``PATIENCE`` times is served before them once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.domain.errors import Overloaded, TooManyRequests
from app.domain.lanes import QUEUED, Lane

PATIENCE = 4

WORK_S = 0.004
"""Seconds of work that a worker is given at a time, if that is more than its least number of requests."""
MOST_AT_ONCE = 64
_WEIGHT, _LEAST_S = 0.05, 0.00001

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many requests one MLflow worker is given at a time: in all, at least; and of single lanes, at most."""

    total: int
    of_lane: Mapping[Lane, int]

    def __post_init__(self) -> None:
        if self.total < 1 or any(most < 1 for most in self.of_lane.values()):
            raise ValueError("a lane that is never admitted would wait forever")


@dataclass(slots=True)
class Pace:
    """How many requests a worker is given at a time: ``least``, or as many as it answers in ``WORK_S``.

    ``least`` is what MLflow bears. A worker whose answers take a fraction of a millisecond would wait for us between
    them. Its work per request is estimated as the time until an answer begins over the requests that it held
    meanwhile, which stays the same however many these are, as long as they do not harm each other.
    """

    least: int
    limit: int = field(init=False)
    work_s: float = WORK_S
    """Seconds of work per request, a moving mean."""

    def __post_init__(self) -> None:
        self.limit = self.least

    def observe(self, service_s: float, at_once: int) -> None:
        """One answer began ``service_s`` after its request was handed over, ``at_once`` being held at its end."""
        self.work_s += _WEIGHT * (max(service_s, _LEAST_S) / at_once - self.work_s)
        self.limit = max(self.least, min(int(WORK_S / self.work_s), MOST_AT_ONCE))


@dataclass(slots=True)
class _Lines(Generic[T]):
    """The lines of one lane, the next to be served first."""

    by_principal: OrderedDict[Hashable, OrderedDict[T, None]] = field(default_factory=OrderedDict)
    length: int = 0


class WaitingRoom(Generic[T]):
    """Requests that wait, bounded in all and for each principal.

    Args:
        size: how many may wait in all. share: how many of one principal may wait.
    """

    def __init__(self, *, size: int, share: int) -> None:
        self._size = size
        self._share = share
        self._lanes: dict[Lane, _Lines[T]] = {lane: _Lines() for lane in QUEUED}
        self._of_principal: dict[Hashable, int] = {}
        self._passed_over = dict.fromkeys(QUEUED, 0)
        self.length = 0

    def waiting(self, lane: Lane) -> int:
        """How many wait in one lane."""
        return self._lanes[lane].length

    def enter(self, lane: Lane, principal: Hashable, request: T) -> None:
        """Stand at the end of the principal's line.

        Raises:
            TooManyRequests: so many of this principal wait already. Overloaded: so many wait in all.
        """
        waiting = self._of_principal.get(principal, 0)
        if waiting >= self._share:
            raise TooManyRequests(f"{waiting} of your requests wait for MLflow already; send fewer at a time.")
        if self.length >= self._size:
            raise Overloaded(f"{self.length} requests wait for MLflow already.")
        lines = self._lanes[lane]
        lines.by_principal.setdefault(principal, OrderedDict())[request] = None
        lines.length += 1
        self.length += 1
        self._of_principal[principal] = waiting + 1

    def leave(self, lane: Lane, principal: Hashable, request: T) -> None:
        """Wait no longer. Nothing happens to who does not wait."""
        line = self._lanes[lane].by_principal.get(principal)
        if line is not None and request in line:
            del line[request]
            self._left(lane, principal, line)

    def next(self, may: Callable[[Lane], bool]) -> T | None:
        """Take out who is served next among the lanes that ``may`` be served now."""
        ready = [lane for lane in QUEUED if self._lanes[lane].length and may(lane)]
        if not ready:
            return None
        chosen = self._choose(ready)
        lines = self._lanes[chosen]
        principal, line = next(iter(lines.by_principal.items()))
        request, _ = line.popitem(last=False)
        lines.by_principal.move_to_end(principal)
        self._left(chosen, principal, line)
        return request

    def _choose(self, ready: list[Lane]) -> Lane:
        longest = max(ready, key=self._passed_over.__getitem__)
        chosen = longest if self._passed_over[longest] >= PATIENCE else ready[0]
        for lane in ready:
            self._passed_over[lane] = 0 if lane is chosen else self._passed_over[lane] + 1
        return chosen

    def _left(self, lane: Lane, principal: Hashable, line: OrderedDict[T, None]) -> None:
        lines = self._lanes[lane]
        if not line:
            del lines.by_principal[principal]
        lines.length -= 1
        self.length -= 1
        self._of_principal[principal] -= 1
        if not self._of_principal[principal]:
            del self._of_principal[principal]
