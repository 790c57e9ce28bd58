"""Manifests: written once for each digest, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import manifests
from app.domain.digests import FileDigest
from app.domain.manifests import Manifest


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """A manifest without its files, of which there may be 50,000. ``size`` is that of all, in bytes."""

    size: int
    file_count: int
    description: Mapping[str, object]


class Manifests:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, manifest: Manifest, *, at: datetime) -> None:
        """Write it, unless it is there: the same digest, the same manifest."""
        values = {
            "digest": manifest.digest,
            "files": [[file.path, file.size, file.sha256] for file in manifest.files],
            "size": manifest.size,
            "file_count": manifest.file_count,
            "description": dict(manifest.description),
            "created_at": at,
        }
        await self._connection.execute(insert(manifests).values(values).on_conflict_do_nothing())

    async def has(self, digest: str) -> bool:
        return bool(await self._connection.scalar(select(exists().where(manifests.c.digest == digest))))

    async def find(self, digest: str) -> Manifest | None:
        row = (await self._connection.execute(select(manifests).where(manifests.c.digest == digest))).first()
        if row is None:
            return None
        files = tuple(FileDigest(path, size, sha256) for path, size, sha256 in row.files)
        return Manifest(row.digest, files, row.size, row.description)

    async def summary(self, digest: str) -> ManifestSummary | None:
        query = select(manifests.c.size, manifests.c.file_count, manifests.c.description)
        row = (await self._connection.execute(query.where(manifests.c.digest == digest))).first()
        return ManifestSummary(row.size, row.file_count, row.description) if row else None
