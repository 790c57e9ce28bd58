"""Deliveries and their attempts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Row, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import deliveries, delivery_attempts
from app.domain.deliveries import Attempt, Delivery, DeliveryState
from app.domain.errors import NotFound


class Deliveries:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, delivery_id: str, *, for_update: bool = False) -> Delivery:
        """Raises ``NotFound``."""
        query = select(deliveries).where(deliveries.c.id == delivery_id)
        if for_update:
            query = query.with_for_update()
        row = (await self._connection.execute(query)).first()
        if row is None:
            raise NotFound(f"There is no delivery {delivery_id}.", delivery=delivery_id)
        return _delivery(row)

    async def page(
        self, *, before: tuple[datetime, str] | None = None, limit: int = 50, target: str | None = None
    ) -> Sequence[Delivery]:
        """Newest first."""
        query = select(deliveries).order_by(deliveries.c.created_at.desc(), deliveries.c.id.desc()).limit(limit)
        if before:
            query = query.where(tuple_(deliveries.c.created_at, deliveries.c.id) < tuple_(*before))
        if target is not None:
            query = query.where(deliveries.c.target == target)
        return [_delivery(row) for row in await self._connection.execute(query)]

    async def attempts(self, delivery_id: str) -> list[Attempt]:
        """In their order."""
        query = (
            select(delivery_attempts)
            .where(delivery_attempts.c.delivery_id == delivery_id)
            .order_by(delivery_attempts.c.number)
        )
        return [
            Attempt(row.number, row.started_at, row.duration_ms, row.status, row.error, row.response)
            for row in await self._connection.execute(query)
        ]

    async def add(self, delivery: Delivery) -> None:
        await self._connection.execute(
            insert(deliveries).values(
                id=delivery.id,
                target=delivery.target,
                event_type=delivery.event_type,
                subject=delivery.subject,
                generation=delivery.generation,
                payload=dict(delivery.payload),
                state=delivery.state.value,
                attempts=delivery.attempts,
                created_at=delivery.created_at,
                next_attempt_at=delivery.next_attempt_at,
            )
        )

    async def save(self, delivery: Delivery) -> None:
        await self._connection.execute(
            update(deliveries)
            .where(deliveries.c.id == delivery.id)
            .values(state=delivery.state.value, attempts=delivery.attempts, next_attempt_at=delivery.next_attempt_at)
        )

    async def add_attempt(self, delivery_id: str, attempt: Attempt) -> None:
        await self._connection.execute(
            insert(delivery_attempts).values(
                delivery_id=delivery_id,
                number=attempt.number,
                started_at=attempt.started_at,
                duration_ms=attempt.duration_ms,
                status=attempt.status,
                error=attempt.error,
                response=attempt.response,
            )
        )

    async def overdue(self, before: datetime, *, limit: int = 500) -> list[str]:
        """The ids of pending deliveries whose time came before ``before``: their job was lost."""
        query = (
            select(deliveries.c.id)
            .where(deliveries.c.state == DeliveryState.PENDING.value, deliveries.c.next_attempt_at < before)
            .order_by(deliveries.c.next_attempt_at)
            .limit(limit)
        )
        return list((await self._connection.scalars(query)).all())


def _delivery(row: Row[tuple[object, ...]]) -> Delivery:
    return Delivery(
        id=row.id,
        target=row.target,
        event_type=row.event_type,
        subject=row.subject,
        generation=row.generation,
        payload=row.payload,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
    )
