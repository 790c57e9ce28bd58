"""The library that evaluates (``common-expression-language``): what it is given, and what it says when it cannot.

It is imported when the first expression is read: with itself it loads a command line, a tenth of a second that a
process without checks need not spend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import cel

_FUNCTION = re.compile(r"Function '(\w+)' error: (.*?)(?:\. Check function arguments and their types\.)?$", re.DOTALL)
_NOT_FOR_IT = {
    "timestamp": "this is no time as 2026-10-01T12:00:00Z",
    "duration": 'this is no duration as "36h" or "90m"; a day is "24h"',
    "int": "this is no whole number of 64 bits",
    "double": "this is no number",
}


class Fault(Exception):
    """There is no value; ``str()`` says why. ``missing`` is the name that a map lacks, if that is why."""

    def __init__(self, why: str, missing: str | None = None) -> None:
        super().__init__(why)
        self.missing = missing


def compiled(text: str) -> cel.Program:
    """Raises ``Fault``."""
    import cel  # noqa: PLC0415  # see the module

    try:
        return cel.compile(text)
    except BaseException as error:  # noqa: BLE001  # a panic of Rust is no Exception
        raise _fault(error) from None


def value_of(text: str) -> Any:
    """Of literals alone. Raises ``Fault``."""
    return run(compiled(text), context_of({}))


def run(program: cel.Program, context: cel.Context) -> Any:
    """Raises ``Fault``."""
    try:
        return program.execute(context)
    except BaseException as error:  # noqa: BLE001  # a panic of Rust is no Exception
        raise _fault(error) from None


def context_of(facts: Mapping[str, Any]) -> cel.Context:
    """Raises ``Fault``."""
    import cel  # noqa: PLC0415  # see the module

    try:
        return cel.Context(dict(facts))
    except BaseException as error:  # noqa: BLE001  # a panic of Rust is no Exception
        raise _fault(error) from None


def _fault(error: BaseException) -> Fault:
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    match error:
        case KeyError():
            return Fault(f'there is no "{error.args[0]}"', str(error.args[0]))
        case ZeroDivisionError():
            return Fault("it would be divided by zero")
        case OverflowError():
            return Fault("it is beyond 64 bits, or beyond the calendar")
        case TypeError():
            return Fault("it is not a number (NaN)")
        case IndexError():
            return Fault(str(error))
        case ValueError():
            literal = re.search(r"invalid (?:int|double|string) literal|reserved identifier: \w+", str(error))
            return Fault(literal.group() if literal else "this is no CEL expression")
    if found := _FUNCTION.fullmatch(str(error)):
        name, why = found.groups()
        return Fault(_NOT_FOR_IT.get(name) or f"this is no pattern: {why.strip().splitlines()[-1]}")
    return Fault("it has no value")
