"""What a principal may reach: of which model or experiment something in MLflow is, and whether a grant covers that.

MLflow itself is asked, past the gateway, in the caller's spelling: what it answers is what it would act on. Names are
asked for each time: one that is missing now may be given by another gateway process in the next moment. Of the ids that
can be guessed, those of experiments, it is remembered for a second that they exist and that they do not, so that the
time an answer takes does not tell the two apart. Where a run belongs cannot change, and is remembered.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, TypeVar

from app.domain.access import Permission, Principal
from app.domain.errors import InvalidInput
from app.domain.grants import Effect, Resource, ResourceKind, is_pattern
from app.domain.grants import model as model_called
from app.domain.roles import ROLE_PERMISSIONS
from app.domain.routes.resources import READ_OF, Named
from app.domain.storage import is_below, paths_below
from app.ports import Clock, Experiment, Placed, ResourceLookup
from app.services.recording import UnitOfWorkFactory

FRESH_S = 1.0
"""Seconds for which what can change is taken as it was."""
REMEMBERED = 20_000
MOST_NAMES = 1000
"""Different names in one request."""

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_EXPERIMENT_ID = re.compile(r"0|[1-9][0-9]{0,18}")
_EXPERIMENT_OF_WORKSPACE = 2
"""The segment of ``workspaces/<name>/<experiment>/…`` that names the experiment."""

_IMMUTABLE = frozenset({Named.RUN, Named.LOGGED_MODEL, Named.TRACE})

Found = TypeVar("Found")


class Missing(Enum):
    """That something does not exist."""

    MISSING = "missing"


MISSING = Missing.MISSING


class _Remembered(Generic[Found]):
    """What was found, the newest of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[str, ...], tuple[float, Found]] = OrderedDict()

    def get(self, key: tuple[str, ...], *, lasts: bool = False) -> Found | None:
        """What was found within the last second; or ever, if it ``lasts``."""
        kept = self._kept.get(key)
        if kept is None or not (lasts or 0 <= self._clock.now().timestamp() - kept[0] < FRESH_S):
            return None
        return kept[1]

    def put(self, key: tuple[str, ...], found: Found) -> Found:
        self._kept[key] = (self._clock.now().timestamp(), found)
        self._kept.move_to_end(key)
        while len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)
        return found

    def forget(self, key: tuple[str, ...]) -> None:
        self._kept.pop(key, None)


@dataclass(frozen=True, slots=True)
class Want:
    """Something that a request names, and what shall be done with it."""

    kind: Named
    value: str
    permission: Permission


@dataclass(frozen=True, slots=True)
class Standing:
    """How a principal stands to something that was named."""

    value: str
    """As MLflow spells it."""
    exists: bool
    """Whether MLflow has it: not to be told to who does not read it."""
    reads: bool
    may: bool
    resource: Resource | None = None
    """The one that forbids it, or the first."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a list may show: models or experiments, on which this is permitted, or which the principal created."""

    kind: Named
    permission: Permission
    owned: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Part:
    """A model or experiment that something belongs to, and the key by which its owner is known."""

    resource: Resource
    key: str


@dataclass(frozen=True, slots=True)
class _Whole:
    value: str
    parts: tuple[_Part, ...] = ()


class Reach:
    """Args: has_workspaces: whether the MLflow server has them. artifacts_destination: MLflow's."""

    def __init__(
        self,
        lookup: ResourceLookup,
        unit_of_work: UnitOfWorkFactory,
        clock: Clock,
        *,
        artifacts_destination: str,
        has_workspaces: bool = False,
    ) -> None:
        self._lookup = lookup
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._destination = artifacts_destination
        self._has_workspaces = has_workspaces
        self._experiments = _Remembered[Experiment | Missing](clock)
        self._placed = _Remembered[Placed](clock)
        self._locations = _Remembered[str](clock)
        self._versions = _Remembered[Sequence[tuple[str, str]]](clock)

    async def standings(self, principal: Principal, wants: Sequence[Want], workspace: str) -> list[Standing]:
        """How the principal stands to each.

        Raises:
            InvalidInput: too many are named.
        """
        different = dict.fromkeys((want.kind, want.value) for want in wants if want.kind is not Named.WORKSPACE)
        if len(different) > MOST_NAMES:
            raise InvalidInput("body", f"expected at most {MOST_NAMES} different names for who may see some only")
        wholes = await self._wholes(different, workspace)
        owned = await self._owned(principal, [*wholes.items()], wants, workspace)
        return [
            self._in_workspace(principal, want)
            if want.kind is Named.WORKSPACE
            else await self._standing(principal, want, wholes[want.kind, want.value], owned, workspace)
            for want in wants
        ]

    def _in_workspace(self, principal: Principal, want: Want) -> Standing:
        enters = self.enters(principal, want.permission, want.value)
        return Standing(want.value, exists=True, reads=enters, may=enters)

    async def owned_by(self, principal: Principal, kind: Named, workspace: str) -> frozenset[str]:
        """The keys of what the principal created: names of models, ids of experiments."""
        async with self._unit_of_work() as work:
            owned = await work.owners.owned_by(principal.id)
        return frozenset(key for of_kind, where, key in owned if (of_kind, where) == (kind.value, workspace))

    def visible(
        self, principal: Principal, shown: Shown, items: Sequence[tuple[str, str]], workspace: str
    ) -> list[bool]:
        """Of the items of a list, each a key and a name, which the principal may be shown."""
        kind = ResourceKind(shown.kind.value)
        may, permission, owned = principal.access.may, shown.permission, shown.owned
        return [
            may(permission, Resource(kind, name, None, workspace, principal.id if key in owned else None))
            for key, name in items
        ]

    async def experiment_names(self, ids: Sequence[str], workspace: str) -> Mapping[str, str]:
        """The names of those that exist, by id."""
        found = await self._experiments_of(ids, workspace)
        return {each: experiment.name for each, experiment in found.items()}

    def enters(self, principal: Principal, permission: Permission, workspace: str) -> bool:
        """Whether a grant gives ``permission`` somewhere in a workspace."""
        return principal.access.enters(permission, workspace)

    def named_workspaces(self, principal: Principal, permission: Permission) -> frozenset[str]:
        """The workspaces that grants name exactly."""
        return frozenset(
            grant.on.workspace
            for grant in principal.access.grants
            if grant.effect is Effect.ALLOW
            and grant.on.workspace is not None
            and not is_pattern(grant.on.workspace)
            and permission in ROLE_PERMISSIONS[grant.role]
        )

    def forget_experiment(self, experiment_id: str, workspace: str) -> None:
        """It was made just now."""
        self._experiments.forget((workspace, experiment_id))

    # What belongs to what.

    async def _wholes(self, named: Iterable[tuple[Named, str]], workspace: str) -> dict[tuple[Named, str], _Whole]:
        asked = [*named]
        ids = {value for kind, value in asked if kind is Named.EXPERIMENT}
        wholes: dict[tuple[Named, str], _Whole] = {}
        placed: dict[tuple[Named, str], Placed | None] = {}
        others = [each for each in asked if each[0] in _PLACED]
        for each, place in zip(
            others, await asyncio.gather(*(self._place(kind, value, workspace) for kind, value in others)), strict=True
        ):
            placed[each] = place
            ids |= set(place.experiment_ids) if place else set()
        experiments = await self._experiments_of(sorted(ids), workspace)
        for kind, value in asked:
            if kind is Named.MODEL:
                wholes[kind, value] = await self._model(value, workspace)
            elif kind is Named.EXPERIMENT:
                found = experiments.get(value)
                wholes[kind, value] = _Whole(value, (_part_of(found, workspace),) if found else ())
            elif kind is Named.EXPERIMENT_NAME:
                experiment = await self._experiment_named(value, workspace)
                wholes[kind, value] = (
                    _Whole(experiment.name, (_part_of(experiment, workspace),)) if experiment else _Whole(value)
                )
            elif kind is Named.ARTIFACT:
                experiment = await self._experiment_over(value, workspace)
                wholes[kind, value] = _Whole(value, (_part_of(experiment, workspace),) if experiment else ())
            else:
                place = placed[kind, value]
                parts = [experiments.get(each) for each in place.experiment_ids] if place else []
                # An experiment that is gone takes what was in it along; nothing is judged by what is left of it.
                whole = tuple(_part_of(each, workspace) for each in parts if each)
                wholes[kind, value] = _Whole((place and place.id) or value, whole if len(whole) == len(parts) else ())
        return wholes

    async def _model(self, name: str, workspace: str) -> _Whole:
        known = await self._lookup.model_name(name, self._upstream(workspace))
        # A database that takes two spellings for one name finds what was named otherwise.
        names = dict.fromkeys((name, known)) if known else {}
        return _Whole(name, tuple(_Part(model_called(each, workspace=workspace), each) for each in names if each))

    async def _experiments_of(self, ids: Sequence[str], workspace: str) -> dict[str, Experiment]:
        kept = {each: self._experiments.get((workspace, each)) for each in ids}
        asked = [each for each in ids if kept[each] is None]
        answered = {}
        if asked:
            answered = {each.id: each for each in await self._lookup.experiments(asked, self._upstream(workspace))}
        for each in asked:
            kept[each] = self._experiments.put((workspace, each), answered.get(each, MISSING))
        return {each: experiment for each, experiment in kept.items() if isinstance(experiment, Experiment)}

    async def _experiment_named(self, name: str, workspace: str) -> Experiment | None:
        return await self._lookup.experiment_named(name, self._upstream(workspace))

    async def _place(self, kind: Named, value: str, workspace: str) -> Placed | None:
        key = (workspace, kind.value, value)
        if (kept := self._placed.get(key, lasts=kind in _IMMUTABLE)) is not None:
            return kept
        found = await self._lookup.placed(kind, value, self._upstream(workspace))
        return self._placed.put(key, found) if found else None

    async def _experiment_over(self, path: str, workspace: str) -> Experiment | None:
        """The experiment in whose run, logged model or folder an artifact lies."""
        place = await self._place_over(path, workspace)
        if place is None:
            segments = path.split("/")
            at = _EXPERIMENT_OF_WORKSPACE if segments[0] == "workspaces" and self._has_workspaces else 0
            if len(segments) <= at or not _EXPERIMENT_ID.fullmatch(segments[at]):
                return None
            found = (await self._experiments_of([segments[at]], workspace)).get(segments[at])
            return found if found and self._is_below(path, found.artifact_uri) else None
        return (await self._experiments_of(place.experiment_ids, workspace)).get(place.experiment_ids[0])

    async def _place_over(self, path: str, workspace: str) -> Placed | None:
        """The run or logged model whose artifacts a path is among."""
        segments = path.split("/")
        for at, segment in enumerate(segments[:-1]):
            if segments[at + 1] != "artifacts":
                continue
            kind = Named.LOGGED_MODEL if at and segments[at - 1] == "models" else Named.RUN
            if kind is Named.RUN and not _RUN_ID.fullmatch(segment):
                continue
            place = await self._place(kind, segment, workspace)
            if place and self._is_below(path, place.artifact_uri):
                return place
        return None

    def _is_below(self, path: str, uri: str) -> bool:
        return any(is_below(path, root) for root in paths_below(uri, destination=self._destination))

    async def _models_over(self, path: str, workspace: str) -> dict[str, list[str]]:
        """The models some of whose versions come from the run or logged model over a path, with those versions."""
        place = await self._place_over(path, workspace)
        if place is None:
            return {}
        clauses = [f"source_path = 'models:/{place.id}'"] if place.id != place.run_id else []
        if _RUN_ID.fullmatch(place.run_id):
            clauses.append(f"run_id = '{place.run_id}'")
        found = {each for clause in clauses for each in await self._versions_from(clause, workspace)}
        copies = [f"source_path = 'models:/{name}/{version}'" for name, version in found if _is_quotable(name)]
        for clause in copies[:_MOST_COPIED]:
            found |= set(await self._versions_from(clause, workspace))
        models: dict[str, list[str]] = {}
        for name, version in sorted(found):
            models.setdefault(name, []).append(version)
        return models

    async def _versions_from(self, clause: str, workspace: str) -> Sequence[tuple[str, str]]:
        key = (workspace, clause)
        if (kept := self._versions.get(key)) is not None:
            return kept
        return self._versions.put(key, await self._lookup.versions_from(clause, self._upstream(workspace)))

    async def _location(self, name: str, version: str, workspace: str) -> str | None:
        key = (workspace, name, version)
        if (kept := self._locations.get(key)) is not None:
            return kept
        found = await self._lookup.location_of(name, version, self._upstream(workspace))
        return self._locations.put(key, found) if found else None

    # What may be done with it.

    async def _standing(
        self,
        principal: Principal,
        want: Want,
        whole: _Whole,
        owned: Mapping[tuple[str, str], str],
        workspace: str,
    ) -> Standing:
        access = principal.access
        resources = [
            replace(part.resource, owner=owned.get((part.resource.kind, part.key)) or part.resource.owner)
            for part in whole.parts
        ]
        exists = bool(resources)
        to_read = READ_OF.get(want.permission, want.permission)
        if want.kind is Named.DATASET:
            reads = any(access.may(to_read, resource) for resource in resources)
        else:
            reads = exists and all(access.may(to_read, resource) for resource in resources)
        forbidding = next((resource for resource in resources if not access.may(want.permission, resource)), None)
        may = exists and forbidding is None
        if want.kind is Named.ARTIFACT and want.permission is to_read and not reads:
            reads = may = await self._reads_through_a_model(principal, want.value, workspace)
        return Standing(whole.value, exists, reads, may, forbidding or next(iter(resources), None))

    async def _reads_through_a_model(self, principal: Principal, path: str, workspace: str) -> bool:
        """Whether some model that the principal may read has a version whose bytes a path is among."""
        models = await self._models_over(path, workspace)
        if not models:
            return False
        owned = await self.owned_by(principal, Named.MODEL, workspace)
        shown = Shown(Named.MODEL, Permission.REGISTRY_READ, owned)
        are_shown = self.visible(principal, shown, [(name, name) for name in models], workspace)
        for name, is_shown in zip(models, are_shown, strict=True):
            for version in models[name] if is_shown else ():
                location = await self._location(name, version, workspace)
                if location and self._is_below(path, location):
                    return True
        return False

    async def _owned(
        self,
        principal: Principal,
        wholes: Sequence[tuple[tuple[Named, str], _Whole]],
        wants: Sequence[Want],
        workspace: str,
    ) -> Mapping[tuple[str, str], str]:
        """Who owns what grants alone do not give. What does not exist is asked for too: that takes the same time."""
        needed: dict[tuple[Named, str], set[Permission]] = {}
        for want in wants:
            needed.setdefault((want.kind, want.value), set()).add(want.permission)
        keys: dict[ResourceKind, set[str]] = {}
        for (kind, value), whole in wholes:
            parts = whole.parts or (_missing(kind, value, workspace),)
            for part in parts:
                if not all(principal.access.may(each, part.resource) for each in needed[kind, value]):
                    keys.setdefault(part.resource.kind, set()).add(part.key)
        owned: dict[tuple[str, str], str] = {}
        for resource_kind, names in keys.items():
            for key, owner in (await self._owners(resource_kind, workspace, names)).items():
                owned[resource_kind, key] = owner
        return owned

    async def owner_of_model(self, name: str, workspace: str) -> str | None:
        return (await self._owners(ResourceKind.MODEL, workspace, {name})).get(name)

    async def _owners(self, kind: ResourceKind, workspace: str, keys: Collection[str]) -> Mapping[str, str]:
        async with self._unit_of_work() as work:
            return await work.owners.of(kind.value, workspace, keys)

    def _upstream(self, workspace: str) -> str | None:
        return workspace if self._has_workspaces else None


_MOST_COPIED = 20
_PLACED = frozenset(
    {
        Named.RUN,
        Named.TRACE,
        Named.LOGGED_MODEL,
        Named.DATASET,
        Named.ISSUE,
        Named.LABEL_SCHEMA,
        Named.REVIEW_QUEUE,
    }
)


def _part_of(experiment: Experiment, workspace: str) -> _Part:
    return _Part(Resource(ResourceKind.EXPERIMENT, experiment.name, workspace=workspace), experiment.id)


def _missing(kind: Named, value: str, workspace: str) -> _Part:
    resource_kind = ResourceKind.MODEL if kind is Named.MODEL else ResourceKind.EXPERIMENT
    return _Part(Resource(resource_kind, workspace=workspace), value)


def _is_quotable(name: str) -> bool:
    return "'" not in name and "\\" not in name
