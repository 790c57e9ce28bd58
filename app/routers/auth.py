"""``/auth``, as people see it: signing in and out with a browser, and one's own account."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote, urlencode, urlsplit

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from app.domain.access import Principal
from app.domain.browsers import check_request_origin, is_our_host
from app.domain.errors import CountersignError, InvalidInput, NotAuthenticated, NotFound, SignInFailed
from app.domain.grants import Effect
from app.domain.identity import CredentialKind, PrincipalKind, Scope
from app.domain.roles import UNATTENDED
from app.domain.sessions import SIGN_IN_LASTS, StepUp, cookies_of, one_cookie, safe_return
from app.domain.tokens import SCOPE_MEANINGS
from app.routers.access import CurrentPrincipal, GuardedRoute, authenticated, public
from app.routers.browser_pages import step_up_query
from app.routers.page_route import read_form
from app.routers.pages import Action, asset_response, browser_name, error_page, page, page_of
from app.routers.services import Services, ServicesOf
from app.services.sign_in import Browser

router = APIRouter(prefix="/auth", tags=["sign-in"], route_class=GuardedRoute, include_in_schema=False)

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
MOST_SESSIONS = 50
"""On the account page; the API has them all."""
LONGEST_STEP_UP_S = 86_400


def _step_up(
    max_age: Annotated[int | None, Query(ge=0, le=LONGEST_STEP_UP_S)] = None,
    acr_values: Annotated[str, Query(max_length=1000, pattern=r"^[\x20-\x7e]*$")] = "",
) -> StepUp | None:
    """How the person must prove anew who they are (RFC 9470 section 4), where that is asked for."""
    if max_age is None and not acr_values:
        return None
    return StepUp(LONGEST_STEP_UP_S if max_age is None else max_age, tuple(acr_values.split()))


WantedStepUp = Annotated[StepUp | None, Depends(_step_up)]


@router.get("/sign-in")
@public("it is how somebody becomes known")
async def sign_in_page(
    request: Request,
    services: ServicesOf,
    step_up: WantedStepUp,
    next_: Annotated[str, Query(alias="next")] = "",
    provider: str | None = None,
) -> Response:
    """Where people sign in: a button for each provider."""
    if elsewhere := _other_address(request, services.public_url):
        return elsewhere
    return_to = safe_return(next_)
    if provider is not None:
        return RedirectResponse(_start_address(provider, return_to, step_up), 303)
    cookies = cookies_of(services.public_url)
    held = _cookie(request, cookies.session)
    present = await _present(services, held)
    answer = page(
        "sign_in.html",
        public_url=services.public_url,
        title="Sign in",
        host=urlsplit(services.public_url).netloc,
        next=return_to,
        present=present,
        redirect_uri=f"{services.public_url}/auth/callback/default",
        providers=[
            {
                "name": each.name,
                "title": each.title,
                "host": urlsplit(each.trusted.issuer).netloc,
                "href": _start_address(each.name, return_to, step_up),
            }
            for each in services.sign_in.providers
        ],
    )
    if held is not None and present is None:
        _drop(answer, cookies.session, services)
    return answer


@router.get("/sign-in/{provider}")
@public("it is how somebody becomes known; it leads to the provider")
async def start(
    provider: str,
    request: Request,
    services: ServicesOf,
    step_up: WantedStepUp,
    next_: Annotated[str, Query(alias="next")] = "",
) -> Response:
    """Go to a provider."""
    if elsewhere := _other_address(request, services.public_url):
        return elsewhere
    cookies = cookies_of(services.public_url)
    try:
        begun = await services.sign_in.start(provider, next_, _browser(request, services), step_up=step_up)
    except CountersignError as error:
        return page_of(error, public_url=services.public_url)
    answer = RedirectResponse(begun.url, 303, headers={"Cache-Control": "no-store", "Referrer-Policy": "same-origin"})
    _set(answer, cookies.sign_in, begun.binding, int(SIGN_IN_LASTS.total_seconds()), services)
    return answer


@router.get("/callback/{provider}")
@public("it is how somebody becomes known; the provider leads here")
async def callback(provider: str, request: Request, services: ServicesOf) -> Response:
    """Come back from a provider, with its answer."""
    try:
        parameters = _once(request.query_params.multi_items())
        finished = await services.sign_in.finish(provider, parameters, _browser(request, services))
    except CountersignError as error:
        return page_of(error, public_url=services.public_url)
    answer = RedirectResponse(
        finished.return_to, 303, headers={"Cache-Control": "no-store", "Referrer-Policy": "same-origin"}
    )
    _set(answer, cookies_of(services.public_url).session, finished.secret, finished.lasts_s, services)
    return answer


@router.post("/sign-out")
@public("whoever has no session is signed out already")
async def sign_out(request: Request, services: ServicesOf) -> Response:
    """End this browser's session, and the provider's own if it can do that."""
    check_request_origin("POST", request.headers.raw, services.public_url)
    session = cookies_of(services.public_url).session
    onward = await services.sign_in.sign_out(_cookie(request, session))
    answer = _signed_out(services, onward)
    _drop(answer, session, services)
    return answer


@router.get("/signed-out")
@public("it tells nothing")
async def signed_out(services: ServicesOf) -> Response:
    """Where the provider leads after it has ended its own session."""
    return _signed_out(services, None)


@router.post("/backchannel-logout/{provider}")
@public("the provider shows a token that it has signed")
async def backchannel_logout(provider: str, request: Request, services: ServicesOf) -> Response:
    """End the sessions of a logout token (OpenID Connect Back-Channel Logout section 2.5)."""
    headers = {"Cache-Control": "no-store"}
    try:
        token = (await read_form(request)).get("logout_token", "")
        await services.sign_in.end_by_provider(provider, token, _address(request))
    except (NotAuthenticated, InvalidInput, NotFound) as error:
        # Section 2.8: the status is 400 whatever is wrong.
        said = {"error": "invalid_request", "error_description": error.message}
        return JSONResponse(said, status_code=400, headers=headers)
    return Response(status_code=200, headers=headers)


@router.get("/error")
@public("it tells nothing")
async def error(services: ServicesOf) -> Response:
    """Where somebody lands who can go nowhere else."""
    return error_page(
        400,
        "Something went wrong",
        "What you asked for could not be done. Go back, or start again.",
        public_url=services.public_url,
    )


@router.get("/account")
@authenticated("everybody may see who they are")
async def account(principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """Who you are here, where you are signed in, and your tokens."""
    sessions = await services.sessions.page(
        principal, of=principal.id, everybody=False, before=None, limit=MOST_SESSIONS
    )
    titles = {each.trusted.issuer: each.title for each in services.sign_in.providers}
    is_session = principal.credential.kind is CredentialKind.SESSION
    is_person = principal.kind is PrincipalKind.PERSON  # whoever is in a service's group can sign in, and out again
    return page(
        "account.html",
        public_url=services.public_url,
        title="Your account",
        id=principal.id,
        name=principal.name,
        provider=titles.get(principal.issuer) or urlsplit(principal.issuer).netloc,
        groups=sorted(principal.groups),
        roles=_roles(principal),
        session=is_session,
        sessions=[
            {
                "id": each.id,
                "browser": browser_name(each.user_agent),
                "address": each.address,
                "created_at": each.created_at,
                "last_seen_at": each.last_seen_at,
                "is_this": is_session and each.id == principal.credential.id,
            }
            for each in sessions
        ],
        logins=[
            {
                "id": each.id,
                "title": services.logins.title_of(each.client),
                "scopes": sorted(each.scopes),
                "address": each.address,
                "created_at": each.created_at,
                "refreshed_at": each.refreshed_at,
            }
            for each in await services.logins.live(principal, limit=MOST_SESSIONS)
        ]
        if is_session and is_person
        else [],
        is_person=is_person,
        token_days=services.token_days,
        scopes=[
            {"name": scope.value, "meaning": SCOPE_MEANINGS[scope], "is_usual": scope in {Scope.TRACK, Scope.REGISTRY}}
            for scope in Scope
            if scope in UNATTENDED
        ],
    )


@router.post("/sessions/{session_id}/end")
@authenticated("everybody may end their own")
async def end_session(session_id: str, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """End one session, from the account page."""
    await services.sessions.end(principal, session_id)
    if session_id == principal.credential.id:
        answer: Response = RedirectResponse("/auth/signed-out", 303)
        _drop(answer, cookies_of(services.public_url).session, services)
        return answer
    return RedirectResponse("/auth/account", 303)


@router.post("/sessions/end-others")
@authenticated("everybody may end their own")
async def end_other_sessions(principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """End all sessions but this one, from the account page."""
    await services.sessions.end_others(principal)
    return RedirectResponse("/auth/account", 303)


@router.post("/logins/{login_id}/end")
@authenticated("everybody may end their own")
async def end_login(login_id: str, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """End a client's login, from the account page."""
    await services.logins.end(principal, login_id)
    return RedirectResponse("/auth/account", 303)


@router.get("/assets/{name}")
@public("styles and pictures")
async def asset(name: str) -> Response:
    """A file that our pages load."""
    answer = asset_response(name)
    if answer is None:
        raise NotFound("There is no such file.")
    return answer


def _roles(principal: Principal) -> list[dict[str, str]]:
    """The roles that grants give or deny, each with what it is on and for whom."""
    return [
        {
            "name": grant.role.value if grant.effect is Effect.ALLOW else f"not {grant.role.value}",
            "on": str(grant.on),
            "why": str(grant.subject),
        }
        for grant in sorted(principal.access.grants, key=lambda grant: (grant.effect, grant.role, str(grant.on)))
    ]


async def _present(services: Services, session: str | None) -> str | None:
    """The name of who is signed in already."""
    if session is None:
        return None
    try:
        return (await services.sessions.verify(session)).identity.name
    except NotAuthenticated:
        return None


def _signed_out(services: Services, onward: str | None) -> HTMLResponse:
    return page("signed_out.html", public_url=services.public_url, title="Signed out", onward=onward)


def _start_address(provider: str, return_to: str, step_up: StepUp | None) -> str:
    more = f"&{urlencode(step_up_query(step_up))}" if step_up else ""
    return f"/auth/sign-in/{quote(provider, safe='')}?next={quote(return_to, safe='')}{more}"


def _other_address(request: Request, public_url: str) -> Response | None:
    """What is answered at an address that is not the public one, where no cookie of a sign-in would come back.

    On one machine the way leads on by itself: ``localhost`` and ``127.0.0.1`` are two hosts to a browser. Elsewhere it
    could lead in a circle, if a proxy does not pass on ``Host``.
    """
    host = request.headers.get("host", "")
    if is_our_host(host.encode("latin-1"), public_url):
        return None
    public = urlsplit(public_url)
    if {urlsplit(f"//{host}").hostname, public.hostname} <= LOOPBACK_HOSTS:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{public_url}{request.url.path}{query}", 303)
    return error_page(
        400,
        "This is another address",
        f"Countersign is known as {public_url}, and people sign in there alone. If that is where you are, a proxy "
        "before it does not pass on the Host header: tell your administrator.",
        public_url=public_url,
        actions=[Action("Go there", f"{public_url}/auth/sign-in")],
    )


def _browser(request: Request, services: Services) -> Browser:
    cookies = cookies_of(services.public_url)
    return Browser(
        address=_address(request),
        user_agent=request.headers.get("user-agent", ""),
        binding=_cookie(request, cookies.sign_in),
        session=_cookie(request, cookies.session, ambiguous_is_none=True),
    )


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _cookie(request: Request, name: str, *, ambiguous_is_none: bool = False) -> str | None:
    try:
        return one_cookie(request.headers.raw, name)
    except NotAuthenticated as error:
        if ambiguous_is_none:
            return None
        raise SignInFailed(error.message) from None


def _once(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Parameters, each of which may be there once (RFC 6749 section 3.1)."""
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise SignInFailed("The provider's answer says something twice. Start again.")
    return parameters


def _set(answer: Response, name: str, value: str, lasts_s: int, services: Services) -> None:
    answer.set_cookie(
        name,
        value,
        max_age=lasts_s,
        path="/",
        secure=cookies_of(services.public_url).is_secure,
        httponly=True,
        samesite="lax",
    )


def _drop(answer: Response, name: str, services: Services) -> None:
    answer.delete_cookie(
        name, path="/", secure=cookies_of(services.public_url).is_secure, httponly=True, samesite="lax"
    )
