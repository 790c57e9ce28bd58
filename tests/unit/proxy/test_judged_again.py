"""The last byte of an upload waits until its guard agrees once more."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import CountersignError, Governed, TooSlow
from app.proxy.judged_again import JudgedAgain


class Body:
    """Parts, and perhaps no end."""

    def __init__(self, *parts: bytes, failure: CountersignError | None = None) -> None:
        self._parts = parts
        self.failure = failure

    async def chunks(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part
        if self.failure:
            raise self.failure


async def agree() -> None:
    """Say nothing."""


async def refuse() -> None:
    raise Governed("A promotion rests on it.")


async def read(body: JudgedAgain) -> tuple[bytes, CountersignError | None]:
    """What was passed on, and what it ended with."""
    passed = b""
    try:
        async for part in body.chunks():
            passed += part
    except CountersignError as error:
        return passed, error
    return passed, None


@given(st.lists(st.binary(min_size=1), max_size=5), st.booleans())
async def test_what_is_agreed_to_passes_unchanged(parts: list[bytes], is_known: bool) -> None:
    whole = b"".join(parts)
    assert await read(JudgedAgain(Body(*parts), len(whole) if is_known else None, agree)) == (whole, None)


@given(st.lists(st.binary(min_size=1), min_size=1, max_size=5), st.booleans())
async def test_what_is_refused_lacks_its_end_and_the_refusal_is_kept(parts: list[bytes], is_known: bool) -> None:
    whole = b"".join(parts)
    body = JudgedAgain(Body(*parts), len(whole) if is_known else None, refuse)
    passed, error = await read(body)
    assert passed == (whole[: -len(parts[-1])] if is_known else whole[:-1])
    assert isinstance(error, Governed)
    assert body.failure is error


async def test_an_empty_file_is_judged_too() -> None:
    assert isinstance((await read(JudgedAgain(Body(), None, refuse)))[1], Governed)


@pytest.mark.parametrize("length", [10, None])
async def test_a_body_that_ended_early_is_not_judged_and_says_why(length: int | None) -> None:
    slow = TooSlow("body", "nothing of it arrived")
    body = JudgedAgain(Body(b"ab", failure=slow), length, refuse)
    with pytest.raises(TooSlow):
        async for part in body.chunks():
            assert part in {b"a", b"ab"}
    assert body.failure is slow
