"""What is remembered of where bytes are, by itself: with a look-up and a lease that do as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from app.domain.errors import NotFound, Overloaded
from app.domain.names import ModelReference, parse_models_uri
from app.domain.resolutions import Found, Remember, Resolution
from app.services.following import LOOK_AGAIN_S, OTHERS_AT_ONCE, Following, Refusal
from app.services.resolution_memory import Address, Answer, ResolutionMemory, concerns


def address(uri: str = "models:/iris@production", workspace: str = "default") -> Address:
    return workspace, parse_models_uri(uri)


HERE = address()


class Ledger:
    """What is looked up: ``version``, when ``gate`` lets it through; and a lease."""

    def __init__(self) -> None:
        self.version = 1
        self.remember = Remember.UNTIL_CHANGED
        self.looks = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_held = True
        self.during: Callable[[], None] = lambda: None

    def holds(self) -> bool:
        return self.is_held

    async def look_up(self, reference: ModelReference, workspace: str) -> Found:
        self.looks += 1
        if reference.alias == "nothing":
            raise NotFound("There is none.")
        version = str(self.version)
        await self.gate.wait()
        self.during()
        resolution = Resolution(
            workspace, reference.model, version, reference.alias, "s3://b/m/", "s3://b/m", None, None, None
        )
        return Found(resolution, self.remember)


def written(resolution: Resolution) -> bytes:
    return resolution.version.encode()


@pytest.fixture
async def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def memory(ledger: Ledger) -> ResolutionMemory:
    return ResolutionMemory(ledger.look_up, ledger, written, most=3)


async def test_what_is_remembered_is_not_looked_up_again(ledger: Ledger, memory: ResolutionMemory) -> None:
    answers = [await memory.get(HERE) for _ in range(3)]
    assert ledger.looks == 1
    assert {answer.body for answer in answers} == {b"1"}
    assert answers[0].etag == f'"{answers[0].resolution.etag}"'.encode()


async def test_nothing_counts_without_a_lease(ledger: Ledger, memory: ResolutionMemory) -> None:
    await memory.get(HERE)
    ledger.is_held = False
    assert memory.recall(HERE) is None
    await memory.get(HERE)
    assert ledger.looks == 2


async def test_what_is_being_moved_is_not_remembered(ledger: Ledger, memory: ResolutionMemory) -> None:
    ledger.remember = Remember.NOT
    await memory.get(HERE)
    assert memory.recall(HERE) is None


@pytest.mark.parametrize("remember", [Remember.UNTIL_CHANGED, Remember.BRIEFLY])
async def test_all_who_ask_at_once_cause_one_look(ledger: Ledger, memory: ResolutionMemory, remember: Remember) -> None:
    ledger.remember = remember
    await asyncio.gather(*(memory.get(HERE) for _ in range(50)))
    assert ledger.looks == 1


async def test_nobody_is_given_what_was_looked_up_before_they_asked_unless_it_is_still_right(
    ledger: Ledger, memory: ResolutionMemory
) -> None:
    ledger.remember = Remember.NOT
    ledger.gate.clear()
    early = asyncio.create_task(memory.get(HERE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ledger.version = 2
    late = [asyncio.create_task(memory.get(HERE)) for _ in range(5)]
    await asyncio.sleep(0)
    ledger.gate.set()
    assert (await early).body == b"1"
    assert {(await each).body for each in late} == {b"2"}
    assert ledger.looks == 2


async def test_what_was_looked_up_while_it_was_to_be_forgotten_is_looked_up_again(
    ledger: Ledger, memory: ResolutionMemory
) -> None:
    def forget_once() -> None:
        ledger.version, ledger.during = 2, lambda: None
        memory.forget()

    ledger.during = forget_once
    assert (await memory.get(HERE)).body == b"2"
    assert memory.recall(HERE)


async def test_what_never_comes_to_rest_is_answered_and_not_remembered(
    ledger: Ledger, memory: ResolutionMemory
) -> None:
    ledger.during = memory.forget
    assert (await memory.get(HERE)).body == b"1"
    assert memory.recall(HERE) is None
    assert ledger.looks == 3


async def test_only_what_is_about_the_model_is_forgotten(memory: ResolutionMemory) -> None:
    other = address("models:/roses@production")
    for each in (HERE, other):
        await memory.get(each)
    memory.forget(("default", "Iris"))
    assert memory.recall(HERE) is None
    assert memory.recall(other)
    memory.forget()
    assert memory.recall(other) is None


@pytest.mark.parametrize(
    ("of", "is_concerned"),
    [
        (HERE, True),
        (address("models:/IRIS/7"), True),
        (address("models:/m-0123456789abcdef0123456789abcdef"), True),
        (address("models:/iris2@production"), False),
        (address(workspace="other"), False),
    ],
)
def test_what_a_change_of_a_model_concerns(of: Address, *, is_concerned: bool) -> None:
    assert concerns(("default", "iris"), of) is is_concerned
    assert concerns(None, of)


async def test_a_refusal_is_not_remembered(ledger: Ledger, memory: ResolutionMemory) -> None:
    for _ in range(2):
        with pytest.raises(NotFound):
            await memory.get(address("models:/iris@nothing"))
    assert ledger.looks == 2


async def test_what_was_asked_for_last_is_remembered(memory: ResolutionMemory) -> None:
    addresses = [address(f"models:/iris/{number}") for number in range(1, 5)]
    for each in addresses[:3]:
        await memory.get(each)
    memory.recall(addresses[0])
    await memory.get(addresses[3])
    assert [memory.recall(each) is not None for each in addresses] == [True, False, True, True]


async def test_an_alias_that_mlflow_moves_is_not_remembered_for_a_while(
    ledger: Ledger, memory: ResolutionMemory
) -> None:
    ledger.remember = Remember.BRIEFLY
    await memory.get(HERE)
    assert memory.recall(HERE)
    memory.hold_off(("default", "iris"))
    await memory.get(HERE)
    assert memory.recall(HERE) is None


async def test_who_gives_up_does_not_end_the_look_of_others(ledger: Ledger, memory: ResolutionMemory) -> None:
    ledger.gate.clear()
    impatient, patient = (asyncio.create_task(memory.get(HERE)) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    ledger.gate.set()
    assert (await patient).body == b"1"


# Following.


async def test_watchers_of_one_address_cost_one_look_and_are_all_woken(
    ledger: Ledger, memory: ResolutionMemory
) -> None:
    following = Following(memory)
    with following.watch([HERE]) as one, following.watch([HERE]) as other:
        for watcher in (one, other):
            await watcher.look()
            await watcher.wait_for(0)
        ledger.version = 2
        memory.forget(("default", "iris"))
        for watcher in (one, other):
            assert await watcher.wait_for(5)
            (state,) = watcher.states
            assert isinstance(state, Answer)
            assert state.body == b"2"
    assert ledger.looks == 2


async def test_nobody_is_woken_by_what_does_not_concern_them(ledger: Ledger, memory: ResolutionMemory) -> None:
    following = Following(memory)
    with following.watch([HERE]) as watcher:
        await watcher.look()
        await watcher.wait_for(0)
        memory.forget(("default", "roses"))
        memory.forget()  # looked at, and the same
        assert not await watcher.wait_for(0.02)
        ledger.version = 2
        assert not await watcher.wait_for(0.02)


async def test_a_watcher_is_told_that_an_address_does_not_resolve(memory: ResolutionMemory) -> None:
    with Following(memory).watch([HERE, address("models:/iris@nothing")]) as watcher:
        here, nothing = await watcher.look()
        assert isinstance(here, Answer)
        assert isinstance(nothing, Refusal)


async def test_all_waits_end_with_the_process_and_later_ones_do_not_begin(memory: ResolutionMemory) -> None:
    following = Following(memory)
    with following.watch([HERE]) as watcher:
        await watcher.look()
        await watcher.wait_for(0)
        waiting = asyncio.create_task(watcher.wait_for(60))
        await asyncio.sleep(0)
        following.end()
        assert not await waiting
    with following.watch([HERE]) as late:
        assert not await late.wait_for(60)


async def test_what_is_announced_waits_behind_nothing_that_somebody_made_up(
    ledger: Ledger, memory: ResolutionMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    following, begun, look_up = Following(memory), set[str](), ledger.look_up
    is_slow = False

    async def slow(reference: ModelReference, workspace: str) -> Found:
        if is_slow and reference.model.startswith("made-up"):
            begun.add(reference.model)
            await asyncio.Event().wait()
        return await look_up(reference, workspace)

    monkeypatch.setattr(memory, "_look_up", slow)
    made_up = [address(f"models:/made-up-{number}@nothing") for number in range(20)]
    with following.watch([HERE]) as watcher, following.watch(made_up) as other:
        await watcher.look()
        await other.look()
        await watcher.wait_for(0)
        is_slow = True
        following._seconds = LOOK_AGAIN_S - 1
        following._tick()
        await asyncio.sleep(0)
        with following.watch([address(f"models:/made-up-new-{number}@nothing") for number in range(9)]) as late:
            asking = [asyncio.create_task(following.look(each)) for each in late._watched]
            ledger.version = 2
            memory.forget(("default", "iris"))
            assert await watcher.wait_for(5)
            assert len(begun) == OTHERS_AT_ONCE
            is_slow = False
            memory.forget(("default", "made-up-19"))  # it does not resolve, and that may be over
            (again,) = [each for each in other._watched if each.address == made_up[19]]
            async with asyncio.timeout(5):
                await following.look(again)
            monkeypatch.setattr("app.services.following.MOST_WAITING", 0)
            with following.watch([address("models:/made-up-more@nothing")]) as more, pytest.raises(Overloaded):
                await more.look()
            for task in [*asking, *memory._flights.values()]:
                task.cancel()
    following.end()
