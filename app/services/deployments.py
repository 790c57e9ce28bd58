"""What deployers report, and what they are to run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, holds_somewhere, may, require
from app.domain.audit import SYSTEM_WORKER, Actor, Entry
from app.domain.deployments import Deployment, Report, given_up, no_deployment, observed
from app.domain.events import EventType, timestamp
from app.domain.grants import Resource
from app.domain.inventory import Standing, desired_in_words, drift_message, judged, served_in_words
from app.domain.phases import Phase, Reason
from app.domain.rolling_out import is_in_effect
from app.ports import Clock
from app.services.recording import UnitOfWorkFactory, actor_of, emit_deployment
from app.services.resources import model_for
from app.services.rolling_out import RollingOut


class Deployments:
    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock, rolling_out: RollingOut) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._rolling_out = rolling_out

    async def get(self, principal: Principal, deployment_id: str) -> Deployment:
        """Raises ``NotFound``: there is none, or none that the principal may know of."""
        async with self._unit_of_work() as work:
            return await self._readable(work, principal, deployment_id)

    async def check_may_report(self, principal: Principal, deployment_id: str) -> None:
        """Return if the principal reports how this deployment is, with a token instead of the target's signature.

        Raises:
            NotFound: there is none, or none that the principal may know of.
            Forbidden: the principal does not report on this model, or on any.
        """
        if not holds_somewhere(principal, Permission.DEPLOYMENTS_REPORT):
            require(principal, Permission.DEPLOYMENTS_REPORT)
        async with self._unit_of_work() as work:
            deployment = await self._readable(work, principal, deployment_id)
            require(principal, Permission.DEPLOYMENTS_REPORT, await _resource(work, principal, deployment))

    async def callback_secrets_of(self, deployment_id: str) -> tuple[str, ...]:
        """The references of the secrets with which the deployer may sign. Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            deployment = await work.deployments.get(deployment_id)
            return (await work.targets.get(deployment.target)).callback_secrets

    async def callback_secrets_of_target(self, target: str) -> tuple[str, ...]:
        """The references of the secrets with which a target's deployer may sign. Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            return (await work.targets.get(target)).callback_secrets

    async def secrets_of_target(self, target: str) -> tuple[str, ...]:
        """The references of the secrets with which a target is spoken to. Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            return (await work.targets.get(target)).secrets

    async def of_promotion(self, principal: Principal, promotion_id: str) -> list[Deployment]:
        """Those that a promotion called last, and that the principal may know of."""
        async with self._unit_of_work() as work:
            return await _of(work, principal, await work.deployments.of_promotion(promotion_id))

    async def report(
        self, deployment_id: str, report: Report, *, by: Principal | None = None, asked_after: int | None = None
    ) -> tuple[Deployment, Deployment]:
        """Take a deployer's report; returns the deployment before and after. One that is late changes nothing.

        A promotion that is settled stays so, whatever is reported later: that is shown, and an alarm (ADR 0035).

        Args:
            deployment_id: of what.
            report: what was observed.
            by: who says so; none if it is the deployment's target, by its signature.
            asked_after: of an answer to a question, see ``app.domain.deployments.observed``.

        Raises:
            NotFound: there is no such deployment.
        """
        async with self._unit_of_work() as work:
            before = await _locked(work, deployment_id)
            now = self._clock.now()
            after = observed(before, report, at=now, asked_after=asked_after)
            if after is None:
                return before, before
            after = judged(after, Standing(now))
            await work.deployments.save(after)
            if after.phase is not before.phase:
                _tell(work, after, by)
            tell_drift(work, before, after, at=now)
            await self._rolling_out.settle(work, after.promotion_id)
            await work.commit()
        return before, after

    async def give_up(
        self, work: UnitOfWork, deployment_id: str, *, generation: int, reason: Reason, message: str
    ) -> None:
        """Settle a generation that the deployer will never report on. Part of the caller's transaction."""
        before = await _locked(work, deployment_id)
        if before.generation != generation or is_in_effect(before) or before.has_failed:
            return
        after = given_up(before, reason=reason, message=message, at=self._clock.now())
        await work.deployments.save(after)
        _tell(work, after)
        await self._rolling_out.settle(work, after.promotion_id)

    async def _readable(self, work: UnitOfWork, principal: Principal, deployment_id: str) -> Deployment:
        deployment = await work.deployments.get(deployment_id)
        if not await _of(work, principal, [deployment]):
            raise no_deployment(deployment_id)
        return deployment


def tell_drift(work: UnitOfWork, before: Deployment, after: Deployment, *, at: datetime) -> None:
    """Write down, and say, that a deployment has drifted, or has not any more; nothing if that is as before."""
    if after.drift is before.drift:
        return
    kind = EventType.DEPLOYMENT_DRIFTED if after.drift else EventType.DEPLOYMENT_DRIFT_ENDED
    about = after if after.drift else before
    said: Mapping[str, str | None] = {
        "drift": about.drift.value if about.drift else None,
        "drifted_since": timestamp(about.drifted_since or at),
        "drift_message": drift_message(about),
        "serving": served_in_words(after.serving),
        "desired": desired_in_words(after),
    }
    named = {"target": after.target, "model": after.resource, "version": after.version, "generation": after.generation}
    work.record(Entry(at, SYSTEM_WORKER, kind.value, after.id, {**named, **said}))
    emit_deployment(work, kind, after, SYSTEM_WORKER, at=at, more=said)


def _tell(work: UnitOfWork, deployment: Deployment, by: Principal | None = None) -> None:
    """Write down, and say, what phase a deployment is in now. ``by``: who says so instead of its target."""
    actor = actor_of(by) if by else Actor(id=f"target:{deployment.target}", name=deployment.target)
    details: Mapping[str, str | int] = {
        "target": deployment.target,
        "model": deployment.resource,
        "version": deployment.version,
        "generation": deployment.generation,
        "promotion": deployment.promotion_id,
        "reason": deployment.reason,
        "message": deployment.message[:500],
    }
    action = f"deployment.{deployment.phase.value.lower()}"
    work.record(Entry(deployment.updated_at, actor, action, deployment.id, details))
    told = EventType.DEPLOYMENT_FAILED.value if deployment.phase is Phase.ERRORED else action
    if told in frozenset(EventType):
        emit_deployment(work, EventType(told), deployment, actor, at=deployment.updated_at)


async def _of(work: UnitOfWork, principal: Principal, found: list[Deployment]) -> list[Deployment]:
    """Those of models of which the principal may know what is deployed."""
    resources = [await _resource(work, principal, deployment) for deployment in found]
    return [
        deployment
        for deployment, resource in zip(found, resources, strict=True)
        if may(principal, Permission.DEPLOYMENTS_READ, resource)
    ]


async def _resource(work: UnitOfWork, principal: Principal, deployment: Deployment) -> Resource:
    return await model_for(work, principal, deployment.model, workspace=deployment.workspace)


async def _locked(work: UnitOfWork, deployment_id: str) -> Deployment:
    """The deployment, with nobody else changing it or its promotion.

    The promotion first, as applying does: two that lock in opposite order wait for each other for ever.
    """
    seen = await work.deployments.get(deployment_id)
    await work.promotions.get(seen.promotion_id, for_update=True)
    return await work.deployments.get(deployment_id, for_update=True)
