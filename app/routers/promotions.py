"""``/promotions``: ask, list, follow, decide, withdraw."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from app.domain.access import Permission
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.promotions import AliasKey, Filter, Outcome, Promotion, State
from app.routers.access import CurrentPrincipal, GuardedRoute, authenticated_again, needs
from app.routers.schemas.promotions import (
    CreatePromotion,
    DecisionBody,
    Explanation,
    PromotionAnswer,
    PromotionDetail,
    Reason,
    explanation,
    promotion_answer,
    promotion_detail,
)
from app.routers.schemas.shared import Cursor, Limit, Moment, Page, Wait, read_cursor, write_cursor
from app.routers.services import ServicesOf
from app.services.promotions import Wanted

IfMatch = Annotated[
    str | None, Header(description="The ETag of what you looked at: if it has changed since, nothing is done.")
]

router = APIRouter(prefix="/promotions", tags=["promotions"], route_class=GuardedRoute)


@router.post("", status_code=201, response_model=PromotionAnswer)
@needs(Permission.PROMOTIONS_REQUEST, somewhere=True)
async def create_promotion(
    body: CreatePromotion, principal: CurrentPrincipal, services: ServicesOf, response: Response
) -> PromotionAnswer:
    """Ask for a promotion. Asking again for the same version answers 200 with the same promotion."""
    promotion, is_new = await services.promotions.create(
        principal,
        workspace=body.workspace,
        model=body.model,
        alias=body.alias,
        version=body.version,
        reason=body.reason,
        scheduled_for=body.scheduled_for,
    )
    response.status_code = 201 if is_new else 200
    return _answer(promotion, services, response)


@router.get("", response_model=Page[PromotionAnswer])
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def list_promotions(
    principal: CurrentPrincipal,
    services: ServicesOf,
    model: str | None = None,
    alias: str | None = None,
    state: Annotated[list[State] | None, Query(description="Repeat for several.")] = None,
    *,
    mine: Annotated[bool, Query(description="Only those you asked for.")] = False,
    awaiting_me: Annotated[
        bool, Query(description="Only those that wait for decisions, that you did not ask for or decide on.")
    ] = False,
    workspace: str | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[PromotionAnswer]:
    """Newest first, those that you may read."""
    wanted = Filter(
        model=model,
        alias=alias,
        states=tuple(state) if state else None,
        requested_by=principal.id if mine else None,
        workspace=workspace,
        awaiting=principal.id if awaiting_me else None,
    )
    found = await services.promotions.page(principal, wanted, before=read_cursor(cursor), limit=limit)
    last = found[-1] if len(found) == limit else None
    return Page[PromotionAnswer](
        items=[promotion_answer(promotion, public_url=services.public_url) for promotion in found],
        next_cursor=write_cursor(last.created_at, last.id) if last else None,
    )


@router.get("/explain", response_model=Explanation)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def explain_promotion(
    principal: CurrentPrincipal,
    services: ServicesOf,
    model: str,
    alias: str,
    version: str,
    workspace: str = DEFAULT_WORKSPACE,
    scheduled_for: Annotated[Moment | None, Query(description="As if it were scheduled for this time.")] = None,
) -> Explanation:
    """What would stand between this version and this alias, rule by rule. Nothing is written."""
    wanted = Wanted(AliasKey(workspace, model, alias), version, scheduled_for=scheduled_for)
    return explanation(*await services.promotions.explain(principal, wanted))


@router.get("/{promotion_id}", response_model=PromotionDetail)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def get_promotion(
    promotion_id: str,
    request: Request,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    wait: Wait = 0,
    if_none_match: Annotated[str | None, Header(description="The ETag seen last: wait until it is another.")] = None,
) -> PromotionDetail:
    """One promotion. With `wait`, answers as soon as it changes, or at once when it is settled."""
    if wait:
        seen = seen_revision(if_none_match, promotion_id)
        await services.promotions.wait(principal, promotion_id, seen_revision=seen, timeout_s=wait)
        principal = await authenticated_again(request, services)
    promotion = await services.promotions.get(principal, promotion_id)
    deployments = await services.deployments.of_promotion(principal, promotion.id)
    statuses, reading = await services.promotions.standing(promotion)
    response.headers["ETag"] = _etag(promotion)
    followed = await services.rollouts.find(principal, promotion)
    return promotion_detail(promotion, deployments, statuses, reading, followed, public_url=services.public_url)


@router.post("/{promotion_id}/approve", response_model=PromotionAnswer)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def approve_promotion(
    promotion_id: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    body: DecisionBody | None = None,
    if_match: IfMatch = None,
) -> PromotionAnswer:
    """Say yes: an approver of this alias, whom its policy names, who did not ask for it."""
    said = body or DecisionBody()
    promotion = await services.promotions.decide(
        principal,
        promotion_id,
        Outcome.APPROVE,
        reason=said.reason,
        on_behalf_of=said.on_behalf_of,
        seen_revision=seen_revision(if_match, promotion_id),
    )
    return _answer(promotion, services, response)


@router.post("/{promotion_id}/reject", response_model=PromotionAnswer)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def reject_promotion(
    promotion_id: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    body: DecisionBody | None = None,
    if_match: IfMatch = None,
) -> PromotionAnswer:
    """Say no, by those who could say yes. One rejection closes the promotion."""
    said = body or DecisionBody()
    promotion = await services.promotions.decide(
        principal,
        promotion_id,
        Outcome.REJECT,
        reason=said.reason,
        on_behalf_of=said.on_behalf_of,
        seen_revision=seen_revision(if_match, promotion_id),
    )
    return _answer(promotion, services, response)


@router.post("/{promotion_id}/withdraw", response_model=PromotionAnswer)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def withdraw_promotion(
    promotion_id: str, principal: CurrentPrincipal, services: ServicesOf, response: Response, body: Reason | None = None
) -> PromotionAnswer:
    """Take back what you asked for, before it is applied."""
    promotion = await services.promotions.withdraw(principal, promotion_id, reason=body.reason if body else "")
    return _answer(promotion, services, response)


def _answer(promotion: Promotion, services: ServicesOf, response: Response) -> PromotionAnswer:
    response.headers["ETag"] = _etag(promotion)
    response.headers["Location"] = f"{services.public_url}/control/v1/promotions/{promotion.id}"
    return promotion_answer(promotion, public_url=services.public_url)


def _etag(promotion: Promotion) -> str:
    return f'"{promotion.id}.{promotion.revision}"'


def seen_revision(etag: str | None, promotion_id: str) -> int | None:
    """The revision in an ETag of this promotion; -1, which none has, in any other."""
    if etag is None:
        return None
    seen_id, _, number = etag.strip().removeprefix("W/").strip('"').rpartition(".")
    is_ours = seen_id == promotion_id and number.isascii() and number.isdigit() and len(number) < 10
    return int(number) if is_ours else -1
