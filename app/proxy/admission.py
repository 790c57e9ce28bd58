"""Admission to MLflow: each of its workers is given a few requests at a time, the others wait here, fairly and bounded.

The rules are in ``app/domain/admission.py`` and ``lanes.py``; why, and the sizes, in ``docs/adr/0011``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

import structlog

from app.domain.admission import Limits, Pace, WaitingRoom
from app.domain.errors import Overloaded, TooManyRequests, UpstreamUnavailable
from app.domain.lanes import QUEUED, Lane
from app.proxy.forwarding import Upstream
from app.telemetry import (
    ADMISSION_REJECTIONS,
    ADMISSION_SECONDS,
    ADMISSION_WAITING,
    UPSTREAM_IN_FLIGHT,
    UPSTREAM_TAKEN_OUT,
    UPSTREAM_UP,
)

_log = structlog.stdlib.get_logger(__name__)

_RETRY_AFTER_S = (1, 30)
"""The least and the most that a refused caller is asked to wait."""


@dataclass(slots=True)
class Worker:
    """One MLflow server of one worker, and what it is doing for us."""

    upstream: Upstream
    limits: Limits
    is_up: bool = True
    busy: int = 0
    """Requests of queued lanes that it has not begun to answer."""
    of_lane: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    moved_at: float = 0
    """When it last was given its first request or answered one, on the monotonic clock."""
    last_chosen: int = 0
    pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        self.pace = Pace(self.limits.total)

    def has_room(self, lane: Lane) -> bool:
        """Whether it may be given one more request."""
        most = self.limits.of_lane.get(lane)
        return self.is_up and self.busy < self.pace.limit and (most is None or self.of_lane[lane] < most)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many may wait in all and of one principal, and how long, in seconds."""

    queue: int
    share: int
    deadline_s: float


class Place:
    """A place at one MLflow worker. Given back once, when its answer has begun."""

    __slots__ = ("_admission", "_held", "_since", "lane", "waited", "worker")

    def __init__(self, admission: Admission, worker: Worker, lane: Lane, *, waited: bool = False) -> None:
        self._admission = admission
        self._held = True
        self._since = monotonic()
        self.worker = worker
        self.lane = lane
        self.waited = waited

    def began(self) -> None:
        """MLflow begins to answer. What happens to a slow caller from now on is no burden for it: make room, but for a
        file, which is on its way until its end.
        """
        if self.lane is not Lane.STREAM:
            self.worker.pace.observe(monotonic() - self._since, self.worker.busy)
            self.release()

    def release(self) -> None:
        """Make room for the next."""
        if self._held:
            self._held = False
            self._admission.released(self.worker, self.lane)

    def not_reached(self) -> None:
        """No connection could be made: the worker is away until it answers again."""
        self._admission.take_out(self.worker, "unreachable")
        self.release()


class _Waiter:
    """Who waits, by identity."""

    __slots__ = ("admitted", "lane", "principal")

    def __init__(self, lane: Lane, principal: Hashable, admitted: asyncio.Future[Worker]) -> None:
        self.lane = lane
        self.principal = principal
        self.admitted = admitted


class Admission:
    """Shares the places at MLflow's workers among requests, in one event loop.

    Args:
        upstreams: servers of one worker each on the same database.
        limits: what each of them is given. sizes: what may wait here.
    """

    def __init__(
        self,
        upstreams: Iterable[Upstream],
        *,
        limits: Limits,
        sizes: Sizes,
    ) -> None:
        self.workers = [Worker(upstream, limits, moved_at=monotonic()) for upstream in upstreams]
        self._sizes = sizes
        self._room: WaitingRoom[_Waiter] = WaitingRoom(size=sizes.queue, share=sizes.share)
        self._chosen = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mean_s = 0.1
        """Seconds between two releases, a moving mean: what ``Retry-After`` is guessed from."""
        self._released_at = monotonic()
        # Found once: finding a metric by its labels costs more than using it.
        self._waited = {lane: ADMISSION_SECONDS.labels(lane=lane.value) for lane in QUEUED}
        self._show()

    async def admit(self, lane: Lane, principal: Hashable) -> Place:
        """A place at the worker that has most room; waits for one in every lane but that of streams.

        Raises:
            TooManyRequests: so many requests of this principal wait. Overloaded: so many wait or stream in all, or
            this one waited too long. UpstreamUnavailable: no worker is up.
        """
        if lane is Lane.STREAM:
            return self._occupy(self._least_streaming(), lane)
        if not self._room.length and (worker := self._freest(lane)):
            return self._occupy(worker, lane)
        if not any(worker.is_up for worker in self.workers):
            raise self._away()
        return await self._wait(lane, principal)

    def released(self, worker: Worker, lane: Lane) -> None:
        """A worker has begun to answer: admit whoever is next."""
        worker.of_lane[lane] -= 1
        now = monotonic()
        worker.moved_at = now
        if lane is not Lane.STREAM:
            worker.busy -= 1
            self._mean_s += 0.05 * (min(now - self._released_at, 5) - self._mean_s)
            self._released_at = now
        if self._room.length:
            self._admit_waiting()

    def take_out(self, worker: Worker, why: str) -> None:
        """Give a worker nothing more until it is put back. Whoever waits goes to others, or is told at once."""
        if not worker.is_up:
            return
        worker.is_up = False
        _log.warning("upstream_taken_out", upstream=worker.upstream.url, why=why, in_flight=worker.busy)
        UPSTREAM_TAKEN_OUT.labels(upstream=worker.upstream.url, reason=why).inc()
        if not any(each.is_up for each in self.workers):
            while waiter := self._room.next(lambda _: True):
                if not waiter.admitted.done():
                    waiter.admitted.set_exception(self._away())

    def put_back(self, worker: Worker) -> None:
        """It answers again."""
        worker.is_up = True
        worker.moved_at = monotonic()
        _log.info("upstream_put_back", upstream=worker.upstream.url)
        self._admit_waiting()

    def check_alive(self) -> None:
        """Return when some worker is given requests.

        Raises:
            UpstreamUnavailable: none is.
        """
        if not any(worker.is_up for worker in self.workers):
            raise UpstreamUnavailable("MLflow cannot be reached.")

    def note(self) -> str | None:
        """How many workers are up, when not all are."""
        up = sum(worker.is_up for worker in self.workers)
        return None if up == len(self.workers) else f"{up} of {len(self.workers)} servers"

    async def _wait(self, lane: Lane, principal: Hashable) -> Place:
        loop = self._loop = self._loop or asyncio.get_running_loop()
        waiter = _Waiter(lane, principal, loop.create_future())
        try:
            self._room.enter(lane, principal, waiter)
        except (TooManyRequests, Overloaded) as error:
            error.retry_after_s = self._retry_after()
            ADMISSION_REJECTIONS.labels(reason="share" if isinstance(error, TooManyRequests) else "full").inc()
            raise
        began = monotonic()
        deadline = loop.call_later(self._sizes.deadline_s, self._expire, waiter)
        try:
            worker = await waiter.admitted
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise
        finally:
            deadline.cancel()
        self._waited[lane].observe(monotonic() - began)
        return Place(self, worker, lane, waited=True)

    def _expire(self, waiter: _Waiter) -> None:
        """It waited too long."""
        if waiter.admitted.done():
            return
        self._room.leave(waiter.lane, waiter.principal, waiter)
        ADMISSION_REJECTIONS.labels(reason="deadline").inc()
        why = f"MLflow is busy: nothing was free within {self._sizes.deadline_s:g} s."
        waiter.admitted.set_exception(Overloaded(why, retry_after_s=self._retry_after()))

    def _give_up(self, waiter: _Waiter) -> None:
        """Leave the line; who was admitted in the same moment gives the place back."""
        self._room.leave(waiter.lane, waiter.principal, waiter)
        if waiter.admitted.done() and not waiter.admitted.cancelled() and waiter.admitted.exception() is None:
            self.released(waiter.admitted.result(), waiter.lane)

    def _admit_waiting(self) -> None:
        while waiter := self._room.next(lambda lane: any(worker.has_room(lane) for worker in self.workers)):
            if waiter.admitted.done():
                continue
            worker = self._freest(waiter.lane)
            assert worker is not None  # the line was chosen because there is one
            self._count(worker, waiter.lane)
            waiter.admitted.set_result(worker)

    def _occupy(self, worker: Worker, lane: Lane) -> Place:
        self._count(worker, lane)
        return Place(self, worker, lane)

    def _count(self, worker: Worker, lane: Lane) -> None:
        if lane is not Lane.STREAM:
            if not worker.busy:
                worker.moved_at = monotonic()
            worker.busy += 1
        worker.of_lane[lane] += 1
        self._chosen += 1
        worker.last_chosen = self._chosen

    def _freest(self, lane: Lane) -> Worker | None:
        free = [worker for worker in self.workers if worker.has_room(lane)]
        if len(free) <= 1:
            return free[0] if free else None
        return min(free, key=_burden)

    def _least_streaming(self) -> Worker:
        up = [worker for worker in self.workers if worker.is_up]
        if not up:
            raise self._away()
        worker = min(up, key=lambda each: (each.of_lane[Lane.STREAM], each.last_chosen))
        if worker.of_lane[Lane.STREAM] >= worker.limits.of_lane.get(Lane.STREAM, 1):
            ADMISSION_REJECTIONS.labels(reason="streams").inc()
            raise Overloaded("Too many files are being sent and received at once.", retry_after_s=self._retry_after())
        return worker

    def _away(self) -> UpstreamUnavailable:
        ADMISSION_REJECTIONS.labels(reason="away").inc()
        return UpstreamUnavailable("MLflow cannot be reached.", retry_after_s=2)

    def _retry_after(self) -> int:
        least, most = _RETRY_AFTER_S
        return round(min(max(self._room.length * self._mean_s, least), most))

    def _show(self) -> None:
        """Gauges that are read when somebody looks."""
        for lane in QUEUED:
            ADMISSION_WAITING.labels(lane=lane.value).set_function(partial(self._room.waiting, lane))
        for worker in self.workers:
            url = worker.upstream.url
            UPSTREAM_UP.labels(upstream=url).set_function(partial(getattr, worker, "is_up"))
            for lane in Lane:
                gauge = UPSTREAM_IN_FLIGHT.labels(upstream=url, lane=lane.value)
                gauge.set_function(partial(worker.of_lane.__getitem__, lane))


def _burden(worker: Worker) -> tuple[int, int, int]:
    return worker.busy, worker.of_lane[Lane.STREAM], worker.last_chosen
