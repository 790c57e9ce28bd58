"""Pages of a long table that is read in one order, for one key or for many.

For many keys, the first rows of each are looked up one by one and merged, so that a page costs the same whatever
follows. Left to itself, PostgreSQL reads everything of all of them, and sorts it. Short tables need no such care.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, FromClause, Select, Text, cast, func, select, true, tuple_
from sqlalchemy.dialects.postgresql import ARRAY

from app.domain.promotions import AliasKey

Conditions = Sequence[ColumnElement[bool]]
Keys = Mapping[str, Sequence[str]]
"""The keys of which rows are wanted, column by column: as many values of each."""


class Ordered:
    """A table in the order of some of its columns, of which the last is the primary key."""

    def __init__(self, *columns: Column[Any], newest_first: bool) -> None:
        self._names = [column.name for column in columns]
        self._table = columns[-1].table
        self._is_descending = newest_first

    def page(self, conditions: Conditions, limit: int) -> Select[tuple[Any]]:
        """The primary keys of the first rows."""
        return self._keys_of(self._first(conditions, limit))

    def page_of_each(self, keys: Keys, conditions: Conditions, limit: int) -> Select[tuple[Any]]:
        """The primary keys of the first rows that have one of a few keys."""
        return self._keys_of(self._merged(_rows(keys), conditions, limit, each=limit))

    def page_among(self, keys: Keys, conditions: Conditions, limit: int) -> Select[tuple[Any]]:
        """The same for a thousand keys: only those that have the first rows can be on the page."""
        first = self._merged(_rows(keys), conditions, limit, each=1).subquery("first")
        those = select(*[first.c[name] for name in keys]).subquery("those")
        return self._keys_of(self._merged(those, conditions, limit, each=limit))

    def sort(self, query: Select[Any], rows: FromClause | None = None) -> Select[Any]:
        """With the rows in order."""
        columns = [(self._table if rows is None else rows).c[name] for name in self._names]
        return query.order_by(*(column.desc() if self._is_descending else column for column in columns))

    def _first(self, conditions: Conditions, limit: int) -> Select[Any]:
        columns = [self._table.c[name] for name in self._names]
        return self.sort(select(*columns).where(*conditions)).limit(limit)

    def _merged(self, keys: FromClause, conditions: Conditions, limit: int, *, each: int) -> Select[Any]:
        """The first rows of those that the first rows of each key are."""
        alike = [self._table.c[column.name] == column for column in keys.c]
        found = self._first([*conditions, *alike], each).lateral("found")
        return self.sort(select(*found.c, *keys.c).select_from(keys.join(found, true())), found).limit(limit)

    def _keys_of(self, query: Select[Any]) -> Select[tuple[Any]]:
        return select(query.subquery("page").c[self._names[-1]])


def columns_of(aliases: Collection[AliasKey]) -> Keys:
    """Aliases, column by column."""
    return {name: [getattr(key, name) for key in aliases] for name in ("workspace", "model", "alias")}


def is_among(table: FromClause, aliases: Collection[AliasKey]) -> ColumnElement[bool]:
    """Whether a row is of one of these aliases."""
    keys = columns_of(aliases)
    return tuple_(*(table.c[name] for name in keys)).in_(select(*_rows(keys).c))


def is_among_models(table: FromClause, models: Collection[tuple[str, str]]) -> ColumnElement[bool]:
    """Whether a row is of one of these models, each a workspace and a name."""
    keys: Keys = {"workspace": [workspace for workspace, _ in models], "model": [model for _, model in models]}
    return tuple_(*(table.c[name] for name in keys)).in_(select(*_rows(keys).c))


def _rows(keys: Keys) -> FromClause:
    """One parameter a column, however many keys there are: PostgreSQL takes 32,767 parameters at most."""
    arrays = [cast(list(values), ARRAY(Text)) for values in keys.values()]
    return func.unnest(*arrays).table_valued(*keys).render_derived("wanted")
