"""Sending what is pending: lane by lane in order, many lanes at once, no receiver at the cost of another (ADR 0026).

Any number of dispatchers may run at once. A lane is sent from by the one that holds it, and what one holds whose
connection has ended is free. A crash between sending and recording sends a message again with the same ``webhook-id``:
receivers tell by it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from app.adapters.postgres.deliveries import URGENT
from app.adapters.postgres.delivery_lanes import Head, LaneKey, Result
from app.adapters.postgres.unit_of_work import DELIVERIES_ADDED
from app.domain.deliveries import (
    GONE,
    PING_LANE,
    Attempt,
    Delivery,
    DeliveryState,
    Receiver,
    ReceiverKind,
    after,
    is_success,
    settled,
)
from app.domain.errors import CountersignError, InvalidConfiguration, Unavailable
from app.domain.receiver_health import WELL, after_failure
from app.ports import Changes, Clock, Presence, Presences, WebhookSender
from app.services.disabling import Disabling
from app.services.receivers import Known, Receivers
from app.services.recording import UnitOfWorkFactory
from app.services.settling import Settling, Turn
from app.telemetry import DELIVERIES, DELIVERY_SECONDS

_log = structlog.stdlib.get_logger(__name__)

TURN = 20
"""Messages that go out of a lane before it is the turn of others that wait."""
REST_S = 0.005
"""Between two looks when much tells so."""
PUT_BACK = timedelta(minutes=1)
"""By how much a clock must go back for what is due by it to be looked at again."""
BROKEN_LANE_S = 60.0
"""After which a lane is tried again of which something could not be done that is nobody's fault but ours."""
LONGEST_REST_S = 30.0
"""Before it is begun anew when that broke, again and again: receivers are sent the same messages each time."""
SOON_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is sent at a time: from how many lanes, to one receiver and to all together.

    ``grace_s`` is how long those that were begun may take when the process is to stop; ``look_every_s`` is between two
    looks when nothing tells that there is something to do, and before it is begun anew.
    """

    per_receiver: int = 8
    all_together: int = 1000
    grace_s: float = 10.0
    look_every_s: float = 1.0


class Dispatcher:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        presences: Presences,
        changes: Changes,
        sender: WebhookSender,
        receivers: Receivers,
        disabling: Disabling,
        clock: Clock,
        *,
        limits: Limits = Limits(),  # immutable
    ) -> None:
        self._unit_of_work = unit_of_work
        self._presences = presences
        self._changes = changes
        self._sender = sender
        self._receivers = receivers
        self._disabling = disabling
        self._clock = clock
        self._limits = limits
        self._latest: datetime | None = None
        self._is_put_back = False

    async def run(self) -> None:
        """Send until cancelled; then finish what was begun, for a few seconds, and leave the rest to others.

        When the connection is lost by which it holds its lanes, whatever it is sending is broken off, and it begins
        anew under another number.
        """
        breaks = 0
        while True:
            began = time.monotonic()
            try:
                async with self._presences.take() as presence:
                    await self._serve(presence)
            except Unavailable as error:
                breaks = 0
                _log.warning("dispatcher_waits", reason=error.message)
            except Exception:  # noqa: BLE001  # its lanes are free by now; one fault must not end the sending for good
                breaks = breaks + 1 if time.monotonic() - began < SOON_S else 1
                _log.exception("dispatcher_broke")
            await asyncio.sleep(min(self._limits.look_every_s * 2.0 ** min(breaks, 16), LONGEST_REST_S))

    async def _serve(self, presence: Presence) -> None:
        if self._is_put_back:
            await self._begin_by_another_time()
        shift = _Shift(self, presence)
        try:
            await shift.work()
        except asyncio.CancelledError:
            await shift.finish()
            raise
        finally:
            await shift.end()

    async def _begin_by_another_time(self) -> None:
        """Have everything be looked at: else it waits for as long as the clock was wrong."""
        self._receivers.clock_was_put_back()
        async with self._unit_of_work() as work:
            await work.delivery_lanes.hasten_all(now=self._clock.now())
            await work.commit()
        self._latest, self._is_put_back = None, False

    # What a shift asks for.

    async def claim(self, number: int, busy: Counter[str], *, is_to_free: bool) -> dict[LaneKey, Sequence[Head]]:
        """Hold lanes that are due, as many as there is room for, and read what is next in them."""
        now, most = self._clock.now(), self._limits.per_receiver
        if self._latest is not None and now < self._latest - PUT_BACK:
            # What is being sent would be written down by the time of before.
            self._is_put_back = True
            raise Unavailable(f"The clock was put back, from {self._latest} to {now}.")
        self._latest = now
        free = {
            receiver: max(self._receivers.health(receiver).lanes(most, now) - busy[receiver], 0)
            for receiver in {*busy, *self._receivers.remarkable()}
        }
        room = self._limits.all_together - busy.total()
        if room <= 0:
            return {}
        async with self._unit_of_work() as work:
            if is_to_free and (lanes := await work.delivery_lanes.free_abandoned()):
                _log.warning("lanes_taken_over", lanes=lanes)
            claimed = await work.delivery_lanes.claim(number, free, most=most, all_together=room, now=now)
            heads = await work.delivery_lanes.heads(claimed, limit=TURN)
            await work.commit()
        # After the lanes were seen: a receiver is there before anything is sent to it.
        if self._receivers.is_stale or any(self._receivers.known(receiver) is None for receiver, _ in claimed):
            await self._receivers.read()
        return dict(heads)

    async def release(self, number: int) -> None:
        async with self._unit_of_work() as work:
            await work.delivery_lanes.release_all(number)
            await work.commit()

    async def send_lane(self, lane: LaneKey, heads: Sequence[Head], settling: Settling) -> datetime | None:
        """Send what is next in a lane, one after the other; returns when it is to be looked at again if one failed."""
        over: list[Result] = []
        for number, head in enumerate(heads, start=1):
            known = self._receivers.known(lane[0])
            if known is None or head.is_superseded:
                over += await self._unsent(head)
                continue
            done, attempt = await self._attempt(head.delivery, known)
            is_last = number == len(heads) or done.state is DeliveryState.PENDING
            # Whoever pinged meanwhile waits, too.
            again_at = done.next_attempt_at or (URGENT if lane[1] == PING_LANE else self._clock.now())
            turn = Turn(lane, again_at) if is_last else None
            await self._settle(done, attempt, over, turn, settling)
            over = []
            if is_last:
                return done.next_attempt_at
        await settling.write(over, Turn(lane, self._clock.now()))
        return None

    async def _unsent(self, head: Head) -> list[Result]:
        """What is to be written of a delivery that is pointless, or whose receiver is not there any more."""
        state = DeliveryState.SUPERSEDED if head.is_superseded else DeliveryState.DEAD
        over = settled(head.delivery, state, at=self._clock.now())
        if state is DeliveryState.DEAD and over.receiver.kind is ReceiverKind.TARGET:
            await self._disabling.give_up(over, None)
            return []
        return [Result(over, None)]

    async def _settle(
        self, done: Delivery, attempt: Attempt, over: Sequence[Result], turn: Turn | None, settling: Settling
    ) -> None:
        if done.state is DeliveryState.DEAD and done.receiver.kind is ReceiverKind.TARGET:
            # In this order: whoever hears that the rollout failed, and promotes again, finds it disabled.
            await self._conclude(done.receiver, attempt)
            await self._disabling.give_up(done, attempt)
            await settling.write(over, turn)
        else:
            # The other way round: what waits for an endpoint ends with it, and this one has its attempt to show.
            await settling.write([*over, Result(done, attempt)], turn)
            await self._conclude(done.receiver, attempt)

    async def _attempt(self, delivery: Delivery, known: Known) -> tuple[Delivery, Attempt]:
        attempt, retry_after_s = await self._try(delivery, known)
        now, chance = self._clock.now(), random.random()  # noqa: S311  # jitter
        done = after(delivery, attempt, at=now, chance=chance, retry_after_s=retry_after_s)
        outcome = str(attempt.status) if attempt.status else "no answer"
        DELIVERIES.labels(outcome=outcome).inc()
        if done.state is DeliveryState.DELIVERED:
            DELIVERY_SECONDS.labels(kind=delivery.receiver.kind.value).observe(
                max((now - delivery.created_at).total_seconds(), 0)
            )
        else:
            _log.info("delivery_failed", delivery=delivery.id, attempt=attempt.number, outcome=outcome)
        name, before = str(delivery.receiver), self._receivers.health(str(delivery.receiver))
        if is_success(attempt):
            if before is not WELL or name in self._receivers.remarkable():
                await self._receivers.note(delivery.receiver, WELL)
        else:
            health = after_failure(before, at=now, chance=chance, retry_after_s=retry_after_s)
            await self._receivers.note(delivery.receiver, health)
        return done, attempt

    async def _try(self, delivery: Delivery, known: Known) -> tuple[Attempt, float | None]:
        number, started, clock = delivery.attempts + 1, self._clock.now(), time.monotonic()
        try:
            return await self._sender.send(known.call(delivery, at=started))
        except InvalidConfiguration as error:
            return Attempt(number, started, 0, None, error.message, ""), None
        except CountersignError:
            raise
        except Exception as error:  # noqa: BLE001  # a message that cannot be sent must not keep others from it
            _log.exception("delivery_broke", delivery=delivery.id)
            took = round((time.monotonic() - clock) * 1000)
            return Attempt(number, started, took, None, f"{type(error).__name__} while sending", ""), None

    async def _conclude(self, receiver: Receiver, attempt: Attempt) -> None:
        """Disable a receiver that wants no more, or an endpoint that has taken nothing for days."""
        if is_success(attempt):
            return
        since = self._receivers.health(str(receiver)).failing_since
        if await self._disabling.consider(receiver, is_gone=attempt.status == GONE, failing_since=since):
            self._receivers.forget(receiver)

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def changes(self) -> Changes:
        return self._changes

    def new_settling(self, number: int) -> Settling:
        return Settling(self._unit_of_work, self._clock, number)

    def in_seconds(self, seconds: float) -> datetime:
        return self._clock.now() + timedelta(seconds=seconds)

    def seconds_until(self, moment: datetime) -> float:
        return (moment - self._clock.now()).total_seconds()


class _Shift:
    """What is done under one number."""

    def __init__(self, dispatcher: Dispatcher, presence: Presence) -> None:
        self._dispatcher = dispatcher
        self._presence = presence
        self._settling = dispatcher.new_settling(presence.number)
        self._wake = asyncio.Event()
        self._busy: Counter[str] = Counter()
        self._sending: set[asyncio.Task[None]] = set()
        self._others: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self._freed_at = float("-inf")

    async def work(self) -> None:
        """Claim and send, for ever.

        Raises:
            Unavailable: our lock is gone, or the database does not answer.
        """
        self._start(self._settling.run(), self._others)
        self._start(self._listen(), self._others)
        self._start(self._watch(), self._others)
        while self._fault is None:
            self._wake.clear()
            is_to_free = time.monotonic() - self._freed_at > self._dispatcher.limits.look_every_s
            if is_to_free:
                self._freed_at = time.monotonic()
            found = await self._dispatcher.claim(self._presence.number, self._busy, is_to_free=is_to_free)
            for lane, heads in found.items():
                self._busy[lane[0]] += 1
                self._start(self._send(lane, heads), self._sending)
            await asyncio.sleep(REST_S)
            await self._wake.wait()
        raise self._fault

    async def finish(self) -> None:
        """Wait for what was begun, and give all lanes back."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=self._dispatcher.limits.grace_s)
        await self._cancel(self._sending)
        try:
            await self._dispatcher.release(self._presence.number)
        except Exception as error:  # noqa: BLE001  # they are free when our connection ends; nothing may keep us from it
            _log.warning("lanes_not_given_back", error=type(error).__name__)

    async def end(self) -> None:
        """Break off whatever is left."""
        await self._cancel(self._sending | self._others)

    async def _send(self, lane: LaneKey, heads: Sequence[Head]) -> None:
        try:
            again_at = await self._send_lane(lane, heads)
        finally:
            self._busy[lane[0]] -= 1
            if not self._busy[lane[0]]:
                del self._busy[lane[0]]
            self._wake.set()
        if again_at is not None and (wait := self._dispatcher.seconds_until(again_at)) < SOON_S:
            asyncio.get_running_loop().call_later(max(wait, 0), self._wake.set)

    async def _send_lane(self, lane: LaneKey, heads: Sequence[Head]) -> datetime | None:
        try:
            return await self._dispatcher.send_lane(lane, heads, self._settling)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001  # what is wrong with one lane must not end the sending from the others
            _log.exception("lane_broke", receiver=lane[0], lane=lane[1])
            again_at = self._dispatcher.in_seconds(BROKEN_LANE_S)
            await self._settling.write((), Turn(lane, again_at))
            return again_at

    async def _listen(self) -> None:
        async with self._dispatcher.changes.subscribe(DELIVERIES_ADDED) as news:
            while True:
                if not await news.wait(self._dispatcher.limits.look_every_s):
                    # Also when waiting has ended for good: the process stops, and must not spin meanwhile.
                    await asyncio.sleep(REST_S)
                self._wake.set()

    async def _watch(self) -> None:
        await self._presence.lost.wait()
        raise Unavailable("The connection is gone by which deliveries are held.")

    def _start(self, work: Coroutine[object, object, None], among: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        among.add(task)
        task.add_done_callback(lambda done: self._ended(done, among))

    def _ended(self, task: asyncio.Task[None], among: set[asyncio.Task[None]]) -> None:
        among.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fault = self._fault or error
            self._wake.set()

    @staticmethod
    async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
        tasks = set(tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
