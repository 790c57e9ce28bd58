"""An OpenID provider in this process whose every answer a test can bend: for what no honest provider would say."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import Key, RSAKey

from tests.proxying import Receive, Scope, Send, read, serving

CLIENT = "countersign web"
SECRET = "a secret: with/all+kinds of %signs"
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
_KEY = RSAKey.generate_key(2048, {"kid": "provider", "use": "sig"})


@dataclass
class Provider:
    """Answers discovery, keys, token and userinfo; ``sign_in`` is what its pages would do. A claim that is changed to
    ``None`` is left out.
    """

    url: str = ""
    person: dict[str, Any] = field(default_factory=lambda: {"sub": "ada", "preferred_username": "ada", "groups": []})
    metadata: dict[str, Any] = field(default_factory=dict)
    id_token: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    key: Key = field(default_factory=lambda: _KEY)
    answer: dict[str, Any] = field(default_factory=dict)
    """Changes the token endpoint's answer; its ``status`` too."""
    userinfo: dict[str, Any] | int | None = None
    """What the userinfo endpoint says, or the status it fails with."""
    auth_methods: tuple[str, ...] = ("client_secret_basic",)
    checks_pkce: bool = True
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sid: str = "provider-session-1"

    def sign_in(self, authorization_url: str) -> dict[str, str]:
        """The parameters with which the browser comes back, once a person has signed in."""
        address = urlsplit(authorization_url)
        assert f"{address.scheme}://{address.netloc}{address.path}" == f"{self.url}/authorize"
        asked = dict(parse_qsl(address.query))
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return {"code": code, "state": asked["state"], "iss": self.url}

    def token(self, claims: Mapping[str, Any], **header: object) -> str:
        """A signed token with these claims and no others."""
        head = {"alg": "RS256", "kid": "provider", **header, **self.header}
        said = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(head, said, self.key, algorithms=["RS256", "RS512", "HS256", "ES256"])

    def logout_token(self, **changed: object) -> str:
        """A logout token for the session ``sid`` of ``person``."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 120,
            "jti": secrets.token_urlsafe(8),
            "sub": self.person["sub"],
            "sid": self.sid,
            "events": {LOGOUT_EVENT: {}},
        }
        return self.token({**claims, **changed}, typ="logout+jwt")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = (await read(receive)).decode()
        match scope["path"]:
            case "/.well-known/openid-configuration":
                status, document = 200, self._metadata()
            case "/jwks":
                status, document = 200, {"keys": [_KEY.as_dict(private=False)]}
            case "/token":
                status, document = self._redeem(headers, dict(parse_qsl(body)))
            case "/userinfo" if isinstance(self.userinfo, dict):
                status, document = 200, self.userinfo
            case "/userinfo" if isinstance(self.userinfo, int):
                status, document = self.userinfo, {}
            case _:
                status, document = 404, {}
        start = {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        await send(start)
        await send({"type": "http.response.body", "body": json.dumps(document).encode()})

    def _metadata(self) -> dict[str, Any]:
        document = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "end_session_endpoint": f"{self.url}/logout",
            "userinfo_endpoint": f"{self.url}/userinfo" if self.userinfo is not None else None,
            "scopes_supported": ["openid", "profile", "groups"],
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }
        return {name: value for name, value in document.items() if value is not None}

    def _redeem(self, headers: Mapping[str, str], form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        if not self._is_our_client(headers, form):
            return 401, {"error": "invalid_client"}
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None or asked["redirect_uri"] != form.get("redirect_uri"):
            return 400, {"error": "invalid_grant"}
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
        if self.checks_pkce and challenge.decode().rstrip("=") != asked["code_challenge"]:
            return 400, {"error": "invalid_grant", "error_description": "<script>PKCE</script>"}
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "auth_time": now - 60,
            "nonce": asked["nonce"],
            "sid": self.sid,
            **self.person,
            **self.id_token,
        }
        answer = {"access_token": "opaque", "token_type": "Bearer", "id_token": self.token(claims), **self.answer}
        return int(answer.pop("status", 200)), {name: value for name, value in answer.items() if value is not None}

    def _is_our_client(self, headers: Mapping[str, str], form: Mapping[str, str]) -> bool:
        if (authorization := headers.get("authorization")) is not None:
            pair = base64.b64decode(authorization.removeprefix("Basic ")).decode()
            if "client_secret_basic, not encoded" in self.auth_methods:
                return pair == f"{CLIENT}:{SECRET}"
            return "client_secret_basic" in self.auth_methods and [unquote_plus(part) for part in pair.split(":")] == [
                CLIENT,
                SECRET,
            ]
        if form.get("client_id") != CLIENT:
            return False
        return "none" in self.auth_methods or (
            "client_secret_post" in self.auth_methods and form.get("client_secret") == SECRET
        )


def address(path: str, parameters: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(parameters)}"


@contextmanager
def running_provider(**options: Any) -> Iterator[Provider]:
    provider = Provider(**options)
    with serving(provider) as url:
        provider.url = url
        yield provider
