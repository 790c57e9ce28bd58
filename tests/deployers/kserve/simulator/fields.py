"""Who owns which field: server-side apply, as Kubernetes' structured-merge-diff does it.

A path is a tuple of the elements that ``managedFields`` writes: ``f:spec``, ``k:{"name":"web"}`` (an item of a list of
type map), ``v:"x"`` (one of a list of type set). A field set is a set of paths. Without a schema, maps are granular and
lists are atomic, as for a custom resource that declares nothing.

https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Schema = Mapping[str, Any]
Path = tuple[str, ...]

META: Final[Schema] = {
    "type": "object",
    "properties": {
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        "finalizers": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "ownerReferences": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
            "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
        **{name: {"type": "string"} for name in ("name", "generateName", "namespace", "uid", "resourceVersion")},
        **{name: {"type": "string"} for name in ("creationTimestamp", "deletionTimestamp", "selfLink")},
        "generation": {"type": "integer"},
        "deletionGracePeriodSeconds": {"type": "integer"},
        "managedFields": {"type": "array", "items": {"x-kubernetes-preserve-unknown-fields": True}},
    },
}
ANYTHING: Final[Schema] = {"x-kubernetes-preserve-unknown-fields": True}
_MISSING: Final = object()
_UNOWNED = frozenset(
    [("f:apiVersion",), ("f:kind",), ("f:metadata",)]
    + [
        ("f:metadata", f"f:{name}")
        for name in (
            *("name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields"),
            *("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"),
        )
    ]
)
"""What the API server never says that somebody owns."""


@dataclass(frozen=True, slots=True, order=True)
class Manager:
    """Who writes; an apply and an update of one name are two."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""

    def __str__(self) -> str:
        told = json.dumps(self.name) + (f" with subresource {json.dumps(self.subresource)}" if self.subresource else "")
        return f"{told} using {self.api_version}" if self.operation == "Update" else told


@dataclass(frozen=True, slots=True)
class Owned:
    """The fields of a manager, since when."""

    paths: frozenset[Path]
    time: str


Owners = dict[Manager, Owned]


class Conflicts(Exception):  # as Kubernetes calls them
    """Fields that another manager owns with another value."""

    def __init__(self, found: Sequence[tuple[Manager, Path]]) -> None:
        super().__init__(found)
        self.found = found


@dataclass(slots=True)
class _Difference:
    added: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)
    modified: set[Path] = field(default_factory=set)


def child(schema: Schema, name: str) -> tuple[Schema | None, bool]:
    """The schema of a field, and whether it is declared by its name. None: there is no such field."""
    declared = schema.get("properties", {})
    if name in declared:
        return declared[name], True
    more = schema.get("additionalProperties")
    if isinstance(more, Mapping):
        return more, False
    return (ANYTHING if more or schema.get("x-kubernetes-preserve-unknown-fields") else None), False


def _of(schema: Schema, name: str) -> Schema:
    return child(schema, name)[0] or ANYTHING


def _is_map(value: object, schema: Schema) -> bool:
    return isinstance(value, dict) and schema.get("x-kubernetes-map-type") != "atomic"


def _is_associative(value: object, schema: Schema) -> bool:
    return isinstance(value, list) and schema.get("x-kubernetes-list-type") in {"map", "set"}


def _element(item: Any, schema: Schema) -> str:
    if schema["x-kubernetes-list-type"] == "set":
        return "v:" + json.dumps(item, separators=(",", ":"))
    items = schema.get("items", ANYTHING)
    keys = {key: item.get(key, _of(items, key).get("default")) for key in schema["x-kubernetes-list-map-keys"]}
    return "k:" + json.dumps({key: keys[key] for key in sorted(keys) if keys[key] is not None}, separators=(",", ":"))


def _items(value: Sequence[Any], schema: Schema) -> dict[str, Any]:
    return {_element(item, schema): item for item in value}


def leaves(value: Any, schema: Schema, path: Path = ()) -> Iterator[Path]:
    """The fields that who applies ``value`` owns by it."""
    if _is_map(value, schema):
        for name, item in value.items():
            inner, is_declared = child(schema, name)
            below = (*path, f"f:{name}")
            yield from leaves(item, inner or ANYTHING, below)
            if item is None or item == {} or not is_declared:
                yield below
    elif _is_associative(value, schema):
        for element, item in _items(value, schema).items():
            yield (*path, element)
            yield from leaves(item, schema.get("items", ANYTHING), (*path, element))
    else:
        yield path


def _compare(old: Any, new: Any, schema: Schema, path: Path, out: _Difference) -> None:
    there = [value for value in (old, new) if value is not _MISSING]
    if any(there) and all(_is_map(value, schema) for value in there):
        before, after = (value if value is not _MISSING else {} for value in (old, new))
        for name in before.keys() | after.keys():
            below = (*path, f"f:{name}")
            _compare(before.get(name, _MISSING), after.get(name, _MISSING), _of(schema, name), below, out)
    elif any(there) and all(_is_associative(value, schema) for value in there):
        before, after = (_items(value, schema) if value is not _MISSING else {} for value in (old, new))
        for element in before.keys() | after.keys():
            pair = before.get(element, _MISSING), after.get(element, _MISSING)
            _compare(*pair, schema.get("items", ANYTHING), (*path, element), out)
    elif len(there) == 2 and old != new:
        out.modified.add(path)
    if old is _MISSING:
        out.added.add(path)
    elif new is _MISSING:
        out.removed.add(path)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], schema: Schema) -> _Difference:
    found = _Difference()
    _compare(old, new, schema, (), found)
    nobodys = _UNOWNED | {()}
    return _Difference(found.added - nobodys, found.removed - nobodys, found.modified - nobodys)


def _merged(live: Any, config: Any, schema: Schema) -> Any:
    if _is_map(live, schema) and _is_map(config, schema):
        return {
            **live,
            **{
                name: _merged(live[name], item, _of(schema, name)) if name in live else item
                for name, item in config.items()
            },
        }
    if _is_associative(live, schema) and _is_associative(config, schema):
        before, after = _items(live, schema), _items(config, schema)
        inner = schema.get("items", ANYTHING)
        kept = [_merged(item, after[name], inner) if name in after else item for name, item in before.items()]
        return kept + [item for name, item in after.items() if name not in before]
    return config


def _remove(value: Any, schema: Schema, path: Path, kept: frozenset[Path], at: Path = ()) -> None:
    """Take a field away, and what is empty by that and is owned by nobody."""
    head, rest = path[0], path[1:]
    if head.startswith("f:") and isinstance(value, dict) and head[2:] in value:
        name = head[2:]
        if rest:
            _remove(value[name], _of(schema, name), rest, kept, (*at, head))
        if not rest or (value[name] in ({}, []) and (*at, head) not in kept):
            del value[name]
    elif _is_associative(value, schema):
        for item in [each for each in value if _element(each, schema) == head]:
            if rest:
                _remove(item, schema.get("items", ANYTHING), rest, kept, (*at, head))
            else:
                value.remove(item)


def _without(owners: Owners, writer: Manager, found: _Difference) -> Owners:
    """What is left to the others when ``writer`` has done that."""
    gone, taken = found.removed, found.added | found.modified
    left = {
        manager: owned if manager == writer else Owned(owned.paths - gone - taken, owned.time)
        for manager, owned in owners.items()
    }
    return {manager: owned for manager, owned in left.items() if owned.paths}


def updated(
    old: Mapping[str, Any], new: Mapping[str, Any], schema: Schema, owners: Owners, writer: Manager, now: str
) -> Owners:
    """Who owns what after a create, a PUT or a patch: what it changed is the writer's."""
    found = _difference(old, new, schema)
    before = owners.get(writer, Owned(frozenset(), now))
    paths = (before.paths - found.removed) | found.added | found.modified
    left = _without(owners, writer, found) | {writer: Owned(paths, before.time if paths == before.paths else now)}
    return {manager: owned for manager, owned in left.items() if owned.paths}


def applied(
    live: Mapping[str, Any],
    config: Mapping[str, Any],
    schema: Schema,
    owners: Owners,
    writer: Manager,
    now: str,
    *,
    force: bool,
) -> tuple[dict[str, Any], Owners]:
    """The object after an apply, and who owns what.

    Raises:
        Conflicts: it would change what others own, and ``force`` is not said.
    """
    last = owners.get(writer, Owned(frozenset(), now))
    wanted = frozenset(leaves(config, schema)) - _UNOWNED - {()}
    owners = owners | {writer: Owned(wanted, last.time if wanted == last.paths else now)}
    new = copy.deepcopy(_merged(live, config, schema))
    kept = frozenset(path for owned in owners.values() for path in owned.paths)
    above = {path[:length] for path in kept for length in range(1, len(path) + 1)}
    # An item of a list before its fields: without its key it is not found.
    for path in sorted(last.paths - above, key=len):
        _remove(new, schema, path, kept)
    found = _difference(live, new, schema)
    changed = found.added | found.modified
    conflicts = [
        (manager, path) for manager in sorted(owners) if manager != writer
        for path in sorted(owners[manager].paths & changed)
    ]  # fmt: skip
    if conflicts and not force:
        raise Conflicts(conflicts)
    return new, _without(owners, writer, found)


def owners_from(entries: Sequence[Mapping[str, Any]]) -> Owners:
    """As ``managedFields`` says."""
    return {
        Manager(each["manager"], each["operation"], each["apiVersion"], each.get("subresource", "")): Owned(
            frozenset(_paths(each.get("fieldsV1", {}))), each.get("time", "")
        )
        for each in entries
    }


def entries_of(owners: Owners) -> list[dict[str, Any]]:
    """As ``managedFields``."""
    return [
        {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.api_version,
            "time": owned.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": _tree(owned.paths),
            **({"subresource": manager.subresource} if manager.subresource else {}),
        }
        for manager, owned in sorted(owners.items())
    ]


def _paths(tree: Mapping[str, Any], at: Path = ()) -> Iterator[Path]:
    for name, below in tree.items():
        if name == ".":
            yield at
            continue
        if not below:
            yield (*at, name)
        yield from _paths(below, (*at, name))


def _tree(paths: frozenset[Path]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path in sorted(paths):
        node = root
        for element in path:
            node = node.setdefault(element, {})
        if any(other[: len(path)] == path and len(other) > len(path) for other in paths):
            node["."] = {}
    return root


def text_of(path: Path) -> str:
    """As a conflict names it: ``.spec.containers[name="web"].image``."""
    told = []
    for element in path:
        kind, rest = element[0], element[2:]
        if kind == "f":
            told.append(f".{rest}")
        elif kind == "k":
            told.append("[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(rest).items()) + "]")
        else:
            told.append(f"[={rest}]")
    return "".join(told)
