"""Following a rollout, and what people may have it do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.adapters.postgres.gate_measurements import Measured
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may, require
from app.domain.deployments import Deployment
from app.domain.errors import CountersignError, SelfApproval
from app.domain.policies import check_may_decide
from app.domain.promotions import Promotion, no_promotion
from app.domain.rolling_out import Order, Progress, check_takes, no_rollout
from app.domain.verdicts import ALLOW, Deny, Verdict
from app.services.cases import Cases
from app.services.promotions import check_revision
from app.services.recording import UnitOfWorkFactory, actor_of
from app.services.resources import model_for
from app.services.rolling_out import RollingOut

ORDERED_WITH = {
    Order.PAUSE: Permission.PROMOTIONS_ROLLBACK,
    Order.GO_BACK: Permission.PROMOTIONS_ROLLBACK,
    Order.RESUME: Permission.PROMOTIONS_DECIDE,
    Order.ALL_AT_ONCE: Permission.PROMOTIONS_DECIDE,
}
"""Who may undo may also stop. To have a version go on without its proofs is to approve it once more: so only who could
have approved it, and without approvals never who asked for it where that would skip gates."""

MEASUREMENTS = 100
"""That are shown, the newest."""

_APPROVES = frozenset({Order.RESUME, Order.ALL_AT_ONCE})


@dataclass(frozen=True, slots=True)
class Followed:
    """A rollout, and what there is to be seen of it."""

    promotion: Promotion
    progress: Progress
    deployments: Sequence[Deployment]
    measurements: Sequence[Measured]


class Rollouts:
    def __init__(self, unit_of_work: UnitOfWorkFactory, rolling_out: RollingOut, cases: Cases) -> None:
        self._unit_of_work = unit_of_work
        self._rolling_out = rolling_out
        self._cases = cases

    async def get(self, principal: Principal, promotion_id: str) -> Followed:
        """Raises ``NotFound``: there is no promotion that the principal may know of, or it has no rollout."""
        async with self._unit_of_work() as work:
            promotion = await _readable(work, principal, promotion_id)
            return await self._followed(work, principal, promotion)

    async def find(self, principal: Principal, promotion: Promotion) -> Followed | None:
        """That of a promotion of which the principal may know, if it has one."""
        if not promotion.policy.targets:
            return None
        async with self._unit_of_work() as work:
            if await work.rollouts.find(promotion.id) is None:
                return None
            return await self._followed(work, principal, promotion)

    async def order(
        self,
        principal: Principal,
        promotion_id: str,
        order: Order,
        *,
        reason: str = "",
        seen_revision: int | None = None,
    ) -> Followed:
        """Have a rollout do something.

        Args:
            principal: who says so.
            promotion_id: of which promotion.
            order: what.
            reason: why; others read it.
            seen_revision: of the promotion that the principal looked at; another one is refused.

        Raises:
            NotFound: as ``get``. PreconditionFailed: it is not what the principal looked at.
            Forbidden, InsufficientScope: the principal may not.
            SelfApproval, NotAnApprover: they could not have approved it, and so do not have it go on.
            IllegalMove: it is not where that can be done; tells where it is.
        """
        async with self._unit_of_work() as work:
            promotion = await _readable(work, principal, promotion_id, for_update=True)
            await self._check_may(work, principal, promotion, order)
            check_revision(promotion, seen_revision)
            after, _ = await self._rolling_out.obey(work, promotion, order, by=actor_of(principal), reason=reason)
            await work.commit()
            return await self._followed(work, principal, after)

    async def may_order(self, principal: Principal, followed: Followed) -> dict[Order, Verdict]:
        """For each order whether it would be done now, or why not."""
        found: dict[Order, Verdict] = {}
        async with self._unit_of_work() as work:
            for order in Order:
                try:
                    await self._check_may(work, principal, followed.promotion, order)
                    check_takes(order, followed.promotion, followed.progress)
                except CountersignError as error:
                    found[order] = Deny(error.message)
                else:
                    found[order] = ALLOW
        return found

    async def _check_may(self, work: UnitOfWork, principal: Principal, promotion: Promotion, order: Order) -> None:
        resource = await model_for(work, principal, promotion.model, promotion.alias, workspace=promotion.workspace)
        if order in _APPROVES and promotion.requested_by == principal.id and _needs_another(promotion, order):
            raise SelfApproval(
                f"You asked for promotion {promotion.id}; somebody else has its rollout go on.", promotion=promotion.id
            )
        require(principal, ORDERED_WITH[order], resource)
        if order in _APPROVES and promotion.rules:
            barred = await self._cases.barred(work, promotion, [principal.identity])
            check_may_decide(promotion.rules, principal, roles=principal.access.roles_on(resource), barred=barred)

    @staticmethod
    async def _followed(work: UnitOfWork, principal: Principal, promotion: Promotion) -> Followed:
        progress = await work.rollouts.find(promotion.id)
        if progress is None:
            raise no_rollout(promotion.id)
        resource = await model_for(work, principal, promotion.model, workspace=promotion.workspace)
        deployments: Sequence[Deployment] = ()
        if may(principal, Permission.DEPLOYMENTS_READ, resource):
            deployments = await work.deployments.of_promotion(promotion.id)
        measurements = await work.gate_measurements.of(promotion.id, limit=MEASUREMENTS)
        return Followed(promotion, progress, deployments, measurements)


def _needs_another(promotion: Promotion, order: Order) -> bool:
    skips_gates = order is Order.ALL_AT_ONCE and bool(promotion.policy.rollout.gates)
    return skips_gates or bool(promotion.policy.approvals)


async def _readable(
    work: UnitOfWork, principal: Principal, promotion_id: str, *, for_update: bool = False
) -> Promotion:
    promotion = await work.promotions.get(promotion_id, for_update=for_update)
    resource = await model_for(work, principal, promotion.model, promotion.alias, workspace=promotion.workspace)
    if not may(principal, Permission.PROMOTIONS_READ, resource):
        raise no_promotion(promotion_id)
    return promotion
