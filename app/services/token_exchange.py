"""Token exchange: a token of a trusted issuer, or a personal one, for a shorter and narrower one (RFC 8693)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from app.domain.audit import Actor, Entry
from app.domain.errors import NotAuthenticated, OAuthRefused
from app.domain.identity import CredentialKind, Scope, Verified, digest_of
from app.domain.tokens import (
    EXCHANGED_LASTS,
    Prefix,
    Token,
    exchanged_scopes,
    is_ours,
    new_token,
    prefix_of,
    scope_text,
    scopes_of,
)
from app.ports import Clock, TokenVerifier
from app.services.identifiers import new_id
from app.services.recording import UnitOfWorkFactory
from app.services.tokens import Pace, Tokens

MOST_A_MINUTE = 600
"""Exchanges of one principal: the jobs of a large pipeline all come as one."""


class TokenType(StrEnum):
    """RFC 8693 section 3."""

    ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  # a name, no secret
    JWT = "urn:ietf:params:oauth:token-type:jwt"
    ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105  # a name, no secret
    """What GitHub and GitLab call the token of a job."""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What a client gets. ``token`` is secret."""

    token: str = field(repr=False)
    scopes: frozenset[Scope]
    lasts: timedelta


class TokenExchange:
    """See the module.

    Args:
        unit_of_work: opens transactions.
        clock: the time.
        issuers: verifies tokens of others.
        tokens: verifies tokens of ours.
        public_url: our address, the only audience of what is given.
    """

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, clock: Clock, *, issuers: TokenVerifier, tokens: Tokens, public_url: str
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._issuers = issuers
        self._tokens = tokens
        self._public_url = public_url
        self._pace = Pace(MOST_A_MINUTE)

    async def exchange(self, parameters: Mapping[str, str]) -> Exchanged:
        """The token that ``parameters`` (RFC 8693 section 2.1) ask for.

        Raises:
            OAuthRefused: says why (RFC 6749 section 5.2, RFC 8693 section 2.2.2).
            Unavailable: the issuer's keys cannot be had.
        """
        self._check(parameters)
        requested = scopes_of(parameters.get("scope"))
        verified = await self._subject(parameters)
        scopes = exchanged_scopes(requested, verified.credential.scopes)
        now = self._clock.now()
        # Whole seconds, as the answer says them; an issuer's token may be believed a little past its end.
        left = verified.expires_at - now.timestamp()
        lasts = timedelta(seconds=int(min(EXCHANGED_LASTS.total_seconds(), left)))
        if lasts <= timedelta(0):
            raise OAuthRefused("invalid_request", "The subject_token has expired.")
        identity = verified.identity
        self._pace.hit(identity.id)
        secret = new_token(Prefix.EXCHANGED)
        parent_id = verified.credential.id if verified.credential.kind is CredentialKind.PERSONAL else None
        token = Token(
            id=new_id("tok"),
            kind=CredentialKind.EXCHANGED,
            principal_id=identity.id,
            name="",
            scopes=scopes,
            created_at=now,
            expires_at=now + lasts,
            parent_id=parent_id,
        )
        async with self._unit_of_work() as work:
            known = await work.principals.get(identity.id)
            if known is None:
                await work.principals.vouch(identity, at=now)
            elif known.disabled_at is not None:
                raise OAuthRefused("invalid_request", "An administrator has disabled this account.")
            if parent_id is not None:
                # It is revoked together with what was given for it, or before.
                parent = await work.tokens.get(parent_id, hold=True)
                if parent is None or parent.revoked_at is not None:
                    raise OAuthRefused("invalid_request", "The token was revoked.")
            await work.tokens.add(token, digest=digest_of(secret), identity=identity)
            work.record(
                Entry(
                    at=now,
                    actor=Actor(id=identity.id, name=identity.name),
                    action="token.exchanged",
                    object_id=token.id,
                    details={
                        "owner": identity.id,
                        "scope": scope_text(scopes),
                        "expires_at": token.expires_at.isoformat(timespec="seconds"),
                        **({"parent": parent_id} if parent_id else {}),
                    },
                )
            )
            await work.commit()
        return Exchanged(secret, scopes, lasts)

    def _check(self, parameters: Mapping[str, str]) -> None:
        for name in ("actor_token", "actor_token_type"):
            if name in parameters:
                raise OAuthRefused("invalid_request", f"{name} is not supported: nobody acts for somebody else here.")
        wanted = parameters.get("requested_token_type", TokenType.ACCESS_TOKEN)
        if wanted != TokenType.ACCESS_TOKEN:
            raise OAuthRefused("invalid_request", f"requested_token_type must be {TokenType.ACCESS_TOKEN}.")
        for name in ("audience", "resource"):
            if parameters.get(name, self._public_url).rstrip("/") != self._public_url:
                raise OAuthRefused("invalid_target", f"{name} must be {self._public_url}, if it is sent.")

    async def _subject(self, parameters: Mapping[str, str]) -> Verified:
        token, kind = parameters.get("subject_token"), parameters.get("subject_token_type")
        if not token:
            raise OAuthRefused("invalid_request", "subject_token is missing.")
        if kind not in set(TokenType):
            raise OAuthRefused("invalid_request", f"subject_token_type must be one of {', '.join(TokenType)}.")
        try:
            if not is_ours(token):
                return await self._issuers.verify(token)
            if kind != TokenType.ACCESS_TOKEN:
                raise OAuthRefused("invalid_request", f"subject_token_type must be {TokenType.ACCESS_TOKEN} here.")
            if prefix_of(token) not in {Prefix.PERSONAL, None}:
                raise OAuthRefused("invalid_request", "Of our own tokens, only a personal one can be exchanged.")
            return await self._tokens.verify(token)
        except NotAuthenticated as error:
            raise OAuthRefused("invalid_request", f"The subject_token is refused: {error.message}") from error
