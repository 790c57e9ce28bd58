"""What the gateway says of a request, and whether it was the gateway who said it.

An assertion is a JSON Web Token (RFC 7519) in the header ``X-Countersign-Assertion``, signed with a secret that the
gateway, its worker and this server share. Algorithm and type are pinned (RFC 8725 sections 3.1 and 3.11).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import OctKey

HEADER = "x-countersign-assertion"
ISSUER, AUDIENCE, TYPE, ALGORITHM = "countersign", "mlflow", "countersign-assertion+jwt", "HS256"
LEEWAY_S = 30
"""Seconds of clock difference between the gateway's machine and this one."""
REMEMBERED = 4096
"""Assertions that were verified and are known again; only the gateway's own get in."""


class NotAsserted(Exception):
    """The gateway did not say this. The message says what is wrong, and quotes nothing that was sent."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The one request an assertion was made for. ``digest`` is that of the message's fields."""

    method: str
    path: str
    message: str
    digest: str


@dataclass(frozen=True, slots=True)
class Assertion:
    """The gateway's word. Without ``judged`` it is good for any request whose body decides nothing."""

    subject: str
    expires_at: float
    judged: Judged | None


class Verifier:
    """Knows the gateway's assertions.

    Args:
        secret: what is shared with the gateway.
        now: the present, in seconds since the epoch.
    """

    def __init__(self, secret: str, now: Callable[[], float] = time.time) -> None:
        self._key = OctKey.import_key(secret)
        self._now = now
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(now()),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": ISSUER},
            aud={"essential": True, "value": AUDIENCE},
            sub={"essential": True},
            iat={"essential": True},
            exp={"essential": True},
        )
        self._known: dict[str, Assertion] = {}

    def verify(self, token: str) -> Assertion:
        """Who the gateway asks for, and for which request.

        Raises:
            NotAsserted: the token is not the gateway's, or not of now.
        """
        known = self._known.get(token)
        if known is None:
            known = self._read(token)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[token] = known
        elif known.expires_at + LEEWAY_S <= self._now():
            self._known.pop(token, None)
            raise NotAsserted("it has expired; do the clocks agree?")
        return known

    def _read(self, token: str) -> Assertion:
        try:
            signed = jwt.decode(token, self._key, [ALGORITHM])
            self._claims.validate(signed.claims)
        except ExpiredTokenError:
            raise NotAsserted("it has expired; do the clocks agree?") from None
        except (JoseError, ValueError):
            raise NotAsserted("it was not signed for this server with the secret it shares with the gateway") from None
        if signed.header.get("typ") != TYPE:
            raise NotAsserted("it is a token of another kind")
        claims = signed.claims
        return Assertion(claims["sub"], float(claims["exp"]), _judged(claims.get("request")))


def _judged(claim: object) -> Judged | None:
    if claim is None:
        return None
    try:
        return Judged(**claim)  # type: ignore[arg-type]  # anything else is caught
    except TypeError:
        raise NotAsserted("what it says of the request is of another version of the gateway") from None


def digest_of(fields: Mapping[str, object]) -> str:
    """The SHA-256 of a message's fields as JSON: keys sorted, no white space, ASCII. The gateway has the same."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()
