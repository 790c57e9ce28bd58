"""Asking for a promotion, deciding on it, taking it back, and following it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta

from app.adapters.postgres.evidence import Taken
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, PrincipalKind, may, require, within_scopes
from app.domain.assessing import (
    Case,
    Reading,
    RuleStatus,
    Vote,
    assess,
    progress_of,
    waits_for,
    whose_approval_is_missing,
)
from app.domain.audit import SYSTEM_WORKER, Actor
from app.domain.break_glass import check_may_break
from app.domain.digests import Measured
from app.domain.errors import (
    Conflict,
    CountersignError,
    Forbidden,
    InsufficientScope,
    InvalidInput,
    NotAnApprover,
    NotFound,
    PreconditionFailed,
    SelfApproval,
)
from app.domain.events import EventType
from app.domain.grants import DEFAULT_WORKSPACE, Resource
from app.domain.identity import CredentialKind
from app.domain.names import check_version
from app.domain.policies import Policy, ReasonFor, RuleProgress, Supersede, check_may_decide
from app.domain.promotions import (
    MOVES,
    TAKES_NEWER,
    URGENCY,
    AliasKey,
    Decision,
    Filter,
    Kind,
    Outcome,
    Promotion,
    State,
    check_alias_key,
    decided,
    moved,
    no_promotion,
)
from app.domain.roles import scopes_with
from app.domain.rolling_out import keeps_alias
from app.domain.verdicts import ALLOW, Deny, Verdict
from app.domain.verifying import check_as_approved, key_of
from app.ports import Changes, Clock
from app.services.delegations import stood_in_for
from app.services.examining import Examining
from app.services.identifiers import id_of, new_id, undoing
from app.services.lifecycle import LOOK_AGAIN, Lifecycle
from app.services.measuring import Measuring
from app.services.pinning import Pinned, Pinning
from app.services.recording import UnitOfWorkFactory, actor_of, emit_of, tell, topic_of
from app.services.resources import model_for, readable
from app.telemetry import GLASS_BROKEN

READ_AT_ONCE = 64 * 1024 * 1024
"""Bytes: artifacts up to this size are digested while the caller waits, larger ones by the worker."""


def recorded_case(promotion: Promotion) -> Case:
    """A case of nothing but what was recorded with the promotion: for lists, where rules are not asked one by one."""
    votes = tuple(Vote(each, each.roles, each.groups) for each in promotion.standing_decisions)
    return Case(promotion, promotion.updated_at, votes)


def recorded_progress(promotion: Promotion) -> tuple[RuleProgress, ...]:
    """How far each approval rule is, as far as the record tells."""
    return progress_of(recorded_case(promotion))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asks for."""

    key: AliasKey
    version: str
    reason: str = ""
    scheduled_for: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Draft:
    """A promotion that is not written yet, and what was found of it."""

    promotion: Promotion
    taken: Taken | None
    alarm: Mapping[str, str | None] | None = None
    """What the alarm says, if this breaks the glass."""


class Promotions:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        changes: Changes,
        clock: Clock,
        *,
        pinning: Pinning,
        measuring: Measuring,
        examining: Examining,
        lifecycle: Lifecycle,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._changes = changes
        self._clock = clock
        self._pinning = pinning
        self._measuring = measuring
        self._examining = examining
        self._lifecycle = lifecycle

    async def create(
        self,
        principal: Principal,
        *,
        model: str,
        alias: str,
        version: str,
        reason: str = "",
        workspace: str = DEFAULT_WORKSPACE,
        scheduled_for: datetime | None = None,
    ) -> tuple[Promotion, bool]:
        """Ask that ``version`` become the holder of ``alias``. Asking again for the same returns the same promotion.

        Returns:
            The promotion, and whether it is new.

        Raises:
            InvalidInput, NotFound: the name is malformed; there is no such model, version, or protected alias.
            Forbidden: the principal does not ask for promotions of this alias.
            Conflict: the version holds the alias already, and no promotion of ours put it there; or another's waits,
                and the policy does not let a newer one take its place.
            Unresolvable: no physical address can be given for the version.
        """
        key = check_alias_key(AliasKey(workspace, model, alias))
        wanted = Wanted(key, check_version(version), reason, scheduled_for)
        async with self._unit_of_work() as work:
            require(principal, Permission.PROMOTIONS_REQUEST, await _resource(work, principal, key))
            in_force = await work.policies.in_force()
            existing = await work.promotions.find_open(key, version)
        if existing:
            return existing, False
        registered = await self._pinning.model(key)
        policy = self._pinning.policy(in_force, key, registered)
        if policy is None:
            raise _not_protected(key, in_force)
        need_reason(policy, ReasonFor.REQUEST, reason)
        pinned = await self._pinning.pin(key, version, registered)
        if pinned.from_version == version and (holding := await self._promotion_that_holds(key, version)):
            return holding, False
        draft = self.draft(Kind.PROMOTION, wanted, policy, pinned, by=principal)
        return await self.open(await self._looked_at(draft), actor_of(principal))

    async def last_good(self, principal: Principal, key: AliasKey) -> Promotion | None:
        """The promotion that a rollback goes back to; none if there is none. Raises ``Forbidden``, as ``roll_back``."""
        async with self._unit_of_work() as work:
            require(principal, Permission.PROMOTIONS_ROLLBACK, await _resource(work, principal, key))
            _, last = await _last_two(work, key)
        return last

    async def roll_back(
        self,
        principal: Principal,
        *,
        model: str,
        alias: str,
        reason: str = "",
        workspace: str = DEFAULT_WORKSPACE,
        idempotency_key: str | None = None,
    ) -> tuple[Promotion, bool]:
        """Ask that the last good holder of ``alias`` hold it again, on the policy's fast lane.

        Raises:
            Forbidden: the principal does not roll this alias back.
            NotFound: no promotion of ours put the present holder there, or none before it.
            Conflict: the version to go back to is not what it was.
            BytesChanged: its bytes are not, or are gone, as was seen when they were last looked at.
        """
        key = check_alias_key(AliasKey(workspace, model, alias))
        async with self._unit_of_work() as work:
            require(principal, Permission.PROMOTIONS_ROLLBACK, await _resource(work, principal, key))
            promotion_id = id_of("prm", key=idempotency_key, of=(principal.id, "rollback", str(key)))
            if idempotency_key and (earlier := await work.promotions.find(promotion_id)):
                return earlier, False
            in_force = await work.policies.in_force()
            await _check_alias_is_moved(work, key)
            undone, last = await _last_two(work, key)
            verification = await work.verifications.find(key_of(last)) if last else None
        registered = await self._pinning.model(key)
        policy = self._pinning.policy(in_force, key, registered)
        if undone is None or policy is None:
            raise NotFound(
                f"No promotion has moved alias {alias} of model {key.resource}, so there is nothing to roll back.",
                model=model,
                alias=alias,
            )
        need_reason(policy, ReasonFor.ROLLBACK, reason)
        if last is None:
            raise NotFound(f"Alias {alias} of model {key.resource} had no holder before version {undone.to_version}.")
        check_as_approved(verification, last.digest)
        pinned = await self._pinning.pin(key, last.to_version, registered)
        wanted = Wanted(key, last.to_version, reason)
        drafted = self.draft(Kind.ROLLBACK, wanted, policy, pinned, by=principal, rolls_back=undone.id)
        draft = await self._looked_at(replace(drafted, id=promotion_id))
        if not is_same_version(draft.promotion, last):
            raise Conflict(
                f"Version {last.to_version} of model {model} is not what was promoted in {last.id}; "
                "promote another version instead.",
                promotion=last.id,
            )
        return await self.open(draft, actor_of(principal))

    async def undo(self, undone: Promotion, *, reason: str) -> Promotion | None:
        """Have the last good holder of an alias hold it again, because a promotion went back during its rollout.

        Its policy says that this happens, so that nobody is asked. Asking again returns the same promotion.

        Returns:
            The rollback; none if there was no good holder before.

        Raises:
            NotFound, Unresolvable, Conflict, BytesChanged: the version, or its bytes, are not there any more, or are
                others.
        """
        async with self._unit_of_work() as work:
            if earlier := await work.promotions.find(undoing(undone.id)):
                return earlier
            last = await work.promotions.last_good_before(undone)
            verification = await work.verifications.find(key_of(last)) if last else None
            in_force = await work.policies.in_force()
        if last is None:
            return None
        check_as_approved(verification, last.digest)
        registered = await self._pinning.model(undone.key)
        policy = self._pinning.policy(in_force, undone.key, registered) or undone.policy
        pinned = await self._pinning.pin(undone.key, last.to_version, registered)
        wanted = Wanted(undone.key, last.to_version, reason)
        drafted = self.draft(Kind.ROLLBACK, wanted, policy, pinned, by=None, rolls_back=undone.id)
        draft = await self._looked_at(replace(drafted, id=undoing(undone.id)))
        if not is_same_version(draft.promotion, last):
            raise Conflict(
                f"Version {last.to_version} of model {undone.model} is not what was promoted in {last.id}.",
                promotion=last.id,
            )
        promotion, _ = await self.open(draft, SYSTEM_WORKER)
        return promotion

    async def restore(self, holding: Promotion, policy: Policy, *, reason: str) -> Promotion:
        """Have an alias that was moved past the gateway held again by the version of ``holding``, as the ledger says.

        Raises:
            NotFound, Unresolvable, Conflict: the version, or its bytes, are not there any more, or are others.
        """
        pinned = await self._pinning.pin(holding.key, holding.to_version, await self._pinning.model(holding.key))
        wanted = Wanted(holding.key, holding.to_version, reason)
        draft = await self._looked_at(self.draft(Kind.RESTORE, wanted, policy, pinned, by=None))
        if not is_same_version(draft.promotion, holding):
            raise Conflict(
                f"Version {holding.to_version} of model {holding.model} is not what was promoted in {holding.id}.",
                promotion=holding.id,
            )
        promotion, _ = await self.open(draft, SYSTEM_WORKER)
        return promotion

    async def break_glass(
        self, principal: Principal, wanted: Wanted, *, ticket: str = "", idempotency_key: str | None = None
    ) -> tuple[Promotion, bool]:
        """Have ``wanted.version`` hold the alias at once: no rule of the policy holds it up, and everybody hears of it.

        Returns:
            The promotion, and whether it is new: breaking what is broken for this version already changes nothing, nor
            for one that holds the alias, unless its rollout takes it back.

        Raises:
            InvalidInput: no reason is given, or a name is malformed. NotFound: as ``create``.
            Forbidden: the principal has not the permission on this alias, is a service, or the policy forbids it.
            InsufficientAuthentication: they must prove anew who they are (RFC 9470).
            Conflict, Unresolvable: as ``create``.
        """
        key = check_alias_key(wanted.key)
        check_version(wanted.version)
        async with self._unit_of_work() as work:
            require(principal, Permission.PROMOTIONS_BREAK_GLASS, await _resource(work, principal, key))
            promotion_id = id_of("prm", key=idempotency_key, of=(principal.id, "break-glass", str(key), wanted.version))
            if idempotency_key and (earlier := await work.promotions.find(promotion_id)):
                return earlier, False
            in_force = await work.policies.in_force()
        if not wanted.reason.strip():
            raise InvalidInput("reason", "expected a reason: whoever reviews this will read it")
        registered = await self._pinning.model(key)
        policy = self._pinning.policy(in_force, key, registered)
        if policy is None:
            raise _not_protected(key, in_force)
        check_may_break(principal, policy, at=self._clock.now())
        pinned = await self._pinning.pin(key, wanted.version, registered)
        if pinned.from_version == wanted.version and (holding := await self._promotion_that_holds(key, wanted.version)):
            async with self._unit_of_work() as work:
                rollout = await work.rollouts.find(holding.id)
            if keeps_alias(holding, rollout):
                return holding, False
        proved = principal.credential
        alarm = {
            "comment": wanted.reason,
            "ticket": ticket or None,
            "authenticated_at": proved.authenticated_at.isoformat() if proved.authenticated_at else None,
            "acr": proved.acr,
        }
        if ticket:
            wanted = replace(wanted, reason=f"{ticket}: {wanted.reason}")
        draft = replace(self.draft(Kind.BREAK_GLASS, wanted, policy, pinned, by=principal), id=promotion_id)
        looked = await self._looked_at(draft)
        promotion, is_new = await self.open(replace(looked, alarm=alarm), actor_of(principal))
        if is_new:
            GLASS_BROKEN.inc()
        return promotion, is_new

    async def explain(self, principal: Principal, wanted: Wanted) -> tuple[Promotion, tuple[RuleStatus, ...]]:
        """What would stand between a version and an alias if it were asked for now; nothing is written.

        Returns:
            The promotion that there would be, with an empty id (or the open one that there is), and its rules.

        Raises:
            As ``create``; no reason is asked for. Reading promotions of the alias is enough.
        """
        key = check_alias_key(wanted.key)
        check_version(wanted.version)
        async with self._unit_of_work() as work:
            require(principal, Permission.PROMOTIONS_READ, await _resource(work, principal, key))
            in_force = await work.policies.in_force()
            existing = await work.promotions.find_open(key, wanted.version)
            if existing:
                return existing, await self._lifecycle.statuses(work, existing)
        registered = await self._pinning.model(key)
        policy = self._pinning.policy(in_force, key, registered)
        if policy is None:
            raise _not_protected(key, in_force)
        pinned = await self._pinning.pin(key, wanted.version, registered)
        draft = replace(self.draft(Kind.PROMOTION, wanted, policy, pinned, by=principal), id="")
        looked = await self._looked_at(draft)
        async with self._unit_of_work() as work:
            case = await self._lifecycle.cases.of(work, looked.promotion, at=self._clock.now(), taken=looked.taken)
        return looked.promotion, assess(case)

    async def standing(self, promotion: Promotion) -> tuple[tuple[RuleStatus, ...], Reading | None]:
        """How every rule of a promotion stands, and how far its artifacts are read; nothing of one that waits no more.

        Asked by who may know of it.
        """
        if promotion.state not in TAKES_NEWER:
            return (), None
        async with self._unit_of_work() as work:
            case = await self._lifecycle.cases.of(work, promotion, at=self._clock.now())
        return assess(case), case.reading if promotion.digest is None else None

    async def evidence(self, principal: Principal, promotion_id: str) -> Taken | None:
        """What was found of the candidate last. Raises ``NotFound``, as ``get``."""
        async with self._unit_of_work() as work:
            await self._readable(work, principal, promotion_id)
            return await work.evidence.get(promotion_id)

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
            while promotion.revision == seen and not await self._is_over(promotion):
                left = deadline - time.monotonic()
                if left <= 0 or not await subscription.wait(left):
                    break
                promotion = await self.get(principal, promotion_id)
        return promotion

    async def _is_over(self, promotion: Promotion) -> bool:
        """Whether it is settled, and its targets are not on their way back any more."""
        if not promotion.is_settled or not promotion.policy.targets:
            return promotion.is_settled
        async with self._unit_of_work() as work:
            return not await work.rollouts.is_open(promotion.id)

    async def follow(self, promotion: Promotion, *, until: Callable[[Promotion], bool], timeout_s: float) -> Promotion:
        """The promotion as soon as it is as somebody wants it, or after the time. Asked by who may know of it."""
        deadline = time.monotonic() + timeout_s
        async with self._changes.subscribe(topic_of(promotion.id)) as subscription:
            while True:
                async with self._unit_of_work() as work:
                    promotion = await work.promotions.get(promotion.id)
                left = deadline - time.monotonic()
                if until(promotion) or left <= 0 or not await subscription.wait(left):
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

    async def decide(
        self,
        principal: Principal,
        promotion_id: str,
        outcome: Outcome,
        *,
        reason: str = "",
        on_behalf_of: str | None = None,
        seen_revision: int | None = None,
        seen_facts: str | None = None,
    ) -> Promotion:
        """Approve or reject.

        Args:
            principal: who decides.
            promotion_id: on what.
            outcome: yes or no.
            reason: why; the policy may ask for it.
            on_behalf_of: id or name of whom the principal stands in for; if none is given and only somebody who
                delegated to the principal may decide, that one.
            seen_revision: of the promotion that the principal looked at; another one is refused.
            seen_facts: what ``facts_seen`` says of the evidence that they looked at; other evidence is refused.

        Raises:
            NotFound: there is none, or none that the principal may know of.
            PreconditionFailed: it is not what the principal looked at.
            SelfApproval, Forbidden, NotAnApprover: it is the principal's own; no grant, or not the policy, lets it.
            IllegalMove, AlreadyDecided: it takes no (further) decision of this principal; tells the state.
            Conflict: its artifacts are still being read, so that nobody knows what they decide on.
            InvalidInput: the policy asks for a reason.
        """
        async with self._unit_of_work() as work:
            before = await self._readable(work, principal, promotion_id, for_update=True)
            check_revision(before, seen_revision)
            if seen_facts is not None and seen_facts != facts_seen(await work.evidence.get(promotion_id)):
                raise _changed_meanwhile(before)
            decision = await self._decision(work, principal, before, outcome, reason, on_behalf_of)
            need_reason(before.policy, ReasonFor.APPROVE if outcome is Outcome.APPROVE else ReasonFor.REJECT, reason)
            after = decided(before, decision)
            check_measured(before)
            await work.promotions.save(before, after)
            if principal.credential.kind is CredentialKind.PROVIDER:
                # What a provider says of the approver now is what later looks compare with.
                said_at = principal.credential.issued_at or decision.decided_at
                await work.principals.learn(principal.identity, said_at=said_at)
            for_whom = {"on_behalf_of": decision.on_behalf_of[1]} if decision.on_behalf_of else {}
            tell(work, _DECIDED[outcome], after, actor=actor_of(principal), comment=reason, **for_whom)
            after, _ = await self._lifecycle.settle(work, after, actor=actor_of(principal), decision=decision)
            await work.commit()
        return after

    async def may_decide(
        self, principal: Principal, promotions: Sequence[Promotion], outcome: Outcome
    ) -> Sequence[Verdict]:
        """For each promotion whether ``decide`` would take this decision, or why not. Asked by who may know of them."""
        async with self._unit_of_work() as work:
            return [await self._may_decide(work, principal, each, outcome) for each in promotions]

    async def _may_decide(
        self, work: UnitOfWork, principal: Principal, promotion: Promotion, outcome: Outcome
    ) -> Verdict:
        try:
            decided(promotion, await self._decision(work, principal, promotion, outcome, "", None))
            check_measured(promotion)
        except InvalidInput:
            return ALLOW  # they stand in for several, and have to say for whom
        except (SelfApproval, NotAnApprover) as error:
            return Deny(error.message)
        except Forbidden:
            return Deny(f"{principal.name} is no approver of {promotion.key}; an administrator can change that.")
        except CountersignError as error:
            return Deny(error.message)
        return ALLOW

    async def may_on_alias(self, principal: Principal, permission: Permission, key: AliasKey) -> bool:
        """Whether the principal holds a permission on one alias."""
        async with self._unit_of_work() as work:
            return may(principal, permission, await _resource(work, principal, key))

    async def _decision(
        self,
        work: UnitOfWork,
        principal: Principal,
        promotion: Promotion,
        outcome: Outcome,
        reason: str,
        on_behalf_of: str | None,
    ) -> Decision:
        """The decision that the principal makes, if they may."""
        resource = await _resource(work, principal, promotion.key)
        now = self._clock.now()
        delegator = await stood_in_for(
            work, self._lifecycle.cases, principal, promotion, resource, named=on_behalf_of, at=now
        )
        people = [principal.identity, *([delegator.identity] if delegator else [])]
        barred = await self._lifecycle.cases.barred(work, promotion, people)
        if principal.id not in barred and delegator is None:
            require(principal, Permission.PROMOTIONS_DECIDE, resource)
        groups, roles = principal.groups, frozenset(role.value for role in principal.access.roles_on(resource))
        if delegator:
            groups, roles = delegator.identity.groups, delegator.roles
        check_may_decide(
            promotion.rules,
            principal,
            roles=principal.access.roles_on(resource),
            barred=barred,
            on_behalf_of=(delegator.identity.id, roles, groups) if delegator else None,
        )
        return Decision(
            principal_id=principal.id,
            principal_name=principal.name,
            outcome=outcome,
            reason=reason,
            decided_at=now,
            groups=groups,
            roles=roles,
            is_service=principal.kind is PrincipalKind.SERVICE,
            on_behalf_of=(delegator.identity.id, delegator.identity.name) if delegator else None,
        )

    async def withdraw(
        self, principal: Principal, promotion_id: str, *, reason: str = "", seen_revision: int | None = None
    ) -> Promotion:
        """Take a promotion back before it is applied. ``seen_revision``: as in ``decide``.

        Raises:
            NotFound, Forbidden: there is none that the principal may know of, or somebody else asked for it.
            InsufficientScope: with this token they could not have asked for it either.
            IllegalMove: it is too late; tells the state.
        """
        async with self._unit_of_work() as work:
            before = await self._readable(work, principal, promotion_id, for_update=True)
            check_revision(before, seen_revision)
            if before.requested_by != principal.id:
                raise Forbidden(
                    f"Only {before.requested_by_name}, who asked for it, can withdraw promotion {before.id}."
                )
            _check_scope(principal, _ASKED_WITH[before.kind])
            need_reason(before.policy, ReasonFor.WITHDRAW, reason)
            why = f"withdrawn by {principal.name}" + (f": {reason}" if reason else "")
            after = replace(moved(before, State.WITHDRAWN, at=self._clock.now(), reason=why), due_at=None)
            await work.promotions.save(before, after)
            tell(work, "promotion.withdrawn", after, actor=actor_of(principal), comment=reason)
            await work.commit()
        return after

    async def _readable(
        self, work: UnitOfWork, principal: Principal, promotion_id: str, *, for_update: bool = False
    ) -> Promotion:
        promotion = await work.promotions.get(promotion_id, for_update=for_update)
        if not may(principal, Permission.PROMOTIONS_READ, await _resource(work, principal, promotion.key)):
            raise no_promotion(promotion_id)
        return promotion

    def draft(
        self,
        kind: Kind,
        wanted: Wanted,
        policy: Policy,
        pinned: Pinned,
        *,
        by: Principal | None,
        rolls_back: str | None = None,
    ) -> Promotion:
        """A promotion that nobody has asked for yet.

        Raises:
            InvalidInput: it is scheduled for a time when it will have expired.
        """
        now = self._clock.now()
        expires_at = now + timedelta(seconds=policy.expiry.after_s)
        if wanted.scheduled_for is not None and wanted.scheduled_for >= expires_at:
            raise InvalidInput(
                "scheduled_for",
                f"expected a time before {expires_at:%Y-%m-%dT%H:%M:%SZ}, when the promotion expires "
                f"(policy {policy.name})",
            )
        actor = actor_of(by) if by else SYSTEM_WORKER
        return Promotion(
            id=new_id("prm"),
            kind=kind,
            workspace=wanted.key.workspace,
            model=wanted.key.model,
            alias=wanted.key.alias,
            digest=None,
            policy=policy,
            requested_by=actor.id,
            requested_by_name=actor.name,
            reason=wanted.reason,
            created_at=now,
            updated_at=now,
            scheduled_for=wanted.scheduled_for,
            expires_at=expires_at,
            due_at=now + LOOK_AGAIN,
            rolls_back=rolls_back,
            **{field.name: getattr(pinned, field.name) for field in fields(pinned)},
        )

    async def _looked_at(self, draft: Promotion) -> _Draft:
        """With its digest and the facts of it, if they can be had while somebody waits; else the worker finds them."""
        measured: Measured | None = await self._measuring.measure_now(draft.uri, READ_AT_ONCE)
        if measured is None:
            return _Draft(draft, None)
        draft = replace(draft, digest=measured.digest)
        return _Draft(draft, await self._examining.examine(draft, files=measured.files))

    async def _promotion_that_holds(self, key: AliasKey, version: str) -> Promotion | None:
        """The promotion by which a version holds an alias in MLflow; none if our ledger has another holder.

        Raises:
            Conflict: it holds it, and no promotion of ours put it there.
        """
        async with self._unit_of_work() as work:
            holder = await work.aliases.get(key)
            if holder and holder.version == version:
                return await work.promotions.get(holder.promotion_id)
        if holder:
            return None
        raise Conflict(
            f"Version {version} of model {key.resource} holds alias {key.alias} already.",
            model=key.model,
            alias=key.alias,
        )

    async def open(self, draft: _Draft, actor: Actor) -> tuple[Promotion, bool]:
        """Write a promotion, unless there is one of the same version; and move it on."""
        promotion = draft.promotion
        async with self._unit_of_work() as work:
            await work.promotions.lock_alias(promotion.key)
            await work.checks.lock(promotion.workspace, promotion.model, promotion.to_version)
            existing = await work.promotions.find_open(promotion.key, promotion.to_version)
            if existing and not _is_overtaken(existing, promotion):
                return existing, False
            await self._replace_waiting(work, promotion)
            await work.promotions.add(promotion)
            if draft.taken:
                promotion = await self._lifecycle.examined(work, promotion, draft.taken)
            details: Mapping[str, str | None] = {
                "digest": promotion.digest,
                "policy": f"{promotion.policy.name}/{promotion.policy.revision}",
                "comment": promotion.reason,
            }
            tell(work, "promotion.requested", promotion, actor=actor, kind=promotion.kind.value, **details)
            if draft.alarm is not None:
                tell(work, "alias.glass_broken", promotion, actor=actor, **draft.alarm)
            if promotion.digest is None:
                await work.jobs.advance_promotion(promotion.id)
                opened = promotion
            else:
                opened, statuses = await self._lifecycle.settle(work, promotion)
                if missing := whose_approval_is_missing(statuses):
                    emit_of(work, EventType.READY_FOR_DECISION, opened, actor, {"waits_for": missing})
            await work.commit()
        return opened, True

    async def _replace_waiting(self, work: UnitOfWork, newer: Promotion) -> None:
        for older in await work.promotions.waiting(newer.key):
            if newer.kind is Kind.PROMOTION and older.kind is not Kind.PROMOTION:
                raise Conflict(
                    f"{older.id} ({older.kind.replace('_', ' ')}) waits for the same alias, and an ordinary promotion "
                    "does not take its place.",
                    promotion=older.id,
                    state=older.state.value,
                )
            if URGENCY[older.kind] > URGENCY[newer.kind]:
                continue
            if newer.kind is Kind.RESTORE and older.to_version != newer.to_version:
                # It puts back what was there when they were asked for: they wait as before.
                continue
            is_anothers = older.requested_by != newer.requested_by
            if is_anothers and newer.kind is Kind.PROMOTION and newer.policy.supersede is Supersede.OWN:
                raise Conflict(
                    f"Promotion {older.id} of {older.requested_by_name} waits for the same alias, and policy "
                    f"{newer.policy.name} does not let another person's take its place.",
                    promotion=older.id,
                    state=older.state.value,
                )
            after = moved(older, State.SUPERSEDED, at=newer.created_at, reason=f"superseded by {newer.id}")
            await work.promotions.save(older, replace(after, due_at=None))
            tell(work, "promotion.superseded", after, by=newer.id)


_DECIDED = {Outcome.APPROVE: "decision.approved", Outcome.REJECT: "decision.rejected"}

_ASKED_WITH = {
    Kind.PROMOTION: Permission.PROMOTIONS_REQUEST,
    Kind.ROLLBACK: Permission.PROMOTIONS_ROLLBACK,
    Kind.RESTORE: Permission.PROMOTIONS_ROLLBACK,
    Kind.BREAK_GLASS: Permission.PROMOTIONS_BREAK_GLASS,
}
"""The permission by which somebody asks for each kind."""


async def _check_alias_is_moved(work: UnitOfWork, key: AliasKey) -> None:
    """Raise ``Conflict`` while a promotion is rolled out whose alias moves afterwards: there is nothing to undo yet."""
    for rolling in await work.promotions.in_state(key, State.ROLLING_OUT):
        if not rolling.alias_moved:
            raise Conflict(
                f"Promotion {rolling.id} is being rolled out, and {key.alias} has not moved yet: have its rollout go "
                f"back (/control/v1/promotions/{rolling.id}/rollout/go-back).",
                promotion=rolling.id,
                state=rolling.state.value,
            )


async def _last_two(work: UnitOfWork, key: AliasKey) -> tuple[Promotion | None, Promotion | None]:
    """The promotion that put the present holder there, and the last good one before it."""
    holder = await work.aliases.get(key)
    undone = await work.promotions.get(holder.promotion_id) if holder else None
    return undone, await work.promotions.last_good_before(undone) if undone else None


def _check_scope(principal: Principal, permission: Permission) -> None:
    """Raise ``InsufficientScope`` if the principal's token is not for this, whatever the principal may."""
    if permission not in within_scopes(principal.scopes):
        scopes = scopes_with(permission)
        needed = " or ".join(scopes)
        raise InsufficientScope(
            f"{permission} needs a token with the scope {needed}.", scope=" ".join(scopes), permission=permission.value
        )


def need_reason(policy: Policy, what: ReasonFor, reason: str) -> None:
    """Raise ``InvalidInput`` if the policy asks for a reason and there is none."""
    if what in policy.reasons and not reason.strip():
        raise InvalidInput("reason", f"expected a reason: policy {policy.name} asks for one to {what}")


def may_withdraw(principal: Principal, promotion: Promotion) -> bool:
    """Whether it is the principal's own, and not too late to take it back."""
    return promotion.requested_by == principal.id and State.WITHDRAWN in MOVES[promotion.state]


def check_measured(promotion: Promotion) -> None:
    """Raise ``Conflict`` while nobody knows what they would decide on."""
    if promotion.digest is None:
        raise Conflict(
            f"The artifacts of promotion {promotion.id} are still being read; decide when their digest is known.",
            promotion=promotion.id,
            state=promotion.state.value,
        )


def check_revision(promotion: Promotion, seen: int | None) -> None:
    """Raise ``PreconditionFailed`` if somebody looked at another revision of it."""
    if seen is not None and seen != promotion.revision:
        raise _changed_meanwhile(promotion)


def facts_seen(taken: Taken | None) -> str:
    """What tells evidence that somebody looked at from other evidence; empty if there is none."""
    if taken is None:
        return ""
    return hashlib.sha256(json.dumps(taken.facts, sort_keys=True).encode()).hexdigest()[:32]


def _changed_meanwhile(promotion: Promotion) -> PreconditionFailed:
    return PreconditionFailed(
        f"Promotion {promotion.id} was changed meanwhile; look at it again.",
        promotion=promotion.id,
        state=promotion.state.value,
    )


def is_same_version(promotion: Promotion, other: Promotion) -> bool:
    """Whether both pin the very same bytes of the very same version. A digest not known yet is compared later."""
    return (
        promotion.model_created_at == other.model_created_at
        and (not other.version_created_at or promotion.version_created_at == other.version_created_at)
        and promotion.source_uri == other.source_uri
        and (promotion.digest is None or promotion.digest == other.digest)
    )


def waits_for_in_short(promotion: Promotion) -> str:
    """What is missing, as far as the record tells, for a person to read."""
    if promotion.digest is None:
        return "its artifacts to be read"
    return waits_for(tuple(each for each in assess(recorded_case(promotion)) if each.rule == "approvals"))


def _is_overtaken(existing: Promotion, newer: Promotion) -> bool:
    """What is more urgent does not wait for a slower lane of the same version, nor an emergency for its rollout."""
    waits = existing.state in TAKES_NEWER
    rolls_out = existing.state is State.ROLLING_OUT and newer.kind is Kind.BREAK_GLASS
    return URGENCY[newer.kind] > URGENCY[existing.kind] and (waits or rolls_out)


def _not_protected(key: AliasKey, in_force: Sequence[Policy]) -> NotFound:
    for policy in in_force:
        if policy.moves_along(key.model, key.alias, workspace=key.workspace):
            return NotFound(
                f"Alias {key.alias} of model {key.resource} moves together with {policy.alias}, as policy "
                f"{policy.name} says; ask for a promotion of that one.",
                model=key.model,
                alias=key.alias,
            )
    return NotFound(
        f"No policy protects alias {key.alias} of model {key.resource}; it can be set directly through MLflow.",
        model=key.model,
        alias=key.alias,
    )


async def _resource(work: UnitOfWork, principal: Principal, key: AliasKey) -> Resource:
    return await model_for(work, principal, key.model, key.alias, workspace=key.workspace)
