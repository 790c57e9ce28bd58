"""Servers at which a test can hold calls: a toll gate in front of another server, and a deployer that takes webhooks.

A call that is held *before* has not reached the server. One that is held *after* was served, and its caller has no
answer yet.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import httpx
from standardwebhooks import Webhook, WebhookVerificationError

PATIENCE_S = 60
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Call:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def matches(self, method: str, part: str) -> bool:
        return self.method == method and part in self.path


@dataclass(frozen=True)
class Reply:
    """What the caller is told."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


class Hold:
    """Stops the first call that matches; those after it pass."""

    def __init__(self, method: str, part: str, when: Literal["before", "after"]) -> None:
        self.method, self.part, self.when = method, part, when
        self._taken = threading.Lock()
        self._held, self._released = threading.Event(), threading.Event()
        self._is_dropped = False

    def wait_until_held(self) -> None:
        assert self._held.wait(PATIENCE_S), f"{self.method} {self.part} did not come within {PATIENCE_S} seconds"

    @property
    def is_held(self) -> bool:
        return self._held.is_set()

    def release(self) -> None:
        """Let the call go on. Where it was held before, it reaches the server though its caller may be dead by now."""
        self._released.set()

    def drop(self) -> None:
        """The call is lost, or its answer."""
        self._is_dropped = True
        self._released.set()

    def cancel(self) -> None:
        """Stop nothing from now on."""
        self._taken.acquire(blocking=False)

    def take(self, call: Call) -> bool:
        """Whether this call is the one to be stopped."""
        return call.matches(self.method, self.part) and self._taken.acquire(blocking=False)

    def stop(self) -> bool:
        """Wait for the test; whether the call may go on."""
        self._held.set()
        self._released.wait()
        return not self._is_dropped


class Station(ABC):
    """An HTTP server in threads. ``arrived`` counts calls when they come, ``served`` when the server has seen them."""

    def __init__(self) -> None:
        self.arrived: list[Call] = []
        self.served: list[Call] = []
        self._holds: list[Hold] = []
        self._server: _Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def hold(self, method: str, part: str, *, when: Literal["before", "after"]) -> Hold:
        """Stop the next call of ``method`` whose path and query contain ``part``."""
        hold = Hold(method, part, when)
        self._holds.append(hold)
        return hold

    def count(self, method: str, part: str) -> int:
        """How many such calls the server has seen."""
        return sum(call.matches(method, part) for call in list(self.served))

    def open(self) -> None:
        """Accept connections, on the same port each time."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        self._server.thread.start()

    def shut(self) -> None:
        """Refuse connections, and cut those there are, as when the machine behind goes away."""
        if self._server:
            server, self._server = self._server, None
            for hold in self._holds:
                hold.drop()
            server.cut()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    def give_up(self) -> None:  # noqa: B027  # most have nobody behind them
        """Wait for nobody any more: the calls there are end."""

    @abstractmethod
    def serve(self, call: Call) -> Reply | None:
        """Answer a call; ``None`` hangs up."""

    def pass_through(self, call: Call) -> Reply | None:
        self.arrived.append(call)
        hold = next((hold for hold in self._holds if hold.take(call)), None)
        if hold and hold.when == "before" and not hold.stop():
            return None
        reply = self.serve(call)
        self.served.append(call)
        if hold and hold.when == "after" and not hold.stop():
            return None
        return reply


class TollGate(Station):
    """Passes calls on to another server."""

    def __init__(self, upstream_url: str) -> None:
        super().__init__()
        self._upstream = urlsplit(upstream_url)
        self._asking: set[http.client.HTTPConnection] = set()

    def give_up(self) -> None:
        for connection in list(self._asking):
            if connection.sock:
                _hang_up(connection.sock)

    def serve(self, call: Call) -> Reply | None:
        connection = http.client.HTTPConnection(
            self._upstream.hostname or "", self._upstream.port, timeout=2 * PATIENCE_S
        )
        self._asking.add(connection)
        try:
            connection.request(call.method, call.path, body=call.body or None, headers=dict(call.headers))
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            self._asking.discard(connection)
            connection.close()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OF_ONE_CONNECTION]
        return Reply(answer.status, headers, body)


class Deployer(Station):
    """Takes webhooks, verifies their signatures, and reports back when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.secret = new_secret()
        self.callback_secret = new_secret()
        self.refusals: list[str] = []
        self.answers: list[int] = []
        """Statuses for the next calls; 204 when there are none left."""
        self.known: dict[str, Mapping[str, Any] | Reply] = {}
        """What it says of a deployment when it is asked; of others it says that there are none."""
        self.answers_questions = False
        """Whether it says that in the way of the contract."""
        self.signs_answers_with = ""
        """The secret with which it signs what it answers to questions; none: it does not sign."""

    def serve(self, call: Call) -> Reply:
        signed = f"GET {call.path}".encode() if call.method == "GET" else call.body
        headers = {name.lower(): value for name, value in call.headers.items()}
        try:
            Webhook(self.secret).verify(signed, headers, json_parse=False)
        except (WebhookVerificationError, ValueError) as error:
            self.refusals.append(str(error))
            return Reply(401)
        if call.method == "GET":
            return self._signed(self._tell(call.path.rpartition("/")[2]), headers["webhook-id"])
        return Reply(self.answers.pop(0) if self.answers else 204)

    def _signed(self, reply: Reply, question: str) -> Reply:
        if not self.signs_answers_with:
            return reply
        now = datetime.now(UTC)
        signature = Webhook(self.signs_answers_with).sign(question, now, reply.body.decode())
        stamp = str(int(now.timestamp()))
        signed = [("webhook-id", question), ("webhook-timestamp", stamp), ("webhook-signature", signature)]
        return Reply(reply.status, reply.headers + signed, reply.body)

    def _tell(self, deployment_id: str) -> Reply:
        known = self.known.get(deployment_id)
        if isinstance(known, Reply):
            return known
        if known is not None:
            return Reply(200, [("content-type", "application/json")], json.dumps(known).encode())
        kind = "application/problem+json" if self.answers_questions else "text/html"
        return Reply(404, [("content-type", kind)], b"{}")

    def received(self, model: str) -> list[tuple[str, dict[str, Any]]]:
        """The ``webhook-id`` and the event of each message about a model, in the order they came."""
        calls = [call for call in list(self.served) if call.method == "POST"]
        found = [(call.headers["webhook-id"], json.loads(call.body)) for call in calls]
        return [(name, event) for name, event in found if event["data"]["resource"] == model]

    def report(self, event: Mapping[str, Any], phase: str, *, sequence: int = 1, **more: Any) -> httpx.Response:
        """Tell Countersign how the deployment is that an event asked for, as a deployer does."""
        data, generation = event["data"], event["data"]["generation"]
        message = f"status-{event['id']}-{sequence}"
        status = {"deployment_id": data["deployment_id"], "generation": generation, "observed_generation": generation}
        document = {
            "specversion": "1.0",
            "id": message,
            "type": "countersign.deployment.status.v1",
            "data": {**status, "sequence": sequence, "phase": phase, **more},
        }
        body, now = json.dumps(document), datetime.now(UTC)
        headers = {
            "content-type": "application/cloudevents+json",
            "webhook-id": message,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(self.callback_secret).sign(message, now, body),
        }
        return httpx.post(data["callback"]["url"], content=body, headers=headers, timeout=PATIENCE_S, trust_env=False)


def new_secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], station: Station) -> None:
        self.station = station
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    def cut(self) -> None:
        self.shutdown()
        self.socket.close()
        deadline = time.monotonic() + PATIENCE_S
        while self._connections and time.monotonic() < deadline:
            for connection in list(self._connections):
                _hang_up(connection)
            self.station.give_up()
            time.sleep(0.01)
        self.server_close()
        self.thread.join()

    def process_request(self, request: socket.socket, client_address: Any) -> None:  # type: ignore[override]
        self._connections.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket.socket, client_address: Any) -> None:  # type: ignore[override]
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers are killed here: a connection that broke is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Server

    def pass_through(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        reply = self.server.station.pass_through(Call(self.command, self.path, _Headers(self.headers.items()), body))
        if reply is None:
            self.close_connection = True
            return
        self.send_response_only(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = pass_through  # noqa: N815  # looked up by method

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it
        """The tests' output is not the place."""


class _Headers(dict[str, str]):
    """Header names are the same in any case."""

    def __getitem__(self, name: str) -> str:
        return next(value for known, value in self.items() if known.lower() == name.lower())


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
