"""What an expression is, before there are facts: every part gets a type, or is refused, and the facts it reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from lark import Token, Tree

from app.adapters.expressions import costing
from app.adapters.expressions.costing import Costing
from app.adapters.expressions.library import Fault, compiled, value_of
from app.adapters.expressions.parsing import Node, Refused, parse, refused
from app.domain.facts import FACTS, ListOf, MapOf, Record, Scalar, Type

if TYPE_CHECKING:
    from cel import Program

Path = tuple[str, ...]
INT, DOUBLE, STRING, BOOL = Scalar.INT, Scalar.DOUBLE, Scalar.STRING, Scalar.BOOL
TIME, SPAN = Scalar.TIMESTAMP, Scalar.DURATION

Rows = Sequence[tuple[tuple[Type, ...], Type]]
"""Types of the arguments, the first being what stands before a dot; and of the result."""

_ORDERED: Rows = [
    *(((left, right), BOOL) for left in (INT, DOUBLE) for right in (INT, DOUBLE)),
    *(((each, each), BOOL) for each in (STRING, TIME, SPAN)),
]
_OF_NUMBERS: Rows = [((INT, INT), INT), ((DOUBLE, DOUBLE), DOUBLE)]
_OF_TIMES: Rows = [((TIME, SPAN), TIME), ((SPAN, SPAN), SPAN)]
_OF_TEXTS: Rows = [((STRING, STRING), BOOL)]
_BINARY: Mapping[str, Rows] = {
    **dict.fromkeys(("<", "<=", ">", ">="), _ORDERED),
    "+": [*_OF_NUMBERS, ((STRING, STRING), STRING), *_OF_TIMES],
    "-": [*_OF_NUMBERS, ((TIME, TIME), SPAN), *_OF_TIMES],
    "*": _OF_NUMBERS,
    "/": _OF_NUMBERS,
    "%": [((INT, INT), INT)],
}
_PREFIXES: Mapping[str, Rows] = {"!": [((BOOL,), BOOL)], "-": [((INT,), INT), ((DOUBLE,), DOUBLE)]}
_FUNCTIONS: Mapping[str, Rows] = {
    "int": [((INT,), INT), ((DOUBLE,), INT), ((STRING,), INT)],
    "double": [((DOUBLE,), DOUBLE), ((INT,), DOUBLE), ((STRING,), DOUBLE)],
    "string": [((STRING,), STRING), ((INT,), STRING)],
    "timestamp": [((STRING,), TIME)],
    "duration": [((STRING,), SPAN)],
}
_METHODS: Mapping[str, Rows] = {
    **dict.fromkeys(("contains", "startsWith", "endsWith"), _OF_TEXTS),
    **{f"get{part}": [((TIME,), INT)] for part in ("FullYear", "Month", "Date", "DayOfMonth", "DayOfWeek")},
    "getDayOfYear": [((TIME,), INT)],
    **{f"get{part}": [((TIME,), INT), ((SPAN,), INT)] for part in ("Hours", "Minutes", "Seconds", "Milliseconds")},
}
_NO_LITERAL = {
    "INT": "a whole number has at most 63 bits",
    "FLOAT": "this number is too large",
    "STRING": 'there is no such escape in CEL: {}; for a pattern, write r"…"',
}
_MACROS = ("all", "exists", "exists_one", "filter", "map")
_RESERVED = frozenset(
    {"as", "break", "const", "continue", "else", "for", "function", "if", "import", "in", "let", "loop"}
    | {"namespace", "package", "return", "var", "void", "while"}
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an expression.

    ``path`` is the fact that it names, if it is one and nothing was computed; ``reads`` are those that were used to
    come here. ``is_constant``: it is of literals alone.
    """

    type: Type
    cost: Costing
    reads: frozenset[Path] = frozenset()
    path: Path | None = None
    is_constant: bool = False
    text: str | None = None
    """Of a text in quotes."""

    @property
    def used(self) -> frozenset[Path]:
        """What is read if the value of this part is looked at."""
        return self.reads | {self.path} if self.path else self.reads


@dataclass(frozen=True, slots=True)
class Witness:
    """What is asked of each item of a fact, where one item decides: the item is named when the clause does not hold."""

    path: Path
    variable: str
    asks: Program
    reads: frozenset[Path]
    decides: bool


@dataclass(frozen=True, slots=True)
class CheckedClause:
    """One part of those that ``&&`` joins, and the library's program of the same text."""

    text: str
    program: Program
    reads: frozenset[Path]
    cost: Costing
    witness: Witness | None


def check_clauses(text: str) -> tuple[CheckedClause, ...]:
    """The clauses of an expression. Raises ``Refused``."""
    tree = parse(text)
    return tuple(_clause(text, node) for node in _clauses_of(tree))


def _clauses_of(node: Node) -> list[Node]:
    inner = node
    while inner.data == "group":
        inner = _node(inner.children[0])
    if inner.data != "both":
        return [node]
    return [clause for part in inner.children for clause in _clauses_of(_node(part))]


def _clause(text: str, node: Node) -> CheckedClause:
    checker = _Checker(text)
    part = checker.boolean(node, {}, "a check is true or false, and this is of type {found}")
    program = checker.program(node)
    return CheckedClause(checker.source(node), program, part.used, part.cost, checker.witness(node))


def path_text(path: Path) -> str:
    """As it would be written: ``candidate.metrics.accuracy``, ``candidate.tags["dvc.hash"]``."""
    first, *rest = path
    return first + "".join(
        f".{part}"
        if part.isascii() and part.isidentifier()
        else f"[{json.dumps(part, ensure_ascii=not part.isprintable())}]"
        for part in rest
    )


def type_at(path: Path) -> Type:
    """Of a path that was checked."""
    found: Type = FACTS
    for name in path:
        assert isinstance(found, MapOf | Record)
        found = found.of if isinstance(found, MapOf) else found.fields[name].type
    return found


def _node(child: Node | Token) -> Node:
    assert isinstance(child, Tree)
    return child


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = get_close_matches(name, known, n=1)
    return f"{what}; {f'did you mean `{near[0]}`? ' if near else ''}there is {', '.join(sorted(known))}"


def _comparable(left: Type, right: Type) -> bool:
    """Numbers with numbers, and lists of such; else a type with itself. An empty list is like any other."""
    if isinstance(left, ListOf) and isinstance(right, ListOf):
        return left.of is None or right.of is None or _comparable(left.of, right.of)
    return left == right or {left, right} == {INT, DOUBLE}


def _one_type(types: Iterable[Type]) -> Type | None:
    """The one of all; an empty list is like any other."""
    found: Type | None = None
    for each in types:
        if found is None or found == ListOf(None):
            found = each if found is None or isinstance(each, ListOf) else None
        elif each != found and not (each == ListOf(None) and isinstance(found, ListOf)):
            return None
        if found is None:
            return None
    return found


def _used(parts: Iterable[Part]) -> frozenset[Path]:
    return frozenset[Path]().union(*(part.used for part in parts))


def _item_of(type_: Type) -> Type:
    """What the variable of a macro is: of a map, a name."""
    return type_.of if isinstance(type_, ListOf) and type_.of else STRING


Scope = Mapping[str, Type]
"""The variables of the macros around."""


class _Checker:
    """Of one text. Each method is named like an alternative of the grammar."""

    def __init__(self, text: str) -> None:
        self._text = text

    def source(self, node: Node) -> str:
        return self._text[node.meta.start_pos : node.meta.end_pos]

    def program(self, node: Node) -> Program:
        try:
            return compiled(self.source(node))
        except Fault as fault:
            raise refused(str(fault), node) from None

    def witness(self, node: Node) -> Witness | None:
        match node:
            case Tree(
                data="method", children=[Tree() as of, Token(value="all"), Tree(children=[name, Tree() as body])]
            ):
                decides = False
            case Tree(
                data="prefixed",
                children=[
                    Token(value="!"),
                    Tree(data="method", children=[Tree() as of, Token(value="exists"), Tree(children=[name, body])]),
                ],
            ):
                decides = True
            case _:
                return None
        over = self.part(of, {})
        variable = str(_node(name).children[0])
        asked = self.part(body, {variable: _item_of(over.type)})
        return Witness(over.path, variable, self.program(_node(body)), asked.used, decides) if over.path else None

    def part(self, node: Node | Token, scope: Scope) -> Part:
        node = _node(node)
        check: Callable[[Node, Scope], Part] = getattr(self, f"_{node.data}")
        return check(node, scope)

    def boolean(self, node: Node | Token, scope: Scope, message: str) -> Part:
        return self._expected(self.part(node, scope), BOOL, node, message)

    def _expected(self, part: Part, wanted: Type, node: Node | Token, message: str) -> Part:
        if part.type != wanted:
            raise refused(message.format(found=part.type.label), node)
        return part

    def _group(self, node: Node, scope: Scope) -> Part:
        return self.part(node.children[0], scope)

    def _literal(self, node: Node, _: Scope) -> Part:
        token = node.children[0]
        assert isinstance(token, Token)
        try:
            value = value_of(str(token))
        except Fault:
            raise refused(_NO_LITERAL[token.type].format(token), node) from None
        if isinstance(value, str):
            return Part(STRING, costing.of_text(value), is_constant=True, text=value)
        type_ = BOOL if isinstance(value, bool) else INT if isinstance(value, int) else DOUBLE
        return Part(type_, costing.nothing, is_constant=True)

    def _name(self, node: Node, scope: Scope) -> Part:
        name = str(node.children[0])
        if name in scope:
            return Part(scope[name], costing.of_path((name,)))
        if name == "null":
            raise refused("a fact is never null: it is absent, and `has(…)` says whether it is there", node)
        if name in _RESERVED:
            raise refused(f"`{name}` is a reserved word", node)
        if name not in FACTS.fields:
            raise refused(_unknown(f"there is no fact `{name}`", name, [*FACTS.fields, *scope]), node)
        return Part(FACTS.fields[name].type, costing.of_path((name,)), path=(name,))

    def _select(self, node: Node, scope: Scope) -> Part:
        of, name = node.children
        return self._selected(self.part(of, scope), str(name), name)

    def _selected(self, of: Part, name: str, at: Node | Token) -> Part:
        """``of.name``, and ``of["name"]``."""
        path = (*of.path, name) if of.path else None
        cost = costing.of_path(path) if path else costing.of_operation([of.cost], lambda whole: whole.part)
        match of.type:
            case MapOf(of=type_):
                return Part(type_, cost, of.reads, path)
            case Record(fields=fields):
                if name not in fields:
                    whole = path_text(of.path) if of.path else of.type.label
                    raise refused(_unknown(f"{whole} has no fact `{name}`", name, fields), at)
                return Part(fields[name].type, cost, of.reads, path)
        raise refused(f"{of.type.label} has no parts, so no `{name}`", at)

    def _index(self, node: Node, scope: Scope) -> Part:
        of, key = (self.part(child, scope) for child in node.children)
        if key.text is not None and not isinstance(of.type, ListOf):
            return self._selected(of, key.text, node)
        match of.type:
            case ListOf(of=Scalar() | ListOf() | MapOf() | Record() as type_):
                self._expected(key, INT, node.children[1], "a list is indexed by an int, and this is of type {found}")
            case MapOf(of=type_):
                message = "a map is indexed by a string, and this is of type {found}"
                self._expected(key, STRING, node.children[1], message)
            case _:
                raise refused(f"{of.type.label} cannot be indexed", node)
        cost = costing.of_operation([of.cost, key.cost], lambda whole, _: whole.part)
        return Part(type_, cost, of.used | key.used)

    def _overloaded(self, rows: Rows, what: str, parts: Sequence[Part], node: Node) -> Part:
        types = tuple(part.type for part in parts)
        result = next((result for wanted, result in rows if wanted == types), None)
        if result is None:
            hint = "; write `1.0` for `1`, or `double(…)`" if set(types) == {INT, DOUBLE} else ""
            found = " and ".join(type_.label for type_ in types) or "nothing"
            known = "; ".join(" and ".join(type_.label for type_ in wanted) for wanted, _ in rows)
            raise refused(f"`{what}` is not for {found}; it takes {known}{hint}", node)
        grown = costing.joined if result is STRING else lambda *_: costing.ONE
        cost = costing.of_operation([part.cost for part in parts], grown)
        constant = all(part.is_constant for part in parts)
        if constant:  # it is known now, or wrong now
            try:
                value_of(f"({self.source(node)}) == ({self.source(node)})")
            except Fault as fault:
                raise refused(str(fault), node) from None
        return Part(result, cost, _used(parts), is_constant=constant)

    def _prefixed(self, node: Node, scope: Scope) -> Part:
        operator = str(node.children[0])
        return self._overloaded(_PREFIXES[operator], operator, [self.part(node.children[1], scope)], node)

    def _binary(self, node: Node, scope: Scope) -> Part:
        operator = str(node.children[1])
        left, right = self.part(node.children[0], scope), self.part(node.children[2], scope)
        both = costing.of_operation([left.cost, right.cost])
        if operator == "in":
            return Part(BOOL, both, self._looked_for(left, right, node))
        if operator == "+" and isinstance(left.type, ListOf) and (one := _one_type([left.type, right.type])):
            return Part(one, costing.of_operation([left.cost, right.cost], costing.joined), _used([left, right]))
        if operator not in {"==", "!="}:
            return self._overloaded(_BINARY[operator], operator, [left, right], node)
        if not _comparable(left.type, right.type):
            raise refused(
                f"{left.type.label} and {right.type.label} are never equal; convert one: "
                "`double(…)`, `int(…)`, `string(…)`, `timestamp(…)`",
                node,
            )
        return Part(BOOL, both, _used([left, right]))

    def _looked_for(self, item: Part, within: Part, node: Node) -> frozenset[Path]:
        """What ``item in within`` reads: of a map in which one name is looked for, that alone."""
        match within.type:
            case MapOf():
                message = "the names in a map are strings, and this is of type {found}"
                self._expected(item, STRING, node.children[0], message)
                if within.path and item.text is not None:
                    return within.reads | {(*within.path, item.text)}
                return _used([item, within])
            case ListOf(of=of) if of is None or _comparable(of, item.type):
                return _used([item, within])
        raise refused(f"{item.type.label} is never in {within.type.label}", node)

    def _joined(self, node: Node, scope: Scope, operator: str) -> Part:
        message = f"`{operator}` joins what is true or false, and this is of type {{found}}"
        parts = [self.boolean(child, scope, message) for child in node.children]
        return Part(BOOL, costing.of_operation([part.cost for part in parts]), _used(parts))

    def _either(self, node: Node, scope: Scope) -> Part:
        return self._joined(node, scope, "||")

    def _both(self, node: Node, scope: Scope) -> Part:
        return self._joined(node, scope, "&&")

    def _choose(self, node: Node, scope: Scope) -> Part:
        message = "before `?` stands what is true or false, and this is of type {found}"
        condition = self.boolean(node.children[0], scope, message)
        yes, no = (self.part(child, scope) for child in node.children[1:])
        common = _one_type([yes.type, no.type])
        if common is None:
            raise refused(f"both sides of `:` have one type; these are {yes.type.label} and {no.type.label}", node)
        parts = [condition, yes, no]
        cost = costing.of_operation([part.cost for part in parts], lambda _, *either: costing.largest(either))
        return Part(common, cost, _used(parts))

    def _items(self, node: Node, scope: Scope) -> Part:
        parts = [self.part(child, scope) for child in node.children]
        for count in range(2, len(parts) + 1):
            if _one_type(part.type for part in parts[:count]) is None:
                raise refused("the items of a list have one type", node.children[count - 1])
        cost = costing.of_operation([part.cost for part in parts], lambda *items: costing.bulk_of_items(items))
        return Part(ListOf(_one_type(part.type for part in parts)), cost, _used(parts))

    def _call(self, node: Node, scope: Scope) -> Part:
        name, arguments = node.children[0], _node(node.children[1]).children
        if name == "has":
            return self._has(node, arguments, scope)
        parts = [self.part(each, scope) for each in arguments]
        if name == "size" and len(parts) == 1:
            return self._sized(parts[0], node)
        if name not in _FUNCTIONS:
            raise refused(_unknown(f"there is no function `{name}`", str(name), [*_FUNCTIONS, "has", "size"]), name)
        return self._overloaded(_FUNCTIONS[str(name)], str(name), parts, node)

    def _method(self, node: Node, scope: Scope) -> Part:
        of, name, arguments = node.children[0], node.children[1], _node(node.children[2]).children
        if name in _MACROS:
            return self._macro(node, scope)
        parts = [self.part(each, scope) for each in (of, *arguments)]
        if name == "size" and len(parts) == 1:
            return self._sized(parts[0], node)
        if name == "matches":
            return self._matches(parts, node)
        if name not in _METHODS:
            known = [*_METHODS, *_MACROS, "matches", "size"]
            raise refused(_unknown(f"there is no function `{name}`", str(name), known), name)
        return self._overloaded(_METHODS[str(name)], str(name), parts, node)

    def _sized(self, part: Part, node: Node) -> Part:
        if not isinstance(part.type, ListOf | MapOf) and part.type != STRING:
            raise refused(f"{part.type.label} has no size", node)
        return Part(INT, costing.of_operation([part.cost]), part.used)

    def _has(self, node: Node, arguments: Sequence[Node | Token], scope: Scope) -> Part:
        if len(arguments) != 1 or _node(arguments[0]).data != "select":
            raise refused('`has` asks for one fact, as `has(candidate.run)`; of a map, write `"name" in …`', node)
        part = self.part(arguments[0], scope)
        return Part(BOOL, costing.of_operation([part.cost]), part.used)

    def _matches(self, parts: Sequence[Part], node: Node) -> Part:
        self._expected(parts[0], STRING, node.children[0], "`matches` is of strings, and this is of type {found}")
        arguments = _node(node.children[2]).children
        if len(parts) != 2 or parts[1].text is None:
            raise refused("`matches` takes a pattern in quotes", node)
        pattern = parts[1].text
        if costing.weight_of_pattern(pattern)[0] > costing.LARGEST_PATTERN:
            raise refused("this pattern repeats too much", arguments[0])
        try:
            value_of(f"''.matches({self.source(_node(arguments[0]))})")
        except Fault as fault:
            raise refused(str(fault), arguments[0]) from None
        return Part(BOOL, costing.of_match(parts[0].cost, pattern), parts[0].used)

    def _macro(self, node: Node, scope: Scope) -> Part:
        """``list.all(item, …)`` and its likes; of a map, over the names in it."""
        name, arguments = str(node.children[1]), _node(node.children[2]).children
        over = self.part(node.children[0], scope)
        if not isinstance(over.type, ListOf | MapOf):
            raise refused(f"`{name}` is of lists and maps, and this is of type {over.type.label}", node)
        if len(arguments) != 2 or _node(arguments[0]).data != "name":
            raise refused(f"write `{name}(item, …)`, with a name for the items", node)
        variable, body_node = str(_node(arguments[0]).children[0]), arguments[1]
        if variable in scope or variable in FACTS.fields or variable in _RESERVED:
            raise refused(f"`{variable}` is taken; choose another name", arguments[0])
        item = _item_of(over.type)
        inner = {**scope, variable: item}
        if name == "map":
            body = self.part(body_node, inner)
        else:
            message = f"`{name}` asks what is true or false of each, and this is of type {{found}}"
            body = self.boolean(body_node, inner, message)
        text = path_text(over.path) if over.path else self.source(_node(node.children[0]))
        cost = costing.of_macro(name, text, over.cost, variable, body.cost)
        result: Type = {"filter": ListOf(item), "map": ListOf(body.type)}.get(name, BOOL)
        return Part(result, cost, over.used | body.used)


__all__ = ["CheckedClause", "Path", "Refused", "Witness", "check_clauses", "path_text", "type_at"]
