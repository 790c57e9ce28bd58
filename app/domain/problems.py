"""What each error means at the edge: problem type, title, HTTP status and MLflow's error code.

``/control/v1`` shows RFC 9457 problems, MLflow's own paths show MLflow's shape. Both read this table, which is total
over the family of ``app/domain/errors.py`` (``tests/architecture`` holds it so).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.domain import errors


@dataclass(frozen=True, slots=True)
class Problem:
    """One row. ``mlflow_code`` is a name that MLflow's client knows (``mlflow.protos.databricks_pb2.ErrorCode``)."""

    slug: str
    title: str
    status: int
    mlflow_code: str


PROBLEMS: Mapping[type[errors.CountersignError], Problem] = {
    errors.CountersignError: Problem("internal", "Something broke", 500, "INTERNAL_ERROR"),
    errors.InvalidConfiguration: Problem("configuration", "The configuration is wrong", 500, "INTERNAL_ERROR"),
    errors.InvalidInput: Problem("invalid-input", "The input is invalid", 400, "INVALID_PARAMETER_VALUE"),
    errors.TooLarge: Problem("too-large", "The body is too large", 413, "INVALID_PARAMETER_VALUE"),
    errors.HeadersTooLarge: Problem("headers-too-large", "The headers are too large", 431, "INVALID_PARAMETER_VALUE"),
    errors.TooSlow: Problem("too-slow", "The body stopped arriving", 408, "DEADLINE_EXCEEDED"),
    errors.NotAuthenticated: Problem("not-authenticated", "A valid access token is needed", 401, "UNAUTHENTICATED"),
    errors.SignInFailed: Problem("sign-in-failed", "Signing in did not work", 400, "UNAUTHENTICATED"),
    errors.OAuthRefused: Problem("oauth-refused", "The client is refused", 400, "INVALID_PARAMETER_VALUE"),
    errors.Forbidden: Problem("forbidden", "Not allowed", 403, "PERMISSION_DENIED"),
    errors.InsufficientScope: Problem(
        "insufficient-scope", "This token was not given the scope", 403, "PERMISSION_DENIED"
    ),
    errors.InsufficientAuthentication: Problem(
        "insufficient-authentication", "You must prove anew who you are", 401, "UNAUTHENTICATED"
    ),
    errors.CrossOrigin: Problem("cross-origin", "A page of another origin wants this", 403, "PERMISSION_DENIED"),
    errors.SelfApproval: Problem("self-approval", "A second person must decide", 403, "PERMISSION_DENIED"),
    errors.NotAnApprover: Problem("not-an-approver", "The policy does not name you", 403, "PERMISSION_DENIED"),
    errors.SelfGrant: Problem("self-grant", "Somebody else must give this", 403, "PERMISSION_DENIED"),
    errors.PromotionRequired: Problem("promotion-required", "A promotion is needed", 403, "PERMISSION_DENIED"),
    errors.Governed: Problem("governed", "A promotion rests on this", 403, "PERMISSION_DENIED"),
    errors.RouteRefused: Problem("route-refused", "This route is closed", 403, "PERMISSION_DENIED"),
    errors.UnknownRoute: Problem("unknown-route", "No such route", 404, "ENDPOINT_NOT_FOUND"),
    errors.NotFound: Problem("not-found", "Not found", 404, "RESOURCE_DOES_NOT_EXIST"),
    errors.Conflict: Problem("conflict", "The state forbids it", 409, "RESOURCE_CONFLICT"),
    errors.IllegalMove: Problem("illegal-move", "The promotion's state forbids it", 409, "RESOURCE_CONFLICT"),
    errors.AlreadyDecided: Problem("already-decided", "Already decided", 409, "RESOURCE_CONFLICT"),
    errors.WouldLockOut: Problem("would-lock-out", "Nobody could undo this", 409, "RESOURCE_CONFLICT"),
    errors.BytesChanged: Problem("bytes-changed", "The bytes are not what was approved", 409, "RESOURCE_CONFLICT"),
    errors.PreconditionFailed: Problem("precondition-failed", "It was changed meanwhile", 412, "RESOURCE_CONFLICT"),
    errors.Unsupported: Problem("unsupported", "Not offered", 501, "NOT_IMPLEMENTED"),
    errors.Unresolvable: Problem("unresolvable", "No physical address", 422, "INVALID_PARAMETER_VALUE"),
    errors.NoArtifacts: Problem("no-artifacts", "There are no artifacts", 422, "RESOURCE_DOES_NOT_EXIST"),
    errors.ArtifactsUnreadable: Problem(
        "artifacts-unreadable", "The store does not show the artifacts", 422, "INVALID_PARAMETER_VALUE"
    ),
    errors.ArtifactsUnsettled: Problem(
        "artifacts-unsettled", "The artifacts are being written", 422, "INVALID_PARAMETER_VALUE"
    ),
    errors.Unavailable: Problem("unavailable", "A part does not answer", 503, "TEMPORARILY_UNAVAILABLE"),
    errors.UpstreamUnavailable: Problem(
        "upstream-unavailable", "MLflow does not answer", 503, "TEMPORARILY_UNAVAILABLE"
    ),
    errors.UpstreamNotReached: Problem(
        "upstream-not-reached", "MLflow cannot be reached", 503, "TEMPORARILY_UNAVAILABLE"
    ),
    errors.Overloaded: Problem("overloaded", "Too many requests wait for MLflow", 503, "TEMPORARILY_UNAVAILABLE"),
    errors.TooManyRequests: Problem("too-many-requests", "Too many requests", 429, "REQUEST_LIMIT_EXCEEDED"),
}


def problem_of(error: errors.CountersignError) -> Problem:
    """The row of an error: its own, or that of its nearest ancestor."""
    return next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)


def challenge(error: errors.NotAuthenticated, *, public_url: str) -> str:
    """``WWW-Authenticate`` for a caller without a valid token (RFC 6750 section 3, RFC 9728 section 5.1)."""
    told = {"error": error.error, "error_description": quotable(error.message)} if error.error else {}
    return _bearer(public_url, told)


def insufficient_scope(error: errors.InsufficientScope, *, public_url: str) -> str:
    """``WWW-Authenticate`` for a caller whose token was given too little (RFC 6750 section 3.1)."""
    return _bearer(public_url, {"error": "insufficient_scope", "scope": error.scope})


def insufficient_authentication(error: errors.InsufficientAuthentication, *, public_url: str) -> str:
    """``WWW-Authenticate`` for a caller whose sign-in is too old, or too weak (RFC 9470 section 3)."""
    told = {
        "error": "insufficient_user_authentication",
        "error_description": quotable(error.message),
        "max_age": str(error.max_age_s),
    }
    return _bearer(public_url, told | ({"acr_values": quotable(error.acr_values)} if error.acr_values else {}))


def quotable(text: str) -> str:
    """Only what a description may hold: %x20-21 / %x23-5B / %x5D-7E (RFC 6749 section 5.2)."""
    return "".join(letter if " " <= letter <= "~" and letter not in '"\\' else "'" for letter in text)


def _bearer(public_url: str, told: Mapping[str, str]) -> str:
    metadata = f"{public_url}/.well-known/oauth-protected-resource"
    said = {"realm": "countersign", "resource_metadata": metadata, **told}
    return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in said.items())
