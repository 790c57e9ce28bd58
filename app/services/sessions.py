"""Browser sessions: whose one is, which there are, and how they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from app.adapters.postgres.sessions import Ended
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Principal, may, require
from app.domain.audit import Actor, Entry
from app.domain.errors import InsufficientScope, NotAuthenticated, NotFound
from app.domain.identity import Credential, CredentialKind, Scope, Verified
from app.domain.roles import Permission
from app.domain.sessions import EndReason, Lifetimes, Session, has_form_of_secret
from app.ports import Clock
from app.services.recording import UnitOfWorkFactory, actor_of


class Sessions:
    """See the module.

    Args:
        unit_of_work: opens transactions.
        clock: the time.
        lifetimes: how long sessions last.
        providers: the issuer of each provider where people may sign in now, by its short name. A session of any other
            is good no more.
    """

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, clock: Clock, *, lifetimes: Lifetimes, providers: Mapping[str, str]
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._lifetimes = lifetimes
        self._providers = providers

    async def verify(self, secret: str) -> Verified:
        """Whose session a cookie is. One SQL statement.

        Raises:
            NotAuthenticated: there is no such session, it is over, or its owner is disabled.
        """
        if not has_form_of_secret(secret):
            raise _unknown()
        now = self._clock.now()
        async with self._unit_of_work() as work:
            found = await work.sessions.verify(secret, lifetimes=self._lifetimes, now=now)
            await work.commit()
        if found is None:
            raise _unknown()
        session, principal = found
        if principal.disabled_at is not None:
            raise NotAuthenticated(
                "An administrator has disabled this account.", error="invalid_token", principal_id=principal.identity.id
            )
        if self._providers.get(session.provider) != principal.identity.issuer:
            raise _unknown()
        return Verified(
            identity=principal.identity,
            credential=Credential(
                CredentialKind.SESSION,
                id=session.id,
                authenticated_at=session.authenticated_at,
                acr=session.acr,
            ),
            expires_at=self._lifetimes.believed_until(session, now).timestamp(),
        )

    async def page(
        self, principal: Principal, *, of: str | None, everybody: bool, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Session]:
        """Sessions that go on, newest first: one's own, those of the principal ``of``, or everybody's.

        Raises:
            Forbidden: somebody else's are for administrators.
        """
        _check_credential(principal)
        if everybody or (of is not None and of != principal.id):
            require(principal, Permission.IDENTITIES_ADMINISTER)
        async with self._unit_of_work() as work:
            return await work.sessions.page(
                principal_id=None if everybody else of or principal.id,
                before=before,
                limit=limit,
                lifetimes=self._lifetimes,
                now=self._clock.now(),
            )

    async def end(self, principal: Principal, session_id: str) -> None:
        """End one's own session, or as an administrator anybody's, on every process within a second.

        Raises:
            NotFound: there is none that goes on, or it is not for this principal to see.
        """
        _check_credential(principal)
        now = self._clock.now()
        async with self._unit_of_work() as work:
            session = await work.sessions.get(session_id, lifetimes=self._lifetimes, now=now)
            if session is None or not _may_end(principal, session):
                raise NotFound("There is no such session.", session=session_id[:100])
            ended = await work.sessions.end(session_id=session_id, by=principal.id, reason=EndReason.ENDED, at=now)
            record_ends(work, ended, actor=actor_of(principal), reason=EndReason.ENDED, at=now)
            await work.commit()

    async def end_others(self, principal: Principal) -> int:
        """End all of one's own sessions but the one this is asked in; how many there were."""
        _check_credential(principal)
        now = self._clock.now()
        kept = principal.credential.id if principal.credential.kind is CredentialKind.SESSION else None
        async with self._unit_of_work() as work:
            ended = await work.sessions.end(
                principal_id=principal.id, besides=kept, by=principal.id, reason=EndReason.ENDED, at=now
            )
            record_ends(work, ended, actor=actor_of(principal), reason=EndReason.ENDED, at=now)
            await work.commit()
        return len(ended)


def record_ends(work: UnitOfWork, ended: Sequence[Ended], *, actor: Actor, reason: EndReason, at: datetime) -> None:
    """Write down that sessions ended, and have every process forget them."""
    for session in ended:
        details = {"reason": reason.value, "principal": session.principal_id, "provider": session.provider}
        work.record(Entry(at=at, actor=actor, action="session.ended", object_id=session.id, details=details))
    if ended:
        work.forget_callers()


def _may_end(principal: Principal, session: Session) -> bool:
    return session.principal_id == principal.id or may(principal, Permission.IDENTITIES_ADMINISTER)


def _check_credential(principal: Principal) -> None:
    """A token that was given less than its owner may do is not for looking after their sessions.

    Raises:
        InsufficientScope: it has not the scope ``admin``.
    """
    if principal.scopes is not None and Scope.ADMIN not in principal.scopes:
        raise InsufficientScope(
            "Sessions are for a person in a browser, or a token with the scope admin.", scope="admin"
        )


def _unknown() -> NotAuthenticated:
    return NotAuthenticated("Your session has ended. Reload the page to sign in again.", error="invalid_token")
