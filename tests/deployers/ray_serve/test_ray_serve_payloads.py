"""Prediction requests: the shapes that are understood, and that what is malformed is the client's error."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from countersign_ray_serve.serving.artifacts import ArtifactNotReadable, DigestMismatch, fetch
from countersign_ray_serve.serving.payloads import MalformedPayload, normalise
from hypothesis import given
from hypothesis import strategies as st

SavedModel = Any
Predictor = Any

# MLflow warns about itself and about integers in signatures; what matters here are its answers.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

TWO_ROWS = [
    {"inputs": [[1, 2], [3, 4]]},
    {"instances": [[1, 2], [3.5, 4]]},
    {"inputs": {"a": [1, 3], "b": [2, 4]}},
    {"instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]},
    {"inputs": [{"a": 1, "b": 2}, {"b": 4, "a": 3}]},
    {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}},
    {"dataframe_split": {"index": [0, 1], "columns": ["b", "a"], "data": [[2, 1], [4, 3]]}},
    {"dataframe_records": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]},
    [[1, 2], [3, 4]],
    [{"a": 1, "b": 2}, {"a": 3.0, "b": 4.0}],
    {"a": [1, 3], "b": [2, 4]},
]
ONE_ROW = [
    [1, 2],
    {"a": 1, "b": 2},
    {"inputs": [1, 2]},
    {"inputs": {"a": 1, "b": 2}},
    {"instances": [[1, 2]]},
    {"a": [1], "b": [2]},
]
MALFORMED = [
    b"",
    b"not json",
    b"\xff\xfe",
    b"[" * 100_000,
    b"null",
    b"3",
    b'"text"',
    b"[]",
    b"{}",
    b'{"inputs": []}',
    b'{"inputs": null}',
    b'{"inputs": [[1, 2]], "instances": [[1, 2]]}',
    b'{"inputs": [[1, 2, 3]]}',
    b'{"inputs": [[1], [1, 2]]}',
    b'{"inputs": [["x", "y"]]}',
    b'{"inputs": [[null, {}]]}',
    b'{"inputs": {"a": [1]}}',
    b'{"inputs": {"a": [1, 2], "b": [1]}}',
    b'{"dataframe_split": [[1, 2]]}',
    b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}',
    b'{"dataframe_split": {"columns": 3, "data": [[1, 2]]}}',
    b'{"dataframe_split": {"columns": ["a", "b"], "data": []}}',
    b'{"dataframe_records": {"a": 1, "b": 2}}',
    b'{"dataframe_records": [1, 2]}',
    b'{"dataframe_records": [{"a": 1}]}',
    b'{"messages": [{"role": "user", "content": "hi"}]}',
    b'{"unknown": [[1, 2]]}',
    b'{"a": 1e999, "b": "x"}',
]


def load(model: SavedModel) -> Predictor:
    """What a replica does. MLflow is imported late, for it warns while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        from countersign_ray_serve.serving.backend import Predictor

        return Predictor(mlflow.pyfunc.load_model(fetch(model.uri, model.digest)))


@pytest.fixture(scope="module")
def predictor(save_model: Callable[..., SavedModel]) -> Predictor:
    return load(save_model(2.0))


def ask(predictor: Predictor, body: object) -> list[float]:
    status, text = predictor.predict(json.dumps(body).encode())
    assert status == 200, text
    answer = json.loads(text)
    assert list(answer) == ["predictions"]
    return [round(value, 6) for value in answer["predictions"]]


@pytest.mark.parametrize("body", TWO_ROWS, ids=json.dumps)
def test_rows_are_understood_in_every_shape(predictor: Predictor, body: object) -> None:
    assert ask(predictor, body)[0] == 4.0
    assert len(ask(predictor, body)) == 2


@pytest.mark.parametrize("body", ONE_ROW, ids=json.dumps)
def test_a_single_row_is_understood_in_every_shape(predictor: Predictor, body: object) -> None:
    assert ask(predictor, body) == [4.0]


@pytest.mark.parametrize("body", MALFORMED)
def test_what_is_malformed_is_a_bad_request_with_a_message(predictor: Predictor, body: bytes) -> None:
    status, text = predictor.predict(body)
    assert status == 400, text
    assert json.loads(text)["message"]


@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["a", "b", "c", "inputs", "instances", "columns", "data", "params"]), inner
            )
            | st.builds(
                lambda key, value: {key: value}, st.sampled_from(["dataframe_split", "dataframe_records"]), inner
            )
        ),
        max_leaves=8,
    )
)
def test_no_json_makes_the_server_fail(predictor: Predictor, body: object) -> None:
    status, text = predictor.predict(json.dumps(body).encode())
    assert status in {200, 400}
    assert isinstance(json.loads(text), dict)


def test_a_model_without_a_signature_gets_plain_arrays(save_model: Callable[..., SavedModel]) -> None:
    predictor = load(save_model(3.0, signature=False))
    assert ask(predictor, {"inputs": [[1, 2]]}) == [5.0]
    assert ask(predictor, [[1, 2], [2, 2]]) == [5.0, 8.0]


def test_a_column_called_like_a_format_is_a_column() -> None:
    assert json.loads(normalise(b'{"inputs": 1, "b": 2}', ["inputs", "b"])) == {
        "dataframe_records": [{"inputs": 1, "b": 2}]
    }


def test_one_column_takes_a_list_as_rows() -> None:
    expected = {"dataframe_split": {"columns": ["a"], "data": [[1], [2], [3]]}}
    assert json.loads(normalise(b"[1, 2, 3]", ["a"])) == expected


def test_parameters_reach_the_model() -> None:
    assert json.loads(normalise(b'{"inputs": [[1]], "params": {"k": 2}}', ["a"]))["params"] == {"k": 2}


def test_chat_requests_are_left_to_the_model() -> None:
    body = b'{"messages": [{"role": "user", "content": "hi"}]}'
    assert json.loads(normalise(body, [])) == json.loads(body)


def test_two_formats_at_once_are_ambiguous() -> None:
    with pytest.raises(MalformedPayload, match="inputs and instances"):
        normalise(b'{"inputs": [1], "instances": [1]}', [])


def test_changed_artifacts_are_not_loaded(save_model: Callable[..., SavedModel]) -> None:
    model = save_model()
    with pytest.raises(DigestMismatch):
        fetch(model.uri, "sha256:" + "0" * 64)


def test_missing_artifacts_are_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    nowhere = tmp_path_factory.mktemp("empty") / "gone"
    with pytest.raises(ArtifactNotReadable, match="gone"):
        fetch(f"{nowhere.as_uri()}/", "sha256:" + "0" * 64)
