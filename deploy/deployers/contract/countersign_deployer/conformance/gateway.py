"""The gateway that is played: takes reports, says what is desired, and remembers everything that it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from pydantic import ValidationError

from countersign_deployer.contract import StatusReported
from countersign_deployer.signatures import BadSignature, get_content, sign, verify

Json = dict[str, Any]

_NEXT = "dep_next"


@dataclass(frozen=True, slots=True)
class Received:
    """One report as it came. ``mistakes``: what is wrong with it, for people. ``data`` is empty if it has none."""

    id: str
    path: str
    body: bytes
    is_signed: bool
    mistakes: tuple[str, ...]
    data: Json
    answered: int

    @property
    def generation(self) -> int:
        generation = self.data.get("generation")
        return generation if isinstance(generation, int) else 0


class Forgery(StrEnum):
    """How an answer to who asks what is desired is not the gateway's, or not to this question."""

    UNSIGNED = "unsigned"
    OTHER_KEY = "signed with another secret"
    OTHER_QUESTION = "signed with the webhook-id of another question"


@dataclass(frozen=True, slots=True)
class Ask:
    """One question for what is desired."""

    is_signed: bool


class PlayedGateway:
    """Listens in a thread while it is entered. Its ``url`` is what the deployer takes for its gateway."""

    def __init__(
        self,
        target: str,
        *,
        webhook_secret: str,
        callback_secret: str,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        url: str | None = None,
    ) -> None:
        """Listen.

        Args:
            target: the name of the deployer's target.
            webhook_secret: signs what the deployer is told.
            callback_secret: signs what the deployer tells.
            listen: address and port; 0 takes a free one.
            url: how the deployer reaches us, if not by that address.

        Raises:
            OSError: we cannot listen there.
        """
        self._webhook_secret = webhook_secret
        self._callback_secret = callback_secret
        self._desired_path = f"/control/v1/targets/{quote(target, safe='')}/desired"
        self._target = target
        self._changed = threading.Condition()
        self._received: list[Received] = []
        self._asks: list[Ask] = []
        self._desired: list[Json] = []
        self._forgeries: list[tuple[Forgery, Json]] = []
        self._strayed: list[str] = []
        self._refusals = 0
        self._server = _Server(listen, _handler(self))
        self.url = (url or f"http://{self._server.server_address[0]!s}:{self._server.server_port}").rstrip("/")

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def received(self) -> Sequence[Received]:
        """All reports, each attempt, in the order they came."""
        with self._changed:
            return tuple(self._received)

    @property
    def asks(self) -> Sequence[Ask]:
        """All questions for what is desired."""
        with self._changed:
            return tuple(self._asks)

    @property
    def strayed(self) -> Sequence[str]:
        """What was asked for since the last question that was followed to its end, in the words of a person."""
        with self._changed:
            return tuple(self._strayed)

    def desire(self, items: Sequence[Json]) -> None:
        """What is answered from now on to who asks what is desired."""
        with self._changed:
            self._desired = list(items)

    def forge(self, items: Mapping[Forgery, Json]) -> None:
        """Answer the next questions for what is desired with these, one each, as nobody must believe it."""
        with self._changed:
            self._forgeries = list(items.items())

    @property
    def forges(self) -> bool:
        """Whether the next question gets a forged answer."""
        with self._changed:
            return bool(self._forgeries)

    def refuse_next(self, count: int) -> None:
        """Answer 503 to the next reports."""
        with self._changed:
            self._refusals = count

    def wait_for(self, wanted: Callable[[], Any], timeout_s: float) -> Any:
        """What ``wanted`` says as soon as it says something true; or what it says in the end."""
        with self._changed:
            self._changed.wait_for(wanted, timeout_s)
            return wanted()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Remember a report. An unsigned one is taken, too: that it is unsigned is said once, in the end."""
        is_signed = _is_signed(body, headers, self._callback_secret)
        mistakes, data = _read(body, headers)
        with self._changed:
            status = 503 if self._refusals > 0 else 200
            self._refusals = max(0, self._refusals - 1)
            message_id = headers.get("webhook-id", "")
            self._received.append(Received(message_id, path, body, is_signed, tuple(mistakes), data, status))
            self._changed.notify_all()
        return status

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
        """What is desired, to who signs the question; signed, in answer to it."""
        path, _, query = path.partition("?")
        if path != self._desired_path:
            with self._changed:
                self._strayed.append(f"asked for was {path}, expected {self._desired_path}")
            return 404, {}, "{}"
        forgery, is_last = None, f"after={_NEXT}" in query
        is_signed = _is_signed(get_content(path).encode(), headers, self._callback_secret)
        with self._changed:
            # Two pages, the first one empty, so that who does not turn the page is found out.
            items, next_after = (self._desired, None) if is_last else ([], _NEXT)
            if is_signed and self._forgeries:
                forgery, item = self._forgeries.pop(0)
                items, next_after, is_last = [item], None, True
            body = json.dumps({"target": self._target, "items": items, "next_after": next_after})
            if is_last or not is_signed:
                self._asks.append(Ask(is_signed))
                self._strayed.clear()
            else:
                self._strayed.append(f"the first page was asked for, and not what its next_after={_NEXT} leads to")
            self._changed.notify_all()
        if not is_signed:
            return 401, {}, "{}"
        if forgery is Forgery.UNSIGNED:
            return 200, {"webhook-id": headers["webhook-id"]}, body
        message_id = "req_other" if forgery is Forgery.OTHER_QUESTION else headers["webhook-id"]
        secret = self._callback_secret if forgery is Forgery.OTHER_KEY else self._webhook_secret
        return 200, sign(message_id, body, secret), body


def _is_signed(content: bytes, headers: dict[str, str], secret: str) -> bool:
    try:
        verify(content, headers, [secret])
    except BadSignature:
        return False
    return True


def _read(body: bytes, headers: dict[str, str]) -> tuple[list[str], Json]:
    """What is wrong with a report, and its data as far as it has any."""
    try:
        event = json.loads(body)
        data = event["data"] if isinstance(event["data"], dict) else {}
    except (ValueError, KeyError, TypeError):
        return ["it is not a JSON object with `data`"], {}
    mistakes = []
    try:
        StatusReported.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        mistakes = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in found]
    if event.get("id") != headers.get("webhook-id"):
        mistakes.append("`id` is not the header webhook-id")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {"application/cloudevents+json", "application/json"}:
        mistakes.append(f"Content-Type is {kind or 'missing'}, expected application/cloudevents+json")
    return mistakes, data


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a deployer that hangs up, such as one that is restarted, has not said anything."""


def _handler(gateway: PlayedGateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # seconds: who keeps a connection open does not keep its thread

        def do_POST(self) -> None:  # named by http.server
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status = gateway.take(self.path, self._headers(), body)
            self._send(status, {}, json.dumps({"result": "taken"}))

        def do_GET(self) -> None:  # named by http.server
            self._send(*gateway.answer(self.path, self._headers()))

        def _headers(self) -> dict[str, str]:
            return {name.lower(): value for name, value in self.headers.items()}

        def _send(self, status: int, headers: dict[str, str], body: str) -> None:
            content = body.encode()
            self.send_response(status)
            all_headers = {**headers, "Content-Type": "application/json", "Content-Length": str(len(content))}
            for name, value in all_headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002  # named by http.server
            """Say nothing: what matters is in the outcome."""

    return Handler


def now_ms() -> int:
    """Milliseconds since the epoch: a generation that is higher than that of any run before."""
    return time.time_ns() // 1_000_000
