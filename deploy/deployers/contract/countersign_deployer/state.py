"""Desired state: what must be served, and which reports are still owed to the gateway. One JSON file, one writer.

The file is replaced as a whole (temporary file, fsync, rename, fsync of the folder), so a crash leaves the old or the
new state, never half of one. An exclusive lock keeps a second deployer out: two writers would undo each other's work.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from countersign_deployer.contract import Serving
from countersign_deployer.phases import Phase, Reason


class StateUnusable(Exception):
    """The state folder is held by another process, cannot be written, or its file cannot be understood."""


class Record(BaseModel):
    """A part of the state."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Resource(Record):
    """One model: its last accepted generation, and what was last reported of it. A deployer adds what it must know.

    ``content`` is ``calls.content_of`` the call; ``deadline_at`` and ``reported_at`` are seconds since the epoch. One
    that was removed stays, so that its generation is remembered.
    """

    name: str
    deployment_id: str
    generation: int
    content: str
    callback_url: str
    deadline_at: float
    phase: Phase = Phase.ACCEPTED
    reason: Reason = Reason.NONE
    message: str = ""
    sequence: int = 0
    reported_at: float = 0
    serving: list[Serving] = []
    backend: dict[str, Any] = {}


class Report(Record):
    """A report that the gateway has not taken yet. ``body`` is final: a retry sends the same bytes under the same
    id.
    """

    id: str
    url: str
    deployment_id: str
    generation: int
    phase: Phase
    body: str


ResourceT = TypeVar("ResourceT", bound=Resource)


class State(Record, Generic[ResourceT]):
    """Everything a deployer must not forget. ``resources``: by name."""

    format: int = 1
    resources: dict[str, ResourceT] = {}
    outbox: list[Report] = []


StateT = TypeVar("StateT", bound=State[Any])


class StateStore(Generic[StateT]):
    """The one owner of the state file. Readers get snapshots; writers go through ``transaction``."""

    def __init__(self, folder: Path, kind: type[StateT]) -> None:
        """Claim the folder and read what it holds; with ``kind()`` to begin with.

        Raises:
            StateUnusable: another process has it, or its file is not one of ours.
        """
        self._path = folder / "state.json"
        self._lock = asyncio.Lock()
        self._lock_file = _claim(folder)
        self._trouble = ""
        try:
            self._state = _read(self._path, kind)
        except BaseException:
            self.close()
            raise

    def snapshot(self) -> StateT:
        """The last saved state. Do not change it."""
        return self._state

    @property
    def trouble(self) -> str:
        """Why the state could not be saved when that was tried last, for people; empty if it was."""
        return self._trouble

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[StateT]:
        """A private copy of the state to change; it is saved, and seen by others, only if the block ends well."""
        async with self._lock:
            draft = self._state.model_copy(deep=True)
            yield draft
            if draft != self._state:
                try:
                    await asyncio.to_thread(_replace, self._path, draft.model_dump_json(indent=1))
                except OSError as error:
                    self._trouble = f"The state cannot be saved: {error.strerror}."
                    raise
                self._state, self._trouble = draft, ""

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock_file)


def _claim(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateUnusable(f"the state folder {folder} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StateUnusable(f"another deployer uses the state folder {folder}") from None
    return handle


def _read(path: Path, kind: type[StateT]) -> StateT:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise StateUnusable(f"{path} cannot be read: {error.strerror}") from None
    try:
        return kind.model_validate_json(content)
    except ValidationError:
        # Starting with nothing instead would take every model away.
        raise StateUnusable(
            f"{path} is not a state file of this version; restore it, or move it away on purpose"
        ) from None


def _replace(path: Path, content: str) -> None:
    draft = path.with_suffix(".tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
