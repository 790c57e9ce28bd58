"""Verifications: one row for each version that a promotion put on an alias, and when it is looked at next."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, astuple
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    ScalarSelect,
    Select,
    and_,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import alias_holders, promotions, verifications
from app.domain.verifying import BytesState, Seen, Verification, VersionKey

_KEY = (
    verifications.c.workspace,
    verifications.c.model,
    verifications.c.model_created_at,
    verifications.c.version,
    verifications.c.version_created_at,
)

_ENSURE = text(
    """
    INSERT INTO verifications
        (workspace, model, model_created_at, version, version_created_at, uri, digest, promotion_id, state, due_at)
    SELECT DISTINCT ON (p.workspace, p.model, p.model_created_at, p.to_version, p.version_created_at)
        p.workspace, p.model, p.model_created_at, p.to_version, p.version_created_at, p.uri, p.digest, p.id,
        'as_approved', :at
    FROM alias_holders h JOIN promotions p ON p.id = h.promotion_id
    WHERE p.digest IS NOT NULL AND NOT EXISTS (
        SELECT FROM verifications v
        WHERE v.workspace = p.workspace AND v.model = p.model AND v.model_created_at = p.model_created_at
            AND v.version = p.to_version AND v.version_created_at = p.version_created_at
    )
    ORDER BY p.workspace, p.model, p.model_created_at, p.to_version, p.version_created_at, p.applied_at DESC
    ON CONFLICT DO NOTHING
    """
)


class Verifications:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def approve(self, approved: Verification) -> None:
        """A version holds an alias from now on, and what lies there was found to be what was approved.

        What was found wrong with the same bytes is not forgotten by it: they are looked at again, at once.
        """
        row = {
            **asdict(approved.key),
            "uri": approved.uri,
            "digest": approved.digest,
            "promotion_id": approved.promotion_id,
            "state": approved.state.value,
            "message": approved.message,
            "stamps": _stamps(approved.seen),
            "looked_at": approved.looked_at,
            "read_at": approved.read_at,
            "obstacle": None,
            "unread_bytes": None,
            "due_at": approved.due_at,
        }
        statement = insert(verifications).values(row)
        newer: dict[str, ColumnElement[Any]] = {name: statement.excluded[name] for name in row}
        is_same = and_(verifications.c.digest == newer["digest"], verifications.c.uri == newer["uri"])
        for name in ("state", "message"):
            newer[name] = case((is_same, verifications.c[name]), else_=newer[name])
        newer["writes"] = verifications.c.writes + 1
        await self._connection.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=newer))

    async def ensure_holders(self, at: datetime) -> None:
        """A row for each version that holds an alias and has none, as those that came to hold it before this was."""
        await self._connection.execute(_ENSURE, {"at": at})

    async def due(self, now: datetime, *, within: timedelta) -> Sequence[VersionKey]:
        """Those that are to be looked at by now, those first that have waited longest.

        Also those that are not due for longer than ``within``: the clock was set back.
        """
        is_due = or_(verifications.c.due_at <= now, verifications.c.due_at > now + within)
        rows = await self._connection.execute(select(*_KEY).where(is_due).order_by(verifications.c.due_at))
        return [VersionKey(*row) for row in rows]

    async def unread(self) -> Sequence[VersionKey]:
        """Those of which much is to be read."""
        query = select(*_KEY).where(verifications.c.unread_bytes.is_not(None)).order_by(verifications.c.due_at)
        return [VersionKey(*row) for row in await self._connection.execute(query)]

    async def find(self, key: VersionKey) -> Verification | None:
        """Without what is known of its files."""
        row = (await self._connection.execute(_BRIEF.where(*_is(key)))).first()
        return _verification(row, {}) if row else None

    async def load(self, key: VersionKey) -> Verification | None:
        row = (await self._connection.execute(_BRIEF.add_columns(verifications.c.stamps).where(*_is(key)))).first()
        return _verification(row, _seen(row.stamps)) if row else None

    async def keep_seen(self, key: VersionKey, seen: Mapping[str, Seen]) -> None:
        """Files that were read, whatever was found. Nothing is concluded from it yet."""
        known = func.coalesce(verifications.c.stamps, literal({}, JSONB))
        together = known.op("||")(literal(_stamps(seen), JSONB))
        await self._connection.execute(update(verifications).where(*_is(key)).values(stamps=together))

    async def save(self, before: Verification, after: Verification) -> bool:
        """Write what was found, if nobody has concluded anything since it was read; whether so.

        If somebody asked for another look meanwhile, it is due. What was found stands: else whoever goes on asking
        could keep anything from ever being concluded.
        """
        was_due = verifications.c.due_at == before.due_at
        result = await self._connection.execute(
            update(verifications)
            .where(
                *_is(before.key),
                verifications.c.writes == before.writes,
                verifications.c.digest == before.digest,
                verifications.c.state == before.state.value,
            )
            .values(
                state=after.state.value,
                message=after.message,
                looked_at=after.looked_at,
                read_at=after.read_at,
                obstacle=after.obstacle,
                unread_bytes=after.unread_bytes,
                due_at=case((was_due, after.due_at), else_=verifications.c.due_at),
                writes=verifications.c.writes + 1,
            )
        )
        return result.rowcount == 1

    async def make_due(self, uris: Collection[str], at: datetime) -> int:
        """Have the versions that lie at these addresses looked at as soon as somebody can; how many there are."""
        result = await self._connection.execute(
            update(verifications).where(verifications.c.uri.in_(uris)).values(due_at=at)
        )
        return result.rowcount

    async def counts(self, *, unseen_since: datetime) -> Mapping[str, int]:
        """How many versions that hold an alias are *changed* or *gone*, and how many were not seen since (*unseen*)."""
        # The condition stands in the text, so that PostgreSQL knows that the index of such rows will do.
        is_bad = verifications.c.state != literal_column("'as_approved'")
        states = select(verifications.c.state, func.count()).where(is_bad, _ALIASES.is_not(None)).group_by("state")
        found = {str(state): int(count) for state, count in await self._connection.execute(states)}
        unseen = (
            select(func.count())
            .select_from(verifications)
            .where(
                or_(verifications.c.looked_at < unseen_since, verifications.c.looked_at.is_(None)),
                _ALIASES.is_not(None),
            )
        )
        return {
            BytesState.CHANGED.value: found.get(BytesState.CHANGED.value, 0),
            BytesState.GONE.value: found.get(BytesState.GONE.value, 0),
            "unseen": int(await self._connection.scalar(unseen) or 0),
        }


def _aliases() -> ScalarSelect[Any]:
    by = alias_holders.join(promotions, promotions.c.id == alias_holders.c.promotion_id)
    return (
        select(func.array_agg(aggregate_order_by(alias_holders.c.alias, alias_holders.c.alias)))
        .select_from(by)
        .where(
            alias_holders.c.workspace == verifications.c.workspace,
            alias_holders.c.model == verifications.c.model,
            alias_holders.c.version == verifications.c.version,
            promotions.c.model_created_at == verifications.c.model_created_at,
            promotions.c.version_created_at == verifications.c.version_created_at,
        )
        .correlate(verifications)
        .scalar_subquery()
    )


_ALIASES = _aliases()
"""Those that a version holds now; none where it holds none."""

_BRIEF: Select[Any] = select(
    *(column for column in verifications.c if column.name != "stamps"), _ALIASES.label("aliases")
)


def _is(key: VersionKey) -> Sequence[ColumnElement[bool]]:
    return [column == value for column, value in zip(_KEY, astuple(key), strict=True)]


def _verification(row: Row[Any], seen: Mapping[str, Seen]) -> Verification:
    return Verification(
        VersionKey(row.workspace, row.model, row.model_created_at, row.version, row.version_created_at),
        uri=row.uri,
        digest=row.digest,
        promotion_id=row.promotion_id,
        due_at=row.due_at,
        state=BytesState(row.state),
        message=row.message,
        seen=seen,
        looked_at=row.looked_at,
        read_at=row.read_at,
        obstacle=row.obstacle,
        unread_bytes=row.unread_bytes,
        aliases=tuple(row.aliases or ()),
        writes=row.writes,
    )


def _stamps(seen: Mapping[str, Seen]) -> dict[str, list[object]]:
    return {path: [each.size, each.stamp, each.sha256, each.read_at.isoformat()] for path, each in seen.items()}


def _seen(stamps: Mapping[str, Sequence[Any]] | None) -> dict[str, Seen]:
    return {
        path: Seen(size, stamp, sha256, datetime.fromisoformat(read_at))
        for path, (size, stamp, sha256, read_at) in (stamps or {}).items()
    }
