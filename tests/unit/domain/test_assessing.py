"""What stands between a promotion and its alias: every rule of the specification, and how they combine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.assessing import (
    LANES,
    RULES,
    Case,
    CheckResult,
    Gate,
    Reading,
    RuleStatus,
    Standing,
    Vote,
    assess,
    is_blocked,
    next_look,
    next_state,
    opens_at,
    passes,
    waits_for,
    what_changed,
)
from app.domain.policies import DEFAULT_POLICY, ApprovalRule, Check, CheckKind, Policy, Rejection, Soak
from app.domain.promotions import Decision, Kind, Outcome, State
from app.domain.windows import Effect, Opening, Window
from tests.unit.domain.test_promotions import NOON, promotion

ML = ApprovalRule("ml", 1, groups=frozenset({"ml"}))
RISK = ApprovalRule("risk", 2, groups=frozenset({"risk"}))
ACCURATE = Check("accurate", CheckKind.EXPRESSION, expression="candidate.metrics.accuracy >= 0.9")


def vote(
    who: str,
    *groups: str,
    outcome: Outcome = Outcome.APPROVE,
    lost: str | None = None,
    roles: frozenset[str] = frozenset(),
) -> Vote:
    return Vote(Decision(who, who, outcome, "", NOON), roles, frozenset(groups), lost)


def case(policy: Policy = DEFAULT_POLICY, **changes: object) -> Case:
    pinned: Mapping[str, object] = {
        "state": changes.pop("state", State.PENDING),
        "kind": changes.pop("kind", Kind.PROMOTION),
    }
    pinned = {**pinned, "digest": changes.pop("digest", "sha256:" + "0" * 64)}
    pinned = {**pinned, **{key: changes.pop(key) for key in ("scheduled_for", "expires_at") if key in changes}}
    of = replace(promotion(), policy=policy, **pinned)  # type: ignore[arg-type]  # as the tests below name them
    return Case(of, at=changes.pop("at", NOON), **changes)  # type: ignore[arg-type]  # the same


def the(name: str, statuses: tuple[RuleStatus, ...]) -> RuleStatus:
    (found,) = [status for status in statuses if status.rule == name]
    return found


def asking(*rules: ApprovalRule, **more: object) -> Policy:
    return replace(DEFAULT_POLICY, approvals=rules, **more)  # type: ignore[arg-type]  # as the tests below name them


def test_nobody_decides_before_the_digest_is_known() -> None:
    statuses = assess(case(digest=None, reading=Reading(37, 100)))
    assert the("digest", statuses).standing is Standing.WAITING
    assert "37 % of 100 bytes" in the("digest", statuses).message
    assert not passes(statuses, Gate.DECISION)


def test_all_approval_rules_are_needed_and_one_person_counts_for_one() -> None:
    policy = asking(ML, RISK)
    both = vote("ann", "ml", "risk")
    one_missing = assess(case(policy, votes=(both, vote("bob", "risk"))))
    assert not passes(one_missing, Gate.APPROVAL)
    assert passes(assess(case(policy, votes=(both, vote("bob", "risk"), vote("cem", "risk")))), Gate.APPROVAL)


def test_who_is_not_what_they_were_does_not_count_any_more() -> None:
    policy = asking(ML)
    assert passes(assess(case(policy, votes=(vote("ann", "ml"),))), Gate.APPROVAL)
    left = assess(case(policy, votes=(vote("ann", lost="left the group ml"),)))
    assert not passes(left, Gate.APPROVAL)
    assert "ann's no longer counts: left the group ml" in the("approvals", left).message


@pytest.mark.parametrize(
    ("outcome", "standing"),
    [
        ("pass", Standing.SATISFIED),
        ("fail", Standing.BLOCKED),
        ("running", Standing.WAITING),
        ("missing", Standing.WAITING),
    ],
)
def test_a_required_check_must_pass(outcome: str, standing: Standing) -> None:
    policy = asking(ML, checks=(ACCURATE,))
    found = {"accurate": CheckResult("accurate", outcome, "it is 0.84")}
    statuses = assess(case(policy, checks=found, votes=(vote("ann", "ml"),)))
    assert the("check", statuses).standing is standing
    assert passes(statuses, Gate.APPROVAL) is (outcome == "pass")


def test_a_check_that_is_not_required_is_shown_and_blocks_nothing() -> None:
    policy = asking(ML, checks=(replace(ACCURATE, is_required=False),))
    failed = {"accurate": CheckResult("accurate", "fail", "it is 0.84")}
    statuses = assess(case(policy, checks=failed, votes=(vote("ann", "ml"),)))
    assert the("check", statuses).standing is Standing.ADVISORY
    assert passes(statuses, Gate.APPROVAL)
    assert not is_blocked(statuses)


def test_one_rejection_closes_unless_the_policy_asks_for_a_majority() -> None:
    against = vote("dan", outcome=Outcome.REJECT)
    assert next_state(case(asking(RISK), votes=(against,)), ())[0] is State.REJECTED
    majority = asking(ApprovalRule("risk", 3, groups=frozenset({"risk"})), rejection=Rejection.MAJORITY)
    one = case(majority, votes=(against,))
    assert next_state(one, assess(one))[0] is State.PENDING
    two = case(majority, votes=(against, vote("eve", outcome=Outcome.REJECT)))
    assert next_state(two, assess(two))[0] is State.REJECTED


def test_who_approved_and_then_rejected_is_not_counted_as_an_approval() -> None:
    policy = asking(ApprovalRule("risk", 3, groups=frozenset({"risk"})), rejection=Rejection.MAJORITY)
    votes = (*(vote(who, "risk") for who in ("ann", "bob", "cem")), vote("cem", "risk", outcome=Outcome.REJECT))
    assert not passes(assess(case(policy, votes=votes)), Gate.APPROVAL)


def test_an_open_review_blocks_an_ordinary_promotion_and_nothing_else() -> None:
    assert the("review", assess(case(open_review="prm_9"))).standing is Standing.BLOCKED
    for kind in (Kind.ROLLBACK, Kind.BREAK_GLASS, Kind.RESTORE):
        assert not [each for each in assess(case(kind=kind, open_review="prm_9")) if each.rule == "review"]


def test_ordered_aliases_must_have_been_held() -> None:
    policy = asking(ML, after=("staging",))
    assert the("order", assess(case(policy))).standing is Standing.BLOCKED
    assert the("order", assess(case(policy, held={"staging": None}))).holds


@pytest.mark.parametrize(
    ("held", "standing", "until"),
    [
        ({}, Standing.BLOCKED, None),
        ({"staging": None}, Standing.BLOCKED, None),
        ({"staging": NOON - timedelta(hours=23)}, Standing.WAITING, NOON + timedelta(hours=1)),
        ({"staging": NOON - timedelta(hours=24)}, Standing.SATISFIED, None),
        # A clock that was set back: nothing has soaked for a negative time.
        ({"staging": NOON + timedelta(hours=1)}, Standing.WAITING, NOON + timedelta(hours=25)),
    ],
)
def test_a_soak_is_held_long_enough_and_still(
    held: dict[str, datetime | None], standing: Standing, until: datetime | None
) -> None:
    status = the("soak", assess(case(asking(ML, soak=Soak("staging", 86_400)), held=held)))
    assert (status.standing, status.until) == (standing, until)


def test_what_is_approved_waits_for_its_time_a_soak_and_a_window() -> None:
    later, latest = NOON + timedelta(hours=1), NOON + timedelta(hours=5)
    window = Opening(is_open=False, reason="frozen", opens_at=latest, closes_at=None)
    frozen = Window(
        "night", Effect.DENY, "FREQ=DAILY", datetime.fromisoformat("2026-01-01T09:00"), 3600, "Europe/Berlin"
    )
    policy = asking(ML, windows=(frozen,))
    waiting = case(policy, votes=(vote("ann", "ml"),), scheduled_for=later, opening=window)
    statuses = assess(waiting)
    assert passes(statuses, Gate.APPROVAL)
    assert not passes(statuses, Gate.APPLICATION)
    assert next_look(statuses) == later
    assert opens_at(statuses) == latest


def test_a_promotion_becomes_approved_waits_again_and_expires() -> None:
    policy = asking(ML)
    yes = (vote("ann", "ml"),)
    approved = case(policy, votes=yes)
    assert next_state(approved, assess(approved))[0] is State.APPROVED
    lost = case(policy, votes=(vote("ann", lost="left"),), state=State.APPROVED)
    state, why = next_state(lost, assess(lost))
    assert (state, why) == (State.PENDING, "it waits again for 1 approval by group ml")
    late = case(policy, votes=yes, expires_at=NOON)
    assert next_state(late, assess(late))[0] is State.EXPIRED


def test_a_rollback_and_broken_glass_wait_for_no_window_check_or_soak() -> None:
    strict = asking(ML, checks=(ACCURATE,), soak=Soak("staging", 60), after=("staging",))
    for kind in (Kind.ROLLBACK, Kind.BREAK_GLASS, Kind.RESTORE):
        assert passes(assess(case(strict, kind=kind)), Gate.APPLICATION)


def test_every_kind_has_a_lane_and_every_lane_waits_for_the_digest_and_its_turn() -> None:
    assert set(LANES) == set(Kind)
    assert LANES[Kind.PROMOTION] == RULES
    for kind in Kind:
        assert not passes(assess(case(kind=kind, digest=None)), Gate.DECISION)
        assert not passes(assess(case(kind=kind, ahead="prm_0")), Gate.APPLICATION)


def test_what_is_missing_is_said_in_one_line() -> None:
    assert waits_for(assess(case(asking(ML, RISK)))) == "1 approval by group ml and 2 approvals by group risk"
    soaking = case(asking(ML, soak=Soak("staging", 3600)), held={"staging": NOON})
    unread = replace(soaking, reading=Reading(1, 4), promotion=replace(soaking.promotion, digest=None))
    assert waits_for(assess(unread)) == (
        "the digest (The artifacts are being read to take their digest: 25 % of 4 bytes are read), "
        f"1 approval by group ml and soak under staging (It holds staging since {NOON:%a %Y-%m-%d} 12:00 UTC, "
        "and must for 1 h)"
    )
    assert waits_for([]) == "nothing"


def test_approvals_are_void_when_what_was_looked_at_changes_and_only_then() -> None:
    approved = {"candidate.tags.risk": '"low"', "checks.ci": "pass"}
    assert what_changed(approved, approved) is None
    assert what_changed(approved, {**approved, "candidate.metrics.f1": "0.9"}) is None
    assert what_changed(approved, {**approved, "candidate.tags.risk": '"high"'}) == (
        'candidate.tags.risk was "low" and is "high"'
    )
    assert what_changed(approved, {"checks.ci": "pass"}) == 'candidate.tags.risk was "low" and is gone'
    assert what_changed(approved, {**approved, "checks.ci": "fail"}) == "checks.ci was pass and is fail"
    assert what_changed(approved, {"candidate.tags.risk": '"low"'}) is None  # a verdict that ran out is waited for
    assert what_changed({"checks.ci": "fail"}, {"checks.ci": "pass"}) is None


_GROUPS = st.frozensets(st.sampled_from(["ml", "risk"]))


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), _GROUPS, st.sampled_from(Outcome), st.booleans()), max_size=6),
    st.sampled_from(["pass", "fail", "missing"]),
    st.none() | st.just(NOON - timedelta(hours=2)) | st.just(NOON - timedelta(minutes=1)),
)
def test_nothing_is_approved_unless_every_rule_says_so(
    given_: list[tuple[str, frozenset[str], Outcome, bool]], outcome: str, since: datetime | None
) -> None:
    policy = asking(ML, RISK, checks=(ACCURATE,), soak=Soak("staging", 3600))
    votes = tuple(vote(who, *groups, outcome=said, lost="left" if lost else None) for who, groups, said, lost in given_)
    held = {} if since is None else {"staging": since}
    whole = case(policy, votes=votes, checks={"accurate": CheckResult("accurate", outcome, "")}, held=held)
    statuses = assess(whole)
    state, _ = next_state(whole, statuses)
    yes = {who for who, groups, said, lost in given_ if said is Outcome.APPROVE and not lost and groups}
    no = {who for who, _, said, _ in given_ if said is Outcome.REJECT}
    if state is State.APPROVED:
        assert outcome == "pass"
        assert not no
        assert len(yes) >= 3
    if passes(statuses, Gate.APPLICATION):
        assert state is State.APPROVED
        assert since is not None
        assert NOON - since >= timedelta(hours=1)
    if no:
        assert state is State.REJECTED
