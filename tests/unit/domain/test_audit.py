"""The hash chain: what it is over, and what breaks it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from app.domain.audit import GENESIS, OPERATOR, ChainedEntry, Entry, canonical, chained_hash, verify

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_keys = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=5)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=8,
)
_details = st.dictionaries(_keys, _values, max_size=4)


def chain(*details: dict[str, object]) -> list[ChainedEntry]:
    entries, previous = [], GENESIS
    for number, item in enumerate(details, start=1):
        document = Entry(NOON, OPERATOR, "tested", "thing", item).document(number)
        hashed = chained_hash(previous, document)
        entries.append(ChainedEntry(document, previous, hashed))
        previous = hashed
    return entries


@given(_details)
def test_entries_are_hashed_as_rfc_8785_says(details: dict[str, object]) -> None:
    assert canonical(details) == rfc8785.dumps(details)  # type: ignore[arg-type]  # JSON values


@given(st.lists(_details, max_size=5))
def test_a_chain_is_intact(details: list[dict[str, object]]) -> None:
    result = verify(chain(*details))
    assert result.is_intact
    assert result.entries == len(details)


@given(st.lists(_details, min_size=2, max_size=5), st.data())
def test_removing_or_swapping_or_changing_an_entry_is_found(
    details: list[dict[str, object]], data: st.DataObject
) -> None:
    entries = chain(*details)
    where = data.draw(st.integers(0, len(entries) - 2))
    removed = entries[:where] + entries[where + 1 :]
    swapped = [*entries[:where], entries[where + 1], entries[where], *entries[where + 2 :]]
    changed = list(entries)
    changed[where] = replace(entries[where], document={**entries[where].document, "action": "forged"})
    rehashed = list(entries)
    forged = {**entries[where].document, "action": "forged"}
    rehashed[where] = ChainedEntry(
        forged, entries[where].previous_hash, chained_hash(entries[where].previous_hash, forged)
    )
    for tampered in (removed, swapped, changed, rehashed):
        result = verify(tampered)
        assert not result.is_intact
        assert result.entries < len(entries)


def test_the_problem_names_the_entry() -> None:
    entries = chain({}, {}, {})
    assert verify([entries[0], entries[2]]).problem == "entry 2 is missing: found 3 in its place"
    changed = replace(entries[1], document={**entries[1].document, "object": "other"})
    assert verify([entries[0], changed]).problem == "entry 2 was changed: its hash does not match its content"


@pytest.mark.parametrize("value", [1.5, b"x", {1: 2}, {"é": 1}, object()])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical({"value": value})
