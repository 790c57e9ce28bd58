"""What the file ``MLmodel`` says of a model. Anybody may have written it: what is not as MLflow has it is not there."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

MOST_COLUMNS = 10_000
MOST_REQUIREMENTS = 2_000
LONGEST_TEXT = 5_000
"""Characters of a text, here and in all facts; a longer one is cut off."""


def facts_of(document: object, paths: Collection[str]) -> dict[str, object]:
    """The facts of a version that stand in its ``MLmodel``; those that do not are left out.

    Args:
        document: the parsed file, whatever it is.
        paths: all files of the version.
    """
    model = _object(document)
    if not model:
        return {}
    flavors = _object(model.get("flavors"))
    function = _object(flavors.get("python_function"))
    signature = _signature(model.get("signature"))
    example = _text(_object(model.get("saved_input_example_info")).get("artifact_path"))
    code = _text(function.get("code"))
    facts: dict[str, object] = {
        "flavors": sorted(str(name)[:LONGEST_TEXT] for name in flavors),
        "has_signature": signature is not None,
        "has_input_example": example is not None and example in paths,
        "has_code": code is not None and any(path.startswith(f"{code.strip('/')}/") for path in paths),
        "environment": _present(
            {"python": _text(function.get("python_version")), "mlflow_version": _text(model.get("mlflow_version"))}
        ),
    }
    return facts if signature is None else {**facts, "signature": signature}


def requirements_of(text: str) -> list[str]:
    """The lines of a ``requirements.txt`` that ask for something."""
    lines = (line.partition(" #")[0].strip() for line in text.splitlines())
    return [line[:LONGEST_TEXT] for line in lines if line and not line.startswith("#")][:MOST_REQUIREMENTS]


def python_of(document: object) -> str | None:
    """The version in a ``python_env.yaml``."""
    return _text(_object(document).get("python"))


def _signature(value: object) -> dict[str, object] | None:
    """``{"inputs": "<JSON>", "outputs": "<JSON>", "params": …}``; none if there are neither inputs nor outputs."""
    columns = {side: _columns(_object(value).get(side)) for side in ("inputs", "outputs")}
    if not any(columns.values()):
        return None
    return {
        "has_inputs": bool(columns["inputs"]),
        "has_outputs": bool(columns["outputs"]),
        "inputs": columns["inputs"],
        "outputs": columns["outputs"],
    }


def _columns(value: object) -> list[dict[str, object]]:
    try:
        found = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return []
    columns = [_object(column) for column in found[:MOST_COLUMNS]] if isinstance(found, list) else []
    return [
        _present(
            {
                "name": _text(column.get("name")),
                "type": _text(_object(column.get("tensor-spec")).get("dtype")) or _text(column.get("type")),
                "required": column.get("required") if isinstance(column.get("required"), bool) else None,
            }
        )
        for column in columns
        if column
    ]


def _object(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value[:LONGEST_TEXT] if isinstance(value, str) and value else None


def _present(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
