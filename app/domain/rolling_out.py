"""What a rollout does next: from its plan, what the targets say, what was measured, and the time, to one move.

Everything here is pure and repeatable: the row of a rollout, its steps and the deployments are all that it looks at, so
that whichever worker reads them next goes on where another one stopped. A target's requests never go beyond what the
step says, a step ends only by proofs (it is in effect on every target, the time has passed, each gate has passed), and
the plan is walked once from its first step to its last unless a person says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from app.domain.deployments import Action, Bytes, Deployment, Serving
from app.domain.errors import IllegalMove, NotFound
from app.domain.gates import GateState, asked, begun, due_at, has_failed, has_passed, why_failed
from app.domain.phases import REASONS, Phase, Reason
from app.domain.promotions import GOOD, Kind, Promotion, State
from app.domain.rollouts import EVERYTHING, AliasMoves, Gate, OnFailure, Rollout, Step


class Stage(StrEnum):
    """Where a rollout is."""

    MOVING = "moving"
    """The targets were called for this step, and not all of them say that it is in effect."""
    HOLDING = "holding"
    """The step is in effect, and has to prove itself."""
    PAUSED = "paused"
    """A person decides: to go on, to go back, or to have everything at once."""
    GOING_BACK = "going_back"
    """The targets were called to serve what they served before."""
    DONE = "done"
    UNDONE = "undone"
    """The targets serve what they served before, or what another promotion had them serve."""
    FAILED = "failed"
    """A person must look: what the targets serve is not known to be right."""


OPEN_STAGES = frozenset({Stage.MOVING, Stage.HOLDING, Stage.PAUSED, Stage.GOING_BACK})
"""Something still happens, by itself or by a person."""


class Outcome(StrEnum):
    """How a step ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """A person had everything at once."""
    REPEATED = "repeated"
    """A person had it begun anew."""
    ABANDONED = "abandoned"
    """A person went back, or another promotion took the targets over."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step as it is written down when the rollout begins, and how it went.

    ``gates``: the names of those that it must pass. ``keeps_stable``: what was served before stays loaded, though it
    may get no requests, so that going back needs no loading.
    """

    number: int
    weight: int
    hold_s: int | None = 0
    gates: tuple[str, ...] = ()
    keeps_stable: bool = False
    message: str = ""
    began_at: datetime | None = None
    held_since: datetime | None = None
    ended_at: datetime | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A rollout as it is written down.

    ``formers``: what each target is proven to serve without this rollout; none: nothing. ``step`` is the number of the
    present one, from 0. ``due_at`` is when time alone may change something.
    """

    promotion_id: str
    stage: Stage
    step: int
    step_began_at: datetime
    updated_at: datetime
    steps: tuple[PlannedStep, ...]
    formers: Mapping[str, Bytes | None]
    held_since: datetime | None = None
    due_at: datetime | None = None
    reason: str = ""
    gates: tuple[GateState, ...] = ()

    @property
    def present(self) -> PlannedStep:
        return self.steps[self.step]

    @property
    def is_last(self) -> bool:
        return self.step == len(self.steps) - 1

    @property
    def is_open(self) -> bool:
        return self.stage in OPEN_STAGES

    @property
    def waits_for_a_person(self) -> bool:
        return self.stage is Stage.PAUSED or (self.stage is Stage.HOLDING and self.present.hold_s is None)


# The plan.

ALL_AT_ONCE = Rollout()


def rollout_of(promotion: Promotion) -> Rollout:
    """The plan that a promotion follows. What goes back to what was good, or cannot wait, goes all at once."""
    return promotion.policy.rollout if promotion.kind is Kind.PROMOTION else ALL_AT_ONCE


def alias_moves_of(promotion: Promotion) -> AliasMoves:
    """When the alias of a promotion moves. One without targets has nobody to wait for."""
    waits = promotion.kind is Kind.PROMOTION and bool(promotion.policy.targets)
    return promotion.policy.alias_moves if waits else AliasMoves.BEFORE


def planned(rollout: Rollout, candidate: Bytes, formers: Mapping[str, Bytes | None]) -> tuple[PlannedStep, ...]:
    """The steps spelled out for what the targets serve now.

    A target that serves nothing that could take the rest of the requests is given all of them from the first step on:
    a share has no meaning there, and not every serving system can load what nobody is to ask. Where that is so of all
    targets, the last step is the only one. After a last step that is held, what was served before is let go.
    """
    has_stable = all(_differs(former, candidate) for former in formers.values())
    steps, message = list(rollout.steps), ""
    if not any(_differs(former, candidate) for former in formers.values()):
        if len(steps) > 1:
            message = "Nothing else is served that could take a share: it gets all requests."
        steps = steps[-1:]
    elif not has_stable:
        alone = ", ".join(sorted(target for target, former in formers.items() if not _differs(former, candidate)))
        message = f"Nothing else is served on {alone} that could take a share: it gets all requests there."
    found = [
        _planned(
            number,
            step,
            tuple(gate.name for gate in asked(rollout, step, has_stable=has_stable)),
            message if step.weight < EVERYTHING.weight or len(steps) == 1 else "",
        )
        for number, step in enumerate(steps)
    ]
    if found[-1].keeps_stable and any(_differs(former, candidate) for former in formers.values()):
        found.append(PlannedStep(len(found), EVERYTHING.weight, message="What was served before is let go."))
    return tuple(found)


def _planned(number: int, step: Step, gates: tuple[str, ...], message: str) -> PlannedStep:
    is_held = step.hold_s != 0 or bool(gates)
    return PlannedStep(number, step.weight, step.hold_s, gates, step.weight < EVERYTHING.weight or is_held, message)


def _differs(former: Bytes | None, candidate: Bytes) -> bool:
    return former is not None and (former.version, former.digest) != (candidate.version, candidate.digest)


def traffic_of(step: PlannedStep, candidate: Bytes, former: Bytes | None) -> tuple[int, Bytes | None]:
    """The weight of the candidate on a target, and what gets the rest."""
    if former is not None and _differs(former, candidate):
        return step.weight, former if step.keeps_stable else None
    return EVERYTHING.weight, None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a target is to be called with."""

    target: str
    action: Action
    bytes: Bytes
    weight: int
    stable: Bytes | None = None


def wanted_in_step(progress: Progress, candidate: Bytes) -> tuple[Wanted, ...]:
    """What the present step has every target serve, in an order in which no two wait for each other."""
    return tuple(
        Wanted(target, Action.APPLY, candidate, *traffic_of(progress.present, candidate, former))
        for target, former in sorted(progress.formers.items())
    )


def wanted_before(progress: Progress, candidate: Bytes, *, targets: Iterable[str] | None = None) -> tuple[Wanted, ...]:
    """What every target (or of those, ``targets``) served before: it gets everything again, or nothing is served."""
    among = progress.formers.keys() if targets is None else progress.formers.keys() & set(targets)
    return tuple(
        Wanted(target, Action.APPLY, former, EVERYTHING.weight)
        if (former := progress.formers[target]) is not None
        else Wanted(target, Action.REMOVE, candidate, 0)
        for target in sorted(among)
    )


def candidate_of(promotion: Promotion) -> Bytes:
    return Bytes(promotion.to_version, promotion.uri, promotion.digest or "")


def begun_of(promotion: Promotion, formers: Mapping[str, Bytes | None], *, at: datetime) -> Progress:
    """The rollout of a promotion at its first step."""
    steps = planned(rollout_of(promotion), candidate_of(promotion), formers)
    first = replace(steps[0], began_at=at)
    return Progress(promotion.id, Stage.MOVING, 0, at, at, (first, *steps[1:]), dict(formers))


# What is next.


class Do(StrEnum):
    """What is done next."""

    NOTHING = "nothing"
    HOLD = "hold"
    """Every target has the step in effect: hold it."""
    CATCH = "catch"
    """A target is not as the step says any more, and may become so again: what was held does not count."""
    BEGIN = "begin"
    """Begin the next step."""
    FINISH = "finish"
    """The last step has proved itself."""
    PAUSE = "pause"
    GO_BACK = "go back"
    FAIL = "fail"
    LET_GO = "let go"
    """Another promotion has the targets: this one ends."""
    HAVE_GONE_BACK = "have gone back"


@dataclass(frozen=True, slots=True)
class Next:
    """A move, and why in a sentence without a full stop. ``due_at``: when to look again, where nothing is done."""

    do: Do
    reason: str = ""
    due_at: datetime | None = None


def next_of(promotion: Promotion, progress: Progress, deployments: Sequence[Deployment], *, now: datetime) -> Next:
    """What a rollout does next. ``deployments``: those that are this promotion's now."""
    ours = {each.target: each for each in deployments if each.promotion_id == progress.promotion_id}
    missing = sorted(progress.formers.keys() - ours.keys())
    mine = [ours[target] for target in sorted(progress.formers.keys() & ours.keys())]
    if progress.stage is Stage.GOING_BACK:
        return _next_back(mine)
    if not progress.is_open:
        return Next(Do.NOTHING)
    if missing:
        return Next(Do.LET_GO, f"another promotion has target {missing[0]} now")
    if progress.stage is Stage.PAUSED:
        return Next(Do.NOTHING)
    if failed := next((each for each in mine if has_failed_here(each)), None):
        return _failure(promotion, progress, why_target_failed(failed))
    is_everywhere = all(is_in_effect(each) for each in mine)
    if progress.stage is Stage.MOVING:
        return Next(Do.HOLD) if is_everywhere else Next(Do.NOTHING)
    if not is_everywhere:
        return Next(Do.CATCH)
    return _next_held(promotion, progress, now)


def _next_back(mine: Sequence[Deployment]) -> Next:
    if failed := next((each for each in mine if has_failed_here(each)), None):
        return Next(Do.FAIL, f"target {failed.target} did not go back: {why_target_failed(failed)}")
    return Next(Do.HAVE_GONE_BACK) if all(_is_back(each) for each in mine) else Next(Do.NOTHING)


def _is_back(deployment: Deployment) -> bool:
    """What was ready with what it went back to has gone back: that it falls ill afterwards is drift (ADR 0035)."""
    return is_in_effect(deployment) or (deployment.ready_at is not None and not deployment.is_ready)


def is_in_effect(deployment: Deployment) -> bool:
    """Whether a target has what it was called for. Who does not tell what is loaded is believed to be *Ready*."""
    if not deployment.is_ready or not deployment.serving:
        return deployment.is_ready
    told = {each.version for each in deployment.serving}
    is_loaded = deployment.action is Action.REMOVE or deployment.version in told
    return is_loaded and deployment.shares_as_desired and _other_bytes(deployment) is None


def has_failed_here(deployment: Deployment) -> bool:
    """Whether a target says that it failed, or that it is ready with other files than were approved."""
    return deployment.has_failed or (deployment.is_ready and _other_bytes(deployment) is not None)


def _other_bytes(deployment: Deployment) -> Serving | None:
    """What a target says it has loaded of a version that it was called for, with other files than were approved."""
    if deployment.action is Action.REMOVE:
        return None
    called_for = {deployment.version: {deployment.digest}}
    if deployment.stable:
        called_for.setdefault(deployment.stable.version, set()).add(deployment.stable.digest)
    return next(
        (
            each
            for each in deployment.serving
            if each.digest and each.version in called_for and each.digest not in called_for[each.version]
        ),
        None,
    )


def _next_held(promotion: Promotion, progress: Progress, now: datetime) -> Next:
    gates = {gate.name: gate for gate in rollout_of(promotion).gates}
    states = [(state, gates[state.gate]) for state in progress.gates if state.gate in gates]
    if bad := next(((state, gate) for state, gate in states if has_failed(state, gate, now=now)), None):
        return _failure(promotion, progress, why_failed(*bad))
    needed = {(target, name) for target in progress.formers for name in progress.present.gates}
    passed = {(state.target, state.gate) for state, gate in states if has_passed(state, gate, now=now)}
    until = held_until(progress)
    # What another promotion has taken the place of is watched until its targets are taken, and goes no further.
    goes_on = promotion.state is State.ROLLING_OUT
    if goes_on and until is not None and now >= until and needed <= passed:
        return Next(Do.FINISH) if progress.is_last else Next(Do.BEGIN)
    times = [due_at(state, gate) for state, gate in states]
    if until is not None and until > now:
        times.append(until)
    return Next(Do.NOTHING, due_at=min(times, default=None))


def _failure(promotion: Promotion, progress: Progress, why: str) -> Next:
    """What the policy says of a step that failed. A way back has none itself, nor has what would go back to itself."""
    if promotion.kind is not Kind.PROMOTION:
        return Next(Do.FAIL, why)
    if promotion.policy.rollout.on_failure is OnFailure.PAUSE:
        return Next(Do.PAUSE, why)
    is_there = all(each and not _differs(each, candidate_of(promotion)) for each in progress.formers.values())
    return Next(Do.FAIL if is_there else Do.GO_BACK, why)


def held_until(progress: Progress) -> datetime | None:
    """When the time of the present step is over; none: it is not held yet, or until a person says so."""
    if progress.held_since is None or progress.present.hold_s is None:
        return None
    return progress.held_since + timedelta(seconds=progress.present.hold_s)


LONGEST_MESSAGE = 1000
"""Characters of what a target said; the deployment keeps all of it."""


def why_target_failed(deployment: Deployment) -> str:
    """For people: which target, what that means, and what it said."""
    if not deployment.has_failed and (other := _other_bytes(deployment)):
        meaning = REASONS[Reason.DIGEST_MISMATCH].meaning
        said = f"It says that it has loaded version {other.version} as {other.digest}."
        return f"target {deployment.target} failed ({Reason.DIGEST_MISMATCH.value}): {meaning} {said}"
    message = deployment.message
    if len(message) > LONGEST_MESSAGE:
        message = message[: LONGEST_MESSAGE - 1] + "\N{HORIZONTAL ELLIPSIS}"
    if deployment.reason is Reason.NONE:
        follows = deployment.phase is Phase.SUPERSEDED
        what = f"follows a newer call than generation {deployment.generation}" if follows else "failed"
        return f"target {deployment.target} {what}" + (f": {message}" if message else "")
    meaning = REASONS[deployment.reason].meaning
    said = f" {message}" if message not in {"", meaning} else ""
    return f"target {deployment.target} failed ({deployment.reason.value}): {meaning}{said}"


def keeps_alias(promotion: Promotion, progress: Progress | None) -> bool:
    """Whether one that holds its alias does so for good, as far as is known: nothing takes it back."""
    goes_on = promotion.state is State.ROLLING_OUT and progress is not None and progress.stage is not Stage.GOING_BACK
    return promotion.state in GOOD or goes_on


# How the row changes.


def held(progress: Progress, gates: Iterable[Gate], *, at: datetime) -> Progress:
    """The present step is in effect on every target from now on."""
    names = set(progress.present.gates)
    states = begun([gate for gate in gates if gate.name in names], sorted(progress.formers), at=at)
    after = replace(progress, stage=Stage.HOLDING, held_since=at, gates=states, reason="", updated_at=at)
    return _with_step(after, held_since=at)


STEADY = timedelta(minutes=5)
"""What is as the step says for so long has recovered."""


def caught(progress: Progress, *, at: datetime) -> Progress:
    """A target is not as the step says any more. What falls ill again and again has one deadline for all of it."""
    is_again = progress.step_began_at != progress.present.began_at
    is_restless = is_again and progress.held_since is not None and at - progress.held_since < STEADY
    after = replace(
        progress,
        stage=Stage.MOVING,
        held_since=None,
        gates=(),
        step_began_at=progress.step_began_at if is_restless else at,
        due_at=None,
        updated_at=at,
    )
    return _with_step(after, held_since=None)


def begun_step(progress: Progress, number: int, *, at: datetime, outcome: Outcome = Outcome.PASSED) -> Progress:
    """The present step ended, and another one (or the same anew) begins; what lies between is skipped."""
    ended = progress
    if progress.present.ended_at is None:
        ended = _with_step(progress, ended_at=at, outcome=outcome)
    steps = tuple(
        replace(each, ended_at=at, outcome=Outcome.SKIPPED) if progress.step < each.number < number else each
        for each in ended.steps
    )
    after = replace(
        ended,
        stage=Stage.MOVING,
        step=number,
        step_began_at=at,
        held_since=None,
        due_at=None,
        reason="",
        gates=(),
        steps=steps,
        updated_at=at,
    )
    return _with_step(after, began_at=at, held_since=None, ended_at=None, outcome=None)


def ended(progress: Progress, stage: Stage, reason: str, *, at: datetime, outcome: Outcome | None = None) -> Progress:
    """The rollout stops at its present step, in another stage. ``outcome``: of that step, if it has none yet."""
    after = replace(progress, stage=stage, reason=reason, due_at=None, updated_at=at)
    if outcome is not None and after.present.ended_at is None:
        after = _with_step(after, ended_at=at, outcome=outcome)
    return after


def _with_step(progress: Progress, **changed: object) -> Progress:
    steps = tuple(
        replace(each, **changed) if each.number == progress.step else each  # type: ignore[arg-type]  # named by callers
        for each in progress.steps
    )
    return replace(progress, steps=steps)


# What people may say.


class Order(StrEnum):
    """What a person may have a rollout do."""

    PAUSE = "pause"
    RESUME = "resume"
    GO_BACK = "go-back"
    ALL_AT_ONCE = "all-at-once"


def check_takes(order: Order, promotion: Promotion, progress: Progress) -> None:
    """Return if the rollout is where this can be done. One whose place another promotion takes can only go back.

    Raises:
        IllegalMove: it is not; tells where it is.
    """
    takes_orders = {State.ROLLING_OUT, State.SUPERSEDED} if order is Order.GO_BACK else {State.ROLLING_OUT}
    is_here = promotion.state in takes_orders and progress.stage in _TAKEN_IN[order]
    if is_here and order is Order.RESUME and not progress.waits_for_a_person:
        is_here = False
    if is_here and order is Order.ALL_AT_ONCE and progress.is_last and not progress.waits_for_a_person:
        is_here = False
    if not is_here:
        where = progress.stage.value.replace("_", " ")
        if progress.is_open and progress.stage is not Stage.GOING_BACK:
            where = f"{where}, in step {progress.step + 1} of {len(progress.steps)}"
        raise IllegalMove(
            f"The rollout of promotion {promotion.id} ({promotion.state.value}) is {where}; {_NOT[order]}",
            promotion=promotion.id,
            state=promotion.state.value,
        )


_WALKS = frozenset({Stage.MOVING, Stage.HOLDING})
_TAKEN_IN: Mapping[Order, frozenset[Stage]] = {
    Order.PAUSE: _WALKS,
    Order.RESUME: frozenset({Stage.PAUSED, Stage.HOLDING}),
    Order.GO_BACK: _WALKS | {Stage.PAUSED},
    Order.ALL_AT_ONCE: _WALKS | {Stage.PAUSED},
}
_NOT: Mapping[Order, str] = {
    Order.PAUSE: "only one that goes on by itself can be paused.",
    Order.RESUME: "only one that waits for a person can be resumed.",
    Order.GO_BACK: "only one that is not over can go back.",
    Order.ALL_AT_ONCE: "there is nothing left to be had at once.",
}


def resumed(progress: Progress, *, at: datetime) -> Progress:
    """One that a person has go on: what waited for them ends when its gates have passed, any other step begins anew.

    Whoever executes this calls the targets if the stage is *moving*.
    """
    if progress.stage is Stage.HOLDING:
        return replace(_with_step(progress, hold_s=0), updated_at=at)
    return begun_step(progress, progress.step, at=at, outcome=Outcome.REPEATED)


def at_once(progress: Progress, *, at: datetime) -> Progress:
    """One of which a person has the rest at once: the last step, with nothing to prove but that it is in effect."""
    after = begun_step(progress, len(progress.steps) - 1, at=at, outcome=Outcome.SKIPPED)
    return _with_step(after, hold_s=0, gates=(), keeps_stable=False)


def no_rollout(promotion_id: str) -> NotFound:
    return NotFound(f"Promotion {promotion_id} has no rollout: it calls no targets, or has not come to that.")
