"""The versions that hold protected aliases in MLflow, whoever put them there, and what each of them rests on.

Our ledger knows a holder that a promotion put there. It does not know one that was there before Countersign, or before
the policy, or that somebody set past the gateway; that one is governed all the same. MLflow knows it, and is too slow
to be asked at every write: so this keeps a picture. An alias that no policy protects can be moved freely; so the
picture is made anew, before anything is judged by it, whenever the policies are others than those it was made under.
Otherwise it can only be wrong about what happened past the gateway, and is renewed in the background.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from app.domain.errors import CountersignError, NotFound
from app.domain.grants import DEFAULT_WORKSPACE, fold
from app.domain.policies import Policy, policy_for
from app.domain.promotions import AliasKey
from app.domain.storage import is_below, paths_below
from app.ports import Clock, ModelRegistry, RegisteredModel
from app.services.recording import UnitOfWorkFactory

_log = structlog.stdlib.get_logger(__name__)

FRESH = timedelta(seconds=30)
"""Older than this, the picture is renewed in the background by who needs it."""

STALE = timedelta(minutes=5)
"""Older than this, nothing is judged by it: who needs it waits for a new one, and is refused if there is none."""

_Revisions = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class AliasHolder:
    """A version that holds a protected alias, and what it rests on.

    ``roots`` are the folders of its bytes, below the artifacts destination, or their address elsewhere. ``looked_up``
    is the run and the name under which its bytes are looked up at each load, if they are (a source ``runs:/R/name``).
    """

    model: str
    alias: str
    version: str
    policy: str
    run_id: str | None
    roots: tuple[str, ...] = ()
    looked_up: tuple[str, str] | None = None
    workspace: str = DEFAULT_WORKSPACE
    is_companion: bool = False
    """Whether the alias is not protected itself, and moves together with one that is."""

    @property
    def why(self) -> str:
        model = AliasKey(self.workspace, self.model, self.alias).resource
        holds = f"version {self.version} of model '{model}' holds alias '{self.alias}', which"
        if self.is_companion:
            return f"{holds} moves together with another, as policy '{self.policy}' says"
        return f"{holds} policy '{self.policy}' protects; no promotion put it there"

    def rests_on_artifact(self, path: str) -> bool:
        """Whether ``path`` is among its bytes."""
        return any(is_below(path, root) for root in self.roots)

    def lies_below(self, folder: str) -> bool:
        """Whether some of its bytes are in ``folder``."""
        return any(is_below(root, folder) for root in self.roots)

    def rests_on_run(self, run_id: str) -> bool:
        return fold(self.run_id or "") == fold(run_id) or self._is_under(fold(run_id))

    def rests_on_logged_model(self, model_id: str) -> bool:
        return self._is_under(f"models/{fold(model_id)}")

    def _is_under(self, segments: str) -> bool:
        return any(f"/{segments}/" in f"/{root.lower()}/" for root in self.roots)


@dataclass(frozen=True, slots=True)
class _Picture:
    revisions: _Revisions
    taken_at: datetime
    holders: tuple[AliasHolder, ...]


class AliasHoldersInMlflow:
    """Args: artifacts_destination: MLflow's, see ``COUNTERSIGN_ARTIFACTS_DESTINATION``."""

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, registry: ModelRegistry, clock: Clock, *, artifacts_destination: str
    ) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._clock = clock
        self._destination = artifacts_destination
        self._picture: _Picture | None = None
        self._renewal: tuple[_Revisions, asyncio.Task[_Picture]] | None = None

    async def close(self) -> None:
        if self._renewal:
            self._renewal[1].cancel()
            await asyncio.gather(self._renewal[1], return_exceptions=True)

    async def unknown(self, policies: list[Policy]) -> Sequence[AliasHolder]:
        """Every holder of an alias that ``policies``, those in force, protect, and that the ledger does not know.

        Raises:
            UpstreamUnavailable: there is no picture that may be used, and MLflow cannot be asked for one.
        """
        revisions = _revisions(policies)
        picture, now = self._picture, self._clock.now()
        if picture is None or picture.revisions != revisions or now - picture.taken_at > STALE:
            return (await asyncio.shield(self._renew(policies))).holders
        if now - picture.taken_at > FRESH:
            self._renew(policies)
        return picture.holders

    async def of_model(self, model: str, workspace: str = DEFAULT_WORKSPACE) -> Sequence[AliasHolder]:
        """The holders among the versions of one model, as they are now; without what they rest on.

        Those too of aliases that move together with a protected one: a rollback goes back there. Their bytes are not
        watched; a rollback to other bytes is refused.
        """
        try:
            registered = await self._registry.get_model(model, workspace)
        except NotFound:
            return ()
        policies = await self._policies()
        return [*_holders(registered, policies), *_companions(registered, policies)]

    async def still_holds(self, holder: AliasHolder) -> bool:
        """Whether it is as the picture says; if not, the picture is thrown away."""
        now = await self.of_model(holder.model, holder.workspace)
        if any(each.alias == holder.alias and each.version == holder.version for each in now):
            return True
        self._picture = None
        return False

    async def _policies(self) -> list[Policy]:
        async with self._unit_of_work() as work:
            return await work.policies.in_force()

    def _renew(self, policies: list[Policy]) -> asyncio.Task[_Picture]:
        """The one renewal under these policies that is under way."""
        revisions = _revisions(policies)
        if self._renewal is None or self._renewal[0] != revisions or self._renewal[1].done():
            task = asyncio.create_task(self._take(policies), name="look for holders in MLflow")
            task.add_done_callback(_note)
            self._renewal = (revisions, task)
        return self._renewal[1]

    async def _take(self, policies: list[Policy]) -> _Picture:
        began = self._clock.now()
        async with self._unit_of_work() as work:
            known = await work.aliases.held()
        found = [
            holder
            async for model in self._registry.models()
            for holder in _holders(model, policies)
            if (AliasKey(model.workspace, model.name, holder.alias), holder.version, model.created_at) not in known
        ]
        holders = [await self._with_what_it_rests_on(holder) for holder in found]
        self._picture = _Picture(_revisions(policies), began, tuple(each for each in holders if each))
        return self._picture

    async def _with_what_it_rests_on(self, holder: AliasHolder) -> AliasHolder | None:
        try:
            version = await self._registry.get_version(holder.model, holder.version, holder.workspace)
        except NotFound:
            return None
        looked_up = None
        roots = self._roots([version.source_uri], holder.workspace)
        if version.source_uri.startswith("runs:/"):
            run_id, _, name = version.source_uri.removeprefix("runs:/").strip("/").partition("/")
            roots, looked_up = await self._looked_up(run_id, name, holder.workspace), (run_id, name)
        return replace(holder, run_id=version.run_id, roots=roots, looked_up=looked_up)

    async def _looked_up(self, run_id: str, name: str, workspace: str) -> tuple[str, ...]:
        """MLflow takes a run's artifacts at each load, and those of a logged model of that run and name with them."""
        try:
            run = await self._registry.get_run(run_id, workspace)
        except NotFound:
            return ()
        models = await self._registry.logged_models_of(run, workspace)
        uris = [f"{run.artifact_uri}/{name}", *(model.artifact_uri for model in models if model.name == name)]
        return self._roots(uris, workspace)

    def _roots(self, uris: Sequence[str], workspace: str) -> tuple[str, ...]:
        return tuple(
            path
            for uri in uris
            for path in paths_below(uri, destination=self._destination, workspace=workspace) or (uri.rstrip("/"),)
        )


def _holders(model: RegisteredModel, policies: list[Policy]) -> list[AliasHolder]:
    found = [
        (alias, version, policy_for(policies, model.name, alias, workspace=model.workspace, tags=model.tags))
        for alias, version in model.aliases.items()
    ]
    return [
        AliasHolder(model.name, alias, version, policy.name, None, workspace=model.workspace)
        for alias, version, policy in found
        if policy
    ]


def _companions(model: RegisteredModel, policies: list[Policy]) -> list[AliasHolder]:
    tags = dict(model.tags)
    found = [
        (alias, version, policy)
        for alias, version in model.aliases.items()
        for policy in policies
        if policy.moves_along(model.name, alias, workspace=model.workspace, tags=tags)
    ]
    return [
        AliasHolder(model.name, alias, version, policy.name, None, workspace=model.workspace, is_companion=True)
        for alias, version, policy in found
    ]


def _revisions(policies: list[Policy]) -> _Revisions:
    return tuple((policy.name, policy.revision) for policy in policies)


def _note(task: asyncio.Task[_Picture]) -> None:
    """Whoever waits for it hears why it failed; nobody may be waiting."""
    if not task.cancelled() and (error := task.exception()):
        expected = isinstance(error, CountersignError)
        _log.warning("holders_not_seen", error=type(error).__name__, exc_info=None if expected else error)
