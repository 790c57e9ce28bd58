"""What a deployer refuses, as RFC 9457 problems that name the field."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

from pydantic import ValidationError
from starlette.responses import Response


@dataclass(eq=False)
class Problem(Exception):
    """A refusal. ``fields``: JSON path of what is wrong, and why."""

    status: HTTPStatus
    detail: str
    fields: tuple[tuple[str, str], ...] = ()

    def response(self) -> Response:
        """The refusal as ``application/problem+json``."""
        body: dict[str, object] = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.detail,
        }
        if self.fields:
            body["errors"] = [{"field": field, "detail": detail} for field, detail in self.fields]
        return Response(json.dumps(body), self.status, media_type="application/problem+json")


def policy_denied(field: str, detail: str) -> Problem:
    """A well-formed call that this deployer must not follow."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, ((field, detail),))


def malformed(error: ValidationError) -> Problem:
    """A call that is not what the contract says."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    if any(item["type"] == "json_invalid" for item in found):
        return Problem(HTTPStatus.BAD_REQUEST, "The body is not valid JSON.")
    fields = tuple(
        (".".join(str(part) for part in item["loc"]), item["msg"].removeprefix("Value error, ")) for item in found
    )
    detail = "; ".join(f"{field}: {reason}" for field, reason in fields)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, fields)
