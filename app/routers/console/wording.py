"""What people are told instead of our own words: each state, rule and entry of the log in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.domain.assessing import Gate, Standing
from app.domain.deliveries import DeliveryState
from app.domain.deployments import Drift, Health
from app.domain.endpoints import ReceiverState
from app.domain.events import EventType
from app.domain.gates import Verdict
from app.domain.phases import Phase
from app.domain.promotions import GOOD, UNSETTLED, Kind, Promotion, State
from app.domain.rolling_out import Outcome, Stage, alias_moves_of
from app.domain.rollouts import AliasMoves


class Tone(StrEnum):
    """How something is shown, beside its words: never by colour alone."""

    WAITS = "waits"
    MOVES = "moves"
    GOOD = "good"
    BAD = "bad"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Told:
    """A short title, and what it means for who reads it."""

    title: str
    meaning: str
    tone: Tone


STATES: Mapping[State, Told] = {
    State.PENDING: Told("Waiting", "Nothing has moved. It waits for what is listed below.", Tone.WAITS),
    State.APPROVED: Told(
        "Approved",
        "Everybody who is needed has said yes. The alias moves as soon as nothing else is in the way.",
        Tone.MOVES,
    ),
    State.APPLYING: Told("Moving the alias", "The alias is being moved at this moment.", Tone.MOVES),
    State.APPLIED: Told("Applied", "The alias was moved to this version.", Tone.GOOD),
    State.ROLLING_OUT: Told(
        "Being deployed",
        "The places where it runs are being updated, step by step if the policy says so.",
        Tone.MOVES,
    ),
    State.LIVE: Told(
        "Live", "The alias was moved to this version, and every place where it runs gives it all requests.", Tone.GOOD
    ),
    State.REJECTED: Told("Rejected", "An approver said no. Nothing has moved.", Tone.BAD),
    State.WITHDRAWN: Told("Withdrawn", "Whoever asked for it took it back. Nothing has moved.", Tone.OVER),
    State.EXPIRED: Told("Expired", "Nobody decided in time. Nothing has moved; it can be asked for again.", Tone.OVER),
    State.SUPERSEDED: Told("Replaced", "A newer promotion of the same alias took its place.", Tone.OVER),
    State.STALE: Told(
        "Out of date", "What was to be promoted is not what is there now. It has to be asked for again.", Tone.BAD
    ),
    State.FAILED: Told("Failed", "It did not work, and somebody has to look at it.", Tone.BAD),
    State.ROLLED_BACK: Told(
        "Rolled back",
        "The alias is where it was before this promotion, and the requests go where they went.",
        Tone.OVER,
    ),
}

KINDS: Mapping[Kind, str] = {
    Kind.PROMOTION: "",
    Kind.ROLLBACK: "Rollback: the alias goes back to the last version that was good.",
    Kind.RESTORE: "Restore: the alias was moved past Countersign, and goes back to the version that was approved.",
    Kind.BREAK_GLASS: "Emergency: it goes past the policy's rules, and another person must review it afterwards.",
}

STANDINGS: Mapping[Standing, Told] = {
    Standing.SATISFIED: Told("Met", "", Tone.GOOD),
    Standing.WAITING: Told("Waiting", "", Tone.WAITS),
    Standing.BLOCKED: Told("In the way", "", Tone.BAD),
    Standing.ADVISORY: Told("Does not hold, not required", "", Tone.OVER),
}

GATES: Mapping[Gate, str] = {
    Gate.DECISION: "Before anybody can decide",
    Gate.APPROVAL: "Before it is approved",
    Gate.APPLICATION: "Before the alias moves",
}

RULES: Mapping[str, str] = {
    "digest": "The artifacts are read",
    "review": "Review of an emergency",
    "order": "Order of aliases",
    "check": "Check",
    "rejection": "Rejections",
    "approvals": "Approvals",
    "schedule": "Scheduled time",
    "soak": "Proven under another alias",
    "window": "Time windows",
    "turn": "Its turn",
}

PHASES: Mapping[Phase, Told] = {
    Phase.REQUESTED: Told("Called", "", Tone.WAITS),
    Phase.ACCEPTED: Told("Accepted", "", Tone.MOVES),
    Phase.PROGRESSING: Told("Being updated", "", Tone.MOVES),
    Phase.READY: Told("Ready", "", Tone.GOOD),
    Phase.FAILED: Told("Failed", "", Tone.BAD),
    Phase.ERRORED: Told("Broke", "", Tone.BAD),
    Phase.SUPERSEDED: Told("Replaced", "", Tone.OVER),
}

HEALTHS: Mapping[Health, Told] = {
    Health.UNKNOWN: Told("Not known yet", "", Tone.WAITS),
    Health.HEALTHY: Told("Well", "", Tone.GOOD),
    Health.DEGRADED: Told("Recovering", "", Tone.MOVES),
    Health.UNHEALTHY: Told("Not well", "", Tone.BAD),
    Health.GONE: Told("Taken away", "", Tone.OVER),
}

DRIFTS: Mapping[Drift, Told] = {
    Drift.SILENT: Told("Silent", "Look whether its deployer runs, and can be reached.", Tone.BAD),
    Drift.OTHER_BYTES: Told(
        "Other files", "Find out who changed them; deploying again has them loaded and checked anew.", Tone.BAD
    ),
    Drift.OTHER_VERSION: Told("Another version", "Deploying again brings the right one.", Tone.BAD),
    Drift.MISSING: Told("Not there", "Deploying again brings it back.", Tone.BAD),
    Drift.UNAPPROVED: Told(
        "Not approved", "Promote what it shall serve, have a policy name the target, or take it away.", Tone.BAD
    ),
    Drift.UNHEALTHY: Told("Failing", "Look at its logs; deploy again, or roll the alias back.", Tone.BAD),
    Drift.OTHER_WEIGHT: Told("Another share", "Deploying again has the requests shared as they should be.", Tone.BAD),
}

RECEIVER_STATES: Mapping[ReceiverState, Told] = {
    ReceiverState.ACTIVE: Told("Active", "It is sent the events that it is registered for.", Tone.GOOD),
    ReceiverState.DISABLED: Told("Disabled", "It is sent nothing, and what happens is not kept for it.", Tone.BAD),
}

DELIVERY_STATES: Mapping[DeliveryState, Told] = {
    DeliveryState.PENDING: Told("Waiting", "It goes out in its turn: after those of its model before it.", Tone.WAITS),
    DeliveryState.DELIVERED: Told("Delivered", "The receiver took it.", Tone.GOOD),
    DeliveryState.SUPERSEDED: Told("Replaced", "A newer message made it pointless.", Tone.OVER),
    DeliveryState.DEAD: Told("Not delivered", "It is not tried again by itself.", Tone.BAD),
}

DEEDS: Mapping[str, str] = {
    EventType.REQUESTED: "asked for it",
    EventType.WITHDRAWN: "took it back",
    EventType.COMMENTED: "wrote a comment",
    EventType.GLASS_BROKEN: "broke the glass",
    EventType.REVIEW_CLOSED: "reviewed it",
    EventType.ROLLOUT_RESUMED: "had the rollout go on",
    "decision.approved": "approved it",
    "decision.rejected": "rejected it",
}
"""Entries of the log that say what somebody did."""

HAPPENINGS: Mapping[str, str] = {
    EventType.READY_FOR_DECISION: "The artifacts are read: it can be decided on",
    EventType.REMINDER: "The approvers were reminded",
    EventType.APPROVALS_VOID: "The approvals became void",
    EventType.APPROVED: "It is approved",
    EventType.APPLYING: "The alias is being moved",
    EventType.APPLIED: "The alias was moved",
    EventType.ROLLING_OUT: "The targets were called",
    EventType.LIVE: "Every target is ready",
    EventType.ROLLOUT_STEP_BEGAN: "The next step began",
    EventType.ROLLOUT_PAUSED: "The rollout was paused",
    EventType.ROLLOUT_WENT_BACK: "The targets were sent back to what they served before",
    "promotion.is_rolled_back": "The alias goes back, too",
    EventType.REJECTED: "It is rejected",
    EventType.EXPIRED: "It expired",
    EventType.SUPERSEDED: "A newer one took its place",
    EventType.STALE: "It is out of date",
    EventType.FAILED: "It failed",
    EventType.ROLLED_BACK: "It was rolled back",
    EventType.BYTES_CHANGED: "The bytes are not what was approved any more: the version does not resolve",
    EventType.BYTES_RESTORED: "The bytes are what was approved again",
    "promotion.waits_again": "It waits again",
}
"""Entries that say what happened because of that."""

CAUSES: Mapping[str | None, str] = {
    "promotion": "by a promotion",
    "direct": "set through MLflow while no policy protected it",
    "companion": "it moved together with another alias",
    "drift": "moved past Countersign",
    "restored": "put back by Countersign",
    "unattributed": "it was so when Countersign first looked",
}
"""Why somebody holds an alias (``app/domain/history.py``)."""


STAGES: Mapping[Stage, Told] = {
    Stage.MOVING: Told("Being updated", "The targets were called for this step.", Tone.MOVES),
    Stage.HOLDING: Told("Proving itself", "The step is in effect, and is held until it has proved itself.", Tone.MOVES),
    Stage.PAUSED: Told("Paused", "Everything stays as it is until somebody decides.", Tone.WAITS),
    Stage.GOING_BACK: Told("Going back", "The targets were told to serve what they served before.", Tone.BAD),
    Stage.DONE: Told("Done", "The version gets all requests.", Tone.GOOD),
    Stage.UNDONE: Told("Undone", "The targets serve what they served before, or a newer version.", Tone.OVER),
    Stage.FAILED: Told("Failed", "Somebody has to look at what the targets serve.", Tone.BAD),
}

STEP_OUTCOMES: Mapping[Outcome | None, Told] = {
    None: Told("To come", "", Tone.WAITS),
    Outcome.PASSED: Told("Passed", "", Tone.GOOD),
    Outcome.FAILED: Told("Failed", "", Tone.BAD),
    Outcome.SKIPPED: Told("Skipped", "", Tone.OVER),
    Outcome.REPEATED: Told("Begun anew", "", Tone.MOVES),
    Outcome.ABANDONED: Told("Given up", "", Tone.OVER),
}


STEP_NOT_REACHED = Told("Not reached", "", Tone.OVER)
"""A step of a rollout that is over."""

GATE_VERDICTS: Mapping[Verdict | None, Told] = {
    None: Told("Not measured yet", "", Tone.WAITS),
    Verdict.PASSED: Told("Passed", "", Tone.GOOD),
    Verdict.FAILED: Told("Failed", "", Tone.BAD),
    Verdict.NO_DATA: Told("No data", "", Tone.WAITS),
    Verdict.BROKEN: Told("No answer", "", Tone.BAD),
}


class Mark(StrEnum):
    """How far a step is."""

    DONE = "done"
    NOW = "now"
    TO_DO = "to do"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Step:
    """One of the few things that happen to a promotion in turn."""

    title: str
    mark: Mark
    tone: Tone | None = None
    """Of a way that was cut off."""


def steps(promotion: Promotion) -> tuple[Step, ...]:
    """The way of a promotion: what has happened, what happens now, and what is still to come or was cut off."""
    way = ["Asked for", "Approved", "Alias moved", *(["Deployed"] if promotion.policy.targets else [])]
    state, targets_first = promotion.state, alias_moves_of(promotion) is AliasMoves.AFTER_READY
    if targets_first:
        way[2:] = way[:1:-1]
    if state in UNSETTLED or state in GOOD:
        reached = _REACHED_TARGETS_FIRST.get(state, _REACHED[state]) if targets_first else _REACHED[state]
        if state is State.APPLIED and not promotion.policy.targets:
            reached = len(way)
        marks = [
            Mark.DONE if place < reached else Mark.NOW if place == reached else Mark.TO_DO for place in range(len(way))
        ]
        return tuple(Step(title, mark) for title, mark in zip(way, marks, strict=True))
    done = way[:3] if promotion.alias_moved else way[:2] if state is State.FAILED else way[:1]
    return (*(Step(title, Mark.DONE) for title in done), Step(STATES[state].title, Mark.STOPPED, STATES[state].tone))


_REACHED: Mapping[State, int] = {
    State.PENDING: 1,
    State.APPROVED: 2,
    State.APPLYING: 2,
    State.APPLIED: 3,
    State.ROLLING_OUT: 3,
    State.LIVE: 4,
}
"""How many steps are behind it."""

_REACHED_TARGETS_FIRST: Mapping[State, int] = {State.ROLLING_OUT: 2, State.APPLYING: 3}
"""Where the targets are called before the alias moves."""
