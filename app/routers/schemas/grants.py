"""Grants, roles, principals and explanations as callers see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from app.domain.access import Permission, PrincipalKind, Role
from app.domain.grants import Effect, Grant
from app.domain.identity import CredentialKind, Scope
from app.routers.schemas.promotions import RuleAnswer
from app.routers.schemas.shared import Answer, Request
from app.services.explaining import Answer as Why
from app.services.grants import ListedGrant
from app.services.principals import KnownPrincipal

Asked = Annotated[str | None, Field(pattern=r"^[^\x00]*$")]
"""A name that somebody asks about; the database takes no NUL."""


class SubjectBody(Request):
    """Whom a grant is for: a person, a group, or an issuer with patterns of claims."""

    person: str | None = Field(default=None, description="`<issuer>|<subject>`.")
    group: str | None = Field(default=None, description="One group, or `*` for everybody.")
    issuer: str | None = None
    claims: Mapping[str, str] | None = Field(default=None, description="Claim to pattern; all of them must match.")


class ReachBody(Request):
    """What a grant is on, as shell patterns; nothing stands for everything."""

    model: str | None = None
    alias: str | None = None
    experiment: str | None = None
    workspace: str | None = None


class GrantBody(Request):
    """A grant, as in YAML."""

    kind: Literal["Grant"] = "Grant"
    name: str | None = Field(default=None, description="As in the address, if it is given.")
    role: Role
    subject: SubjectBody
    on: ReachBody | None = None
    effect: Effect = Effect.ALLOW

    def document(self, name: str) -> Mapping[str, object]:
        """The document of the grant ``name``."""
        return {**self.model_dump(mode="json", exclude_none=True), "name": name}


class GrantAnswer(Answer):
    """A grant, and who wrote it last. Those of origin `settings` are the operator's own (`COUNTERSIGN_ROLES`)."""

    name: str
    role: Role
    effect: Effect
    subject: Mapping[str, object]
    on: Mapping[str, object]
    summary: str = Field(description="For a person to read.")
    origin: Literal["database", "settings"]
    revision: int | None
    updated_at: datetime | None
    updated_by: str | None


class RoleAnswer(Answer):
    """A role, and what it permits."""

    role: Role
    meaning: str
    permissions: Sequence[Permission]
    on_parts: bool = Field(description="Whether it can be given on a model, experiment or workspace.")
    denial: Sequence[Permission] = Field(description="What a denial of it takes away.")


class PrincipalAnswer(Answer):
    """Somebody, as their provider vouched for them last."""

    id: str
    name: str
    kind: PrincipalKind
    issuer: str
    subject: str
    groups: Sequence[str]
    first_seen_at: datetime
    vouched_at: datetime
    disabled_at: datetime | None
    disabled_by: str | None


class NamedGrant(Answer):
    """A grant that an answer rests on. `subject` and `on` are shown to who may read grants."""

    name: str
    role: Role
    effect: Effect
    subject: str | None
    on: str | None


class CheckBody(Request):
    """What is asked: a permission or a role, on at most one thing, for yourself or somebody else."""

    permission: Permission | None = None
    role: Role | None = None
    model: Asked = Field(default=None, max_length=500)
    alias: Asked = Field(default=None, max_length=500)
    experiment: Asked = Field(default=None, max_length=500)
    workspace: Asked = Field(default=None, max_length=500)
    promotion: Asked = Field(default=None, max_length=100, description="Stands for its model and alias.")
    principal: Asked = Field(default=None, max_length=2500, description="Somebody else's id.")


class DecisionSay(Answer):
    """What the policy says of deciding on promotions of this alias."""

    may_decide: bool
    reason: str
    rules: Sequence[RuleAnswer]


class CheckAnswer(Answer):
    """Whether it is allowed, why, and who could change that."""

    allowed: bool
    principal: str
    principal_name: str
    known: bool = Field(description="Whether they were seen before; else their groups are not known.")
    permission: Permission
    role: Role | None
    resource: str
    reason: str
    granted_by: Sequence[NamedGrant]
    denied_by: Sequence[NamedGrant]
    owner: bool = Field(description="They created it, and creators own what they create.")
    scope_limits: Sequence[Scope] = Field(description="This token has none of these scopes, and needs one.")
    would_be_granted_by: Sequence[Role]
    who_could_change: Sequence[str]
    decision: DecisionSay | None


class MeAnswer(Answer):
    """How Countersign sees you, and what this credential may do."""

    id: str
    name: str
    kind: PrincipalKind
    groups: Sequence[str]
    roles: Sequence[Role]
    permissions: Sequence[Permission] = Field(description="What is permitted somewhere, with this credential.")
    everywhere: Sequence[Permission] = Field(description="Of these, what is permitted on everything.")
    grants: Sequence[NamedGrant] = Field(description="What speaks of you.")
    credential: CredentialKind
    scopes: Sequence[Scope] | None = Field(description="The most that this credential may do; null for no limit.")
    authenticated_at: datetime | None = Field(description="When you last proved to your provider who you are.")
    acr: str | None = Field(description="How, as the provider names it (authentication context class).")


def grant_answer(listed: ListedGrant) -> GrantAnswer:
    document = listed.document
    return GrantAnswer(
        name=listed.grant.name,
        role=listed.grant.role,
        effect=listed.grant.effect,
        subject=_mapping(document["subject"]),
        on=_mapping(document["on"]),
        summary=str(listed.grant),
        origin="database" if listed.stored else "settings",
        revision=listed.revision,
        updated_at=listed.updated_at,
        updated_by=listed.updated_by,
    )


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)  # a grant's document
    return value


def named_grant(grant: Grant, *, in_full: bool) -> NamedGrant:
    return NamedGrant(
        name=grant.name,
        role=grant.role,
        effect=grant.effect,
        subject=str(grant.subject) if in_full else None,
        on=str(grant.on) if in_full else None,
    )


def check_answer(why: Why, *, in_full: bool) -> CheckAnswer:
    explanation, decision = why.explanation, why.decision
    return CheckAnswer(
        allowed=why.allowed,
        principal=why.principal.id,
        principal_name=why.principal.name,
        known=why.is_known,
        permission=explanation.permission,
        role=why.role,
        resource=str(explanation.resource),
        reason=why.reason,
        granted_by=[named_grant(grant, in_full=in_full) for grant in explanation.granted_by],
        denied_by=[named_grant(grant, in_full=in_full) for grant in explanation.denied_by],
        owner=explanation.is_owner,
        scope_limits=explanation.missing_scopes,
        would_be_granted_by=explanation.would_be_granted_by,
        who_could_change=explanation.who_could_change,
        decision=None
        if decision is None
        else DecisionSay(
            may_decide=decision.may_decide,
            reason=decision.reason,
            rules=[
                RuleAnswer(name=rule.name, count=rule.count, missing=rule.count, who=rule.who, given_by=[])
                for rule in decision.rules
            ],
        ),
    )


def principal_answer(known: KnownPrincipal) -> PrincipalAnswer:
    identity = known.identity
    return PrincipalAnswer(
        id=identity.id,
        name=identity.name,
        kind=identity.kind,
        issuer=identity.issuer,
        subject=identity.subject,
        groups=sorted(identity.groups),
        first_seen_at=known.first_seen_at,
        vouched_at=known.vouched_at,
        disabled_at=known.disabled_at,
        disabled_by=known.disabled_by,
    )
