"""The last part of an upload waits until its guard agrees once more."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import Governed
from app.proxy.judged_again import JudgedAgain


class Body:
    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    async def chunks(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part


async def agree() -> None:
    pass


async def refuse() -> None:
    raise Governed("A promotion rests on it.")


async def read(body: JudgedAgain) -> list[bytes]:
    return [part async for part in body.chunks()]


@given(st.lists(st.binary(min_size=1), max_size=5))
@pytest.mark.anyio
async def test_what_is_agreed_to_passes_unchanged(parts: list[bytes]) -> None:
    assert await read(JudgedAgain(Body(parts), agree)) == parts


async def test_what_is_refused_lacks_its_end_and_the_refusal_is_kept() -> None:
    body = JudgedAgain(Body([b"a", b"b"]), refuse)
    passed = []
    with pytest.raises(Governed):
        async for part in body.chunks():
            passed.append(part)
    assert passed == [b"a"]
    assert isinstance(body.refusal, Governed)


async def test_a_file_of_one_part_is_not_begun() -> None:
    with pytest.raises(Governed):
        await read(JudgedAgain(Body([b"a"]), refuse))
