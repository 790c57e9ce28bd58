"""What changes when the candidate takes the holder's place: the facts (``app/domain/facts.py``) as rows of a table.

The facts come from MLflow and from the artifacts, so from anybody: whatever is not of the shape that is expected is
left out, and long lists are cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.domain.legible import written_size

MOST_ROWS = 100
"""Of a table or list; the API's answer has them all."""
NOT_KNOWN = "not known"


class Mark(StrEnum):
    """How a row differs."""

    CHANGED = "changed"
    ADDED = "new"
    REMOVED = "gone"
    SAME = "same"
    NOT_KNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing, as the holder has it and as the candidate has it. Empty: it has none."""

    name: str
    before: str
    after: str
    mark: Mark
    difference: str = ""
    is_more: bool | None = None
    """Whether a number grew; none if it is none, or the same."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one kind. ``same`` counts those that are not shown because they do not differ, ``more`` those cut off."""

    rows: tuple[Row, ...] = ()
    same: int = 0
    more: int = 0

    def __bool__(self) -> bool:
        return bool(self.rows or self.same)


@dataclass(frozen=True, slots=True)
class Listed:
    """Names that are in one and not in the other."""

    title: str
    names: tuple[str, ...]
    more: int = 0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version comes from: who is named there, and the addresses in MLflow, if it has some."""

    registered_by: str = ""
    created_at: datetime | None = None
    run: str = ""
    run_id: str = ""
    experiment_id: str = ""
    user: str = ""
    git_commit: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """See the module. Without a holder everything is new, and ``before`` is empty everywhere."""

    has_holder: bool
    error: str = ""
    same_bytes: bool | None = None
    """None: there is no holder, or no promotion took its digest."""
    metrics: Table = Table()
    params: Table = Table()
    tags: Table = Table()
    model: Table = Table()
    signature: Table = Table()
    files: tuple[Listed, ...] = ()
    requirements: tuple[Listed, ...] = ()
    has_pickle: bool = False
    candidate: Origin = Origin()
    holder: Origin = Origin()
    description: str = ""


def comparison(facts: Mapping[str, object]) -> Comparison:
    """Compare what was found of a candidate with what was found of the holder."""
    error = facts.get("error")
    if isinstance(error, str):
        return Comparison(has_holder=False, error=error)
    candidate, holder, difference = (_map(facts, side) for side in ("candidate", "holder", "difference"))
    has_holder = holder.get("exists") is True
    same_bytes = difference.get("same_bytes")
    return Comparison(
        has_holder=has_holder,
        same_bytes=same_bytes if isinstance(same_bytes, bool) else None,
        metrics=_metrics(_map(candidate, "metrics"), _map(holder, "metrics")),
        params=_texts(_map(candidate, "params"), _map(holder, "params"), has_holder=has_holder),
        tags=_texts(_map(candidate, "tags"), _map(holder, "tags"), has_holder=has_holder),
        model=_model(candidate, holder),
        signature=_signature(_map(candidate, "signature"), _map(holder, "signature")) if has_holder else Table(),
        files=_lists(difference, _FILES),
        requirements=_lists(difference, _REQUIREMENTS),
        has_pickle=candidate.get("has_pickle") is True,
        candidate=_origin(candidate),
        holder=_origin(holder),
        description=_text(candidate.get("description")),
    )


_FILES = (("Files added", "added_files"), ("Files removed", "removed_files"))
_REQUIREMENTS = (("Requirements added", "requirements_added"), ("Requirements removed", "requirements_removed"))


def _metrics(candidate: Mapping[str, object], holder: Mapping[str, object]) -> Table:
    rows = []
    for name in sorted(candidate.keys() | holder.keys()):
        after, before = _number(candidate.get(name)), _number(holder.get(name))
        difference, is_more = "", None
        if before is not None and after is not None and math.isfinite(after - before) and after != before:
            change = after - before
            is_more = change > 0
            share = f" ({100 * change / abs(before):+.1f} %)" if before else ""
            difference = f"{change:+.4g}{share}"
        mark = _mark(None if before is None else _figure(before), None if after is None else _figure(after))
        shown = ["" if each is None else _figure(each) for each in (before, after)]
        rows.append(Row(name, shown[0], shown[1], mark, difference, is_more))
    return _cut(rows, same=0)


def _texts(candidate: Mapping[str, object], holder: Mapping[str, object], *, has_holder: bool) -> Table:
    """Those that differ; without a holder, all."""
    rows = []
    for name in sorted(candidate.keys() | holder.keys()):
        before, after = (_text(side[name]) if name in side else None for side in (holder, candidate))
        rows.append(Row(name, before or "", after or "", _mark(before, after)))
    differing = [row for row in rows if row.mark is not Mark.SAME] if has_holder else rows
    return _cut(differing, same=len(rows) - len(differing))


@dataclass(frozen=True, slots=True)
class _Said:
    """One row of the table about the model itself: where the fact is, and how it is written."""

    title: str
    path: tuple[str, ...]
    write: Callable[[Any], str]
    absent: str = NOT_KNOWN
    """What it means that there is no such fact."""


def _model(candidate: Mapping[str, object], holder: Mapping[str, object]) -> Table:
    rows = []
    for said in _MODEL:
        values = [_at(side, said.path) for side in (holder, candidate)]
        before, after = (None if value is None else said.write(value) for value in values)
        if before is None and after is None:
            continue
        is_known = said.absent != NOT_KNOWN or (before is not None and after is not None)
        mark = _mark(before, after) if is_known else Mark.NOT_KNOWN
        difference, is_more = "", None
        if (
            said.title == "Size"
            and isinstance(values[0], int)
            and isinstance(values[1], int)
            and values[0] != values[1]
        ):
            is_more = values[1] > values[0]
            difference = f"{'+' if is_more else '-'}{written_size(abs(values[1] - values[0]))}"
        rows.append(Row(said.title, before or said.absent, after or said.absent, mark, difference, is_more))
    return _cut(rows, same=0)


def _signature(candidate: Mapping[str, object], holder: Mapping[str, object]) -> Table:
    """The columns that differ."""
    rows: list[Row] = []
    same = 0
    for side, title in (("inputs", "Input"), ("outputs", "Output")):
        ours, theirs = _columns(candidate.get(side)), _columns(holder.get(side))
        for name in sorted(ours.keys() | theirs.keys()):
            row = Row(
                f"{title} {name}", theirs.get(name, ""), ours.get(name, ""), _mark(theirs.get(name), ours.get(name))
            )
            same += row.mark is Mark.SAME
            rows += [] if row.mark is Mark.SAME else [row]
    return _cut(rows, same=same)


def _columns(value: object) -> dict[str, str]:
    columns: dict[str, str] = {}
    for index, column in enumerate(value if isinstance(value, list) else []):
        if isinstance(column, dict):
            optional = ", optional" if column.get("required") is False else ""
            columns[_text(column.get("name")) or f"number {index + 1}"] = f"{_text(column.get('type'))}{optional}"
    return columns


def _lists(difference: Mapping[str, object], wanted: Iterable[tuple[str, str]]) -> tuple[Listed, ...]:
    found = []
    for title, name in wanted:
        names = difference.get(name)
        if isinstance(names, list) and names:
            shown = tuple(_text(each) for each in names[:MOST_ROWS])
            found.append(Listed(title, shown, more=len(names) - len(shown)))
    return tuple(found)


def _origin(side: Mapping[str, object]) -> Origin:
    run = _map(side, "run")
    return Origin(
        registered_by=_text(side.get("registered_by")),
        created_at=_moment(side.get("created_at")),
        run=_text(run.get("name")) or _text(run.get("id")),
        run_id=_text(run.get("id")),
        experiment_id=_text(run.get("experiment_id")),
        user=_text(run.get("user")),
        git_commit=_text(side.get("git_commit")),
    )


def _yes_or_no(value: object) -> str:
    return "yes" if value is True else "no"


def _joined(value: object) -> str:
    return ", ".join(_text(each) for each in value) if isinstance(value, list) else _text(value)


def _datasets(value: object) -> str:
    named = []
    for each in value if isinstance(value, list) else []:
        if isinstance(each, dict):
            context = f" for {_text(each['context'])}" if "context" in each else ""
            named.append(f"{_text(each.get('name'))} ({_text(each.get('digest'))}){context}")
    return ", ".join(named) or "none"


_MODEL = (
    _Said("Flavors", ("flavors",), _joined),
    _Said("Signature", ("has_signature",), _yes_or_no),
    _Said("Input example", ("has_input_example",), _yes_or_no),
    _Said("Own code packaged", ("has_code",), _yes_or_no),
    _Said("Formats", ("formats",), _joined),
    _Said("Size", ("size",), lambda value: written_size(value) if isinstance(value, int) else ""),
    _Said("Files", ("file_count",), str),
    _Said("Python", ("environment", "python"), str),
    _Said("Saved by MLflow", ("environment", "mlflow_version"), str),
    _Said("Datasets", ("datasets",), _datasets),
    _Said("Data version (DVC)", ("dvc_hash",), str, absent="none"),
    _Said("Git commit", ("git_commit",), str, absent="none"),
)


def _cut(rows: Sequence[Row], *, same: int) -> Table:
    return Table(tuple(rows[:MOST_ROWS]), same=same, more=max(0, len(rows) - MOST_ROWS))


def _mark(before: str | None, after: str | None) -> Mark:
    if before == after:
        return Mark.SAME
    if before is None:
        return Mark.ADDED
    return Mark.REMOVED if after is None else Mark.CHANGED


def _at(value: object, path: Iterable[str]) -> object:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _map(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    """A metric; JSON has no NaN, which is written as a text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _figure(value: float) -> str:
    return f"{value:.6g}"


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _moment(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if found and found.tzinfo else None
