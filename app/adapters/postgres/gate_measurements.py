"""What gates measured, each time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import gate_measurements
from app.domain.gates import Measurement, Verdict


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement, and of what it is. ``step`` counts from 0."""

    step: int
    target: str
    gate: str
    at: datetime
    measurement: Measurement


class GateMeasurements:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, promotion_id: str, measured: Iterable[Measured]) -> None:
        rows = [
            {
                "promotion_id": promotion_id,
                "step": each.step,
                "target": each.target,
                "gate": each.gate,
                "at": each.at,
                "value": each.measurement.value,
                "verdict": each.measurement.verdict.value,
                "message": each.measurement.message,
            }
            for each in measured
        ]
        if rows:
            await self._connection.execute(insert(gate_measurements).on_conflict_do_nothing(), rows)

    async def remove(self, *, before: datetime, limit: int) -> int:
        """Remove what was measured before a time; returns how many."""
        key = gate_measurements.primary_key.columns
        old = select(*key).where(gate_measurements.c.at < before).order_by(gate_measurements.c.at).limit(limit)
        result = await self._connection.execute(delete(gate_measurements).where(tuple_(*key).in_(old)))
        return result.rowcount

    async def of(self, promotion_id: str, *, limit: int) -> Sequence[Measured]:
        """The newest first."""
        table = gate_measurements.c
        query = (
            select(gate_measurements)
            .where(table.promotion_id == promotion_id)
            .order_by(table.at.desc(), table.target, table.gate)
            .limit(limit)
        )
        return [
            Measured(row.step, row.target, row.gate, row.at, Measurement(Verdict(row.verdict), row.value, row.message))
            for row in await self._connection.execute(query)
        ]
