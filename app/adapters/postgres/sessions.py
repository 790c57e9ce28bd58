"""Browser sessions, sign-ins that were begun, and the ids of tokens that are good once."""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import ColumnElement, Row, Select, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as insert_or
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.principals import KnownPrincipal, known_principal
from app.adapters.postgres.tables import principals, seen_token_ids, sessions, sign_ins
from app.domain.identity import digest_of
from app.domain.sessions import EndReason, Lifetimes, Session

KEPT = timedelta(days=1)
"""A session that is over is kept that long. What happened is in the audit log."""
_NONCE_BYTES = 12
"""Of AES-GCM (NIST SP 800-38D section 8.2)."""


@dataclass(frozen=True, slots=True)
class SignInBegun:
    """A sign-in that waits for the provider's answer, or did until ``expires_at``."""

    browser_digest: bytes
    provider: str
    nonce: str
    verifier: str
    return_to: str
    expires_at: datetime


class Sessions:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def begin(self, state: str, begun: SignInBegun, *, at: datetime) -> None:
        """Keep what the callback must be compared with."""
        await self._connection.execute(
            insert(sign_ins).values(
                state_digest=digest_of(state),
                browser_digest=begun.browser_digest,
                provider=begun.provider,
                nonce=begun.nonce,
                verifier=begun.verifier,
                return_to=begun.return_to,
                created_at=at,
                expires_at=begun.expires_at,
            )
        )

    async def take(self, state: str) -> SignInBegun | None:
        """A sign-in that was begun, once: of two that ask for the same one, one gets it."""
        row = (
            await self._connection.execute(
                delete(sign_ins).where(sign_ins.c.state_digest == digest_of(state)).returning(sign_ins)
            )
        ).first()
        if row is None:
            return None
        return SignInBegun(
            bytes(row.browser_digest), row.provider, row.nonce, row.verifier, row.return_to, row.expires_at
        )

    async def add(
        self, session: Session, *, secret: str, provider_session: str | None, logout_hint: str | None
    ) -> None:
        """Keep a new session, by the digest of its secret. ``logout_hint`` is sealed with the secret itself."""
        await self._connection.execute(
            insert(sessions).values(
                id=session.id,
                digest=digest_of(secret),
                principal_id=session.principal_id,
                provider=session.provider,
                provider_session=provider_session,
                logout_hint=_sealed(logout_hint, secret) if logout_hint is not None else None,
                created_at=session.created_at,
                authenticated_at=session.authenticated_at,
                acr=session.acr,
                last_seen_at=session.last_seen_at,
                expires_at=session.expires_at,
                address=session.address,
                user_agent=session.user_agent,
            )
        )

    async def verify(
        self, secret: str, *, lifetimes: Lifetimes, now: datetime
    ) -> tuple[Session, KnownPrincipal] | None:
        """The session of a secret, if it goes on, and whose it is; its last request is now.

        One statement, which writes only when the time that is written has grown old.
        """
        goes_on = sessions.c.digest == digest_of(secret), *_going_on(now, lifetimes)
        touched = (
            update(sessions)
            .where(*goes_on, sessions.c.last_seen_at <= now - lifetimes.touch_after)
            .values(last_seen_at=now)
            .returning(sessions.c.id, sessions.c.last_seen_at)
            .cte("touched")
        )
        seen = func.coalesce(touched.c.last_seen_at, sessions.c.last_seen_at).label("session_seen")
        found = (
            select(*[*_labelled(), seen, *principals.c])
            .select_from(_WITH_PRINCIPALS.outerjoin(touched, touched.c.id == sessions.c.id))
            .where(*goes_on)
        )
        row = (await self._connection.execute(found)).first()
        if row is None:
            return None
        return _session(row, name=row.name, last_seen_at=row.session_seen), known_principal(row)

    async def get(self, session_id: str, *, lifetimes: Lifetimes, now: datetime) -> Session | None:
        """A session that goes on."""
        row = (
            await self._connection.execute(_listed().where(sessions.c.id == session_id, *_going_on(now, lifetimes)))
        ).first()
        return _session(row, name=row.name) if row else None

    async def page(
        self,
        *,
        principal_id: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
        lifetimes: Lifetimes,
        now: datetime,
    ) -> Sequence[Session]:
        """Sessions that go on, newest first: of one principal, or of everybody."""
        wanted = _listed().where(*_going_on(now, lifetimes))
        if principal_id is not None:
            wanted = wanted.where(sessions.c.principal_id == principal_id)
        if before is not None:
            wanted = wanted.where(tuple_(sessions.c.created_at, sessions.c.id) < tuple_(*before))
        newest_first = wanted.order_by(sessions.c.created_at.desc(), sessions.c.id.desc()).limit(limit)
        return [_session(row, name=row.name) for row in await self._connection.execute(newest_first)]

    async def end(
        self,
        *,
        by: str,
        reason: EndReason,
        at: datetime,
        session_id: str | None = None,
        secret: str | None = None,
        principal_id: str | None = None,
        provider: str | None = None,
        provider_session: str | None = None,
        besides: str | None = None,
    ) -> Sequence[Ended]:
        """End the sessions that have not, all those that fit everything that is given.

        Args:
            by: the id of who ends them.
            reason: why.
            at: now.
            session_id: that one.
            secret: that of this secret.
            principal_id: those of one principal.
            provider: those of people who signed in there.
            provider_session: those of one session at the provider (``sid``).
            besides: but not that one.
        """
        given: list[ColumnElement[bool]] = []
        if session_id is not None:
            given.append(sessions.c.id == session_id)
        if secret is not None:
            given.append(sessions.c.digest == digest_of(secret))
        if principal_id is not None:
            given.append(sessions.c.principal_id == principal_id)
        if provider_session is not None:
            given.append(sessions.c.provider_session == provider_session)
        if not given:
            raise ValueError("say which sessions shall end")
        if provider is not None:
            given.append(sessions.c.provider == provider)
        if besides is not None:
            given.append(sessions.c.id != besides)
        rows = await self._connection.execute(
            update(sessions)
            .where(sessions.c.ended_at.is_(None), *given)
            .values(ended_at=at, ended_by=by, end_reason=reason.value)
            .returning(sessions.c.id, sessions.c.principal_id, sessions.c.provider, sessions.c.logout_hint)
        )
        return [
            Ended(
                row.id,
                row.principal_id,
                row.provider,
                _opened(row.logout_hint, secret) if secret and row.logout_hint else None,
            )
            for row in rows
        ]

    async def spend(self, issuer: str, token_id: str, *, until: datetime) -> bool:
        """Use up the id of a token that is good once; false if somebody has."""
        used = await self._connection.execute(
            insert_or(seen_token_ids)
            .values(issuer=issuer, token_id=token_id, expires_at=until)
            .on_conflict_do_nothing()
        )
        return used.rowcount == 1

    async def sweep(self, now: datetime) -> None:
        """Remove what is over."""
        await self._connection.execute(delete(sign_ins).where(sign_ins.c.expires_at < now))
        await self._connection.execute(delete(seen_token_ids).where(seen_token_ids.c.expires_at < now))
        over = or_(sessions.c.expires_at < now - KEPT, sessions.c.ended_at < now - KEPT)
        await self._connection.execute(delete(sessions).where(over))


@dataclass(frozen=True, slots=True)
class Ended:
    """A session that has just ended. The provider's ID token is known to whoever has the session's secret."""

    id: str
    principal_id: str
    provider: str
    logout_hint: str | None


_SHOWN = (
    sessions.c.id,
    sessions.c.principal_id,
    sessions.c.provider,
    sessions.c.created_at,
    sessions.c.authenticated_at,
    sessions.c.acr,
    sessions.c.last_seen_at,
    sessions.c.expires_at,
    sessions.c.address,
    sessions.c.user_agent,
)

_WITH_PRINCIPALS = sessions.join(principals, principals.c.id == sessions.c.principal_id)


def _labelled() -> list[ColumnElement[Any]]:
    """The columns of a session, under names that do not meet those of principals."""
    return [column.label(f"session_{column.name}") for column in _SHOWN]


def _listed() -> Select[*tuple[Any, ...]]:
    return select(*[*_labelled(), principals.c.name]).select_from(_WITH_PRINCIPALS)


def _going_on(now: datetime, lifetimes: Lifetimes) -> tuple[ColumnElement[bool], ...]:
    return (
        sessions.c.ended_at.is_(None),
        sessions.c.expires_at > now,
        sessions.c.last_seen_at > lifetimes.idle_since(now),
    )


def _session(row: Row[tuple[object, ...]], *, name: str, last_seen_at: datetime | None = None) -> Session:
    return Session(
        id=row.session_id,
        principal_id=row.session_principal_id,
        principal_name=name,
        provider=row.session_provider,
        created_at=row.session_created_at,
        authenticated_at=row.session_authenticated_at,
        acr=row.session_acr,
        last_seen_at=last_seen_at or row.session_last_seen_at,
        expires_at=row.session_expires_at,
        address=row.session_address,
        user_agent=row.session_user_agent,
    )


def _key(secret: str) -> bytes:
    """Another one than the digest, which the database holds."""
    return hmac.digest(secret.encode(), b"countersign logout hint", "sha256")


def _sealed(text: str, secret: str) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(_key(secret)).encrypt(nonce, text.encode(), None)


def _opened(sealed: bytes, secret: str) -> str | None:
    try:
        return AESGCM(_key(secret)).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None).decode()
    except InvalidTag:  # changed in the database: nobody needs it that much
        return None
