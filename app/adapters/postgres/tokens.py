"""Tokens of ours, as digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Row, and_, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.principals import claims_document, claims_of
from app.adapters.postgres.tables import logins, principals, tokens
from app.domain.identity import CredentialKind, Identity, PrincipalKind, Scope
from app.domain.tokens import Token

KEPT = timedelta(days=30)
"""After its end, so that its owner sees that it is over and hears why; short-lived ones an hour."""
KEPT_SHORT_LIVED = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token, whose it is, and what could make it worthless."""

    token: Token
    identity: Identity
    disabled_at: datetime | None
    login_ended_at: datetime | None
    authenticated_at: datetime | None
    """When the person behind a login's token proved who they are, before they signed in to the client."""
    acr: str | None = None


class Tokens:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, token: Token, *, digest: bytes, identity: Identity | None = None) -> None:
        """Keep a new token. ``identity`` is who it is for, where it is not what their provider says last."""
        await self._connection.execute(
            insert(tokens).values(
                id=token.id,
                kind=token.kind.value,
                digest=digest,
                principal_id=token.principal_id,
                name=token.name,
                scopes=sorted(token.scopes),
                identity=_document(identity) if identity else None,
                login_id=token.login_id,
                parent_id=token.parent_id,
                created_at=token.created_at,
                expires_at=token.expires_at,
            )
        )

    async def find(self, digest: bytes) -> KnownToken | None:
        """The token of a secret, in one statement."""
        query = (
            select(
                tokens,
                *(column.label(f"of_{column.name}") for column in principals.c),
                logins.c.ended_at.label("login_ended_at"),
                logins.c.authenticated_at.label("login_authenticated_at"),
                logins.c.acr.label("login_acr"),
            )
            .join(principals, principals.c.id == tokens.c.principal_id)
            .outerjoin(logins, logins.c.id == tokens.c.login_id)
            .where(tokens.c.digest == digest)
        )
        row = (await self._connection.execute(query)).first()
        if row is None:
            return None
        return KnownToken(
            token=_token(row),
            identity=_identity(row),
            disabled_at=row.of_disabled_at,
            login_ended_at=row.login_ended_at,
            authenticated_at=row.login_authenticated_at,
            acr=row.login_acr,
        )

    async def get(self, token_id: str, *, hold: bool = False) -> Token | None:
        """One token; ``hold`` keeps others from revoking it until the transaction ends."""
        query = select(tokens).where(tokens.c.id == token_id)
        row = (await self._connection.execute(query.with_for_update(read=True) if hold else query)).first()
        return _token(row) if row else None

    async def lock_owner(self, principal_id: str) -> datetime | None:
        """Let no other transaction give this principal a token until this one ends; when they were disabled."""
        query = select(principals.c.disabled_at).where(principals.c.id == principal_id).with_for_update(key_share=True)
        disabled_at: datetime | None = await self._connection.scalar(query)
        return disabled_at

    async def live_names(self, principal_id: str, *, now: datetime) -> Sequence[str]:
        """The names of somebody's personal tokens that can still be used."""
        rows = await self._connection.execute(
            select(tokens.c.name).where(
                tokens.c.principal_id == principal_id,
                tokens.c.kind == CredentialKind.PERSONAL.value,
                tokens.c.revoked_at.is_(None),
                tokens.c.expires_at > now,
            )
        )
        return [row.name for row in rows]

    async def client_of(self, token_id: str) -> str | None:
        """The client whose login a token belongs to."""
        client: str | None = await self._connection.scalar(
            select(logins.c.client).join(tokens, tokens.c.login_id == logins.c.id).where(tokens.c.id == token_id)
        )
        return client

    async def page(
        self, principal_id: str, *, before: tuple[datetime, str] | None = None, limit: int = 50
    ) -> Sequence[Token]:
        """Somebody's personal tokens, newest first, those before the key (created_at, id) of the last one seen."""
        query = (
            select(tokens)
            .where(tokens.c.principal_id == principal_id, tokens.c.kind == CredentialKind.PERSONAL.value)
            .order_by(tokens.c.created_at.desc(), tokens.c.id.desc())
            .limit(limit)
        )
        if before:
            query = query.where(tuple_(tokens.c.created_at, tokens.c.id) < tuple_(*before))
        return [_token(row) for row in await self._connection.execute(query)]

    async def revoke(self, token_id: str, *, at: datetime, by: str) -> bool:
        """Revoke a token and what was exchanged for it; whether it was not before."""
        revoked = await self._connection.execute(
            update(tokens)
            .where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
            .values(revoked_at=at, revoked_by=by)
        )
        # A statement of its own: what was exchanged while the first one waited for its lock is there only now.
        await self._connection.execute(
            update(tokens)
            .where(tokens.c.parent_id == token_id, tokens.c.revoked_at.is_(None))
            .values(revoked_at=at, revoked_by=by)
        )
        return revoked.rowcount == 1

    async def used(self, token_id: str, *, at: datetime, again_after: timedelta) -> None:
        """Keep when a token was used last, unless that was written lately."""
        await self._connection.execute(
            update(tokens)
            .where(
                tokens.c.id == token_id,
                or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at <= at - again_after),
            )
            .values(last_used_at=at)
        )

    async def sweep(self, now: datetime) -> int:
        """Remove tokens that ended a while ago; how many."""
        ended = func.least(tokens.c.expires_at, tokens.c.revoked_at)
        is_personal = tokens.c.kind == CredentialKind.PERSONAL.value
        removed = await self._connection.execute(
            delete(tokens).where(
                or_(
                    and_(is_personal, ended < now - KEPT),
                    and_(~is_personal, ended < now - KEPT_SHORT_LIVED),
                )
            )
        )
        return removed.rowcount


def _token(row: Row[tuple[object, ...]]) -> Token:
    return Token(
        id=row.id,
        kind=CredentialKind(row.kind),
        principal_id=row.principal_id,
        name=row.name,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        login_id=row.login_id,
        parent_id=row.parent_id,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )


def _document(identity: Identity) -> dict[str, object]:
    return {
        "issuer": identity.issuer,
        "subject": identity.subject,
        "name": identity.name,
        "kind": identity.kind.value,
        "groups": sorted(identity.groups),
        "claims": claims_document(identity),
    }


def _identity(row: Row[tuple[object, ...]]) -> Identity:
    """The identity that the token holds, else what the provider said last."""
    kept = row.identity
    if kept is not None:
        return Identity(
            issuer=kept["issuer"],
            subject=kept["subject"],
            name=kept["name"],
            kind=PrincipalKind(kept["kind"]),
            groups=frozenset(kept["groups"]),
            claims=claims_of(kept["claims"]),
        )
    return Identity(
        issuer=row.of_issuer,
        subject=row.of_subject,
        name=row.of_name,
        kind=PrincipalKind(row.of_kind),
        groups=frozenset(row.of_groups),
        claims=claims_of(row.of_claims),
    )
