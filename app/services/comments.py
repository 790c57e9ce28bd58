"""What people, and services, say of a promotion beside their decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from app.adapters.postgres.comments import Comment
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may, require
from app.domain.errors import Conflict, InvalidInput
from app.domain.grants import Resource
from app.domain.promotions import Promotion, no_promotion
from app.ports import Clock
from app.services.identifiers import id_of
from app.services.recording import UnitOfWorkFactory, actor_of, tell
from app.services.resources import model_for

__all__ = ["Comment", "Comments"]

TAKE_PART = (
    Permission.PROMOTIONS_REQUEST,
    Permission.PROMOTIONS_DECIDE,
    Permission.PROMOTIONS_ROLLBACK,
    Permission.PROMOTIONS_BREAK_GLASS,
)
"""Who holds one of these on the alias may comment; who only reads may not."""


class Comments:
    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def page(
        self, principal: Principal, promotion_id: str, *, after: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Comment]:
        """Oldest first, those after the key (created_at, id) of the last one seen. Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            await _readable(work, principal, promotion_id)
            return await work.comments.page(promotion_id, after=after, limit=limit)

    async def latest(self, principal: Principal, promotion_id: str, *, limit: int) -> Sequence[Comment]:
        """The last ones, oldest first: nobody buries them under what they say before. Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            await _readable(work, principal, promotion_id)
            return await work.comments.latest(promotion_id, limit=limit)

    async def may_add(self, principal: Principal, promotion_id: str) -> bool:
        """Whether ``add`` would take what they say. Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            _, resource = await _readable(work, principal, promotion_id)
            return _takes_part(principal, resource)

    async def add(
        self, principal: Principal, promotion_id: str, text: str, *, idempotency_key: str | None = None
    ) -> tuple[Comment, bool]:
        """Say something; it is never changed.

        Returns:
            The comment, and whether it is new: the same key with the same text is the same comment.

        Raises:
            NotFound: there is no promotion that the principal may know of. Forbidden: they take no part in it.
            InvalidInput: there is no text. Conflict: the key was sent with another text.
        """
        if not text.strip():
            raise InvalidInput("text", "expected what you have to say")
        async with self._unit_of_work() as work:
            promotion, resource = await _readable(work, principal, promotion_id)
            if not _takes_part(principal, resource):
                require(principal, TAKE_PART[0], resource)
            now = self._clock.now()
            comment = Comment(
                id=id_of("cmt", key=idempotency_key, of=(principal.id, promotion_id)),
                promotion_id=promotion_id,
                principal_id=principal.id,
                principal_name=principal.name,
                text=text,
                created_at=now,
            )
            if not await work.comments.add(comment):
                earlier = await work.comments.get(comment.id)
                if earlier is None or earlier.text != text:
                    raise Conflict("This Idempotency-Key was sent with another text.")
                return earlier, False
            # It happens now; the promotion itself is as it was.
            told = replace(promotion, updated_at=now)
            tell(work, "promotion.commented", told, actor=actor_of(principal), comment=text)
            await work.commit()
        return comment, True


def _takes_part(principal: Principal, resource: Resource) -> bool:
    return any(may(principal, each, resource) for each in TAKE_PART)


async def _readable(work: UnitOfWork, principal: Principal, promotion_id: str) -> tuple[Promotion, Resource]:
    promotion = await work.promotions.get(promotion_id)
    key = promotion.key
    resource = await model_for(work, principal, key.model, key.alias, workspace=key.workspace)
    if not may(principal, Permission.PROMOTIONS_READ, resource):
        raise no_promotion(promotion_id)
    return promotion, resource
