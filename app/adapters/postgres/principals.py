"""What providers said last of those whom sessions and tokens of ours belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import principals
from app.domain.identity import Claim, Identity, PrincipalKind


@dataclass(frozen=True, slots=True)
class KnownPrincipal:
    """An identity as it was vouched for last."""

    identity: Identity
    first_seen_at: datetime
    vouched_at: datetime
    disabled_at: datetime | None
    disabled_by: str | None


class Principals:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def vouch(self, identity: Identity, *, at: datetime) -> None:
        """Keep what a provider says of somebody now. Whether they are disabled is not for it to say."""
        values = _said(identity, at)
        statement = insert(principals).values(id=identity.id, first_seen_at=at, **values)
        await self._connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))

    async def learn(self, identity: Identity, *, said_at: datetime) -> None:
        """Keep what a token of a provider says of somebody, unless we were told something newer meanwhile.

        A token is believed until its end, and its groups with it; what is kept must not go back to an older one's.
        """
        values = _said(identity, said_at)
        statement = insert(principals).values(id=identity.id, first_seen_at=said_at, **values)
        await self._connection.execute(
            statement.on_conflict_do_update(index_elements=["id"], set_=values, where=principals.c.vouched_at < said_at)
        )

    async def is_outdated(self, identity: Identity, *, said_at: datetime) -> bool:
        """Whether we know this principal, and a token that was issued at a time says something newer and other."""
        found = await self._connection.scalar(
            select(principals.c.id).where(
                principals.c.id == identity.id,
                principals.c.vouched_at < said_at,
                principals.c.groups != sorted(identity.groups),
            )
        )
        return found is not None

    async def get(self, principal_id: str) -> KnownPrincipal | None:
        row = (await self._connection.execute(select(principals).where(principals.c.id == principal_id))).first()
        return known_principal(row) if row else None

    async def named(self, name: str) -> Sequence[KnownPrincipal]:
        """Those whom their providers call so; two at most, for who wants to know if there is one."""
        wanted = select(principals).where(principals.c.name == name).order_by(principals.c.id).limit(2)
        return [known_principal(row) for row in await self._connection.execute(wanted)]

    async def page(self, *, after: str, limit: int, search: str = "") -> Sequence[KnownPrincipal]:
        """By id, those after ``after``; only those whose id or name holds ``search``."""
        wanted = select(principals).where(principals.c.id > after).order_by(principals.c.id).limit(limit)
        if search:
            found = func.strpos(func.lower(principals.c.id), search.lower()) > 0
            wanted = wanted.where(found | (func.strpos(func.lower(principals.c.name), search.lower()) > 0))
        return [known_principal(row) for row in await self._connection.execute(wanted)]

    async def disabled(self) -> Sequence[str]:
        """The ids of those who are not let in."""
        found = await self._connection.scalars(select(principals.c.id).where(principals.c.disabled_at.is_not(None)))
        return list(found)

    async def set_disabled(self, principal_id: str, *, at: datetime | None, by: str | None) -> bool:
        """Disable somebody, or (``at`` is none) let them in again; whether there is such a principal."""
        changed = await self._connection.execute(
            update(principals).where(principals.c.id == principal_id).values(disabled_at=at, disabled_by=by)
        )
        return changed.rowcount == 1


def _said(identity: Identity, at: datetime) -> dict[str, object]:
    return {
        "issuer": identity.issuer,
        "subject": identity.subject,
        "name": identity.name,
        "kind": identity.kind.value,
        "groups": sorted(identity.groups),
        "claims": claims_document(identity),
        "vouched_at": at,
    }


def claims_document(identity: Identity) -> dict[str, object]:
    """Claims as the database keeps them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in sorted(identity.claims.items())}


def claims_of(document: dict[str, str | list[str]]) -> dict[str, Claim]:
    """The claims that ``claims_document`` wrote."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}


def identity_of(row: Row[tuple[object, ...]]) -> Identity:
    """The identity in a row with the columns of ``principals``."""
    return Identity(
        issuer=row.issuer,
        subject=row.subject,
        name=row.name,
        kind=PrincipalKind(row.kind),
        groups=frozenset(row.groups),
        claims=claims_of(row.claims),
    )


def known_principal(row: Row[tuple[object, ...]]) -> KnownPrincipal:
    return KnownPrincipal(identity_of(row), row.first_seen_at, row.vouched_at, row.disabled_at, row.disabled_by)
