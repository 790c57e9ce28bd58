"""What stands for a model in a gate's query: whoever names models cannot change what is asked."""

from __future__ import annotations

import re

import promql_parser as promql
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.promql import PromqlParser
from app.domain.errors import InvalidInput
from app.domain.gate_queries import PLACEHOLDERS, check_query, fill, placeholders_of, sample_of, values_of

QUERY = """
sum(rate(errors_total{application="{{candidate_name}}", code=~"5..", m!="{{ model }}"}[2m]))  # "{{not read}}"
  / sum(rate(requests_total{application=~'v-{{candidate}}', t!~"a|{{target}}"}[2m]))
"""
NASTY = [
    *('a"} or up{x="', "a'b", "a\\", 'a\\"', "a\nb", "a{{model}}", "}", "`"),
    *(".*|up", "a|b", "[x", "(", "\x00", "é\u202e", "\\E.*"),
]


def matchers(query: str) -> list[tuple[str, str, str]]:
    """Each comparison of a label in a query, as a reader that is not ours takes it."""
    found: list[tuple[str, str, str]] = []

    def look(node: promql.Expr) -> None:
        if isinstance(node, promql.VectorSelector):
            found.extend((str(each.op), each.name, each.value) for each in node.matchers.matchers)

    promql.walk(promql.parse(query), look)
    return found


def shape(query: str) -> list[str]:
    """The parts of a query without the values of its labels."""
    found: list[str] = []

    def look(node: promql.Expr) -> None:
        what = node.name if isinstance(node, promql.VectorSelector) else getattr(node, "op", "")
        found.append(f"{type(node).__name__} {what}")

    promql.walk(promql.parse(query), look)
    return found


@pytest.mark.parametrize("value", NASTY)
def test_a_name_stays_inside_its_quotes(value: str) -> None:
    _assert_stays_inside(value)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_every_name_stays_inside_its_quotes(value: str) -> None:
    _assert_stays_inside(value)


def _assert_stays_inside(value: str) -> None:
    filled = fill(QUERY, dict.fromkeys(PLACEHOLDERS, value))
    by_label = {name: given for _, name, given in matchers(filled) if name in ("m", "t")}
    plain = [given for op, _, given in matchers(filled) if op.endswith("Equal")]
    assert plain == [value, value]
    pattern = by_label["t"]
    assert pattern.startswith("a|")
    assert re.fullmatch(pattern, value)
    assert not re.fullmatch(pattern, f"{value}x")
    assert len(matchers(filled)) == len(matchers(sample_of(QUERY)))
    assert shape(filled) == shape(sample_of(QUERY))


def test_half_a_character_matches_nothing_rather_than_breaks_the_query() -> None:
    assert fill('x{m="{{model}}"}', {"model": "a\ud800"}) == 'x{m="a\ufffd"}'


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("sum({{model}})", "inside a quoted value"),
        ("{{model}}", "inside a quoted value"),
        ('label_replace(up, "a", "{{model}}", "b", "")', "inside a quoted value"),
        ('{"{{model}}"}', "inside a quoted value"),
        ('x == "{{model}}"', "inside a quoted value"),
        ("x{m=`{{model}}`}", "single or double quotes"),
        ('x{m="{{modle}}"}', "unknown placeholder modle"),
        ('x{m="{{model"}', "unknown placeholder"),
        ('x{m="{{{model}}}"}', "unknown placeholder"),
        ('x{m="{{Model}}"}', "unknown placeholder"),
        ('x{m="\\{{model}}"}', "no backslash"),
        ('x{m=~"\\\\{{model}}"}', "no backslash"),
        ('x{m=~"[{{model}}]"}', "no backslash"),
        ('x{m=~"[]{{model}}]"}', "no backslash"),
        ('x{m=~"\\\\Qa{{model}}"}', "no backslash"),
        ('x{m="a', "each quote to be closed"),
        ('x{m="a\n"}', "each quote to be closed"),
        ("x" * 4_001, "at most 4000"),
        ("(" * 51 + "1" + ")" * 51, "at most 50 nested brackets"),
        ("-" * 201 + "1", "200 operators"),
    ],
)
def test_a_placeholder_elsewhere_is_refused(query: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(reason)) as refused:
        check_query("rollout.gates[0].query", query)
    assert refused.value.problems[0][0] == "rollout.gates[0].query"


def test_the_placeholders_of_a_query_are_known() -> None:
    assert placeholders_of(QUERY) == {"candidate_name", "model", "candidate", "target"}
    assert check_query("query", 'x{m=~"[a-z]+-{{model}}"}')


@pytest.mark.parametrize("values", [{}, {"candidate_name": ""}])
def test_what_is_not_known_is_not_asked(values: dict[str, str]) -> None:
    """An empty value would match every series that has no such label."""
    with pytest.raises(InvalidInput, match=re.escape("not known what {{candidate_name}} is")):
        fill('x{application="{{candidate_name}}"}', values)


def test_names_are_those_that_the_target_reports() -> None:
    names = {"8": "iris--v8", "7": "iris--v7"}
    values = values_of(model="iris", workspace="default", target="ray", candidate="8", stable="7", names=names)
    assert set(values) == set(PLACEHOLDERS)
    assert (values["candidate_name"], values["stable_name"]) == ("iris--v8", "iris--v7")
    first = values_of(model="iris", workspace="default", target="ray", candidate="8", stable="", names={"": "x"})
    assert (first["candidate_name"], first["stable"], first["stable_name"]) == ("", "", "")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("sum(", "unclosed left parenthesis"),
        ("rate(x)", "expected type matrix"),
        ("x[5m]", "take a rate"),
        ("(x[5m:1m])", "take a rate"),
        ('("a")', "this is a text"),
        ("nosuch(x)", "unknown function"),
        ('x{m=~"("}', "illegal regex"),
    ],
)
def test_what_gives_no_number_is_refused_before_it_is_asked(query: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as refused:
        PromqlParser().check(query, field="query")
    assert refused.value.problems[0][0] == "query"


@pytest.mark.parametrize("query", [QUERY, "1", "time()", "(sum(x))", "x > 5", "absent(up)", "-x", "scalar(x)"])
def test_what_gives_numbers_is_taken(query: str) -> None:
    PromqlParser().check(sample_of(query), field="query")
