"""Verifies access tokens of the configured OpenID provider: signature, issuer, audience, time; algorithms pinned.

Rules: RFC 9068 section 4 and RFC 8725 (JSON Web Token Best Current Practices). The provider's keys are kept, fetched
again when they are old or when a token names one that is not among them, and used on while the provider is away.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import httpx
import structlog
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet

from app.domain.access import Principal, PrincipalKind, Role, roles_of
from app.domain.errors import NotAuthenticated, Unavailable

_log = structlog.stdlib.get_logger(__name__)

KEYS_FRESH_S = 300
KEYS_USABLE_S = 24 * 3600
LEAST_REFETCH_S = 5
MAX_TOKEN_BYTES = 16 * 1024
MAX_DOCUMENT_BYTES = 512 * 1024
REMEMBERED_TOKENS = 10_000
REMEMBER_S = 60


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """What is accepted of one issuer, and what its claims mean."""

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    groups_claim: str
    username_claim: str
    leeway_s: int
    roles: dict[Role, list[str]]
    service_groups: frozenset[str]


class OidcProvider:
    """See ``app.ports.IdentityProvider``."""

    def __init__(self, trusted: TrustedIssuer) -> None:
        self._trusted = trusted
        self._keys = _Keys(trusted.issuer)
        self._claims = jwt.JWTClaimsRegistry(
            leeway=trusted.leeway_s,
            iss={"essential": True, "value": trusted.issuer},
            aud={"essential": True, "value": trusted.audience},
            exp={"essential": True},
            sub={"essential": True, "allow_blank": False},
        )
        self._seen: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    async def close(self) -> None:
        await self._keys.close()

    async def check_alive(self) -> None:
        """Return when tokens can be verified: the keys are at hand, or the provider answers."""
        await self._keys.ensure()

    async def verify(self, token: str) -> Principal:
        if len(token) > MAX_TOKEN_BYTES:
            raise _invalid("is too long")
        fingerprint = hashlib.sha256(token.encode()).digest()
        remembered = self._seen.get(fingerprint)
        if remembered and remembered[0] > time.time():
            self._seen.move_to_end(fingerprint)
            return remembered[1]
        claims = await self._verified_claims(token)
        principal = self._principal(claims)
        self._seen[fingerprint] = (min(float(claims["exp"]), time.time() + REMEMBER_S), principal)
        while len(self._seen) > REMEMBERED_TOKENS:
            self._seen.popitem(last=False)
        return principal

    async def _verified_claims(self, token: str) -> dict[str, Any]:
        if token.count(".") != 2:
            raise _invalid("is not a signed JSON Web Token")
        try:
            header = jws.extract_compact(token.encode()).headers()
        except (JoseError, ValueError, TypeError):
            raise _invalid("is not a signed JSON Web Token") from None
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._trusted.algorithms:
            raise _invalid("is signed with an algorithm that is not accepted")
        if header.get("typ", "JWT").lower().removeprefix("application/") not in {"jwt", "at+jwt"}:
            raise _invalid("is not an access token")
        key = await self._keys.get(key_id)
        if key is None:
            raise _invalid("is signed with a key that the issuer does not publish")
        try:
            claims = jwt.decode(token, key, algorithms=list(self._trusted.algorithms)).claims
            self._claims.validate(claims)
        except (JoseError, ValueError, TypeError) as error:
            raise _invalid(_why(error)) from None
        return dict(claims)

    def _principal(self, claims: dict[str, Any]) -> Principal:
        listed = claims.get(self._trusted.groups_claim, [])
        groups = (
            frozenset(item for item in listed if isinstance(item, str)) if isinstance(listed, list) else frozenset()
        )
        subject = str(claims["sub"])
        name = claims.get(self._trusted.username_claim)
        return Principal(
            issuer=self._trusted.issuer,
            subject=subject,
            name=name if isinstance(name, str) and name else subject,
            kind=PrincipalKind.SERVICE if groups & self._trusted.service_groups else PrincipalKind.PERSON,
            groups=groups,
            roles=roles_of(groups, self._trusted.roles),
        )


def _invalid(why: str) -> NotAuthenticated:
    return NotAuthenticated(f"The access token {why}.", error="invalid_token")


def _why(error: Exception) -> str:
    claim = getattr(error, "claim", None)
    if type(error).__name__ == "ExpiredTokenError":
        return "has expired"
    if claim:
        return {
            "aud": "is for another audience",
            "iss": "comes from another issuer",
        }.get(claim, f"has no valid `{claim}` claim")
    return "does not verify"


class _Keys:
    """The issuer's public keys."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._client = httpx.AsyncClient(timeout=5, follow_redirects=False)
        self._lock = asyncio.Lock()
        self._keys: dict[str | None, Key] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")

    async def close(self) -> None:
        await self._client.aclose()

    async def ensure(self) -> None:
        """Have keys that are fresh enough, or old ones while the issuer is away.

        Raises:
            Unavailable: there are none at all.
        """
        if time.monotonic() - self._fetched_at > KEYS_FRESH_S:
            await self._refetch()
        if not self._keys or time.monotonic() - self._fetched_at > KEYS_USABLE_S:
            raise Unavailable("The identity provider does not answer, and its keys are not known.")

    async def get(self, key_id: str | None) -> Key | None:
        """The key that a token names; a token without a name is for an issuer with one key."""
        await self.ensure()
        if self._find(key_id) is None:
            await self._refetch()
        return self._find(key_id)

    def _find(self, key_id: str | None) -> Key | None:
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    async def _refetch(self) -> None:
        async with self._lock:
            # Tokens with made-up key names must not make us hammer the issuer.
            if time.monotonic() - self._tried_at < LEAST_REFETCH_S:
                return
            self._tried_at = time.monotonic()
            try:
                metadata = await self._fetch(f"{self._issuer}/.well-known/openid-configuration")
                if metadata.get("issuer") != self._issuer:
                    _log.warning("issuer_metadata_of_another", issuer=self._issuer)
                    return
                published = KeySet.import_key_set(await self._fetch(str(metadata["jwks_uri"])))  # type: ignore[arg-type]
            except (httpx.HTTPError, JoseError, ValueError, KeyError, TypeError) as error:
                _log.warning("issuer_keys_not_fetched", issuer=self._issuer, error=type(error).__name__)
                return
            self._keys = {key.kid: key for key in published.keys if key.key_type != "oct"}
            self._fetched_at = time.monotonic()

    async def _fetch(self, url: str) -> dict[str, Any]:
        async with self._client.stream("GET", url) as response:
            response.raise_for_status()
            body = b""
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise ValueError("the document is too large")
        document = httpx.Response(200, content=body).json()
        if not isinstance(document, dict):
            raise TypeError("the document is not an object")
        return document
