"""An OpenID issuer on loopback that serves its metadata and its key, and signs the token of the load."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from joserfc import jwt
from joserfc.jwk import RSAKey

from app.embedded.ports import LOOPBACK
from bench.proxy.parts import free_port

AUDIENCE, GROUP, SUBJECT = "bench", "bench", "bench@example.org"
LIFETIME_S = 6 * 3600


@dataclass(frozen=True, slots=True)
class Issuer:
    """A running issuer."""

    url: str
    key: RSAKey

    @property
    def discovery_url(self) -> str:
        return f"{self.url}/.well-known/openid-configuration"

    def token(self) -> str:
        """An access token for a member of the group ``GROUP``."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": SUBJECT,
            "email": SUBJECT,
            "preferred_username": SUBJECT,
            "name": SUBJECT,
            "groups": [GROUP],
            "iat": now,
            "exp": now + LIFETIME_S,
        }
        return jwt.encode(
            {"alg": "RS256", "kid": self.key.kid, "typ": "at+jwt"}, claims, self.key, algorithms=["RS256"]
        )


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """An issuer in a thread of this process: it is asked once in a while."""
    key, port = RSAKey.generate_key(2048, {"kid": "bench"}), free_port()
    url = f"http://{LOOPBACK}:{port}"
    metadata = {
        "issuer": url,
        "authorization_endpoint": f"{url}/authorize",
        "token_endpoint": f"{url}/token",
        "jwks_uri": f"{url}/jwks",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }
    documents = {
        "/.well-known/openid-configuration": json.dumps(metadata).encode(),
        "/jwks": json.dumps({"keys": [key.as_dict(private=False)]}).encode(),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = documents.get(self.path)
            self.send_response(200 if document else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(document or b"{}")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # so is it there
            """Nothing is logged."""

    with ThreadingHTTPServer((LOOPBACK, port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Issuer(url, key)
        finally:
            server.shutdown()
