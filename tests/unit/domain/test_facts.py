"""The table of facts is whole, and what evidence is made of is read as MLflow writes it, whoever wrote it."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.expressions import CelExpressions
from app.adapters.lenient_yaml import load_or_nothing
from app.domain.facts import FACTS, Clause, Evaluated, ListOf, MapOf, Record, Scalar, rows
from app.domain.formats import FORMATS, PICKLES, START, format_of
from app.domain.mlmodel import facts_of, python_of, requirements_of
from tests.facts import is_of

MLMODEL = """\
artifact_path: model
flavors:
  python_function:
    code: code
    env: {conda: conda.yaml, virtualenv: python_env.yaml}
    loader_module: mlflow.pyfunc.model
    python_version: 3.11.7
  sklearn:
    pickled_model: model.pkl
mlflow_version: 3.17.2
model_size_bytes: 1387
prompts: null
saved_input_example_info:
  artifact_path: input_example.json
signature:
  inputs: '[{"type": "double", "name": "age", "required": true},
    {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 3]}}]'
  outputs: '[{"type": "long", "required": true}]'
  params: null
utc_time_created: '2026-11-20 20:19:23.244314'
"""
PATHS = {"MLmodel", "input_example.json", "code/train.py"}


def all_rows() -> list[tuple[str, Any]]:
    return [(f"{name}.{path}", fact) for name, root in FACTS.fields.items() for path, fact in rows(root)]


def test_every_fact_has_a_source_and_a_path_of_its_own() -> None:
    paths = [path for path, _ in all_rows()]
    assert len(paths) == len(set(paths))
    assert [path for path, fact in all_rows() if not fact.source] == []
    assert {"candidate.metrics", "holder.files[].format", "difference.metrics", "promotion.requested_at"} <= set(paths)


def test_holder_and_candidate_have_the_same_facts() -> None:
    assert FACTS.fields["holder"].type == FACTS.fields["candidate"].type
    assert "exists" in FACTS.fields["holder"].type.fields  # type: ignore[union-attr]


@pytest.mark.parametrize(("path", "fact"), [row for row in all_rows() if "[]" not in row[0]])
def test_every_fact_can_be_asked_for_and_its_example_is_of_its_type(path: str, fact: Any) -> None:
    expressions = CelExpressions()
    assert expressions.check(f"has({path})", field="check") == {path}
    if not fact.example:
        return
    match fact.type:
        case MapOf():
            assert all(isinstance(name, str) for name in json.loads(fact.example))
        case Scalar() | ListOf():
            facts: dict[str, Any] = {}
            inner = facts
            *parents, last = path.split(".")
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = json.loads(fact.example)
            assert expressions.evaluate(f"{path} == {fact.example}", facts).holds
        case Record():
            pytest.fail("a record has no example")


def test_an_answer_puts_its_reasons_into_lines() -> None:
    clauses = (Clause("a", True, {}, ""), Clause("b", False, {}, "b: no"), Clause("c", False, {}, "c: neither"))
    assert Evaluated(False, clauses, {}).message == "b: no\nc: neither"


def test_an_mlmodel_is_read() -> None:
    assert facts_of(load_or_nothing(MLMODEL.encode()), PATHS) == {
        "flavors": ["python_function", "sklearn"],
        "has_signature": True,
        "signature": {
            "has_inputs": True,
            "has_outputs": True,
            "inputs": [{"name": "age", "type": "double", "required": True}, {"type": "float64"}],
            "outputs": [{"type": "long", "required": True}],
        },
        "has_input_example": True,
        "has_code": True,
        "environment": {"python": "3.11.7", "mlflow_version": "3.17.2"},
    }


def test_what_an_mlmodel_names_must_be_there() -> None:
    found = facts_of(load_or_nothing(MLMODEL.encode()), {"MLmodel", "codebase/train.py"})
    assert (found["has_input_example"], found["has_code"]) == (False, False)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"run_id",
        b"- a",
        b"\x00\xff",
        b"a: *unknown",
        b"!!python/object/apply:os.system [id]",
        b"[" * 100_000,
        b"{" * 20_000,
        b"? " * 20_000,
        b"- " * 20_000,
        b"a: &a [*a]",
        b"? [a]\n: b",
    ],
    ids=range(12),
)
def test_what_is_no_mlmodel_says_nothing(text: bytes) -> None:
    assert facts_of(load_or_nothing(text), PATHS) in (
        {},
        {
            "flavors": [],
            "has_signature": False,
            "has_input_example": False,
            "has_code": False,
            "environment": {},
        },
    )


def test_yaml_that_repeats_itself_does_not_grow() -> None:
    merged = "a: &x0 {k: v}\n" + "".join(f"b{n}: &x{n + 1} {{<<: [*x{n}, *x{n}, *x{n}]}}\n" for n in range(60))
    assert facts_of(load_or_nothing(merged.encode()), PATHS)["flavors"] == []


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["[]", "[1]", "[{}]", "null", "["]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["flavors", "signature", "saved_input_example_info", "mlflow_version"]),
        ANYTHING
        | st.dictionaries(st.sampled_from(["inputs", "outputs", "python_function", "artifact_path"]), ANYTHING),
    )
)
def test_whatever_stands_in_an_mlmodel_its_facts_are_of_their_types(document: object) -> None:
    found = facts_of(document, PATHS)
    json.dumps(found)
    version = FACTS.fields["candidate"].type
    assert isinstance(version, Record)
    for name, value in found.items():
        assert is_of(value, version.fields[name].type), name


def test_requirements_are_lines_that_ask_for_something() -> None:
    assert requirements_of("# by MLflow\nmlflow==3.17.2\n\n  pandas  # a table\n-r more.txt\n") == [
        "mlflow==3.17.2",
        "pandas",
        "-r more.txt",
    ]


def test_the_version_of_python_stands_in_python_env() -> None:
    assert python_of(load_or_nothing(b"python: 3.11.7\nbuild_dependencies: [pip]\n")) == "3.11.7"
    assert python_of(load_or_nothing(b"3.11.7")) is None


def _zip(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 50)
    return content.getvalue()


def _npy(descr: str) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (3,), }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\x00" * 24


OBJECT = OrderedDict(weights=[1.5, "a"])


@pytest.mark.parametrize(
    ("path", "content", "format_"),
    [
        *((f"model.bin{protocol}", pickle.dumps(OBJECT, protocol), "pickle") for protocol in range(6)),
        *((f"list{protocol}", pickle.dumps([1, 2], protocol), "pickle") for protocol in range(6)),
        *((f"dict{protocol}.txt", pickle.dumps({"a": 1}, protocol), "pickle") for protocol in range(6)),
        ("weights.safetensors", pickle.dumps(OBJECT), "pickle"),
        ("model.json", pickle.dumps(OBJECT, 0), "pickle"),
        ("model.pkl", b"anything", "pickle"),
        ("MODEL.PKL", b"anything", "pickle"),
        ("model.joblib", b"x\x9c...", "joblib"),
        ("weights.pt", b"...", "torch"),
        ("weights.bin", _zip("archive/data.pkl", "archive/version"), "torch"),
        ("model.keras", _zip("metadata.json"), "keras"),
        ("model.bin", _zip("a.txt"), "zip"),
        ("a.npy", _npy("<f8"), "numpy"),
        ("a.npy", _npy("|O"), "pickle"),
        ("w.safetensors", (40).to_bytes(8, "little") + b'{"a":' + b" " * 100, "safetensors"),
        ("w.safetensors", (4000).to_bytes(8, "little") + b'{"a":' + b" " * 100, "unknown"),
        ("m.onnx", b"\x08\x07\x12\x07pytorch", "onnx"),
        ("saved_model.pb", b"\x08\x01\x12\x9f\xff", "tensorflow"),
        ("m.h5", b"\x89HDF\r\n\x1a\n" + b"\x00" * 9, "hdf5"),
        ("m.gguf", b"GGUF\x03\x00", "gguf"),
        ("t.parquet", b"PAR1\x15\x04", "parquet"),
        ("m.txt", b"tree\nversion=v4\n", "lightgbm"),
        ("a.gz", b"\x1f\x8b\x08", "compressed"),
        ("a.tar", b"a" * 257 + b"ustar\x0000", "tar"),
        ("MLmodel", MLMODEL.encode(), "yaml"),
        ("conda.yaml", b"name: a", "yaml"),
        ("a.json", b'{"a": 1}', "json"),
        ("code/a.py", b"import os\n", "python"),
        ("README.md", "(Größe) é\n".encode(), "text"),
        ("LICENSE", b"(c) 2026 somebody\nand others\n", "text"),
        ("a.txt", b"a" * (START - 1) + "é".encode()[:1], "text"),
        ("a.bin", b"\x00\x01\x02", "unknown"),
        ("a.txt", b"a\x00b", "unknown"),
        ("a.txt", b"", "empty"),
        ("a.pkl", b"", "empty"),
    ],
)
def test_a_format_is_told_by_the_first_bytes_and_by_the_name(path: str, content: bytes, format_: str) -> None:
    assert format_of(path, len(content), content[:START]) == format_


def test_what_nobody_looked_into_is_unknown_but_for_what_its_name_says() -> None:
    assert format_of("a.json", 3, None) == "unknown"
    assert format_of("a.pkl", 3, None) == "pickle"


@given(st.text(max_size=12), st.binary(max_size=400), st.integers(0, 10**12))
def test_every_format_stands_in_the_table(path: str, start: bytes, size: int) -> None:
    assert format_of(path, size, start) in FORMATS
    assert set(FORMATS) >= PICKLES
