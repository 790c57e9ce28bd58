"""YAML that says something twice is refused, at any depth."""

from __future__ import annotations

import pytest
import yaml

from app.adapters.strict_yaml import DEEPEST, MOST_PARTS, load, load_documents


def test_what_is_said_once_is_read() -> None:
    assert load("a: &x {b: 1}\nc: [*x, {<<: *x, d: 2}]\n") == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1, "d": 2}]}
    assert load("") is None


@pytest.mark.parametrize("text", ["a: 1\na: 2", "x: [{a: 1, 'a': 2}]", "x: {y: {a: {}, a: {}}}", "1: a\n1: b"])
def test_what_is_said_twice_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="is there twice"):
        load(text)


def test_no_object_of_python_is_made() -> None:
    with pytest.raises(yaml.YAMLError):
        load("!!python/object/apply:os.system [id]")


def test_names_that_an_anchor_brings_again_are_not_said_twice_however_deep_they_are() -> None:
    text = "y: &y {b: 1}\nl: [{v: &x {<<: *y, b: 2}}]\nc: {<<: *x}\n"
    assert load(text) == {"y": {"b": 1}, "l": [{"v": {"b": 2}}], "c": {"b": 2}}


# Where it is said.

POLICIES = """\
# Two of them.
kind: Policy
name: one
approvals:
  - name: risk
    count: 2
  - {name: ml, groups: [a, b]}
tags: &tags
  team.x: high
---
kind: Policy
name: two
tags: {<<: {a: b}, risk: low}
"""


@pytest.mark.parametrize(
    ("document", "path", "line", "column"),
    [
        (0, "", 2, 1),
        (0, "name", 3, 1),
        (0, "approvals", 4, 1),
        (0, "approvals[0]", 5, 5),
        (0, "approvals[0].count", 6, 5),
        (0, "approvals[1].groups[1]", 7, 28),
        (0, "tags.team.x", 9, 3),
        (0, "approvals[0].people", 5, 5),  # what is not there is where it should be
        (0, "approvals[7].name", 4, 1),
        (0, "expiry.after", 2, 1),
        (1, "", 11, 1),
        (1, "tags.risk", 13, 20),
        (1, "tags.a", 13, 13),
    ],
)
def test_each_part_of_a_document_has_its_line_and_column(document: int, path: str, line: int, column: int) -> None:
    source = load_documents(POLICIES, file="p.yaml")[document]
    assert source.where(path) == f"p.yaml, line {line}, column {column}"


def test_on_is_a_word_where_people_write_policies_and_empty_documents_are_left_out() -> None:
    documents = load_documents("---\n---\non: {a: yes, b: true}\n---\n", file="f")
    assert [each.document for each in documents] == [{"on": {"a": "yes", "b": True}}]


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))])


@pytest.mark.parametrize(
    "text",
    [
        bomb(),
        "a: &a [*a]",
        "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1),
        "[" * 1_500 + "]" * 1_500,
        f"[{'a,' * (MOST_PARTS + 1)}]",
        "a: 1\n---\nb: [",
        "a: *unknown",
        "!!python/object/apply:os.system [id]",
        "a: 1\na: 2",
        "? [x]\n: 1",
        "a: \x00",
    ],
    ids=["bomb", "itself", "deep", "deeper", "many", "open", "unknown", "python", "twice", "list-as-key", "nul"],
)
def test_what_is_no_plain_document_of_a_sensible_size_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_documents(text, file="f")
