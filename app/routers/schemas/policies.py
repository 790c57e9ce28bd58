"""Policies as callers see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Self

from fastapi import Body
from pydantic import Field

from app.domain.policies.revisions import Revision
from app.routers.schemas.shared import Answer
from app.services.policies import PolicyOutcome, Written

PolicyBody = Annotated[
    dict[str, object],
    Body(
        description="A `kind: Policy` document, as in YAML: docs/guides/policies-and-targets.md tells of every field.",
        examples=[
            {
                "models": "fraud-*",
                "alias": "production",
                "approvals": [{"name": "risk", "count": 2, "groups": ["risk-team"]}],
                "after": ["staging"],
            },
            {
                "models": "iris",
                "alias": "production",
                "autoApprove": True,
                "targets": ["ray"],
                "aliasMoves": "after_ready",
                "rollout": {
                    "strategy": "canary",
                    "steps": [{"weight": 10, "hold": "10m"}, {"weight": 50, "hold": "manual"}],
                    "gates": [{"name": "errors", "query": 'sum(errors{v="{{candidate}}"})', "pass": "<= 0.02"}],
                },
            },
        ],
    ),
]


class PolicyAnswer(Answer):
    """A revision of a policy. `document` says everything, also what was left to its default."""

    name: str
    revision: int
    retired: bool = Field(description="Whether this revision ended the policy.")
    document: Mapping[str, object]
    created_at: datetime
    created_by: str = Field(description="Who wrote it: `<issuer>|<subject>`, or `operator`.")

    @classmethod
    def of(cls, revision: Revision) -> Self:
        return cls(
            name=revision.name,
            revision=revision.number,
            retired=revision.is_retired,
            document=revision.document,
            created_at=revision.created_at,
            created_by=revision.created_by,
        )


class DifferenceAnswer(Answer):
    """A field that differs. `before` is null where it was at its default, `after` where it is."""

    path: str
    before: object
    after: object


class PolicyWrittenAnswer(PolicyAnswer):
    """The revision that is in force now, and what differs from the one before."""

    outcome: PolicyOutcome
    dry_run: bool = Field(description="Nothing was changed: the revision is what would be.")
    differences: Sequence[DifferenceAnswer]

    @classmethod
    def of_written(cls, written: Written, *, dry_run: bool) -> Self:
        return cls(
            **PolicyAnswer.of(written.revision).model_dump(),
            outcome=written.outcome,
            dry_run=dry_run,
            differences=[DifferenceAnswer.model_validate(each) for each in written.change.differences],
        )


class MatchingPolicy(Answer):
    name: str
    revision: int


class PolicyChoiceAnswer(Answer):
    """Which policy protects an alias, and why it is that one."""

    protected: bool
    policy: MatchingPolicy | None
    why: str
    others: Sequence[MatchingPolicy] = Field(description="Those that match too, the most specific first.")
