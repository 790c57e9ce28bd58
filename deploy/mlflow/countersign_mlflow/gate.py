"""The gate before all of MLflow: no request, of either of its frameworks, without the gateway's assertion.

Pure ASGI, around the whole application: MLflow answers some paths with FastAPI (artifacts, OTLP, jobs, the AI gateway,
the assistant), the others with Flask, and middleware of either would miss the other's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from countersign_mlflow.assertions import HEADER, Judged, NotAsserted, Verifier

_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADER = HEADER.encode("ascii")
PROBES = ("/health", "/version")
"""What a container's health check asks with GET: they answer from nothing that is stored."""
NOBODY_ELSE = "This MLflow listens to Countersign alone: call it through the gateway"


class Gate:
    """An ASGI application that lets through what the gateway asserted.

    Args:
        application: all of MLflow.
        verifier: knows the gateway's assertions.
        prefix: MLflow's ``--static-prefix``, without a slash at its end.
    """

    def __init__(self, application: Application, verifier: Verifier, prefix: str = "") -> None:
        self._application = application
        self._verifier = verifier
        self._prefix = prefix
        self._probes = frozenset(prefix + probe for probe in PROBES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": NOBODY_ELSE})
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            raise ValueError(f"the gate serves http, not {scope['type']}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not (scope["method"] == "GET" and scope["path"] in self._probes):
            try:
                judged = self._verifier.verify(_token(scope)).judged
            except NotAsserted as refusal:
                _log.warning("refused %s %r: the assertion: %s", scope["method"], scope["path"], refusal)
                await _answer(send, 401, "UNAUTHENTICATED", f"{NOBODY_ELSE}. Its assertion: {refusal}.")
                return
            if judged and not self._is_for(judged, scope):
                _log.warning("refused %s %r: asserted for another request", scope["method"], scope["path"])
                await _answer(send, 403, "PERMISSION_DENIED", "Countersign's assertion is for another request.")
                return
        await self._application(scope, receive, send)

    def _is_for(self, judged: Judged, scope: Scope) -> bool:
        return (judged.method, self._prefix + unquote(judged.path)) == (scope["method"], scope["path"])


def _token(scope: Scope) -> str:
    sent: list[bytes] = [value for name, value in scope["headers"] if name == _HEADER]
    if len(sent) != 1:
        raise NotAsserted("there is more than one" if sent else "there is none")
    return sent[0].decode("latin-1")


async def _answer(send: Send, status: int, error_code: str, message: str) -> None:
    """In the shape that MLflow's client reads."""
    body = json.dumps({"error_code": error_code, "message": message}).encode("ascii")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Countersign"))  # RFC 9110 section 15.5.2
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
