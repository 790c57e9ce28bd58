"""``/auth/device`` and ``/auth/authorize``: a person decides whether a client may act in their name.

Nothing is approved in silence: whatever a client sends a person here with, a button is pressed on our own page, which
no other page may frame, and a post from elsewhere is refused (``app.domain.browsers``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.domain.clients import origin_of_redirect, redirect_with
from app.domain.errors import NotFound, OAuthRefused
from app.domain.identity import Scope
from app.domain.tokens import SCOPE_MEANINGS
from app.routers.access import CurrentPrincipal, authenticated
from app.routers.oauth import Form, read_parameters
from app.routers.page_route import PageRoute
from app.routers.pages import page
from app.routers.services import Services, ServicesOf

AUTHORIZE_PARAMETERS = (
    "client_id",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
    "code_challenge",
    "code_challenge_method",
)
"""What the page sends again with the person's word, to be checked again."""


router = APIRouter(route_class=PageRoute, include_in_schema=False)

_REASON = "a person decides for themselves; the service asks for a browser's session"


@router.get("/auth/device")
@authenticated(_REASON)
async def device_page(principal: CurrentPrincipal, services: ServicesOf, user_code: str = "") -> Response:
    """Where a person types the code of a device, and then decides."""
    if not user_code:
        return _ask_for_code(services)
    try:
        waiting = await services.logins.waiting(principal, user_code)
    except NotFound as error:
        return _ask_for_code(services, problem=error.message, status=404)
    return page(
        "device_decide.html",
        public_url=services.public_url,
        title=f"{waiting.title} wants to sign in",
        waiting=waiting,
        name=principal.name,
        scopes=_explained(waiting.scopes),
    )


@router.post("/auth/device")
@authenticated(_REASON)
async def decide_device(form: Form, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """The person's word on a device."""
    is_allowed = _decision(form)
    try:
        waiting = await services.logins.decide(principal, form.get("user_code", ""), is_allowed=is_allowed)
    except NotFound as error:
        return _ask_for_code(services, problem=error.message, status=404)
    return page(
        "device_decided.html",
        public_url=services.public_url,
        title="Signed in" if is_allowed else "Denied",
        client=waiting.title,
        name=principal.name,
        is_allowed=is_allowed,
    )


@router.get("/auth/authorize")
@authenticated(_REASON)
async def consent_page(request: Request, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """Which client asks, for what, and where the answer goes (RFC 6749 section 4.1.1)."""
    parameters = read_parameters(request.scope["query_string"])
    client, redirect_uri = services.logins.redirect_target(parameters)
    try:
        authorization = services.logins.authorization(client, redirect_uri, parameters)
    except OAuthRefused as error:
        return _back(redirect_uri, _refusal(error, parameters), services)
    answer = page(
        "consent.html",
        public_url=services.public_url,
        title=f"{client.title} wants to act as you",
        client=client.title,
        name=principal.name,
        scopes=_explained(authorization.scopes),
        is_native=client.is_native,
        destination=origin_of_redirect(redirect_uri),
        fields=[{"name": name, "value": parameters[name]} for name in AUTHORIZE_PARAMETERS if name in parameters],
    )
    _let_form_lead_to(answer, redirect_uri)
    return answer


@router.post("/auth/authorize")
@authenticated(_REASON)
async def decide_client(form: Form, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """The person's word on a client."""
    is_allowed = _decision(form)
    client, redirect_uri = services.logins.redirect_target(form)
    try:
        authorization = services.logins.authorization(client, redirect_uri, form)
    except OAuthRefused as error:
        return _back(redirect_uri, _refusal(error, form), services)
    if not is_allowed:
        await services.logins.deny(principal, authorization)
        return _back(redirect_uri, _refusal(OAuthRefused("access_denied", "The person said no."), form), services)
    code = await services.logins.allow(principal, authorization)
    return _back(redirect_uri, {"code": code, "state": authorization.state}, services)


def _ask_for_code(services: Services, *, problem: str = "", status: int = 200) -> Response:
    return page(
        "device.html", public_url=services.public_url, title="Sign in to a program", problem=problem, status=status
    )


def _decision(form: Mapping[str, str]) -> bool:
    match form.get("decision"):
        case "allow":
            return True
        case "deny":
            return False
    raise OAuthRefused("invalid_request", "Say allow or deny.")


def _explained(scopes: Iterable[Scope]) -> list[dict[str, str]]:
    wanted = frozenset(scopes)
    return [{"name": scope.value, "meaning": SCOPE_MEANINGS[scope]} for scope in Scope if scope in wanted]


def _refusal(error: OAuthRefused, parameters: Mapping[str, str]) -> dict[str, str]:
    """RFC 6749 section 4.1.2.1."""
    state = {"state": parameters["state"]} if "state" in parameters else {}
    return {"error": error.error, "error_description": error.message, **state}


def _back(redirect_uri: str, answer: Mapping[str, str], services: Services) -> Response:
    """To the client, saying who answers, so that answers of several servers are not mixed up (RFC 9207)."""
    address = redirect_with(redirect_uri, {**answer, "iss": services.public_url})
    return RedirectResponse(address, 303, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})


def _let_form_lead_to(answer: Response, redirect_uri: str) -> None:
    """Browsers hold a form to `form-action` through the redirect after it."""
    origin = origin_of_redirect(redirect_uri)
    # No IPv6 address can be written there (CSP section 2.3.1): then any address of plain HTTP, which a client's is.
    allowed = "http:" if "[" in origin else origin
    policy = answer.headers["Content-Security-Policy"]
    answer.headers["Content-Security-Policy"] = policy.replace("form-action 'self'", f"form-action 'self' {allowed}")
