"""``/models/{name}/aliases/{alias}``: who holds it, who held it, and back to who held it last."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime

from app.domain.access import Permission
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.promotions import PromotionAnswer, Reason, promotion_answer
from app.routers.schemas.shared import Answer, Limit, Page
from app.routers.services import ServicesOf

router = APIRouter(prefix="/models/{model}/aliases/{alias}", tags=["aliases"], route_class=GuardedRoute)


class AliasAnswer(Answer):
    """The holder of an alias. Without a promotion it was set before Countersign knew of it, or past it."""

    model: str
    alias: str
    version: str
    since: datetime | None
    promotion_id: str | None


@router.get("", response_model=AliasAnswer)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def get_alias(
    model: str,
    alias: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    at: Annotated[AwareDatetime | None, Query(description="A time with its zone: who held it then.")] = None,
) -> AliasAnswer:
    """The holder now, or at a time in the past."""
    return AliasAnswer.model_validate(await services.aliases.get(principal, model, alias, at=at))


@router.get("/history", response_model=Page[PromotionAnswer])
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def get_alias_history(
    model: str,
    alias: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    limit: Limit = 50,
    until: Annotated[AwareDatetime | None, Query(description="Only what was applied up to this time.")] = None,
) -> Page[PromotionAnswer]:
    """The promotions that moved the alias, newest first."""
    found = await services.aliases.history(principal, model, alias, until=until, limit=limit)
    return Page[PromotionAnswer](
        items=[promotion_answer(promotion, public_url=services.public_url) for promotion in found], next_cursor=None
    )


@router.post("/rollback", status_code=201, response_model=PromotionAnswer)
@needs(Permission.PROMOTIONS_ROLLBACK, somewhere=True)
async def roll_back_alias(
    model: str,
    alias: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    body: Reason | None = None,
) -> PromotionAnswer:
    """Promote the last good holder again, on the policy's fast lane."""
    promotion, is_new = await services.promotions.roll_back(
        principal, model=model, alias=alias, reason=body.reason if body else ""
    )
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"{services.public_url}/control/v1/promotions/{promotion.id}"
    return promotion_answer(promotion, public_url=services.public_url)
