"""GraphQL for principals who may see some models and experiments only.

The ids in a document's arguments and variables are judged as those of other routes are, and replaced in the document
or the variables. Versions of models come with their model's name, under a private word, by which they are filtered.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from graphql import parse, print_ast, strip_ignored_characters, value_from_ast_untyped
from graphql.language import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    ListValueNode,
    NameNode,
    Node,
    ObjectFieldNode,
    ObjectValueNode,
    OperationDefinitionNode,
    StringValueNode,
    ValueNode,
    VariableNode,
    Visitor,
    visit,
)

from app.domain.access import Permission
from app.domain.canonical import JsonObject, serialise
from app.domain.errors import Forbidden, InvalidInput
from app.domain.routes.graphql import ARGUMENTS, FILTERED, Argument
from app.domain.routes.resources import Named
from app.proxy.limiting import Limits, Phantoms
from app.services.reach import Shown, Want

_PRIVATE = f"countersign_{secrets.token_hex(8)}_"
"""How the words begin that no caller's document has: they are of this process alone."""
_NAME = f"{_PRIVATE}name"


@dataclass(frozen=True, slots=True)
class LimitedGraphql:
    """What MLflow is sent, and how its answer is read."""

    body: bytes
    phantoms: Phantoms
    reading: Callable[[bytes], Awaitable[bytes]] | None


@dataclass(slots=True)
class _Place:
    """Where an id stands: in the document, or in the variables."""

    kind: Named
    value: str
    put: Callable[[str], None]


async def limit_graphql(body: bytes, limits: Limits) -> LimitedGraphql:
    """The document with what may be asked.

    Args:
        body: as it was judged.
        limits: of whom.

    Raises:
        Forbidden: it asks for something that cannot be filtered. InvalidInput: it is not one operation, or an id is no
            text.
    """
    message: JsonObject = json.loads(body)
    document = parse(message["query"], no_location=True)
    operations = [each for each in document.definitions if isinstance(each, OperationDefinitionNode)]
    if len(operations) != 1:
        raise InvalidInput("query", "expected one operation")
    is_registry_limited = Permission.REGISTRY_READ not in limits.principal.access.everywhere
    reading = _Reading(operations[0], dict(message.get("variables") or {}))
    for each in document.definitions:
        _check_roots(each, is_registry_limited=is_registry_limited)
    places = [place for node in _fields(document) for place in reading.places(node)]
    phantoms = Phantoms()
    wants = [Want(place.kind, place.value, Permission.TRACKING_READ) for place in places]
    standings = await limits.reach.standings(limits.principal, wants, limits.workspace)
    for place, standing in zip(places, standings, strict=True):
        phantoms.hides |= standing.exists and not standing.may
        place.put(standing.value if standing.may else phantoms.of(place.kind, place.value))
    if is_registry_limited:
        visit(document, _Naming())
    message["query"] = strip_ignored_characters(print_ast(document))
    message["variables"] = reading.variables
    return LimitedGraphql(serialise(message), phantoms, _Filtering(limits).read if is_registry_limited else None)


def _check_roots(definition: Node, *, is_registry_limited: bool) -> None:
    """Refuse fields that cannot be filtered, wherever they stand: fragments may be spread at the root."""
    for node in _fields(definition):
        if ARGUMENTS.get(node.name.value, ()) is None and is_registry_limited:
            raise Forbidden(
                f"{node.name.value} needs a grant on everything; model-versions/search lists what you may see.",
                permission=Permission.REGISTRY_READ.value,
            )
        if node.alias is not None and node.alias.value.startswith(_PRIVATE):
            raise InvalidInput("query", "expected other aliases")


def _fields(node: Node) -> Iterator[FieldNode]:
    ahead: list[Any] = [node]
    while ahead:
        each = ahead.pop()
        if isinstance(each, FieldNode):
            yield each
        if isinstance(each, DocumentNode):
            ahead += each.definitions
        elif isinstance(each, OperationDefinitionNode | FragmentDefinitionNode):
            ahead.append(each.selection_set)
        else:
            selection_set = getattr(each, "selection_set", None)
            ahead += [selection_set] if selection_set is not None else list(getattr(each, "selections", ()))


@dataclass(slots=True)
class _Reading:
    """The ids in the arguments of an operation, and its variables with their defaults."""

    operation: OperationDefinitionNode
    variables: dict[str, Any]
    _written: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for definition in self.operation.variable_definitions or ():
            name = definition.variable.name.value
            if name not in self.variables and definition.default_value is not None:
                self.variables[name] = value_from_ast_untyped(definition.default_value)

    def places(self, node: FieldNode) -> Iterator[_Place]:
        """Where ids stand in the arguments of a field."""
        arguments = ARGUMENTS.get(node.name.value) or ()
        given = [each for each in node.arguments or () if each.name.value == "input"]
        if not arguments or not given:
            return
        if len(given) > 1:
            raise InvalidInput("query", "expected each argument once")
        for argument in arguments:
            yield from self._in_argument(given[0], argument)

    def _in_argument(self, given: ArgumentNode, argument: Argument) -> Iterator[_Place]:
        value = given.value
        if isinstance(value, VariableNode):
            held = self.variables.get(value.name.value)
            if isinstance(held, dict):
                yield from self._in_data(held, argument.name, argument, at=(value.name.value, argument.name))
            return
        if not isinstance(value, ObjectValueNode):
            return
        members = [member for member in value.fields if member.name.value == argument.name]
        if len(members) > 1:
            raise InvalidInput("query", "expected each member once")
        for member in members:
            yield from self._in_value(member, argument)

    def _in_value(self, owner: ObjectFieldNode, argument: Argument) -> Iterator[_Place]:
        """Where ids stand in the value of a member."""
        value: ValueNode = owner.value
        if isinstance(value, VariableNode):
            name = value.name.value
            if self.variables.get(name) is not None:
                yield from self._in_data(self.variables, name, argument, at=(name, ""))
        elif isinstance(value, StringValueNode):
            yield _Place(argument.kind, value.value, lambda word: setattr(owner, "value", StringValueNode(value=word)))
        elif isinstance(value, ListValueNode) and argument.is_list:
            items = list(value.values)
            for index, item in enumerate(items):
                yield from self._in_item(value, items, index, item, argument)
        elif value.kind != "null_value":
            raise InvalidInput(argument.name, "expected text")

    def _in_item(
        self, whole: ListValueNode, items: list[ValueNode], index: int, item: ValueNode, argument: Argument
    ) -> Iterator[_Place]:
        if isinstance(item, VariableNode):
            name = item.name.value
            if self.variables.get(name) is not None:
                yield from self._in_data(self.variables, name, argument, at=(name, ""))
            return
        if not isinstance(item, StringValueNode):
            raise InvalidInput(argument.name, "expected a list of texts")

        def put(word: str) -> None:
            items[index] = StringValueNode(value=word)
            whole.values = tuple(items)

        yield _Place(argument.kind, item.value, put)

    def _in_data(
        self, container: dict[str, Any], key: str, argument: Argument, *, at: tuple[str, str]
    ) -> Iterator[_Place]:
        value = container.get(key)
        if value is None:
            return
        # GraphQL takes one value for a list of one.
        values = value if isinstance(value, list) and argument.is_list else [value]
        for index, each in enumerate(values):
            if not isinstance(each, str):
                raise InvalidInput(argument.name, "expected text")
            where = (f"{at[0]}.{at[1]}", str(index))

            def put(word: str, index: int = index, where: tuple[str, str] = where) -> None:
                if self._written.setdefault(where, word) != word:
                    raise InvalidInput("variables", "expected each id for one kind of thing")
                held = container[key]
                if isinstance(held, list):
                    held[index] = word
                else:
                    container[key] = word

            yield _Place(argument.kind, each, put)


class _Naming(Visitor):
    """Has every version of a model named, under words of ours."""

    def enter_field(self, node: FieldNode, *_: object) -> None:
        if node.name.value != FILTERED or node.selection_set is None:
            return
        shown = node.alias.value if node.alias else node.name.value
        node.alias = NameNode(value=f"{_PRIVATE}{shown}")
        name = FieldNode(
            name=NameNode(value="name"), alias=NameNode(value=_NAME), arguments=(), directives=(), selection_set=None
        )
        node.selection_set.selections = (*node.selection_set.selections, name)


class _Filtering:
    """Leaves out of an answer the versions of models that may not be seen."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._shown = Shown(Named.MODEL, Permission.REGISTRY_READ, frozenset())

    async def read(self, body: bytes) -> bytes:
        try:
            answer = json.loads(body)
        except ValueError:
            return body
        owned = await self._limits.reach.owned_by(self._limits.principal, Named.MODEL, self._limits.workspace)
        self._shown = Shown(Named.MODEL, Permission.REGISTRY_READ, owned)
        cleaned = json.dumps(self._cleaned(answer), separators=(",", ":")).encode("ascii")
        # An error may name the place where it happened.
        return cleaned.replace(_PRIVATE.encode(), b"")

    def _cleaned(self, value: object) -> object:
        if isinstance(value, list):
            return [self._cleaned(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            key.removeprefix(_PRIVATE): self._kept(item) if key.startswith(_PRIVATE) else self._cleaned(item)
            for key, item in value.items()
        }

    def _kept(self, versions: object) -> object:
        if not isinstance(versions, list):
            return None
        limits, named = self._limits, [(str(each[_NAME]), str(each[_NAME])) for each in versions]
        shown = limits.reach.visible(limits.principal, self._shown, named, limits.workspace)
        return [
            self._cleaned({key: item for key, item in each.items() if key != _NAME})
            for each, is_shown in zip(versions, shown, strict=True)
            if is_shown
        ]
