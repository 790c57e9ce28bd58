"""Promotions as callers see them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import AliasChoices, BeforeValidator, Field

from app.domain.deployments import Deployment
from app.domain.promotions import Kind, Outcome, Promotion, State
from app.routers.schemas.deployments import DeploymentAnswer
from app.routers.schemas.shared import Answer, Request
from app.services.promotions import progress_of, waits_for


def _version(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class CreatePromotion(Request):
    """Ask that one version become the holder of one alias."""

    model: str = Field(description="The registered model.", examples=["iris"])
    alias: str = Field(description="The protected alias.", examples=["production"])
    version: Annotated[str, BeforeValidator(_version)] = Field(
        validation_alias=AliasChoices("version", "to_version"),
        description="The version that is to hold the alias.",
        examples=["7"],
    )
    reason: str = Field(default="", max_length=2000, description="Why; approvers read it.")


class Reason(Request):
    """Why."""

    reason: str = Field(default="", max_length=2000, description="Kept in the record; others read it.")


class PersonAnswer(Answer):
    id: str = Field(description="Issuer and subject, as `https://issuer.example|subject`.")
    name: str


class DecisionAnswer(Answer):
    by: PersonAnswer
    outcome: Outcome
    reason: str
    decided_at: datetime


class RuleAnswer(Answer):
    """How far one approval rule is."""

    name: str
    count: int
    missing: int
    who: str = Field(description="Who can satisfy it.")
    given_by: Sequence[str]


class PolicyReference(Answer):
    name: str
    revision: int


class PromotionAnswer(Answer):
    """A promotion. What it pins never changes; `state` and what follows from it do."""

    id: str
    kind: Kind
    model: str
    alias: str
    to_version: str
    from_version: str | None = Field(description="The holder when it was asked for.")
    state: State
    state_reason: str | None
    settled: bool = Field(description="Nothing more happens by itself.")
    waits_for: str = Field(description="Which approvals are missing, for a person to read.")
    uri: str = Field(description="The physical address of what is promoted.")
    digest: str = Field(description="SHA-256 tree digest of the artifact files.")
    run_id: str | None
    policy: PolicyReference
    approvals: Sequence[RuleAnswer]
    decisions: Sequence[DecisionAnswer]
    requested_by: PersonAnswer
    reason: str
    alias_moved: bool
    rolls_back: str | None = Field(description="The promotion that this rollback undoes.")
    created_at: datetime
    updated_at: datetime
    applied_at: datetime | None
    link: str


class PromotionDetail(PromotionAnswer):
    """A promotion, and how far its targets are."""

    deployments: Sequence[DeploymentAnswer]


def promotion_answer(promotion: Promotion, *, public_url: str) -> PromotionAnswer:
    return PromotionAnswer(
        id=promotion.id,
        kind=promotion.kind,
        model=promotion.model,
        alias=promotion.alias,
        to_version=promotion.to_version,
        from_version=promotion.from_version,
        state=promotion.state,
        state_reason=promotion.state_reason,
        settled=promotion.is_settled,
        waits_for=waits_for(promotion) if promotion.state is State.PENDING else "nothing",
        uri=promotion.uri,
        digest=promotion.digest,
        run_id=promotion.run_id,
        policy=PolicyReference(name=promotion.policy.name, revision=promotion.policy.revision),
        approvals=[
            RuleAnswer(
                name=status.rule.name,
                count=status.rule.count,
                missing=status.missing,
                who=status.rule.who,
                given_by=status.given_by,
            )
            for status in progress_of(promotion)
        ],
        decisions=[
            DecisionAnswer(
                by=PersonAnswer(id=decision.principal_id, name=decision.principal_name),
                outcome=decision.outcome,
                reason=decision.reason,
                decided_at=decision.decided_at,
            )
            for decision in promotion.decisions
        ],
        requested_by=PersonAnswer(id=promotion.requested_by, name=promotion.requested_by_name),
        reason=promotion.reason,
        alias_moved=promotion.alias_moved,
        rolls_back=promotion.rolls_back,
        created_at=promotion.created_at,
        updated_at=promotion.updated_at,
        applied_at=promotion.applied_at,
        link=f"{public_url}/control/v1/promotions/{promotion.id}",
    )


def promotion_detail(promotion: Promotion, deployments: Sequence[Deployment], *, public_url: str) -> PromotionDetail:
    return PromotionDetail(
        **promotion_answer(promotion, public_url=public_url).model_dump(),
        deployments=[DeploymentAnswer.model_validate(deployment) for deployment in deployments],
    )
