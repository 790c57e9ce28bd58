"""What the console says: a word for everything there is, and what changes between two versions."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import rollouts
from app.domain.assessing import Gate, Standing
from app.domain.deployments import Drift, Health
from app.domain.legible import legible, written_size
from app.domain.phases import Phase
from app.domain.policies import (
    DEFAULT_POLICY,
    ApprovalRule,
    BreakGlass,
    Check,
    CheckKind,
    Companions,
    OnDrift,
    Policy,
    ReasonFor,
    Rejection,
    Soak,
    Supersede,
)
from app.domain.promotions import Kind, Promotion, State
from app.domain.rollouts import AliasMoves, OnFailure, OnNoData, Rollout, Step, Strategy
from app.domain.windows import Effect, Window
from app.routers.console.comparing import MOST_ROWS, NOT_KNOWN, Mark, comparison
from app.routers.console.policy_words import in_words, protects
from app.routers.console.wording import DRIFTS, GATES, HEALTHS, KINDS, PHASES, STANDINGS, STATES, steps
from app.routers.readable import console_path

NOW = datetime(2026, 11, 20, tzinfo=UTC)
RLO = "\N{RIGHT-TO-LEFT OVERRIDE}"


def promotion(state: State, **changed: object) -> Promotion:
    values = {
        "id": "prm_1",
        "kind": Kind.PROMOTION,
        "model": "fraud",
        "alias": "production",
        "to_version": "7",
        "from_version": "6",
        "model_created_at": 1,
        "run_id": None,
        "source_uri": "models:/m",
        "uri": "/a/",
        "digest": None,
        "policy": DEFAULT_POLICY,
        "requested_by": "i|ada",
        "requested_by_name": "ada",
        "reason": "",
        "created_at": NOW,
        "updated_at": NOW,
        "state": state,
        **changed,
    }
    return Promotion(**values)  # type: ignore[arg-type]


def test_there_are_words_for_everything() -> None:
    tables = (
        *((STATES, State), (KINDS, Kind), (STANDINGS, Standing), (GATES, Gate), (PHASES, Phase)),
        *((DRIFTS, Drift), (HEALTHS, Health)),
    )
    for table, names in tables:
        assert set(table) == set(names)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("targets", [(), ("ray",)])
@pytest.mark.parametrize("alias_moved", [True, False])
def test_every_state_has_its_place_on_the_way(state: State, targets: tuple[str, ...], *, alias_moved: bool) -> None:
    policy = replace(DEFAULT_POLICY, targets=targets)
    marks = [step.mark.value for step in steps(promotion(state, policy=policy, alias_moved=alias_moved))]
    assert marks[0] == "done"
    assert marks.count("now") + marks.count("stopped") <= 1
    assert sorted(marks, key=["done", "now", "stopped", "to do"].index) == marks


def test_the_way_of_an_applied_promotion_ends_where_nothing_is_deployed() -> None:
    assert [step.mark for step in steps(promotion(State.APPLIED))] == ["done"] * 3
    deployed = replace(DEFAULT_POLICY, targets=("ray",))
    assert [step.mark for step in steps(promotion(State.ROLLING_OUT, policy=deployed))] == [*["done"] * 3, "now"]


# What changes.

CANDIDATE = {
    "exists": True,
    "metrics": {"accuracy": 0.93, "loss": "NaN", "new": 1},
    "params": {"lr": "0.1", "depth": "7"},
    "tags": {"team": "risk"},
    "flavors": ["sklearn"],
    "formats": ["pickle"],
    "has_pickle": True,
    "size": 3000,
    "signature": {"inputs": [{"name": "age", "type": "double", "required": False}], "outputs": [{"type": "long"}]},
    "created_at": "2026-11-01T10:00:00Z",
    "run": {"id": "r1", "name": "fox", "experiment_id": "3", "user": "ada"},
}
HOLDER = {
    "exists": True,
    "metrics": {"accuracy": 0.91, "loss": 0.5, "old": 2},
    "params": {"lr": "0.1", "depth": "6"},
    "tags": {"team": "risk"},
    "flavors": ["sklearn"],
    "size": 2000,
    "signature": {"inputs": [{"name": "age", "type": "long"}], "outputs": [{"type": "long"}]},
}


def test_metrics_are_compared_with_their_difference_and_its_direction() -> None:
    compared = comparison({"candidate": CANDIDATE, "holder": HOLDER, "difference": {}})
    rows = {row.name: row for row in compared.metrics.rows}
    assert (rows["accuracy"].difference, rows["accuracy"].is_more) == ("+0.02 (+2.2 %)", True)
    assert (rows["loss"].after, rows["loss"].difference) == ("nan", "")
    assert (rows["new"].mark, rows["old"].mark) == (Mark.ADDED, Mark.REMOVED)


def test_what_does_not_differ_is_counted_and_what_nobody_looked_at_is_not_called_new() -> None:
    compared = comparison({"candidate": CANDIDATE, "holder": HOLDER, "difference": {"added_files": ["a", "b"]}})
    assert [(row.name, row.before, row.after) for row in compared.params.rows] == [("depth", "6", "7")]
    assert (compared.params.same, compared.tags.same, compared.tags.rows) == (1, 1, ())
    model = {row.name: row for row in compared.model.rows}
    assert (model["Formats"].before, model["Formats"].mark) == (NOT_KNOWN, Mark.NOT_KNOWN)
    assert model["Size"].difference == "+1000 B"
    assert [(row.name, row.before, row.after) for row in compared.signature.rows] == [
        ("Input age", "long", "double, optional")
    ]
    assert [(listed.title, listed.names) for listed in compared.files] == [("Files added", ("a", "b"))]
    assert compared.has_pickle
    assert (compared.candidate.run, compared.candidate.created_at) == ("fox", datetime(2026, 11, 1, 10, tzinfo=UTC))


def test_without_a_holder_everything_is_shown_and_nothing_compared() -> None:
    compared = comparison({"candidate": CANDIDATE, "holder": {"exists": False}, "difference": {}})
    assert not compared.has_holder
    assert len(compared.params.rows) == 2
    assert not compared.signature.rows


def test_long_lists_are_cut() -> None:
    many = {f"metric {number:03}": number for number in range(MOST_ROWS + 5)}
    compared = comparison({"candidate": {"metrics": many}, "difference": {"removed_files": list(many)}})
    assert (len(compared.metrics.rows), compared.metrics.more) == (MOST_ROWS, 5)
    assert (len(compared.files[0].names), compared.files[0].more) == (MOST_ROWS, 5)


_NAMES = st.sampled_from(
    [*CANDIDATE, "candidate", "holder", "difference", "metrics", "name", "type", "inputs", "error"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_NAMES, _JSON, max_size=4))
def test_facts_of_any_shape_can_be_shown(facts: dict[str, object]) -> None:
    comparison(facts)


# Texts of others.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fraud", "fraud"),
        (f"a{RLO}b", "a[U+202E]b"),
        ("a\u200bb\x00c\x1b", "a[U+200B]b[U+0000]c[U+001B]"),
        ("\U000e0041", "[U+E0041]"),
        ("line\n\tline", "line\n\tline"),
        (
            "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER} שלום",
            "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER} שלום",
        ),
    ],
)
def test_what_hides_or_turns_text_round_is_shown_by_its_code_point(text: str, shown: str) -> None:
    assert legible(text) == shown


def test_sizes_are_written_for_people() -> None:
    assert [written_size(size) for size in (0, 1023, 1536, 5 * 1024**3)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]


def test_an_address_of_the_api_has_its_page_in_the_console() -> None:
    assert console_path("/control/v1/promotions/prm_0a") == "/console/promotions/prm_0a"
    for path in (
        "/control/v1/promotions",
        "/control/v1/promotions/prm_a/checks",
        "/control/v1/promotions/..",
        "/control/v1/me",
    ):
        assert console_path(path) == "/console"


# Policies in words.

FULL = Policy(
    name="fraud",
    revision=3,
    models="fraud-*",
    alias="production",
    workspaces="team-a",
    tags=(("tier", "1"),),
    approvals=(
        ApprovalRule("risk", 2, groups=frozenset({"risk-team"})),
        ApprovalRule("bot", 1, people=frozenset({"i|bot"}), services=True),
    ),
    rejection=Rejection.MAJORITY,
    reasons=frozenset({ReasonFor.REJECT, ReasonFor.ROLLBACK}),
    after=("staging",),
    soak=Soak("staging", 86_400),
    windows=(
        Window("office", Effect.ALLOW, "FREQ=WEEKLY;BYDAY=MO,FR", datetime(2026, 1, 5, 9), 28_800, "Europe/Berlin"),  # noqa: DTZ001  # local
        Window("freeze", Effect.DENY, "FREQ=YEARLY", datetime(2026, 12, 20), 90_000, "UTC"),  # noqa: DTZ001  # local
    ),
    checks=(
        Check("accuracy", CheckKind.EXPRESSION, expression="candidate.size > 0", message="It is there."),
        Check("audit", CheckKind.POSTED, is_required=False, valid_for_s=60),
    ),
    supersede=Supersede.OWN,
    on_drift=OnDrift.RESTORE,
    companions=Companions(previous="previous", archived=(("state", "archived"),)),
    break_glass=BreakGlass(acr=frozenset({"gold"})),
    rollback_approvals=(ApprovalRule("fast", 1, roles=frozenset({"approver"})),),
    targets=("ray",),
    alias_moves=AliasMoves.AFTER_READY,
    rollout=Rollout(
        Strategy.CANARY,
        (Step(0, 120), Step(10, None, ("errors",))),
        (rollouts.Gate("errors", 'sum(x{v="{{candidate}}"})', "<= 0.02", on_no_data=OnNoData.FAIL),),
        OnFailure.PAUSE,
    ),
)


def test_a_policy_is_told_in_sentences() -> None:
    assert protects(FULL) == "production of models like fraud-* in workspace team-a, where tier is 1"
    told = "\n".join(sentence for clause in in_words(FULL) for sentence in clause.sentences)
    for said in (
        "risk: 2 approvals, by 2 people, by group risk-team.",
        "accuracy: It is there. (candidate.size > 0).",
        "audit: CI posts that it passed, not older than 1 minute. Shown, and not required.",
        "It must have held staging for 1 day, and hold it still.",
        "office: open for 8 hours, every Mon, Fri at 09:00, from 2026-01-05 on (Europe/Berlin).",
        "freeze: closed for 1 day 1 hour, from 2026-12-20 00:00 on, repeated by FREQ=YEARLY (UTC).",
        "A reason must be given to reject, roll back.",
        "A rollback needs fast: one approval by role approver.",
        "signed in with gold less than 5 minutes ago",
        "The version that held it before gets the alias previous.",
        "reported and undone",
        "The targets are called first; the alias moves when all of them are done.",
        "by steps: 0 % for 2 minutes; 10 %, until a person says to go on, asking errors; 100 %.",
        'Gate errors: asked every 30 seconds, sum(x{v="{{candidate}}"}) must be <= 0.02.',
        "It fails after 2 failures in a row, or as often when there is no data, or when nobody answered for 10",
        "everything stays as it is until a person decides",
    ):
        assert said in told


def test_each_part_of_a_policy_changes_what_is_told() -> None:
    """So that nobody adds one and forgets to say it."""
    for part in fields(Policy):
        if part.name in {"name", "revision", "models", "alias"}:
            continue
        usual = replace(DEFAULT_POLICY, targets=FULL.targets if part.name != "targets" else ())
        other = replace(usual, **{part.name: getattr(FULL, part.name)})
        if part.name == "auto_approve":
            other = replace(usual, auto_approve=True, approvals=())
        elif part.name == "expiry":
            other = replace(usual, expiry=replace(usual.expiry, after_s=60))
        assert (protects(other), in_words(other)) != (protects(usual), in_words(usual)), part.name
