"""Who is calling: the credential of a request, verified, and what its owner may do.

A credential is an access token of a trusted issuer or of ours (RFC 6750), the same token as the password of HTTP Basic
authentication (MLflow's client sends it so), or a browser's session cookie. What verified is remembered until it
expires, for a minute at most, and forgotten at once when anything is taken away (``app.ports.Freshness``): a token
that was seen before costs no statement and no signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.domain.access import Principal
from app.domain.browsers import check_request_origin
from app.domain.errors import NotAuthenticated, TooManyRequests
from app.domain.identity import OUR_TOKENS, CredentialKind, Verified
from app.domain.sessions import one_cookie
from app.ports import Clock, Freshness, TokenVerifier
from app.services.granting import GrantBook
from app.services.recording import AuditTrail
from app.services.throttling import Throttle, key_of

REMEMBERED = 20_000
REMEMBER_S = 60.0
LONGEST_CREDENTIAL = 16 * 1024 + 64
_IN_COOKIE = b"cookie"
"""Behind the fingerprint of a session, so that it is none of an Authorization header's."""

Headers = Iterable[tuple[bytes, bytes]]


class Verifies(Protocol):
    """Sessions, and tokens of ours."""

    async def verify(self, secret: str) -> Verified:
        """Raises ``NotAuthenticated``."""
        ...


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A principal, until when (both clocks: one of them may jump), and what was true when it was made."""

    principal: Principal
    expires_at: float
    until: float
    epoch: int


class Authentication:
    """See the module.

    Args:
        issuers: verifies tokens of others.
        tokens: verifies tokens of ours.
        sessions: verifies session cookies.
        book: what grants there are.
        freshness: whether what is remembered still holds.
        audit: is told of credentials that were refused.
        refusals: how many of them one address may cause before it must wait.
        clock: the present.
        public_url: the address of this gateway, the only origin that a session is for.
        cookie: the name of the session cookie.
        noticed: is told of each token of a provider that was not seen before.
    """

    def __init__(
        self,
        *,
        issuers: TokenVerifier,
        tokens: Verifies,
        sessions: Verifies,
        book: GrantBook,
        freshness: Freshness,
        audit: AuditTrail,
        refusals: Throttle,
        clock: Clock,
        public_url: str,
        cookie: str,
        noticed: Callable[[Verified], Awaitable[None]],
    ) -> None:
        self._issuers = issuers
        self._noticed = noticed
        self._tokens = tokens
        self._sessions = sessions
        self._book = book
        self._freshness = freshness
        self._audit = audit
        self._refusals = refusals
        self._clock = clock
        self._public_url = public_url
        self._cookie = cookie
        self._seen: OrderedDict[bytes, _Remembered] = OrderedDict()

    async def authenticate(self, scope: Mapping[str, Any]) -> Principal:
        """The principal of a request.

        Args:
            scope: of ASGI: its ``method``, ``path``, ``headers`` and ``client`` are read.

        Raises:
            NotAuthenticated: there is no credential, more than one, or it does not verify.
            CrossOrigin: a page of another origin uses a person's session.
            TooManyRequests: too many credentials from this address were refused.
            Unavailable: the issuer's keys, or our database, cannot be had.
        """
        headers: Headers = scope["headers"]
        try:
            authorization = _authorization(headers)
            session = one_cookie(headers, self._cookie) if authorization is None else None
        except NotAuthenticated as error:
            await self.refused(error, scope)
            raise
        if authorization is not None:
            return await self._by_credential(authorization, scope)
        if not session:
            raise NotAuthenticated(
                "You are not signed in. In a browser, reload the page; a program sends `Authorization: Bearer <token>`."
            )
        principal = await self._by_credential(session.encode("latin-1"), scope, is_session=True)
        check_request_origin(scope["method"], headers, self._public_url)
        return principal

    def recall(self, fingerprint: bytes) -> Principal | None:
        """Whose credential it is (``fingerprint_of``), if that is remembered and true at this moment."""
        known = self._seen.get(fingerprint)
        if (
            known is not None
            and known.epoch == self._freshness.epoch()
            and known.until > time.monotonic()
            and known.expires_at > self._clock.now().timestamp()
        ):
            return known.principal
        return None

    async def _by_credential(
        self, credential: bytes, scope: Mapping[str, Any], *, is_session: bool = False
    ) -> Principal:
        fingerprint = hashlib.sha256(credential).digest()
        if is_session:
            fingerprint += _IN_COOKIE
        epoch = self._freshness.epoch()
        if (principal := self.recall(fingerprint)) is not None:
            return principal
        try:
            # A session is good in its cookie alone: there it is checked where the request comes from.
            verify = self._verify_session if is_session else self._verify
            verified = await verify(credential)
            book = await self._book.current()
            principal = book.principal(verified)
            if verified.credential.kind is CredentialKind.PROVIDER:
                await self._noticed(verified)
        except NotAuthenticated as error:
            self._seen.pop(fingerprint, None)
            await self.refused(error, scope, is_session=is_session)
            raise
        if epoch is not None:
            # Of before it was verified: what was taken away meanwhile may not have been seen.
            self._remember(fingerprint, principal, verified, epoch)
        return principal

    def _remember(self, fingerprint: bytes, principal: Principal, verified: Verified, epoch: int) -> None:
        self._seen[fingerprint] = _Remembered(principal, verified.expires_at, time.monotonic() + REMEMBER_S, epoch)
        self._seen.move_to_end(fingerprint)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    async def _verify(self, credential: bytes) -> Verified:
        if len(credential) > LONGEST_CREDENTIAL:
            raise NotAuthenticated("The access token is too long.", error="invalid_token")
        scheme, _, value = credential.strip().partition(b" ")
        value = value.strip()
        if not value or not value.isascii():
            raise _malformed()
        match scheme.lower():
            case b"bearer":
                return await self._by_token(value.decode())
            case b"basic":
                return await self._by_token(_password(value), basic=True)
        raise _malformed()

    async def _verify_session(self, secret: bytes) -> Verified:
        return await self._sessions.verify(secret.decode("latin-1"))

    async def _by_token(self, token: str, *, basic: bool = False) -> Verified:
        if token.startswith(OUR_TOKENS):
            return await self._tokens.verify(token)
        if basic and token.count(".") != 2:
            raise NotAuthenticated(
                "Send an access token as the password; passwords are for the identity provider alone.",
                error="invalid_token",
            )
        return await self._issuers.verify(token)

    async def refused(self, error: NotAuthenticated, scope: Mapping[str, Any], *, is_session: bool = False) -> None:
        """Tell the audit log, but not more often than an address may be wrong: it must not be floodable.

        Only refusals count, and only for who causes them: a credential that is good is let in before anything is
        counted, so that nobody can lock somebody else out.

        Raises:
            TooManyRequests: it was one too many.
        """
        client = scope.get("client")
        address = str(client[0]) if client else "unknown"
        try:
            self._refusals.hit(key_of(address))
        except TooManyRequests:
            if is_session:
                return  # an open page asks on when its session has ended; who reads it must get to the sign-in page
            raise TooManyRequests(
                "Too many credentials from your address were refused; wait a minute.", retry_after_s=60
            ) from error
        await self._audit.record_refused_credential(
            what=f"{scope['method']} {str(scope['path'])[:200]}", address=address, error=error
        )


def fingerprint_of(headers: Headers) -> bytes | None:
    """By what the credential of a program's request is remembered; none if there is none, or more than one."""
    authorization = None
    for name, value in headers:
        if name == b"authorization":
            if authorization is not None:
                return None
            authorization = value
    return hashlib.sha256(authorization).digest() if authorization is not None else None


def _authorization(headers: Headers) -> bytes | None:
    found = None
    for name, value in headers:
        if name == b"authorization":
            if found is not None:
                raise NotAuthenticated("Exactly one Authorization header is expected.", error="invalid_request")
            found = value
    return found


def _password(encoded: bytes) -> str:
    """The password of HTTP Basic authentication (RFC 7617); whatever the user name is."""
    try:
        _, separator, password = base64.b64decode(encoded, validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        raise _malformed() from None
    if not separator or not password:
        raise _malformed()
    return password


def _malformed() -> NotAuthenticated:
    return NotAuthenticated("Expected Authorization: Bearer <token>.", error="invalid_request")
