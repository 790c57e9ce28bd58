"""What is stored: every kind of object by its version, each write with its number, and what watchers are told."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.deployers.kserve.simulator.fields import Schema

Object = dict[str, Any]
Matches = Callable[[Object], bool]


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of objects. ``schema`` is a structural one; none: anything goes, and nothing is pruned.

    ``is_custom``: a custom resource; a PUT of one must say which version it replaces.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    schema: Schema | None = field(default=None, compare=False)
    has_status: bool = True
    is_custom: bool = True
    short_names: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, slots=True)
class Write:
    """What one write did. ``old`` is none for a new object, ``new`` for one that is gone."""

    revision: int
    resource: Resource
    old: Object | None
    new: Object | None


class Expired(Exception):  # as Kubernetes names it
    """So old a revision is no longer known (410)."""


class Objects:
    """All objects of a cluster. Whoever is given one gets a copy."""

    def __init__(self) -> None:
        self.revision = 1
        self._there: dict[Resource, dict[tuple[str, str], Object]] = {}
        self._writes: list[Write] = []
        self._forgotten = 0
        self._changed = asyncio.Event()
        self._breaks = 0

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        return copy.deepcopy(self._there.get(resource, {}).get((namespace, name)))

    def list(self, resource: Resource, namespace: str = "") -> list[Object]:
        """In one namespace, or in all."""
        found = sorted(self._there.get(resource, {}).items())
        return [copy.deepcopy(each) for (where, _), each in found if namespace in {"", where}]

    def all(self) -> Iterator[tuple[Resource, Object]]:
        for resource, there in list(self._there.items()):
            yield from ((resource, copy.deepcopy(each)) for each in list(there.values()))

    def put(self, resource: Resource, new: Object) -> Object:
        """Store it as it is, with the next revision."""
        self.revision += 1
        new = copy.deepcopy(new)
        new["metadata"]["resourceVersion"] = str(self.revision)
        key = new["metadata"].get("namespace", ""), new["metadata"]["name"]
        there = self._there.setdefault(resource, {})
        old, there[key] = there.get(key), new
        self._wrote(resource, old, new)
        return copy.deepcopy(new)

    def remove(self, resource: Resource, namespace: str, name: str) -> Object:
        self.revision += 1
        old = self._there[resource].pop((namespace, name))
        last = copy.deepcopy(old)
        last["metadata"]["resourceVersion"] = str(self.revision)
        self._wrote(resource, last, None)
        return copy.deepcopy(last)

    def _wrote(self, resource: Resource, old: Object | None, new: Object | None) -> None:
        self._writes.append(Write(self.revision, resource, old, new))
        self._changed.set()
        self._changed = asyncio.Event()

    def forget(self) -> None:
        """Forget what was written until now, as etcd does when it is compacted: old watches get 410 Expired."""
        self._forgotten = self.revision
        self._writes.clear()

    def break_watches(self) -> None:
        """End the connection of each watch, as a load balancer does."""
        self._breaks += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def check_known(self, revision: int) -> None:
        """Raises ``Expired``."""
        if revision < self._forgotten:
            raise Expired

    async def beyond(self, revision: int) -> None:
        """Return when something was written after a revision."""
        while self.revision <= revision:
            await self._changed.wait()

    async def follow(self, after: int) -> AsyncIterator[Write]:
        """Each write after a revision, for ever; it ends when watches are broken.

        Raises:
            Expired: writes after that one are forgotten.
        """
        breaks = self._breaks
        while True:
            changed = self._changed
            self.check_known(after)
            for write in [each for each in self._writes if each.revision > after]:
                after = write.revision
                yield write
            if breaks != self._breaks:
                return
            if changed is self._changed:
                await changed.wait()
