"""What the API answers to a person who opens one of its addresses, as the link in a message of MLflow's client: a page.

The same JSON, laid out, with the way on. A program, also a script of a page, is answered JSON (``is_navigation``).
"""

from __future__ import annotations

import json
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.browsers import is_navigation
from app.routers.pages import page

API = "/control/v1/"
DOCUMENT = "/control/v1/openapi.json"
MOST = 512 * 1024
"""Bytes of an answer that is laid out; more than that is shown as it is."""
_PROMOTION = re.compile(r"prm_[0-9a-z]+")


class ReadableAnswers:
    """Lays out JSON for who opens an address in a browser.

    Args:
        application: answers the requests.
        public_url: our address.
    """

    def __init__(self, application: ASGIApp, public_url: str) -> None:
        self._application = application
        self._public_url = public_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        is_opened = scope["type"] == "http" and scope["method"] == "GET" and is_navigation(scope["headers"])
        if not is_opened or not path.startswith(API) or path == DOCUMENT:
            await self._application(scope, receive, send)
            return
        answer = _Answer(send)
        await self._application(scope, receive, answer.take)
        if answer.held is None:
            return
        shown = page(
            "answer.html",
            public_url=self._public_url,
            title=path.removeprefix(API),
            document=answer.document,
            console=console_path(path),
        )
        await shown(scope, receive, send)


def console_path(path: str) -> str:
    """The page of the console that shows to people what an address of the API tells programs."""
    kind, _, identifier = path.removeprefix(API).partition("/")
    is_promotion = kind == "promotions" and _PROMOTION.fullmatch(identifier) is not None
    return f"/console/promotions/{identifier}" if is_promotion else "/console"


class _Answer:
    """An answer that is held back while it can be laid out, and passed on as soon as it cannot."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self.held: bytes | None = None

    @property
    def document(self) -> str:
        return json.dumps(json.loads(self.held or b"null"), indent=2, ensure_ascii=False)

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_json(message):
            self._start, self.held = message, b""
            return
        if self.held is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self.held += message.get("body", b"")
        if len(self.held) > MOST and self._start is not None:
            held, self.held = self.held, None
            await self._send(self._start)
            await self._send({**message, "body": held})


def _is_json(start: Message) -> bool:
    return start["status"] == 200 and any(
        name.lower() == b"content-type" and value.split(b";")[0].strip() == b"application/json"
        for name, value in start.get("headers", ())
    )
