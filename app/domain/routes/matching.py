"""From a method and a canonical path to the one route it belongs to.

Templates are exact: nothing is matched by prefix or suffix. Where several templates take a path (MLflow's MCP registry
has names with slashes, so ``…/a/tags/b`` can be read in two ways), the strictest decision counts: which of them MLflow
picks depends on the order in which its two frameworks were set up, and must not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from app.domain.routes.kinds import STRICTNESS, Match, Route

MAX_SEGMENTS = 128

Found = tuple[Route, tuple[str, ...]]


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    suffixed: dict[str, _Node] = field(default_factory=dict)
    """``<x>:generateContent``: the part after the parameter."""
    one: _Node | None = None
    many: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)


class Matcher:
    """The compiled table. Paths without parameters are looked up in one step, others walk a tree of segments."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        self._plain: dict[tuple[str, str], Match] = {}
        listed = tuple(routes)
        for route in listed:
            self._add(route)
        for route in listed:
            if "<" not in route.template and (match := self._walk(route.method, route.template)):
                self._plain[route.method, route.template] = match
        self._plain_raw = {(method, template.encode()): match for (method, template), match in self._plain.items()}

    def match_plain(self, method: str, raw_path: bytes) -> Match | None:
        """The route without parameters whose template is spelt exactly so; canonical as it stands."""
        return self._plain_raw.get((method, raw_path))

    def match(self, method: str, path: str) -> Match | None:
        """The route of ``method`` and canonical ``path``, or none: unknown means no."""
        return self._plain.get((method, path)) or self._walk(method, path)

    def _add(self, route: Route) -> None:
        node = self._root
        for part in _split(route.template):
            node = _child(node, part)
        if route.method in node.routes:
            raise ValueError(f"{route.method} {route.template} is in the table twice")
        node.routes[route.method] = route

    def _walk(self, method: str, path: str) -> Match | None:
        segments = _split(path)
        if len(segments) > MAX_SEGMENTS:
            return None
        found = list(_candidates(self._root, segments, 0, (), method))
        if not found:
            return None
        route, values = max(found, key=lambda candidate: STRICTNESS[candidate[0].decision])
        return Match(route, _named(route, values))


def _split(path: str) -> list[str]:
    return path.split("/")[1:]


def _child(node: _Node, part: str) -> _Node:
    if part.startswith("<path:"):
        node.many = node.many or _Node()
        return node.many
    if part.startswith("<"):
        suffix = part.partition(">")[2]
        if suffix:
            return node.suffixed.setdefault(suffix, _Node())
        node.one = node.one or _Node()
        return node.one
    return node.literals.setdefault(part, _Node())


def _candidates(node: _Node, segments: list[str], at: int, values: tuple[str, ...], method: str) -> Iterator[Found]:
    if at == len(segments):
        if route := node.routes.get(method):
            yield route, values
        return
    segment = segments[at]
    if literal := node.literals.get(segment):
        yield from _candidates(literal, segments, at + 1, values, method)
    if not segment:
        return
    for suffix, child in node.suffixed.items():
        if segment.endswith(suffix) and segment != suffix:
            yield from _candidates(child, segments, at + 1, (*values, segment.removesuffix(suffix)), method)
    if node.one:
        yield from _candidates(node.one, segments, at + 1, (*values, segment), method)
    if node.many:
        yield from _rest(node.many, segments, at, values, method)


def _rest(node: _Node, segments: list[str], at: int, values: tuple[str, ...], method: str) -> Iterator[Found]:
    """A parameter that takes one or more segments: the end of the path, or up to a literal that can follow it."""
    if segments[-1] and (route := node.routes.get(method)):
        yield route, (*values, "/".join(segments[at:]))
    for end in range(at + 1, len(segments)):
        if segments[end] in node.literals:
            yield from _candidates(node, segments, end, (*values, "/".join(segments[at:end])), method)


def _named(route: Route, values: tuple[str, ...]) -> Mapping[str, str]:
    return dict(zip(parameter_names(route.template), values, strict=True))


def parameter_names(template: str) -> list[str]:
    """The names of a template's parameters, in order."""
    return [part.partition(">")[0].removeprefix("path:") for part in template.split("<")[1:]]
