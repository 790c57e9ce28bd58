"""Clients that people sign in to: the device flow, the code flow, refresh with rotation, and the end.

Every secret is good once. A refresh token or code that comes a second time was stolen, or its owner's was, and nobody
can tell which: the login ends (RFC 9700 section 4.14.2, RFC 6749 section 4.1.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Principal, may
from app.domain.audit import ANONYMOUS, Actor, Entry
from app.domain.clients import Client, Clients, check_challenge, fits_challenge
from app.domain.errors import Forbidden, NotFound, OAuthRefused, Unavailable
from app.domain.identity import Credential, CredentialKind, PrincipalKind, Scope, digest_of
from app.domain.logins import AuthorizationCode, DeviceAuthorization, EndReason, Login
from app.domain.roles import Permission
from app.domain.tokens import (
    ACCESS_LASTS,
    CODE_LASTS,
    DEVICE_LASTS,
    POLL_S,
    Prefix,
    Token,
    new_token,
    new_user_code,
    prefix_of,
    read_user_code,
    refreshed_scopes,
    scope_text,
    scopes_of,
    shown_user_code,
)
from app.ports import Clock
from app.services.identifiers import new_id
from app.services.recording import UnitOfWorkFactory, actor_of
from app.services.throttling import Throttle, key_of
from app.services.tokens import Pace, check_looks_after, owner_to_list

MOST_A_MINUTE = 60
"""Codes and refreshes of one person, with all their clients. Each leaves a row behind."""
_TRIES = 5
_LONGEST_USER_AGENT = 200


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a client calls from, as the list of logins shows it."""

    address: str
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A device that waits for a person. ``device_code`` is secret."""

    device_code: str = field(repr=False)
    user_code: str = field(repr=False)
    lasts: timedelta = DEVICE_LASTS
    interval_s: int = POLL_S


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a person decides on: which client asks, from where, and for what."""

    user_code: str
    client: str
    title: str
    address: str
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True)
class Authorization:
    """A request for a code that is in order, but for the person's word."""

    client: Client
    redirect_uri: str
    state: str
    challenge: str
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True)
class Granted:
    """What a client gets. Both tokens are secret."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    scopes: frozenset[Scope]
    lasts: timedelta


class Logins:
    """See the module.

    Args:
        unit_of_work: opens transactions.
        clock: the time.
        clients: which there are.
        lifetime: how long a login lasts, however much it is refreshed.
        attempts: how many devices may ask from one address, and how many wrong codes one person may type, in a minute.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        clock: Clock,
        *,
        clients: Clients,
        lifetime: timedelta,
        attempts: Throttle,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._clients = clients
        self._lifetime = lifetime
        self._attempts = attempts
        self._pace = Pace(MOST_A_MINUTE)

    def title_of(self, client_id: str) -> str:
        return self._clients.title_of(client_id)

    async def ask(self, parameters: Mapping[str, str], caller: Caller) -> Asked:
        """A device wants to be signed in to (RFC 8628 section 3.1).

        Raises:
            OAuthRefused: the client may not. TooManyRequests: too many ask from this address.
        """
        client = self._clients.get(parameters.get("client_id"))
        if not client.is_native:
            raise OAuthRefused("unauthorized_client", "This client may not use the device flow.")
        scopes = client.allowed(scopes_of(parameters.get("scope")))
        # Each takes a place in the database, and nobody has proved who they are.
        self._attempts.hit(f"device {key_of(caller.address)}")
        now = self._clock.now()
        asked = Asked(new_token(Prefix.DEVICE), "")
        for _ in range(_TRIES):
            user_code = new_user_code()
            async with self._unit_of_work() as work:
                row = DeviceAuthorization(
                    user_code=user_code,
                    client=client.id,
                    scopes=scopes,
                    state="pending",
                    created_at=now,
                    expires_at=now + asked.lasts,
                    interval_s=asked.interval_s,
                    address=caller.address,
                )
                if await work.logins.add_device(row, device_digest=digest_of(asked.device_code)):
                    await work.commit()
                    return replace(asked, user_code=shown_user_code(user_code))
        raise Unavailable("Too many devices ask at once.")

    async def waiting(self, principal: Principal, typed: str) -> Waiting:
        """What a user code is for, that a person typed.

        Raises:
            NotFound: nothing waits for it. TooManyRequests: this person guesses.
        """
        _check_person(principal)
        key = f"user code {principal.id}"
        self._attempts.check(key)
        code = read_user_code(typed)
        async with self._unit_of_work() as work:
            asked = await work.logins.device_of_user_code(code) if code else None
        if asked is None or asked.state != "pending" or asked.expires_at <= self._clock.now():
            self._attempts.hit(key)
            raise _no_such_code()
        return self._waiting(asked)

    async def decide(self, principal: Principal, typed: str, *, is_allowed: bool) -> Waiting:
        """A person allows or denies a device, once.

        Raises:
            NotFound: nothing waits for this code. TooManyRequests: this person guesses.
        """
        proof = _check_person(principal)
        key = f"user code {principal.id}"
        self._attempts.check(key)
        code, now = read_user_code(typed), self._clock.now()
        async with self._unit_of_work() as work:
            asked = await work.logins.device_of_user_code(code, to_decide=True) if code else None
            if asked is None or asked.state != "pending" or asked.expires_at <= now:
                self._attempts.hit(key)
                raise _no_such_code()
            await work.logins.decide_device(
                asked.user_code,
                state="approved" if is_allowed else "denied",
                principal_id=principal.id,
                authenticated_at=proof.authenticated_at,
                acr=proof.acr,
            )
            work.record(
                _decided(principal, asked.client, asked.scopes, is_allowed=is_allowed, at=now, address=asked.address)
            )
            await work.commit()
        return self._waiting(asked)

    async def poll(self, parameters: Mapping[str, str], caller: Caller) -> Granted:
        """A device asks whether a person has decided (RFC 8628 section 3.4).

        Raises:
            OAuthRefused: not yet, or no.
        """
        client = self._clients.get(parameters.get("client_id"))
        digest = _digest(parameters.get("device_code"), Prefix.DEVICE, "device_code")
        now = self._clock.now()
        async with self._unit_of_work() as work:
            asked = await work.logins.device(digest)
            if asked is None or asked.client != client.id:
                raise OAuthRefused("invalid_grant", "The device_code is not known, or was used.")
            if asked.expires_at <= now:
                raise OAuthRefused("expired_token", "Nobody decided in time. Ask for a new code.")
            if asked.state == "pending":
                too_soon = asked.polled_at is not None and now < asked.polled_at + timedelta(seconds=asked.interval_s)
                interval_s = asked.interval_s + POLL_S if too_soon else asked.interval_s
                await work.logins.polled(digest, at=now, interval_s=interval_s)
                await work.commit()
                if too_soon:
                    raise OAuthRefused("slow_down", f"Ask every {interval_s} seconds.")
                raise OAuthRefused("authorization_pending", "The person has not decided yet.")
            await work.logins.remove_device(digest)
            if asked.state == "denied" or asked.principal_id is None:
                await work.commit()
                raise OAuthRefused("access_denied", "The person said no.")
            _, granted = await self._start(
                work,
                client.id,
                principal_id=asked.principal_id,
                scopes=asked.scopes,
                authenticated_at=asked.authenticated_at,
                acr=asked.acr,
                caller=caller,
            )
            await work.commit()
        return granted

    def redirect_target(self, parameters: Mapping[str, str]) -> tuple[Client, str]:
        """The client that asks for a code, and where it may be answered.

        Raises:
            OAuthRefused: to be shown to the person: whoever asks must not be redirected to (RFC 6749 section 4.1.2.1).
        """
        client = self._clients.get(parameters.get("client_id"))
        uri = parameters.get("redirect_uri", "")
        if not client.may_redirect_to(uri):
            raise OAuthRefused("invalid_request", f"The redirect_uri is not registered for {client.title}.")
        return client, uri

    def authorization(self, client: Client, redirect_uri: str, parameters: Mapping[str, str]) -> Authorization:
        """The rest of a request for a code, checked.

        Raises:
            OAuthRefused: for the client to see.
        """
        for name in ("request", "request_uri"):
            if name in parameters:
                raise OAuthRefused(f"{name}_not_supported", f"{name} is not supported.")
        if parameters.get("response_type") != "code":
            raise OAuthRefused("unsupported_response_type", "response_type must be code.")
        if parameters.get("response_mode", "query") != "query":
            raise OAuthRefused("invalid_request", "response_mode must be query.")
        challenge = check_challenge(parameters.get("code_challenge"), parameters.get("code_challenge_method"))
        if not parameters.get("state"):
            raise OAuthRefused("invalid_request", "state is missing.")
        return Authorization(
            client=client,
            redirect_uri=redirect_uri,
            state=parameters["state"],
            challenge=challenge,
            scopes=client.allowed(scopes_of(parameters.get("scope"))),
        )

    async def allow(self, principal: Principal, authorization: Authorization) -> str:
        """The code for the client, by the person's word. It is secret."""
        proof = _check_person(principal)
        self._pace.hit(principal.id)
        code, now = new_token(Prefix.CODE), self._clock.now()
        async with self._unit_of_work() as work:
            await work.logins.add_code(
                AuthorizationCode(
                    client=authorization.client.id,
                    redirect_uri=authorization.redirect_uri,
                    challenge=authorization.challenge,
                    scopes=authorization.scopes,
                    principal_id=principal.id,
                    authenticated_at=proof.authenticated_at,
                    acr=proof.acr,
                    created_at=now,
                    expires_at=now + CODE_LASTS,
                ),
                digest=digest_of(code),
            )
            work.record(_decided(principal, authorization.client.id, authorization.scopes, is_allowed=True, at=now))
            await work.commit()
        return code

    async def deny(self, principal: Principal, authorization: Authorization) -> None:
        """Keep that the person said no."""
        async with self._unit_of_work() as work:
            at = self._clock.now()
            work.record(_decided(principal, authorization.client.id, authorization.scopes, is_allowed=False, at=at))
            await work.commit()

    async def redeem(self, parameters: Mapping[str, str], caller: Caller) -> Granted:
        """A client exchanges its code (RFC 6749 section 4.1.3). Right or wrong, a code is used up by it.

        Raises:
            OAuthRefused: the code is not good, or not this client's.
        """
        client = self._clients.get(parameters.get("client_id"))
        digest = _digest(parameters.get("code"), Prefix.CODE, "code")
        now = self._clock.now()
        async with self._unit_of_work() as work:
            code = await work.logins.code(digest)
            if code is None:
                raise _bad_code()
            if code.login_id is not None:
                await self._end(work, code.login_id, by=ANONYMOUS, reason=EndReason.CODE_REUSED)
                await work.commit()
                raise _bad_code()
            fits = (
                code.client == client.id
                and code.redirect_uri == parameters.get("redirect_uri")
                and fits_challenge(parameters.get("code_verifier"), code.challenge)
            )
            if not fits or code.expires_at <= now:
                await work.logins.remove_code(digest)
                await work.commit()
                raise _bad_code()
            login_id, granted = await self._start(
                work,
                client.id,
                principal_id=code.principal_id,
                scopes=code.scopes,
                authenticated_at=code.authenticated_at,
                acr=code.acr,
                caller=caller,
            )
            await work.logins.use_code(digest, login_id=login_id)
            await work.commit()
        return granted

    async def refresh(self, parameters: Mapping[str, str], caller: Caller) -> Granted:
        """New tokens for a refresh token, which is used up (RFC 6749 section 6).

        Of two that come at once, exactly one wins; the other finds the token used, and the login ends: whether the
        other is a thief or the same client twice, nobody can tell.

        Raises:
            OAuthRefused: the token is not good, or not this client's.
        """
        client = self._clients.get(parameters.get("client_id"))
        digest = _digest(parameters.get("refresh_token"), Prefix.REFRESH, "refresh_token")
        now = self._clock.now()
        async with self._unit_of_work() as work:
            login = await work.logins.of_refresh_token(digest)
            if login is None:
                await self._check_reuse(work, digest, caller, now)
                raise _bad_refresh_token()
            if login.client != client.id or not login.goes_on(now):
                raise _bad_refresh_token()
            if login.disabled_at is not None:
                await self._end(work, login.id, by=ANONYMOUS, reason=EndReason.DISABLED)
                await work.commit()
                raise OAuthRefused("invalid_grant", "An administrator has disabled this account.")
            # What an operator has taken from the client since is gone.
            held = refreshed_scopes(login.scopes & client.scopes, age=now - login.created_at)
            # What the login has not is left out, as when it began.
            scopes = held & scopes_of(parameters["scope"]) if "scope" in parameters else held
            if not scopes:
                raise OAuthRefused("invalid_scope", f"This login has {scope_text(held)} alone.")
            self._pace.hit(login.principal_id)
            refresh_token = new_token(Prefix.REFRESH)
            await work.logins.rotate(login.id, used=digest, new=digest_of(refresh_token), at=now)
            granted = await _grant(work, login, scopes, refresh_token, now)
            await work.commit()
        return granted

    async def end_shown(self, secret: str) -> bool:
        """End the login of a token that somebody holds (RFC 7009); whether it is one of a login."""
        match prefix_of(secret):
            case Prefix.REFRESH:
                digest = digest_of(secret)
                async with self._unit_of_work() as work:
                    login = await work.logins.of_refresh_token(digest) or await work.logins.of_used_refresh_token(
                        digest
                    )
                    if login is not None:
                        await self._end_by_owner(work, login.id)
            case Prefix.LOGIN:
                async with self._unit_of_work() as work:
                    known = await work.tokens.find(digest_of(secret))
                    if known is not None and known.token.login_id is not None:
                        await self._end_by_owner(work, known.token.login_id)
            case _:
                return False
        return True

    async def page(
        self, principal: Principal, *, of: str | None, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Login]:
        """Logins, newest first: one's own, or as an administrator those of the principal ``of``.

        Raises:
            Forbidden: somebody else's are for administrators, and one's own are not for a token to see.
        """
        async with self._unit_of_work() as work:
            owner = await owner_to_list(work, principal, of)
            return await work.logins.page(owner, before=before, limit=limit)

    async def live(self, principal: Principal, *, limit: int) -> Sequence[Login]:
        """One's own that go on, newest first. Raises ``Forbidden`` as ``page`` does."""
        now = self._clock.now()
        found = await self.page(principal, of=None, before=None, limit=limit)
        return [login for login in found if login.goes_on(now)]

    async def end(self, principal: Principal, login_id: str) -> None:
        """End one's own login, or as an administrator anybody's. Ending it again changes nothing.

        Raises:
            NotFound: there is none, or it is somebody else's. Forbidden: a token cannot end others.
        """
        async with self._unit_of_work() as work:
            login = await work.logins.get(login_id)
            if not may(principal, Permission.IDENTITIES_ADMINISTER):
                await check_looks_after(work, principal)
                if login is not None and login.principal_id != principal.id:
                    login = None
            if login is None:
                raise NotFound(f"There is no login {login_id[:100]}.", login=login_id[:100])
            await self._end(work, login.id, by=actor_of(principal), reason=EndReason.ENDED)
            await work.commit()

    async def _start(
        self,
        work: UnitOfWork,
        client_id: str,
        *,
        principal_id: str,
        scopes: frozenset[Scope],
        authenticated_at: datetime | None,
        acr: str | None,
        caller: Caller,
    ) -> tuple[str, Granted]:
        """A new login, and its first tokens."""
        now = self._clock.now()
        if await work.tokens.lock_owner(principal_id) is not None:
            raise OAuthRefused("invalid_grant", "An administrator has disabled this account.")
        known = await work.principals.get(principal_id)
        assert known is not None  # the row that decided refers to it
        login = Login(
            id=new_id("lgn"),
            principal_id=principal_id,
            client=client_id,
            scopes=scopes,
            authenticated_at=authenticated_at,
            acr=acr,
            created_at=now,
            refreshed_at=now,
            expires_at=now + self._lifetime,
            address=caller.address,
            user_agent=caller.user_agent[:_LONGEST_USER_AGENT],
            principal_name=known.identity.name,
        )
        refresh_token = new_token(Prefix.REFRESH)
        await work.logins.add(login, refresh_digest=digest_of(refresh_token))
        work.record(_entry("login.started", login, actor=_owner(login), at=now))
        return login.id, await _grant(work, login, scopes, refresh_token, now)

    async def _check_reuse(self, work: UnitOfWork, digest: bytes, caller: Caller, now: datetime) -> None:
        """End the login of a refresh token that was used before."""
        login = await work.logins.of_used_refresh_token(digest)
        if login is None or not login.goes_on(now):
            return
        work.record(_entry("login.refresh_reused", login, actor=ANONYMOUS, at=now, address=caller.address[:64]))
        await self._end(work, login.id, by=ANONYMOUS, reason=EndReason.REFRESH_REUSED)
        await work.commit()

    async def _end_by_owner(self, work: UnitOfWork, login_id: str) -> None:
        login = await work.logins.get(login_id)
        assert login is not None  # it was just found, and sweeping takes those that ended long ago
        await self._end(work, login.id, by=_owner(login), reason=EndReason.SIGNED_OUT)
        await work.commit()

    async def _end(self, work: UnitOfWork, login_id: str, *, by: Actor, reason: EndReason) -> None:
        now = self._clock.now()
        if await work.logins.end(login_id, at=now, by=by.id, reason=reason.value):
            login = await work.logins.get(login_id)
            assert login is not None  # it was just changed
            work.record(_entry("login.ended", login, actor=by, at=now, reason=reason.value))
            # Once: a token of a login that has ended makes nobody forget anything.
            work.forget_callers()

    def _waiting(self, asked: DeviceAuthorization) -> Waiting:
        return Waiting(
            user_code=shown_user_code(asked.user_code),
            client=asked.client,
            title=self._clients.title_of(asked.client),
            address=asked.address,
            scopes=asked.scopes,
        )


async def _grant(
    work: UnitOfWork, login: Login, scopes: frozenset[Scope], refresh_token: str, now: datetime
) -> Granted:
    secret = new_token(Prefix.LOGIN)
    # Whole seconds, as the answer says them; the login's own end comes first.
    lasts = min(ACCESS_LASTS, timedelta(seconds=int((login.expires_at - now).total_seconds())))
    token = Token(
        id=new_id("tok"),
        kind=CredentialKind.LOGIN,
        principal_id=login.principal_id,
        name=login.client,
        scopes=scopes,
        created_at=now,
        expires_at=now + lasts,
        login_id=login.id,
    )
    await work.tokens.add(token, digest=digest_of(secret))
    return Granted(secret, refresh_token, scopes, lasts)


def _check_person(principal: Principal) -> Credential:
    """Only a person before a browser signs in to a client: never what they hold, never a service.

    Returns:
        By what they did: when they proved who they are, and how, is handed on to the client's tokens.

    Raises:
        Forbidden: something else does.
    """
    by = principal.credential
    if principal.kind is not PrincipalKind.PERSON or by.kind is not CredentialKind.SESSION:
        raise Forbidden("Only a person who signed in with a browser can sign in to a client.")
    return by


def _digest(secret: str | None, prefix: Prefix, parameter: str) -> bytes:
    if not secret:
        raise OAuthRefused("invalid_request", f"{parameter} is missing.")
    if prefix_of(secret) is not prefix:
        raise OAuthRefused("invalid_grant", f"The {parameter} is not one of ours, or was mistyped.")
    return digest_of(secret)


def _no_such_code() -> NotFound:
    return NotFound("No client waits for this code. It is good for ten minutes, once.")


def _bad_code() -> OAuthRefused:
    return OAuthRefused("invalid_grant", "The code is not known, is over, was used, or was given to another.")


def _bad_refresh_token() -> OAuthRefused:
    return OAuthRefused("invalid_grant", "The refresh_token was used, or the login has ended. Sign in again.")


def _owner(login: Login) -> Actor:
    return Actor(id=login.principal_id, name=login.principal_name)


def _decided(
    principal: Principal,
    client: str,
    scopes: frozenset[Scope],
    *,
    is_allowed: bool,
    at: datetime,
    address: str | None = None,
) -> Entry:
    return Entry(
        at=at,
        actor=actor_of(principal),
        action="login.allowed" if is_allowed else "login.denied",
        object_id=client,
        details={"scope": scope_text(scopes), **({"address": address[:64]} if address else {})},
    )


def _entry(action: str, login: Login, *, actor: Actor, at: datetime, **details: str) -> Entry:
    return Entry(
        at=at,
        actor=actor,
        action=action,
        object_id=login.id,
        details={
            "owner": login.principal_id,
            "client": login.client,
            "scope": scope_text(login.scopes),
            "address": login.address[:64],
            **details,
        },
    )
