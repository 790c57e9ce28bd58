"""Deliveries for people: what was sent to whom and how that went, having it sent again, and trying an endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, require
from app.domain.audit import Entry
from app.domain.deliveries import (
    PING_LANE,
    Attempt,
    Cause,
    Delivery,
    DeliveryState,
    Filter,
    Receiver,
    ReceiverKind,
    Replay,
    settled,
)
from app.domain.endpoints import ReceiverState, StoredEndpoint
from app.domain.errors import Conflict, InvalidInput
from app.domain.events import Event, EventType, StoredEvent
from app.domain.promotions import AliasKey
from app.ports import Clock
from app.services.fanning_out import body_of, delivery_to
from app.services.identifiers import id_of, new_id
from app.services.recording import UnitOfWorkFactory, actor_of

MOST_REPLAYED = 100_000
"""Messages that one replay may send."""
BATCH = 500
CLOCKS_DIFFER = timedelta(minutes=5)


class Deliveries:
    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock, *, public_url: str) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._public_url = public_url

    async def page(
        self, sought: Filter, *, before: tuple[datetime, str] | None = None, limit: int = 50
    ) -> Sequence[Delivery]:
        """Newest first."""
        async with self._unit_of_work() as work:
            return await work.deliveries.page(sought, before=before, limit=limit)

    async def get(self, delivery_id: str) -> tuple[Delivery, Sequence[Attempt]]:
        """Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            return await work.deliveries.get(delivery_id), await work.deliveries.attempts(delivery_id)

    async def redeliver(
        self, principal: Principal, delivery_id: str, *, idempotency_key: str | None = None
    ) -> Delivery:
        """Have one message sent again, with its ``webhook-id``, after what waits for its receiver of the same model.

        Raises:
            NotFound: there is no such delivery.
            Conflict: it waits to be sent, or its receiver is disabled or gone.
        """
        require(principal, Permission.ENDPOINTS_ADMINISTER)
        new = id_of("dlv", key=idempotency_key, of=(principal.id, "redeliver", delivery_id))
        async with self._unit_of_work() as work:
            if present := await work.deliveries.find(new):
                return present
            former = await work.deliveries.get(delivery_id)
            if former.state is DeliveryState.PENDING:
                raise Conflict(f"Delivery {delivery_id} waits to be sent as it is.", delivery=delivery_id)
            await _check_is_sent_to(work, former.receiver)
            again = self._again(former, new)
            await work.deliveries.add([again])
            details = {"receiver": str(former.receiver), "message": former.message_id, "again": again.id}
            work.record(Entry(self._clock.now(), actor_of(principal), "delivery.redelivered", delivery_id, details))
            await work.commit()
        return again

    async def skip(self, principal: Principal, delivery_id: str) -> Delivery:
        """Give a message up, so that those behind it go on: the receiver refuses it, and it stands in their way.

        Raises:
            NotFound: there is no such delivery.
            Conflict: it is settled, or a call to a target, which has a deadline.
        """
        require(principal, Permission.ENDPOINTS_ADMINISTER)
        async with self._unit_of_work() as work:
            present = await work.deliveries.get(delivery_id, for_update=True)
            if present.state is not DeliveryState.PENDING:
                raise Conflict(f"Delivery {delivery_id} is {present.state.value} already.", delivery=delivery_id)
            if present.receiver.kind is not ReceiverKind.ENDPOINT:
                raise Conflict("A call to a target ends with its rollout.", delivery=delivery_id)
            dead = settled(present, DeliveryState.DEAD, at=self._clock.now())
            await work.deliveries.end(dead)
            details = {"receiver": str(present.receiver), "message": present.message_id, "attempts": present.attempts}
            work.record(Entry(self._clock.now(), actor_of(principal), "delivery.skipped", delivery_id, details))
            await work.commit()
        return dead

    async def ping(self, principal: Principal, name: str, *, idempotency_key: str | None = None) -> Delivery:
        """Send an endpoint a message that says nothing, once and at once, whatever else waits for it.

        Raises:
            NotFound: there is no such endpoint.
            Conflict: it is disabled.
        """
        require(principal, Permission.ENDPOINTS_ADMINISTER)
        new = id_of("dlv", key=idempotency_key, of=(principal.id, "ping", name))
        async with self._unit_of_work() as work:
            if present := await work.deliveries.find(new):
                return present
            stored = await work.endpoints.get(name)
            _check_is_active(stored)
            now = self._clock.now()
            data = {"endpoint": name, "reason": None, "by": principal.name}
            event = Event(new_id("evn"), EventType.ENDPOINT_PINGED, name, now, AliasKey("", "", ""), data)
            pinged = StoredEvent(0, event)
            body = body_of(pinged, source=self._public_url)
            made = delivery_to(stored.endpoint, pinged, body, cause=Cause.PING, at=now)
            ping = replace(made, id=new, lane=PING_LANE, event_sequence=None)
            await work.deliveries.add([ping])
            work.record(Entry(now, actor_of(principal), EventType.ENDPOINT_PINGED.value, name, {"delivery": new}))
            await work.commit()
        return ping

    async def replay(self, principal: Principal, name: str, wanted: Replay, *, dry_run: bool = False) -> int:
        """Have what happened sent to an endpoint again, in order and with the same ``webhook-id``; returns how much.

        What waits to be sent as it is stays out. It is written in batches: where one fails, those before it are sent.

        Raises:
            NotFound: there is no such endpoint.
            Conflict: it is disabled.
            InvalidInput: it is too much at once.
        """
        require(principal, Permission.ENDPOINTS_ADMINISTER)
        types = _types(wanted.types)
        async with self._unit_of_work() as work:
            _check_is_active(await work.endpoints.get(name))
            begin = wanted.after
            if wanted.since is not None:
                # Clocks of several servers: the order of events is not quite that of their times.
                begin = max(begin, await work.events.before(wanted.since - CLOCKS_DIFFER))
            until = await work.deliveries.fanned_out_until()
        # What happens from now on comes by itself.
        wanted = replace(wanted, after=begin, last=until if wanted.last is None else min(wanted.last, until))
        count = 0
        async for found in self._batches(name, wanted, types, is_to_send=False):
            count += len(found)
            if count > MOST_REPLAYED:
                raise InvalidInput("since", f"expected a range of at most {MOST_REPLAYED} messages")
        if dry_run or not count:
            return count
        await self._note_replay(principal, name, wanted, count)
        return sum([len(found) async for found in self._batches(name, wanted, types, is_to_send=True)])

    async def _note_replay(self, principal: Principal, name: str, wanted: Replay, count: int) -> None:
        details = {
            "count": count,
            "only_missed": wanted.only_missed,
            "after": wanted.after,
            "last": wanted.last,
            "since": wanted.since.isoformat() if wanted.since else None,
            "until": wanted.until.isoformat() if wanted.until else None,
            "types": list(wanted.types),
        }
        async with self._unit_of_work() as work:
            work.record(Entry(self._clock.now(), actor_of(principal), "endpoint.replayed", name, details))
            await work.commit()

    async def _batches(
        self, name: str, wanted: Replay, types: Sequence[EventType], *, is_to_send: bool
    ) -> AsyncIterator[Sequence[Delivery]]:
        """What is to be sent, in order; each batch is a transaction."""
        after = wanted.after
        while True:
            async with self._unit_of_work() as work:
                page = await work.events.page(after=after, limit=BATCH, types=types)
                events = [each for each in page if wanted.last is None or each.sequence <= wanted.last]
                if not events:
                    return
                after = events[-1].sequence
                found = await self._wanted(work, await work.endpoints.get(name), wanted, events)
                if is_to_send and found:
                    await work.deliveries.add(found)
                    await work.commit()
            yield found

    async def _wanted(
        self, work: UnitOfWork, stored: StoredEndpoint, wanted: Replay, events: Sequence[StoredEvent]
    ) -> Sequence[Delivery]:
        chosen = [
            each
            for each in events
            if stored.endpoint.hears(each.event)
            and (wanted.since is None or each.event.at >= wanted.since)
            and (wanted.until is None or each.event.at < wanted.until)
        ]
        states = {DeliveryState.PENDING} | ({DeliveryState.DELIVERED} if wanted.only_missed else set())
        receiver = Receiver(ReceiverKind.ENDPOINT, stored.endpoint.name)
        given = await work.deliveries.given(receiver, [each.event.id for each in chosen], states)
        return [
            delivery_to(
                stored.endpoint,
                each,
                body_of(each, source=self._public_url),
                cause=Cause.REPLAY,
                at=self._clock.now(),
            )
            for each in chosen
            if each.event.id not in given
        ]

    def _again(self, former: Delivery, new: str) -> Delivery:
        now = self._clock.now()
        return replace(
            former,
            id=new,
            # A ping stays one: tried once, and at once.
            cause=Cause.PING if former.lane == PING_LANE else Cause.REPLAY,
            replays=former.id,
            state=DeliveryState.PENDING,
            attempts=0,
            created_at=now,
            next_attempt_at=now,
            settled_at=None,
        )


def _types(patterns: Sequence[str]) -> Sequence[EventType]:
    """Those that match one of the patterns; none for all of them. Raises ``InvalidInput``."""
    unknown = [each for each in patterns if not any(fnmatchcase(kind.value, each) for kind in EventType)]
    if unknown:
        raise InvalidInput("types", f"expected types of events, or patterns of them: there is none like {unknown[0]}")
    return [kind for kind in EventType if any(fnmatchcase(kind.value, each) for each in patterns)]


async def _check_is_sent_to(work: UnitOfWork, receiver: Receiver) -> None:
    if receiver.kind is ReceiverKind.ENDPOINT:
        stored = await work.endpoints.find(receiver.name)
        if stored is None:
            raise Conflict(f"There is no endpoint {receiver.name} any more.", endpoint=receiver.name)
        _check_is_active(stored)
    elif (await work.targets.stored(receiver.name)).state is not ReceiverState.ACTIVE:
        raise Conflict(f"Target {receiver.name} is disabled.", target=receiver.name)


def _check_is_active(stored: StoredEndpoint) -> None:
    if stored.state is not ReceiverState.ACTIVE:
        name = stored.endpoint.name
        raise Conflict(f"Endpoint {name} is disabled: {stored.state_reason or 'by its document'}.", endpoint=name)
