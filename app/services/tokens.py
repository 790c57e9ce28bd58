"""Tokens of ours: personal ones made, listed and revoked, and every kind verified."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

import structlog

from app.adapters.postgres.tokens import KnownToken
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Principal, may, require
from app.domain.audit import Actor, Entry
from app.domain.clients import COMMAND_LINE
from app.domain.errors import Conflict, CountersignError, Forbidden, NotAuthenticated, NotFound, TooManyRequests
from app.domain.identity import Credential, CredentialKind, Scope, Verified, digest_of
from app.domain.roles import Permission
from app.domain.tokens import (
    USED_AGAIN_AFTER,
    Prefix,
    Token,
    check_bearer,
    check_interactive,
    new_token,
    personal_token,
    prefix_of,
    scope_text,
)
from app.ports import Clock
from app.services.identifiers import new_id
from app.services.recording import UnitOfWorkFactory, actor_of
from app.services.throttling import Throttle

MOST_A_MINUTE = 30
"""Personal tokens that one person makes. Each leaves a row behind for a month, revoked or not."""

_log = structlog.stdlib.get_logger(__name__)


class Pace:
    """How many tokens one principal is given in a minute by this process, so that nobody fills the database."""

    def __init__(self, per_minute: int) -> None:
        self._throttle = Throttle(per_minute)

    def hit(self, principal_id: str) -> None:
        """Count one. Raises ``TooManyRequests``: it was one too many."""
        try:
            self._throttle.hit(principal_id)
        except TooManyRequests as error:
            raise TooManyRequests(
                "You were given too many tokens in a minute. Wait a minute.", retry_after_s=error.retry_after_s
            ) from None


class Tokens:
    """See the module.

    Args:
        unit_of_work: opens transactions.
        clock: the time.
        longest_days: a personal token is good for, at most.
        most: live personal tokens that one person may have.
    """

    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock, *, longest_days: int, most: int) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._longest_days = longest_days
        self._most = most
        self._pace = Pace(MOST_A_MINUTE)
        self._notes: dict[str, asyncio.Task[None]] = {}

    async def create(
        self, principal: Principal, *, name: str, scopes: Sequence[Scope], expires_in_days: int
    ) -> tuple[Token, str]:
        """A new personal token, and its secret, which is never shown again.

        Raises:
            InvalidInput: names the field. Forbidden: not for this principal, or not with this credential.
            InsufficientScope: the credential may do less. Conflict: the name is taken, or there are too many.
        """
        wanted = personal_token(
            name=name,
            scopes=scopes,
            days=expires_in_days,
            by=principal.credential,
            kind=principal.kind,
            longest_days=self._longest_days,
        )
        self._pace.hit(principal.id)
        secret, now = new_token(Prefix.PERSONAL), self._clock.now()
        token = Token(
            id=new_id("tok"),
            kind=CredentialKind.PERSONAL,
            principal_id=principal.id,
            name=wanted.name,
            scopes=wanted.scopes,
            created_at=now,
            expires_at=now + wanted.lasts,
        )
        async with self._unit_of_work() as work:
            await _check_client(work, principal)
            if principal.credential.kind is CredentialKind.PROVIDER:
                await _vouch(work, principal, now)
            # Two at once would both see one place left.
            if await work.tokens.lock_owner(principal.id) is not None:
                raise _disabled(principal.id)
            names = await work.tokens.live_names(principal.id, now=now)
            if wanted.name in names:
                raise Conflict(f"You have a token named {wanted.name}. Revoke it, or take another name.")
            if len(names) >= self._most:
                raise Conflict(f"You have {len(names)} tokens, and {self._most} are allowed. Revoke one.")
            await work.tokens.add(token, digest=digest_of(secret))
            work.record(_entry("token.created", token, actor=actor_of(principal), at=now))
            await work.commit()
        return token, secret

    async def page(
        self, principal: Principal, *, of: str | None, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Token]:
        """Personal tokens, newest first: one's own, or as an administrator those of the principal ``of``.

        Raises:
            Forbidden: somebody else's are for administrators, and one's own are not for a token to see.
        """
        async with self._unit_of_work() as work:
            owner = await owner_to_list(work, principal, of)
            return await work.tokens.page(owner, before=before, limit=limit)

    async def revoke(self, principal: Principal, token_id: str) -> None:
        """Revoke one's own token, or as an administrator anybody's. Revoking it again changes nothing.

        Raises:
            NotFound: there is none, or it is somebody else's. Forbidden: a token cannot revoke others.
        """
        async with self._unit_of_work() as work:
            token = await work.tokens.get(token_id)
            is_own = token is not None and token.principal_id == principal.id
            if not may(principal, Permission.IDENTITIES_ADMINISTER):
                await check_looks_after(work, principal)
                if not is_own:
                    token = None
            if token is None or token.kind is not CredentialKind.PERSONAL:
                raise NotFound(f"There is no token {token_id[:100]}.", token=token_id[:100])
            await self._revoke(work, token, actor_of(principal))

    async def revoke_shown(self, secret: str) -> None:
        """Revoke the token that somebody holds (RFC 7009). What is not known needs no revoking.

        A token that leaked is found by strangers, too: whoever holds it may end it.
        """
        if prefix_of(secret) is None:
            return
        async with self._unit_of_work() as work:
            known = await work.tokens.find(digest_of(secret))
            if known is not None:
                await self._revoke(work, known.token, Actor(id=known.identity.id, name=known.identity.name))

    async def verify(self, secret: str) -> Verified:
        """Who shows a token of ours. One SQL statement; none for a token that was mistyped.

        Raises:
            NotAuthenticated: it is not known, or worth nothing any more; the message says which.
        """
        check_bearer(secret)
        async with self._unit_of_work() as work:
            known = await work.tokens.find(digest_of(secret))
        now = self._clock.now()
        if known is None:
            raise NotAuthenticated("The token is not known here.", error="invalid_token")
        _check_worth(known, now)
        token = known.token
        if token.last_used_at is None or token.last_used_at <= now - USED_AGAIN_AFTER:
            self._note_use(token.id, now)
        return Verified(
            identity=known.identity,
            credential=Credential(
                kind=token.kind,
                id=token.id,
                scopes=token.scopes,
                authenticated_at=known.authenticated_at,
                acr=known.acr,
            ),
            expires_at=token.expires_at.timestamp(),
        )

    async def close(self) -> None:
        """Wait for the last notes of use."""
        await asyncio.gather(*self._notes.values())

    async def _revoke(self, work: UnitOfWork, token: Token, actor: Actor) -> None:
        now = self._clock.now()
        if await work.tokens.revoke(token.id, at=now, by=actor.id):
            work.record(_entry("token.revoked", token, actor=actor, at=now))
            # Once: with a token that is worth nothing, nobody makes every gateway forget all callers again and again.
            work.forget_callers()
        await work.commit()

    def _note_use(self, token_id: str, at: datetime) -> None:
        """Write when a token was used, while the request goes on."""
        if token_id in self._notes:
            return
        task = asyncio.create_task(self._write_use(token_id, at), name="note the use of a token")
        self._notes[token_id] = task
        task.add_done_callback(lambda _: self._notes.pop(token_id, None))

    async def _write_use(self, token_id: str, at: datetime) -> None:
        try:
            async with self._unit_of_work() as work:
                await work.tokens.used(token_id, at=at, again_after=USED_AGAIN_AFTER)
                await work.commit()
        except CountersignError as error:
            # Whoever was let in has been let in; the next use is noted again.
            _log.warning("use_not_noted", id=token_id, detail=error.message)


async def owner_to_list(work: UnitOfWork, principal: Principal, of: str | None) -> str:
    """Whose tokens or logins are listed: one's own, or as an administrator those of the principal ``of``.

    Raises:
        Forbidden: somebody else's are for administrators, and one's own are not for a token to see.
    """
    if of is None or of == principal.id:
        await check_looks_after(work, principal)
        return principal.id
    require(principal, Permission.IDENTITIES_ADMINISTER)
    return of


async def check_looks_after(work: UnitOfWork, principal: Principal) -> None:
    """Return if this credential is one with which somebody looks after their tokens and logins.

    Raises:
        Forbidden: it is not.
    """
    check_interactive(principal.credential, principal.kind)
    await _check_client(work, principal)


async def _check_client(work: UnitOfWork, principal: Principal) -> None:
    """A web client that somebody signed in to gets no token that outlives it.

    Raises:
        Forbidden: the login is of another client than the command line.
    """
    if principal.credential.kind is not CredentialKind.LOGIN:
        return
    if await work.tokens.client_of(principal.credential.id) != COMMAND_LINE.id:
        raise Forbidden("This client cannot look after tokens: use a browser or `countersign login`.")


async def _vouch(work: UnitOfWork, principal: Principal, now: datetime) -> None:
    """Keep what a token of the provider says: what is made with it speaks for them when it is gone.

    Unless the provider has said something since, as at a sign-in: groups that have vanished stay gone.
    """
    await work.tokens.lock_owner(principal.id)  # they may be signing in at this moment
    known, said_at = await work.principals.get(principal.id), principal.credential.issued_at
    if known is None:
        await work.principals.vouch(principal.identity, at=said_at or now)
    elif said_at is not None and said_at >= known.vouched_at:
        await work.principals.vouch(principal.identity, at=said_at)
        if known.identity != principal.identity:
            work.forget_callers()


def _check_worth(known: KnownToken, now: datetime) -> None:
    token = known.token
    if token.revoked_at is not None:
        raise NotAuthenticated("The token was revoked.", error="invalid_token")
    if known.login_ended_at is not None:
        raise NotAuthenticated("The login of this token has ended. Sign in again.", error="invalid_token")
    if token.expires_at <= now:
        raise NotAuthenticated("The token has expired.", error="invalid_token")
    if known.disabled_at is not None:
        raise _disabled(known.identity.id)


def _disabled(principal_id: str) -> NotAuthenticated:
    return NotAuthenticated(
        "An administrator has disabled this account.", error="invalid_token", principal_id=principal_id
    )


def _entry(action: str, token: Token, *, actor: Actor, at: datetime) -> Entry:
    return Entry(
        at=at,
        actor=actor,
        action=action,
        object_id=token.id,
        details={
            "kind": token.kind.value,
            "name": token.name,
            "owner": token.principal_id,
            "scope": scope_text(token.scopes),
            "expires_at": token.expires_at.isoformat(timespec="seconds"),
        },
    )
