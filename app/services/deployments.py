"""What deployers report, and what they are to run."""

from __future__ import annotations

from collections.abc import Mapping

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import Actor, Entry
from app.domain.deployments import Deployment, Report, given_up, observed
from app.ports import Clock
from app.services.applying import settle_rollout
from app.services.recording import UnitOfWorkFactory


class Deployments:
    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def get(self, deployment_id: str) -> Deployment:
        """Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            return await work.deployments.get(deployment_id)

    async def find(self, *, model: str | None = None, target: str | None = None) -> list[Deployment]:
        async with self._unit_of_work() as work:
            return await work.deployments.find(model=model, target=target)

    async def callback_secret_of(self, deployment_id: str) -> str:
        """The reference of the secret with which the deployer signs. Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            deployment = await work.deployments.get(deployment_id)
            return (await work.targets.get(deployment.target)).callback_secret

    async def of_promotion(self, promotion_id: str) -> list[Deployment]:
        """Those that a promotion called last."""
        async with self._unit_of_work() as work:
            return await work.deployments.of_promotion(promotion_id)

    async def report(self, deployment_id: str, report: Report) -> tuple[Deployment, Deployment]:
        """Take a deployer's report; returns the deployment before and after. One that is late changes nothing.

        Raises:
            NotFound: there is no such deployment.
        """
        async with self._unit_of_work() as work:
            before = await _locked(work, deployment_id)
            after = observed(before, report, at=self._clock.now())
            if after is None:
                return before, before
            await work.deployments.save(after)
            if after.phase is not before.phase:
                work.record(self._entry(after))
            await settle_rollout(work, after.promotion_id, self._clock)
            await work.commit()
        return before, after

    async def give_up(
        self, work: UnitOfWork, deployment_id: str, *, generation: int, reason: str, message: str
    ) -> None:
        """Settle a generation that the deployer will never report on. Part of the caller's transaction."""
        before = await _locked(work, deployment_id)
        if before.generation != generation or before.is_ready or before.has_failed:
            return
        after = given_up(before, reason=reason, message=message, at=self._clock.now())
        await work.deployments.save(after)
        work.record(self._entry(after))
        await settle_rollout(work, after.promotion_id, self._clock)

    def _entry(self, deployment: Deployment) -> Entry:
        details: Mapping[str, str | int] = {
            "target": deployment.target,
            "model": deployment.model,
            "version": deployment.version,
            "generation": deployment.generation,
            "promotion": deployment.promotion_id,
            "reason": deployment.reason,
            "message": deployment.message[:500],
        }
        return Entry(
            at=deployment.updated_at,
            actor=Actor(id=f"target:{deployment.target}", name=deployment.target),
            action=f"deployment.{deployment.phase.value.lower()}",
            object_id=deployment.id,
            details=details,
        )


async def _locked(work: UnitOfWork, deployment_id: str) -> Deployment:
    """The deployment, with nobody else changing it or its promotion.

    The promotion first, as applying does: two that lock in opposite order wait for each other for ever.
    """
    seen = await work.deployments.get(deployment_id)
    await work.promotions.get(seen.promotion_id, for_update=True)
    return await work.deployments.get(deployment_id, for_update=True)
