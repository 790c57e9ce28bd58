"""How documents that people write are read: each wrong field is kept with its path, so that all are said at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from enum import StrEnum
from typing import TypeVar

from app.domain.errors import InvalidInput

Read = TypeVar("Read")
Instead = TypeVar("Instead")
Choice = TypeVar("Choice", bound=StrEnum)
Reader = Callable[[str, object], Read]
"""Makes a value of the field at a path. Raises ``InvalidInput`` with that path."""

_A_FEW = 10
"""Unknown fields for which it is worth looking what was meant."""
MOST = 100
"""Items of a list: rules, checks, windows and the like."""


class Fields:
    """One object of a document. What is wrong is kept with its path, and the reading goes on."""

    def __init__(self, where: str, value: object, known: Collection[str]) -> None:
        self._where = f"{where}." if where else ""
        self._problems: list[tuple[str, str]] = []
        if not isinstance(value, Mapping):
            raise InvalidInput(where, f"expected an object with {', '.join(known)}")
        self._values = value
        unknown = sorted(map(str, set(value) - set(known)))
        for name in unknown:
            meant = get_close_matches(name[:100], known, n=1) if len(unknown) <= _A_FEW else []
            hint = f"did you mean {meant[0]}? " if meant else ""
            self.refuse(name[:100], f"unknown field; {hint}expected one of {', '.join(known)}")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def refuse(self, name: str, expected: str) -> None:
        self._problems.append((f"{self._where}{name}", expected))

    def get(self, name: str, read: Reader[Read], default: Instead) -> Read | Instead:
        """The field, or ``default`` if it is not there or wrong."""
        return self.needed(name, read, default) if name in self._values else default

    def needed(self, name: str, read: Reader[Read], default: Instead) -> Read | Instead:
        """The field, which must be there; ``default`` stands for a wrong one until ``check``."""
        try:
            return read(f"{self._where}{name}", self._values.get(name))
        except InvalidInput as error:
            self._problems += error.problems
            return default

    def check(self) -> None:
        """Raises ``InvalidInput`` if anything was wrong."""
        if self._problems:
            # One of a kind: a rule that names a wrong field is not told as well that it names nobody.
            raise InvalidInput.of_all(dict.fromkeys(self._problems))


def each_of(read: Reader[Read]) -> Reader[tuple[Read, ...]]:
    """A list of what ``read`` makes of an item."""

    def items(where: str, value: object) -> tuple[Read, ...]:
        if not isinstance(value, list) or len(value) > MOST:
            raise InvalidInput(where, f"expected a list, of at most {MOST}")
        found: list[Read] = []
        problems: list[tuple[str, str]] = []
        for index, item in enumerate(value):
            try:
                found.append(read(f"{where}[{index}]", item))
            except InvalidInput as error:
                problems += error.problems
        if problems:
            raise InvalidInput.of_all(problems)
        return tuple(found)

    return items


def one_of(kind: type[Choice]) -> Reader[Choice]:
    def choice(where: str, value: object) -> Choice:
        if not isinstance(value, str) or value not in set(kind):
            raise InvalidInput(where, f"expected {' or '.join(kind)}")
        return kind(value)

    return choice


def read_text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(where, "expected a text")
    return value


def read_truth(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(where, "expected true or false")
    return value
