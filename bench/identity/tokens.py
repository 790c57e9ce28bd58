"""An issuer on loopback with one key for each algorithm, and its tokens."""

from __future__ import annotations

import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from app.embedded.ports import LOOPBACK

AUDIENCE = "bench"
LIFETIME_S = 6 * 3600
Key = RSAKey | ECKey | OKPKey


@dataclass(frozen=True, slots=True)
class Issuer:
    """A running issuer, and its keys by algorithm."""

    url: str
    keys: Mapping[str, Key]

    def jwk(self, algorithm: str) -> Mapping[str, object]:
        """A public key as it is published."""
        return {**self.keys[algorithm].as_dict(private=False), "alg": algorithm, "use": "sig"}

    def tokens(self, algorithm: str, number: int) -> Sequence[str]:
        """Access tokens of one person, no two alike, with the claims that a provider of a company sends."""
        key, now = self.keys[algorithm], int(time.time())
        header = {"alg": algorithm, "typ": "at+jwt", "kid": key.kid}
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "3f0f1cde-94f4-4a10-9e36-1b8e7a6a7b0e",
            "iat": now,
            "exp": now + LIFETIME_S,
            "auth_time": now,
            "azp": "mlflow",
            "scope": "openid profile email",
            "email": "alice@example.org",
            "email_verified": True,
            "preferred_username": "alice",
            "name": "Alice Liddell",
            "groups": ["scientists", "approvers", "everybody"],
        }
        return [_signed(header, {**claims, "jti": f"{algorithm}-{count:08}"}, key) for count in range(number)]


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """An issuer in a thread of this process: it is asked once by each contender."""
    documents: dict[str, object] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = documents.get(self.path)
            self.send_response(200 if document else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # so is it there
            """Nothing is logged."""

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        issuer = Issuer(
            f"http://{LOOPBACK}:{server.server_port}",
            {
                "RS256": RSAKey.generate_key(2048, {"kid": "rsa"}),
                "ES256": ECKey.generate_key("P-256", {"kid": "ec"}),
                "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
            },
        )
        documents["/.well-known/openid-configuration"] = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/jwks"}
        documents["/jwks"] = {"keys": [issuer.jwk(algorithm) for algorithm in issuer.keys]}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield issuer
        finally:
            server.shutdown()


def _signed(header: Mapping[str, object], claims: Mapping[str, object], key: Key) -> str:
    signed = b".".join(_encoded(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    # By name from the table: joserfc's own way warns of EdDSA, which issuers still write.
    signature = JWSRegistry.algorithms[str(header["alg"])].sign(signed, key)
    return (signed + b"." + _encoded(signature)).decode()


def _encoded(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
