"""One HTTP/1.1 connection: uvicorn's, with bounds on what comes before the body, and refusals in MLflow's shape.

uvicorn's parser (llhttp) bounds neither the head of a request nor the time it takes to arrive, takes any number of
``Host`` headers, adds trailers to the headers of a request that is being judged, loses the body of a request that
asks for another protocol, and answers what it refuses in plain text (measured on uvicorn 0.54, httptools 0.9).
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_BYTES = 64 * 1024
"""Of the request line and the headers together; MLflow's client sends less than two KiB, and tokens are a few."""

HEADERS = 128

FAREWELL_S = 10.0
"""After a connection is closed, until what its peer has not taken is thrown away."""

_HOST = re.compile(rb"[A-Za-z0-9._~-]*(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")


class CorkedTransport:
    """A transport that sends what is written in one turn of the event loop together.

    uvicorn writes the head and the body of an answer apart, which are two system calls and two packets.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else a transport has
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it at the end of this turn."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def close(self) -> None:
        """Send what is held, and close; without what is left, if the peer does not take it."""
        self.flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(FAREWELL_S, self._transport.abort)

    def flush(self) -> None:
        """Send what is held now: nothing more comes in this turn."""
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))


class HttpConnection(HttpToolsProtocol):
    """For uvicorn's ``http=``."""

    head_s = 20.0
    """Seconds from the first byte of a request, or the beginning of the connection, to the end of the headers."""

    _in_head = True
    _head_bytes = 0
    _refusal: tuple[int, str] | None = None
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(CorkedTransport(transport, self.loop))  # type: ignore[arg-type]  # all that it uses
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if self._deadline is None and self._is_idle():
                self._begin_head()
            room = HEAD_BYTES - self._head_bytes
            if len(data) > room:
                super().data_received(data[:room])
                if self._in_head and not self.transport.is_closing():
                    self._refuse(431, f"expected a request line and headers of at most {HEAD_BYTES} bytes")
                    return
                data = data[room:]
            self._head_bytes += len(data)
        if not self.transport.is_closing():
            super().data_received(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer; RFC 9110 section 6.5.1 forbids to take it for a header
        if len(self.headers) >= HEADERS:
            self._refusal = (431, f"expected at most {HEADERS} headers")
            raise ValueError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._end_head()
        if why := self._what_is_wrong():
            self._refusal = (400, why)
            raise ValueError
        super().on_headers_complete()
        self._in_head = False
        if self.parser.should_upgrade() and not self._should_upgrade():
            self.cycle.keep_alive = False  # the parser reads nothing after it

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def on_response_complete(self) -> None:
        # One turn of the event loop earlier: 2 of 84 µs where one connection asks for what is remembered.
        self.transport.flush()  # type: ignore[attr-defined]  # ours
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        status, why = self._refusal or (400, msg)
        self._refuse(status, why)

    def _what_is_wrong(self) -> str | None:
        hosts: list[bytes] = []
        codings: list[bytes] = []
        length = b"0"
        for name, value in self.headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"transfer-encoding":
                codings.append(value.strip().lower())
            elif name == b"content-length":
                length = value
        if codings and codings != [b"chunked"]:
            return "expected no Transfer-Encoding but chunked"
        if self.parser.should_upgrade():
            has_body = bool(codings) or length != b"0"
            if has_body or (self._should_upgrade() and self.parser.get_method() != b"GET"):
                return "expected no body in a request that asks for another protocol (Upgrade)"
        return _wrong_with_host(hosts, self.parser.get_http_version())

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _begin_head(self) -> None:
        self._deadline = self.loop.call_later(self.head_s, self._give_up)

    def _end_head(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_idle():
            self._refuse(408, f"expected the headers of a request within {self.head_s:g} s")

    def _refuse(self, status: int, why: str) -> None:
        """Answer, if this is the request that is to be answered next and nothing of its answer was sent; and close."""
        is_its_body = not self._in_head and not self.pipeline and not self._is_idle()
        if self._is_idle() or (is_its_body and not self.cycle.response_started):
            body = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": why}).encode()
            head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            head += [(b"cache-control", b"no-store"), (b"connection", b"close")]
            lines = [name + b": " + value + b"\r\n" for name, value in head]
            self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.transport.close()


def _wrong_with_host(hosts: list[bytes], version: str) -> str | None:
    """Nothing here asks for the host, but whoever is in front of us does."""
    if version not in {"1.0", "1.1"}:
        return "expected HTTP/1.1"
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return "expected one Host header (RFC 9112 section 3.2)"
    if hosts and not _HOST.fullmatch(hosts[0]):
        return "expected a Host header of a name and perhaps a port"
    return None
