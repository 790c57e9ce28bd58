"""What runs where: listed, with its history; what a target is to serve; called again, or taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, holds_somewhere, may, require
from app.domain.audit import Entry
from app.domain.deployments import Action, Bytes, Deployment, Filter, Generation, no_deployment
from app.domain.endpoints import ReceiverState
from app.domain.errors import Conflict, InvalidInput
from app.domain.promotions import Promotion
from app.domain.rolling_out import Wanted
from app.ports import Clock
from app.services.approved import approved
from app.services.calling import Calling
from app.services.identifiers import id_of
from app.services.recording import UnitOfWorkFactory, actor_of
from app.services.resources import model_for, models_for

LONGEST_REASON = 2000


@dataclass(frozen=True, slots=True)
class DesiredPage:
    """A part of what a target is to serve: the ``data`` of calls. ``next_after`` is none at the end."""

    target: str
    items: Sequence[Mapping[str, object]]
    next_after: str | None


class Inventory:
    def __init__(self, unit_of_work: UnitOfWorkFactory, calling: Calling, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._calling = calling
        self._clock = clock

    async def page(
        self, principal: Principal, wanted: Filter, *, after: str | None = None, limit: int = 50
    ) -> Sequence[Deployment]:
        """By target, workspace and model, those after the one with the id ``after``: what the principal may know of."""
        async with self._unit_of_work() as work:
            if not may(principal, Permission.DEPLOYMENTS_READ):
                models = await work.deployments.models()
                resources = await models_for(work, principal, models)
                among = [
                    model
                    for model, resource in zip(models, resources, strict=True)
                    if may(principal, Permission.DEPLOYMENTS_READ, resource)
                ]
                wanted = replace(wanted, among=among)
            return await work.deployments.page(wanted, after=after, limit=limit)

    async def generations(
        self, principal: Principal, deployment_id: str, *, before: int | None = None, limit: int = 50
    ) -> Sequence[Generation]:
        """What a deployment was to be, newest first. Raises ``NotFound``, also of what one may not know of."""
        async with self._unit_of_work() as work:
            await self._readable(work, principal, deployment_id)
            return await work.deployments.generations(deployment_id, before=before, limit=limit)

    async def desired(
        self, target: str, *, after: str = "", limit: int = 500, by: Principal | None = None
    ) -> DesiredPage:
        """What a target is to serve, by the ids of the deployments, those after ``after``.

        Args:
            target: whose.
            after: ``next_after`` of the page before.
            limit: how many are looked through; fewer are told to who deploys some models only.
            by: who asks; none: the target itself, by its signature.

        Raises:
            NotFound: there is no such target.
        """
        async with self._unit_of_work() as work:
            await work.targets.get(target)
            found = await work.deployments.desired(target, after=after, limit=limit)
            told = found
            if by is not None:
                resources = await models_for(work, by, [(each.workspace, each.model) for each in found])
                told = [
                    each
                    for each, resource in zip(found, resources, strict=True)
                    if may(by, Permission.DEPLOYMENTS_REPORT, resource)
                ]
        return DesiredPage(
            target,
            [each.call for each in told if each.call is not None],
            found[-1].deployment_id if len(found) == limit else None,
        )

    @staticmethod
    def check_may_deploy(principal: Principal) -> None:
        """Return if the principal deploys any model. Raises ``Forbidden``."""
        if not holds_somewhere(principal, Permission.DEPLOYMENTS_REPORT):
            require(principal, Permission.DEPLOYMENTS_REPORT)

    async def redeploy(
        self, principal: Principal, deployment_id: str, *, reason: str = "", idempotency_key: str | None = None
    ) -> Deployment:
        """Have a target be called again with the same, as a new generation; what was taken away comes back.

        Raises:
            NotFound: there is none, or none that the principal may know of.
            Forbidden: the principal may not.
            Conflict: a promotion is moving it, the version is not approved for the target any more, or the target is
                disabled.
        """
        new = id_of("dlv", key=idempotency_key, of=(principal.id, "redeploy", deployment_id))
        async with self._unit_of_work() as work:
            present, promotion = await self._administered(work, principal, deployment_id)
            if await work.deliveries.find(new):
                return present
            known = await approved(work, self._clock, models=[(present.workspace, present.model)])
            _check_is_still(present, known.moving)
            if present.version not in (known.of(present) or ()):
                raise Conflict(
                    f"Version {present.version} of {present.resource} holds no alias whose policy names the target "
                    f"{present.target}. Promote what it shall serve.",
                    deployment=deployment_id,
                )
            was_removed = present.action is Action.REMOVE
            wanted = Wanted(
                present.target,
                Action.APPLY,
                Bytes(present.version, present.uri, present.digest),
                100 if was_removed else present.weight,
                None if was_removed else present.stable,
            )
            return await self._call(work, principal, promotion, wanted, "redeployed", reason=reason, new=new)

    async def remove(
        self, principal: Principal, deployment_id: str, *, reason: str, idempotency_key: str | None = None
    ) -> Deployment:
        """Have a target serve nothing of a model any more. The alias stays where it is.

        Raises:
            NotFound, Forbidden: as ``redeploy``.
            InvalidInput: there is no reason.
            Conflict: a promotion is moving it, it is taken away already, or the target is disabled.
        """
        if not reason.strip():
            raise InvalidInput("reason", "expected why it is taken away; others read it")
        new = id_of("dlv", key=idempotency_key, of=(principal.id, "remove", deployment_id))
        async with self._unit_of_work() as work:
            present, promotion = await self._administered(work, principal, deployment_id)
            if await work.deliveries.find(new):
                return present
            known = await approved(work, self._clock, models=[(present.workspace, present.model)])
            _check_is_still(present, known.moving)
            if present.action is Action.REMOVE:
                raise Conflict(f"{present.resource} is taken away from {present.target} already.")
            what = Bytes(present.version, present.uri, present.digest)
            wanted = Wanted(present.target, Action.REMOVE, what, 0)
            return await self._call(work, principal, promotion, wanted, "removed", reason=reason, new=new)

    async def may_administer(self, principal: Principal, deployment: Deployment) -> bool:
        async with self._unit_of_work() as work:
            resource = await model_for(work, principal, deployment.model, workspace=deployment.workspace)
        return may(principal, Permission.DEPLOYMENTS_ADMINISTER, resource)

    async def _call(
        self,
        work: UnitOfWork,
        principal: Principal,
        promotion: Promotion,
        wanted: Wanted,
        done: str,
        *,
        reason: str,
        new: str,
    ) -> Deployment:
        """The call, and who wanted it and why; the end of the transaction."""
        if len(reason) > LONGEST_REASON:
            raise InvalidInput("reason", f"expected at most {LONGEST_REASON} characters")
        if (await work.targets.stored(wanted.target)).state is not ReceiverState.ACTIVE:
            raise Conflict(f"The target {wanted.target} is disabled; enable it first.", target=wanted.target)
        actor = actor_of(principal)
        after = await self._calling.call(work, promotion, wanted, by=actor, delivery_id=new)
        details = {
            "target": after.target,
            "model": after.resource,
            "version": after.version,
            "generation": after.generation,
            "reason": reason,
        }
        work.record(Entry(after.requested_at, actor, f"deployment.{done}", after.id, details))
        await work.commit()
        return after

    async def _administered(
        self, work: UnitOfWork, principal: Principal, deployment_id: str
    ) -> tuple[Deployment, Promotion]:
        """A deployment that the principal administers, and its promotion, with nobody else changing either."""
        seen = await self._readable(work, principal, deployment_id)
        resource = await model_for(work, principal, seen.model, workspace=seen.workspace)
        require(principal, Permission.DEPLOYMENTS_ADMINISTER, resource)
        # The promotion first, as applying does: two that lock in opposite order wait for each other for ever.
        promotion = await work.promotions.get(seen.promotion_id, for_update=True)
        present = await work.deployments.get(deployment_id, for_update=True)
        if present.promotion_id != promotion.id:
            raise Conflict(
                "Another promotion has taken its place just now. Look at it again.", deployment=deployment_id
            )
        return present, promotion

    async def _readable(self, work: UnitOfWork, principal: Principal, deployment_id: str) -> Deployment:
        found = await work.deployments.get(deployment_id)
        resource = await model_for(work, principal, found.model, workspace=found.workspace)
        if not may(principal, Permission.DEPLOYMENTS_READ, resource):
            raise no_deployment(deployment_id)
        return found


def _check_is_still(deployment: Deployment, moving: Mapping[tuple[str, str], Promotion]) -> None:
    promotion = moving.get((deployment.workspace, deployment.model))
    if promotion is not None:
        raise Conflict(
            f"Promotion {promotion.id} is being rolled out: what {deployment.target} serves of {deployment.resource} "
            "is decided there.",
            promotion=promotion.id,
        )
