"""Who may break the glass, how fresh their sign-in must be, and who closes the review."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.access import Principal, PrincipalKind, Role
from app.domain.break_glass import CLOCKS_DIFFER, check_may_break, check_may_review, reviewers
from app.domain.errors import Forbidden, InsufficientAuthentication, NotAnApprover, SelfApproval
from app.domain.identity import Credential, CredentialKind, Scope
from app.domain.policies import DEFAULT_POLICY, ApprovalRule, BreakGlass
from app.domain.problems import insufficient_authentication
from app.domain.promotions import URGENCY, Kind, Promotion
from app.domain.roles import NOT_FOR_ONESELF, ROLE_PERMISSIONS, SCOPE_PERMISSIONS, UNATTENDED, Permission
from tests.principals import principal

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
STRICT = replace(DEFAULT_POLICY, break_glass=BreakGlass(fresh_within_s=300, acr=frozenset({"urn:mfa"})))


def responder(proved: datetime | None, acr: str | None = None) -> Principal:
    credential = Credential(CredentialKind.SESSION, authenticated_at=proved, acr=acr)
    return replace(principal("rae", Role.RESPONDER), credential=credential)


@given(age=st.floats(min_value=-(10**6), max_value=10**6))
def test_only_a_sign_in_that_is_fresh_and_not_in_the_future_is_enough(age: float) -> None:
    asking = responder(NOW - timedelta(seconds=age))
    fresh = -CLOCKS_DIFFER.total_seconds() <= round(age, 6) <= 300
    if fresh:
        check_may_break(asking, DEFAULT_POLICY, at=NOW)
    else:
        with pytest.raises(InsufficientAuthentication):
            check_may_break(asking, DEFAULT_POLICY, at=NOW)


def test_a_sign_in_of_which_nobody_says_when_it_was_is_not_fresh() -> None:
    with pytest.raises(InsufficientAuthentication, match="Nobody vouches"):
        check_may_break(responder(None), DEFAULT_POLICY, at=NOW)


@pytest.mark.parametrize("acr", [None, "urn:password", "URN:MFA"])
def test_a_weaker_sign_in_than_the_policy_asks_for_is_refused(acr: str | None) -> None:
    with pytest.raises(InsufficientAuthentication) as refused:
        check_may_break(responder(NOW, acr), STRICT, at=NOW)
    said = insufficient_authentication(refused.value, public_url="https://countersign.example")
    assert 'error="insufficient_user_authentication"' in said
    assert 'max_age="300"' in said
    assert 'acr_values="urn:mfa"' in said
    check_may_break(responder(NOW, "urn:mfa"), STRICT, at=NOW)


def test_neither_services_nor_what_the_policy_forbids() -> None:
    robot = replace(
        principal("robot", Role.RESPONDER, kind=PrincipalKind.SERVICE), credential=responder(NOW).credential
    )
    with pytest.raises(Forbidden, match="service"):
        check_may_break(robot, DEFAULT_POLICY, at=NOW)
    never = replace(DEFAULT_POLICY, break_glass=BreakGlass(is_allowed=False))
    with pytest.raises(Forbidden, match="does not allow"):
        check_may_break(responder(NOW), never, at=NOW)


def test_it_is_a_permission_of_its_own_that_nothing_unattended_holds() -> None:
    holding = {role for role, held in ROLE_PERMISSIONS.items() if Permission.PROMOTIONS_BREAK_GLASS in held}
    assert holding == {Role.RESPONDER}
    assert Role.RESPONDER in NOT_FOR_ONESELF
    scopes = {scope for scope, held in SCOPE_PERMISSIONS.items() if Permission.PROMOTIONS_BREAK_GLASS in held}
    assert scopes == {Scope.APPROVE}
    assert not scopes & UNATTENDED


# The review.


def broken(by: Principal) -> Promotion:
    return Promotion(
        id="prm_1", kind=Kind.BREAK_GLASS, model="m", alias="production", to_version="2", from_version="1",
        model_created_at=1, run_id=None, source_uri="s3://b/m", uri="s3://b/m/", digest=None, policy=DEFAULT_POLICY,
        requested_by=by.id, requested_by_name=by.name, reason="down", created_at=NOW, updated_at=NOW,
    )  # fmt: skip


def test_who_broke_the_glass_never_reviews_it_whatever_their_roles() -> None:
    both = principal("rae", Role.RESPONDER, Role.APPROVER)
    with pytest.raises(SelfApproval):
        check_may_review(reviewers([DEFAULT_POLICY]), both, broken(both), roles=[Role.APPROVER])


def test_who_is_named_reviews_and_others_do_not() -> None:
    promotion, ann = broken(principal("rae")), principal("ann", groups=["risk"])
    rules = reviewers([replace(DEFAULT_POLICY, break_glass=BreakGlass(review=(risk(),)))])
    check_may_review(rules, ann, promotion, roles=[])
    with pytest.raises(NotAnApprover, match="risk: group risk"):
        check_may_review(rules, principal("bob"), promotion, roles=[Role.APPROVER])
    with pytest.raises(NotAnApprover, match="service"):
        robot = principal("robot", kind=PrincipalKind.SERVICE, groups=["risk"])
        check_may_review(rules, robot, promotion, roles=[])
    with pytest.raises(NotAnApprover, match="names nobody"):
        check_may_review((), ann, promotion, roles=[Role.APPROVER])


def test_the_policy_in_force_names_reviewers_too_so_that_no_alias_is_blocked_for_ever() -> None:
    gone = replace(
        DEFAULT_POLICY, break_glass=BreakGlass(review=(ApprovalRule("gone", 1, groups=frozenset({"gone"})),))
    )
    ann, promotion = principal("ann", groups=["risk"]), broken(principal("rae"))
    with pytest.raises(NotAnApprover):
        check_may_review(reviewers([gone]), ann, promotion, roles=[])
    now = replace(DEFAULT_POLICY, break_glass=BreakGlass(review=(risk(),)))
    check_may_review(reviewers([gone, now]), ann, promotion, roles=[])


def test_every_kind_has_an_urgency_and_an_ordinary_promotion_the_least() -> None:
    assert set(URGENCY) == set(Kind)
    assert sorted(Kind, key=URGENCY.__getitem__) == [Kind.PROMOTION, Kind.RESTORE, Kind.ROLLBACK, Kind.BREAK_GLASS]


def risk() -> ApprovalRule:
    return ApprovalRule("risk", 1, groups=frozenset({"risk"}))
