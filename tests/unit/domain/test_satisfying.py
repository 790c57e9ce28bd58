"""Policies that nobody could ever satisfy, alone or beside each other, and the reason that is given."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.calendar import RecurrenceCalendar
from app.domain.errors import InvalidInput
from app.domain.grants import MOST_STARS
from app.domain.policies import (
    DEFAULT_POLICY,
    ApprovalRule,
    BreakGlass,
    Check,
    CheckKind,
    Companions,
    Expiry,
    Policy,
    Soak,
)
from app.domain.policies.patterns import can_match_together
from app.domain.policies.satisfying import check_policy_name, contradictions, entanglements, never_opens
from app.domain.rollouts import AliasMoves, Gate, Rollout, Step, Strategy
from app.domain.windows import Window, window_from_document

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


class _Now:
    def now(self) -> datetime:
        return NOW


CALENDAR = RecurrenceCalendar(_Now())


def policy(name: str = "p", models: str = "*", alias: str = "production", *after: str, **more: object) -> Policy:
    return replace(Policy(name, 1, models, alias, DEFAULT_POLICY.approvals, after=after), **more)


def rule(name: str, *people: str, count: int = 1, groups: frozenset[str] = frozenset()) -> ApprovalRule:
    return ApprovalRule(name, count, people=frozenset(f"i|{who}" for who in people), groups=groups)


def said(policy: Policy) -> list[tuple[str, str]]:
    return contradictions(policy)


# One policy.


def test_what_is_protected_from_the_start_can_be_satisfied() -> None:
    assert said(DEFAULT_POLICY) == []
    assert entanglements([DEFAULT_POLICY], {"production"}) == {}


@pytest.mark.parametrize(
    ("rules", "where", "reason"),
    [
        ([rule("a", "ann", count=2)], "approvals[0].count", "2 people are needed, and 1 named"),
        ([rule("a", "ann"), rule("b", "ann")], "approvals[1]", "different people out of i|ann"),
        (
            [rule("a", "ann", "bob"), rule("b", "ann", "bob"), rule("c", "bob")],
            "approvals[2]",
            "the rules a, b, c need 3 different people out of i|ann, i|bob",
        ),
    ],
)
def test_more_people_than_are_named_are_refused(rules: list[ApprovalRule], where: str, reason: str) -> None:
    for at, change in (
        (where, {"approvals": tuple(rules)}),
        (f"rollback.{where}", {"rollback_approvals": tuple(rules)}),
    ):
        [(field, why)] = said(replace(policy(), **change))
        assert field == at
        assert reason in why


def test_groups_and_roles_may_always_hold_one_more() -> None:
    rules = (rule("a", "ann", count=9, groups=frozenset({"risk"})), rule("b", "ann"))
    assert said(policy(approvals=rules)) == []


@given(
    st.lists(
        st.builds(rule, st.just("r"), *[st.sampled_from("abc")] * 2, count=st.integers(1, 2)), min_size=1, max_size=3
    )
)
def test_rules_of_people_are_refused_exactly_if_everybody_together_could_not_fill_them(
    rules: list[ApprovalRule],
) -> None:
    named = [replace(each, name=str(index)) for index, each in enumerate(rules)]
    places = [each for each in named for _ in range(each.count)]
    people = sorted({who for each in named for who in each.people})
    possible = any(
        all(who in place.people for who, place in zip(order, places, strict=True))
        for order in permutations(people, len(places))
    )
    assert (not said(policy(approvals=tuple(named)))) == possible


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": "for"}, "name"),
        ({"name": "a\u200bb"}, "name"),
        ({"name": " a"}, "name"),
        ({"name": "a" * 129}, "name"),
        ({"alias": "prоduction"}, "alias"),  # a Cyrillic letter: that is the point
        ({"alias": "production\n"}, "alias"),
        ({"alias": "ｐrod*"}, "alias"),
        ({"alias": "v7"}, "alias"),
        ({"alias": "Latest"}, "alias"),
        ({"models": "team/*"}, "models"),
        ({"models": "a:b"}, "models"),
        ({"models": "*" * (MOST_STARS + 1)}, "models"),
        ({"models": "x" * 257}, "models"),
        ({"workspaces": "a\tb"}, "workspaces"),
        ({"tags": (("risk", "*" * 9),)}, "tags.risk"),
        ({"approvals": (rule("r", "ann"), rule("r", "bob"))}, "approvals[0].name"),
        ({"rollback_approvals": (rule("r", "ann"), rule("r", "bob"))}, "rollback.approvals[0].name"),
        ({"checks": (Check("c", CheckKind.POSTED), Check("c", CheckKind.POSTED))}, "checks[0].name"),
        ({"checks": (Check("a/b", CheckKind.POSTED),)}, "checks[0].name"),
        ({"break_glass": BreakGlass(review=(rule("r", "a"), rule("r", "b")))}, "breakGlass.review[0].name"),
        ({"break_glass": BreakGlass(fresh_within_s=90_000)}, "breakGlass.freshWithin"),
        ({"approvals": (), "auto_approve": True}, "breakGlass.review"),
        ({"approvals": (ApprovalRule("r", 1, people=frozenset({"ann"})),)}, "approvals[0].people"),
        ({"approvals": (ApprovalRule("r", 1, people=frozenset({"i|ann\n"})),)}, "approvals[0].people"),
        ({"approvals": (ApprovalRule("r", 1, groups=frozenset({"risk "})),)}, "approvals[0].groups"),
        (
            {"checks": (Check("c", CheckKind.POSTED, by=ApprovalRule("c", 1, people=frozenset({"ci"}))),)},
            "checks[0].posted.by.people",
        ),
        ({"expiry": Expiry(3_600, (86_400,))}, "expiry.reminders[0]"),
        ({"expiry": Expiry(3_600, (3_600,))}, "expiry.reminders[0]"),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_field(change: dict[str, object], field: str) -> None:
    assert {where for where, _ in said(policy(**change))} >= {field}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "fraud-*@production"},
        {"alias": "prod*"},
        {"alias": "[!a]-_9?"},
        {"models": "Größe *"},
        {"soak": Soak("staging", 90 * 86_400)},  # longer than the expiry: ask when it has soaked
        {"approvals": (), "auto_approve": True, "break_glass": BreakGlass(is_allowed=False)},
        {"approvals": (), "auto_approve": True, "break_glass": BreakGlass(review=(rule("r", "ann"),))},
    ],
)
def test_what_somebody_could_satisfy_is_taken(change: dict[str, object]) -> None:
    assert said(policy(**change)) == []


GATE = Gate("errors", "sum(errors)", "< 1")
CANARY = Rollout(Strategy.CANARY, (Step(10, 60), Step(50, None)), (GATE,))


@pytest.mark.parametrize(
    ("rollout", "field", "reason"),
    [
        (Rollout(planned=(Step(10),)), "rollout.steps", "for steps say `canary`"),
        (Rollout(planned=(Step(100), Step(100))), "rollout.steps[1].weight", "weights only increase"),
        (Rollout(Strategy.DARK), "rollout.steps", "expected one of weight 0"),
        (Rollout(Strategy.DARK, (Step(10),)), "rollout.steps", "expected one of weight 0"),
        (Rollout(Strategy.DARK, (Step(0), Step(10))), "rollout.steps", "expected one of weight 0"),
        (Rollout(Strategy.CANARY), "rollout.steps", "from 1 to 99 at least"),
        (Rollout(Strategy.CANARY, (Step(0), Step(100))), "rollout.steps", "from 1 to 99 at least"),
        (Rollout(Strategy.CANARY, (Step(50), Step(50))), "rollout.steps[1].weight", "more than the 50"),
        (Rollout(Strategy.CANARY, (Step(50), Step(10))), "rollout.steps[1].weight", "more than the 50"),
        (
            replace(CANARY, planned=(Step(5, 9, ("eror",)),)),
            "rollout.steps[0].gates[0]",
            "no gate eror; there are errors",
        ),
        (replace(CANARY, gates=(GATE, GATE)), "rollout.gates[0].name", "2 times"),
        (replace(CANARY, gates=(replace(GATE, name="a/b"),)), "rollout.gates[0].name", "without `/`"),
        (replace(CANARY, gates=(replace(GATE, name=" a"),)), "rollout.gates[0].name", "without `/`"),
        (replace(CANARY, gates=(replace(GATE, no_data_s=5),)), "rollout.gates[0].noDataFor", "at least the interval"),
        (Rollout(gates=(GATE,)), "rollout.gates[0]", "no step asks for errors"),
        (Rollout(Strategy.DARK, (Step(0, 60),), (GATE,)), "rollout.gates[0]", "no step asks for errors"),
    ],
)
def test_a_rollout_that_leads_nowhere_is_refused_with_the_field(rollout: Rollout, field: str, reason: str) -> None:
    found = dict(said(policy(targets=("ray",), rollout=rollout)))
    assert reason in found[field]


@pytest.mark.parametrize(
    "rollout",
    [
        Rollout(),
        CANARY,
        Rollout(planned=(Step(100, 600),), gates=(GATE,)),
        Rollout(Strategy.DARK, (Step(0, 60),)),
        Rollout(Strategy.DARK, (Step(0, 60, ("errors",)), Step(100, 60)), (GATE,)),
        replace(CANARY, planned=(Step(0), Step(5, 60), Step(100, 60))),
    ],
)
def test_a_rollout_that_leads_to_all_requests_is_taken(rollout: Rollout) -> None:
    assert said(policy(targets=("ray",), rollout=rollout)) == []


def test_there_is_nothing_to_roll_out_to_nobody() -> None:
    assert [field for field, _ in said(policy(rollout=CANARY))] == ["rollout"]
    assert [field for field, _ in said(policy(alias_moves=AliasMoves.AFTER_READY))] == ["aliasMoves"]
    assert said(policy(targets=("ray",), alias_moves=AliasMoves.AFTER_READY)) == []


def test_the_name_of_a_policy_is_a_part_of_an_address() -> None:
    assert check_policy_name("fraud-*@production") == "fraud-*@production"
    for name in ("a/b", "for", "", "a\n", "\x00"):
        with pytest.raises(InvalidInput):
            check_policy_name(name)


# Windows.


def window(effect: str, rule: str, duration: str, name: str = "w") -> Window:
    return window_from_document(
        "w",
        {
            "name": name,
            "effect": effect,
            "rule": rule,
            "starts": "2026-01-02T00:00",
            "duration": duration,
            "timezone": "Europe/Berlin",
        },
    )


FRIDAYS = window("allow", "FREQ=WEEKLY;BYDAY=FR", "4h", "fridays")
ALWAYS_CLOSED = window("deny", "FREQ=DAILY", "24h", "always")


def test_windows_that_never_open_are_refused() -> None:
    [(field, why)] = never_opens(policy(windows=(FRIDAYS, ALWAYS_CLOSED)), NOW, CALENDAR)
    assert field == "windows"
    assert "could never move" in why
    assert "always" in why


def test_windows_that_open_some_day_are_taken() -> None:
    no_fridays = window("deny", "FREQ=WEEKLY;BYDAY=FR", "24h")
    for windows in ((), (FRIDAYS,), (no_fridays,), (window("allow", "FREQ=YEARLY", "1d"),)):
        assert never_opens(policy(windows=windows), NOW, CALENDAR) == []


# Beside each other.


def refused(*policies: Policy, changed: str | None = None) -> dict[str, list[tuple[str, str]]]:
    return dict(entanglements(policies, {each.name for each in policies} if changed is None else {changed}))


def test_an_alias_that_needs_itself_is_refused() -> None:
    assert [field for field, _ in refused(policy("p", "*", "prod*", "production"))["p"]] == ["after[0]"]
    soaked = policy(alias="PRODUCTION", soak=Soak("production", 60))
    [(field, why)] = refused(soaked)["p"]
    assert field == "soak.alias"
    assert "itself" in why


def test_a_target_is_called_for_one_alias_of_a_model_alone() -> None:
    production = policy("production", "*", "production", targets=("ray",))
    staging = policy("staging", "fraud-*", "staging", targets=("lab", "ray"))
    [(field, why)] = refused(production, staging, changed="staging")["staging"]
    assert field == "targets[1]"
    assert "policy production has ray serve the same models for alias production" in why
    assert set(refused(production, staging)) == {"production", "staging"}
    [(field, why)] = refused(policy(alias="prod*", targets=("ray",)))["p"]
    assert (field, "without wild cards" in why) == ("targets[0]", True)
    elsewhere = [
        policy("of other models", "iris", "production", targets=("ray",), workspaces="default"),
        policy("of another target", "fraud-*", "staging", targets=("lab",)),
        policy("of another workspace", "iris", "staging", targets=("ray",), workspaces="lab"),
        policy("of the same alias", "ir*", "PRODUCTION", targets=("ray",), workspaces="default"),
    ]
    assert refused(*elsewhere) == {}


def test_a_circle_of_ordered_aliases_is_refused_and_named() -> None:
    production = policy("production", "*", "production", "staging")
    staging = policy("staging", "fraud-*", "staging", "production")
    [(field, why)] = refused(production, staging, changed="production")["production"]
    assert field == "after[0]"
    assert "production → staging → production" in why
    assert set(refused(production, staging, changed="staging")) == {"staging"}


def test_a_longer_circle_through_soaks_and_patterns_is_found_too() -> None:
    policies = [
        policy("a", "*", "live", "candidate"),
        policy("b", "fraud-*", "cand*", soak=Soak("tested", 60)),
        policy("c", "*-model", "test??", "LIVE"),
    ]
    for order in permutations(policies):
        assert set(refused(*order)) == {"a", "b", "c"}
    [(_, why)] = refused(*policies, changed="a")["a"]
    assert "LIVE → candidate → tested → LIVE" in why


@pytest.mark.parametrize(
    "others",
    [
        {"models": "risk-*"},
        {"models": "*-risk?"},
        {"workspaces": "b*"},
        {"tags": (("risk", "low"),)},
    ],
)
def test_policies_of_other_models_are_no_circle(others: dict[str, object]) -> None:
    first = policy("a", "fraud-[0-9]", "production", "staging", workspaces="a*", tags=(("risk", "high"),))
    second = policy("b", "fraud-*", "staging", "production")
    assert set(refused(first, second)) == {"a", "b"}
    assert refused(first, replace(second, **others)) == {}


def test_a_circle_that_no_one_model_closes_is_none() -> None:
    first = policy("a", "a*", "x", "y")
    second = policy("b", "*", "y", "z")
    third = policy("c", "b*", "z", "x")
    assert refused(first, second, third) == {}
    assert set(refused(first, second, replace(third, models="*b"))) == {"a", "b", "c"}


_aliases = st.sampled_from("xyz")


@given(
    st.lists(
        st.builds(
            policy,
            st.just("p"),
            st.sampled_from(["a", "b", "a*", "*b", "*", "c?"]),
            st.sampled_from(["x", "y", "z", "[xy]"]),
            _aliases,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_circle_is_refused_exactly_if_some_model_is_caught_in_it(policies: list[Policy]) -> None:
    policies = [replace(each, name=str(index)) for index, each in enumerate(policies)]
    caught = set[str]()
    for name in ("a", "b", "ab", "d", "ca", "cb"):
        about = [each for each in policies if fnmatchcase(name, each.models)]
        needs = {
            each.name: {other.name for other in about if any(fnmatchcase(alias, other.alias) for alias in each.after)}
            for each in about
        }
        for _ in about:  # what is needed by what is needed
            needs = {each: found.union(*(needs[other] for other in found)) for each, found in needs.items()}
        caught |= {each for each, found in needs.items() if each in found}
    assert set(refused(*policies)) == caught


def test_a_straight_order_is_taken() -> None:
    assert refused(policy("a", "*", "production", "staging", "canary"), policy("b", "*", "canary", "staging")) == {}
    assert refused(policy("a", "*", "production", "staging"), policy("b", "*", "staging", auto_approve=True)) == {}


def test_many_policies_that_lead_nowhere_are_told_from_a_circle_in_time() -> None:
    layers = [policy(f"{layer}-{n}", "*", f"l{layer}", f"l{layer + 1}") for layer in range(12) for n in range(4)]
    found = refused(*layers, changed="0-0")
    assert "too entangled" in found["0-0"][0][1]


def test_an_alias_that_moves_along_is_under_no_policy_of_its_own() -> None:
    moving = policy("a", companions=Companions(previous="previous"))
    assert refused(moving, policy("b", alias="staging")) == {}
    assert refused(moving, policy("b", alias="prev*"), changed="a")["a"][0][0] == "companions.previous"
    assert refused(moving, policy("b", alias="prev*"), changed="b")["b"][0][0] == "alias"
    assert refused(replace(moving, models="x"), policy("b", models="y", alias="prev*")) == {}
    assert (
        refused(policy("a", alias="*", companions=Companions(previous="previous")))["a"][0][0] == "companions.previous"
    )
    assert refused(moving, policy("b", alias="prev*"), changed="none") == {}


# Patterns.

_ALPHABET = "ab!]-"
_WORDS = ["".join(letters) for length in range(4) for letters in product(_ALPHABET, repeat=length)]


@pytest.mark.parametrize(
    ("patterns", "together"),
    [
        (["*", "*"], True),
        (["a*", "*b"], True),
        (["a*", "b*"], False),
        (["a*", "*b", "?"], False),
        (["[a-c]x", "[c-e]x"], True),
        (["[a-c]x", "[d-e]x"], False),
        (["[!a-z]", "[a-z]"], False),
        (["[!a]", "[!b]"], True),
        (["[", "[[]"], True),
        (["[]]", "]"], True),
        (["[b-a]", "*"], False),
        (["", "*"], True),
        (["", "?*"], False),
        (["*a*b*c*d*e*f*g*" + "x" * 200, "*g*f*e*d*c*b*a*" + "x" * 199 + "y"], False),
    ],
)
def test_whether_patterns_can_match_one_name(patterns: list[str], together: bool) -> None:  # a table
    assert can_match_together(patterns) is together


def test_patterns_that_one_of_many_words_matches_are_always_found_to_match_together() -> None:
    seeded = random.Random(5)  # examples
    for _ in range(400):
        patterns = ["".join(seeded.choices("aab*?[]!-", k=seeded.randint(0, 5))) for _ in range(seeded.randint(1, 3))]
        if any(all(fnmatchcase(word, pattern) for pattern in patterns) for word in _WORDS):
            assert can_match_together(patterns), patterns


@given(st.text("ab*?", max_size=5), st.text("ab*?", max_size=5))
def test_patterns_without_brackets_are_told_apart_exactly(first: str, second: str) -> None:
    # Whatever two such patterns share, they share in a word no longer than both together.
    words = ("".join(letters) for length in range(len(first + second) + 1) for letters in product("ab", repeat=length))
    shared = any(fnmatchcase(word, first) and fnmatchcase(word, second) for word in words)
    assert can_match_together([first, second]) == shared
