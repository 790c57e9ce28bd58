"""Which policy protects an alias, who may decide, and when its rules are satisfied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.access import Principal, PrincipalKind, Role
from app.domain.errors import NotAnApprover, SelfApproval
from app.domain.grants import model
from app.domain.policies import (
    DEFAULT_POLICY,
    Approval,
    ApprovalRule,
    Companions,
    Policy,
    assign,
    check_may_decide,
    choose,
    is_satisfied,
    policy_for,
)
from tests.principals import principal


def person(name: str, *roles: Role, groups: frozenset[str] = frozenset()) -> Principal:
    return principal(name, *roles, groups=groups)


def decide(
    rules: Iterable[ApprovalRule],
    who: Principal,
    *,
    requested_by: str,
    on_behalf_of: tuple[str, frozenset[str], frozenset[str]] | None = None,
) -> None:
    roles = who.access.roles_on(model("m", "production"))
    barred = {requested_by: "asked for this promotion"}
    check_may_decide(rules, who, roles=roles, barred=barred, on_behalf_of=on_behalf_of)


def policy(name: str, models: str = "*", alias: str = "production") -> Policy:
    return Policy(name, 1, models, alias, approvals=DEFAULT_POLICY.approvals)


def rule(*people: str, count: int = 1) -> ApprovalRule:
    return ApprovalRule("rule", count, people=frozenset(people))


def approval(who: str) -> Approval:
    return Approval(who, roles=frozenset(), groups=frozenset())


# Which policy.


def best(policies: Iterable[Policy], model: str, alias: str = "production", **of: Any) -> str | None:
    found = policy_for(policies, model, alias, **of)
    return found.name if found else None


def test_production_of_any_model_is_protected_from_the_start() -> None:
    assert policy_for([DEFAULT_POLICY], "any model", "production") == DEFAULT_POLICY
    assert policy_for([DEFAULT_POLICY], "any model", "staging") is None


@pytest.mark.parametrize("alias", ["PRODUCTION", "Production", "ｐｒｏｄｕｃｔｉｏｎ", "production\n", " production "])
def test_look_alikes_of_a_protected_alias_are_protected(alias: str) -> None:
    assert policy_for([DEFAULT_POLICY], "m", alias) == DEFAULT_POLICY


def test_an_alias_moves_along_with_a_protected_one_of_its_models() -> None:
    policy = replace(
        DEFAULT_POLICY,
        models="fraud-*",
        alias="prod-[ab]",
        workspaces="team-*",
        tags=(("risk", "high"),),
        companions=Companions(previous="previous"),
    )
    high, there = {"risk": "high"}, "team-a"
    assert policy.moves_along("fraud-x", "Previous", workspace=there, tags=high)
    assert policy.moves_along("fraud-x", "previous", workspace=there)
    assert not policy.moves_along("fraud-x", "previous", workspace=there, tags={})
    assert not policy.moves_along("fraud-x", "previous", workspace="default", tags=high)
    assert not policy.moves_along("iris", "previous", workspace=there, tags=high)
    assert not policy.moves_along("fraud-x", "prod-a", workspace=there, tags=high)
    assert policy.selects_by("RISK ")
    assert not policy.selects_by("risks")


def test_the_most_specific_policy_protects_whatever_the_order() -> None:
    policies = [policy("all"), policy("risk", "risk-*"), policy("one", "risk-churn"), policy("aliases", alias="*")]
    for order in permutations(policies):
        found = [policy_for(order, model, "production") for model in ("churn", "risk-x", "risk-churn")]
        assert [item.name for item in found if item] == ["all", "risk", "one"]
        other = policy_for(order, "churn", "champion")
        assert other
        assert other.name == "aliases"


def test_a_pattern_of_workspaces_or_tags_is_more_specific_than_none() -> None:
    policies = [
        policy("all"),
        replace(policy("team"), workspaces="team-*"),
        replace(policy("risky"), tags=(("risk", "high"),)),
    ]
    for order in permutations(policies):
        assert best(order, "m", workspace="other", tags={}) == "all"
        assert best(order, "m", workspace="team-a", tags={"risk": "high"}) == "team"
        assert best(order, "m", tags={"risk": "high", "more": "x"}) == "risky"
        assert best(order, "m", tags={"risk": "low"}) == "all"


def test_tags_that_are_not_known_could_be_any() -> None:
    risky = replace(policy("risky"), tags=(("risk", "high"),))
    assert best([risky], "m", tags=None) == "risky"
    assert best([risky], "m", tags={}) is None


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ([], "not protected"),
        ([policy("one")], "one is the only one"),
        ([policy("one", "m"), policy("two")], "one wins over two: its model pattern"),
        ([policy("one"), policy("two", alias="prod*")], "one wins over two: its alias pattern"),
        ([policy("one"), policy("two")], "two and one are equally specific"),
    ],
)
def test_why_a_policy_was_chosen_is_said_in_a_sentence(policies: list[Policy], said: str) -> None:
    assert said in choose(policies, "m", "production").why


# Who may decide.


def test_who_asked_cannot_decide_whatever_their_role() -> None:
    for role in Role:
        asking = person("ann", Role.APPROVER, role)
        with pytest.raises(SelfApproval):
            decide(DEFAULT_POLICY.approvals, asking, requested_by=asking.id)


def test_an_administrator_is_not_an_approver() -> None:
    with pytest.raises(NotAnApprover):
        decide(DEFAULT_POLICY.approvals, person("root", Role.ADMINISTRATOR), requested_by="other")


def test_a_service_does_not_decide_though_it_holds_the_role() -> None:
    robot = principal("robot", Role.APPROVER, kind=PrincipalKind.SERVICE)
    with pytest.raises(NotAnApprover):
        decide(DEFAULT_POLICY.approvals, robot, requested_by="other")


def test_an_approver_who_did_not_ask_may_decide() -> None:
    decide(DEFAULT_POLICY.approvals, person("bob", Role.APPROVER), requested_by="other")


def test_a_rule_without_approvers_lets_nobody_decide() -> None:
    with pytest.raises(NotAnApprover):
        decide((), person("bob", Role.APPROVER), requested_by="other")


def test_groups_and_people_are_named_too() -> None:
    rules = [ApprovalRule("r", 1, groups=frozenset({"risk"}), people=frozenset({"https://issuer.example|eve"}))]
    decide(rules, person("bob", groups=frozenset({"risk"})), requested_by="other")
    decide(rules, person("eve"), requested_by="other")
    with pytest.raises(NotAnApprover):
        decide(rules, person("mallory", groups=frozenset({"risky"})), requested_by="other")


# When it is satisfied.


def test_one_person_counts_for_one_rule_only() -> None:
    both = [rule("ann", "bob"), rule("ann")]
    assert not is_satisfied(assign(both, [approval("ann")]))
    assert is_satisfied(assign(both, [approval("ann"), approval("bob")]))


def test_an_easy_rule_does_not_use_up_the_only_person_of_a_hard_one() -> None:
    for rules in permutations([rule("ann", "bob"), rule("ann")]):
        for given_by in permutations([approval("ann"), approval("bob")]):
            assert is_satisfied(assign(rules, given_by))


_names = st.sampled_from("abcde")
_rules = st.lists(
    st.builds(rule, _names, _names, count=st.integers(1, 2)) | st.builds(rule, _names), min_size=0, max_size=4
)


@given(_rules, st.sets(_names))
def test_rules_are_satisfied_exactly_when_some_assignment_of_people_satisfies_them(
    rules: list[ApprovalRule], given_by: set[str]
) -> None:
    places = [item for item in rules for _ in range(item.count)]
    possible = any(
        all(who in place.people for who, place in zip(order, places, strict=False))
        for order in permutations(sorted(given_by), len(places))
    )
    assert is_satisfied(assign(rules, [approval(who) for who in given_by])) == possible


@given(_rules, st.sets(_names), _names)
def test_a_further_approval_never_makes_less_of_what_was_given(
    rules: list[ApprovalRule], given_by: set[str], another: str
) -> None:
    before = sum(status.missing for status in assign(rules, [approval(who) for who in given_by]))
    after = sum(status.missing for status in assign(rules, [approval(who) for who in given_by | {another}]))
    assert after <= before


def test_who_stands_in_for_somebody_decides_as_they_would_and_never_for_who_had_a_hand_in_it() -> None:
    risk = (frozenset[str](), frozenset({"risk"}))
    rules = [ApprovalRule("r", 1, groups=frozenset({"risk"}))]
    decide(rules, person("bob"), requested_by="other", on_behalf_of=("carol", *risk))
    with pytest.raises(SelfApproval):
        decide(rules, person("bob"), requested_by="carol", on_behalf_of=("carol", *risk))
    with pytest.raises(NotAnApprover):
        decide(rules, person("bob"), requested_by="other", on_behalf_of=("carol", frozenset(), frozenset()))


def test_a_service_decides_where_the_rule_says_so() -> None:
    robot = principal("robot", Role.APPROVER, kind=PrincipalKind.SERVICE)
    decide([ApprovalRule("r", 1, roles=frozenset({"approver"}), services=True)], robot, requested_by="other")
