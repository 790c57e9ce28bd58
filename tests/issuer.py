"""An OpenID issuer whose keys the tests hold: for tokens that no honest provider would sign, and for its bad days."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from tests.proxying import Receive, Scope, Send, serving

AUDIENCE = "countersign"
JSON = "application/json"
SigningKey = RSAKey | ECKey | OKPKey


@dataclass
class Issuer:
    """Serves discovery, keys and introspection. Everything may be changed while it runs."""

    url: str = ""
    keys: list[SigningKey] = field(default_factory=lambda: [new_key("first")])
    fails: bool = False
    """It answers 503."""
    stalls: bool = False
    """It answers nothing until this is over."""
    redirects: bool = False
    """Its keys are said to be elsewhere; they are there."""
    jwks: object = None
    """What is served instead of ``keys``: an object, or the bytes themselves."""
    asked: int = 0
    metadata_issuer: str | None = None
    metadata: dict[str, object] = field(default_factory=dict)
    jwks_credential: str | None = None
    """What the Authorization header must say to whom wants the keys, if anything."""
    opaque: dict[str, object] = field(default_factory=dict)
    """What introspection says, by token; the bytes themselves if they are bytes."""
    introspection_status: int = 200
    userinfo: dict[str, object] = field(default_factory=dict)
    """What the userinfo endpoint says, by token; it refuses others. ``metadata`` must name it."""
    introspected: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """The Authorization header and the form of each question."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        path = str(scope["path"])
        while self.stalls:  # noqa: ASYNC110  # a test in another thread ends it
            await asyncio.sleep(0.01)
        status, headers, answer = 200, [(b"content-type", JSON.encode())], self._answer(path)
        if path == "/introspect":
            status, answer = self.introspection_status, await self._introspected(scope, receive)
        elif path == "/userinfo":
            token = _authorization(scope).removeprefix("Bearer ")
            status, answer = (200, self.userinfo[token]) if token in self.userinfo else (401, {})
        elif self.redirects and path == "/jwks":
            status, headers = 302, [(b"location", f"{self.url}/jwks-elsewhere".encode())]
        if path == "/jwks" and self.jwks_credential not in {None, _authorization(scope)}:
            status = 401
        if self.fails:
            status = 503
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, path: str) -> object:
        if path.endswith("/.well-known/openid-configuration"):
            return {
                "issuer": self.metadata_issuer or self.url,
                "jwks_uri": f"{self.url}/jwks",
                "introspection_endpoint": f"{self.url}/introspect",
                **self.metadata,
            }
        return {"keys": [key.as_dict(private=False) for key in self.keys]} if self.jwks is None else self.jwks

    async def _introspected(self, scope: Scope, receive: Receive) -> object:
        body = b""
        while message := await receive():
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.introspected.append((_authorization(scope), form))
        return self.opaque.get(form.get("token", ""), {"active": False})

    def claims(self, subject: str = "somebody", *, groups: object = None, **changed: object) -> dict[str, Any]:
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
        groups: object = None,
        key: SigningKey | None = None,
        header: Mapping[str, object] | None = None,
        **changed: object,
    ) -> str:
        """A signed access token; what is ``None`` in the header is left out."""
        key = key or self.keys[0]
        head = {"typ": "JWT", "alg": ALGORITHM[key.key_type], "kid": key.kid, **(header or {})}
        head = {name: value for name, value in head.items() if value is not None}
        return sign(json.dumps(head), json.dumps(self.claims(subject, groups=groups, **changed)), key)

    def introspects(self, subject: str | None = "somebody", **changed: object) -> str:
        """An opaque token that is active, and what is said of it (RFC 7662 section 2.2)."""
        token = f"opaque-{len(self.opaque)}"
        said = {"active": True, "client_id": "job", "sub": subject, "aud": AUDIENCE, "iss": self.url, **changed}
        self.opaque[token] = {name: value for name, value in said.items() if value is not None}
        return token


ALGORITHM = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


def sign(header: str, payload: str | bytes, key: SigningKey, *, algorithm: str | None = None) -> str:
    """A JWS of just these texts, whatever they are."""
    body = payload.encode() if isinstance(payload, str) else payload
    signed = f"{encoded(header.encode())}.{encoded(body)}"
    named = algorithm or json.loads(header).get("alg")
    # By name from the table: joserfc warns of EdDSA, which issuers still write (RFC 9864 calls it Ed25519).
    model = JWSRegistry.algorithms.get(named) if isinstance(named, str) else None
    if model is None or model.key_type != key.key_type:
        model = JWSRegistry.algorithms[ALGORITHM[key.key_type]]
    return f"{signed}.{encoded(model.sign(signed.encode(), key))}"


def encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def new_key(name: str | None, kind: str = "RSA", **parameters: Any) -> SigningKey:
    """A key pair; ``parameters`` are those of its JWK, as ``use``."""
    known = {**parameters, **({"kid": name} if name else {})}
    if kind == "EC":
        return ECKey.generate_key("P-256", known)  # type: ignore[arg-type]
    if kind == "OKP":
        return OKPKey.generate_key("Ed25519", known)  # type: ignore[arg-type]
    return RSAKey.generate_key(2048, known)  # type: ignore[arg-type]


def _authorization(scope: Scope) -> str:
    return str(next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode())


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    with serving(issuer) as url:
        issuer.url = url
        try:
            yield issuer
        finally:
            issuer.stalls = False
