"""The promotion: the request that one version become the holder of one alias, and everything that follows.

``MOVES`` is the one table of legal moves; ``moved`` is the one function that makes a move. The database refuses the
others too (``migrations/``), so a bug here cannot write an illegal history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from app.domain.audit import SYSTEM_WORKER
from app.domain.errors import AlreadyDecided, IllegalMove, NotFound
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.names import check_alias, check_model, check_workspace
from app.domain.policies import ApprovalRule, Policy


class State(StrEnum):
    """Where a promotion is. The comments say what each state means to the person who reads it."""

    PENDING = "pending"  # waits for decisions and checks
    APPROVED = "approved"  # the policy is satisfied; it may still wait for a time, a soak, a window, or its turn
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
        # Back to pending: what was approved is not what is there now, so that the approvals are void.
        # On to the targets first, where the alias moves only after every one of them is ready.
        {
            *(State.PENDING, State.APPLYING, State.ROLLING_OUT),
            *(State.REJECTED, State.WITHDRAWN, State.EXPIRED, State.SUPERSEDED, State.STALE),
        }
    ),
    State.APPLYING: frozenset({State.APPLIED, State.STALE, State.FAILED}),
    State.APPLIED: frozenset({State.ROLLING_OUT, State.LIVE, State.ROLLED_BACK}),
    State.ROLLING_OUT: frozenset(
        {State.APPLYING, State.LIVE, State.FAILED, State.SUPERSEDED, State.STALE, State.ROLLED_BACK}
    ),
    State.LIVE: frozenset({State.ROLLED_BACK}),
    State.FAILED: frozenset({State.ROLLED_BACK}),
    State.REJECTED: frozenset(),
    State.WITHDRAWN: frozenset(),
    State.EXPIRED: frozenset(),
    # Its rollout went on until then: what took its place undid it, or was not applied, so that it goes back itself.
    State.SUPERSEDED: frozenset({State.ROLLED_BACK, State.FAILED}),
    State.STALE: frozenset(),
    State.ROLLED_BACK: frozenset(),
}

OPEN = frozenset({State.PENDING, State.APPROVED, State.APPLYING})
"""The alias has not been read back yet: the same request again is the same promotion."""

UNDECIDED = frozenset({State.PENDING, State.APPROVED})
"""Decisions are taken here: an approved one that waits for its time can still be rejected."""

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
    """Back to the last holder that was good."""
    RESTORE = "restore"
    """Back to the holder that our ledger knows, after somebody moved the alias past the gateway."""
    BREAK_GLASS = "break_glass"
    """At once, without the policy's rules; reviewed afterwards."""


URGENCY: Mapping[Kind, int] = {Kind.PROMOTION: 0, Kind.RESTORE: 1, Kind.ROLLBACK: 2, Kind.BREAK_GLASS: 3}
"""A newer promotion takes the place of one that waits and is not more urgent: who asks for an ordinary one cannot so
undo what goes fast."""


@dataclass(frozen=True, slots=True, order=True)
class AliasKey:
    """One alias of one model in one workspace: what promotions are of."""

    workspace: str
    model: str
    alias: str

    @property
    def resource(self) -> str:
        """The model, with its workspace before it unless that is the default one: no name of a model has a slash."""
        return self.model if self.workspace == DEFAULT_WORKSPACE else f"{self.workspace}/{self.model}"

    def __str__(self) -> str:
        return f"{self.resource}@{self.alias}"


def check_alias_key(key: AliasKey) -> AliasKey:
    """The alias, if there could be one of these names.

    Raises:
        InvalidInput: names the part that nothing could be called by.
    """
    return AliasKey(check_workspace(key.workspace), check_model(key.model), check_alias(key.alias))


@dataclass(frozen=True, slots=True)
class Decision:
    """An approver's approve or reject, with a reason.

    ``round`` is that of the promotion when it was given: a decision of an earlier round is void. ``on_behalf_of`` is
    who was stood in for, as id and name; then ``groups`` and ``roles`` are theirs.
    """

    principal_id: str
    principal_name: str
    outcome: Outcome
    reason: str
    decided_at: datetime
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    is_service: bool = False
    round: int = 1
    on_behalf_of: tuple[str, str] | None = None

    @property
    def authority(self) -> str:
        """The id of the one whose word it is."""
        return self.on_behalf_of[0] if self.on_behalf_of else self.principal_id


@dataclass(frozen=True, slots=True)
class Promotion:
    """One promotion. What it pins is set when it is made and never changes; only ``state`` and what follows from it do.

    ``digest`` is ``sha256:`` and 64 hexadecimal digits (``app/domain/digests.py``), none while the artifacts are still
    being read; once set it never changes. ``uri`` is physical and ends in a slash; ``artifact_root`` is what guards
    its bytes (``Storage.artifact_root``). ``model_created_at`` and
    ``version_created_at`` tell a model and a version apart from others that were created under the same name and
    number later (MLflow restarts the numbers), in milliseconds since the epoch as MLflow gives them; 0 is not known.
    ``round`` counts up whenever approvals become void, for ``void_reason``.
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
    digest: str | None
    policy: Policy
    requested_by: str
    requested_by_name: str
    reason: str
    created_at: datetime
    updated_at: datetime
    artifact_root: str = ""
    workspace: str = DEFAULT_WORKSPACE
    version_created_at: int = 0
    scheduled_for: datetime | None = None
    expires_at: datetime | None = None
    state: State = State.PENDING
    state_reason: str | None = None
    alias_moved: bool = False
    applied_at: datetime | None = None
    rolls_back: str | None = None
    revision: int = 1
    round: int = 1
    void_reason: str | None = None
    due_at: datetime | None = None
    """When it is looked at next if nothing happens before; none: only when something happens."""
    reminded: int = 0
    """How many reminders have been sent."""
    decisions: tuple[Decision, ...] = field(default=())

    @property
    def key(self) -> AliasKey:
        return AliasKey(self.workspace, self.model, self.alias)

    @property
    def rules(self) -> tuple[ApprovalRule, ...]:
        """The approval rules of the lane it takes."""
        if self.kind is Kind.PROMOTION:
            return self.policy.approvals
        if self.kind is Kind.ROLLBACK and not self.is_automatic:
            return self.policy.rollback_approvals
        return ()

    @property
    def is_automatic(self) -> bool:
        """Nobody asked for it: the policy says that it happens by itself."""
        return self.requested_by == SYSTEM_WORKER.id

    @property
    def standing_decisions(self) -> tuple[Decision, ...]:
        """Those that are not void."""
        return tuple(decision for decision in self.decisions if decision.round == self.round)

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


def measured(promotion: Promotion, digest: str, *, at: datetime) -> Promotion:
    """The promotion when its artifacts have been read. What is pinned is pinned once."""
    if promotion.digest is not None:
        raise IllegalMove(f"Promotion {promotion.id} has a digest already.", promotion=promotion.id)
    return replace(promotion, digest=digest, updated_at=at, revision=promotion.revision + 1)


def voided(promotion: Promotion, reason: str, *, at: datetime) -> Promotion:
    """The promotion with all approvals void: it waits for decisions again, in the next round.

    Raises:
        IllegalMove: it is not waiting for anything.
    """
    if promotion.state is not State.PENDING:
        promotion = moved(promotion, State.PENDING, at=at)
    return replace(
        promotion, round=promotion.round + 1, void_reason=reason, updated_at=at, revision=promotion.revision + 1
    )


def decided(promotion: Promotion, decision: Decision) -> Promotion:
    """The promotion with one more decision. Whether that settles it is the policy's say.

    Raises:
        IllegalMove: it takes no decisions any more, or no approval.
        AlreadyDecided: this principal has decided on it before, or somebody for them.
    """
    takes = promotion.state in UNDECIDED if decision.outcome is Outcome.REJECT else promotion.state is State.PENDING
    if not takes:
        verb = "approved" if decision.outcome is Outcome.APPROVE else "rejected"
        raise IllegalMove(
            f"Promotion {promotion.id} is {promotion.state} and cannot be {verb}.",
            promotion=promotion.id,
            state=promotion.state.value,
        )
    for earlier in promotion.standing_decisions:
        both = {earlier.principal_id, earlier.authority} & {decision.principal_id, decision.authority}
        # Who approved may still say no before it is applied: nobody must be stuck with a yes that they regret.
        regrets = decision.outcome is Outcome.REJECT and earlier.outcome is Outcome.APPROVE
        if both and not regrets:
            raise AlreadyDecided(
                f"{earlier.principal_name} has decided on promotion {promotion.id} already: {earlier.outcome}.",
                promotion=promotion.id,
                state=promotion.state.value,
            )
    return replace(
        promotion,
        decisions=(*promotion.decisions, replace(decision, round=promotion.round)),
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
    among: tuple[AliasKey, ...] | None = None
    """Only of these aliases."""
    workspace: str | None = None
    awaiting: str | None = None
    """Only those that wait for decisions and on which this principal, by id, has not decided and had no hand in."""


def no_promotion(promotion_id: str) -> NotFound:
    """The one answer for what does not exist and for what one may not know of."""
    return NotFound(f"There is no promotion {promotion_id}.", promotion=promotion_id)
