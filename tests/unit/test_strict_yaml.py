"""YAML that says something twice is refused, at any depth."""

from __future__ import annotations

import pytest
import yaml

from app.adapters.strict_yaml import load


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
