"""The answer of an expression, clause by clause, with the values that each looked at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from app.adapters.expressions.compiling import CompiledClause, Path, Refused, compile_clauses, path_text
from app.adapters.expressions.operations import STEPS, Exhausted, Fault, Frame
from app.domain.errors import InvalidInput
from app.domain.facts import ABSENT, Clause, Evaluated

_LONGEST_READ = 200
"""Characters of a value that is kept as it is; of a longer one, its digest."""
_LONGEST_SHOWN = 120
_MOST_SHOWN = 6
"""Values in a message."""
_UNREADABLE = "unreadable"


class CelExpressions:
    """See ``app.ports.Expressions``. Keeps nothing but what it compiled lately."""

    def check(self, expression: str, *, field: str) -> frozenset[str]:
        try:
            clauses = _compiled(expression)
        except Refused as error:
            raise InvalidInput(field, str(error)) from None
        return frozenset(path_text(path) for clause in clauses for path in clause.reads)

    def evaluate(self, expression: str, facts: Mapping[str, object]) -> Evaluated:
        try:
            clauses = _compiled(expression)
        except Refused as error:  # it was checked once, by a release that knew other facts
            return Evaluated(
                False, (Clause(expression, False, {}, f"this check cannot be read any more: {error}"),), {}
            )
        values = {path: _canonical(_looked_up(facts, path)) for clause in clauses for path in clause.reads}
        frame = Frame(facts)
        answered = tuple(_answer(clause, frame, values) for clause in clauses)
        reads = {path_text(path): _kept(value) for path, value in sorted(values.items())}
        return Evaluated(all(clause.holds for clause in answered), answered, reads)


@lru_cache(maxsize=128)
def _compiled(expression: str) -> tuple[CompiledClause, ...]:
    return compile_clauses(expression)


def _answer(clause: CompiledClause, frame: Frame, values: Mapping[Path, str]) -> Clause:
    shown = {path_text(path): _shortened(values[path]) for path in sorted(clause.reads)}
    frame.witness = None
    try:
        if clause.run(frame):
            return Clause(clause.text, True, shown, "")
        witness = frame.witness if clause.has_witness else None
        why = _why(shown) if witness is None else f"it is not so for {_shortened(_canonical(witness))}"
    except Fault as fault:
        why = str(fault)
    except Exhausted:
        why = f"it is too much work: more than {STEPS:,} steps"
    return Clause(clause.text, False, shown, f"{clause.text}: {why}")


def _why(shown: Mapping[str, str]) -> str:
    if not shown:
        return "it is never so"
    if len(shown) == 1:
        return f"it is {next(iter(shown.values()))}"
    said = [f"{path} is {value}" for path, value in list(shown.items())[:_MOST_SHOWN]]
    return ", ".join(said) + (", …" if len(shown) > _MOST_SHOWN else "")


def _looked_up(facts: Mapping[str, object], path: Path) -> object:
    value: Any = facts
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _canonical(value: object) -> str:
    """JSON in one spelling; ``ABSENT`` for nothing."""
    if value is None:
        return ABSENT
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return _UNREADABLE
    return text if text.isprintable() else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _kept(text: str) -> str:
    if len(text) <= _LONGEST_READ:
        return text
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
