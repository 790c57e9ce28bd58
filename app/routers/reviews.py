"""``/reviews`` and ``/promotions/{id}/review``: what was moved by breaking the glass, and who has looked at it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from app.domain.access import Permission
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.promotions import PersonAnswer
from app.routers.schemas.shared import Answer, Cursor, Limit, Page, Request, read_cursor, write_cursor
from app.routers.services import ServicesOf
from app.services.reviews import Review

router = APIRouter(tags=["reviews"], route_class=GuardedRoute)


class CloseReview(Request):
    """What you found."""

    comment: str = Field(min_length=1, max_length=2000, description="Kept in the record; others read it.")


class ReviewAnswer(Answer):
    """The review of a promotion that broke the glass. While it is open, ordinary promotions of the alias wait."""

    promotion_id: str
    workspace: str
    model: str
    alias: str
    from_version: str | None
    to_version: str
    broken_by: PersonAnswer
    reason: str = Field(description="Why it could not wait.")
    opened_at: datetime
    open: bool
    closed_at: datetime | None
    closed_by: PersonAnswer | None
    comment: str | None = Field(description="What the reviewer found.")


@router.get("/reviews", response_model=Page[ReviewAnswer])
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def list_reviews(
    principal: CurrentPrincipal,
    services: ServicesOf,
    is_open: Annotated[
        bool | None, Query(alias="open", description="Only those that are open, or only those that are closed.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[ReviewAnswer]:
    """Newest first, those that you may read."""
    found = await services.reviews.page(principal, is_open=is_open, before=read_cursor(cursor), limit=limit)
    last = found[-1] if len(found) == limit else None
    return Page[ReviewAnswer](
        items=[_answer(review) for review in found],
        next_cursor=write_cursor(last.opened_at, last.promotion_id) if last else None,
    )


@router.get("/promotions/{promotion_id}/review", response_model=ReviewAnswer)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def get_review(promotion_id: str, principal: CurrentPrincipal, services: ServicesOf) -> ReviewAnswer:
    """The review of one promotion; 404 for one that moved no alias by breaking the glass."""
    return _answer(await services.reviews.get(principal, promotion_id))


@router.post("/promotions/{promotion_id}/review", response_model=ReviewAnswer)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def close_review(
    promotion_id: str, body: CloseReview, principal: CurrentPrincipal, services: ServicesOf
) -> ReviewAnswer:
    """Close it: an approver of the alias whom the policy names, and not who broke the glass."""
    return _answer(await services.reviews.close(principal, promotion_id, comment=body.comment))


def _answer(review: Review) -> ReviewAnswer:
    is_closed = review.closed_by is not None and review.closed_by_name is not None
    return ReviewAnswer(
        promotion_id=review.promotion_id,
        workspace=review.key.workspace,
        model=review.key.model,
        alias=review.key.alias,
        from_version=review.from_version,
        to_version=review.to_version,
        broken_by=PersonAnswer(id=review.broken_by, name=review.broken_by_name),
        reason=review.reason,
        opened_at=review.opened_at,
        open=review.closed_at is None,
        closed_at=review.closed_at,
        closed_by=PersonAnswer(id=review.closed_by or "", name=review.closed_by_name or "") if is_closed else None,
        comment=review.comment,
    )
