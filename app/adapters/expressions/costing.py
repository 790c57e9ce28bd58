"""What an evaluation would take at most, for facts as large as these: the library has no budget and cannot be stopped.

A step is what it takes to copy one value, about 50 ns (ADR 0021 has the measurements). The library copies a list or map
whenever it is selected, each item that a macro binds, and what ``filter`` and ``map`` have kept, for every item anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

STEPS = 8_000_000
"""What one evaluation may take."""
LARGEST_PATTERN = 200_000
"""Steps that it takes to prepare a pattern, which happens each time that a text is matched."""

_AN_OPERATION = 4
_A_NAME = 2
_CHARACTERS_A_CELL = 64


@dataclass(frozen=True, slots=True)
class Bulk:
    """How large a value is at most: items or characters; all values within, itself included; its largest item."""

    length: int = 1
    cells: int = 1
    item: Bulk | None = None

    @property
    def part(self) -> Bulk:
        """Of any part: no part is larger than the whole."""
        return self.item or self


ONE = Bulk()


def bulk_of_text(text: str) -> Bulk:
    return Bulk(len(text), 1 + len(text) // _CHARACTERS_A_CELL) if len(text) >= _CHARACTERS_A_CELL else ONE_TEXT


ONE_TEXT = Bulk(_CHARACTERS_A_CELL)


def bulk_of_items(items: Sequence[Bulk]) -> Bulk:
    return Bulk(len(items), 1 + sum(each.cells for each in items), largest(items))


def bulk_of_parts(parts: Sequence[Bulk]) -> Bulk:
    """Of a record, which has names beside its parts."""
    whole = largest(parts)
    return Bulk(whole.length, 1 + sum(_A_NAME + each.cells for each in parts), whole.item)


def bulk_of_map(names: Sequence[Bulk], values: Sequence[Bulk]) -> Bulk:
    cells = sum(_A_NAME + each.cells for each in (*names, *values))
    return Bulk(len(names), 1 + cells, largest((*names, *values)))


def largest(bulks: Iterable[Bulk]) -> Bulk:
    length = cells = 1
    items = set()
    for each in bulks:
        length, cells = max(length, each.length), max(cells, each.cells)
        if each.item:
            items.add(each.item)
    return Bulk(length, cells, largest(items) if items else None)


@dataclass(frozen=True, slots=True)
class Cost:
    """Steps, how large the value is that comes of them, and the lists that make the most of them, inner ones last."""

    steps: int
    bulk: Bulk = ONE
    lists: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"it looks at {' for each of '.join(reversed(self.lists))}" if self.lists else "its texts are too long"


Sizes = Mapping[tuple[str, ...], Bulk]
"""Of the facts, by path, and of the variables of macros."""
Costing = Callable[[Sizes], Cost]


def nothing(_: Sizes) -> Cost:
    return Cost(1)


def of_text(text: str) -> Costing:
    cost = Cost(1, bulk_of_text(text))
    return lambda _: cost


def of_path(path: tuple[str, ...]) -> Costing:
    """Each list and map on the way is copied; the four that an expression begins with are not."""
    prefixes = [path[:length] for length in range(2, len(path) + 1)]

    def cost(sizes: Sizes) -> Cost:
        copied = sum(sizes[prefix].cells for prefix in prefixes if prefix in sizes)
        return Cost(2 * len(path) + copied, sizes.get(path, ONE))

    return cost


def of_operation(parts: Sequence[Costing], bulk: Callable[..., Bulk] = lambda *_: ONE) -> Costing:
    """It looks at all that it is given. ``bulk`` tells of the result, by those of the parts."""

    def cost(sizes: Sizes) -> Cost:
        costs = [part(sizes) for part in parts]
        steps = _AN_OPERATION + sum(each.steps + each.bulk.cells for each in costs)
        return Cost(steps, bulk(*(each.bulk for each in costs)), _most(costs))

    return cost


def of_match(text: Costing, pattern: str) -> Costing:
    prepared, states = weight_of_pattern(pattern)

    def cost(sizes: Sizes) -> Cost:
        found = text(sizes)
        return Cost(found.steps + prepared + found.bulk.length * (1 + states // 2), ONE, found.lists)

    return cost


def of_macro(name: str, text: str, over: Costing, variable: str, body: Costing) -> Costing:
    def cost(sizes: Sizes) -> Cost:
        outer = over(sizes)
        many, item = outer.bulk.length, outer.bulk.part
        inner = body({**sizes, (variable,): item})
        steps = outer.steps + many * (_AN_OPERATION + item.cells + inner.steps)
        said = f"{many:,} of {text}"
        lists = (said, *inner.lists)
        if name not in {"filter", "map"}:
            return Cost(steps, ONE, lists)
        kept = item if name == "filter" else inner.bulk
        copied = many * many * kept.cells
        if copied > steps:
            lists = (said, f"what `{name}` kept of them")
        return Cost(steps + copied, Bulk(many, 1 + many * kept.cells, kept), lists)

    return cost


def _most(costs: Sequence[Cost]) -> tuple[str, ...]:
    return max(costs, key=lambda each: each.steps).lists if costs else ()


def joined(*bulks: Bulk) -> Bulk:
    """Of one after the other; of a number as text, no more than that of a short text."""
    length, cells = sum(each.length for each in bulks), sum(each.cells for each in bulks)
    return Bulk(max(length, _CHARACTERS_A_CELL), cells, largest(each.part for each in bulks))


_TOKEN = re.compile(r"\\[pP](?:\{[^}]*\}|.)|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*),?(\d*)\}|.", re.DOTALL)
_STEPS_OF: Sequence[tuple[re.Pattern[str], int]] = (
    (re.compile(r"\\[pPwWbB]"), 6_500),  # letters of all the world's scripts
    (re.compile(r"\\[dDsS]"), 400),
    (re.compile(r"\[\^|^\.$"), 200),
    (re.compile(r".."), 60),
    (re.compile(r"."), 5),
)
"""Of a character or class, the first that fits."""


def weight_of_pattern(pattern: str) -> tuple[int, int]:
    """Steps to prepare it, and the characters and classes in it, repeated ones as often as they are."""
    groups, last = [(0, 0)], (0, 0)
    for token in _TOKEN.finditer(pattern):
        text = token.group()
        steps, states = groups.pop()
        if text == "(":
            groups += [(steps, states), (0, 0)]
            continue
        if text == ")" and groups:
            last = (steps, states)
            steps, states = groups.pop()
        elif token.group(1) or token.group(2):
            times = int((token.group(2) or token.group(1))[:5]) - 1
            last = (last[0] * max(times, 0), last[1] * max(times, 0))
        else:
            last = (next((cost for kind, cost in _STEPS_OF if kind.search(text)), 5), 1)
        groups.append((steps + last[0], states + last[1]))
    folded = 4 if "(?" in pattern else 1
    return 100 + folded * sum(steps for steps, _ in groups), sum(states for _, states in groups)
