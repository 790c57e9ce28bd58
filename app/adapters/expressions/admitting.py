"""The facts that an expression reads, and no others, as the library takes them; and how large they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.adapters.expressions.checking import Path, path_text, type_at
from app.adapters.expressions.costing import ONE, Bulk, bulk_of_items, bulk_of_map, bulk_of_parts, bulk_of_text
from app.domain.facts import ListOf, Record, Scalar, Type

_WHOLE = range(-(2**63), 2**63)
_NOT_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How protobuf's JSON, and so MLflow, writes them."""


class _Unfit(Exception):
    """A fact is of another type than the table says."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """``faults`` says, by path, what is of another type than the table says: who reads that gets no answer."""

    facts: dict[str, Any] = field(default_factory=dict)
    sizes: dict[Path, Bulk] = field(default_factory=dict)
    faults: dict[Path, str] = field(default_factory=dict)


def admit(facts: Mapping[str, object], paths: Iterable[Path]) -> Admitted:
    found = Admitted()
    for path in sorted(paths):  # a whole before its parts
        _admit(facts, path, found)
    return found


def _admit(facts: Mapping[str, object], path: Path, found: Admitted) -> None:
    here, there = found.facts, facts
    for depth, part in enumerate(path, 1):
        value = there.get(part)
        if depth < len(path):
            if value is None and depth > 1:
                return
            if not isinstance(value, Mapping | None):
                found.faults[path] = f"{path_text(path[:depth])} is no {type_at(path[:depth]).label}"
                return
            here, there = here.setdefault(part, {}), value or {}
        elif value is not None:
            try:
                here[part], bulk = _fit(value, type_at(path))
            except _Unfit:
                found.faults[path] = f"{path_text(path)} is no {type_at(path).label}"
                return
            found.sizes[path] = bulk
            for length in range(1, depth):
                before = found.sizes.get(path[:length], ONE)
                found.sizes[path[:length]] = Bulk(before.length, before.cells + 1 + bulk.cells, before.item)


def _fit(value: object, type_: Type) -> tuple[Any, Bulk]:
    """As the library takes it. What is null is absent. Raises ``_Unfit``."""
    if isinstance(type_, Scalar):
        fit = _SCALARS[type_](value)
        if fit is None:
            raise _Unfit
        return fit, bulk_of_text(fit) if isinstance(fit, str) else ONE
    if isinstance(type_, ListOf):
        if not isinstance(value, list | tuple) or type_.of is None:
            raise _Unfit
        items = [_fit(item, type_.of) for item in value]
        return [item for item, _ in items], bulk_of_items([bulk for _, bulk in items])
    if not isinstance(value, Mapping):
        raise _Unfit
    if isinstance(type_, Record):
        known = [(name, fact.type) for name, fact in type_.fields.items() if value.get(name) is not None]
        parts = {name: _fit(value[name], of) for name, of in known}
        return {name: part for name, (part, _) in parts.items()}, bulk_of_parts([bulk for _, bulk in parts.values()])
    names = [_fit(name, Scalar.STRING) for name, part in value.items() if part is not None]
    parts = {name: _fit(value[name], type_.of) for name, _ in names}
    bulk = bulk_of_map([each for _, each in names], [each for _, each in parts.values()])
    return {name: part for name, (part, _) in parts.items()}, bulk


def _bool(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value in _WHOLE else None


def _double(value: object) -> float | None:
    if isinstance(value, float):
        return value
    whole = _int(value)
    return _NOT_NUMBERS.get(value) if isinstance(value, str) else None if whole is None else float(whole)


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and (value.isascii() or _is_text(value)) else None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _time(value: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return at if at and at.tzinfo else None


_SCALARS: Mapping[Scalar, Callable[[object], Any]] = {
    Scalar.BOOL: _bool,
    Scalar.INT: _int,
    Scalar.DOUBLE: _double,
    Scalar.STRING: _string,
    Scalar.TIMESTAMP: _time,
    Scalar.DURATION: lambda _: None,  # no fact is one
}
