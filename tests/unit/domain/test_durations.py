"""Durations are exact seconds, in the ways people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.durations import LONGEST_S, parse_duration, write_duration
from app.domain.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1_800),
        ("24h", 86_400),
        ("62h", 223_200),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("1d12h", 129_600),
        ("PT62H", 223_200),
        ("P2DT3H", 183_600),
        ("P2W", 1_209_600),
        ("PT1H30M", 5_400),
        ("P10D", 864_000),
    ],
)
def test_a_duration_is_read_as_exact_seconds(text: str, seconds: int) -> None:
    assert parse_duration("soak", text) == seconds


@given(st.integers(1, LONGEST_S))
def test_what_is_written_is_read_back(seconds: int) -> None:
    assert parse_duration("soak", write_duration(seconds)) == seconds


@pytest.mark.parametrize(
    "value",
    [
        None,
        30,
        30.5,
        True,
        "",
        "30",
        "m",
        "30 m",
        " 30m",
        "30m\n",
        "30M",
        "-1h",
        "+1h",
        "1.5h",
        "1h1d",
        "1h1h",
        "P",
        "PT",
        "P1DT",
        "P1M",
        "P1Y",
        "P1W2D",
        "-PT1H",
        "pt1h",
        "P1H",
        "٣h",
        "9999999999s",
        ["1h"],
    ],
)
def test_what_is_no_duration_is_refused_by_its_field(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^policy\.soak: expected a duration such as"):
        parse_duration("policy.soak", value)


@pytest.mark.parametrize("value", ["0s", "0d0h", "PT0S", "999999999w", f"{LONGEST_S + 1}s"])
def test_nothing_and_more_than_ten_years_are_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="above zero and up to 3660 days"):
        parse_duration("soak", value)
