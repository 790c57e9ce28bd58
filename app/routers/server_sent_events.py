"""Server-sent events as they are written (WHATWG HTML, section 9.2 *Server-sent events*)."""

from __future__ import annotations

import re

MEDIA_TYPE = "text/event-stream"
HEADERS = {
    # A proxy must not collect them (nginx reads the second).
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}
HEARTBEAT = b":\n\n"
"""A comment: shows to both sides, and to what is between them, that the other is there."""
HEARTBEAT_S = 15.0
_LINE_END = re.compile(r"\r\n|\r|\n")


def message(data: str, *, event: str | None = None, last_id: str | None = None) -> bytes:
    """One event.

    Args:
        data: its text, one line or several.
        event: what kind it is; a reader that is told none takes it for a ``message``.
        last_id: what the reader sends back as ``Last-Event-ID`` when it connects again.
    """
    lines = [f"event: {event}"] if event else []
    if last_id is not None:
        lines.append(f"id: {last_id}")
    lines += [f"data: {line}" for line in _LINE_END.split(data)]
    return ("\n".join(lines) + "\n\n").encode()


def seen(last_id: str) -> bytes:
    """What a reader has seen, before there is anything to tell."""
    return f"id: {last_id}\n\n".encode()


def reconnect_after(milliseconds: int) -> bytes:
    """How long a reader waits before it connects again."""
    return f"retry: {milliseconds}\n\n".encode()
