"""Every error as an RFC 9457 problem."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from app.domain.errors import (
    CountersignError,
    Forbidden,
    InsufficientAuthentication,
    InsufficientScope,
    NotAuthenticated,
    TooManyRequests,
    Unavailable,
    UnknownRoute,
)
from app.domain.problems import challenge, insufficient_authentication, insufficient_scope, problem_of
from app.domain.sessions import StepUp
from app.ports import Page
from app.routers.browser_pages import step_up_address
from app.routers.services import Services
from app.services.throttling import key_of
from app.telemetry import DENIALS

_log = structlog.stdlib.get_logger(__name__)


class ProblemAnswer(BaseModel):
    """What went wrong (RFC 9457). Some problems have more members; docs/reference/problems.md tells of each."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


def problems_documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses, as an operation declares them."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


PROBLEM_RESPONSES = problems_documented(400, 401, 403, 404, 405, 409, 413, 422, 429, 501, 503)
"""What any operation may answer beside what it says itself."""

MAX_BODY_BYTES = 1024 * 1024
_LONGEST_WORD = 100
"""Of what is compared with what was meant."""
PROBLEM = "urn:countersign:problem:"
"""What `type` begins with; docs/reference/problems.md tells of each."""


def problem_response(
    status: int,
    title: str,
    detail: str,
    *,
    slug: str,
    members: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem document. ``members`` are shown beside the standard ones."""
    return JSONResponse(
        _document(status, title, detail, slug=slug, members=members),
        status_code=status,
        media_type="application/problem+json",
        headers=dict(headers or {}),
    )


def problem_document(
    status: int, title: str, detail: str, *, slug: str, members: Mapping[str, object] | None = None
) -> str:
    """As ``problem_response``, for what is said in the middle of an answer."""
    return json.dumps(_document(status, title, detail, slug=slug, members=members), ensure_ascii=False)


def _document(
    status: int, title: str, detail: str, *, slug: str, members: Mapping[str, object] | None
) -> Mapping[str, object]:
    document = {"type": f"{PROBLEM}{slug}", "title": title, "status": status, "detail": detail}
    return document | {name: value for name, value in (members or {}).items() if name not in document}


def install_problem_handlers(app: FastAPI) -> None:
    """Answer problems wherever an error leaves a router, and describe them in the OpenAPI document."""
    app.add_exception_handler(CountersignError, _countersign_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _unexpected)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        document["components"]["schemas"]["ProblemAnswer"] = ProblemAnswer.model_json_schema()
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


async def _countersign_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CountersignError)
    services: Services = request.app.state.services
    row = problem_of(error)
    headers = {}
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = challenge(error, public_url=services.public_url)
    if isinstance(error, InsufficientScope):
        headers["WWW-Authenticate"] = insufficient_scope(error, public_url=services.public_url)
    if isinstance(error, InsufficientAuthentication):
        headers["WWW-Authenticate"] = insufficient_authentication(error, public_url=services.public_url)
        step_up = StepUp(error.max_age_s, tuple(error.acr_values.split()))
        error.details["sign_in"] = services.public_url + step_up_address(step_up)
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, NotAuthenticated | Forbidden):
        DENIALS.labels(problem=row.slug).inc()
    if isinstance(error, Forbidden):
        await _record_denial(request, services, error)
    if row.status >= 500:
        _log.warning("request_failed", path=request.url.path, problem=row.slug, detail=error.message)
    if page := _page_for(request, error):
        return page
    return problem_response(row.status, row.title, error.message, slug=row.slug, members=error.details, headers=headers)


def _page_for(request: Request, error: CountersignError) -> Response | None:
    """A page, if a person waits for one."""
    services: Services = request.app.state.services
    page = services.pages.instead_of(error, request.scope)
    return _page(page) if page else None


def _page(page: Page) -> Response:
    answer = Response(page.body, status_code=page.status)
    answer.raw_headers.extend(page.headers)
    return answer


async def _record_denial(request: Request, services: Services, error: Forbidden) -> None:
    principal = getattr(request.state, "principal", None)
    try:
        if principal is None:  # anybody can cause it, and must not fill the audit log with it
            services.refusals.hit(key_of(request.client.host if request.client else "unknown"))
        await services.audit.record_denial(principal, what=f"{request.method} {request.url.path}", error=error)
    except TooManyRequests:
        return
    except CountersignError as failure:
        # The refusal stands though it cannot be recorded.
        _log.error("denial_not_recorded", path=request.url.path, detail=failure.message)


async def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    wrong = [{"field": _field(item["loc"]), "expected": _expected(item)} for item in error.errors()]
    detail = "; ".join(f"{item['field']}: {item['expected']}" for item in wrong)
    return problem_response(
        400, "The input is invalid", detail, slug="invalid-input", members={"errors": wrong, "field": wrong[0]["field"]}
    )


def _field(loc: Sequence[str | int]) -> str:
    """Where it is: of a parameter that may be repeated, not which one of them."""
    of = loc[1:2] if loc[0] == "query" else loc[1:]
    return ".".join(map(str, of)) or str(loc[0])


def _expected(item: Mapping[str, Any]) -> str:
    """What was expected; of a word that is misspelled, the right one first: the list may be long."""
    said = str(item["msg"])
    if item["type"] not in {"enum", "literal_error"} or not isinstance(item["input"], str):
        return said
    words = re.findall("'([^']*)'", item["ctx"]["expected"])
    meant = difflib.get_close_matches(item["input"][:_LONGEST_WORD], words, 1)
    return f"Did you mean '{meant[0]}'? {said}" if meant else said


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {
        404: f"There is no {request.url.path}.",
        405: f"{request.method} is not offered for {request.url.path}.",
    }.get(error.status_code, str(error.detail))
    if error.status_code in {404, 405} and (page := _page_for(request, UnknownRoute(detail[:300]))):
        return page
    slug = {404: "unknown-route", 405: "unknown-method", 413: "too-large"}.get(error.status_code, "http")
    return problem_response(error.status_code, str(error.detail), detail, slug=slug, headers=error.headers)


def bounded(receive: Receive) -> Receive:
    """The same body, ending in a 413 problem once it is larger than any message of ours."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY_BYTES:
            raise HTTPException(413, f"The body is larger than {MAX_BODY_BYTES} bytes")
        return message

    return counted


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("unexpected_error", path=request.url.path, exc_info=error)
    if page := _page_for(request, CountersignError("Countersign failed to handle this.")):
        return page
    return problem_response(500, "Something broke", "Countersign failed to handle this.", slug="internal")
