"""Asking for a promotion, deciding on it, taking it back, and following it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, PrincipalKind, may, require
from app.domain.audit import Actor
from app.domain.digests import tree_digest
from app.domain.errors import Conflict, Forbidden, NotFound
from app.domain.names import check_alias, check_model, check_version
from app.domain.policies import (
    Approval,
    ApprovalRule,
    Policy,
    RuleStatus,
    assess,
    check_may_decide,
    is_satisfied,
    policy_for,
)
from app.domain.promotions import (
    TAKES_NEWER,
    Decision,
    Filter,
    Kind,
    Outcome,
    Promotion,
    State,
    decided,
    moved,
    no_promotion,
)
from app.domain.storage import artifact_root, physical_uri
from app.ports import Changes, Clock, ModelRegistry, ObjectStore
from app.services.identifiers import new_id
from app.services.recording import UnitOfWorkFactory, actor_of, promotion_entry
from app.services.resources import model_for, readable


def topic_of(promotion_id: str) -> str:
    """What to subscribe to, to follow a promotion."""
    return f"promotion:{promotion_id}"


def rules_of(promotion: Promotion) -> tuple[ApprovalRule, ...]:
    """The approval rules of the lane a promotion takes."""
    if promotion.kind is Kind.ROLLBACK:
        return promotion.policy.rollback_approvals
    return promotion.policy.approvals


def progress_of(promotion: Promotion) -> tuple[RuleStatus, ...]:
    """How far each rule is."""
    return assess(
        rules_of(promotion),
        [
            Approval(decision.principal_id, roles=decision.roles, groups=decision.groups)
            for decision in promotion.decisions
            if decision.outcome is Outcome.APPROVE and not decision.is_service
        ],
    )


@dataclass(frozen=True, slots=True)
class _Pinned:
    """What a new promotion pins of the world."""

    model: str
    alias: str
    to_version: str
    from_version: str | None
    model_created_at: int
    run_id: str | None
    source_uri: str
    uri: str
    digest: str


class Promotions:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        registry: ModelRegistry,
        store: ObjectStore,
        changes: Changes,
        clock: Clock,
        *,
        artifacts_destination: str,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._store = store
        self._changes = changes
        self._clock = clock
        self._destination = artifacts_destination

    async def create(
        self, principal: Principal, *, model: str, alias: str, version: str, reason: str = ""
    ) -> tuple[Promotion, bool]:
        """Ask that ``version`` become the holder of ``alias``. Asking again for the same returns the same promotion.

        Returns:
            The promotion, and whether it is new.

        Raises:
            InvalidInput, NotFound: the name is malformed; there is no such model, version, or protected alias.
            Forbidden: the principal does not ask for promotions of this alias.
            Conflict: the version holds the alias already, and no promotion of ours put it there.
            Unresolvable: no physical address can be given for the version.
        """
        check_model(model)
        check_alias(alias)
        check_version(version)
        async with self._unit_of_work() as work:
            require(principal, Permission.PROMOTIONS_REQUEST, await model_for(work, principal, model, alias))
            policy = policy_for(await work.policies.in_force(), model, alias)
            existing = await work.promotions.find_open(model, alias, version)
        if existing:
            return existing, False
        if policy is None:
            raise NotFound(
                f"No policy protects alias {alias} of model {model}; it can be set directly through MLflow.",
                model=model,
                alias=alias,
            )
        pinned = await self._pin(model, alias, version)
        if pinned.from_version == version:
            return await self._promotion_that_holds(model, alias, version), False
        return await self._open(self._draft(Kind.PROMOTION, principal, reason, policy, pinned), actor_of(principal))

    async def roll_back(
        self, principal: Principal, *, model: str, alias: str, reason: str = ""
    ) -> tuple[Promotion, bool]:
        """Ask that the last good holder of ``alias`` hold it again, on the policy's fast lane.

        Raises:
            Forbidden: the principal does not roll this alias back.
            NotFound: no promotion of ours put the present holder there, or none before it.
            Conflict: the version to go back to is not what it was.
        """
        check_model(model)
        check_alias(alias)
        async with self._unit_of_work() as work:
            require(principal, Permission.PROMOTIONS_ROLLBACK, await model_for(work, principal, model, alias))
            policy = policy_for(await work.policies.in_force(), model, alias)
            holder = await work.aliases.get(model, alias)
            if policy is None or holder is None:
                raise NotFound(
                    f"No promotion has moved alias {alias} of model {model}, so there is nothing to roll back.",
                    model=model,
                    alias=alias,
                )
            undone = await work.promotions.get(holder.promotion_id)
            last = await work.promotions.last_good_before(undone)
            if last is None:
                raise NotFound(f"Alias {alias} of model {model} had no holder before version {holder.version}.")
        pinned = await self._pin(model, alias, last.to_version)
        if pinned.digest != last.digest or pinned.model_created_at != last.model_created_at:
            raise Conflict(
                f"Version {last.to_version} of model {model} is not what was promoted in {last.id}; "
                "promote another version instead.",
                promotion=last.id,
            )
        rollback = self._draft(Kind.ROLLBACK, principal, reason, policy, pinned, rolls_back=undone.id)
        return await self._open(rollback, actor_of(principal))

    async def get(self, principal: Principal, promotion_id: str) -> Promotion:
        """Raises ``NotFound``: there is none, or none that the principal may know of."""
        async with self._unit_of_work() as work:
            return await self._readable(work, principal, promotion_id)

    async def wait(
        self, principal: Principal, promotion_id: str, *, seen_revision: int | None, timeout_s: float
    ) -> Promotion:
        """The promotion as soon as it is not at ``seen_revision`` any more, or after the time. A settled one at once.

        Without ``seen_revision``, a change from now on is waited for. No connection to the database is held meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        async with self._changes.subscribe(topic_of(promotion_id)) as subscription:
            promotion = await self.get(principal, promotion_id)
            seen = promotion.revision if seen_revision is None else seen_revision
            while promotion.revision == seen and not promotion.is_settled:
                left = deadline - time.monotonic()
                if left <= 0 or not await subscription.wait(left):
                    break
                promotion = await self.get(principal, promotion_id)
        return promotion

    async def page(
        self, principal: Principal, wanted: Filter, *, before: tuple[datetime, str] | None = None, limit: int = 50
    ) -> Sequence[Promotion]:
        """Newest first, those before the key (created_at, id) of the last one seen: what the principal may read."""
        async with self._unit_of_work() as work:
            if not may(principal, Permission.PROMOTIONS_READ):
                # The database is asked for what may be read, so that a page is full and a cursor tells of nothing else.
                aliases = await work.promotions.aliases(wanted)
                among = await readable(work, principal, Permission.PROMOTIONS_READ, aliases)
                wanted = replace(wanted, among=tuple(among))
            return await work.promotions.page(wanted, before=before, limit=limit)

    async def decide(self, principal: Principal, promotion_id: str, outcome: Outcome, *, reason: str = "") -> Promotion:
        """Approve or reject.

        Raises:
            NotFound: there is none, or none that the principal may know of.
            SelfApproval, Forbidden, NotAnApprover: it is the principal's own; no grant, or not the policy, lets it.
            IllegalMove, AlreadyDecided: it takes no (further) decision of this principal; tells the state.
        """
        async with self._unit_of_work() as work:
            before = await self._readable(work, principal, promotion_id, for_update=True)
            resource = await model_for(work, principal, before.model, before.alias)
            if before.requested_by != principal.id:
                require(principal, Permission.PROMOTIONS_DECIDE, resource)
            roles = principal.access.roles_on(resource)
            check_may_decide(rules_of(before), principal, roles=roles, requested_by=before.requested_by)
            decision = Decision(
                principal_id=principal.id,
                principal_name=principal.name,
                outcome=outcome,
                reason=reason,
                decided_at=self._clock.now(),
                groups=principal.groups,
                roles=frozenset(role.value for role in roles),
                is_service=principal.kind is PrincipalKind.SERVICE,
            )
            after = decided(before, decision)
            if outcome is Outcome.REJECT:
                why = f"rejected by {principal.name}" + (f": {reason}" if reason else "")
                after = moved(after, State.REJECTED, at=decision.decided_at, reason=why)
            elif is_satisfied(progress_of(after)):
                after = moved(after, State.APPROVED, at=decision.decided_at)
                await work.jobs.advance_promotion(after.id)
            await work.promotions.save(before, after)
            action = "promotion.approved" if outcome is Outcome.APPROVE else "promotion.rejected"
            work.record(promotion_entry(action, after, actor=actor_of(principal), comment=reason))
            work.announce(topic_of(after.id))
            await work.commit()
        return after

    async def withdraw(self, principal: Principal, promotion_id: str, *, reason: str = "") -> Promotion:
        """Take a promotion back before it is applied.

        Raises:
            NotFound, Forbidden: there is none that the principal may know of, or somebody else asked for it.
            IllegalMove: it is too late; tells the state.
        """
        async with self._unit_of_work() as work:
            before = await self._readable(work, principal, promotion_id, for_update=True)
            if before.requested_by != principal.id:
                raise Forbidden(
                    f"Only {before.requested_by_name}, who asked for it, can withdraw promotion {before.id}."
                )
            why = f"withdrawn by {principal.name}" + (f": {reason}" if reason else "")
            after = moved(before, State.WITHDRAWN, at=self._clock.now(), reason=why)
            await work.promotions.save(before, after)
            work.record(promotion_entry("promotion.withdrawn", after, actor=actor_of(principal), comment=reason))
            work.announce(topic_of(after.id))
            await work.commit()
        return after

    async def _readable(
        self, work: UnitOfWork, principal: Principal, promotion_id: str, *, for_update: bool = False
    ) -> Promotion:
        promotion = await work.promotions.get(promotion_id, for_update=for_update)
        resource = await model_for(work, principal, promotion.model, promotion.alias)
        if not may(principal, Permission.PROMOTIONS_READ, resource):
            raise no_promotion(promotion_id)
        return promotion

    async def _pin(self, model: str, alias: str, version: str) -> _Pinned:
        """Look at the world: outside any transaction, because it may take long."""
        registered = await self._registry.get_model(model)
        found = await self._registry.get_version(model, version)
        uri = physical_uri(found.source_uri, destination=self._destination)
        return _Pinned(
            model=model,
            alias=alias,
            to_version=version,
            from_version=registered.aliases.get(alias),
            model_created_at=registered.created_at,
            run_id=found.run_id,
            source_uri=found.source_uri,
            uri=uri,
            digest=tree_digest(await self._store.files(uri)),
        )

    def _draft(
        self,
        kind: Kind,
        principal: Principal,
        reason: str,
        policy: Policy,
        pinned: _Pinned,
        *,
        rolls_back: str | None = None,
    ) -> Promotion:
        now = self._clock.now()
        return Promotion(
            id=new_id("prm"),
            kind=kind,
            policy=policy,
            requested_by=principal.id,
            requested_by_name=principal.name,
            reason=reason,
            created_at=now,
            updated_at=now,
            rolls_back=rolls_back,
            **{field.name: getattr(pinned, field.name) for field in fields(pinned)},
        )

    async def _promotion_that_holds(self, model: str, alias: str, version: str) -> Promotion:
        async with self._unit_of_work() as work:
            holder = await work.aliases.get(model, alias)
            if holder and holder.version == version:
                return await work.promotions.get(holder.promotion_id)
        raise Conflict(f"Version {version} of model {model} holds alias {alias} already.", model=model, alias=alias)

    async def _open(self, promotion: Promotion, actor: Actor) -> tuple[Promotion, bool]:
        async with self._unit_of_work() as work:
            await work.promotions.lock_alias(promotion.model, promotion.alias)
            existing = await work.promotions.find_open(promotion.model, promotion.alias, promotion.to_version)
            if existing and not _is_overtaken(existing, promotion):
                return existing, False
            await self._replace_waiting(work, promotion)
            await work.promotions.add(promotion, artifact_root=artifact_root(promotion.source_uri))
            work.record(
                promotion_entry(
                    "promotion.requested",
                    promotion,
                    actor=actor,
                    kind=promotion.kind.value,
                    digest=promotion.digest,
                    policy=f"{promotion.policy.name}/{promotion.policy.revision}",
                    comment=promotion.reason,
                )
            )
            opened = promotion
            if is_satisfied(progress_of(promotion)):
                opened = moved(
                    promotion, State.APPROVED, at=promotion.updated_at, reason="the policy asks for no approver"
                )
                await work.promotions.save(promotion, opened)
                await work.jobs.advance_promotion(opened.id)
                work.record(promotion_entry("promotion.approved", opened))
            work.announce(topic_of(opened.id))
            await work.commit()
        return opened, True

    async def _replace_waiting(self, work: UnitOfWork, newer: Promotion) -> None:
        for older in await work.promotions.waiting(newer.model, newer.alias):
            after = moved(older, State.SUPERSEDED, at=newer.created_at, reason=f"superseded by {newer.id}")
            await work.promotions.save(older, after)
            work.record(promotion_entry("promotion.superseded", after, by=newer.id))
            work.announce(topic_of(after.id))


def _is_overtaken(existing: Promotion, newer: Promotion) -> bool:
    """A rollback does not wait for the approvals of an ordinary promotion of the same version."""
    return newer.kind is Kind.ROLLBACK and existing.kind is not Kind.ROLLBACK and existing.state in TAKES_NEWER


def waits_for(promotion: Promotion) -> str:
    """What is missing, for a person to read."""
    missing = [status for status in progress_of(promotion) if status.missing]
    return " and ".join(f"{_counted(status.missing)} by {status.rule.who}" for status in missing) or "nothing"


def _counted(approvals: int) -> str:
    return "1 approval" if approvals == 1 else f"{approvals} approvals"
