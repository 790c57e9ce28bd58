"""The YAML of `countersign apply`: what people mean is what is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.adapters.strict_yaml import written
from app.cli.documents import LARGEST, read_documents
from app.domain.errors import InvalidInput


def read(tmp_path: Path, text: str | bytes) -> list[object]:
    file = tmp_path / "f.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return [source.document for source in read_documents(file)]


def test_on_is_a_word_and_no_truth_value(tmp_path: Path) -> None:
    document = {"on": {"model": "yes", "alias": "off"}, "n": "no", "truth": True, "name": "true", "number": "7"}
    assert read(tmp_path, "on: {model: yes, alias: off}\nn: no\ntruth: true\nname: 'true'\nnumber: '7'\n") == [document]
    assert written(document).startswith("on:\n  model: yes\n")
    assert read(tmp_path, written(document)) == [document]


def test_a_text_of_several_lines_is_written_as_such_and_read_back(tmp_path: Path) -> None:
    query = "sum(rate(errors{version='{{ version }}'}[5m]))\n  / sum(rate(requests[5m]))\n"
    text = written({"gates": [{"query": query, "max": 1}], "line": "x " * 100})
    assert "- query: |\n    sum(rate(errors{version='{{ version }}'}[5m]))\n      / sum(rate(requests[5m]))\n" in text
    assert len(text.splitlines()) == 6
    for other in ("a\n", "\n", " a\nb", "\n a\n", "a\nb\n\n", "a\r\nb", "a\x85\nb", "a\u2028\nb", "a \nb", "a\n\tb"):
        assert read(tmp_path, written({"on": [other], other: 1})) == [{"on": [other], other: 1}]


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "s: {group: a, group: b}\n", "? [x]\n: 1\n? [x]\n: 2\n"])
def test_a_key_that_is_there_twice_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput, match="line"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", "a: [", "!!python/object/apply:os.system ['true']", "a: \x00"])
def test_what_is_no_plain_yaml_is_refused(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(InvalidInput):
        read(tmp_path, text)


def test_empty_documents_are_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, "---\n---\na: 1\n---\n") == [{"a": 1}]


def test_a_file_that_is_too_large_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="larger"):
        read(tmp_path, "a: " + "x" * LARGEST)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_documents(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a:\n  - b: 1\n   c: 2\n", "look at the indentation"),
        ("a: b: c\n", "look at the indentation"),
        ("a: *\n", "what begins with * or & needs quotes"),
        ("- {a: !candidate.has_pickle}\n", "what begins with ! needs quotes"),
        ("a: !candidate.has_pickle\n", "what begins with ! needs quotes"),
        ("a:\n\t- b\n", "not tabs"),
    ],
)
def test_what_people_get_wrong_in_yaml_has_a_hint(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(hint)):
        read(tmp_path, text)


def test_what_is_wrong_is_said_with_the_file_and_the_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"f\.yaml, line 2, column 1: expected YAML: a is there twice"):
        read(tmp_path, "a: 1\na: 2\n")
    with pytest.raises(InvalidInput, match="nested deeper"):
        read(tmp_path, "[" * 60 + "]" * 60)
