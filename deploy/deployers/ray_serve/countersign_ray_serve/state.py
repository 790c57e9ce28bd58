"""Desired state: what Ray must run, and which reports are still owed to the gateway. One JSON file, one writer.

The file is replaced as a whole (temporary file, fsync, rename, fsync of the folder), so a crash leaves the old or the
new state, never half of one. An exclusive lock keeps a second deployer out: Serve's API replaces the complete list of
applications and has no compare-and-set, so two writers would delete each other's work.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from countersign_ray_serve.contract import Phase, Reason


class StateUnusable(Exception):
    """The state folder is held by another process, cannot be written, or its file cannot be understood."""


class Step(StrEnum):
    """How far the current generation got."""

    STARTING = "starting"  # the version's application starts without a route
    SWITCHING = "switching"  # the route was changed; not proven by probes yet
    REMOVING = "removing"  # the route was taken away; not proven yet
    SETTLED = "settled"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class App(_Record):
    """The immutable Serve application of one model version. ``spec`` is kept as it was made: settings that change later
    must not restart a version that serves.
    """

    version: str
    uri: str
    digest: str
    spec: dict[str, Any]
    drop_after: float | None = None
    heal_after: float = 0


class Resource(_Record):
    """One model: its last accepted generation and how far that got. ``active`` is the routed application, ``stable``
    the last one that was proven to answer, ``candidate`` the one being rolled out; all three are keys of ``apps``.
    """

    name: str
    deployment_id: str
    generation: int
    content: str
    callback_url: str
    deadline_at: float
    step: Step
    phase: Phase = Phase.ACCEPTED
    reason: Reason = Reason.NONE
    message: str = ""
    sequence: int = 0
    reported_at: float = 0
    active: str | None = None
    stable: str | None = None
    candidate: str | None = None
    apps: dict[str, App] = {}

    @property
    def is_settled(self) -> bool:
        return self.step is Step.SETTLED


class Report(_Record):
    """A report that the gateway has not taken yet. ``body`` is final: a retry sends the same bytes under the same
    id.
    """

    id: str
    url: str
    deployment_id: str
    phase: Phase
    body: str


class State(_Record):
    """Everything the deployer must not forget."""

    format: int = 1
    resources: dict[str, Resource] = {}
    outbox: list[Report] = []
    router_attempt: int = 1
    router_heal_after: float = 0


class StateStore:
    """The one owner of the state file. Readers get snapshots; writers go through ``transaction``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.json"
        self._folder = folder
        self._lock = asyncio.Lock()
        self._lock_file = _claim(folder)
        try:
            self._state = _read(self._path)
        except BaseException:
            self.close()
            raise

    def snapshot(self) -> State:
        """The last saved state. Do not change it."""
        return self._state

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[State]:
        """A private copy of the state to change; it is saved, and seen by others, only if the block ends well."""
        async with self._lock:
            draft = self._state.model_copy(deep=True)
            yield draft
            if draft != self._state:
                await asyncio.to_thread(_replace, self._path, draft.model_dump_json(indent=1))
                self._state = draft

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


def _read(path: Path) -> State:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return State()
    except OSError as error:
        raise StateUnusable(f"{path} cannot be read: {error.strerror}") from None
    try:
        return State.model_validate_json(content)
    except ValidationError:
        # Starting with nothing instead would delete every application from Ray.
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
