"""The state file: whole or not at all, one writer, never silently empty."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from countersign_deployer.state import StateStore, StateUnusable
from countersign_ray_serve.state import Resource, State, Step


def resource(generation: int) -> Resource:
    return Resource(
        name="iris",
        deployment_id="dep_1",
        generation=generation,
        content="",
        callback_url="",
        deadline_at=0,
        step=Step.SETTLED,
        message="x" * 50_000,
    )


async def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    store = StateStore(tmp_path, State)
    async with store.transaction() as state:
        state.resources["iris"] = resource(4)
    store.close()
    again = StateStore(tmp_path, State)
    assert again.snapshot().resources["iris"] == resource(4)
    again.close()


async def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = StateStore(tmp_path, State)
    with pytest.raises(RuntimeError):
        async with store.transaction() as state:
            state.resources["iris"] = resource(1)
            raise RuntimeError
    assert store.snapshot().resources == {}
    assert not (tmp_path / "state.json").exists()
    store.close()


def test_a_second_deployer_is_kept_out(tmp_path: Path) -> None:
    store = StateStore(tmp_path, State)
    with pytest.raises(StateUnusable, match="another deployer"):
        StateStore(tmp_path, State)
    store.close()
    StateStore(tmp_path, State).close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1, "surprise": true}'])
def test_a_damaged_file_stops_the_deployer_instead_of_emptying_ray(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(StateUnusable, match="not a state file"):
        StateStore(tmp_path, State)
    assert (tmp_path / "state.json").read_text() == content


def test_only_the_owner_can_read_the_state(tmp_path: Path) -> None:
    import asyncio

    async def save() -> None:
        async with store.transaction() as state:
            state.resources["iris"] = resource(1)

    store = StateStore(tmp_path / "state", State)
    asyncio.run(save())
    store.close()
    assert (tmp_path / "state" / "state.json").stat().st_mode & 0o077 == 0


def _write_for_ever(folder: Path, started: multiprocessing.synchronize.Event) -> None:
    import asyncio

    async def write() -> None:
        store = StateStore(folder, State)
        while True:
            async with store.transaction() as state:
                current = state.resources.get("iris")
                state.resources["iris"] = resource(current.generation + 1 if current else 1)
            started.set()

    asyncio.run(write())


def test_a_kill_in_the_middle_of_writing_leaves_a_whole_state(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    generation = 0
    for _ in range(3):
        started = context.Event()
        writer = context.Process(target=_write_for_ever, args=(tmp_path, started))
        writer.start()
        assert started.wait(60)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        store = StateStore(tmp_path, State)
        found = store.snapshot().resources["iris"].generation
        store.close()
        assert found > generation
        generation = found
