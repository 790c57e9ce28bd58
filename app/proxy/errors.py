"""What is answered on MLflow's paths by us: refusals, in the shape that MLflow's client reads."""

from __future__ import annotations

import json

from app.domain.errors import (
    CountersignError,
    HeadersTooLarge,
    InsufficientScope,
    NotAuthenticated,
    TooLarge,
    TooSlow,
    Unavailable,
)
from app.domain.problems import challenge, insufficient_scope, problem_of
from app.proxy.asgi import Headers, Outbound
from app.proxy.content_security import protective

ANSWERED = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"), *protective(None, https=False))
"""The headers of what is answered here, not by MLflow."""

_UNREAD = (TooLarge, TooSlow, HeadersTooLarge)


async def answer_error(answer: Outbound, error: CountersignError, public_url: str) -> None:
    """Say no: ``{"error_code", "message", …}`` with the status of ``app/domain/problems.py``.

    Extra members survive in the client's ``RestException.json``; a body that is no JSON object would be lost.
    """
    problem = problem_of(error)
    members = {**error.details, "error_code": problem.mlflow_code, "message": error.message}
    headers = [*ANSWERED]
    if isinstance(error, NotAuthenticated):
        headers.append((b"www-authenticate", challenge(error, public_url=public_url).encode("ascii")))
    if isinstance(error, InsufficientScope):
        headers.append((b"www-authenticate", insufficient_scope(error, public_url=public_url).encode("ascii")))
    if isinstance(error, _UNREAD):
        headers.append((b"connection", b"close"))  # the rest of what was sent is not waited for
    if isinstance(error, Unavailable):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    await answer.answer(problem.status, headers, json.dumps(members, default=str).encode())


def closes_after(error: CountersignError, headers: Headers) -> bool:
    """Whether the connection is closed when this was said."""
    return isinstance(error, _UNREAD) or any(
        name == b"connection" and b"close" in value.lower() for name, value in headers
    )
