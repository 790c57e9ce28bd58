"""How far the digest of a promotion's artifacts is, and the files that are done, so that it goes on after a restart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import measured_files, measurements, promotions
from app.domain.digests import Measurement, StoredFile
from app.domain.promotions import OPEN

Key = tuple[str, int, str]
"""Path, size and stamp: what must be the same for a digest to be that of the file."""


class Measurements:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, promotion_id: str) -> Measurement | None:
        rows = await self._connection.execute(select(measurements).where(measurements.c.promotion_id == promotion_id))
        row = rows.one_or_none()
        return Measurement(**row._mapping) if row else None  # noqa: SLF001  # SQLAlchemy's name for it

    async def begin(self, promotion_id: str, *, total_bytes: int, total_files: int, at: datetime) -> None:
        """Begin, or begin again. A digest that is there stays until another one is found."""
        values = {
            "total_bytes": total_bytes,
            "read_bytes": 0,
            "total_files": total_files,
            "done_files": 0,
            "started_at": at,
            "updated_at": at,
        }
        statement = insert(measurements).values(promotion_id=promotion_id, **values)
        await self._connection.execute(statement.on_conflict_do_update(index_elements=["promotion_id"], set_=values))

    async def report(self, promotion_id: str, *, read_bytes: int, done_files: int, at: datetime) -> None:
        await self._connection.execute(
            update(measurements)
            .where(measurements.c.promotion_id == promotion_id)
            .values(read_bytes=read_bytes, done_files=done_files, updated_at=at)
        )

    async def finish(self, promotion_id: str, digest: str) -> None:
        await self._connection.execute(
            update(measurements).where(measurements.c.promotion_id == promotion_id).values(digest=digest)
        )

    async def keep(self, promotion_id: str, files: Iterable[tuple[StoredFile, str]]) -> None:
        """Files that were read, with their SHA-256."""
        rows = [
            {"promotion_id": promotion_id, "path": file.path, "size": file.size, "stamp": file.stamp, "sha256": sha256}
            for file, sha256 in files
        ]
        if not rows:
            return
        statement = insert(measured_files)
        newer = {name: statement.excluded[name] for name in ("size", "stamp", "sha256")}
        await self._connection.execute(
            statement.on_conflict_do_update(index_elements=["promotion_id", "path"], set_=newer), rows
        )

    async def kept(self, promotion_id: str) -> Mapping[Key, str]:
        """The SHA-256 of every file that was kept."""
        rows = await self._connection.execute(
            select(measured_files).where(measured_files.c.promotion_id == promotion_id)
        )
        return {(row.path, row.size, row.stamp): row.sha256 for row in rows}

    async def forget_settled(self, limit: int = 100) -> int:
        """Drop the files of promotions that wait for nothing any more; of how many."""
        settled = (
            select(measured_files.c.promotion_id)
            .distinct()
            .join(promotions, promotions.c.id == measured_files.c.promotion_id)
            .where(promotions.c.state.not_in([state.value for state in OPEN]))
            .limit(limit)
        )
        found = [str(each) for each in await self._connection.scalars(settled)]
        for promotion_id in found:
            await self.forget(promotion_id)
        return len(found)

    async def forget(self, promotion_id: str) -> None:
        """Drop the files of a promotion that is settled: they are of no more use. The measurement stays."""
        await self._connection.execute(delete(measured_files).where(measured_files.c.promotion_id == promotion_id))
