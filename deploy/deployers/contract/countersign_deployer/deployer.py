"""A deployer in two methods: one makes a serving system serve what is asked for, the other makes it stop.

They are called in a thread, one after the other: where one model must not wait for another, or what serves must be
watched, write a ``server.Backend``, as those for Ray Serve and KServe do.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from fastapi import FastAPI
from pydantic_settings import SettingsConfigDict

from countersign_deployer import __version__, command, server
from countersign_deployer.contract import Deployment, ModelVersion, Serving, StableVersion
from countersign_deployer.digests import IrregularFile, tree_digest
from countersign_deployer.phases import REASONS, Phase, Reason
from countersign_deployer.problems import Problem, policy_denied
from countersign_deployer.reports import begin, report, report_change
from countersign_deployer.settings import DeployerSettings
from countersign_deployer.state import Resource, State, StateStore

__all__ = [
    "Deployer",
    "Deployment",
    "ModelVersion",
    "NotServed",
    "Problem",
    "Reason",
    "Serving",
    "StableVersion",
    "check_digest",
    "create_app",
    "main",
    "settings_of",
]

log = structlog.get_logger()

AGAIN_S = 5.0
"""Until what failed for a reason that may pass is tried again."""


class NotServed(Exception):
    """What was asked for does not serve. Whether it is tried again is in the reason; the message is for people."""

    def __init__(self, reason: Reason, message: str = "") -> None:
        super().__init__(message or REASONS[reason].meaning)
        self.reason = reason


def check_digest(folder: Path, version: ModelVersion | StableVersion) -> None:
    """That the files in a folder are those that were approved. Look at a copy that nobody else can change.

    Raises:
        NotServed: they are not, or there are none.
    """
    try:
        found = tree_digest(folder)
    except FileNotFoundError:
        raise NotServed(Reason.ARTIFACT_NOT_FOUND) from None
    except IrregularFile as error:
        raise NotServed(Reason.DIGEST_MISMATCH, f"{error}: only plain files are approved, and served.") from None
    if found != version.digest:
        raise NotServed(Reason.DIGEST_MISMATCH, f"The files of version {version.version} are {found}.")


class Deployer(ABC):
    """What a deployer is, beside its messages. Both methods may be called again with the same call, also after a
    restart, and must then lead to the same. An exception but ``NotServed`` counts as ``Reason.UNREACHABLE``.
    """

    @abstractmethod
    def apply(self, wanted: Deployment) -> Sequence[Serving]:
        """Serve ``wanted.versions()`` and nothing else of the resource; say what serves when it does.

        Raises:
            NotServed: it does not, and what served before does as it did.
        """

    @abstractmethod
    def remove(self, wanted: Deployment) -> None:
        """Serve nothing of the resource any more.

        Raises:
            NotServed: it still serves.
        """

    def check(self, wanted: Deployment) -> None:
        """That a call can be followed, before it is taken; must be quick. Unless you write it anew, no option is known.

        Raises:
            Problem: it cannot; ``policy_denied`` makes one that names the field (422).
        """
        for name in wanted.config:
            raise policy_denied(f"data.config.{name}", "This deployer does not know this option.")


def main(deployer: Deployer, *, prefix: str, arguments: Sequence[str] | None = None) -> int:
    """Run until a signal, with the settings of the environment variables that begin with ``prefix``.

    Exit codes: 0 ended, 1 cannot start, 2 the configuration is wrong.
    """
    about = (inspect.getdoc(type(deployer)) or "A deployer for Countersign.").splitlines()[0]
    return command.run(
        Path(sys.argv[0]).name,
        __version__,
        about,
        settings_of(prefix),
        lambda settings: create_app(settings, deployer),
        arguments,
    )


def settings_of(prefix: str) -> type[DeployerSettings]:
    """What every deployer needs to know, from the environment variables that begin with ``prefix``."""

    class Settings(DeployerSettings):
        model_config = SettingsConfigDict(env_prefix=prefix, frozen=True, extra="ignore")

    return Settings


def create_app(settings: DeployerSettings, deployer: Deployer) -> FastAPI:
    """The application of a deployer.

    Raises:
        StateUnusable: the state folder is another's, or its file cannot be understood.
    """
    store = StateStore(settings.state_dir, State[Served])

    @asynccontextmanager
    async def opened(store: StateStore[State[Served]], signals: server.Signals) -> AsyncIterator[_Backend]:
        yield _Backend(deployer, settings, store, signals)

    return server.create_app(settings, store, opened, title=type(deployer).__name__)


class Served(Resource):
    """What is remembered of a model. ``call``: the one that counts; ``served``: the one that serves."""

    call: Deployment
    served: Deployment | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """How an attempt ended; ``serving`` is unknown unless it was *Ready*."""

    phase: Phase
    reason: Reason = Reason.NONE
    message: str = ""
    serving: Sequence[Serving] | None = None


class _Backend:
    """Follows the calls, one after the other."""

    def __init__(
        self, deployer: Deployer, settings: DeployerSettings, store: StateStore[State[Served]], signals: server.Signals
    ) -> None:
        self._deployer = deployer
        self._settings = settings
        self._store = store
        self._signals = signals
        self._called = asyncio.Event()

    def accept(self, state: State[Served], wanted: Deployment, now: float) -> None:
        if wanted.action == "apply":
            self._deployer.check(wanted)
        old = state.resources.get(wanted.resource)
        begin(state, self._settings, wanted, now, Served, call=wanted, served=old.served if old else None)

    def wake(self) -> None:
        self._called.set()

    async def ready(self) -> Mapping[str, object]:
        return {}

    async def run(self) -> None:
        lost = {name: mine.served for name, mine in self._store.snapshot().resources.items() if mine.served}
        while True:
            self._called.clear()
            is_done = False
            try:
                is_done = await self._round(lost)
            except Exception:  # such as a full disk: the next round tries again
                log.exception("round.failed")
            try:
                async with asyncio.timeout(None if is_done else AGAIN_S):
                    await self._called.wait()
            except TimeoutError:
                pass

    async def _round(self, lost: dict[str, Deployment]) -> bool:
        """Do what is to be done. Whether all is."""
        for name in list(lost):
            await self._restore(name, lost[name])
            del lost[name]
        for resource in self._store.snapshot().resources.values():
            if not resource.phase.is_end:
                await self._follow(resource)
        return all(resource.phase.is_end for resource in self._store.snapshot().resources.values())

    async def _restore(self, name: str, served: Deployment) -> None:
        """What served when this process ended is served again; what lives in its memory only is gone."""
        seen = await asyncio.to_thread(self._attempt, served)
        async with self._store.transaction() as state:
            mine, now = state.resources[name], time.time()
            if mine.served != served:
                return
            phase, reason, message = mine.phase, mine.reason, mine.message
            if seen.serving is None and phase is Phase.READY:  # it is on its way again, and has as long as a call
                phase, reason, message = Phase.PROGRESSING, seen.reason, seen.message
                mine.deadline_at = now + self._settings.deadline_s
            report_change(state, self._settings, mine, now, phase, reason, message, serving=seen.serving or [])
        self._signals.reports_owed()

    async def _follow(self, resource: Served) -> None:
        """Do what the last call asks for, and report how it goes on and how it ended."""
        attempt = asyncio.create_task(asyncio.to_thread(self._attempt, resource.call))
        while not attempt.done():
            await self._report(resource, _Seen(Phase.PROGRESSING, resource.reason, resource.message))
            await asyncio.wait({attempt}, timeout=self._settings.heartbeat_s)
        await self._report(resource, attempt.result())

    async def _report(self, resource: Served, seen: _Seen) -> None:
        async with self._store.transaction() as state:
            mine, now = state.resources[resource.name], time.time()
            if seen.serving is not None:  # also if a newer call came meanwhile: it serves until that one is followed
                mine.served = resource.call if resource.call.action == "apply" else None
                mine.serving = list(seen.serving)
            if mine.generation != resource.generation or mine.phase.is_end:
                return
            phase, reason, message = seen.phase, seen.reason, seen.message
            if phase is Phase.PROGRESSING and now >= mine.deadline_at:
                phase, reason = Phase.ERRORED, reason or Reason.PROGRESS_DEADLINE_EXCEEDED
            if phase.is_end:
                report(state, self._settings, mine, now, phase, reason, message)
            else:
                report_change(state, self._settings, mine, now, phase, reason, message, serving=mine.serving)
        self._signals.reports_owed()

    def _attempt(self, wanted: Deployment) -> _Seen:
        """Call the deployer, in a thread of its own."""
        try:
            if wanted.action == "apply":
                return _Seen(Phase.READY, serving=self._deployer.apply(wanted))
            self._deployer.remove(wanted)
        except NotServed as error:
            is_bad = REASONS[error.reason].ends_in is Phase.FAILED
            return _Seen(Phase.FAILED if is_bad else Phase.PROGRESSING, error.reason, str(error))
        except Exception as error:  # the deployer's own mistake, or what is behind it
            log.exception("attempt.failed", model=wanted.resource, generation=wanted.generation)
            return _Seen(Phase.PROGRESSING, Reason.UNREACHABLE, f"{type(error).__name__}; the log says more.")
        return _Seen(Phase.READY, serving=[])
