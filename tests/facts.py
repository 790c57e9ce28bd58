"""Whether facts are as their table says."""

from __future__ import annotations

from app.domain.facts import ListOf, MapOf, Record, Scalar, Type


def is_of(value: object, type_: Type | None) -> bool:
    """Whether a value of the facts, as JSON, is of a type."""
    match type_:
        case Record(fields=fields):
            return isinstance(value, dict) and all(is_of(each, fields[name].type) for name, each in value.items())
        case MapOf(of=of):
            return isinstance(value, dict) and all(is_of(each, of) for each in value.values())
        case ListOf(of=of):
            return isinstance(value, list) and all(is_of(each, of) for each in value)
        case Scalar.BOOL:
            return isinstance(value, bool)
        case Scalar.INT:
            return isinstance(value, int) and not isinstance(value, bool)
        case Scalar.DOUBLE:
            return isinstance(value, int | float) or value in {"NaN", "Infinity", "-Infinity"}
    return isinstance(value, str)
