"""No type of event is in the catalogue that no test has seen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.domain.events import EventType

TESTS = Path(__file__).parents[1]
WRITTEN = "".join(
    path.read_text()
    for folder in ("integration", "adversarial", "e2e")
    for path in sorted(TESTS.glob(f"{folder}/*.py"))
)
MEMBERS = frozenset(re.findall(r"\bEventType\.([A-Z_]+)", WRITTEN))
TYPES = frozenset(re.findall(r"\"(?:countersign\.)?([a-z]+\.[a-z_]+)(?:\.v1)?\"", WRITTEN))


@pytest.mark.parametrize("kind", EventType)
def test_every_type_of_event_is_named_by_a_test_on_real_parts(kind: EventType) -> None:
    assert kind.name in MEMBERS or kind.value in TYPES, kind
