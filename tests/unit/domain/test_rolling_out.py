"""The rollout's machine: it never goes further than it has proved, and always ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.deployments import Action, Bytes, Deployment, Serving
from app.domain.errors import IllegalMove
from app.domain.gates import Measurement, Verdict, after, due_at
from app.domain.phases import REASONS, Phase, Reason
from app.domain.policies import Policy
from app.domain.promotions import Kind, Promotion, State
from app.domain.rolling_out import (
    Do,
    Order,
    Outcome,
    Progress,
    Stage,
    Wanted,
    alias_moves_of,
    at_once,
    begun_of,
    begun_step,
    candidate_of,
    caught,
    check_takes,
    ended,
    held,
    is_in_effect,
    keeps_alias,
    next_of,
    planned,
    resumed,
    rollout_of,
    traffic_of,
    wanted_before,
    wanted_in_step,
    why_target_failed,
)
from app.domain.rollouts import AliasMoves, Gate, OnFailure, Rollout, Step, Strategy

T0 = datetime(2026, 3, 1, 9, tzinfo=UTC)
OLD = Bytes("1", "s3://bucket/1/", "sha256:1")
NEW = Bytes("2", "s3://bucket/2/", "sha256:2")
GATE = Gate("errors", "sum(errors)", "<= 0.02", interval_s=30)


def promotion_of(rollout: Rollout, kind: Kind = Kind.PROMOTION, **policy: object) -> Promotion:
    return Promotion(
        id="prm_2",
        kind=kind,
        model="iris",
        alias="production",
        to_version=NEW.version,
        from_version=OLD.version,
        model_created_at=1,
        run_id=None,
        source_uri="s3://bucket/2",
        uri=NEW.uri,
        digest=NEW.digest,
        policy=Policy("p", 1, "*", "production", (), targets=("east", "west"), rollout=rollout, **policy),  # type: ignore[arg-type]  # named by tests
        requested_by="https://idp.example|ada",
        requested_by_name="Ada",
        reason="",
        created_at=T0,
        updated_at=T0,
        state=State.ROLLING_OUT,
    )


@dataclass
class World:
    """What a worker would do with the machine, without a database."""

    promotion: Promotion
    formers: Mapping[str, Bytes | None]
    now: datetime = T0
    deployments: dict[str, Deployment] = field(default_factory=dict)
    called: list[tuple[int, Wanted]] = field(default_factory=list)
    is_live: bool = False

    def __post_init__(self) -> None:
        self.progress: Progress = begun_of(self.promotion, self.formers, at=self.now)
        self.call(wanted_in_step(self.progress, NEW))

    def call(self, wanted: tuple[Wanted, ...]) -> None:
        for each in wanted:
            self.called.append((self.progress.step, each))
            generation = self.deployments[each.target].generation + 1 if each.target in self.deployments else 1
            self.deployments[each.target] = Deployment(
                id=f"dep_{each.target}",
                target=each.target,
                model="iris",
                generation=generation,
                version=each.bytes.version,
                uri=each.bytes.uri,
                digest=each.bytes.digest,
                promotion_id=self.promotion.id,
                phase=Phase.REQUESTED,
                reason=Reason.NONE,
                message="",
                observed_generation=0,
                sequence=0,
                requested_at=self.now,
                updated_at=self.now,
                action=each.action,
                weight=each.weight,
                stable=each.stable,
            )

    def report(self, target: str, phase: Phase, reason: Reason = Reason.NONE, *serving: Serving) -> None:
        seen = self.deployments[target]
        told = {"reason": reason, "message": "said so", "serving": serving, "observed_generation": seen.generation}
        ready_at = seen.ready_at or (self.now if phase is Phase.READY else None)
        self.deployments[target] = replace(seen, phase=phase, ready_at=ready_at, **told)  # type: ignore[arg-type]  # ours

    def happen(self, what: object) -> int:
        """Something of any kind; the step that it is in before anything follows from it."""
        match what:
            case (target, phase):
                self.report(str(target), Phase(phase))
            case Verdict():
                self.measure(what)
            case Order():
                self.obey(what)
            case int():  # clocks jump, also backwards
                self.now += timedelta(seconds=what)
        return self.progress.step

    def obey(self, order: Order) -> None:
        """What a person says, where it may be said."""
        try:
            check_takes(order, self.promotion, self.progress)
        except IllegalMove:
            return
        if order is Order.PAUSE:
            self.do(Do.PAUSE, "said so")
        elif order is Order.GO_BACK:
            self.do(Do.GO_BACK, "said so")
        else:
            self.progress = (resumed if order is Order.RESUME else at_once)(self.progress, at=self.now)
            if self.progress.stage is Stage.MOVING:
                self.call(wanted_in_step(self.progress, NEW))

    def measure(self, verdict: Verdict) -> None:
        gates = {gate.name: gate for gate in self.promotion.policy.rollout.gates}
        states = [
            after(state, Measurement(verdict, None, "seen"), gates[state.gate], at=self.now)
            if due_at(state, gates[state.gate]) <= self.now
            else state
            for state in self.progress.gates
        ]
        self.progress = replace(self.progress, gates=tuple(states))

    def settle(self) -> Do:
        """Everything that is to be done now; the last move."""
        last = Do.NOTHING
        for _ in range(10):
            move = next_of(self.promotion, self.progress, tuple(self.deployments.values()), now=self.now)
            if move.do is Do.NOTHING:
                return last
            last = move.do
            self.do(move.do, move.reason)
        raise AssertionError("it does not come to rest")

    def do(self, do: Do, why: str) -> None:
        progress, now = self.progress, self.now
        match do:
            case Do.HOLD:
                assert all(each.is_ready for each in self.deployments.values())
                self.progress = held(progress, rollout_of(self.promotion).gates, at=now)
            case Do.CATCH:
                self.progress = caught(progress, at=now)
            case Do.BEGIN:
                self.progress = begun_step(progress, progress.step + 1, at=now)
                self.call(wanted_in_step(self.progress, NEW))
            case Do.FINISH:
                self.check_proved()
                self.is_live = True
                self.progress = ended(progress, Stage.DONE, "", at=now, outcome=Outcome.PASSED)
            case Do.PAUSE:
                self.progress = ended(progress, Stage.PAUSED, why, at=now)
            case Do.GO_BACK:
                self.progress = ended(progress, Stage.GOING_BACK, why, at=now, outcome=Outcome.FAILED)
                self.call(wanted_before(progress, NEW))
            case Do.FAIL:
                self.progress = ended(progress, Stage.FAILED, why, at=now, outcome=Outcome.FAILED)
            case Do.HAVE_GONE_BACK | Do.LET_GO:
                self.progress = ended(progress, Stage.UNDONE, why, at=now)

    def check_proved(self) -> None:
        """It gets everything everywhere, and each gate of the last step has passed."""
        for each in self.deployments.values():
            assert (each.version, each.weight, each.is_ready) == (NEW.version, 100, True)
        passed = {state.gate for state in self.progress.gates if state.passes > 0}
        assert passed == set(self.progress.present.gates)


weights = st.lists(st.integers(0, 100), max_size=4).map(sorted)
rollouts = st.builds(
    lambda shares, holds, gated, on_failure: Rollout(
        Strategy.CANARY,
        tuple(Step(weight, hold) for weight, hold in zip(shares, holds, strict=False)),
        (GATE,) if gated else (),
        on_failure,
    ),
    weights,
    st.lists(st.sampled_from([0, 60, 600, None]), min_size=4, max_size=4),
    st.booleans(),
    st.sampled_from(OnFailure),
)
formers = st.fixed_dictionaries({"east": st.sampled_from([OLD, NEW, None]), "west": st.sampled_from([OLD, NEW, None])})
happenings = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["east", "west"]), st.sampled_from([Phase.READY, Phase.PROGRESSING, Phase.FAILED])),
        st.sampled_from(Verdict),
        st.integers(-100, 5000),
        st.sampled_from(Order),
    ),
    max_size=40,
)


@given(rollouts, formers, happenings)
def test_no_order_of_happenings_gives_more_requests_than_the_step_or_goes_live_without_proofs(
    rollout: Rollout, before: dict[str, Bytes | None], happened: list[object]
) -> None:
    world = World(promotion_of(rollout), before)
    for each in happened:
        step = world.happen(each)
        world.settle()
        assert world.progress.step <= step + 1
    for step, wanted in world.called:
        former, weight = before[wanted.target], world.progress.steps[step].weight
        if wanted.action is Action.REMOVE:
            assert former is None
        elif wanted.bytes == NEW and former == OLD:
            assert wanted.weight == weight
            assert wanted.stable is not None or wanted.weight == 100
        elif former is not None:
            assert wanted.weight == 100  # it serves the same already, or serves again what it did


@given(rollouts, formers)
def test_it_ends_when_every_target_is_ready_every_gate_passes_and_people_say_go_on(
    rollout: Rollout, before: dict[str, Bytes | None]
) -> None:
    world = World(promotion_of(rollout), before)
    for _ in range(120):
        for target in before:
            world.report(target, Phase.READY)
        world.settle()
        if world.is_live:
            break
        world.now += timedelta(seconds=GATE.interval_s)
        world.measure(Verdict.PASSED)
        if world.progress.waits_for_a_person:
            world.progress = resumed(world.progress, at=world.now)
    assert world.is_live
    assert {each.outcome for each in world.progress.steps} == {Outcome.PASSED}


@given(rollouts, formers, st.sampled_from([Phase.FAILED, Phase.ERRORED]), st.integers(0, 3))
def test_a_target_that_fails_in_any_step_pauses_it_or_sends_all_of_them_back(
    rollout: Rollout, before: dict[str, Bytes | None], phase: Phase, at_step: int
) -> None:
    world = World(promotion_of(rollout), before)
    for _ in range(at_step * 40):
        if world.progress.step >= at_step or world.is_live:
            break
        for target in before:
            world.report(target, Phase.READY)
        world.now += timedelta(seconds=GATE.interval_s)
        world.measure(Verdict.PASSED)
        if world.progress.waits_for_a_person:
            world.progress = resumed(world.progress, at=world.now)
        world.settle()
    if world.is_live:
        return
    world.report("west", phase, Reason.MODEL_LOAD_FAILED)
    world.settle()
    if rollout.on_failure is OnFailure.PAUSE:
        assert world.progress.stage is Stage.PAUSED
        return
    if set(before.values()) == {NEW}:  # there is nothing else to go back to
        assert world.progress.stage is Stage.FAILED
        return
    assert world.progress.stage is Stage.GOING_BACK
    for target, former in before.items():
        present = world.deployments[target]
        assert (present.action, present.stable) == (Action.APPLY if former else Action.REMOVE, None)
        assert former is None or (present.version, present.weight) == (former.version, 100)
    for target in before:
        world.report(target, Phase.READY)
    world.settle()
    assert world.progress.stage is Stage.UNDONE


OTHERS = "sha256:0"
SERVED: list[tuple[int, tuple[Serving, ...], Do]] = [
    (10, (), Do.HOLD),  # it tells a phase and nothing else
    (10, (Serving("2", 10, True), Serving("1", 90, True)), Do.HOLD),
    (10, (Serving("2", 10, True, digest=NEW.digest), Serving("1", 90, True, digest=OLD.digest)), Do.HOLD),
    (10, (Serving("2", 10, True), Serving("1", 90, True), Serving("7", 0, True, digest=OTHERS)), Do.HOLD),
    (10, (Serving("2", 10, True), Serving("1", 90, False)), Do.HOLD),
    (0, (Serving("2", 0, True), Serving("1", 100, True)), Do.HOLD),
    (100, (Serving("2", 100, True), Serving("1", 0, True)), Do.HOLD),
    (100, (Serving("2", 100, True),), Do.HOLD),
    (0, (Serving("1", 100, True),), Do.NOTHING),  # nobody could tell whether it loads
    (10, (Serving("1", 100, True),), Do.NOTHING),
    (10, (Serving("2", 0, True), Serving("1", 100, True)), Do.NOTHING),
    (10, (Serving("2", 100, True),), Do.NOTHING),
    (10, (Serving("2", 10, True), Serving("1", 80, True), Serving("7", 10, True)), Do.NOTHING),
    (10, (Serving("2", 10, True, digest=OTHERS), Serving("1", 90, True)), Do.GO_BACK),
    (10, (Serving("2", 10, True), Serving("1", 90, True, digest=OTHERS)), Do.GO_BACK),
    (0, (Serving("2", 0, True, digest=OTHERS), Serving("1", 100, True)), Do.GO_BACK),
]


@pytest.mark.parametrize(("weight", "serving", "follows"), SERVED)
def test_a_step_is_in_effect_when_what_is_told_is_what_was_called_for(
    weight: int, serving: tuple[Serving, ...], follows: Do
) -> None:
    world = World(promotion_of(Rollout(Strategy.CANARY, (Step(weight, 600),))), {"east": OLD})
    world.report("east", Phase.PROGRESSING, Reason.NONE, *serving)
    assert world.settle() is Do.NOTHING  # what is loaded on the way there is judged when it says that it is there
    world.report("east", Phase.READY, Reason.NONE, *serving)
    assert is_in_effect(world.deployments["east"]) is (follows is Do.HOLD)
    assert world.settle() is follows
    if follows is Do.GO_BACK:
        assert world.progress.reason.startswith("target east failed (DigestMismatch): The files are not those")
        assert OTHERS in world.progress.reason


def test_shares_that_change_while_a_step_is_held_have_it_held_anew() -> None:
    world = World(promotion_of(Rollout(Strategy.CANARY, (Step(10, 600),))), {"east": OLD})
    right = (Serving("2", 10, True), Serving("1", 90, True))
    world.report("east", Phase.READY, Reason.NONE, *right)
    world.settle()
    world.report("east", Phase.READY, Reason.NONE, Serving("1", 100, True))
    assert (world.settle(), world.progress.stage) == (Do.CATCH, Stage.MOVING)
    world.report("east", Phase.READY, Reason.NONE, *right)
    assert (world.settle(), world.progress.step) == (Do.HOLD, 0)


def test_what_went_back_is_back_when_it_serves_what_it_did_whatever_comes_after() -> None:
    world = World(promotion_of(Rollout()), {"east": OLD, "west": OLD})
    world.report("east", Phase.FAILED, Reason.UNHEALTHY)
    world.settle()
    world.report("east", Phase.READY, Reason.NONE, Serving("2", 100, True))
    world.report("west", Phase.READY)
    assert (world.settle(), world.progress.stage) == (Do.NOTHING, Stage.GOING_BACK)
    world.report("east", Phase.READY, Reason.NONE, Serving("1", 100, True))
    world.report("east", Phase.PROGRESSING, Reason.UNHEALTHY)
    assert world.settle() is Do.HAVE_GONE_BACK


def test_a_target_that_went_back_to_other_files_is_for_a_person() -> None:
    world = World(promotion_of(Rollout()), {"east": OLD, "west": OLD})
    world.report("east", Phase.FAILED, Reason.UNHEALTHY)
    world.settle()
    world.report("west", Phase.READY, Reason.NONE, Serving("1", 100, True, digest=OTHERS))
    assert world.settle() is Do.FAIL
    assert "target west did not go back: target west failed (DigestMismatch)" in world.progress.reason


def test_what_another_promotion_takes_the_place_of_is_watched_and_gets_no_more() -> None:
    world = World(promotion_of(Rollout(Strategy.CANARY, (Step(10, 60),), (GATE,))), {"east": OLD, "west": OLD})
    world.promotion = replace(world.promotion, state=State.SUPERSEDED)
    for target in ("east", "west"):
        world.report(target, Phase.READY)
    assert world.settle() is Do.HOLD
    world.now += timedelta(hours=1)
    world.measure(Verdict.PASSED)
    assert (world.settle(), world.progress.step) == (Do.NOTHING, 0)
    for _ in range(GATE.failure_limit):
        world.now += timedelta(seconds=30)
        world.measure(Verdict.FAILED)
    with pytest.raises(IllegalMove):
        check_takes(Order.RESUME, world.promotion, world.progress)
    check_takes(Order.GO_BACK, world.promotion, world.progress)
    assert world.settle() is Do.GO_BACK


def test_an_alias_is_kept_unless_its_rollout_takes_it_back() -> None:
    world = World(promotion_of(Rollout()), {"east": OLD})
    assert keeps_alias(world.promotion, world.progress)
    assert keeps_alias(replace(world.promotion, state=State.LIVE), None)
    assert not keeps_alias(replace(world.promotion, state=State.FAILED), world.progress)
    world.do(Do.GO_BACK, "it is bad")
    assert not keeps_alias(world.promotion, world.progress)


def test_a_clock_that_jumps_ahead_skips_no_gate() -> None:
    world = World(promotion_of(Rollout(Strategy.CANARY, (Step(10, 60),), (GATE,))), {"east": OLD, "west": OLD})
    for target in ("east", "west"):
        world.report(target, Phase.READY)
    world.settle()
    world.now += timedelta(days=400)
    for verdict in (Verdict.NO_DATA, Verdict.BROKEN):
        world.measure(verdict)
        world.settle()
        assert (world.progress.stage, world.progress.step) == (Stage.HOLDING, 0)
        world.now += timedelta(seconds=30)
    world.measure(Verdict.PASSED)
    world.settle()
    assert world.progress.step == 1


def test_a_gate_that_fails_sends_everything_back_with_its_reason() -> None:
    world = World(promotion_of(Rollout(Strategy.CANARY, (Step(10, 600),), (GATE,))), {"east": OLD, "west": OLD})
    for target in ("east", "west"):
        world.report(target, Phase.READY)
    world.settle()
    for _ in range(GATE.failure_limit):
        world.now += timedelta(seconds=30)
        world.measure(Verdict.FAILED)
    assert world.settle() is Do.GO_BACK
    assert world.progress.reason.startswith("gate errors failed on east")


def test_another_promotions_targets_are_let_go() -> None:
    world = World(promotion_of(Rollout()), {"east": OLD, "west": OLD})
    world.deployments["west"] = replace(world.deployments["west"], promotion_id="prm_3")
    assert world.settle() is Do.LET_GO


@pytest.mark.parametrize("kind", [Kind.ROLLBACK, Kind.RESTORE, Kind.BREAK_GLASS])
def test_what_goes_back_or_cannot_wait_goes_all_at_once_and_alias_first(kind: Kind) -> None:
    rollout = Rollout(Strategy.CANARY, (Step(10, 600),), (GATE,))
    promotion = promotion_of(rollout, kind, alias_moves=AliasMoves.AFTER_READY)
    world = World(promotion, {"east": OLD, "west": OLD})
    assert [each.weight for each in world.progress.steps] == [100]
    assert alias_moves_of(promotion) is AliasMoves.BEFORE
    world.report("east", Phase.FAILED)
    assert world.settle() is Do.FAIL


def test_steps_are_spelled_out_for_what_is_served() -> None:
    rollout = Rollout(Strategy.CANARY, (Step(0, 60), Step(10, 60), Step(50, 60)))
    shares = {
        "a former": [each.weight for each in planned(rollout, NEW, {"east": OLD, "west": None})],
        "nothing": [each.weight for each in planned(rollout, NEW, {"east": None})],
        "the same": [each.weight for each in planned(rollout, NEW, {"east": NEW})],
    }
    assert shares == {"a former": [0, 10, 50, 100], "nothing": [100], "the same": [100]}
    mixed, alone = (planned(rollout, NEW, formers)[0] for formers in ({"east": OLD, "west": None}, {"west": None}))
    assert "Nothing else is served on west" in mixed.message
    assert "Nothing else is served that" in alone.message
    # Whoever cannot load what nobody may ask is never told to.
    assert (traffic_of(mixed, NEW, OLD), traffic_of(mixed, NEW, None)) == ((0, OLD), (100, None))
    gated = planned(Rollout(Strategy.CANARY, (Step(100, 60),), gates=(GATE,)), NEW, {"east": OLD})
    assert [(each.weight, each.gates, each.keeps_stable) for each in gated] == [
        (100, ("errors",), True),
        (100, (), False),
    ]


def test_what_falls_ill_again_and_again_has_one_deadline_for_all_of_it() -> None:
    world = World(promotion_of(Rollout(Strategy.CANARY, (Step(10, 600),))), {"east": OLD})
    began = []
    for well_s in (60, 60, 60, 400):
        world.report("east", Phase.READY)
        world.settle()
        world.now += timedelta(seconds=well_s)
        world.report("east", Phase.PROGRESSING, Reason.UNHEALTHY)
        world.settle()
        assert world.progress.stage is Stage.MOVING
        began.append((world.progress.step_began_at - T0).total_seconds())
    assert began == [60, 60, 60, 580]  # that it was well for long counts


@pytest.mark.parametrize("reason", Reason)
def test_why_a_target_failed_is_said_with_its_meaning(reason: Reason) -> None:
    world = World(promotion_of(Rollout()), {"east": OLD, "west": OLD})
    world.report("east", Phase.FAILED, reason)
    said = why_target_failed(world.deployments["east"])
    assert said.startswith("target east failed")
    assert said.endswith("said so")
    if reason in REASONS:
        assert REASONS[reason].meaning in said


def test_a_target_that_says_no_more_than_what_is_meant_is_quoted_once() -> None:
    world = World(promotion_of(Rollout()), {"east": OLD, "west": OLD})
    world.report("east", Phase.ERRORED, Reason.PROGRESS_DEADLINE_EXCEEDED)
    meaning = REASONS[Reason.PROGRESS_DEADLINE_EXCEEDED].meaning
    assert why_target_failed(replace(world.deployments["east"], message=meaning)).count(meaning) == 1


def test_what_a_target_says_at_length_is_cut() -> None:
    world = World(promotion_of(Rollout()), {"east": OLD, "west": OLD})
    world.report("east", Phase.FAILED)
    said = why_target_failed(replace(world.deployments["east"], message="x" * 9_000))
    assert len(said) < 1_100


def test_the_candidate_is_what_the_promotion_pins() -> None:
    assert candidate_of(promotion_of(Rollout())) == NEW
