"""``/models/{name}/aliases/{alias}/break-glass``: moving an alias at once, when it must go fast."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.domain.access import Permission
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.promotions import AliasKey
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.promotions import BreakGlass, PromotionAnswer, promotion_answer
from app.routers.schemas.shared import IdempotencyKey, Workspace
from app.routers.services import ServicesOf
from app.services.promotions import Wanted

router = APIRouter(prefix="/models/{model}/aliases/{alias}", tags=["aliases"], route_class=GuardedRoute)


@router.post("/break-glass", status_code=201, response_model=PromotionAnswer)
@needs(Permission.PROMOTIONS_BREAK_GLASS, somewhere=True)
async def break_glass(
    model: str,
    alias: str,
    body: BreakGlass,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    workspace: Workspace = DEFAULT_WORKSPACE,
    idempotency_key: IdempotencyKey = None,
) -> PromotionAnswer:
    """Have a version hold the alias at once, without the policy's rules.

    It raises an alarm, and until another person closes its review, ordinary promotions of the alias wait. 401 with
    `insufficient_user_authentication` (RFC 9470) says that you must sign in anew first, and where.
    """
    wanted = Wanted(AliasKey(workspace, model, alias), body.version, body.reason)
    promotion, is_new = await services.promotions.break_glass(
        principal, wanted, ticket=body.ticket, idempotency_key=idempotency_key
    )
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"{services.public_url}/control/v1/promotions/{promotion.id}"
    return promotion_answer(promotion, public_url=services.public_url)
