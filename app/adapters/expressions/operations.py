"""Operators and functions, each a row with its types. What has no row is no expression.

Numbers: a whole one becomes a double where the other side is one. It is an error, never a value, to divide by zero, to
leave 64 bits, or to compare with what is not a number: a check does not hold by accident.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import ge, gt, le, lt
from typing import Any

from app.domain.facts import ListOf, MapOf, Scalar, Type

INT, DOUBLE, STRING, BOOL = Scalar.INT, Scalar.DOUBLE, Scalar.STRING, Scalar.BOOL
TIME, SPAN = Scalar.TIMESTAMP, Scalar.DURATION

_WHOLE = range(-(2**63), 2**63)
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST_NUMBER = 400
_SPAN = re.compile(r"([+-]?)((?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:d|h|ms|m|s|us|ns))+)")
_LONGEST_SPAN = 100
_SPAN_PART = re.compile(r"([0-9.]+)(d|h|ms|m|s|us|ns)")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How protobuf's JSON, and so MLflow, writes them."""

STEPS = 1_000_000
"""What one evaluation may cost: one step is about what it takes to look at one fact (0.4 µs)."""
CHARACTERS_A_STEP = 16


class Fault(Exception):
    """There is no value, for what the facts are; ``str()`` says why."""


class Missing(Fault):
    """A fact is absent. Why is put into words only when somebody wants to know: it may be so for each of many items."""

    def __init__(self, describe: Callable[[], str]) -> None:
        super().__init__()
        self._describe = describe

    def __str__(self) -> str:
        return self._describe()


class Exhausted(Exception):
    """The evaluation became too much work."""


class Frame:
    """One evaluation: the facts, the variables of macros, and the steps that are left."""

    __slots__ = ("facts", "left", "names", "witness")

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = facts
        self.names: dict[str, Any] = {}
        self.left = STEPS
        self.witness: Any = None
        """The item by which the last ``all`` was false, or ``exists`` true."""

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise Exhausted


def typed(value: object, type_: Type, what: str = "it") -> Any:
    """A value of the facts as one of the language. Raises ``Fault`` if it is something else."""
    if isinstance(type_, Scalar):
        found = _SCALARS[type_](value)
    elif isinstance(type_, ListOf):
        found = value if isinstance(value, list | tuple) else None
    else:
        found = value if isinstance(value, Mapping) else None
    if found is None:
        raise Fault(f"{what} is no {type_.label}")
    return found


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
    return value if isinstance(value, str) else None


def _time(value: object) -> datetime | None:
    return parse_timestamp(value) if isinstance(value, str) else value if isinstance(value, datetime) else None


def _span(value: object) -> timedelta | None:
    return value if isinstance(value, timedelta) else None


_SCALARS: Mapping[Scalar, Callable[[object], Any]] = {
    Scalar.BOOL: _bool,
    Scalar.INT: _int,
    Scalar.DOUBLE: _double,
    Scalar.STRING: _string,
    Scalar.TIMESTAMP: _time,
    Scalar.DURATION: _span,
}


def unified(left: Type, right: Type) -> Type | None:
    """The type that both can be taken for."""
    if left == right:
        return left
    if {left, right} == {INT, DOUBLE}:
        return DOUBLE
    if isinstance(left, ListOf) and isinstance(right, ListOf):
        if left.of is None or right.of is None:
            return right if left.of is None else left
        of = unified(left.of, right.of)
        return ListOf(of) if of else None
    return None


def equal(frame: Frame, left: Any, right: Any, type_: Type) -> bool:
    """Whether two values of a type are equal; of records and lists, whether all parts are."""
    if isinstance(type_, Scalar):
        left, right = typed(left, type_), typed(right, type_)
        if type_ is STRING:
            frame.spend(min(len(left), len(right)) // CHARACTERS_A_STEP)
        elif type_ is DOUBLE:
            _comparable(left, right)
        return bool(left == right)
    left, right = typed(left, type_), typed(right, type_)
    frame.spend(1 + len(left))
    if isinstance(type_, ListOf):
        of = type_.of
        return len(left) == len(right) and (
            of is None or all(equal(frame, one, other, of) for one, other in zip(left, right, strict=True))
        )
    if isinstance(type_, MapOf):
        return left.keys() == right.keys() and all(equal(frame, left[key], right[key], type_.of) for key in left)
    for name, fact in type_.fields.items():
        one, other = left.get(name), right.get(name)
        if (one is None) is not (other is None):
            return False
        if one is not None and not equal(frame, one, other, fact.type):
            return False
    return True


def _comparable(*numbers: float) -> None:
    if any(number != number for number in numbers):  # noqa: PLR0124  # so is NaN known, of whole numbers too
        raise Fault("it is not a number (NaN)")


def _whole(value: int) -> int:
    if value not in _WHOLE:
        raise Fault("a whole number has at most 64 bits")
    return value


def _int_divided(frame: Frame, left: int, right: int) -> int:
    if right == 0:
        raise Fault("it would be divided by zero")
    quotient = abs(left) // abs(right)
    return _whole(quotient if (left < 0) is (right < 0) else -quotient)


def _remainder(frame: Frame, left: int, right: int) -> int:
    return left - right * _int_divided(frame, left, right)


def _divided(frame: Frame, left: float, right: float) -> float:
    if right == 0:
        raise Fault("it would be divided by zero")
    return left / right


def _joined(frame: Frame, left: Any, right: Any) -> Any:
    frame.spend((len(left) + len(right)) // (CHARACTERS_A_STEP if isinstance(left, str) else 1))
    return left + right if isinstance(left, str) else [*left, *right]


def _timed(function: Callable[[Any, Any], Any]) -> Callable[[Frame, Any, Any], Any]:
    def run(frame: Frame, left: Any, right: Any) -> Any:
        try:
            return function(left, right)
        except OverflowError:
            raise Fault("this time is beyond the calendar") from None

    return run


def _added(left: Any, right: Any) -> Any:
    return left + right


def _taken(left: Any, right: Any) -> Any:
    return left - right


Rows = Sequence[tuple[tuple[Type, ...], Type, Callable[..., Any]]]
"""Types of the arguments, of the result, and what is called with the frame and the arguments."""


def _ordered(compare: Callable[[Any, Any], bool]) -> Rows:
    def numbers(frame: Frame, left: float, right: float) -> bool:
        _comparable(left, right)
        return compare(left, right)

    def others(frame: Frame, left: Any, right: Any) -> bool:
        return compare(left, right)

    mixed: Rows = [((left, right), BOOL, numbers) for left in (INT, DOUBLE) for right in (INT, DOUBLE)]
    return [*mixed, *(((each, each), BOOL, others) for each in (STRING, TIME, SPAN))]


BINARY: Mapping[str, Rows] = {
    "<": _ordered(lt),
    "<=": _ordered(le),
    ">": _ordered(gt),
    ">=": _ordered(ge),
    "+": [
        ((INT, INT), INT, lambda _, left, right: _whole(left + right)),
        ((DOUBLE, DOUBLE), DOUBLE, lambda _, left, right: left + right),
        ((STRING, STRING), STRING, _joined),
        ((TIME, SPAN), TIME, _timed(_added)),
        ((SPAN, TIME), TIME, _timed(_added)),
        ((SPAN, SPAN), SPAN, _timed(_added)),
    ],
    "-": [
        ((INT, INT), INT, lambda _, left, right: _whole(left - right)),
        ((DOUBLE, DOUBLE), DOUBLE, lambda _, left, right: left - right),
        ((TIME, TIME), SPAN, _timed(_taken)),
        ((TIME, SPAN), TIME, _timed(_taken)),
        ((SPAN, SPAN), SPAN, _timed(_taken)),
    ],
    "*": [
        ((INT, INT), INT, lambda _, left, right: _whole(left * right)),
        ((DOUBLE, DOUBLE), DOUBLE, lambda _, left, right: left * right),
    ],
    "/": [((INT, INT), INT, _int_divided), ((DOUBLE, DOUBLE), DOUBLE, _divided)],
    "%": [((INT, INT), INT, _remainder)],
}

PREFIXES: Mapping[str, Rows] = {
    "!": [((BOOL,), BOOL, lambda _, value: not value)],
    "-": [((INT,), INT, lambda _, value: _whole(-value)), ((DOUBLE,), DOUBLE, lambda _, value: -value)],
}


def list_joined(frame: Frame, left: Any, right: Any) -> Any:
    return _joined(frame, left, right)


def parse_timestamp(text: str) -> datetime:
    """RFC 3339; what is finer than a microsecond is cut off. Raises ``Fault``."""
    if found := _TIMESTAMP.fullmatch(text):
        seconds, fraction, zone = found.groups()
        try:
            at = datetime.fromisoformat(f"{seconds}{(fraction or '.0')[:7]:0<7}{'+00:00' if zone == 'Z' else zone}")
            return at.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise Fault("this is no time as 2026-10-01T12:00:00Z")


def _parse_span(text: str) -> timedelta:
    if len(text) <= _LONGEST_SPAN and (found := _SPAN.fullmatch(text)):
        sign, parts = found.groups()
        try:
            seconds = sum(float(amount) * _SECONDS[unit] for amount, unit in _SPAN_PART.findall(parts))
            return timedelta(seconds=-seconds if sign == "-" else seconds)
        except (ValueError, OverflowError):
            pass
    raise Fault('this is no duration as "36h", "90m" or "30d"')


def _parse_whole(frame: Frame, text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text):
        raise Fault(f"{shown(text)} is no whole number")
    return _whole(int(text))


def _parse_double(frame: Frame, text: str) -> float:
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        raise Fault(f"{shown(text)} is no number")
    return float(text)


def _cut(frame: Frame, value: float) -> int:
    if math.isnan(value) or math.isinf(value):
        raise Fault("it is not a number (NaN)")
    return _whole(int(value))


def _parse_bool(frame: Frame, text: str) -> bool:
    if text not in {"true", "false"}:
        raise Fault(f"{shown(text)} is neither true nor false")
    return text == "true"


def shown(text: str, most: int = 40) -> str:
    """A text of the facts for a message: quoted, shortened, nothing invisible in it."""
    short = text if len(text) <= most else f"{text[: most - 1]}…"
    return f'"{short}"' if short.isprintable() else ascii(short)


def _size(frame: Frame, value: Any) -> int:
    return len(value)


def _searching(method: Callable[[str, str], bool]) -> Callable[[Frame, str, str], bool]:
    def run(frame: Frame, text: str, part: str) -> bool:
        frame.spend((len(text) + len(part)) // CHARACTERS_A_STEP)
        return method(text, part)

    return run


FUNCTIONS: Mapping[str, Rows] = {
    "size": [((STRING,), INT, _size)],
    "int": [
        ((INT,), INT, lambda _, value: value),
        ((DOUBLE,), INT, _cut),
        ((STRING,), INT, _parse_whole),
        ((TIME,), INT, lambda _, value: (value - _EPOCH) // timedelta(seconds=1)),
    ],
    "double": [
        ((DOUBLE,), DOUBLE, lambda _, value: value),
        ((INT,), DOUBLE, lambda _, value: float(value)),
        ((STRING,), DOUBLE, _parse_double),
    ],
    "string": [
        ((STRING,), STRING, lambda _, value: value),
        ((INT,), STRING, lambda _, value: str(value)),
        ((BOOL,), STRING, lambda _, value: "true" if value else "false"),
    ],
    "bool": [((BOOL,), BOOL, lambda _, value: value), ((STRING,), BOOL, _parse_bool)],
    "timestamp": [((TIME,), TIME, lambda _, value: value), ((STRING,), TIME, lambda _, text: parse_timestamp(text))],
    "duration": [((SPAN,), SPAN, lambda _, value: value), ((STRING,), SPAN, lambda _, text: _parse_span(text))],
}

METHODS: Mapping[str, Rows] = {
    "size": [((STRING,), INT, _size)],
    "contains": [((STRING, STRING), BOOL, _searching(lambda text, part: part in text))],
    "startsWith": [((STRING, STRING), BOOL, _searching(str.startswith))],
    "endsWith": [((STRING, STRING), BOOL, _searching(str.endswith))],
    "getFullYear": [((TIME,), INT, lambda _, at: at.year)],
    "getMonth": [((TIME,), INT, lambda _, at: at.month - 1)],
    "getDate": [((TIME,), INT, lambda _, at: at.day)],
    "getDayOfMonth": [((TIME,), INT, lambda _, at: at.day - 1)],
    "getDayOfWeek": [((TIME,), INT, lambda _, at: at.isoweekday() % 7)],
    "getDayOfYear": [((TIME,), INT, lambda _, at: at.timetuple().tm_yday - 1)],
    "getHours": [
        ((TIME,), INT, lambda _, at: at.hour),
        ((SPAN,), INT, lambda _, span: int(span / timedelta(hours=1))),
    ],
    "getMinutes": [
        ((TIME,), INT, lambda _, at: at.minute),
        ((SPAN,), INT, lambda _, span: int(span / timedelta(minutes=1))),
    ],
    "getSeconds": [
        ((TIME,), INT, lambda _, at: at.second),
        ((SPAN,), INT, lambda _, span: int(span / timedelta(seconds=1))),
    ],
    "getMilliseconds": [
        ((TIME,), INT, lambda _, at: at.microsecond // 1000),
        ((SPAN,), INT, lambda _, span: int(span / timedelta(milliseconds=1))),
    ],
}
"""The first argument is what stands before the dot. Times are in UTC; months and days of the week count from 0, as CEL
has it."""
