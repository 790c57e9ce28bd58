"""An OpenID issuer whose keys the tests hold: for tokens that no honest provider would sign."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.proxying import Receive, Scope, Send, serving

AUDIENCE = "countersign"


@dataclass
class Issuer:
    """Serves discovery and keys. ``keys`` may be changed while it runs; ``fails`` makes it answer 503."""

    url: str = ""
    keys: list[RSAKey] = field(default_factory=lambda: [new_key("first")])
    fails: bool = False
    asked: int = 0
    metadata_issuer: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        import json

        self.asked += 1
        if scope["path"] == "/.well-known/openid-configuration":
            document: dict[str, Any] = {"issuer": self.metadata_issuer or self.url, "jwks_uri": f"{self.url}/jwks"}
        else:
            document = {"keys": [key.as_dict(private=False) for key in self.keys]}
        status = 503 if self.fails else 200
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": json.dumps(document).encode()})

    def claims(
        self, subject: str = "somebody", *, groups: list[str] | None = None, **changed: object
    ) -> dict[str, Any]:
        """Good claims; a change to ``None`` leaves one out."""
        claims: dict[str, object] = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": subject,
            "preferred_username": subject,
            "iat": int(time.time()),
            "exp": int(time.time()) + 3600,
            "groups": groups or [],
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self,
        subject: str = "somebody",
        *,
        groups: list[str] | None = None,
        key: RSAKey | None = None,
        header: dict[str, object] | None = None,
        **changed: object,
    ) -> str:
        """A signed access token."""
        key = key or self.keys[0]
        head = {"alg": "RS256", "kid": key.kid, **(header or {})}
        return jwt.encode(head, self.claims(subject, groups=groups, **changed), key, algorithms=["RS256", "RS512"])


def new_key(name: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": name})


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    with serving(issuer) as url:
        issuer.url = url
        yield issuer
