"""An issuer's public keys (RFC 7517): which of them may verify what."""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from app.adapters.oidc.documents import MAX_DOCUMENT_BYTES, Documents, Refused
from app.adapters.oidc.kept import Elapsed, Kept, monotonic
from app.adapters.oidc.metadata import Metadata
from app.adapters.oidc.strict import strict_object
from app.domain.claims import refused
from app.domain.errors import Unavailable
from app.domain.issuers import ASYMMETRIC_ALGORITHMS, TrustedIssuer

_log = structlog.stdlib.get_logger(__name__)

MOST_KEYS = 100
RSA_BITS = range(2048, 8193)
"""Fewer can be broken (RFC 7518 section 3.3), more are slow to verify."""
ED_CURVES = frozenset({"Ed25519", "Ed448"})

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750 section 2.1."""

PublicKey = RSAKey | ECKey | OKPKey


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A key, its name, and the algorithms that it may verify."""

    key_id: str | None
    key: PublicKey
    algorithms: frozenset[str]


class Keys:
    """The keys of one issuer: from its metadata, from an address or from a file."""

    def __init__(
        self, trusted: TrustedIssuer, metadata: Metadata, documents: Documents, *, elapsed: Elapsed = monotonic
    ) -> None:
        self._trusted, self._metadata, self._documents = trusted, metadata, documents
        self._kept = Kept(self._fetch, what="keys", of=trusted.name, elapsed=elapsed)

    async def get(self, key_id: str | None, algorithm: str) -> PublicKey:
        """The key that a token names; a token that names none is for an issuer with one key of that algorithm.

        Raises:
            NotAuthenticated: the issuer publishes no such key.
            Unavailable: its keys cannot be had.
        """
        found = _only(await self._kept.get(), key_id, algorithm)
        if found is None:
            await self._kept.renew()
            found = _only(await self._kept.get(), key_id, algorithm)
        if found is not None:
            return found
        if self._kept.is_failing:
            raise Unavailable(f"The identity provider {self._trusted.name} does not answer, and may have a new key.")
        raise refused("is signed with a key that the issuer does not publish")

    async def ensure(self) -> None:
        """Raises ``Unavailable`` if there are no keys."""
        await self._kept.get()

    async def close(self) -> None:
        await self._kept.close()

    async def _fetch(self) -> tuple[PublishedKey, ...]:
        if self._trusted.jwks_file:
            document = strict_object(await asyncio.to_thread(_read, Path(self._trusted.jwks_file)))
        else:
            address = self._trusted.jwks_uri or await self._published_address()
            document = await self._documents.get(address, await asyncio.to_thread(self._credential))
        return published_keys(document, of=self._trusted.name)

    def _credential(self) -> dict[str, str]:
        file = self._trusted.jwks_token_file
        if file is None:
            return {}
        token = _read(Path(file)).strip()
        if not _TOKEN.fullmatch(token):
            raise Refused("the token to ask for the keys with is not one")  # else an error of the client would show it
        return {"Authorization": f"Bearer {token.decode()}"}

    async def _published_address(self) -> str:
        if self._kept.is_failing:
            await self._metadata.renew()  # the keys may have moved
        return await self._metadata.endpoint("jwks_uri")


def published_keys(document: Mapping[str, Any], *, of: str = "") -> tuple[PublishedKey, ...]:
    """The keys of a JWK set that can verify a signature. A key that is of no use does not hide the others.

    Raises:
        Refused: it is no JWK set, or has too many keys.
    """
    listed = document.get("keys")
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise Refused(f"expected `keys`, {MOST_KEYS} at most")
    keys = []
    for item in listed:
        try:
            keys.append(_published(item))
        except (JoseError, ValueError, TypeError, KeyError, ArithmeticError) as error:
            # Keys to encrypt with are common; a private one is a disaster.
            tell = _log.warning if isinstance(item, dict) and "d" in item else _log.debug
            tell("issuer_key_not_used", issuer=of, error=type(error).__name__, why=str(error)[:100])
    return tuple(keys)


def _published(item: object) -> PublishedKey:
    if not isinstance(item, dict) or item.get("kty") not in {"RSA", "EC", "OKP"}:
        raise ValueError("not an asymmetric key")
    if "d" in item:
        raise ValueError("a private key: whoever reads it can sign")
    operations = item.get("key_ops")
    if operations is not None and (not isinstance(operations, list) or "verify" not in operations):
        raise ValueError("not a key to verify with")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # a weak key is refused below
        key = JWKRegistry.import_key(item)
    if isinstance(key, RSAKey):
        if key.public_key.key_size not in RSA_BITS:
            raise ValueError("too few or too many bits")
    elif isinstance(key, OKPKey):
        if key.curve_name not in ED_CURVES:
            raise ValueError("not a curve for signatures")
    elif not isinstance(key, ECKey):
        raise TypeError("not an asymmetric key")
    algorithms = frozenset(name for name in ASYMMETRIC_ALGORITHMS if _fits(key, name))
    if not algorithms:
        raise ValueError("a key for something else")
    return PublishedKey(key.kid, key, algorithms)


def _fits(key: PublicKey, algorithm: str) -> bool:
    """Whether a key's type, curve, ``use`` and ``alg`` let it verify this algorithm."""
    try:
        JWSRegistry.algorithms[algorithm].check_key(key)
    except JoseError:
        return False
    return True


def _only(keys: Iterable[PublishedKey], key_id: str | None, algorithm: str) -> PublicKey | None:
    """The one key that is meant; none if there are two."""
    fitting = [key for key in keys if algorithm in key.algorithms and (key_id is None or key.key_id == key_id)]
    return fitting[0].key if len(fitting) == 1 else None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise Refused("the file is too large")
    return data
