"""Why: the answer is made of the grants that decide, and never says another thing than they do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.access import PrincipalKind, may
from app.domain.explaining import administered_by, everything_held, explain, explain_decision, who_could_change
from app.domain.grants import SERVER, Effect, Grant, Reach, Resource, ResourceKind, Subject, grants_of_roles, model
from app.domain.identity import Scope
from app.domain.policies import DEFAULT_POLICY, ApprovalRule
from app.domain.roles import Permission, Role
from tests.principals import principal

EVERYBODY = Subject(group="*")
ON_ALIAS = model("fraud", "production")

_reaches = st.sampled_from(
    [Reach(), Reach(model="fraud"), Reach(model="f*", alias="production"), Reach(experiment="*")]
)
_grants = st.lists(
    st.builds(Grant, st.just("g"), st.sampled_from(Role), st.just(EVERYBODY), _reaches, st.sampled_from(Effect)),
    max_size=4,
)
_resources = st.sampled_from([SERVER, model("fraud"), ON_ALIAS, model("x", "production"), model("x")])


@given(
    _grants, st.sampled_from(Permission), _resources, st.none() | st.frozensets(st.sampled_from(Scope)), st.booleans()
)
def test_an_explanation_says_what_the_grants_decide(
    grants: list[Grant], permission: Permission, resource: Resource, scopes: frozenset[Scope] | None, owns: bool
) -> None:
    who = principal("ann", grants=grants, scopes=scopes)
    if owns and resource is not SERVER:
        resource = Resource(resource.kind, resource.name, resource.alias, owner=who.id)
    why = explain(who, permission, resource, grants=grants)
    assert why.allowed == may(who, permission, resource)
    if why.allowed:
        assert why.granted_by or why.is_owner
        assert not why.denied_by
        assert not why.missing_scopes
        assert " may: " in why.reason
    else:
        assert why.denied_by or why.missing_scopes or not (why.granted_by or why.is_owner)
        assert "may not" in why.reason or "not with this token" in why.reason
    if not (why.granted_by or why.is_owner):
        for role in why.would_be_granted_by:
            more = [*grants, Grant("more", role, EVERYBODY)]
            assert explain(principal("ann", grants=more), permission, resource, grants=more).granted_by
    assert why.who_could_change


def test_a_denial_is_named() -> None:
    grants = [Grant("all", Role.APPROVER, EVERYBODY), Grant("freeze", Role.APPROVER, EVERYBODY, effect=Effect.DENY)]
    why = explain(principal("ann", grants=grants), Permission.PROMOTIONS_DECIDE, ON_ALIAS, grants=grants)
    assert [grant.name for grant in why.denied_by] == ["freeze"]
    assert "grant freeze denies promotions:decide on model 'fraud', alias 'production'" in why.reason


def test_what_is_missing_is_a_role_on_the_model_rather_than_on_the_whole_server() -> None:
    why = explain(principal("ann"), Permission.REGISTRY_WRITE, model("fraud"), grants=[])
    assert why.would_be_granted_by == (Role.CONTRIBUTOR, Role.REQUESTER)
    assert Role.ADMINISTRATOR in explain(principal("ann"), Permission.AUDIT_READ, grants=[]).would_be_granted_by


def test_who_could_change_it_are_administrators_and_the_owner() -> None:
    grants = grants_of_roles({Role.ADMINISTRATOR: ["ops"], Role.APPROVER: ["leads"]})
    owned = Resource(ResourceKind.MODEL, "fraud", owner="https://i|ann")
    assert who_could_change(Permission.REGISTRY_WRITE, owned, grants) == (
        "group ops",
        "person https://i|ann, who owns it",
    )
    assert who_could_change(Permission.PROMOTIONS_DECIDE, owned, grants) == ("group ops",)
    assert "COUNTERSIGN_ROLES" in who_could_change(Permission.AUDIT_READ, SERVER, [])[0]


def test_an_administrator_who_is_denied_administering_does_not_count() -> None:
    [admin] = grants_of_roles({Role.ADMINISTRATOR: ["ops"]})
    for denied in (Subject(group="ops"), EVERYBODY):
        for role in (Role.ADMINISTRATOR, Role.VIEWER):
            assert not administered_by([admin, Grant("d", role, denied, effect=Effect.DENY)])
    assert administered_by([admin, Grant("d", Role.APPROVER, EVERYBODY, effect=Effect.DENY)]) == (admin,)
    assert administered_by([admin, Grant("d", Role.ADMINISTRATOR, Subject(group="x"), effect=Effect.DENY)]) == (admin,)


# The policy's say.


def test_the_policy_says_whom_it_names_and_what_it_asks_for() -> None:
    approver = principal("ann", Role.APPROVER)
    note = explain_decision(approver, ON_ALIAS, DEFAULT_POLICY.approvals)
    assert note.may_decide
    assert "1 of role approver (a second person)" in note.reason


@pytest.mark.parametrize(
    ("who", "rules", "part"),
    [
        (principal("ann", Role.APPROVER), None, "No policy"),
        (principal("asker", Role.APPROVER), DEFAULT_POLICY.approvals, "asked for this promotion"),
        (principal("bot", Role.APPROVER, kind=PrincipalKind.SERVICE), DEFAULT_POLICY.approvals, "Services"),
        (principal("root", Role.ADMINISTRATOR), DEFAULT_POLICY.approvals, "The policy asks for 1 of role approver"),
        (principal("ann", Role.APPROVER), (ApprovalRule("risk", 2, groups=frozenset({"risk"})),), "2 of group risk"),
        (principal("ann", Role.APPROVER), (), "nobody"),
    ],
)
def test_whom_the_policy_does_not_let_decide_is_told_why(
    who: object, rules: tuple[ApprovalRule, ...] | None, part: str
) -> None:
    asker = principal("asker").id
    note = explain_decision(who, ON_ALIAS, rules, requested_by=asker)  # type: ignore[arg-type]  # a Principal
    assert not note.may_decide
    assert part in note.reason


def test_everything_that_grants_say_of_somebody_is_listed_with_denials() -> None:
    grants = [
        Grant("lead", Role.APPROVER, Subject(group="leads"), Reach(model="fraud-*")),
        Grant("other", Role.AUDITOR, Subject(group="auditors")),
        Grant("not-this", Role.VIEWER, EVERYBODY, Reach(model="fraud-secret"), Effect.DENY),
    ]
    held = everything_held(principal("ann", groups={"leads"}, grants=grants))
    assert (Permission.PROMOTIONS_DECIDE, "lead") in {(each.permission, each.grant.name) for each in held}
    assert {each.grant.name for each in held} == {"lead", "not-this"}
