"""What browsers are told about each answer of ours that does not say it itself: not to share, frame or reinterpret it.

The API's own page (``/control/docs``) calls the API with a person's session; in a frame of another page it could be
made to be clicked. A shared cache may keep what was answered to a cookie, which it does not know for a credential
(RFC 9111 section 3.5 speaks of ``Authorization`` alone).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNLESS_SAID = (
    (b"cache-control", b"private, no-cache"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


class ProtectiveHeaders:
    """Adds the headers that ``application`` does not send. Its pages say more (``app/routers/pages.py``)."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ())]
                said = {name.lower() for name, _ in headers}
                message["headers"] = [*headers, *(pair for pair in UNLESS_SAID if pair[0] not in said)]
            await send(message)

        await self._application(scope, receive, send_protected)
