"""Who waits for an address to mean something else: one look for all of them, whenever it may.

What was forgotten is looked up at once, one look for each address, however many wait for it; they are woken if it
became something else. A watcher is only a mark that there is news, so that whoever reads slowly misses what is old and
never what is new. What no announcement tells of (aliases that MLflow alone governs, a database that was away) is
looked at again by one timer, which also lets each stream breathe. However many of those somebody watches, and whether
there are such or not: what is announced never waits behind them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import structlog

from app.domain.errors import CountersignError, Overloaded, Unavailable
from app.services.resolution_memory import Address, Answer, Concern, ResolutionMemory, concerns
from app.telemetry import RESOLUTION_WATCHERS

_log = structlog.stdlib.get_logger(__name__)

BEAT_S = 15
"""Seconds between two signs of life."""
LOOK_AGAIN_S = 5
"""Seconds between two looks at what nothing announces."""
AT_ONCE = 4
"""Addresses that are looked up at the same time: the database has others to answer."""
OTHERS_AT_ONCE = 4
"""The same of what was not announced."""
MOST_WAITING = 1000
"""Of those. More are refused: who waits for the first look at an address is not kept for minutes by a crowd."""
_WOKEN_AT_ONCE = 50
"""What they are told leaves while the next are being woken."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an address has no answer."""

    error: CountersignError

    @property
    def etag(self) -> bytes:
        """The same for the same reason."""
        return f"{type(self.error).__name__}: {self.error.message}".encode()


State = Answer | Refusal


@dataclass(eq=False, slots=True)
class _Watched:
    address: Address
    state: State | None = None
    away: Unavailable | None = None
    """Why the last look saw nothing."""
    watchers: set[Watcher] = field(default_factory=set)
    look: asyncio.Task[None] | None = None
    is_to_be_looked_at_again: bool = False
    is_announced: bool = False
    """Whether something was said to have changed about this model since the last look."""

    @property
    def is_ledgers(self) -> bool:
        """Whether whatever changes about it is announced."""
        return isinstance(self.state, Answer) and self.state.is_ledgers


class Watcher:
    """One who waits, for one address or several. Of one task."""

    __slots__ = ("_following", "_has_news", "_task", "_waiting", "_watched", "is_beat", "is_over", "is_stuck")

    def __init__(self, following: Following, watched: Sequence[_Watched]) -> None:
        self._following = following
        self._watched = watched
        self._task = asyncio.current_task()
        self._waiting: asyncio.Future[None] | None = None
        self._has_news = False
        self.is_beat = False
        """A sign of life is due."""
        self.is_over = False
        """The process stops."""
        self.is_stuck = False
        """Whom it tells takes nothing: its task was cancelled."""

    @property
    def states(self) -> list[State | None]:
        """What each address means, as it was seen last."""
        return [each.state for each in self._watched]

    async def look(self) -> list[State]:
        """What each address means at some moment after this was called.

        Raises:
            Unavailable: that cannot be known now.
        """
        return [await self._following.look(each) for each in self._watched]

    def beat(self) -> None:
        """Have a sign of life be given; give up who has not come to give the last one."""
        if self.is_beat and self._task is not None:
            self.is_stuck = True
            self._task.cancel()
        self.is_beat = True
        self.wake()

    def wake(self) -> None:
        self._has_news = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self) -> None:
        """Return when there is news since the last call, or a sign of life is due, or all is over."""
        if not self._has_news and not self.is_over:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        self._has_news = False

    async def wait_for(self, seconds: float) -> bool:
        """As ``wait``; false when nothing came in that time, and when all is over."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self.wait()
        except TimeoutError:
            return False
        return not self.is_over


class Following:
    """All who wait in one process.

    Args:
        memory: what is remembered; tells when something is forgotten.
    """

    def __init__(self, memory: ResolutionMemory) -> None:
        self._memory = memory
        self._watched: dict[Address, _Watched] = {}
        self._streams: list[set[Watcher]] = [set() for _ in range(BEAT_S)]
        self._places = asyncio.Semaphore(AT_ONCE)
        self._places_of_others = asyncio.Semaphore(OTHERS_AT_ONCE)
        self._waiting = 0
        self._again: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seconds = 0
        self._is_over = False
        memory.tell(self._forgotten)

    @contextmanager
    def watch(self, addresses: Sequence[Address], *, beats: bool = False) -> Iterator[Watcher]:
        """Wait for addresses from now on. Args: beats: be woken now and then, to show a sign of life."""
        watched = [self._watched.setdefault(each, _Watched(each)) for each in addresses]
        watcher = Watcher(self, watched)
        watcher.is_over = self._is_over
        bucket = min(self._streams, key=len) if beats else set()
        bucket.add(watcher)
        for each in watched:
            each.watchers.add(watcher)
        RESOLUTION_WATCHERS.inc()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(1, self._tick)
        try:
            yield watcher
        finally:
            RESOLUTION_WATCHERS.dec()
            bucket.discard(watcher)
            for each in watched:
                each.watchers.discard(watcher)
                if not each.watchers:
                    self._watched.pop(each.address, None)

    def end(self) -> None:
        """Have every wait end at once, those to come too, as when the process is to stop."""
        self._is_over = True
        if self._timer:
            self._timer.cancel()
        if self._again:
            self._again.cancel()
        for watcher in {watcher for each in self._watched.values() for watcher in each.watchers}:
            watcher.is_over = True
            watcher.wake()

    async def look(self, watched: _Watched) -> State:
        """See ``Watcher.look``. Looks at one address come one after the other, so that none undoes a later one."""
        if watched.look is None and (answer := self._memory.recall(watched.address)):
            self._see(watched, answer)
            return answer
        await asyncio.shield(self._look_soon(watched))
        if watched.away:
            raise watched.away
        assert watched.state is not None  # else it was away
        return watched.state

    def _forgotten(self, concern: Concern | None) -> None:
        for watched in self._watched.values():
            if concerns(concern, watched.address):
                watched.is_announced |= concern is not None
                self._look_soon(watched)

    def _look_soon(self, watched: _Watched) -> asyncio.Task[None]:
        watched.is_to_be_looked_at_again = True
        if watched.look is None:
            watched.look = asyncio.create_task(self._look_until_seen(watched))
        return watched.look

    async def _look_until_seen(self, watched: _Watched) -> None:
        try:
            while watched.is_to_be_looked_at_again:
                watched.is_to_be_looked_at_again = False
                await self._look(watched)
        finally:
            watched.look = None

    async def _look(self, watched: _Watched) -> None:
        try:
            async with self._place_for(watched):
                watched.away, watched.is_announced = None, False
                state: State = await self._memory.get(watched.address)
        except Unavailable as away:
            watched.away = away
            return
        except CountersignError as error:
            state = Refusal(error)
        except Exception:  # noqa: BLE001  # those who wait are told when it is over, and it is looked at again
            _log.exception("resolution_not_looked_up", model=watched.address[1].model)
            watched.away = Unavailable("Countersign failed to look this up.")
            return
        self._see(watched, state)

    @asynccontextmanager
    async def _place_for(self, watched: _Watched) -> AsyncIterator[None]:
        """Raises ``Overloaded``: too many wait for one."""
        if watched.is_announced or watched.is_ledgers:
            async with self._places:
                yield
            return
        if self._waiting >= MOST_WAITING:
            raise Overloaded("Too many addresses wait to be looked up.", retry_after_s=1)
        self._waiting += 1
        try:
            await self._places_of_others.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places_of_others.release()

    @staticmethod
    def _see(watched: _Watched, state: State) -> None:
        if watched.state is not None and watched.state.etag == state.etag:
            return
        watched.state = state
        _wake([*watched.watchers])

    def _tick(self) -> None:
        """Once a second, for all."""
        self._timer = None
        if self._is_over or not self._watched:
            return
        self._timer = asyncio.get_running_loop().call_later(1, self._tick)
        self._seconds += 1
        for watcher in self._streams[self._seconds % BEAT_S]:
            watcher.beat()
        is_time = self._seconds % LOOK_AGAIN_S == 0
        again = []
        for watched in self._watched.values():
            if watched.is_ledgers and watched.away:
                self._look_soon(watched)
            elif not watched.is_ledgers and (watched.away or is_time):
                again.append(watched)
        if again and self._again is None:
            self._again = asyncio.create_task(self._look_again(again))

    async def _look_again(self, again: Sequence[_Watched]) -> None:
        """A few at a time: one that is not begun is looked at without delay if something is announced meanwhile."""
        try:
            for start in range(0, len(again), OTHERS_AT_ONCE):
                looks = [self._look_soon(each) for each in again[start : start + OTHERS_AT_ONCE] if each.watchers]
                if looks:
                    await asyncio.wait(looks)
        finally:
            self._again = None


def _wake(watchers: list[Watcher]) -> None:
    for watcher in watchers[:_WOKEN_AT_ONCE]:
        watcher.wake()
    if rest := watchers[_WOKEN_AT_ONCE:]:
        asyncio.get_running_loop().call_soon(_wake, rest)
