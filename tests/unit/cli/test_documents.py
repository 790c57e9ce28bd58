"""The YAML of `countersign apply`: what people mean is what is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli.documents import read_documents, written
from app.domain.errors import InvalidInput


def read(tmp_path: Path, text: str | bytes) -> list[object]:
    file = tmp_path / "f.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_documents(file)


def test_on_is_a_word_and_no_truth_value(tmp_path: Path) -> None:
    document = {"on": {"model": "yes", "alias": "off"}, "n": "no", "truth": True, "name": "true", "number": "7"}
    assert read(tmp_path, "on: {model: yes, alias: off}\nn: no\ntruth: true\nname: 'true'\nnumber: '7'\n") == [document]
    assert written(document).startswith("on:\n  model: yes\n")
    assert read(tmp_path, written(document)) == [document]


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
