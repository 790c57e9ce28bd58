"""From events to deliveries: each event goes to every endpoint that hears it, once, in the order of events."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime

import structlog

from app.domain.deliveries import Cause, Delivery, Receiver, ReceiverKind, lane_of
from app.domain.endpoints import Endpoint, ReceiverState
from app.domain.errors import Unavailable
from app.domain.events import StoredEvent, cloud_event
from app.ports import Changes, Clock
from app.services.identifiers import new_id
from app.services.recording import EVENTS_TOPIC, UnitOfWorkFactory

_log = structlog.stdlib.get_logger(__name__)

BATCH = 500
LOOK_EVERY_S = 2.0
BEGIN_AGAIN_S = 1.0


class FanningOut:
    def __init__(self, unit_of_work: UnitOfWorkFactory, changes: Changes, clock: Clock, *, public_url: str) -> None:
        self._unit_of_work = unit_of_work
        self._changes = changes
        self._clock = clock
        self._public_url = public_url

    async def run(self) -> None:
        """Whenever there are new events, until cancelled."""
        async with self._changes.subscribe(EVENTS_TOPIC) as news:
            while True:
                try:
                    while await self.fan_out() == BATCH:
                        pass
                except Unavailable as error:
                    _log.warning("fanning_out_waits", reason=error.message)
                    await asyncio.sleep(BEGIN_AGAIN_S)
                except Exception:  # noqa: BLE001  # one fault must not end this for good
                    _log.exception("fanning_out_broke")
                    await asyncio.sleep(BEGIN_AGAIN_S)
                if not await news.wait(LOOK_EVERY_S):
                    # Also when waiting has ended for good: the process stops, and must not spin meanwhile.
                    await asyncio.sleep(0.01)

    async def fan_out(self) -> int:
        """Give the next events to whoever hears them; returns how many events there were.

        The deliveries and the place in the list are written together, by one process at a time: whatever dies, no event
        is left out, and none goes out twice.
        """
        async with self._unit_of_work() as work:
            after = await work.deliveries.begin_fan_out()
            if after is None:
                return 0
            events = await work.events.page(after=after, limit=BATCH)
            if not events:
                return 0
            endpoints = [each for each in await work.endpoints.all() if each.state is ReceiverState.ACTIVE]
            now = self._clock.now()
            bodies = {each.sequence: body_of(each, source=self._public_url) for each in events} if endpoints else {}
            await work.deliveries.add(
                [
                    delivery_to(each.endpoint, stored, bodies[stored.sequence], cause=Cause.EVENT, at=now)
                    for stored in events
                    for each in endpoints
                    if stored.sequence > each.hears_after and each.endpoint.hears(stored.event)
                ]
            )
            await work.deliveries.end_fan_out(events[-1].sequence)
            await work.commit()
        return len(events)


def delivery_to(endpoint: Endpoint, stored: StoredEvent, body: str, *, cause: Cause, at: datetime) -> Delivery:
    """What is sent to an endpoint of an event."""
    event = stored.event
    return Delivery(
        id=new_id("dlv"),
        receiver=Receiver(ReceiverKind.ENDPOINT, endpoint.name),
        lane=lane_of(event.key.workspace, event.key.model),
        message_id=event.id,
        event_type=event.type.value,
        subject=event.subject,
        body=body,
        cause=cause,
        created_at=at,
        next_attempt_at=at,
        event_sequence=stored.sequence,
    )


def body_of(stored: StoredEvent, *, source: str) -> str:
    """The message that carries an event: signed and sent as it is here."""
    return json.dumps(cloud_event(stored, source=source), ensure_ascii=False, separators=(",", ":"))
