"""The answer of an expression, clause by clause, with the values that each looked at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from app.adapters.expressions.admitting import Admitted, admit
from app.adapters.expressions.checking import CheckedClause, Path, Refused, Witness, check_clauses, path_text, type_at
from app.adapters.expressions.costing import STEPS
from app.adapters.expressions.library import Fault, context_of, run
from app.domain.errors import InvalidInput
from app.domain.facts import ABSENT, Clause, Evaluated, MapOf

if TYPE_CHECKING:
    from cel import Context

_LONGEST_READ = 200
"""Characters of a value that is kept as it is; of a longer one, its digest."""
_LONGEST_SHOWN = 120
_MOST_SHOWN = 6
"""Values in a message."""
_NAMES_SHOWN = 8
_MOST_ASKED = 2_000
"""Items that are asked one by one which of them it was."""
_MOST_BESIDE = 1_000
"""Cells of the facts that are looked at with each: the library copies them every time."""
_UNREADABLE = "unreadable"


class CelExpressions:
    """See ``app.ports.Expressions``. Keeps nothing but what it checked lately."""

    def check(self, expression: str, *, field: str) -> frozenset[str]:
        try:
            clauses = _checked(expression)
        except Refused as error:
            raise InvalidInput(field, str(error)) from None
        return frozenset(path_text(path) for clause in clauses for path in clause.reads)

    def evaluate(self, expression: str, facts: Mapping[str, object]) -> Evaluated:
        try:
            clauses = _checked(expression)
        except Refused as error:  # it was checked once, by a release that knew other facts
            return Evaluated(
                False, (Clause(expression, False, {}, f"this check cannot be read any more: {error}"),), {}
            )
        paths = {path for clause in clauses for path in clause.reads}
        values = {path: _canonical(_looked_up(facts, path)) for path in paths}
        evaluation = _Evaluation(facts, admit(facts, paths), values)
        answered = tuple(map(evaluation.answer, clauses))
        reads = {path_text(path): _kept(value) for path, value in sorted(values.items())}
        return Evaluated(all(clause.holds for clause in answered), answered, reads)


@lru_cache(maxsize=128)
def _checked(expression: str) -> tuple[CheckedClause, ...]:
    return check_clauses(expression)


class _Evaluation:
    """Of one expression, over the facts that it reads; of all its clauses together the steps are counted."""

    def __init__(self, facts: Mapping[str, object], admitted: Admitted, values: Mapping[Path, str]) -> None:
        self._facts, self._admitted, self._values = facts, admitted, values
        self._left = STEPS

    @cached_property
    def _context(self) -> Context:
        return context_of(self._admitted.facts)

    def answer(self, clause: CheckedClause) -> Clause:
        shown = {path_text(path): _shortened(self._values[path]) for path in sorted(clause.reads)}
        try:
            if self._holds(clause):
                return Clause(clause.text, True, shown, "")
            why = (clause.witness and self._named(clause.witness)) or _why(shown)
        except Fault as fault:
            why = self._explained(clause, fault)
        return Clause(clause.text, False, shown, f"{clause.text}: {why}")

    def _holds(self, clause: CheckedClause) -> bool:
        for path in sorted(clause.reads):
            if fault := self._admitted.faults.get(path):
                raise Fault(fault)
        cost = clause.cost(self._admitted.sizes)
        if cost.steps > self._left:
            raise Fault(f"it is too much work, more than {STEPS:,} steps: {cost}")
        self._left -= cost.steps
        return run(clause.program, self._context) is True

    def _named(self, witness: Witness) -> str:
        """The item by which it does not hold; looked for among the first, if not much else is looked at with each."""
        items: Any = _looked_up(self._admitted.facts, witness.path)
        beside = admit(self._facts, witness.reads)
        if sum(bulk.cells for bulk in beside.sizes.values()) <= _MOST_BESIDE:
            context = context_of(beside.facts)
            for item in list(items)[:_MOST_ASKED]:
                try:
                    context.add_variable(witness.variable, item)
                    if run(witness.asks, context) is witness.decides:
                        return f"it is not so for {_shortened(_canonical(item))}"
                except Fault:
                    continue
        return f"it is not so for one of {len(items):,}"

    def _explained(self, clause: CheckedClause, fault: Fault) -> str:
        """In terms of the facts, where one of them is what is missing."""
        for path in sorted(clause.reads):
            found: Any = self._facts
            for depth, part in enumerate(path, 1):
                holder, found = found, found.get(part) if isinstance(found, Mapping) else None
                if found is None and depth > 1 and part == fault.missing:
                    return _missing(path[:depth], holder)
        return str(fault)


def _missing(path: Path, holder: Any) -> str:
    *whole, name = path
    if isinstance(type_at(tuple(whole)), MapOf):
        return f"{path_text(tuple(whole))} has no {_quoted(name)}; it has {_names(holder)}"
    if isinstance(holder, Mapping) and holder.get("exists") is False:
        return "there is no holder"
    return f"{path_text(path)} is not known"


def _names(values: object) -> str:
    names = sorted(str(name) for name in values) if isinstance(values, Mapping) else []
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    listed = ", ".join(
        name if name.isidentifier() and len(name) <= 40 else _quoted(name) for name in names[:_NAMES_SHOWN]
    )
    return f"{listed}{more}" if names else "none"


def _quoted(text: str, most: int = 40) -> str:
    short = text if len(text) <= most else f"{text[: most - 1]}…"
    return f'"{short}"' if short.isprintable() else ascii(short)


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
