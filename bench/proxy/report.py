"""What was measured, as tables on the terminal and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.proxy.rounds import Result
from bench.proxy.targets import Verdict, judge, ratio

US = "countersign"
_COLUMNS = ("conn", "contender", "req/s", "±", "ratio", "p50 ms", "p99 ms", "p99 ratio", "CPU µs", "MiB", "targets")


class Report:
    """Prints each table as soon as it is known, and keeps everything for the file."""

    def __init__(self) -> None:
        self._console = Console(width=150)
        self._rows: list[dict[str, object]] = []
        self.failures: list[str] = []
        self.verdicts: list[Verdict] = []

    def say(self, text: str) -> None:
        self._console.print(escape(text))

    def heading(self, text: str) -> None:
        self._console.rule(escape(text), align="left")

    def fail(self, what: str) -> None:
        """Something could not be measured; the rest goes on."""
        self.failures.append(what)
        self._console.print(f"[bold red]failed[/]: {escape(what)}")

    def table(
        self, section: str, work: str, cells: Mapping[int, Mapping[str, Result]], *, baseline: str | None
    ) -> None:
        """The contenders of one work by number of connections. Ratios are to ``baseline``."""
        table = Table(*_COLUMNS, title=f"{section}: {work}", title_justify="left", expand=False)
        for column in (0, *range(2, 10)):
            table.columns[column].justify = "right"
        for connections, results in cells.items():
            for name, result in results.items():
                verdicts = judge(section, work, connections, US, results) if name == US else []
                self._row(table, section, work, connections, name, results, baseline, verdicts)
                if result.failure:
                    self.fail(f"{section}, {work}, {connections} connections: {result.failure}")
            table.add_section()
        self._console.print(table)

    def fact(self, section: str, name: str, value: float, unit: str, verdict: Verdict | None = None) -> None:
        """One figure that is no load, with its target."""
        self._rows.append({"section": section, "fact": name, "value": value, "unit": unit, **_judged(_some(verdict))})
        self.verdicts += _some(verdict)
        self._console.print(f"{escape(name)}: [bold]{value:,.4g}[/] {unit}  {_shown(_some(verdict))}")

    def _row(
        self,
        table: Table,
        section: str,
        work: str,
        connections: int,
        name: str,
        results: Mapping[str, Result],
        baseline: str | None,
        verdicts: Sequence[Verdict],
    ) -> None:
        row: dict[str, object] = {"section": section, "work": work, "connections": connections, "contender": name}
        result, found = results[name], results[name].medians
        if found is None:
            table.add_row(str(connections), name, "failed")
            self._rows.append({**row, "failure": result.failure})
            return
        base = results[baseline].medians if baseline and baseline in results else None
        rate = ratio(found, base, "rate") if base else None
        tail = ratio(found, base, "p99_ms") if base else None
        table.add_row(
            str(connections),
            name,
            f"{found.rate:,.0f}" if found.rate >= 100 else f"{found.rate:.1f}",
            f"{result.spread:.0%}",
            f"{rate:.2f}" if rate is not None else "",
            f"{found.p50_ms:,.2f}",
            f"{found.p99_ms:,.2f}",
            f"{tail:.2f}" if tail is not None else "",
            f"{found.cpu_us:,.0f}",
            f"{found.rss_mib:,.0f}",
            _shown(verdicts),
        )
        self.verdicts += verdicts
        self._rows.append(
            {
                **row,
                **asdict(found),
                "spread": result.spread,
                "ratio": _finite(rate),
                "p99_ratio": _finite(tail),
                **_judged(verdicts),
            }
        )

    def summary(self) -> None:
        """How many targets are reached, and which are not."""
        missed = [verdict for verdict in self.verdicts if not verdict.reached]
        self._console.print(f"\n{len(self.verdicts) - len(missed)} of {len(self.verdicts)} targets reached")

    def write(self, file: Path, circumstances: Mapping[str, object]) -> None:
        """Everything as JSON."""
        document = {"circumstances": circumstances, "rows": self._rows, "failures": self.failures}
        file.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _some(verdict: Verdict | None) -> list[Verdict]:
    return [verdict] if verdict else []


def _judged(verdicts: Sequence[Verdict]) -> dict[str, object]:
    return {"targets": [{**asdict(one), "measured": _finite(one.measured)} for one in verdicts]}


def _finite(number: float | None) -> float | None:
    """JSON knows no infinity; what would be infinite has nothing to be compared with."""
    return number if number is not None and math.isfinite(number) else None


def _shown(verdicts: Sequence[Verdict]) -> str:
    marks = {True: "[green]reached[/]", False: "[red]missed[/]"}
    return "\n".join(f"{marks[one.reached]} {escape(one.target)}: {one.measured:,.3g}" for one in verdicts)
