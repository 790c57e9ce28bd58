"""``/models/{name}/aliases/{alias}``: who holds it, who held it, and back to who held it last."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.domain.access import Permission
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.promotions import AliasKey
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.aliases import AliasAnswer, HeldAnswer, alias_answer, held_answer
from app.routers.schemas.promotions import PromotionAnswer, Reason, promotion_answer
from app.routers.schemas.shared import (
    Cursor,
    IdempotencyKey,
    Limit,
    Moment,
    Page,
    Workspace,
    read_number_cursor,
    write_number_cursor,
)
from app.routers.services import ServicesOf

router = APIRouter(prefix="/models/{model}/aliases/{alias}", tags=["aliases"], route_class=GuardedRoute)


@router.get("", response_model=AliasAnswer)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def get_alias(
    model: str,
    alias: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    workspace: Workspace = DEFAULT_WORKSPACE,
    at: Annotated[Moment | None, Query(description="A time with its zone: who held it then.")] = None,
) -> AliasAnswer:
    """The holder now, or at any time in the past, of any alias."""
    return alias_answer(await services.aliases.get(principal, AliasKey(workspace, model, alias), at=at))


@router.get("/history", response_model=Page[HeldAnswer])
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def get_alias_history(
    model: str,
    alias: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    workspace: Workspace = DEFAULT_WORKSPACE,
    until: Annotated[Moment | None, Query(description="Only what began up to this time.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[HeldAnswer]:
    """Who held the alias from when to when, by which promotion or by whose hand, newest first."""
    found = await services.aliases.history(
        principal, AliasKey(workspace, model, alias), until=until, before=read_number_cursor(cursor), limit=limit
    )
    return Page[HeldAnswer](
        items=[held_answer(each) for each in found],
        next_cursor=write_number_cursor(found[-1].sequence) if len(found) == limit else None,
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
    workspace: Workspace = DEFAULT_WORKSPACE,
    idempotency_key: IdempotencyKey = None,
) -> PromotionAnswer:
    """Promote the last good holder again, on the policy's fast lane.

    A second rollback goes back one further. With an `Idempotency-Key`, one that is sent again is the same rollback.
    """
    promotion, is_new = await services.promotions.roll_back(
        principal,
        model=model,
        alias=alias,
        reason=body.reason if body else "",
        workspace=workspace,
        idempotency_key=idempotency_key,
    )
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"{services.public_url}/control/v1/promotions/{promotion.id}"
    return promotion_answer(promotion, public_url=services.public_url)
