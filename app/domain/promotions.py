"""The promotion: the request that one version become the holder of one alias, and everything that follows.

``MOVES`` is the one table of legal moves; ``moved`` is the one function that makes a move. The database refuses the
others too (``migrations/``), so a bug here cannot write an illegal history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from app.domain.errors import AlreadyDecided, IllegalMove, NotFound
from app.domain.policies import Policy


class State(StrEnum):
    """Where a promotion is. The comments say what each state means to the person who reads it."""

    PENDING = "pending"  # waits for decisions and checks
    APPROVED = "approved"  # the policy is satisfied; the worker has not begun to move the alias
    APPLYING = "applying"  # the alias is being moved; it may or may not have moved yet
    APPLIED = "applied"  # the alias was read back and is right
    ROLLING_OUT = "rolling_out"  # the deployers were called
    LIVE = "live"  # every target reports the version ready
    REJECTED = "rejected"  # an approver said no
    WITHDRAWN = "withdrawn"  # whoever asked took it back
    EXPIRED = "expired"  # nobody decided in time
    SUPERSEDED = "superseded"  # a newer promotion of the same alias took its place
    STALE = "stale"  # the world moved: what was approved is not what would be applied
    FAILED = "failed"  # a person must look
    ROLLED_BACK = "rolled_back"  # the alias is back where it was, and the targets with it


MOVES: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset(
        {State.APPROVED, State.REJECTED, State.WITHDRAWN, State.EXPIRED, State.SUPERSEDED, State.STALE}
    ),
    State.APPROVED: frozenset(
        {State.APPLYING, State.REJECTED, State.WITHDRAWN, State.EXPIRED, State.SUPERSEDED, State.STALE}
    ),
    State.APPLYING: frozenset({State.APPLIED, State.STALE, State.FAILED}),
    State.APPLIED: frozenset({State.ROLLING_OUT, State.ROLLED_BACK}),
    State.ROLLING_OUT: frozenset({State.LIVE, State.FAILED, State.SUPERSEDED, State.ROLLED_BACK}),
    State.LIVE: frozenset({State.ROLLED_BACK}),
    State.FAILED: frozenset({State.ROLLED_BACK}),
    State.REJECTED: frozenset(),
    State.WITHDRAWN: frozenset(),
    State.EXPIRED: frozenset(),
    State.SUPERSEDED: frozenset(),
    State.STALE: frozenset(),
    State.ROLLED_BACK: frozenset(),
}

OPEN = frozenset({State.PENDING, State.APPROVED, State.APPLYING})
"""The alias has not been read back yet: the same request again is the same promotion."""

UNDECIDED = frozenset({State.PENDING})
"""Decisions are taken here."""

TAKES_NEWER = frozenset({State.PENDING, State.APPROVED})
"""A newer promotion of the same alias replaces one in these states."""

IN_FLIGHT = frozenset({State.APPLYING, State.ROLLING_OUT})
"""At most one promotion of a (model, alias) is here; a partial unique index holds it."""

UNSETTLED = OPEN | {State.ROLLING_OUT}
"""Something still happens by itself, or waits for a person; the same version is not asked for a second time."""

GOOD = frozenset({State.APPLIED, State.LIVE})
"""The version held the alias and nothing was wrong with it: what a rollback goes back to."""


class Outcome(StrEnum):
    """What an approver said."""

    APPROVE = "approve"
    REJECT = "reject"


class Kind(StrEnum):
    """Which lane of the policy a promotion takes."""

    PROMOTION = "promotion"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Decision:
    """An approver's approve or reject, with a reason."""

    principal_id: str
    principal_name: str
    outcome: Outcome
    reason: str
    decided_at: datetime
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    is_service: bool = False


@dataclass(frozen=True, slots=True)
class Promotion:
    """One promotion. What it pins is set when it is made and never changes; only ``state`` and what follows from it do.

    ``digest`` is ``sha256:`` and 64 hexadecimal digits (``app/domain/digests.py``). ``uri`` is physical and ends in a
    slash. ``model_created_at`` tells a model apart from another that was created under the same name later (MLflow
    restarts the version numbers then), in milliseconds since the epoch as MLflow gives it.
    """

    id: str
    kind: Kind
    model: str
    alias: str
    to_version: str
    from_version: str | None
    model_created_at: int
    run_id: str | None
    source_uri: str
    uri: str
    digest: str
    policy: Policy
    requested_by: str
    requested_by_name: str
    reason: str
    created_at: datetime
    updated_at: datetime
    state: State = State.PENDING
    state_reason: str | None = None
    alias_moved: bool = False
    applied_at: datetime | None = None
    rolls_back: str | None = None
    revision: int = 1
    decisions: tuple[Decision, ...] = field(default=())

    @property
    def is_settled(self) -> bool:
        """Nothing more happens by itself."""
        if self.state is State.APPLIED:
            return not self.policy.targets
        return self.state not in UNSETTLED


def moved(
    promotion: Promotion, to: State, *, at: datetime, reason: str | None = None, alias_moved: bool = False
) -> Promotion:
    """The promotion after a legal move. ``alias_moved`` says that the alias moved though this is not *applied*.

    Raises:
        IllegalMove: with the state it is in; nothing was changed.
    """
    if to not in MOVES[promotion.state]:
        raise IllegalMove(
            f"Promotion {promotion.id} is {promotion.state} and cannot become {to}.",
            promotion=promotion.id,
            state=promotion.state.value,
        )
    return replace(
        promotion,
        state=to,
        state_reason=reason,
        updated_at=at,
        revision=promotion.revision + 1,
        alias_moved=promotion.alias_moved or alias_moved or to is State.APPLIED,
        applied_at=at if to is State.APPLIED else promotion.applied_at,
    )


def decided(promotion: Promotion, decision: Decision) -> Promotion:
    """The promotion with one more decision. Whether that settles it is the policy's say.

    Raises:
        IllegalMove: it takes no decisions any more.
        AlreadyDecided: this principal has decided on it before.
    """
    if promotion.state not in UNDECIDED:
        verb = "approved" if decision.outcome is Outcome.APPROVE else "rejected"
        raise IllegalMove(
            f"Promotion {promotion.id} is {promotion.state} and cannot be {verb}.",
            promotion=promotion.id,
            state=promotion.state.value,
        )
    for earlier in promotion.decisions:
        if earlier.principal_id == decision.principal_id:
            raise AlreadyDecided(
                f"{decision.principal_name} has decided on promotion {promotion.id} already: {earlier.outcome}.",
                promotion=promotion.id,
                state=promotion.state.value,
            )
    return replace(
        promotion,
        decisions=(*promotion.decisions, decision),
        updated_at=decision.decided_at,
        revision=promotion.revision + 1,
    )


@dataclass(frozen=True, slots=True)
class Filter:
    """Which promotions a list holds; ``None`` means any."""

    model: str | None = None
    alias: str | None = None
    states: tuple[State, ...] | None = None
    requested_by: str | None = None
    among: tuple[tuple[str, str], ...] | None = None
    """Only of these (model, alias)."""


def no_promotion(promotion_id: str) -> NotFound:
    """The one answer for what does not exist and for what one may not know of."""
    return NotFound(f"There is no promotion {promotion_id}.", promotion=promotion_id)
