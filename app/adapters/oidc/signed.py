"""A signed token (JWS in its compact form, RFC 7515): taken apart strictly, and verified with one key."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from app.adapters.oidc.keys import Keys, PublicKey
from app.adapters.oidc.strict import from_base64url, strict_object
from app.domain.claims import refused
from app.domain.issuers import ASYMMETRIC_ALGORITHMS

MAX_TOKEN_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class SignedToken:
    """A token in its parts. Nothing of it may be believed before ``verify``."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes

    @property
    def type(self) -> str:
        """The header's ``typ``, in small letters and without ``application/`` (RFC 7515 section 4.1.9)."""
        return str(self.header.get("typ", "")).lower().removeprefix("application/")

    @classmethod
    def parse(cls, token: str) -> SignedToken:
        """Take a token apart.

        Raises:
            NotAuthenticated: it is too long, or has no three parts that can be read in one way only.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise refused("is too long")
        try:
            head, payload, signature = token.encode("ascii").split(b".")
            header = strict_object(from_base64url(head))
            claims = strict_object(from_base64url(payload))
            return cls(header, claims, head + b"." + payload, from_base64url(signature))
        except ValueError:
            raise refused("is not a signed JSON Web Token") from None

    async def verify(self, keys: Keys, *, algorithms: AbstractSet[str], types: AbstractSet[str]) -> None:
        """Check the header and the signature. Keys come from the issuer alone, never from the header.

        Args:
            keys: those of the issuer that the claims name.
            algorithms: those that are accepted of it.
            types: ``typ`` as accepted, in small letters; with an empty text, a token without one is too.

        Raises:
            NotAuthenticated: it is of another type, or not signed by the issuer.
            Unavailable: the issuer's keys cannot be had.
        """
        algorithm, key_id = self.header.get("alg"), self.header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in algorithms or algorithm not in ASYMMETRIC_ALGORITHMS:
            raise refused("is signed with an algorithm that is not accepted")
        if "crit" in self.header or "b64" in self.header:
            raise refused("needs an extension that is not supported (RFC 7515 section 4.1.11)")
        if not isinstance(self.header.get("typ", ""), str) or self.type not in types:
            raise refused("is of another type than an access token")
        if key_id is not None and not isinstance(key_id, str):
            raise refused("names its key in a way that is not valid")
        if not _verifies(await keys.get(key_id, algorithm), algorithm, self):
            raise refused("does not verify")


def _verifies(key: PublicKey, algorithm: str, token: SignedToken) -> bool:
    try:
        return JWSRegistry.algorithms[algorithm].verify(token.signed, token.signature, key)
    except (JoseError, ValueError, TypeError):
        return False
