"""What a caller may not say of a trace.

A trace that says that it is archived, and where, has MLflow read ``traces.pb`` from that address when the trace is
read, and delete it there when the trace is deleted: any folder on the server, any bucket, any HTTP address, the bytes
of a promoted version among them (seen on MLflow 3.17.2, which takes these tags when a trace is created, and refuses
them later).
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.errors import InvalidInput
from app.domain.grants import fold

ARCHIVE_LOCATION = "mlflow.trace.archiveLocation"
ARTIFACT_LOCATION = "mlflow.artifactLocation"

MAX_DEPTH = 64


def check_trace(document: Mapping[str, object]) -> None:
    """Refuse a document that says where a trace is archived, in a key or as the name of a tag, wherever it says so.

    Raises:
        InvalidInput: it does, or it nests more than 64 levels.
    """
    _check_unmentioned(document, ARCHIVE_LOCATION)


def check_trace_location(document: Mapping[str, object]) -> None:
    """Refuse a document that says where the artifacts of a trace lie: MLflow reads them from there, whosever they are.

    Raises:
        InvalidInput: it does, or it nests more than 64 levels.
    """
    _check_unmentioned(document, ARTIFACT_LOCATION)


def _check_unmentioned(document: Mapping[str, object], name: str) -> None:
    level: list[object] = [document]
    forbidden = fold(name)
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            if isinstance(value, str):
                if fold(value) == forbidden:
                    raise InvalidInput(name, "is for MLflow alone to say")
            elif isinstance(value, Mapping):
                below += value.keys()
                below += value.values()
            elif isinstance(value, list):
                below += value
        level = below
    if level:
        raise InvalidInput("body", f"expected at most {MAX_DEPTH} levels")
