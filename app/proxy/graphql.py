"""What a GraphQL request asks for, found by parsing it: that it only reads, and the permissions that it needs.

The document is judged by the names of its fields (``app/domain/routes/graphql.py``), whatever their aliases; all its
operations are judged, not only the one that ``operationName`` selects. MLflow is then sent the document as it was
understood here, without comments and other spellings, so that there is one reading of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from graphql import GraphQLError, parse, print_ast, strip_ignored_characters
from graphql.language import (
    DefinitionNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
)

from app.domain.access import Permission
from app.domain.canonical import parse_object, serialise
from app.domain.errors import InvalidInput, RouteRefused
from app.domain.routes.graphql import INNER_FIELDS, ROOT_FIELDS

MAX_QUERY = 64 * 1024
"""Characters of a document. The limits lie above MLflow's own (depth 10, 1000 selections), which it explains itself."""
MAX_TOKENS = 5000
MAX_DEPTH = 32
MAX_VARIABLES_DEPTH = 16
REMEMBERED = 256
LONGEST_REMEMBERED = 8 * 1024

_MEMBERS = {"query": str, "variables": dict, "operationName": str}


@dataclass(frozen=True, slots=True)
class Judged:
    """A document as MLflow shall see it, and what is needed to send it."""

    query: str
    permissions: frozenset[Permission]


def judge_graphql(raw: bytes) -> tuple[bytes, frozenset[Permission]]:
    """A fresh body, and every permission that it needs.

    Raises:
        InvalidInput: the body is no JSON object of ``query``, ``variables`` and ``operationName``, or the query is no
            GraphQL document, or too large or too deep.
        RouteRefused: the document asks for something that is not known to only read.
    """
    body = parse_object(raw, max_depth=MAX_VARIABLES_DEPTH)
    for name, value in body.items():
        if name not in _MEMBERS:
            raise InvalidInput("body", f"expected only {', '.join(_MEMBERS)}")
        if not isinstance(value, _MEMBERS[name]) and (name == "query" or value is not None):
            raise InvalidInput(name, "expected an object" if name == "variables" else "expected a string")
    query = body.get("query")
    if not query:
        raise InvalidInput("query", "is required")
    judged = _judge_again(query) if len(query) <= LONGEST_REMEMBERED else judge_document(query)
    return serialise({**body, "query": judged.query}), judged.permissions


def judge_document(query: str) -> Judged:
    """The document as it is understood here, and every permission that one of its operations needs.

    Raises:
        InvalidInput, RouteRefused: as ``judge_graphql`` does.
    """
    if len(query) > MAX_QUERY:
        raise InvalidInput("query", f"expected at most {MAX_QUERY} characters")
    try:
        document = parse(query, no_location=True, max_tokens=MAX_TOKENS)
    except (GraphQLError, RecursionError):
        raise InvalidInput("query", f"expected a GraphQL document of at most {MAX_TOKENS} tokens") from None
    reading = _Reading(*_sorted(document.definitions))
    permissions = reading.permissions()
    return Judged(strip_ignored_characters(print_ast(document)), permissions)


_judge_again = lru_cache(maxsize=REMEMBERED)(judge_document)
"""MLflow's web interface repeats a handful of documents."""


def _sorted(
    definitions: Sequence[DefinitionNode],
) -> tuple[list[OperationDefinitionNode], dict[str, FragmentDefinitionNode]]:
    operations: list[OperationDefinitionNode] = []
    fragments: dict[str, FragmentDefinitionNode] = {}
    for definition in definitions:
        if isinstance(definition, OperationDefinitionNode):
            operations.append(definition)
        elif isinstance(definition, FragmentDefinitionNode):
            if definition.name.value in fragments:
                raise InvalidInput("query", "expected each fragment once")
            fragments[definition.name.value] = definition
        else:
            raise InvalidInput("query", "expected operations and fragments")
    names = [operation.name.value if operation.name else None for operation in operations]
    if not operations or len(set(names)) < len(names) or (None in names and len(names) > 1):
        raise InvalidInput("query", "expected operations, each with a name of its own if there are several")
    return operations, fragments


@dataclass(slots=True)
class _Reading:
    """The fields of a document's operations and fragments."""

    operations: list[OperationDefinitionNode]
    fragments: dict[str, FragmentDefinitionNode]
    names: set[str] = field(default_factory=set)
    """Of all fields, wherever they stand, those of fragments that nothing spreads included."""
    heights: dict[str, int] = field(default_factory=dict)
    """Of the fragments that were read."""

    def permissions(self) -> frozenset[Permission]:
        """Every permission that the document needs."""
        needed: set[Permission] = set()
        for definition in (*self.operations, *self.fragments.values()):
            self._height(definition.selection_set, 0)
        for operation in self.operations:
            for name in self._root_fields(operation.selection_set):
                permission = ROOT_FIELDS.get((operation.operation.value, name))
                if permission is None:
                    raise RouteRefused(
                        f"GraphQL only reads through this door: the {operation.operation.value} field "
                        f"{name[:80]} is not one of those that do."
                    )
                needed.add(permission)
        return frozenset(needed | {INNER_FIELDS[name] for name in self.names & INNER_FIELDS.keys()})

    def _height(self, selection_set: SelectionSetNode | None, level: int) -> int:
        """Levels of a selection, fragments spread; each fragment is walked once.

        Raises:
            InvalidInput: there are too many levels below ``level``, as there are in fragments that spread each other.
        """
        if selection_set is None:
            return 0
        height = 1 + max(
            (self._height_of(selection, level + 1) for selection in selection_set.selections),
            default=0,
        )
        if level + height > MAX_DEPTH:
            raise InvalidInput("query", f"expected at most {MAX_DEPTH} levels, and no fragment within itself")
        return height

    def _height_of(self, selection: SelectionNode, level: int) -> int:
        if level > MAX_DEPTH:
            return 1
        if isinstance(selection, FragmentSpreadNode):
            name = selection.name.value
            if name not in self.heights:
                self.heights[name] = self._height(self._fragment(name), level)
            return self.heights[name]
        assert isinstance(selection, FieldNode | InlineFragmentNode)  # GraphQL has no other selection
        if isinstance(selection, FieldNode):
            self.names.add(selection.name.value)
        return self._height(selection.selection_set, level)

    def _root_fields(self, selection_set: SelectionSetNode) -> Iterator[str]:
        """The names of an operation's own fields, those of the fragments at its root included."""
        ahead, spread = [selection_set], set[str]()
        while ahead:
            for selection in ahead.pop().selections:
                if isinstance(selection, FieldNode):
                    yield selection.name.value
                elif isinstance(selection, InlineFragmentNode):
                    ahead.append(selection.selection_set)
                elif isinstance(selection, FragmentSpreadNode) and selection.name.value not in spread:
                    spread.add(selection.name.value)
                    ahead.append(self._fragment(selection.name.value))

    def _fragment(self, name: str) -> SelectionSetNode:
        fragment = self.fragments.get(name)
        if fragment is None:
            raise InvalidInput("query", "expected every fragment that is spread")
        return fragment.selection_set
