"""What CI may post: names, links and ends, and what is wrong with others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.checks import Posting, Verdict
from app.domain.errors import InvalidInput

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def posting(**changed: Any) -> Posting:
    return Posting(**({"name": "fairness", "outcome": Verdict.PASS} | changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "Unit tests (py3.13)"},
        {"name": "bias.gender_2-b"},
        {"link": "https://ci.example:8443/runs/1?x=%20#step:3:1"},
        {"digest": "sha256:" + "0" * 64},
        {"message": "m" * 2000},
    ],
)
def test_what_ci_systems_write_is_taken(changed: dict[str, Any]) -> None:
    posting(**changed).check()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", each) for each in ("", " x", "x\n", "a/b", "..", "x" * 1000, "a\u202eb")),
        *(
            ("link", each)
            for each in (
                "http://ci.example/1",
                "javascript:alert(1)",
                "https://",
                "https://user@ci.example/",
                "https://user:secret@ci.example/",
                "https://ci.example/\nx",
                "https://ci.example/<b>",
                "https://ci.example:port/",
                "https://cı.example/",
                "https://ci.example/" + "x" * 2000,
            )
        ),
        *(("digest", each) for each in ("", "sha256:0", "0" * 64, "sha256:" + "G" * 64, "sha256:" + "0" * 64 + "\n")),
        ("message", "m" * 2001),
    ],
)
def test_what_is_wrong_is_named(field: str, value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        posting(**{field: value}).check()
    assert refused.value.details["field"] == field
    assert "secret" not in refused.value.message


def test_a_verdict_ends_when_it_says() -> None:
    assert posting().ends(NOON) is None
    assert posting(expires_in_s=60).ends(NOON) == NOON + timedelta(minutes=1)
    assert posting(expires_at=NOON + timedelta(days=366)).ends(NOON) == NOON + timedelta(days=366)


@pytest.mark.parametrize(
    "changed",
    [
        {"expires_in_s": 0},
        {"expires_in_s": 10**9},
        {"expires_at": NOON},
        {"expires_at": NOON + timedelta(days=367)},
        {"expires_in_s": 60, "expires_at": NOON + timedelta(days=1)},
    ],
)
def test_an_end_that_cannot_be_meant_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        posting(**changed).ends(NOON)
