"""What a check takes at most: ``python -m bench.governance.checks``.

Each expression is given facts that are just not too large for it, by the steps that are counted before it is evaluated
(``app/adapters/expressions/costing.py``), and is evaluated by the library. A step that takes longer than it should
means that the model of the library's costs is wrong there: somebody could keep a gateway busy with a policy. Seconds
are those of the thread's processor time, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.table import Table

from app.adapters.expressions.admitting import admit
from app.adapters.expressions.checking import Path, check_clauses
from app.adapters.expressions.costing import STEPS
from app.adapters.expressions.library import context_of, run

TARGET_S = 0.5
LARGEST = 60_000
"""Items of each list; a version may have 50,000 files."""
GROWTH = 1.4


def _files(count: int) -> object:
    return [{"path": f"part-{i:06}", "size": i, "format": "safetensors"} for i in range(count)]


def _texts(count: int, *, prefix: str, length: int) -> object:
    return {f"{prefix}{i}": "x" * length for i in range(count)}


FACTS: Mapping[str, Callable[[int], object]] = {
    "exists": lambda _: True,
    "size": lambda _: 3,
    "version": lambda _: "7",
    "files": _files,
    "description": lambda count: "ab" * (count * 5),
    "tags": partial(_texts, prefix="k", length=50),
    "params": partial(_texts, prefix="p", length=500),
    "aliases": lambda count: [f"a{i:06}" for i in range(count)],
    "metrics": lambda count: {f"m{i}": float(i) for i in range(count)},
}
"""Of candidate and holder alike, by how many there are of what there may be many of."""

EXPRESSIONS = (
    "candidate.files.all(f, f.format != 'pickle' && f.size >= 0)",
    "candidate.files.all(f, f.format in ['a', 'b', 'c', 'safetensors'])",
    "candidate.files.all(f, has(f.path) && has(f.size))",
    "candidate.files == holder.files",
    "candidate.files.all(f, f in holder.files)",
    "candidate.files.all(f, holder.files.all(g, g.size >= 0))",
    "candidate.files.all(f, candidate.files.size() > 0)",
    "candidate.files.all(f, candidate.files[0].size == 0)",
    "candidate.files.all(f, candidate.size > 0 && candidate.version == '7' && holder.files.size() > 0)",
    "candidate.files.filter(f, true).size() > 0",
    "candidate.files.map(f, f.size).size() > 0",
    "candidate.files.map(f, f).size() > 0",
    "candidate.aliases.map(a, candidate.files).size() > 0",
    "candidate.metrics == holder.metrics",
    "candidate.metrics.all(m, candidate.metrics[m] >= 0.0)",
    "candidate.metrics.all(m, m in holder.metrics)",
    "candidate.tags.all(t, candidate.tags[t] != '')",
    "candidate.params == candidate.params",
    "candidate.params.all(p, p in candidate.params)",
    "candidate.aliases.all(a, a in candidate.aliases)",
    "candidate.aliases.exists_one(a, a == 'a000001')",
    "candidate.aliases.filter(a, true).size() > 0",
    "candidate.aliases.filter(a, true).filter(a, true).map(a, a).all(a, true)",
    "candidate.aliases.all(a, candidate.aliases.all(b, true))",
    "candidate.aliases.all(a, candidate.aliases.filter(b, true).size() > 0)",
    "candidate.aliases.all(a, candidate.aliases.all(b, candidate.aliases.all(c, true)))",
    "candidate.aliases.map(a, candidate.aliases.map(b, b)).size() > 0",
    "candidate.aliases.all(a, (candidate.aliases + candidate.aliases).size() > 0)",
    "(candidate.aliases + candidate.aliases + candidate.aliases).all(a, a != '')",
    "candidate.aliases.all(a, candidate.exists ? true : false)",
    "candidate.aliases.all(a, [a, a, a, a].size() == 4)",
    "candidate.aliases.all(a, [1, 2, 3, 4, 5, 6, 7, 8].exists(x, x == 8))",
    "candidate.aliases.all(a, [[a], [a]].all(x, x.all(y, true)))",
    "candidate.aliases.all(a, a.startsWith('a') && a.size() == 7 && int('1') == 1 && double('1.5') > 1.0)",
    "candidate.aliases.all(a, timestamp('2026-01-01T00:00:00Z') < timestamp('2027-01-01T00:00:00Z'))",
    "candidate.aliases.all(a, candidate.description == candidate.description)",
    "candidate.aliases.all(a, candidate.description.contains('bb') == false)",
    "candidate.aliases.all(a, (candidate.description + a) != '')",
    "candidate.aliases.map(a, candidate.description + a).size() > 0",
    "candidate.aliases.map(a, a + a + a + a).size() > 0",
    "candidate.files.all(f, f.path.matches('^part-[0-9]+$'))",
    r"candidate.files.all(f, !f.path.matches(r'\w\w\w\w!'))",
    "candidate.files.all(f, !f.path.matches('(?i)[a-z]{40}!'))",
    "candidate.files.all(f, !f.path.matches('.{9}q'))",
    "!candidate.description.matches('(a|b)*a(a|b){200}c')",
    "!candidate.description.matches('(a|b)*a(a|b){20}c')",
    "!candidate.description.matches('[ab]*a[ab]{500}c')",
    r"!candidate.description.matches(r'(\w*a\w{5})+!')",
)


@dataclass(frozen=True, slots=True)
class Taken:
    """``admit_s``: to look through the facts, which is not counted in steps; ``run_s``: to evaluate."""

    items: int
    admit_s: float
    run_s: float
    steps: int

    @property
    def step_ns(self) -> float:
        return self.run_s / self.steps * 1e9


def main() -> int:
    """Run; 0 if no evaluation took longer than the target."""
    parser = argparse.ArgumentParser(prog="python -m bench.governance.checks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="expressions with this in them")
    options = parser.parse_args()
    taken = {each: measure(each) for each in EXPRESSIONS if options.only in each}
    table = Table("expression", "items", "facts, ms", "evaluated, ms", "steps", "ns a step", "")
    for column in table.columns[1:6]:
        column.justify = "right"
    for expression, each in taken.items():
        figures = (each.items, 1e3 * each.admit_s, 1e3 * each.run_s, each.steps, each.step_ns)
        late = "missed" if each.run_s > TARGET_S else ""
        table.add_row(expression, *(f"{figure:,.0f}" for figure in figures), late)
    Console(width=150, markup=False, highlight=False).print(table)
    longest = max(each.run_s for each in taken.values())
    print(f"at most {longest:.2f} s; aimed at: {TARGET_S:g} s")
    return int(longest > TARGET_S)


def measure(expression: str) -> Taken:
    """Of an expression of one clause, with as many items as it may have."""
    (clause,) = check_clauses(expression)
    items = 2
    while (more := int(items * GROWTH) + 1) <= LARGEST:
        if clause.cost(admit(_facts(clause.reads, more), clause.reads).sizes).steps > STEPS:
            break
        items = more
    facts = _facts(clause.reads, items)
    began = time.thread_time()
    admitted = admit(facts, clause.reads)
    was_admitted = time.thread_time()
    context, cost = context_of(admitted.facts), clause.cost(admitted.sizes)
    started = time.thread_time()
    run(clause.program, context)
    return Taken(items, was_admitted - began, time.thread_time() - started, cost.steps)


def _facts(reads: Iterable[Path], items: int) -> Mapping[str, object]:
    found: dict[str, dict[str, object]] = {}
    for side, name, *_ in reads:
        found.setdefault(side, {})[name] = FACTS[name](items)
    return found


if __name__ == "__main__":
    sys.exit(main())
