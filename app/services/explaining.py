"""Answers why somebody may or may not: over the grants as they are now, and the policy where one has a say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Principal, may, require
from app.domain.errors import InvalidInput
from app.domain.explaining import DecisionNote, Explanation, Held, everything_held, explain, explain_decision
from app.domain.grants import DEFAULT_WORKSPACE, SERVER, Access, Grant, Resource, ResourceKind, applying_to
from app.domain.identity import Identity, unseen
from app.domain.policies import ApprovalRule, policy_for
from app.domain.promotions import Promotion, no_promotion
from app.domain.roles import DENIED_WITH, ROLE_PERMISSIONS, Permission, Role
from app.services.recording import UnitOfWorkFactory


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: one of ``permission`` and ``role``, on at most one thing."""

    permission: Permission | None = None
    role: Role | None = None
    model: str | None = None
    alias: str | None = None
    experiment: str | None = None
    workspace: str | None = None
    promotion: str | None = None
    """Stands for its model and alias; says too whether deciding on it would be self-approval."""

    @property
    def resource(self) -> Resource:
        """What it is about.

        Raises:
            InvalidInput: it is about several things, or about none though something of it is named.
        """
        if self.experiment is not None and (self.model is not None or self.alias is not None):
            raise InvalidInput("experiment", "expected a model or an experiment, not both")
        if self.alias is not None and self.model is None:
            raise InvalidInput("alias", "expected only beside a model")
        workspace = self.workspace if self.workspace is not None else DEFAULT_WORKSPACE
        if self.model is not None:
            return Resource(ResourceKind.MODEL, self.model, self.alias, workspace)
        if self.experiment is not None:
            return Resource(ResourceKind.EXPERIMENT, self.experiment, None, workspace)
        if self.workspace is not None:
            # Any model of it: an empty name is matched by no pattern but one that matches everything.
            return Resource(ResourceKind.MODEL, "", None, workspace)
        return SERVER


@dataclass(frozen=True, slots=True)
class Answer:
    """Why, or why not; ``decision`` is the policy's say, where deciding on promotions was asked about."""

    principal: Principal
    is_known: bool
    """Whether the principal was seen before, so that its groups are known."""
    explanation: Explanation
    decision: DecisionNote | None
    role: Role | None

    @property
    def allowed(self) -> bool:
        return self.explanation.allowed and (self.decision is None or self.decision.may_decide)

    @property
    def reason(self) -> str:
        if self.decision is None:
            return self.explanation.reason
        if self.explanation.allowed and not self.decision.may_decide:
            return f"{self.principal.name} may not, though the grants allow it. {self.decision.reason}"
        return f"{self.explanation.reason} {self.decision.reason}"


class Explaining:
    """See the module.

    Args:
        unit_of_work: our database.
        settings: the operator's own grants (``COUNTERSIGN_ROLES``).
    """

    def __init__(self, unit_of_work: UnitOfWorkFactory, settings: Iterable[Grant] = ()) -> None:
        self._unit_of_work = unit_of_work
        self._settings = tuple(settings)

    async def check(self, caller: Principal, question: Question, *, principal_id: str | None = None) -> Answer:
        """Why ``caller``, or somebody else, may or may not.

        Raises:
            InvalidInput: the question is about nothing, or about several things.
            Forbidden: it is about somebody else, and the caller may not read grants.
            NotFound: there is no such promotion that the caller may read.
        """
        async with self._unit_of_work() as work:
            if principal_id is None or principal_id == caller.id:
                return await self._answer(work, caller, question, reader=caller, is_known=True)
            require(caller, Permission.GRANTS_READ)
            known = await work.principals.get(principal_id)
            identity = known.identity if known else unseen(principal_id)
            return await self._answer(work, Principal(identity), question, reader=caller, is_known=known is not None)

    async def explain(self, identity: Identity, question: Question) -> Answer:
        """The same for the operator, who may know everything."""
        async with self._unit_of_work() as work:
            return await self._answer(work, Principal(identity), question, reader=None, is_known=True)

    async def everything_held_by(self, identity: Identity) -> Sequence[Held]:
        """What somebody may do, and what is denied them."""
        async with self._unit_of_work() as work:
            grants = await self._grants(work)
        return everything_held(_with_access(Principal(identity), grants))

    async def identity_of(self, person: str) -> Sequence[Identity]:
        """Those who are known by this id, or by exactly this name."""
        async with self._unit_of_work() as work:
            known = await work.principals.get(person)
            if known is not None:
                return [known.identity]
            found = await work.principals.page(after="", limit=100, search=person)
        return [each.identity for each in found if each.identity.name == person]

    async def _grants(self, work: UnitOfWork) -> list[Grant]:
        return [*self._settings, *(stored.grant for stored in await work.grants.all())]

    async def _answer(
        self, work: UnitOfWork, asked: Principal, question: Question, *, reader: Principal | None, is_known: bool
    ) -> Answer:
        grants = await self._grants(work)
        principal = _with_access(asked, grants)
        promotion = None
        if question.promotion is not None:
            promotion = await self._promotion(work, question.promotion, reader)
            question = replace(
                question,
                model=promotion.model,
                alias=promotion.alias,
                workspace=promotion.workspace,
                experiment=None,
            )
        resource = await _with_owner(work, question.resource, reader)
        permission = _permission(question, principal, resource)
        explanation = explain(principal, permission, resource, grants=grants)
        decision = None
        is_told = reader is None or may(reader, Permission.POLICIES_READ, resource)
        if permission is Permission.PROMOTIONS_DECIDE and resource.alias is not None and is_told:
            rules, requested_by = await _rules(work, resource, promotion)
            decision = explain_decision(principal, resource, rules, requested_by=requested_by)
        return Answer(principal, is_known, explanation, decision, question.role)

    async def _promotion(self, work: UnitOfWork, promotion_id: str, reader: Principal | None) -> Promotion:
        promotion = await work.promotions.get(promotion_id)
        on = Resource(ResourceKind.MODEL, promotion.model, promotion.alias, promotion.workspace)
        on = await _with_owner(work, on, None)
        if reader is not None and not may(reader, Permission.PROMOTIONS_READ, on):
            raise no_promotion(promotion_id)
        return promotion


def _with_access(principal: Principal, grants: Iterable[Grant]) -> Principal:
    access = Access(applying_to(principal.identity, grants), owner_id=principal.id)
    return replace(principal, access=access)


def _permission(question: Question, principal: Principal, resource: Resource) -> Permission:
    """What is asked for; of a role, the first thing it is for that is not given, or else the first."""
    if (question.permission is None) == (question.role is None):
        raise InvalidInput("permission", "expected a permission or a role, exactly one")
    if question.permission is not None:
        return question.permission
    assert question.role is not None  # else there is a permission
    meant = sorted(ROLE_PERMISSIONS[question.role] & DENIED_WITH[question.role])
    return next((each for each in meant if not may(principal, each, resource)), meant[0])


async def _with_owner(work: UnitOfWork, resource: Resource, reader: Principal | None) -> Resource:
    """With the owner of a model, if whoever asks may know of it."""
    if resource.kind is not ResourceKind.MODEL or not resource.name:
        return resource
    owner = (await work.owners.of("model", resource.workspace, [resource.name])).get(resource.name)
    owned = replace(resource, owner=owner)
    if reader is None or may(reader, Permission.GRANTS_READ) or may(reader, Permission.REGISTRY_READ, owned):
        return owned
    return resource


async def _rules(
    work: UnitOfWork, resource: Resource, promotion: Promotion | None
) -> tuple[Sequence[ApprovalRule] | None, str | None]:
    if promotion is not None:
        return promotion.rules, promotion.requested_by
    policy = policy_for(
        await work.policies.in_force(), resource.name, resource.alias or "", workspace=resource.workspace
    )
    return (policy.approvals if policy else None), None
