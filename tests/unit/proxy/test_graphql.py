"""GraphQL is read-only by parsing: what a document asks for, however it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from graphql import parse
from hypothesis import given
from hypothesis import strategies as st

from app.domain.access import Permission
from app.domain.errors import CountersignError, InvalidInput, RouteRefused
from app.domain.routes.graphql import ROOT_FIELDS
from app.proxy.graphql import MAX_DEPTH, MAX_QUERY, MAX_TOKENS, judge_document, judge_graphql

TRACKING, REGISTRY = Permission.TRACKING_READ, Permission.REGISTRY_READ

GET_RUN = """
  query GetRun($data: MlflowGetRunInput!) @component(name: "MLflow.ExperimentRunTracking") {
    mlflowGetRun(input: $data) {
      apiError { helpUrl code message }
      run { info { runName status } modelVersions { version name } data { metrics { key value } } __typename }
    }
  }
"""


def body(query: object, **members: object) -> bytes:
    return json.dumps({"query": query, **members}).encode()


def permissions(query: str) -> set[Permission]:
    return set(judge_document(query).permissions)


def test_what_the_web_interface_asks_is_passed_on_with_its_variables() -> None:
    variables = {"data": {"runId": "a" * 32}}
    fresh, needed = judge_graphql(body(GET_RUN, variables=variables, operationName="GetRun"))
    sent = json.loads(fresh)

    assert needed == {TRACKING, REGISTRY}
    assert sent == {"query": sent["query"], "variables": variables, "operationName": "GetRun"}
    assert parse(sent["query"], no_location=True) == parse(GET_RUN, no_location=True)


@pytest.mark.parametrize("query", ['{test(inputString:"abc"){output}}', "query testQuery { test { output } }"])
def test_a_query_of_tracking_needs_no_more_than_tracking(query: str) -> None:
    assert permissions(query) == {TRACKING}


@pytest.mark.parametrize(
    "query",
    [
        "{ mlflowSearchModelVersions { modelVersions { name } } }",
        "{ m: mlflowSearchModelVersions { apiError { code } } }",
        "{ mlflowGetRun { run { modelVersions { name } } } }",
        "{ mlflowGetRun { run { x: modelVersions { name } } } }",
        "{ mlflowGetRun { run { ...A } } } fragment A on MlflowRun { ...B } fragment B on MlflowRun { modelVersions }",
        "{ mlflowGetRun { run { ... on MlflowRun @include(if: false) { modelVersions { name } } } } }",
        "query A { mlflowGetRun { run { info } } } query B { mlflowGetRun { run { modelVersions { name } } } }",
        "{ test } fragment Unused on MlflowRun { modelVersions { name } }",
        "{ ...A } fragment A on Query { mlflowSearchModelVersions { apiError { code } } }",
    ],
)
def test_a_field_that_crosses_to_the_registry_needs_its_permission_wherever_it_stands(query: str) -> None:
    assert REGISTRY in permissions(query)


@pytest.mark.parametrize("field", ["mlflowSearchRuns", "mlflowSearchDatasets"])
def test_the_mutations_that_only_read_pass(field: str) -> None:
    assert permissions(f"mutation {{ {field} {{ apiError {{ code }} }} }}") == {TRACKING}


@pytest.mark.parametrize(
    "query",
    [
        "mutation { testMutation { output } }",
        "mutation { mlflowSearchRuns { runs } testMutation { output } }",
        "mutation { mlflowGetRun: testMutation { output } }",
        "mutation { mlflowGetRun { run } }",
        "mutation { ...A } fragment A on Mutation { testMutation }",
        "mutation { ... { ... on Mutation { testMutation } } }",
        "mutation { testMutation @skip(if: true) { output } }",
        "query A { test } mutation B { testMutation }",
        "subscription { mlflowGetRun { run } }",
        "subscription { __typename }",
        "{ mlflowDeleteRun { run } }",
        "{ mlflowSearchDatasets { apiError } }",
        "{ __schema { types { name } } }",
        '{ __type(name: "MlflowRun") { name } }',
        "{ ... on MlflowRun { modelVersions { name } } }",
    ],
)
def test_what_is_not_known_to_only_read_is_refused(query: str) -> None:
    with pytest.raises(RouteRefused, match="only reads"):
        judge_document(query)


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        "# nothing",
        "{",
        "{}",
        "not graphql",
        "fragment A on Query { test }",
        "{ ...Missing }",
        "{ mlflowGetRun { ...Missing } }",
        "{ ...A } fragment A on Query { ...A }",
        "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }",
        "{ test } fragment A on MlflowRun { ...A }",
        "{ ...A } fragment A on Query { test } fragment A on Query { testMutation }",
        "query A { test } query A { test }",
        "{ test } { test }",
        "{ test } query A { test }",
        "{ test } type Query { test: Int }",
        "{ test } extend type Query { test: Int }",
        "{ test } schema { query: Query }",
        '{ test(a: "\\ud800") }',
        "{ mlflowGetRun " + "{ a " * MAX_DEPTH + "}" * MAX_DEPTH + "}",
        "{ mlflowGetRun " + "{ a " * 2000,
        "{ test(a: " + "[" * 2000 + "]" * 2000 + ") }",
        "{ test " * (MAX_TOKENS + 1),
        "{ test } #" + "x" * MAX_QUERY,
        "{ ...F0 } "
        + " ".join(f"fragment F{i} on Q {{ ...F{i + 1} }}" for i in range(500))
        + " fragment F500 on Q { a }",
    ],
)
def test_what_is_no_document_or_too_much_of_one_is_invalid(query: str) -> None:
    with pytest.raises(InvalidInput, match="query"):
        judge_graphql(body(query))


def test_fragments_that_spread_each_other_twice_are_read_without_explosion() -> None:
    doubling = " ".join(f"fragment F{i} on Q {{ a {{ ...F{i + 1} }} b {{ ...F{i + 1} }} }}" for i in range(14))
    query = f"{{ mlflowGetRun {{ ...F0 }} }} {doubling} fragment F14 on Q {{ modelVersions }}"

    assert permissions(query) == {TRACKING, REGISTRY}


def test_what_exceeds_mlflows_own_limits_is_left_to_mlflow_to_explain() -> None:
    many_roots = " ".join(f'key_{i}: test(inputString: "abc") {{ output }}' for i in range(12))
    many_fields = " ".join(f"field_{i} {{ name }}" for i in range(1002))
    deep = "name { " * 12 + "name" + " }" * 12
    for query in (
        f"query testQuery {{ {many_roots} }}",
        f"query testQuery {{ mlflowGetExperiment {{ experiment {{ {many_fields} }} }} }}",
        f"query testQuery {{ mlflowGetExperiment {{ experiment {{ {deep} }} }} }}",
    ):
        assert permissions(query) == {TRACKING}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b'"{\\"query\\": \\"{test}\\"}"',
        b"{}",
        b'{"query": null}',
        b'{"query": ["{test}"]}',
        b'{"query": {"a": 1}}',
        b'{"query": "{test}", "query": "mutation{testMutation}"}',
        b'{"query": "{test}", "Query": "mutation{testMutation}"}',
        b'{"query": "{test}", "extensions": {}}',
        b'{"query": "{test}", "variables": []}',
        b'{"query": "{test}", "variables": "{}"}',
        b'{"query": "{test}", "operationName": 1}',
        b'{"query": "{test}", "variables": {"a": NaN}}',
        b'{"query": "{test}", "variables": {"a": 1e999}}',
        b'{"query": "{test}", "variables": {"a": 1, "a": 2}}',
        b'{"query": "{test}", "variables": {"a": "\\ud800"}}',
        b'{"query": "{test}", "variables": {"\\u0000": 1}}',
        b'{"query": "{test}", "variables": ' + b'{"a":' * 20 + b"1" + b"}" * 20 + b"}",
        b'{"query": "{test}", "variables": ' + b"[" * 100_000,
        b'\xef\xbb\xbf{"query": "{test}"}',
        '{"query": "{test}"}'.encode("utf-16"),
        b'{"query": "{test}"} trailing',
        b"query={test}",
    ],
    ids=range(25),
)
def test_a_body_that_can_be_read_in_two_ways_is_invalid(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        judge_graphql(raw)


@pytest.mark.parametrize("members", [{}, {"variables": None}, {"operationName": None, "variables": {}}])
def test_what_was_not_sent_is_not_made_up(members: dict[str, Any]) -> None:
    assert json.loads(judge_graphql(body("{test}", **members))[0]) == {"query": "{test}", **members}


def test_a_comment_never_reaches_mlflow() -> None:
    fresh, _ = judge_graphql(body('#a\n{ test # b\r\n(inputString: "# c") }, ,'))

    assert json.loads(fresh) == {"query": '{test(inputString:"# c")}'}


def test_a_refused_document_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(RouteRefused):
            judge_graphql(body("mutation { testMutation { output } }"))


# No way of writing a document makes more of it.

IGNORED = st.sampled_from([" ", "\t", "\n", "\r\n", ",", "\ufeff", "# {test}\n", '# "\n', "#\u2028}\n"])
SPACE = st.lists(IGNORED, max_size=3).map("".join)
ALIAS = st.sampled_from(["", "test", "mlflowGetRun", "modelVersions", "__typename", "_"])
ROOTS = sorted(ROOT_FIELDS, key=str)
OUTCOMES = st.sampled_from(
    [*ROOTS, ("query", "__schema"), ("query", "unknown"), ("mutation", "unknown"), ("subscription", "mlflowGetRun")]
)


@st.composite
def spelled(draw: st.DrawFn, operation: str, field: str, inner: str) -> str:
    """A document that asks for ``inner`` of the root field ``field`` among others, in some spelling."""
    fragments: list[str] = []

    def written(*tokens: str) -> str:
        return "".join(draw(SPACE) + token + draw(SPACE) + " " for token in tokens)

    def named(name: str) -> list[str]:
        alias = draw(ALIAS)
        return [alias, ":", name] if alias else [name]

    def wrapped(selection: str) -> str:
        how = draw(st.sampled_from(["plain", "inline", "typed", "skipped", "spread"]))
        if how == "spread":
            name = f"F{len(fragments)}"
            fragments.append(written("fragment", name, "on", "Anything", "{", selection, "}"))
            return written("...", name)
        opening = {"inline": ["..."], "typed": ["...", "on", "Mutation"], "skipped": ["...", "@skip(if: true)"]}
        return written(*opening[how], "{", selection, "}") if how in opening else selection

    asked = wrapped(written(*named(field), "(", 'a: "\\u007d # }"', ")", "{", wrapped(written(*named(inner))), "}"))
    harmless = wrapped(written(*named("__typename")))
    selections = draw(st.permutations([asked, *([harmless] if draw(st.booleans()) else [])]))
    whole = written(operation, draw(st.sampled_from(["", "A"])), "{", *selections, "}")
    return "".join(draw(st.permutations([whole, *fragments])))


@given(st.data(), OUTCOMES, st.sampled_from(["info", "modelVersions"]))
def test_no_spelling_is_judged_more_leniently_than_the_plain_one(
    data: st.DataObject, asked: tuple[str, str], inner: str
) -> None:
    def judged(query: str) -> object:
        try:
            return judge_document(query).permissions
        except CountersignError as error:
            return type(error)

    operation, field = asked
    plain = judged(f"{operation} {{ {field} {{ {inner} }} }}")
    spelling = data.draw(spelled(operation, field, inner))
    found = judged(spelling)

    assert found == plain or (isinstance(found, frozenset) and isinstance(plain, frozenset) and found > plain)


@given(st.data(), OUTCOMES)
def test_mlflow_reads_the_document_that_was_judged(data: st.DataObject, asked: tuple[str, str]) -> None:
    spelling = data.draw(spelled(*asked, "info"))
    if ROOT_FIELDS.get(asked) is None:
        with pytest.raises(CountersignError):
            judge_document(spelling)
        return
    judged = judge_document(spelling)

    assert parse(judged.query, no_location=True) == parse(spelling, no_location=True)
    assert judge_document(judged.query) == judged


@given(st.text(max_size=40))
def test_a_string_is_the_same_string_to_mlflow(text: str) -> None:
    for literal in (json.dumps(text), '"""' + text.replace('"""', '\\"""').replace("\\", " ") + ' """'):
        query = f"{{ test(inputString: {literal}) }}"
        try:
            judged = judge_document(query)
        except InvalidInput:
            continue
        assert parse(judged.query, no_location=True) == parse(query, no_location=True)
