"""What the ledger knows of a reference: who holds it by a promotion, what is known of the bytes, what is moving."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Row, TextClause, and_, func, literal_column, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import verifications
from app.domain.policies import policy_from_document
from app.domain.promotions import AliasKey
from app.domain.resolutions import Held, Known
from app.domain.verifying import BytesState, Verification, VersionKey


class Resolutions:
    """One statement for each reference: thousands of servers ask."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def of_alias(self, key: AliasKey) -> Known:
        names = {"workspace": key.workspace, "model": key.model, "alias": key.alias}
        return await self._known(_OF_ALIAS, names)

    async def of_version(self, workspace: str, model: str, version: str) -> Known:
        return await self._known(_OF_VERSION, {"workspace": workspace, "model": model, "version": version})

    async def not_as_approved(self, uri: str) -> BytesState | None:
        """What was found of the bytes at an address, if they are of some version that was approved, and not so now.

        Or those of such a version are a part of them. Of one that is gone, no part is there.
        """
        # The condition stands in the text, so that PostgreSQL knows that the index of such rows will do: they are few.
        state, approved = verifications.c.state, verifications.c.uri
        is_part = and_(state == literal_column("'changed'"), func.starts_with(approved, uri))
        is_there = or_(func.starts_with(uri, approved), is_part)
        query = select(state).where(state != literal_column("'as_approved'"), is_there).limit(1)
        found = await self._connection.scalar(query)
        return None if found is None else BytesState(found)

    async def _known(self, statement: TextClause, names: Mapping[str, str]) -> Known:
        rows = (await self._connection.execute(statement, names)).all()
        return Known(frozenset(rows[0].moving), tuple(_held(row) for row in rows if row.id is not None))


def _held(row: Row[tuple[object, ...]]) -> Held:
    is_in_force = row.document is not None and row.document.get("retired") is not True
    return Held(
        promotion_id=row.id,
        alias=row.alias,
        version=row.to_version,
        uri=row.uri,
        source_uri=row.source_uri,
        run_id=row.run_id,
        digest=row.digest,
        policy=policy_from_document(row.document, revision=row.revision) if is_in_force else None,
        verification=_verification(row) if row.bytes_state else None,
        description=row.description,
        size=row.size,
        file_count=row.file_count,
    )


def _verification(row: Row[tuple[object, ...]]) -> Verification:
    """As far as the answer depends on it."""
    return Verification(
        key=VersionKey(row.workspace, row.model, row.model_created_at, row.to_version, row.version_created_at),
        uri=row.uri,
        digest=row.bytes_digest,
        promotion_id=row.bytes_promotion,
        due_at=row.bytes_due_at,
        state=BytesState(row.bytes_state),
        message=row.bytes_message,
    )


_KNOWN = """
    WITH held AS ({held})
    SELECT held.*, policy.document, policy.revision, manifests.description, manifests.size, manifests.file_count,
        verifications.state AS bytes_state,
        verifications.message AS bytes_message, verifications.digest AS bytes_digest,
        verifications.promotion_id AS bytes_promotion, verifications.due_at AS bytes_due_at,
        ARRAY(
            SELECT alias FROM promotions
            WHERE workspace = :workspace AND model = :model AND state = 'applying'
        ) AS moving
    FROM (SELECT) AS always
    LEFT JOIN held ON true
    LEFT JOIN LATERAL (
        SELECT document, revision FROM policy_revisions
        WHERE name = held.policy_name ORDER BY revision DESC LIMIT 1
    ) AS policy ON true
    LEFT JOIN manifests ON manifests.digest = held.digest
    LEFT JOIN verifications ON
        verifications.workspace = held.workspace AND verifications.model = held.model
        AND verifications.model_created_at = held.model_created_at
        AND verifications.version = held.to_version
        AND verifications.version_created_at = held.version_created_at
    ORDER BY held.applied_at DESC NULLS LAST
"""
_HELD = """
    SELECT p.* FROM alias_holders h JOIN promotions p ON p.id = h.promotion_id
    WHERE h.workspace = :workspace AND h.model = :model AND {condition}
"""
_DESIRED = """
    SELECT p.* FROM (
        SELECT DISTINCT called.* FROM deployments d, LATERAL (VALUES
            (d.version, d.uri, d.digest), (d.stable ->> 'version', d.stable ->> 'uri', d.stable ->> 'digest')
        ) AS called (version, uri, digest)
        WHERE d.workspace = :workspace AND d.model = :model AND d.action = 'apply' AND called.version = :version
    ) AS called, LATERAL (
        SELECT * FROM promotions
        WHERE workspace = :workspace AND model = :model AND to_version = called.version
            AND uri = called.uri AND digest = called.digest
            AND (applied_at IS NOT NULL OR state IN ('applying', 'rolling_out'))
        ORDER BY created_at DESC LIMIT 1
    ) AS p
"""
"""By which a version was approved that a target is to serve: one whose alias follows, and what was served before."""
_OF_ALIAS = text(_KNOWN.format(held=_HELD.format(condition="h.alias = :alias")))
_OF_VERSION = text(_KNOWN.format(held=f"{_HELD.format(condition='p.to_version = :version')} UNION ALL {_DESIRED}"))
