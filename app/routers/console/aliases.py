"""``/console/models/{model}/aliases/{alias}``: who holds it, who held it, back to who held it last, and emergencies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request, Response

from app.domain.access import Permission, Principal
from app.domain.deployments import Deployment
from app.domain.deployments import Filter as Deployed
from app.domain.errors import Conflict, InsufficientAuthentication, InvalidInput
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.inventory import drift_message
from app.domain.policies import ReasonFor
from app.domain.promotions import UNSETTLED, AliasKey, Filter
from app.domain.sessions import StepUp
from app.routers.access import CurrentPrincipal, needs
from app.routers.browser_pages import SIGN_IN, step_up_query
from app.routers.console.frame import lead_to, reason_of, shown, text_of
from app.routers.page_route import PageForm, PageRoute
from app.routers.pages import Action, error_page
from app.routers.schemas.shared import read_number_cursor, write_number_cursor
from app.routers.services import Services, ServicesOf
from app.services.promotions import Wanted

router = APIRouter(prefix="/console/models/{model}/aliases/{alias}", route_class=PageRoute)

A_PAGE = 50
MOST_REVIEWS = 200

Workspace = Annotated[str, Query()]


@router.get("")
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def alias_page(
    model: str,
    alias: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    workspace: Workspace = DEFAULT_WORKSPACE,
    cursor: Annotated[str, Query()] = "",
) -> Response:
    """The holder now, those before it, and what is under way."""
    return await _shown(AliasKey(workspace, model, alias), principal, services, cursor=cursor)


@router.post("/rollback")
@needs(Permission.PROMOTIONS_ROLLBACK, somewhere=True)
async def roll_back(
    model: str,
    alias: str,
    form: PageForm,
    principal: CurrentPrincipal,
    services: ServicesOf,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> Response:
    """Ask that the last good holder hold it again, instead of the one that the page showed."""
    key = AliasKey(workspace, model, alias)
    try:
        await _check_holder(key, form, principal, services)
        promotion, _ = await services.promotions.roll_back(
            principal, model=model, alias=alias, reason=reason_of(form), workspace=workspace
        )
    except InvalidInput as error:
        return await _shown(key, principal, services, problem=error, typed=form)
    return lead_to("promotions", promotion.id)


@router.post("/break-glass")
@needs(Permission.PROMOTIONS_BREAK_GLASS, somewhere=True)
async def break_glass(
    request: Request,
    model: str,
    alias: str,
    form: PageForm,
    principal: CurrentPrincipal,
    services: ServicesOf,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> Response:
    """Have a version hold it at once; who has not signed in just now is led to do so."""
    key = AliasKey(workspace, model, alias)
    try:
        await _check_holder(key, form, principal, services)
        wanted = Wanted(key, form.get("version", "").strip(), reason_of(form))
        promotion, _ = await services.promotions.break_glass(principal, wanted, ticket=text_of(form, "ticket"))
    except InvalidInput as error:
        return await _shown(key, principal, services, problem=error, typed=form)
    except InsufficientAuthentication as error:
        await services.audit.record_denial(principal, what=f"POST {request.url.path}", error=error)
        return _sign_in_anew(key, error, services)
    return lead_to("promotions", promotion.id)


async def _check_holder(key: AliasKey, form: Mapping[str, str], principal: Principal, services: Services) -> None:
    """Raise ``Conflict`` if the page showed another holder than there is."""
    holder = await services.aliases.get(principal, key)
    if form.get("holder", "") != (holder.version or ""):
        now = f"Version {holder.version} holds" if holder.version else "Nobody holds"
        raise Conflict(f"{now} {key.alias} of model {key.model} now. Nothing was done; look at it again.")


def _sign_in_anew(key: AliasKey, error: InsufficientAuthentication, services: Services) -> Response:
    here = f"/console/models/{quote(key.model, safe='')}/aliases/{key.alias}"
    asked = step_up_query(StepUp(error.max_age_s, tuple(error.acr_values.split())))
    return error_page(
        401,
        "Sign in once more",
        f"{error.message} You come back to this alias, and say it again there.",
        public_url=services.public_url,
        actions=[Action("Sign in once more", f"{SIGN_IN}?{urlencode({**asked, 'next': here})}")],
    )


async def _shown(
    key: AliasKey,
    principal: Principal,
    services: Services,
    *,
    cursor: str = "",
    problem: InvalidInput | None = None,
    typed: Mapping[str, str] | None = None,
) -> Response:
    holder = await services.aliases.get(principal, key)
    history = await services.aliases.history(principal, key, before=read_number_cursor(cursor or None), limit=A_PAGE)
    under_way = Filter(model=key.model, alias=key.alias, states=tuple(UNSETTLED), workspace=key.workspace)
    moved = await services.aliases.promotions(principal, key, limit=1)
    may = services.promotions.may_on_alias
    may_roll_back = await may(principal, Permission.PROMOTIONS_ROLLBACK, key)
    reviews = await services.reviews.page(principal, is_open=True, before=None, limit=MOST_REVIEWS)
    return shown(
        "alias.html",
        principal,
        services,
        status=400 if problem else 200,
        title=f"{key.model} · {key.alias}",
        here="promotions",
        key=key,
        deployments=await _deployments(key, principal, services),
        query="" if key.workspace == DEFAULT_WORKSPACE else f"?{urlencode({'workspace': key.workspace})}",
        holder=holder,
        history=history,
        next_cursor=write_number_cursor(history[-1].sequence) if len(history) == A_PAGE else None,
        under_way=await services.promotions.page(principal, under_way),
        reviews=[each for each in reviews if each.key == key],
        may_roll_back=may_roll_back,
        goes_back_to=await services.promotions.last_good(principal, key) if may_roll_back else None,
        may_break_glass=await may(principal, Permission.PROMOTIONS_BREAK_GLASS, key),
        was_moved=bool(moved),
        needs_reason=bool(moved) and ReasonFor.ROLLBACK in moved[0].policy.reasons,
        problem="; ".join(said for _, said in problem.problems) if problem else "",
        typed=typed or {},
    )


async def _deployments(key: AliasKey, principal: Principal, services: Services) -> list[tuple[Deployment, str]]:
    """Where the model runs, whatever alias had it deployed there."""
    wanted = Deployed(model=key.model, workspace=key.workspace)
    found = await services.inventory.page(principal, wanted, limit=A_PAGE)
    return [(each, drift_message(each)) for each in found]
