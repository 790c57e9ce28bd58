"""``/promotions/{id}/comments``: what people say of a promotion."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Response
from pydantic import Field

from app.domain.access import Permission
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.promotions import PersonAnswer
from app.routers.schemas.shared import (
    Answer,
    Cursor,
    IdempotencyKey,
    Limit,
    Page,
    Request,
    read_cursor,
    write_cursor,
)
from app.routers.services import ServicesOf
from app.services.comments import Comment

router = APIRouter(prefix="/promotions/{promotion_id}/comments", tags=["promotions"], route_class=GuardedRoute)


class CreateComment(Request):
    """What you have to say."""

    text: str = Field(min_length=1, max_length=2000, description="Kept in the record; it is never changed.")


class CommentAnswer(Answer):
    id: str
    promotion_id: str
    by: PersonAnswer
    text: str
    created_at: datetime


@router.get("", response_model=Page[CommentAnswer])
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def list_comments(
    promotion_id: str, principal: CurrentPrincipal, services: ServicesOf, limit: Limit = 50, cursor: Cursor = None
) -> Page[CommentAnswer]:
    """Oldest first."""
    found = await services.comments.page(principal, promotion_id, after=read_cursor(cursor), limit=limit)
    last = found[-1] if len(found) == limit else None
    return Page[CommentAnswer](
        items=[_answer(comment) for comment in found],
        next_cursor=write_cursor(last.created_at, last.id) if last else None,
    )


@router.post("", status_code=201, response_model=CommentAnswer)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def create_comment(
    promotion_id: str,
    body: CreateComment,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> CommentAnswer:
    """Say something: whoever asks for, decides on, or rolls back promotions of the alias."""
    comment, is_new = await services.comments.add(principal, promotion_id, body.text, idempotency_key=idempotency_key)
    response.status_code = 201 if is_new else 200
    return _answer(comment)


def _answer(comment: Comment) -> CommentAnswer:
    return CommentAnswer(
        id=comment.id,
        promotion_id=comment.promotion_id,
        by=PersonAnswer(id=comment.principal_id, name=comment.principal_name),
        text=comment.text,
        created_at=comment.created_at,
    )
