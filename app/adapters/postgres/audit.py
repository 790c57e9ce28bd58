"""The audit log in the database: appended to under one lock, never changed (a trigger refuses it)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Text, insert, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import audit_entries
from app.domain.audit import GENESIS, ChainedEntry, Entry, chained_hash

_CHAIN_LOCK = 0x436F756E746572  # "Counter" in ASCII: the advisory lock of the chain's end


_OBJECT = audit_entries.c.entry.op("->>", return_type=Text())(literal_column("'object'"))
"""As the index has it: with a parameter for the name, PostgreSQL would not always know that it is the same."""


class AuditLog:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def append(self, entries: Sequence[Entry]) -> None:
        """Chain entries to the end. Holds the chain's lock until the transaction ends."""
        if not entries:
            return
        await self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHAIN_LOCK})
        last = (
            await self._connection.execute(
                select(audit_entries.c.sequence, audit_entries.c.hash)
                .order_by(audit_entries.c.sequence.desc())
                .limit(1)
            )
        ).first()
        sequence, previous = (last.sequence, last.hash) if last else (0, GENESIS)
        rows = []
        for entry in entries:
            sequence += 1
            document = entry.document(sequence)
            hashed = chained_hash(previous, document)
            rows.append({"sequence": sequence, "entry": document, "previous_hash": previous, "hash": hashed})
            previous = hashed
        await self._connection.execute(insert(audit_entries), rows)

    async def page(
        self, *, after: int = 0, limit: int = 100, newest_first: bool = False, object_id: str | None = None
    ) -> list[ChainedEntry]:
        """Up to ``limit`` entries behind the sequence ``after`` (before it, newest first)."""
        column = audit_entries.c.sequence
        query = select(audit_entries).limit(limit).order_by(column.desc() if newest_first else column)
        if after:
            query = query.where(column < after if newest_first else column > after)
        if object_id is not None:
            query = query.where(_OBJECT == object_id)  # noqa: SIM300  # no constant
        rows = await self._connection.execute(query)
        return [ChainedEntry(document=row.entry, previous_hash=row.previous_hash, hash=row.hash) for row in rows]
