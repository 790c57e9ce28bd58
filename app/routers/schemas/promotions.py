"""Promotions as callers see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

from pydantic import AliasChoices, BeforeValidator, Field

from app.domain.assessing import Gate, Reading, RuleStatus, Standing, is_blocked, opens_at, waits_for
from app.domain.deployments import Deployment
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.promotions import Kind, Outcome, Promotion, State
from app.routers.schemas.deployments import DeploymentAnswer
from app.routers.schemas.rollouts import RolloutAnswer, rollout_answer
from app.routers.schemas.shared import Answer, Moment, Request
from app.services.promotions import recorded_progress, waits_for_in_short
from app.services.rollouts import Followed


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
    workspace: str = Field(default=DEFAULT_WORKSPACE, description="MLflow's.", max_length=256)
    scheduled_for: Moment | None = Field(
        default=None, description="A time with its zone: the alias is not moved before it."
    )


class Reason(Request):
    """Why."""

    reason: str = Field(default="", max_length=2000, description="Kept in the record; others read it.")


class DecisionBody(Reason):
    """Why, and for whom."""

    on_behalf_of: str | None = Field(
        default=None,
        min_length=1,
        max_length=2500,
        description="Id or name of who has delegated this to you; chosen by itself if you could not decide otherwise.",
    )


class BreakGlass(Request):
    """Have one version hold an alias at once."""

    version: Annotated[str, BeforeValidator(_version)] = Field(
        description="The version that is to hold the alias.", examples=["7"]
    )
    reason: str = Field(min_length=1, max_length=2000, description="Why it cannot wait; whoever reviews it reads this.")
    ticket: str = Field(default="", max_length=200, description="Of the incident.", examples=["INC-42"])


class PersonAnswer(Answer):
    id: str = Field(description="Issuer and subject, as `https://issuer.example|subject`.")
    name: str


class DecisionAnswer(Answer):
    by: PersonAnswer
    outcome: Outcome
    reason: str
    decided_at: datetime
    on_behalf_of: PersonAnswer | None = Field(default=None, description="Who was stood in for.")
    void: bool = Field(default=False, description="What it was about has changed since: it does not count.")


class RuleStatusAnswer(Answer):
    """How one rule of the policy stands."""

    rule: str = Field(description="Which kind of rule, such as `approvals`, `check`, `soak` or `window`.")
    name: str
    gate: Gate = Field(description="What it stands before: decisions, approval, or the moving of the alias.")
    standing: Standing
    message: str = Field(description="For a person to read.")
    given_by: Sequence[str]
    missing: int = Field(description="How many approvals are missing.")
    who: str = Field(description="Who could give them.")
    until: datetime | None = Field(description="When time alone will satisfy it.")
    details: Mapping[str, str]


class ReadingAnswer(Answer):
    """How far the artifacts have been read to take their digest."""

    read_bytes: int
    total_bytes: int | None


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
    workspace: str
    model: str
    alias: str
    to_version: str
    from_version: str | None = Field(description="The holder when it was asked for.")
    state: State
    state_reason: str | None
    settled: bool = Field(
        description="Nothing more happens by itself. In lists and answers to decisions by the state alone; of one "
        "promotion, not before its targets are back that went back."
    )
    waits_for: str = Field(description="Which approvals are missing, for a person to read.")
    uri: str = Field(description="The physical address of what is promoted.")
    digest: str | None = Field(description="SHA-256 tree digest of the artifact files; none while they are being read.")
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
    scheduled_for: datetime | None = Field(description="The alias is not moved before.")
    expires_at: datetime | None = Field(description="When it ends if nobody settles it.")
    round: int = Field(description="Counts up whenever approvals become void.")
    void_reason: str | None = Field(description="Why earlier approvals are void.")
    link: str
    console: str = Field(description="Where people see it, and decide.")


class PromotionDetail(PromotionAnswer):
    """A promotion, how its rules stand, and how far its targets are."""

    rules: Sequence[RuleStatusAnswer] = Field(description="Of what it waits for; none when nothing is waited for.")
    blocked: bool = Field(description="Something stands in the way that neither approvals nor time will remove.")
    opens_at: datetime | None = Field(description="When everything that time alone satisfies will be.")
    reading: ReadingAnswer | None = Field(description="While the artifacts are being read.")
    deployments: Sequence[DeploymentAnswer]
    rollout: RolloutAnswer | None = Field(
        default=None, description="How its targets come to serve it, step by step; null before they are called."
    )


class Explanation(Answer):
    """What stands between a version and an alias."""

    promotion_id: str | None = Field(description="Of the open promotion, if there is one.")
    workspace: str
    model: str
    alias: str
    version: str
    from_version: str | None
    policy: PolicyReference
    allowed: bool = Field(description="Nothing stands in the way.")
    blocked: bool
    waits_for: str
    opens_at: datetime | None
    rules: Sequence[RuleStatusAnswer]


def promotion_answer(promotion: Promotion, *, public_url: str) -> PromotionAnswer:
    return PromotionAnswer(
        id=promotion.id,
        kind=promotion.kind,
        workspace=promotion.workspace,
        model=promotion.model,
        alias=promotion.alias,
        to_version=promotion.to_version,
        from_version=promotion.from_version,
        state=promotion.state,
        state_reason=promotion.state_reason,
        settled=promotion.is_settled,
        waits_for=waits_for_in_short(promotion) if promotion.state is State.PENDING else "nothing",
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
            for status in recorded_progress(promotion)
        ],
        decisions=[
            DecisionAnswer(
                by=PersonAnswer(id=decision.principal_id, name=decision.principal_name),
                outcome=decision.outcome,
                reason=decision.reason,
                decided_at=decision.decided_at,
                on_behalf_of=PersonAnswer(id=decision.on_behalf_of[0], name=decision.on_behalf_of[1])
                if decision.on_behalf_of
                else None,
                void=decision.round != promotion.round,
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
        scheduled_for=promotion.scheduled_for,
        expires_at=promotion.expires_at,
        round=promotion.round,
        void_reason=promotion.void_reason,
        link=f"{public_url}/control/v1/promotions/{promotion.id}",
        console=f"{public_url}/console/promotions/{promotion.id}",
    )


def promotion_detail(
    promotion: Promotion,
    deployments: Sequence[Deployment],
    statuses: Sequence[RuleStatus],
    reading: Reading | None,
    followed: Followed | None = None,
    *,
    public_url: str,
) -> PromotionDetail:
    answer = promotion_answer(promotion, public_url=public_url).model_dump()
    if statuses:
        answer["waits_for"] = waits_for(statuses)
    if followed and followed.progress.is_open:
        answer["settled"] = False
    return PromotionDetail(
        **answer,
        rules=rule_answers(statuses),
        blocked=is_blocked(statuses),
        opens_at=opens_at(statuses),
        reading=ReadingAnswer(read_bytes=reading.read, total_bytes=reading.total) if reading else None,
        deployments=[DeploymentAnswer.of(deployment) for deployment in deployments],
        rollout=rollout_answer(followed) if followed else None,
    )


def rule_answers(statuses: Sequence[RuleStatus]) -> Sequence[RuleStatusAnswer]:
    return [RuleStatusAnswer.model_validate(status) for status in statuses]


def explanation(promotion: Promotion, statuses: Sequence[RuleStatus]) -> Explanation:
    return Explanation(
        promotion_id=promotion.id or None,
        workspace=promotion.workspace,
        model=promotion.model,
        alias=promotion.alias,
        version=promotion.to_version,
        from_version=promotion.from_version,
        policy=PolicyReference(name=promotion.policy.name, revision=promotion.policy.revision),
        allowed=all(status.holds for status in statuses),
        blocked=is_blocked(statuses),
        waits_for=waits_for(statuses),
        opens_at=opens_at(statuses),
        rules=rule_answers(statuses),
    )
