"""The token endpoint and what belongs to it, for programs: RFC 6749, 7009, 8628, 8693, and the metadata of both roles.

Errors are those of RFC 6749 section 5.2, never a redirect and never a page.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl

import structlog
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from app.domain.discovery import GrantType
from app.domain.errors import CountersignError, InvalidInput, OAuthRefused, TooManyRequests, Unavailable
from app.domain.problems import problem_of, quotable
from app.domain.tokens import scope_text
from app.routers.access import GuardedRoute, public
from app.routers.services import Services, ServicesOf
from app.services.logins import Caller, Granted
from app.services.throttling import key_of
from app.services.token_exchange import Exchanged, TokenType
from app.telemetry import DENIALS

_log = structlog.stdlib.get_logger(__name__)

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
"""RFC 6749 section 5.1."""
MOST_PARAMETERS = 40
_EXPECTED = frozenset({"authorization_pending", "slow_down"})
"""Refusals that are the usual course of things (RFC 8628 section 3.5)."""


class OAuthRoute(GuardedRoute):
    """A route whose refusals are OAuth's."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except OAuthRefused as error:
                return await _refused(request, error)
            except InvalidInput as error:
                return _error("invalid_request", error.message, status=problem_of(error).status)
            except Unavailable as error:
                return _unavailable(error)

        return answered


router = APIRouter(route_class=OAuthRoute, include_in_schema=False)


async def _form(request: Request) -> Mapping[str, str]:
    """The parameters of a request; those without a value count as left out (RFC 6749 section 3.2).

    Raises:
        OAuthRefused: it is no form, or a parameter was sent twice.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        raise OAuthRefused("invalid_request", "Send the parameters as application/x-www-form-urlencoded.")
    if request.url.query:
        # An address is written into logs on its way.
        raise OAuthRefused("invalid_request", "Send the parameters in the body, not in the address.")
    return read_parameters(await request.body())


def read_parameters(encoded: bytes) -> Mapping[str, str]:
    """Raises ``OAuthRefused``: malformed, or one was sent twice."""
    try:
        pairs = parse_qsl(
            encoded.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(encoded),
            errors="strict",
            max_num_fields=MOST_PARAMETERS,
        )
    except ValueError:
        raise OAuthRefused("invalid_request", "The parameters are malformed.") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise OAuthRefused("invalid_request", "A parameter was sent twice.")
        found[name] = value
    return {name: value for name, value in found.items() if value}


Form = Annotated[Mapping[str, str], Depends(_form)]


def caller_of(request: Request) -> Caller:
    return Caller(
        address=request.client.host if request.client else "unknown",
        user_agent=request.headers.get("user-agent", ""),
    )


@router.post("/auth/token")
@public("what proves the right to a token is in the body")
async def token(request: Request, form: Form, services: ServicesOf) -> Response:
    """Tokens of ours, for a device code, a code, a refresh token, or another token."""
    if "client_secret" in form or "client_assertion" in form:
        raise OAuthRefused("invalid_client", "Our clients are public and have no secret.")
    match form.get("grant_type"):
        case GrantType.EXCHANGE:
            return _exchanged(await services.exchange.exchange(form))
        case GrantType.DEVICE:
            return _granted(await services.logins.poll(form, caller_of(request)))
        case GrantType.CODE:
            return _granted(await services.logins.redeem(form, caller_of(request)))
        case GrantType.REFRESH:
            return _granted(await services.logins.refresh(form, caller_of(request)))
        case None:
            raise OAuthRefused("invalid_request", "grant_type is missing.")
    raise OAuthRefused("unsupported_grant_type", f"grant_type must be one of {', '.join(GrantType)}.")


@router.post("/auth/device_authorization")
@public("a device that nobody has signed in to yet asks")
async def device_authorization(request: Request, form: Form, services: ServicesOf) -> Response:
    """The codes for a device, and where a person goes with them (RFC 8628 section 3.2)."""
    asked = await services.logins.ask(form, caller_of(request))
    page = f"{services.public_url}/auth/device"
    return JSONResponse(
        {
            "device_code": asked.device_code,
            "user_code": asked.user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?user_code={asked.user_code}",
            "expires_in": int(asked.lasts.total_seconds()),
            "interval": asked.interval_s,
        },
        headers=NO_STORE,
    )


@router.post("/auth/revoke")
@public("whoever holds a token may end it (RFC 7009)")
async def revoke(form: Form, services: ServicesOf) -> Response:
    """The end of a token, and of its login; 200 also for one that is not known (RFC 7009 section 2.2)."""
    if not (secret := form.get("token")):
        raise OAuthRefused("invalid_request", "token is missing.")
    if not await services.logins.end_shown(secret):
        await services.tokens.revoke_shown(secret)
    return Response(headers=NO_STORE)


@router.get("/.well-known/oauth-authorization-server", include_in_schema=True, tags=["operations"])
@public("clients read it to learn how to get a token (RFC 8414)")
async def authorization_server(services: ServicesOf) -> Mapping[str, object]:
    """How tokens of this gateway are had."""
    return services.discovery.authorization_server()


@router.get("/.well-known/oauth-protected-resource", include_in_schema=True, tags=["operations"])
@public("clients read it to learn where to get a token (RFC 9728)")
async def protected_resource(services: ServicesOf) -> Mapping[str, object]:
    """Where tokens for this gateway come from."""
    return services.discovery.protected_resource()


def _granted(granted: Granted) -> Response:
    return JSONResponse(
        {
            "access_token": granted.access_token,
            "token_type": "Bearer",
            "expires_in": int(granted.lasts.total_seconds()),
            "scope": scope_text(granted.scopes),
            "refresh_token": granted.refresh_token,
        },
        headers=NO_STORE,
    )


def _exchanged(exchanged: Exchanged) -> Response:
    return JSONResponse(
        {
            "access_token": exchanged.token,
            "issued_token_type": TokenType.ACCESS_TOKEN,
            "token_type": "Bearer",
            "expires_in": int(exchanged.lasts.total_seconds()),
            "scope": scope_text(exchanged.scopes),
        },
        headers=NO_STORE,
    )


async def _refused(request: Request, error: OAuthRefused) -> Response:
    if error.error not in _EXPECTED:
        services: Services = request.app.state.services
        address = caller_of(request).address
        _log.info("oauth_refused", path=request.url.path, error=error.error, detail=error.message, address=address)
        DENIALS.labels(problem=problem_of(error).slug).inc()
        try:
            # Only refusals count, and only after the fact: who has what is good is never kept out.
            services.refusals.hit(key_of(address))
        except TooManyRequests as enough:
            return _unavailable(enough)
        what = f"{request.method} {request.url.path}"
        try:
            await services.audit.record_refused_credential(what=what, address=address, error=error)
        except CountersignError as failure:
            # The refusal stands though it cannot be recorded.
            _log.error("refusal_not_recorded", path=request.url.path, detail=failure.message)
    return _error(error.error, error.message, status=400)


def _unavailable(error: Unavailable) -> Response:
    answer = _error("temporarily_unavailable", error.message, status=problem_of(error).status)
    answer.headers["Retry-After"] = str(error.retry_after_s)
    return answer


def _error(code: str, description: str, *, status: int) -> Response:
    told = {"error": code, "error_description": quotable(description)}
    return JSONResponse(told, status_code=status, headers=NO_STORE)
