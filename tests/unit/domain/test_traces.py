"""A caller does not say where a trace is archived."""

from __future__ import annotations

import pytest

from app.domain.errors import InvalidInput
from app.domain.traces import MAX_DEPTH, check_trace

TAG = "mlflow.trace.archiveLocation"


@pytest.mark.parametrize("name", [TAG, TAG.upper(), f" {TAG} ", TAG.replace("a", "\uff41")])
def test_where_a_trace_is_archived_is_not_said_in_any_way(name: str) -> None:
    for document in (
        {"trace": {"trace_info": {"tags": {name: "/srv"}}}},
        {"trace": {"traceInfo": {"tags": {name: "/srv"}}}},
        {"tags": [{"key": name, "value": "/srv"}]},
        {"key": name, "value": "/srv"},
        {name: 1},
    ):
        with pytest.raises(InvalidInput, match="for MLflow alone"):
            check_trace(document)


def test_everything_else_is_said_freely() -> None:
    check_trace({})
    check_trace(
        {"trace": {"trace_info": {"request_preview": "\0\ud800 " + TAG, "tags": {"a": "b"}, "n": [1, 2.5, None]}}}
    )


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_depth_is_bounded(wrap: object) -> None:
    document: object = "a"
    for _ in range(MAX_DEPTH + 1):
        document = wrap(document)  # type: ignore[operator]
    with pytest.raises(InvalidInput, match="levels"):
        check_trace({"a": document})
