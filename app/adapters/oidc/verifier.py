"""Verifies the tokens of several trusted issuers side by side: each with its own keys, rules and pace."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import structlog

from app.adapters.oidc.documents import Documents
from app.adapters.oidc.introspection import Introspector, first_active
from app.adapters.oidc.kept import Elapsed, monotonic
from app.adapters.oidc.keys import Keys
from app.adapters.oidc.metadata import Metadata
from app.adapters.oidc.signed import MAX_TOKEN_BYTES, SignedToken
from app.domain.claims import (
    ACCESS_TOKEN_TYPES,
    check_claims,
    credential_of,
    groups_in,
    identity_of,
    refused,
)
from app.domain.errors import Unavailable
from app.domain.identity import PrincipalKind, Verified
from app.domain.issuers import TrustedIssuer
from app.ports import Clock

_log = structlog.stdlib.get_logger(__name__)

_OPAQUE = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What a bearer token may be made of (RFC 6750 section 2.1)."""


class TrustedIssuers:
    """See ``app.ports.TokenVerifier``. Remembers keys, and no tokens."""

    def __init__(self, issuers: Sequence[TrustedIssuer], clock: Clock, *, elapsed: Elapsed = monotonic) -> None:
        self._clock = clock
        accepted = [_Issuer(trusted, elapsed) for trusted in issuers if trusted.accepts_tokens]
        self._issuers = {issuer.trusted.issuer: issuer for issuer in accepted}
        self._introspectors = [issuer.introspector for issuer in accepted if issuer.introspector]

    async def verify(self, token: str) -> Verified:
        """What a token says, if it may be believed.

        Raises:
            NotAuthenticated: the token does not verify; the message does not quote it.
            Unavailable: the issuer's keys, or its introspection endpoint, cannot be had.
        """
        now = self._clock.now().timestamp()
        if len(token) > MAX_TOKEN_BYTES:
            raise refused("is too long")
        if token.count(".") != 2:
            if not self._introspectors or not _OPAQUE.fullmatch(token):
                raise refused("is not a signed JSON Web Token")
            return await first_active(self._introspectors, token, now=now)
        parsed = SignedToken.parse(token)
        named = parsed.claims.get("iss")
        issuer = self._issuers.get(named) if isinstance(named, str) else None
        if issuer is None:
            raise refused("comes from an issuer that is not trusted")
        return await issuer.verify(parsed, now=now)

    async def check_alive(self) -> None:
        """Return when tokens can be verified: of one issuer at least, so that one that is away stops nobody else.

        Raises:
            Unavailable: of none.
        """
        states = await asyncio.gather(*(issuer.ensure() for issuer in self._issuers.values()), return_exceptions=True)
        failures = [state for state in states if isinstance(state, BaseException)]
        if failures and len(failures) == len(states):
            raise failures[0]

    async def close(self) -> None:
        await asyncio.gather(*(issuer.close() for issuer in self._issuers.values()))


class _Issuer:
    """One issuer: what is believed of it, and what was fetched of it."""

    def __init__(self, trusted: TrustedIssuer, elapsed: Elapsed) -> None:
        self.trusted = trusted
        self._documents = Documents(trusted.ca_file)
        self._metadata = Metadata(trusted, self._documents, elapsed=elapsed)
        self._keys = Keys(trusted, self._metadata, self._documents, elapsed=elapsed)
        self._algorithms = frozenset(trusted.algorithms)
        self._types = frozenset({trusted.token_type.lower()}) if trusted.token_type else ACCESS_TOKEN_TYPES | {""}
        self.introspector = (
            Introspector(trusted, trusted.introspection, self._metadata) if trusted.introspection else None
        )
        self._told: set[str] = set()

    async def verify(self, token: SignedToken, *, now: float) -> Verified:
        await token.verify(self._keys, algorithms=self._algorithms, types=self._types)
        expires_at = check_claims(self.trusted, token.claims, now=now, explicit=token.type == "at+jwt")
        identity = identity_of(self.trusted, token.claims)
        self._tell_of_groups(token)
        return Verified(identity, credential_of(token.claims, now=now), expires_at)

    def _tell_of_groups(self, token: SignedToken) -> None:
        """Say once that there are none where there should be: it explains why people may do nothing."""
        why = "there are too many for a token" if "_claim_names" in token.claims else "the claim is missing or odd"
        if why in self._told or self.trusted.kind is PrincipalKind.SERVICE:
            return
        if groups_in(self.trusted, token.claims) is None:
            self._told.add(why)
            _log.warning("token_without_groups", issuer=self.trusted.name, claim=self.trusted.groups_claim, why=why)

    async def ensure(self) -> None:
        try:
            await self._keys.ensure()
        except Unavailable:
            if self.introspector is None:
                raise
            await self.introspector.ensure()

    async def close(self) -> None:
        await self._keys.close()
        await self._metadata.close()
        await self._documents.close()
        if self.introspector:
            await self.introspector.close()
