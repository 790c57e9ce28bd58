"""The documents of policies: what is read is what was written, and what is wrong is said with its path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidInput
from app.domain.policies import (
    DEFAULT_POLICY,
    ApprovalRule,
    BreakGlass,
    Check,
    CheckKind,
    Companions,
    Expiry,
    OnDrift,
    Policy,
    ReasonFor,
    Rejection,
    Soak,
    Supersede,
    document_of,
    policy_from_document,
)
from app.domain.policies.documents import short_document_of
from app.domain.policies.revisions import Retirement, Revision, policy_or_retirement, retired_document
from app.domain.roles import Role
from app.domain.rollouts import AliasMoves, Gate, OnFailure, OnNoData, Rollout, Step, Strategy
from app.domain.signatures import SignedBy, SignerKind
from app.domain.windows import Effect, Window

OLD = {
    "kind": "Policy",
    "name": "production",
    "models": "*",
    "alias": "production",
    "approvals": [{"name": "r", "count": 2, "roles": ["approver"], "groups": [], "people": []}],
    "rollback": {"approvals": [{"name": "one", "count": 1, "roles": [], "groups": ["ops"], "people": ["x|y"]}]},
    "targets": ["ray"],
}
"""As the release before wrote it."""

GATE = {"name": "errors", "query": "sum(errors)", "pass": "<= 0.02"}

_FIELDS = list(document_of(DEFAULT_POLICY))
_INSIDE = [
    *("name", "count", "roles", "people", "after", "alias", "for", "posted", "by", "expression", "signature"),
    *("allowed", "review", "promoted", "steps", "gates", "weight", "hold", "query", "pass"),
]

_names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6).filter(str.strip)
_aliases = st.sampled_from(["staging", "canary", "A-b_1"])
_seconds = st.integers(1, 10_000_000)
_some = st.frozensets(_names, max_size=2)
_tags = st.dictionaries(_names, st.text("abc*", max_size=3), max_size=2).map(lambda tags: tuple(sorted(tags.items())))
_rule = st.builds(
    ApprovalRule,
    name=_names,
    count=st.integers(1, 100),
    roles=st.frozensets(st.sampled_from([role.value for role in Role]), max_size=2),
    groups=_some,
    people=st.frozensets(_names, min_size=1, max_size=2),
    services=st.booleans(),
)
_rules = st.lists(_rule, max_size=2).map(tuple)
_signer = st.builds(
    SignedBy,
    st.just(SignerKind.IDENTITY),
    st.just("ci@example.org"),
    st.just("https://issuer.example"),
    st.just("x.sig"),
)
_waits = st.integers(1, 604_800)
_step = st.builds(Step, st.integers(0, 100), st.none() | st.just(0) | _waits, st.lists(_names, max_size=2).map(tuple))
_gate = st.builds(
    Gate,
    name=_names,
    query=st.just('sum(x{m="{{model}}"})'),
    passes=st.sampled_from(["<= 0.02", "> 1"]),
    interval_s=_waits,
    failure_limit=st.integers(1, 100),
    min_passes=st.integers(1, 100),
    on_no_data=st.sampled_from(OnNoData),
    no_data_s=_waits,
)
_rollouts = st.builds(
    Rollout,
    strategy=st.sampled_from(Strategy),
    planned=st.lists(_step, max_size=3).map(tuple),
    gates=st.lists(_gate, max_size=2).map(tuple),
    on_failure=st.sampled_from(OnFailure),
)


@st.composite
def _checks(draw: st.DrawFn) -> Check:
    name, kind = draw(_names), draw(st.sampled_from(CheckKind))
    posters = ApprovalRule(name, 1, groups=draw(_some), people=frozenset({"ci"}), services=True)
    is_posted = kind is CheckKind.POSTED
    return Check(
        name,
        kind,
        is_required=draw(st.booleans()),
        expression=draw(_names) if kind is CheckKind.EXPRESSION else "",
        message=draw(_names | st.just("")),
        valid_for_s=draw(st.none() | _seconds) if is_posted else None,
        by=draw(st.none() | st.just(posters)) if is_posted else None,
        signed_by=draw(_signer) if kind is CheckKind.SIGNATURE else None,
    )


@st.composite
def _policies(draw: st.DrawFn) -> Policy:
    auto_approve = draw(st.booleans())
    reminders = draw(st.frozensets(_seconds, max_size=3))
    return Policy(
        name=draw(_names),
        revision=draw(st.integers(1, 9)),
        models=draw(_names),
        alias=draw(_names),
        approvals=() if auto_approve else (draw(_rule), *draw(_rules)),
        workspaces=draw(_names),
        tags=draw(_tags),
        auto_approve=auto_approve,
        rejection=draw(st.sampled_from(Rejection)),
        reasons=draw(st.frozensets(st.sampled_from(ReasonFor))),
        expiry=Expiry(draw(_seconds), tuple(sorted(reminders, reverse=True))),
        after=draw(st.lists(_aliases, max_size=2).map(tuple)),
        soak=draw(st.none() | st.builds(Soak, _aliases, _seconds)),
        windows=draw(
            st.lists(st.builds(_window, st.sampled_from(Effect), st.integers(1, 86_400)), max_size=2).map(tuple)
        ),
        checks=draw(st.lists(_checks(), max_size=3).map(tuple)),
        supersede=draw(st.sampled_from(Supersede)),
        on_drift=draw(st.sampled_from(OnDrift)),
        companions=draw(st.builds(Companions, st.none() | _aliases, _tags, _tags)),
        break_glass=draw(st.builds(BreakGlass, st.booleans(), _seconds, _some, _rules)),
        rollback_approvals=draw(_rules),
        targets=draw(st.lists(_names, max_size=2).map(tuple)),
        alias_moves=draw(st.sampled_from(AliasMoves)),
        rollout=draw(_rollouts),
    )


def _window(effect: Effect, duration_s: int) -> Window:
    return Window("w", effect, "FREQ=WEEKLY;BYDAY=FR", datetime(2026, 1, 2, 18), duration_s, "Europe/Berlin")  # noqa: DTZ001  # local


# Reading back.


def is_plain(value: object) -> bool:
    if type(value) is dict:
        return all(type(key) is str and is_plain(inner) for key, inner in value.items())
    return all(map(is_plain, value)) if type(value) is list else type(value) in {str, int, bool}


@given(_policies())
def test_every_policy_reads_back_as_it_was_written_also_through_a_database(policy: Policy) -> None:
    assert is_plain(document_of(policy)), "YAML writes nothing else"
    kept = json.loads(json.dumps(document_of(policy), sort_keys=True))
    assert policy_from_document(kept, revision=policy.revision) == policy
    assert policy_from_document(short_document_of(policy), revision=policy.revision) == policy


def test_a_document_of_the_release_before_means_what_it_meant() -> None:
    assert policy_from_document(OLD, revision=3) == Policy(
        "production",
        3,
        "*",
        "production",
        approvals=(ApprovalRule("r", 2, roles=frozenset({"approver"})),),
        rollback_approvals=(ApprovalRule("one", 1, groups=frozenset({"ops"}), people=frozenset({"x|y"})),),
        targets=("ray",),
    )


def test_a_kept_document_says_what_was_left_to_its_default_and_the_short_one_does_not() -> None:
    assert document_of(DEFAULT_POLICY)["expiry"] == {"after": "14d", "reminders": ["1d"]}
    assert set(short_document_of(DEFAULT_POLICY)) == {"kind", "name", "models", "alias", "approvals"}
    changed = policy_from_document({**OLD, "rejection": "majority"}, revision=1)
    assert short_document_of(changed)["rejection"] == "majority"


def read(**fields: object) -> Policy:
    return policy_from_document({**OLD, **fields}, revision=1)


def test_defaults_follow_what_is_said_beside_them() -> None:
    assert read(expiry={"after": "12h"}).expiry == Expiry(43_200, ())
    assert read(expiry={"reminders": ["1h", "2d", "1h"]}).expiry.reminders_s == (172_800, 3_600)
    assert read().break_glass.is_allowed
    # Nobody approves there, so nobody would review.
    assert not read(approvals=[], autoApprove=True).break_glass.is_allowed


def test_who_posts_a_check_may_be_a_service_and_who_approves_may_not() -> None:
    [check] = read(checks=[{"name": "ci", "posted": {"validFor": "24h", "by": {"people": ["i|ci"]}}}]).checks
    assert check.by
    assert (check.by.services, check.valid_for_s) == (True, 86_400)
    assert not read().approvals[0].services


# What is wrong.


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
        ({"approvals": [{"name": "r", "roles": ["king"]}]}, "approvals[0].roles[0]"),
        ({"approvals": [{"name": "r", "rolls": ["approver"]}]}, "approvals[0].rolls"),
        ({"approvals": [{"name": "r", "people": ["x"], "services": "no"}]}, "approvals[0].services"),
        ({"autoApprove": True}, "autoApprove"),
        ({"autoApprove": "yes"}, "autoApprove"),
        ({"workspaces": ["a"]}, "workspaces"),
        ({"tags": ["risk"]}, "tags"),
        ({"tags": {"risk": True}}, "tags.risk"),
        ({"rejection": "all"}, "rejection"),
        ({"reasons": ["approve", "sleep"]}, "reasons[1]"),
        ({"expiry": "14d"}, "expiry"),
        ({"expiry": {"after": 14}}, "expiry.after"),
        ({"expiry": {"reminders": ["1 day"]}}, "expiry.reminders[0]"),
        ({"after": ["staging", "ｓtaging"]}, "after[1]"),
        ({"after": ["staging\n"]}, "after[0]"),
        ({"after": ["latest"]}, "after[0]"),
        ({"soak": {"alias": "v7", "for": "1d"}}, "soak.alias"),
        ({"soak": {"alias": "staging"}}, "soak.for"),
        ({"soak": None}, "soak"),
        ({"windows": [{"name": "w"}]}, "windows[0].duration"),
        ({"checks": [{"name": "c"}]}, "checks[0]"),
        ({"checks": [{"name": "c", "expression": "a", "posted": {}}]}, "checks[0]"),
        ({"checks": [{"name": "c", "expression": 7}]}, "checks[0].expression"),
        ({"checks": [{"name": "c", "posted": {"validFor": 5}}]}, "checks[0].posted.validFor"),
        ({"checks": [{"name": "c", "posted": {"by": {}}}]}, "checks[0].posted.by"),
        ({"checks": [{"name": "c", "signature": {}}]}, "checks[0].signature"),
        ({"checks": [{"expression": "a"}]}, "checks[0].name"),
        ({"supersede": "none"}, "supersede"),
        ({"drift": True}, "drift"),
        ({"companions": {"previous": "ｐrevious"}}, "companions.previous"),
        ({"companions": {"archived": {"a": 1}}}, "companions.archived.a"),
        ({"breakGlass": False}, "breakGlass"),
        ({"breakGlass": {"freshWithin": "soon"}}, "breakGlass.freshWithin"),
        ({"breakGlass": {"review": [{}]}}, "breakGlass.review[0].name"),
        ({"rollback": {"aprovals": []}}, "rollback.aprovals"),
        ({"targets": "ray"}, "targets"),
        ({"target": ["ray"]}, "target"),
        ({"aliasMoves": "later"}, "aliasMoves"),
        ({"rollout": "canary"}, "rollout"),
        ({"rollout": {"strategy": "blue"}}, "rollout.strategy"),
        ({"rollout": {"step": []}}, "rollout.step"),
        ({"rollout": {"steps": [{"hold": "5m"}]}}, "rollout.steps[0].weight"),
        ({"rollout": {"steps": [{"weight": 101}]}}, "rollout.steps[0].weight"),
        ({"rollout": {"steps": [{"weight": True}]}}, "rollout.steps[0].weight"),
        ({"rollout": {"steps": [{"weight": 5.5}]}}, "rollout.steps[0].weight"),
        ({"rollout": {"steps": [{"weight": 5, "hold": 300}]}}, "rollout.steps[0].hold"),
        ({"rollout": {"steps": [{"weight": 5, "hold": "by hand"}]}}, "rollout.steps[0].hold"),
        ({"rollout": {"steps": [{"weight": 5, "hold": "8d"}]}}, "rollout.steps[0].hold"),
        ({"rollout": {"steps": [{"weight": 5, "gates": "errors"}]}}, "rollout.steps[0].gates"),
        ({"rollout": {"steps": [{"weight": 5}] * 21}}, "rollout.steps"),
        ({"rollout": {"gates": [GATE | {"name": ""}]}}, "rollout.gates[0].name"),
        ({"rollout": {"gates": [GATE | {"query": "x{{model}}"}]}}, "rollout.gates[0].query"),
        ({"rollout": {"gates": [GATE | {"query": 'x{m="{{name}}"}'}]}}, "rollout.gates[0].query"),
        ({"rollout": {"gates": [GATE | {"pass": 0.02}]}}, "rollout.gates[0].pass"),
        ({"rollout": {"gates": [GATE | {"pass": "below 0.02"}]}}, "rollout.gates[0].pass"),
        ({"rollout": {"gates": [GATE | {"interval": "0s"}]}}, "rollout.gates[0].interval"),
        ({"rollout": {"gates": [GATE | {"failureLimit": 0}]}}, "rollout.gates[0].failureLimit"),
        ({"rollout": {"gates": [GATE | {"minPasses": "2"}]}}, "rollout.gates[0].minPasses"),
        ({"rollout": {"gates": [GATE | {"onNoData": "pass"}]}}, "rollout.gates[0].onNoData"),
        ({"rollout": {"gates": [GATE | {"noDataFor": 600}]}}, "rollout.gates[0].noDataFor"),
        ({"rollout": {"gates": [GATE | {"no_data": "fail"}]}}, "rollout.gates[0].no_data"),
        ({"rollout": {"gates": [GATE] * 21}}, "rollout.gates"),
        ({"rollout": {"onFailure": "hope"}}, "rollout.onFailure"),
        ({7: 1}, "7"),
    ],
)
def test_a_wrong_policy_is_refused_with_the_name_of_the_field(change: Mapping[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        policy_from_document({**OLD, **change}, revision=1)
    assert refused.value.details["field"] == field


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidInput) as refused:
        read(models=1, rejection="x", approvals=[{"name": "a", "count": 0, "people": ["p"]}, {"name": "b", "x": 1}])
    fields = [field for field, _ in refused.value.problems]
    assert sorted(fields) == ["approvals[0].count", "approvals[1].x", "models", "rejection"]
    assert len(refused.value.message.splitlines()) == 4
    assert len(refused.value.details["errors"]) == 4  # type: ignore[arg-type]  # of a document


def test_a_misspelt_field_is_told_from_what_was_meant() -> None:
    with pytest.raises(InvalidInput, match=r"aprovals: unknown field; did you mean approvals\? expected one of name,"):
        read(aprovals=[])


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*_INSIDE, "x"]), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*_FIELDS, "retired", "y"]), _anything, max_size=4))
def test_whatever_is_sent_is_a_policy_or_refused_by_field(change: dict[str, object]) -> None:
    with suppress(InvalidInput):
        found = policy_or_retirement({**OLD, **change})
        if isinstance(found, Policy):
            assert policy_from_document(document_of(found), revision=0) == found


# The end of a policy.


def test_a_policy_is_retired_by_a_document_that_says_nothing_else() -> None:
    assert policy_or_retirement({"kind": "Policy", "name": "p", "retired": True}) == Retirement("p")
    assert isinstance(policy_or_retirement(OLD), Policy)
    wrong: list[dict[str, object]] = [{"retired": False}, {"retired": True, "targets": []}, {"retired": None}]
    for each in wrong:
        with pytest.raises(InvalidInput):
            policy_or_retirement({"kind": "Policy", "name": "p", **each})


def test_what_retires_a_policy_can_be_read_as_that_again() -> None:
    document = retired_document(DEFAULT_POLICY)
    assert policy_or_retirement(document) == Retirement("production")
    revision = Revision("production", 2, document, datetime(2026, 1, 1), "operator")  # noqa: DTZ001  # not looked at
    assert (revision.is_retired, revision.models, revision.document) == (True, "*", document)
