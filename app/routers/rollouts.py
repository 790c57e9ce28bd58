"""``/promotions/{id}/rollout``: how far it is, and what people may have it do."""

from __future__ import annotations

from fastapi import APIRouter

from app.domain.access import Permission
from app.domain.rolling_out import Order
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.promotions import IfMatch, seen_revision
from app.routers.schemas.promotions import Reason
from app.routers.schemas.rollouts import RolloutAnswer, rollout_answer
from app.routers.services import Services, ServicesOf

router = APIRouter(prefix="/promotions/{promotion_id}/rollout", tags=["rollouts"], route_class=GuardedRoute)


@router.get("", response_model=RolloutAnswer)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def get_rollout(promotion_id: str, principal: CurrentPrincipal, services: ServicesOf) -> RolloutAnswer:
    """The plan, step by step, what each target is to serve, and what was measured. 404 before its targets are called.

    To follow it, follow the promotion (`wait`): whatever changes here changes its ETag.
    """
    return rollout_answer(await services.rollouts.get(principal, promotion_id))


@router.post("/pause", response_model=RolloutAnswer)
@needs(Permission.PROMOTIONS_ROLLBACK, somewhere=True)
async def pause_rollout(
    promotion_id: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    body: Reason | None = None,
    if_match: IfMatch = None,
) -> RolloutAnswer:
    """Leave everything as it is until somebody decides: who may roll the alias back."""
    return await _order(promotion_id, principal, services, Order.PAUSE, body, if_match)


@router.post("/resume", response_model=RolloutAnswer)
@needs(Permission.PROMOTIONS_DECIDE, somewhere=True)
async def resume_rollout(
    promotion_id: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    body: Reason | None = None,
    if_match: IfMatch = None,
) -> RolloutAnswer:
    """Have one that waits for a person go on: an approver who did not ask for it.

    A step that was paused begins anew; one that is held until somebody says so ends when its gates have passed.
    """
    return await _order(promotion_id, principal, services, Order.RESUME, body, if_match)


@router.post("/go-back", response_model=RolloutAnswer)
@needs(Permission.PROMOTIONS_ROLLBACK, somewhere=True)
async def take_rollout_back(
    promotion_id: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    body: Reason | None = None,
    if_match: IfMatch = None,
) -> RolloutAnswer:
    """Have the targets serve what they served before, at once, and then the alias: who may roll the alias back."""
    return await _order(promotion_id, principal, services, Order.GO_BACK, body, if_match)


@router.post("/all-at-once", response_model=RolloutAnswer)
@needs(Permission.PROMOTIONS_DECIDE, somewhere=True)
async def finish_rollout_at_once(
    promotion_id: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    body: Reason | None = None,
    if_match: IfMatch = None,
) -> RolloutAnswer:
    """Give the version all requests now, whatever steps and gates are left: an approver who did not ask for it."""
    return await _order(promotion_id, principal, services, Order.ALL_AT_ONCE, body, if_match)


async def _order(
    promotion_id: str,
    principal: CurrentPrincipal,
    services: Services,
    order: Order,
    body: Reason | None,
    if_match: str | None,
) -> RolloutAnswer:
    followed = await services.rollouts.order(
        principal,
        promotion_id,
        order,
        reason=body.reason if body else "",
        seen_revision=seen_revision(if_match, promotion_id),
    )
    return rollout_answer(followed)
