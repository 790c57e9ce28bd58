"""Aliases, who held them and how they drifted, as callers see them."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from app.domain.drifts import Drift, DriftEnd
from app.domain.history import Held
from app.domain.verifying import BytesState, Verification
from app.routers.schemas.promotions import PersonAnswer
from app.routers.schemas.shared import Answer
from app.services.aliases import AliasState

_CAUSE = (
    "`promotion`; `direct`: set through the gateway while no policy protected it; `companion`: it moved with another "
    "alias; `drift`: moved past the gateway; `restored`: taken by Countersign from who should not hold it; "
    "`unattributed`: it was so when Countersign first looked"
)


class DriftAnswer(Answer):
    """A protected alias that somebody moved past the gateway."""

    id: str
    workspace: str
    model: str
    alias: str
    expected_version: str | None = Field(description="Which should hold it; null: none.")
    seen_version: str | None = Field(description="Which MLflow shows; null: none.")
    promotion_id: str | None = Field(description="By which the expected version holds it.")
    message: str
    found_at: datetime
    ended_at: datetime | None
    ended_how: DriftEnd | None
    ended_by: str | None = Field(description="The promotion that ended it.")
    restoring: str | None = Field(description="The promotion that is to put it back, where the policy says so.")
    obstacle: str | None = Field(description="Why it could not be put back.")
    next_attempt_at: datetime | None


class VerificationAnswer(Answer):
    """Whether the bytes of the holder are what was approved; only then it resolves."""

    state: BytesState
    message: str = Field(description="A sentence for a person.")
    looked_at: datetime | None = Field(description="When all of it was seen last; null: not yet.")
    obstacle: str | None = Field(description="Why it cannot be seen now; nothing is concluded from it.")
    unread_bytes: int | None = Field(description="What is still to be read before more can be said, if it is much.")


class AliasAnswer(Answer):
    """The holder of an alias, now or at a time. Without a promotion it was moved with none."""

    workspace: str
    model: str
    alias: str
    version: str | None = Field(description="Null: nobody holds it.")
    since: datetime | None
    until: datetime | None = Field(description="When it had another holder; null for the present one.")
    cause: str | None = Field(
        description=f"{_CAUSE}; `unknown`: of a time before that; null: moved a moment ago and not written down yet."
    )
    promotion_id: str | None
    by: PersonAnswer | None = Field(description="Who asked for the promotion, or moved it; null: nobody knows.")
    drift: DriftAnswer | None = Field(description="If MLflow shows another holder than it should.")
    verification: VerificationAnswer | None = Field(
        description="Of the present holder, if a promotion put it there and its bytes were looked at."
    )


class HeldAnswer(Answer):
    """A time in which one version held an alias, or none did."""

    workspace: str
    model: str
    alias: str
    version: str | None = Field(description="Null: nobody held it.")
    since: datetime
    until: datetime | None = Field(description="When it had another holder; null for the last one.")
    cause: str = Field(description=f"{_CAUSE}.")
    promotion_id: str | None
    by: PersonAnswer | None = Field(description="Who asked for the promotion, or moved it; null: nobody knows.")
    model_created_at: int = Field(
        description="Milliseconds since the epoch: tells the model from others of its name, whose versions are others."
    )


def alias_answer(state: AliasState) -> AliasAnswer:
    return AliasAnswer(
        workspace=state.key.workspace,
        model=state.key.model,
        alias=state.key.alias,
        version=state.version,
        since=state.since,
        until=state.until,
        cause=state.cause,
        promotion_id=state.promotion_id,
        by=_person(state.by),
        drift=drift_answer(state.drift) if state.drift else None,
        verification=_verification(state.verification) if state.verification else None,
    )


def _verification(found: Verification) -> VerificationAnswer:
    return VerificationAnswer(
        state=found.state,
        message=str(found),
        looked_at=found.looked_at,
        obstacle=found.obstacle,
        unread_bytes=found.unread_bytes,
    )


def held_answer(held: Held) -> HeldAnswer:
    return HeldAnswer(
        workspace=held.key.workspace,
        model=held.key.model,
        alias=held.key.alias,
        version=held.version,
        since=held.since,
        until=held.until,
        cause=held.cause,
        promotion_id=held.promotion_id,
        by=_person((held.principal_id, held.principal_name or "")) if held.principal_id else None,
        model_created_at=held.model_created_at,
    )


def drift_answer(drift: Drift) -> DriftAnswer:
    return DriftAnswer(
        id=drift.id,
        workspace=drift.key.workspace,
        model=drift.key.model,
        alias=drift.key.alias,
        expected_version=drift.expected.version,
        seen_version=drift.seen.version,
        promotion_id=drift.holding,
        message=drift.message,
        found_at=drift.found_at,
        ended_at=drift.ended_at,
        ended_how=drift.ended_how,
        ended_by=drift.ended_by,
        restoring=drift.restoring,
        obstacle=drift.obstacle,
        next_attempt_at=drift.next_attempt_at,
    )


def _person(by: tuple[str, str] | None) -> PersonAnswer | None:
    return PersonAnswer(id=by[0], name=by[1]) if by else None
