"""``/console/models/{model}/aliases/{alias}``: who holds it, who held it, and back to who held it last."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.domain.access import Permission, Principal
from app.domain.errors import Conflict, InvalidInput
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.policies import ReasonFor
from app.domain.promotions import UNSETTLED, AliasKey, Filter
from app.routers.access import CurrentPrincipal, needs
from app.routers.console.frame import lead_to, reason_of, shown
from app.routers.page_route import PageForm, PageRoute
from app.routers.services import Services, ServicesOf

router = APIRouter(prefix="/console/models/{model}/aliases/{alias}", route_class=PageRoute)

MOST_HOLDERS = 100


@router.get("")
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def alias_page(model: str, alias: str, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """The holder now, those before it, and what is under way."""
    return await _shown(model, alias, principal, services)


@router.post("/rollback")
@needs(Permission.PROMOTIONS_ROLLBACK, somewhere=True)
async def roll_back(
    model: str, alias: str, form: PageForm, principal: CurrentPrincipal, services: ServicesOf
) -> Response:
    """Ask that the last good holder hold it again, instead of the one that the page showed."""
    try:
        holder = await services.aliases.get(principal, model, alias)
        if form.get("holder", "") != (holder.promotion_id or ""):
            raise Conflict(f"Version {holder.version} holds {alias} of model {model} now; look at it again.")
        promotion, _ = await services.promotions.roll_back(principal, model=model, alias=alias, reason=reason_of(form))
    except InvalidInput as error:
        return await _shown(model, alias, principal, services, problem=error)
    return lead_to("promotions", promotion.id)


async def _shown(
    model: str, alias: str, principal: Principal, services: Services, *, problem: InvalidInput | None = None
) -> Response:
    holder = await services.aliases.get(principal, model, alias)
    history = await services.aliases.history(principal, model, alias, limit=MOST_HOLDERS)
    under_way = Filter(model=model, alias=alias, states=tuple(UNSETTLED), workspace=DEFAULT_WORKSPACE)
    verdict = await services.promotions.may_roll_back(principal, AliasKey(DEFAULT_WORKSPACE, model, alias))
    before = next((each for each in history if each.to_version != holder.version), None)
    return shown(
        "alias.html",
        principal,
        services,
        status=400 if problem else 200,
        title=f"{model} · {alias}",
        here="promotions",
        model=model,
        alias=alias,
        holder=holder,
        history=history,
        under_way=await services.promotions.page(principal, under_way),
        may_roll_back=bool(verdict) and holder.promotion_id is not None and before is not None,
        why_not=getattr(verdict, "reason", ""),
        needs_reason=bool(history) and ReasonFor.ROLLBACK in history[0].policy.reasons,
        problem="; ".join(said for _, said in problem.problems) if problem else "",
    )
