"""What a structural schema says of an object: what is unknown, what is wrong, what is filled in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.deployers.kserve.simulator.fields import ANYTHING, Schema, child

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


@dataclass(frozen=True, slots=True)
class Wrong:
    """A cause of a 422, in Kubernetes' words."""

    field: str
    reason: str
    message: str


def unknown(value: Any, schema: Schema, path: str = "") -> Iterator[str]:
    """The fields that the schema does not declare."""
    if isinstance(value, dict):
        for name, item in value.items():
            inner, _ = child(schema, name)
            if inner is None:
                yield f"{path}.{name}"
            else:
                yield from unknown(item, inner, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown(item, schema.get("items", ANYTHING), f"{path}[{index}]")


def prune(value: Any, schema: Schema) -> Any:
    """Without what the schema does not declare, as the API server stores it; and with its defaults."""
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = inner["default"]
        kept = ((name, item, child(schema, name)[0]) for name, item in value.items())
        return {
            name: prune(item, inner)
            for name, item, inner in kept
            if inner is not None and (item is not None or inner.get("nullable"))
        }
    if isinstance(value, list):
        return [prune(item, schema.get("items", ANYTHING)) for item in value]
    return value


def mistyped(value: Any, schema: Schema, path: str = "") -> Iterator[Wrong]:
    """Values of a type that the schema does not have there."""
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            yield _invalid(path, value, "must be of type integer or string")
        return
    wanted = schema.get("type")
    if wanted and value is not None:
        is_bool = isinstance(value, bool) and wanted != "boolean"
        if is_bool or not isinstance(value, _TYPES[wanted]):
            yield _invalid(path, value, f'"{_name_of(value)}"', f"must be of type {wanted}", reason="TypeInvalid")
            return
    for below, inner, at in _below(value, schema, path):
        yield from mistyped(below, inner, at)


def invalid(value: Any, schema: Schema, path: str = "") -> Iterator[Wrong]:
    """What else is wrong: limits, patterns, what is missing."""
    if isinstance(value, dict):
        for name in schema.get("required", []):
            if name not in value:
                yield Wrong(f"{path}.{name}".lstrip("."), "FieldValueRequired", f"{path}.{name}: Required value")
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(f'"{each}"' for each in schema["enum"])
        message = f'{path.lstrip(".")}: Unsupported value: "{value}": supported values: {supported}'
        yield Wrong(path.lstrip("."), "FieldValueNotSupported", message)
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield _invalid(path, value, f'"{value}"', f"should match '{schema['pattern']}'")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            yield _invalid(path, value, str(value), f"should be greater than or equal to {schema['minimum']}")
        if "maximum" in schema and value > schema["maximum"]:
            yield _invalid(path, value, str(value), f"should be less than or equal to {schema['maximum']}")
    for below, inner, at in _below(value, schema, path):
        yield from invalid(below, inner, at)


def _below(value: Any, schema: Schema, path: str) -> Iterator[tuple[Any, Schema, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            inner, _ = child(schema, name)
            if inner is not None:
                yield item, inner, f"{path}.{name}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield item, schema.get("items", ANYTHING), f"{path}[{index}]"


def _invalid(path: str, value: Any, *said: str, reason: str = "Invalid") -> Wrong:
    field = path.lstrip(".")
    return Wrong(field, f"FieldValue{reason}", f"{field}: Invalid value: {': '.join(said) or value}")


def _name_of(value: Any) -> str:
    names = (("boolean", bool), ("string", str), ("integer", int), ("number", float), ("array", list))
    return next((name for name, kind in names if isinstance(value, kind)), "object")
