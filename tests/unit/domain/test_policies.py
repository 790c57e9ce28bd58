"""Which policy protects an alias, who may decide, and when its rules are satisfied."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.access import Principal, PrincipalKind, Role
from app.domain.errors import InvalidInput, NotAnApprover, SelfApproval
from app.domain.grants import model
from app.domain.policies import (
    DEFAULT_POLICY,
    Approval,
    ApprovalRule,
    Policy,
    assess,
    check_may_decide,
    document_of,
    is_satisfied,
    policy_for,
    policy_from_document,
)
from tests.principals import principal


def person(name: str, *roles: Role, groups: frozenset[str] = frozenset()) -> Principal:
    return principal(name, *roles, groups=groups)


def decide(rules: Iterable[ApprovalRule], who: Principal, *, requested_by: str) -> None:
    roles = who.access.roles_on(model("m", "production"))
    check_may_decide(rules, who, roles=roles, requested_by=requested_by)


def policy(name: str, models: str = "*", alias: str = "production") -> Policy:
    return Policy(name, 1, models, alias, approvals=DEFAULT_POLICY.approvals)


def rule(*people: str, count: int = 1) -> ApprovalRule:
    return ApprovalRule("rule", count, people=frozenset(people))


def approval(who: str) -> Approval:
    return Approval(who, roles=frozenset(), groups=frozenset())


# Which policy.


def test_production_of_any_model_is_protected_from_the_start() -> None:
    assert policy_for([DEFAULT_POLICY], "any model", "production") == DEFAULT_POLICY
    assert policy_for([DEFAULT_POLICY], "any model", "staging") is None


@pytest.mark.parametrize("alias", ["PRODUCTION", "Production", "ｐｒｏｄｕｃｔｉｏｎ", "production\n", " production "])
def test_look_alikes_of_a_protected_alias_are_protected(alias: str) -> None:
    assert policy_for([DEFAULT_POLICY], "m", alias) == DEFAULT_POLICY


def test_the_most_specific_policy_protects_whatever_the_order() -> None:
    policies = [policy("all"), policy("risk", "risk-*"), policy("one", "risk-churn"), policy("aliases", alias="*")]
    for order in permutations(policies):
        found = [policy_for(order, model, "production") for model in ("churn", "risk-x", "risk-churn")]
        assert [item.name for item in found if item] == ["all", "risk", "one"]
        other = policy_for(order, "churn", "champion")
        assert other
        assert other.name == "aliases"


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
    assert not is_satisfied(assess(both, [approval("ann")]))
    assert is_satisfied(assess(both, [approval("ann"), approval("bob")]))


def test_an_easy_rule_does_not_use_up_the_only_person_of_a_hard_one() -> None:
    for rules in permutations([rule("ann", "bob"), rule("ann")]):
        for given_by in permutations([approval("ann"), approval("bob")]):
            assert is_satisfied(assess(rules, given_by))


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
    assert is_satisfied(assess(rules, [approval(who) for who in given_by])) == possible


@given(_rules, st.sets(_names), _names)
def test_a_further_approval_never_makes_less_of_what_was_given(
    rules: list[ApprovalRule], given_by: set[str], another: str
) -> None:
    before = sum(status.missing for status in assess(rules, [approval(who) for who in given_by]))
    after = sum(status.missing for status in assess(rules, [approval(who) for who in given_by | {another}]))
    assert after <= before


# What people write.


def test_a_policy_reads_back_what_it_writes() -> None:
    written = Policy(
        "p",
        3,
        "risk-*",
        "production",
        approvals=(ApprovalRule("two of ml", 2, roles=frozenset({"approver"}), groups=frozenset({"ml"})),),
        rollback_approvals=(rule("ann"),),
        targets=("ray",),
    )
    assert policy_from_document(document_of(written), revision=3) == written


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"models": 7}, "models"),
        ({"alias": None}, "alias"),
        ({"approvals": []}, "approvals"),
        ({"approvals": "approver"}, "approvals"),
        ({"approvals": [{"name": "r"}]}, "approvals[0]"),
        ({"approvals": [{"name": "r", "count": 0, "roles": ["approver"]}]}, "approvals[0].count"),
        ({"approvals": [{"name": "r", "count": True, "roles": ["approver"]}]}, "approvals[0].count"),
        ({"approvals": [{"name": "r", "roles": ["king"]}]}, "approvals[0].roles"),
        ({"approvals": [{"name": "r", "rolls": ["approver"]}]}, "approvals[0].rolls"),
        ({"rollback": {"aprovals": []}}, "rollback"),
        ({"targets": "ray"}, "targets"),
        ({"target": ["ray"]}, "target"),
    ],
)
def test_a_wrong_policy_is_refused_with_the_name_of_the_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        policy_from_document(document_of(DEFAULT_POLICY) | change, revision=1)
    assert refused.value.details["field"] == field
