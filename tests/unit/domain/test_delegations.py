"""What a delegation may be, and when it holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.delegations import LONGEST, Delegation, Person, delegation
from app.domain.errors import InvalidInput
from app.domain.identity import PrincipalKind

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BOB, DAN = Person("https://i|bob", "Bob"), Person("https://i|dan", "Dan")


def made(**changed: Any) -> Delegation:
    said = {"giver": BOB, "taker": DAN, "models": "*", "starts_at": None, "ends_at": NOW + timedelta(days=7)}
    return delegation("dlg_1", **{**said, "reason": "", "at": NOW, "by": BOB.id, **changed})


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"taker": BOB}, "to"),
        ({"taker": Person("https://i|ci", "CI", PrincipalKind.SERVICE)}, "to"),
        ({"taker": Person("https://i|dan", "Dan", is_disabled=True)}, "to"),
        ({"giver": Person("https://i|ci", "CI", PrincipalKind.SERVICE)}, "delegator"),
        ({"giver": Person("https://i|bob", "Bob", is_disabled=True)}, "delegator"),
        ({"ends_at": NOW}, "ends_at"),
        ({"ends_at": NOW - timedelta(days=1), "starts_at": NOW - timedelta(days=2)}, "ends_at"),
        ({"ends_at": NOW + LONGEST + timedelta(seconds=1)}, "ends_at"),
        ({"starts_at": NOW + timedelta(days=8)}, "ends_at"),
        ({"models": ""}, "models"),
        ({"models": "*" * 40}, "models"),
        ({"models": "fraud\n"}, "models"),
        ({"models": "x" * 1000}, "models"),
    ],
)
def test_what_is_no_delegation_is_refused_by_field(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        made(**changed)
    assert refused.value.details["field"] == field


def test_it_holds_from_its_beginning_until_before_its_end_unless_it_was_revoked() -> None:
    later = made(starts_at=NOW + timedelta(days=1))
    assert not later.is_active(NOW)
    assert later.is_active(NOW + timedelta(days=1))
    assert not later.is_active(later.ends_at)
    assert made(starts_at=NOW - timedelta(days=3)).starts_at == NOW


def test_it_is_about_the_models_that_match_whatever_their_case() -> None:
    some = made(models="Fraud-*")
    assert some.covers("fraud-uk")
    assert not some.covers("churn")
