"""Deliveries and their attempts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Row, Text, and_, cast, delete, func, literal, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import deliveries, delivery_attempts, delivery_lanes, fanned_out
from app.domain.deliveries import Attempt, Cause, Delivery, DeliveryState, Filter, Receiver, ReceiverKind, lane_of
from app.domain.errors import NotFound

URGENT = datetime.fromtimestamp(0, UTC)
"""When a lane is due whose receiver is tried even while it is left alone: somebody asked, and waits."""


ALL = Filter()


MOST_COUNTED = 100_000
"""Of what waits: beyond that it is many, and to count them would take long."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits to be sent: how many, up to ``MOST_COUNTED``, and since when the oldest."""

    pending: int
    oldest: datetime | None


class Deliveries:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.has_new = False
        """Whether something was added since the last commit, so that those who send are woken."""

    async def get(self, delivery_id: str, *, for_update: bool = False) -> Delivery:
        """Raises ``NotFound``."""
        query = select(deliveries).where(deliveries.c.id == delivery_id)
        if for_update:
            query = query.with_for_update()
        row = (await self._connection.execute(query)).first()
        if row is None:
            raise NotFound(f"There is no delivery {delivery_id}.", delivery=delivery_id)
        return delivery_of(row)

    async def page(
        self, sought: Filter = ALL, *, before: tuple[datetime, str] | None = None, limit: int = 50
    ) -> Sequence[Delivery]:
        """Newest first."""
        query = select(deliveries).where(*_conditions(sought))
        if before:
            query = query.where(tuple_(deliveries.c.created_at, deliveries.c.id) < tuple_(*before))
        query = query.order_by(deliveries.c.created_at.desc(), deliveries.c.id.desc()).limit(limit)
        return [delivery_of(row) for row in await self._connection.execute(query)]

    async def find(self, delivery_id: str) -> Delivery | None:
        row = (await self._connection.execute(select(deliveries).where(deliveries.c.id == delivery_id))).first()
        return delivery_of(row) if row else None

    async def is_being_called(self, target: str, deployment_id: str, *, lane: str) -> bool:
        """Whether a call about a deployment waits to be sent to its target."""
        query = select(deliveries.c.id).where(
            deliveries.c.receiver == str(Receiver(ReceiverKind.TARGET, target)),
            deliveries.c.lane == lane,
            deliveries.c.state == DeliveryState.PENDING.value,
            deliveries.c.deployment_id == deployment_id,
        )
        return (await self._connection.execute(query.limit(1))).first() is not None

    async def last_called_at(self, target: str, deployment_id: str, *, lane: str) -> datetime | None:
        """When the newest call about a deployment was made; none if all are forgotten."""
        query = select(deliveries.c.created_at).where(
            deliveries.c.receiver == str(Receiver(ReceiverKind.TARGET, target)),
            deliveries.c.lane == lane,
            deliveries.c.deployment_id == deployment_id,
        )
        newest: datetime | None = await self._connection.scalar(query.order_by(deliveries.c.created_at.desc()).limit(1))
        return newest

    async def abandon(self, receiver: Receiver, *, at: datetime) -> int:
        """Have nothing be sent any more of what waits for a receiver; returns how much that was.

        What is being sent right now is left to whoever sends it, who finds that the receiver is not there any more. Its
        lanes are due: whoever looks takes them away, and what is added later does not wait for what is not there.
        """
        waiting = (
            select(deliveries.c.id)
            .where(_is(DeliveryState.PENDING), deliveries.c.receiver == str(receiver))
            .with_for_update(skip_locked=True)
        )
        ended = (
            update(deliveries)
            .where(deliveries.c.id.in_(waiting))
            .values(state=DeliveryState.DEAD.value, next_attempt_at=None, settled_at=at)
        )
        self.has_new = True
        count = (await self._connection.execute(ended)).rowcount
        lane = delivery_lanes.c
        far = select(lane.receiver, lane.lane).where(lane.receiver == str(receiver), lane.due_at > at)
        due = update(delivery_lanes).where(tuple_(lane.receiver, lane.lane).in_(far.with_for_update(skip_locked=True)))
        await self._connection.execute(due.values(due_at=at))
        return count

    async def given(
        self, receiver: Receiver, message_ids: Collection[str], states: Collection[DeliveryState]
    ) -> frozenset[str]:
        """Those of some messages that a receiver was given, or is to be, by their state."""
        query = select(deliveries.c.message_id).where(
            deliveries.c.message_id == func.any(cast(list(message_ids), ARRAY(Text))),
            deliveries.c.receiver == str(receiver),
            deliveries.c.state.in_([each.value for each in states]),
        )
        return frozenset((await self._connection.scalars(query)).all())

    async def attempts(self, delivery_id: str) -> list[Attempt]:
        """In their order."""
        query = (
            select(delivery_attempts)
            .where(delivery_attempts.c.delivery_id == delivery_id)
            .order_by(delivery_attempts.c.number)
        )
        return [
            Attempt(
                number=row.number,
                started_at=row.started_at,
                duration_ms=row.duration_ms,
                status=row.status,
                error=row.error,
                response=row.response,
                address=row.address,
                request_headers=row.request_headers,
                response_headers=row.response_headers,
            )
            for row in await self._connection.execute(query)
        ]

    async def add(self, new: Sequence[Delivery]) -> None:
        """Add deliveries, in this order, and have their lanes be looked at.

        A delivery of an event that its receiver was given already is left out. Their lanes are locked to the end of the
        transaction: whoever adds to several does it at once, so that no two wait for each other.
        """
        if not new:
            return
        self.has_new = True
        # First: numbers are drawn by one at a time in each lane, so that their order is that of the commits.
        await self._hold_lanes(new)
        await self._connection.execute(
            insert(deliveries).on_conflict_do_nothing(),
            [
                {
                    "id": delivery.id,
                    "receiver": str(delivery.receiver),
                    "lane": delivery.lane,
                    "message_id": delivery.message_id,
                    "event_type": delivery.event_type,
                    "subject": delivery.subject,
                    "body": delivery.body,
                    "cause": delivery.cause.value,
                    "event_sequence": delivery.event_sequence,
                    "replays": delivery.replays,
                    "deployment_id": delivery.deployment_id,
                    "generation": delivery.generation,
                    "state": delivery.state.value,
                    "attempts": delivery.attempts,
                    "created_at": delivery.created_at,
                    "next_attempt_at": delivery.next_attempt_at,
                }
                for delivery in new
            ],
        )

    async def _hold_lanes(self, new: Sequence[Delivery]) -> None:
        lanes: dict[tuple[str, str], datetime] = {}
        hurried: set[tuple[str, str]] = set()
        for each in new:
            lane = (str(each.receiver), each.lane)
            lanes.setdefault(lane, URGENT if each.cause is Cause.PING else each.created_at)
            if each.cause is not Cause.EVENT:
                hurried.add(lane)
        statement = insert(delivery_lanes)
        due, sooner = delivery_lanes.c.due_at, func.least(delivery_lanes.c.due_at, statement.excluded.due_at)
        # An event waits behind what failed before it. What somebody just asked for is tried, and so what is before it.
        # Setting what is there locks the row: it cannot be taken away before this is committed.
        keeps = statement.on_conflict_do_update(index_elements=["receiver", "lane"], set_={"due_at": due})
        hastens = statement.on_conflict_do_update(index_elements=["receiver", "lane"], set_={"due_at": sooner})
        for upsert, wanted in ((keeps, lanes.keys() - hurried), (hastens, hurried)):
            if wanted:
                await self._connection.execute(
                    upsert,
                    [{"receiver": key[0], "lane": key[1], "due_at": lanes[key]} for key in sorted(wanted)],
                )

    async def end(self, delivery: Delivery) -> None:
        """Write that a delivery is not tried any more, and have those behind it be looked at."""
        values = {"state": delivery.state.value, "next_attempt_at": None, "settled_at": delivery.settled_at}
        await self._connection.execute(update(deliveries).where(deliveries.c.id == delivery.id).values(values))
        lane = (delivery_lanes.c.receiver == str(delivery.receiver)) & (delivery_lanes.c.lane == delivery.lane)
        await self._connection.execute(update(delivery_lanes).where(lane).values(due_at=delivery.settled_at))
        self.has_new = True

    async def backlog(self) -> Backlog:
        """What waits to be sent."""
        pending = _is(DeliveryState.PENDING)
        oldest = select(deliveries.c.created_at).where(pending).order_by(deliveries.c.created_at).limit(1)
        counted = select(literal(1)).select_from(deliveries).where(pending).limit(MOST_COUNTED).subquery()
        return Backlog(
            pending=await self._connection.scalar(select(func.count()).select_from(counted)) or 0,
            oldest=await self._connection.scalar(oldest),
        )

    async def remove_settled(self, *, before: datetime, dead_before: datetime, limit: int) -> int:
        """Remove deliveries that were settled, and were made before a time; returns how many.

        Args:
            before: those that reached their receiver, or were superseded.
            dead_before: those that never reached it.
            limit: how many at most.
        """
        is_dead = _is(DeliveryState.DEAD)
        settled = and_(deliveries.c.state.in_(["delivered", "superseded"]), deliveries.c.created_at < before)
        removed = 0
        for condition in (settled, and_(is_dead, deliveries.c.created_at < dead_before)):
            query = select(deliveries.c.id).where(condition).order_by(deliveries.c.created_at).limit(limit)
            ids = list((await self._connection.scalars(query)).all())
            if ids:
                await self._connection.execute(
                    delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(ids))
                )
                await self._connection.execute(delete(deliveries).where(deliveries.c.id.in_(ids)))
            removed += len(ids)
        return removed

    async def begin_fan_out(self) -> int | None:
        """The sequence of the last event that was given to endpoints; none if somebody else is at it.

        Whoever has the number is alone with it to the end of the transaction.
        """
        if not await self._connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _FAN_OUT_LOCK}):
            return None
        return await self.fanned_out_until()

    async def fanned_out_until(self) -> int:
        """The sequence of the last event that was given to endpoints."""
        return int(await self._connection.scalar(select(fanned_out.c.sequence)) or 0)

    async def end_fan_out(self, sequence: int) -> None:
        """Every event up to this one was given to endpoints."""
        await self._connection.execute(update(fanned_out).values(sequence=sequence))


_FAN_OUT_LOCK = 0x46616E6F7574  # "Fanout" in ASCII


def _is(state: DeliveryState) -> ColumnElement[bool]:
    """As a literal: the index that is of some states alone is found only by one that is known beforehand."""
    return deliveries.c.state == literal(state.value, literal_execute=True)


def _conditions(sought: Filter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if sought.receiver is not None:
        conditions.append(deliveries.c.receiver == str(sought.receiver))
    if sought.states:
        conditions.append(or_(*(_is(state) for state in sought.states)))
    if sought.model is not None:
        conditions.append(deliveries.c.lane == lane_of(sought.workspace, sought.model))
    if sought.event_type is not None:
        conditions.append(deliveries.c.event_type == sought.event_type)
    if sought.message_id is not None:
        conditions.append(deliveries.c.message_id == sought.message_id)
    if sought.since is not None:
        conditions.append(deliveries.c.created_at >= sought.since)
    if sought.until is not None:
        conditions.append(deliveries.c.created_at < sought.until)
    return conditions


def delivery_of(row: Row[tuple[object, ...]]) -> Delivery:
    """A row of the table, read."""
    return Delivery(
        id=row.id,
        receiver=Receiver.parse(row.receiver),
        lane=row.lane,
        message_id=row.message_id,
        event_type=row.event_type,
        subject=row.subject,
        body=row.body,
        cause=Cause(row.cause),
        event_sequence=row.event_sequence,
        replays=row.replays,
        deployment_id=row.deployment_id,
        generation=row.generation,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        settled_at=row.settled_at,
    )
