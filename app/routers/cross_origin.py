"""Cross-origin requests of other pages' scripts (CORS), by allow-list: with a bearer token, never with a cookie."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/control/v1/", "/.well-known/")
EXACT_PATHS = frozenset({"/auth/token", "/auth/revoke", "/auth/device_authorization"})
"""Not the pages: what a person decides on is never shown to a script."""

_EXPOSED = b"ETag, Location, Retry-After, WWW-Authenticate, X-Request-Id"
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match"),
    (b"access-control-max-age", b"600"),
)


class CrossOriginAccess:
    """Lets pages of some origins read the answers of the API.

    A browser that is told nothing keeps the answer from the page: whatever is not listed gets no header. The origin is
    never a wildcard and credentials are never allowed, so that a person's session is worth nothing to another page.

    Args:
        application: answers the requests.
        origins: those that are allowed, as browsers write them.
    """

    def __init__(self, application: ASGIApp, origins: Iterable[str]) -> None:
        self._application = application
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path in EXACT_PATHS or path.startswith(PATHS)):
            await self._application(scope, receive, send)
            return
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        is_allowed = len(origins) == 1 and origins[0] in self._origins
        told: list[tuple[bytes, bytes]] = [(b"vary", b"Origin")]
        if is_allowed:
            told += [(b"access-control-allow-origin", origins[0]), (b"access-control-expose-headers", _EXPOSED)]
        if is_allowed and _is_preflight(scope):
            await send({"type": "http.response.start", "status": 204, "headers": [*told, *_PREFLIGHT]})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *told]
            await send(message)

        await self._application(scope, receive, send_told)


def _is_preflight(scope: Scope) -> bool:
    return scope["method"] == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )
