"""Looking afterwards at what was moved by breaking the glass: until somebody else has, the alias waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from app.adapters.postgres.reviews import Review
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may, require
from app.domain.break_glass import check_may_review, reviewers
from app.domain.errors import Conflict, CountersignError, InvalidInput, NotFound
from app.domain.promotions import Promotion, no_promotion
from app.domain.verdicts import ALLOW, Deny, Verdict
from app.ports import Clock
from app.services.lifecycle import Lifecycle
from app.services.recording import UnitOfWorkFactory, actor_of, tell
from app.services.resources import model_for, readable

__all__ = ["Review", "Reviews"]


class Reviews:
    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock, *, lifecycle: Lifecycle) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._lifecycle = lifecycle

    async def page(
        self, principal: Principal, *, is_open: bool | None, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Review]:
        """Newest first, those before the key (opened_at, promotion_id) of the last one seen: what may be read."""
        async with self._unit_of_work() as work:
            among = None
            if not may(principal, Permission.PROMOTIONS_READ):
                aliases = await work.reviews.aliases(is_open=is_open)
                among = await readable(work, principal, Permission.PROMOTIONS_READ, aliases)
            return await work.reviews.page(is_open=is_open, among=among, before=before, limit=limit)

    async def get(self, principal: Principal, promotion_id: str) -> Review:
        """Raises ``NotFound``: there is none, or none that the principal may know of."""
        async with self._unit_of_work() as work:
            await self._readable(work, principal, promotion_id)
            return await self._review(work, promotion_id)

    async def may_close(self, principal: Principal, promotion_id: str) -> Verdict:
        """Whether ``close`` would take their word, or why not. Raises ``NotFound``, as ``get``."""
        async with self._unit_of_work() as work:
            promotion = await self._readable(work, principal, promotion_id)
            try:
                await self._check(work, principal, promotion)
            except CountersignError as error:
                return Deny(error.message)
        return ALLOW

    async def close(self, principal: Principal, promotion_id: str, *, comment: str) -> Review:
        """Say that one has looked at it. What waited for this goes on at once. Saying the same again changes nothing.

        Raises:
            NotFound: as ``get``. InvalidInput: there is no comment.
            SelfApproval, Forbidden, NotAnApprover: the principal broke the glass; no grant, or not the policy, lets it.
            Conflict: it is closed.
        """
        if not comment.strip():
            raise InvalidInput("comment", "expected what you found")
        async with self._unit_of_work() as work:
            promotion = await self._readable(work, principal, promotion_id)
            await work.promotions.lock_alias(promotion.key)
            review = await self._review(work, promotion_id, for_update=True)
            await self._check(work, principal, promotion)
            if review.closed_at is not None:
                if (review.closed_by, review.comment) == (principal.id, comment):
                    return review
                raise Conflict(f"{review.closed_by_name} has closed this review already.", promotion=promotion_id)
            now = self._clock.now()
            await work.reviews.close(promotion_id, at=now, by=principal.id, by_name=principal.name, comment=comment)
            # It happens now; the promotion itself is as it was.
            told = replace(promotion, updated_at=now)
            tell(work, "alias.review_closed", told, actor=actor_of(principal), comment=comment)
            for waiting in await work.promotions.waiting(promotion.key):
                await self._lifecycle.settle(work, waiting)
            closed = await self._review(work, promotion_id)
            await work.commit()
        return closed

    async def _check(self, work: UnitOfWork, principal: Principal, promotion: Promotion) -> None:
        key = promotion.key
        resource = await model_for(work, principal, key.model, key.alias, workspace=key.workspace)
        if principal.id != promotion.requested_by:
            require(principal, Permission.PROMOTIONS_DECIDE, resource)
        in_force = [each for each in await work.policies.in_force() if each.name == promotion.policy.name]
        check_may_review(
            reviewers([promotion.policy, *in_force]), principal, promotion, roles=principal.access.roles_on(resource)
        )

    async def _readable(self, work: UnitOfWork, principal: Principal, promotion_id: str) -> Promotion:
        promotion = await work.promotions.get(promotion_id)
        key = promotion.key
        resource = await model_for(work, principal, key.model, key.alias, workspace=key.workspace)
        if not may(principal, Permission.PROMOTIONS_READ, resource):
            raise no_promotion(promotion_id)
        return promotion

    @staticmethod
    async def _review(work: UnitOfWork, promotion_id: str, *, for_update: bool = False) -> Review:
        review = await work.reviews.get(promotion_id, for_update=for_update)
        if review is None:
            raise NotFound(f"Promotion {promotion_id} has no review: it moved no alias by breaking the glass.")
        return review
