"""Prediction requests: the shapes that are understood, and that what is malformed is the client's error."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from countersign_ray_serve.serving import failures
from countersign_ray_serve.serving.artifacts import tree_digest
from countersign_ray_serve.serving.failures import DigestMismatch
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
        from countersign_ray_serve.serving.backend import Backend

        return Backend(model.uri, "7", model.digest, False)._predictor


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


@pytest.fixture(scope="module")
def hinted(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A model that says by type hints alone what it takes."""
    folder = tmp_path_factory.mktemp("hinted")
    code, model = folder / "chat.py", folder / "model"
    code.write_text(HINTED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        mlflow.pyfunc.save_model(str(model), python_model=str(code), pip_requirements=["mlflow"])
    return load(SimpleNamespace(uri=model.as_uri(), digest=tree_digest(model)))


HINTED = """
import mlflow, pydantic
from mlflow.pyfunc import PythonModel

class Message(pydantic.BaseModel):
    role: str
    text: str

class Chat(PythonModel):
    def predict(self, model_input: list[Message], params=None) -> list[str]:
        return [f"{message.role}: {message.text}" for message in model_input]

mlflow.models.set_model(Chat())
"""
HI = {"role": "user", "text": "hi"}


@pytest.mark.parametrize(
    "body", [{"inputs": [HI]}, {"instances": [HI]}, {"dataframe_records": [HI]}, [HI], HI], ids=json.dumps
)
def test_a_model_with_type_hints_gets_the_objects_that_it_names(hinted: Predictor, body: object) -> None:
    assert hinted.predict(json.dumps(body).encode()) == (200, '{"predictions": ["user: hi"]}')


@pytest.mark.parametrize(
    "body", [{"inputs": [{"role": "user"}]}, {"inputs": HI}, {"inputs": []}, [1], [[HI]], {"dataframe_split": HI}, {}]
)
def test_what_a_type_hint_does_not_name_is_the_clients_error(hinted: Predictor, body: object) -> None:
    status, text = hinted.predict(json.dumps(body).encode())
    assert status == 400, text


def test_two_formats_at_once_are_ambiguous() -> None:
    with pytest.raises(MalformedPayload, match="inputs and instances"):
        normalise(b'{"inputs": [1], "instances": [1]}', [])


class Stubborn:
    """A loaded model that does what a test says."""

    def __init__(self, predictor: Predictor, behave: Callable[[], object]) -> None:
        self.metadata = predictor._model.metadata
        self._behave = behave

    def predict(self, data: object, params: object = None) -> object:
        return self._behave()


def behaving(predictor: Predictor, behave: Callable[[], object]) -> tuple[int, Any]:
    status, text = type(predictor)(Stubborn(predictor, behave)).predict(b'{"inputs": [[1, 2]]}')
    return status, json.loads(text, parse_constant=pytest.fail)


def fail_with(error: Exception) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("column"), ModuleNotFoundError("No module 'x'")])
def test_a_bug_of_the_model_is_the_servers_error_without_a_traceback(predictor: Predictor, error: Exception) -> None:
    status, body = behaving(predictor, fail_with(error))
    assert (status, body["error_code"]) == (500, "INTERNAL_ERROR")
    assert type(error).__name__ in body["message"]
    assert "Traceback" not in body["message"]


def test_values_that_the_model_does_not_take_are_the_clients_error(predictor: Predictor) -> None:
    status, body = behaving(predictor, fail_with(ValueError("Input X contains NaN.")))
    assert status == 400
    assert "Input X contains NaN." in body["message"]


def test_predictions_that_are_not_json_are_the_servers_error(predictor: Predictor) -> None:
    status, body = behaving(predictor, lambda: [object()])
    assert status == 500
    assert "cannot be written as JSON" in body["message"]


def test_numbers_that_json_does_not_have_become_null(predictor: Predictor) -> None:
    answers = [float("nan"), float("inf"), -float("inf"), 1.5, "NaN"]
    assert behaving(predictor, lambda: answers) == (200, {"predictions": [None, None, None, 1.5, "NaN"]})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError(13, "Permission denied"), "StorageDenied"),
        (RuntimeError("An error occurred (AccessDenied) when calling ListObjectsV2"), "StorageDenied"),
        (RuntimeError("An error occurred (403) when calling HeadObject: Forbidden"), "StorageDenied"),
        (RuntimeError("Unable to locate credentials"), "StorageDenied"),
        (FileNotFoundError("there are no files"), "ArtifactNotFound"),
        (RuntimeError("An error occurred (NoSuchBucket) when calling ListObjectsV2"), "ArtifactNotFound"),
        (ConnectionError("Could not connect to the endpoint"), "StorageUnreachable"),
        (RuntimeError("An error occurred (500)"), "StorageUnreachable"),
        (ModuleNotFoundError("No module named 'boto3'", name="boto3"), "DependencyMissing"),
    ],
)
def test_what_a_store_says_has_a_reason(error: Exception, kind: str) -> None:
    found = failures.of_storage("s3://models-403/does not exist/", error)
    assert type(found).__name__ == kind
    assert "s3://models-403" in str(found) or "'boto3'" in str(found)


@pytest.mark.parametrize("saved_with", ["2.7.18", "3.99.0"])
def test_a_model_of_another_python_is_refused(saved_with: str) -> None:
    with pytest.raises(failures.PythonVersionMismatch, match=saved_with):
        failures.refuse_other_python(saved_with)


def test_a_model_of_this_python_or_of_an_unknown_one_is_not() -> None:
    failures.refuse_other_python(f"{sys.version_info[0]}.{sys.version_info[1]}.99")
    failures.refuse_other_python(None)


def test_the_models_own_packages_are_those_of_the_approved_bytes(save_model: Callable[..., SavedModel]) -> None:
    from countersign_ray_serve.serving.backend import build_backend

    model = save_model()
    said: dict[str, Any] = {"packages": ["boto3", "model"], "installer": "pip", "actor": {"num_cpus": 0.5}}
    args = {"uri": model.uri, "version": "7", "digest": model.digest, **said}
    options = build_backend(args)._bound_deployment.ray_actor_options
    assert options["num_cpus"] == 0.5
    asked = options["runtime_env"]["pip"]
    assert (asked[0], asked[-1]) == ("boto3", "scikit-learn")
    assert "model" not in asked
    with pytest.raises(DigestMismatch):
        build_backend({**args, "digest": "sha256:" + "0" * 64})


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://elsewhere.example",
        "-e git+https://elsewhere.example/x.git#egg=x",
        "-r more.txt",
        "git+https://elsewhere.example/x.git",
        "x @ https://elsewhere.example/x.whl",
        "x@https://elsewhere.example/x.whl",
        "./x.whl",
        "/x.whl",
        "x==1 --config-settings=a=b",
    ],
)
def test_a_models_packages_come_from_where_the_cluster_has_them_from(tmp_path: Path, line: str) -> None:
    from countersign_ray_serve.serving.backend import build_backend

    (tmp_path / "requirements.txt").write_text(f'pandas[excel]>=2,<4 ; python_version > "3.8"  # fine\n{line}\n')
    said: dict[str, Any] = {"packages": ["model"], "installer": "pip", "actor": {}}
    with pytest.raises(failures.DependencyMissing, match=re.escape(line[:8])):
        build_backend({"uri": str(tmp_path), "version": "7", "digest": tree_digest(tmp_path), **said})
