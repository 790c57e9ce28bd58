"""What the checks of a promotion looked at last, and what they said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import evidence
from app.domain.assessing import CheckResult


@dataclass(frozen=True, slots=True)
class Taken:
    """Facts as they were seen at ``taken_at``, those of them that checks read, and the results of the checks."""

    taken_at: datetime
    facts: Mapping[str, object] = field(default_factory=dict, hash=False)
    reads: Mapping[str, str] = field(default_factory=dict, hash=False)
    results: tuple[CheckResult, ...] = ()


class EvidenceLog:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, promotion_id: str) -> Taken | None:
        row = (await self._connection.execute(select(evidence).where(evidence.c.promotion_id == promotion_id))).first()
        if row is None:
            return None
        return Taken(
            row.taken_at,
            row.facts,
            row.reads,
            tuple(
                CheckResult(each["name"], each["outcome"], each["message"], reads=each["reads"]) for each in row.results
            ),
        )

    async def put(self, promotion_id: str, taken: Taken) -> None:
        values = {
            "taken_at": taken.taken_at,
            "facts": dict(taken.facts),
            "reads": dict(taken.reads),
            "results": [
                {"name": each.name, "outcome": each.outcome, "message": each.message, "reads": dict(each.reads)}
                for each in taken.results
            ],
        }
        statement = insert(evidence).values(promotion_id=promotion_id, **values)
        await self._connection.execute(statement.on_conflict_do_update(index_elements=["promotion_id"], set_=values))
