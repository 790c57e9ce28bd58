"""A tree to something that can be run: every part gets a type, its cost and the facts it reads, or is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import re2

from app.adapters.expressions.operations import (
    BINARY,
    BOOL,
    DOUBLE,
    FUNCTIONS,
    INT,
    METHODS,
    PREFIXES,
    STRING,
    Fault,
    Frame,
    Missing,
    Rows,
    equal,
    list_joined,
    shown,
    typed,
    unified,
)
from app.adapters.expressions.parsing import (
    Binary,
    Call,
    Choose,
    Index,
    Items,
    Joined,
    Literal,
    Name,
    Node,
    Place,
    Prefixed,
    Refused,
    Select,
    parse,
    refused,
)
from app.domain.facts import FACTS, ListOf, MapOf, Record, Scalar, Type

Path = tuple[str, ...]
Run = Callable[[Frame], Any]

_MACROS = ("all", "exists", "exists_one", "filter", "map")
_NAMES_SHOWN = 8
_COMPARISONS_A_STEP = 500
_PATTERN_OPTIONS = re2.Options()
_PATTERN_OPTIONS.max_mem = 1 << 18
_PATTERN_OPTIONS.log_errors = False


@dataclass(frozen=True, slots=True)
class Code:
    """A part that can be run.

    ``path`` is the fact that it names, if it is one and nothing was computed; ``reads`` are those that were used to
    come here. ``cost`` is in steps, without what its items cost. ``is_constant``: it is computed of literals alone.
    """

    type: Type
    run: Run
    reads: frozenset[Path] = frozenset()
    path: Path | None = None
    cost: int = 1
    is_constant: bool = False

    @property
    def used(self) -> frozenset[Path]:
        """What is read if the value of this part is looked at."""
        return self.reads | {self.path} if self.path else self.reads


@dataclass(frozen=True, slots=True)
class CompiledClause:
    """One part of those that ``&&`` joins. ``has_witness``: one item decides it, and is named when it does not hold."""

    text: str
    run: Run
    reads: frozenset[Path]
    has_witness: bool


Scope = Mapping[str, Type]
"""The variables of the macros around."""


def compile_clauses(text: str) -> tuple[CompiledClause, ...]:
    """The clauses of an expression. Raises ``Refused``."""
    tree = parse(text)
    parts = tree.parts if isinstance(tree, Joined) and tree.operator == "&&" else (tree,)
    return tuple(_clause(text, part) for part in parts)


def _clause(text: str, node: Node) -> CompiledClause:
    code = _compile(node, {})
    _expect(code, BOOL, node, "a check is true or false, and this is of type {found}")
    return CompiledClause(text[node.place.start : node.place.end], code.run, code.used, _has_witness(node))


def _has_witness(node: Node) -> bool:
    match node:
        case Call(name="all", of=Node()) | Prefixed(operator="!", of=Call(name="exists", of=Node())):
            return True
    return False


def path_text(path: Path) -> str:
    """As it would be written: ``candidate.metrics.accuracy``, ``candidate.tags["dvc.hash"]``."""
    first, *rest = path
    return first + "".join(
        f".{part}"
        if part.isascii() and part.isidentifier()
        else f"[{json.dumps(part, ensure_ascii=not part.isprintable())}]"
        for part in rest
    )


def _compile(node: Node, scope: Scope) -> Code:
    return _COMPILERS[type(node)](node, scope)


def _literal(node: Literal, _: Scope) -> Code:
    value = node.value
    return Code(node.type, lambda _: value, is_constant=True)


def _selected(node: Select, scope: Scope) -> Code:
    return _select(_compile(node.of, scope), node.name, node.at)


def _prefixed(node: Prefixed, scope: Scope) -> Code:
    return _overloaded(PREFIXES[node.operator], node.operator, [_compile(node.of, scope)], node.place)


def _expect(code: Code, wanted: Type, node: Node, message: str) -> None:
    if code.type != wanted:
        raise refused(message.format(found=code.type.label), node.place)


def _name(node: Name, scope: Scope) -> Code:
    name = node.name
    if name in scope:
        return Code(scope[name], lambda frame: frame.names[name])
    if name not in FACTS.fields:
        raise refused(_unknown(f"there is no fact `{name}`", name, [*FACTS.fields, *scope]), node.place)

    def run(frame: Frame) -> Any:
        if name not in frame.facts:
            raise Missing(lambda: f"nothing is known of {name}")
        return typed(frame.facts[name], FACTS.fields[name].type, name)

    return Code(FACTS.fields[name].type, run, path=(name,))


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = get_close_matches(name, known, n=1)
    return f"{what}; {f'did you mean `{near[0]}`? ' if near else ''}there is {', '.join(sorted(known))}"


def _select(of: Code, name: str, place: Place) -> Code:
    """``of.name``, and ``of["name"]``."""
    path = (*of.path, name) if of.path else None
    inner, cost = of.run, of.cost + 1
    what = path_text(path) if path else f'"{name}"'
    match of.type:
        case MapOf(of=type_):
            holder = path_text(of.path) if of.path else "it"

            def run(frame: Frame) -> Any:
                values = inner(frame)
                value = values.get(name)
                if value is None:
                    raise Missing(lambda: f"{holder} has no {shown(name)}; it has {_names(values)}")
                return typed(value, type_, what)

            return Code(type_, run, of.reads, path, cost)
        case Record(fields=fields):
            if name not in fields:
                known = f"{path_text(of.path) if of.path else of.type.label} has no fact `{name}`"
                raise refused(_unknown(known, name, fields), place)
            type_ = fields[name].type
            return Code(type_, _part_of(inner, name, type_, what), of.reads, path, cost)
    raise refused(f"{of.type.label} has no parts, so no `{name}`", place)


def _part_of(inner: Run, name: str, type_: Type, what: str) -> Run:
    def run(frame: Frame) -> Any:
        values = inner(frame)
        value = values.get(name)
        if value is None:
            gone = values.get("exists") is False
            raise Missing(lambda: "there is no holder" if gone else f"{what} is not known")
        return typed(value, type_, what)

    return run


def _names(values: Mapping[str, object]) -> str:
    names = sorted(str(name) for name in values)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    listed = ", ".join(
        name if name.isidentifier() and len(name) <= 40 else shown(name) for name in names[:_NAMES_SHOWN]
    )
    return f"{listed}{more}" if names else "none"


def _index(node: Index, scope: Scope) -> Code:
    of, key = _compile(node.of, scope), _compile(node.key, scope)
    if isinstance(node.key, Literal) and isinstance(node.key.value, str) and not isinstance(of.type, ListOf):
        return _select(of, node.key.value, node.place)
    inner, find, cost = of.run, key.run, of.cost + key.cost + 1
    match of.type:
        case ListOf(of=Scalar() | ListOf() | MapOf() | Record() as type_):
            _expect(key, INT, node.key, "a list is indexed by an int, and this is of type {found}")

            def item(frame: Frame) -> Any:
                values, position = inner(frame), find(frame)
                if not 0 <= position < len(values):
                    raise Missing(lambda: f"there is no item {position}; there are {len(values)}")
                return typed(values[position], type_, f"item {position}")

            return Code(type_, item, of.used | key.used, cost=cost)
        case MapOf(of=type_):
            _expect(key, STRING, node.key, "a map is indexed by a string, and this is of type {found}")

            def value(frame: Frame) -> Any:
                values, name = inner(frame), find(frame)
                if values.get(name) is None:
                    raise Missing(lambda: f"there is no {shown(name)}; there is {_names(values)}")
                return typed(values[name], type_, shown(name))

            return Code(type_, value, of.used | key.used, cost=cost)
    raise refused(f"{of.type.label} cannot be indexed", node.place)


def _call(node: Call, scope: Scope) -> Code:
    name, count = node.name, len(node.arguments)
    if node.of is None:
        if name == "has":
            return _has(node, scope)
        if name == "size" and count == 1:
            return _size(node, node.arguments[0], scope)
        if name not in FUNCTIONS:
            raise refused(_unknown(f"there is no function `{name}`", name, [*FUNCTIONS, "has"]), node.at)
        return _overloaded(FUNCTIONS[name], name, [_compile(each, scope) for each in node.arguments], node.place)
    if name in _MACROS:
        return _macro(node, node.of, scope)
    if name == "size" and count == 0:
        return _size(node, node.of, scope)
    if name == "matches":
        return _matches(node, node.of, scope)
    if name not in METHODS:
        raise refused(_unknown(f"there is no function `{name}`", name, [*METHODS, *_MACROS, "matches"]), node.at)
    return _overloaded(METHODS[name], name, [_compile(each, scope) for each in (node.of, *node.arguments)], node.place)


def _overloaded(rows: Rows, what: str, codes: Sequence[Code], place: Place) -> Code:
    """The row that fits the types; first as they are, then with whole numbers as doubles."""
    for widened in (False, True):
        for wanted, result, function in rows:
            if len(wanted) == len(codes) and all(
                code.type == type_ or (widened and (code.type, type_) == (INT, DOUBLE))
                for code, type_ in zip(codes, wanted, strict=True)
            ):
                code = _applied(function, [_as(code, type_) for code, type_ in zip(codes, wanted, strict=True)], result)
                return _folded(code, place) if all(code.is_constant for code in codes) else code
    found = " and ".join(code.type.label for code in codes) or "nothing"
    known = "; ".join(" and ".join(type_.label for type_ in wanted) for wanted, _, _ in rows)
    raise refused(f"`{what}` is not for {found}; it takes {known}", place)


def _applied(function: Callable[..., Any], codes: list[Code], result: Type) -> Code:
    runs = [code.run for code in codes]
    reads = frozenset[Path]().union(*(code.used for code in codes))
    cost = 1 + sum(code.cost for code in codes)
    if len(runs) == 1:
        (only,) = runs
        return Code(result, lambda frame: function(frame, only(frame)), reads, cost=cost)
    left, right = runs
    return Code(result, lambda frame: function(frame, left(frame), right(frame)), reads, cost=cost)


def _folded(code: Code, place: Place) -> Code:
    """What is of literals alone is known now, or wrong now."""
    try:
        value = code.run(Frame({}))
    except Fault as fault:
        raise refused(str(fault), place) from None
    return replace(code, run=lambda _: value, is_constant=True)


def _as(code: Code, type_: Type) -> Code:
    """With a whole number as a double where one is wanted."""
    if code.type == type_ or type_ != DOUBLE:
        return code
    inner = code.run
    return Code(DOUBLE, lambda frame: float(inner(frame)), code.used, cost=code.cost + 1)


def _binary(node: Binary, scope: Scope) -> Code:
    if node.operator == "in":
        return _in(node, scope)
    left, right = _compile(node.left, scope), _compile(node.right, scope)
    if node.operator == "+" and isinstance(left.type, ListOf) and (both := unified(left.type, right.type)):
        return _applied(list_joined, [left, right], both)
    if node.operator not in {"==", "!="}:
        return _overloaded(BINARY[node.operator], node.operator, [left, right], node.place)
    common = unified(left.type, right.type)
    if common is None:
        raise refused(
            f"{left.type.label} and {right.type.label} are never equal; convert one: "
            "`double(…)`, `int(…)`, `string(…)`, `timestamp(…)`",
            node.place,
        )
    wanted = node.operator == "=="
    return _applied(lambda frame, one, other: equal(frame, one, other, common) is wanted, [left, right], BOOL)


def _in(node: Binary, scope: Scope) -> Code:
    item, within = _compile(node.left, scope), _compile(node.right, scope)
    match within.type:
        case MapOf():
            _expect(item, STRING, node.left, "the names in a map are strings, and this is of type {found}")
            reads = within.used
            if within.path and isinstance(node.left, Literal):
                reads = within.reads | {(*within.path, str(node.left.value))}
            find, inner = item.run, within.run
            return Code(
                BOOL,
                lambda frame: inner(frame).get(find(frame)) is not None,
                reads | item.used,
                cost=item.cost + within.cost + 1,
            )
        case ListOf(of=of) if common := (unified(of, item.type) if of else item.type):
            either: Type = common

            def contains(frame: Frame, value: object, values: list[Any]) -> bool:
                frame.spend(len(values))
                return any(equal(frame, value, each, either) for each in values)

            return _applied(contains, [item, within], BOOL)
    raise refused(f"{item.type.label} is never in {within.type.label}", node.place)


def _joined(node: Joined, scope: Scope) -> Code:
    """A part that has no value counts only if no other part decides, whichever comes first."""
    codes = [_compile(part, scope) for part in node.parts]
    for code, part in zip(codes, node.parts, strict=True):
        _expect(code, BOOL, part, f"`{node.operator}` joins what is true or false, and this is of type {{found}}")
    runs, decides = [code.run for code in codes], node.operator == "||"

    def run(frame: Frame) -> bool:
        fault = None
        for each in runs:
            try:
                if bool(each(frame)) is decides:
                    return decides
            except Fault as found:
                fault = fault or found
        if fault:
            raise fault
        return not decides

    return Code(
        BOOL, run, frozenset[Path]().union(*(code.used for code in codes)), cost=sum(code.cost for code in codes)
    )


def _choose(node: Choose, scope: Scope) -> Code:
    condition, yes, no = (_compile(part, scope) for part in (node.condition, node.yes, node.no))
    _expect(condition, BOOL, node.condition, "before `?` stands what is true or false, and this is of type {found}")
    common = unified(yes.type, no.type)
    if common is None:
        raise refused(f"both sides of `:` have one type; these are {yes.type.label} and {no.type.label}", node.place)
    decide, first, second = condition.run, _as(yes, common).run, _as(no, common).run
    return Code(
        common,
        lambda frame: first(frame) if decide(frame) else second(frame),
        condition.used | yes.used | no.used,
        cost=condition.cost + yes.cost + no.cost,
    )


def _items(node: Items, scope: Scope) -> Code:
    codes = [_compile(item, scope) for item in node.items]
    common: Type | None = None
    for code, item in zip(codes, node.items, strict=True):
        if (found := unified(common, code.type) if common else code.type) is None:
            raise refused("the items of a list have one type", item.place)
        common = found
    runs = [_as(code, common).run if common else code.run for code in codes]
    if all(isinstance(item, Literal) for item in node.items):
        values = [run(Frame({})) for run in runs]
        return Code(ListOf(common), lambda _: values)
    return Code(
        ListOf(common),
        lambda frame: [run(frame) for run in runs],
        frozenset[Path]().union(*(code.used for code in codes)),
        cost=1 + sum(code.cost for code in codes),
    )


def _size(node: Call, of: Node, scope: Scope) -> Code:
    code = _compile(of, scope)
    if not isinstance(code.type, ListOf | MapOf) and code.type != STRING:
        raise refused(f"{code.type.label} has no size", node.place)
    return _applied(lambda _, value: len(value), [code], INT)


def _has(node: Call, scope: Scope) -> Code:
    if len(node.arguments) != 1 or not isinstance(node.arguments[0], Select):
        raise refused('`has` asks for one fact, as `has(candidate.run)`; of a map, write `"name" in …`', node.place)
    code = _compile(node.arguments[0], scope)
    inner = code.run

    def run(frame: Frame) -> bool:
        try:
            inner(frame)
        except Missing:
            return False
        return True

    return Code(BOOL, run, code.used, cost=code.cost + 1)


def _matches(node: Call, of: Node, scope: Scope) -> Code:
    """RE2: what it takes grows with the text alone, whatever the pattern."""
    code = _compile(of, scope)
    _expect(code, STRING, of, "`matches` is of strings, and this is of type {found}")
    pattern = node.arguments[0] if len(node.arguments) == 1 else None
    if not isinstance(pattern, Literal) or not isinstance(pattern.value, str):
        raise refused("`matches` takes a pattern in quotes", node.place)
    try:
        compiled = re2.compile(pattern.value, _PATTERN_OPTIONS)
    except (re2.error, UnicodeError) as error:
        why = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else error
        raise refused(f"this is no pattern of RE2: {why}", pattern.place) from None

    search, instructions = compiled.search, compiled.programsize

    def run(frame: Frame, text: str) -> bool:
        # At worst, each character is compared with each instruction of the pattern (measured: 0.6 ns).
        frame.spend(len(text) * instructions // _COMPARISONS_A_STEP)
        try:
            return bool(search(text) is not None)
        except UnicodeError:
            raise Fault("it is not UTF-8") from None

    return _applied(run, [code], BOOL)


def _macro(node: Call, of: Node, scope: Scope) -> Code:
    """``list.all(item, …)`` and its likes; of a map, over the names in it."""
    over = _compile(of, scope)
    if not isinstance(over.type, ListOf | MapOf):
        raise refused(f"`{node.name}` is of lists and maps, and this is of type {over.type.label}", node.place)
    if len(node.arguments) != 2 or not isinstance(node.arguments[0], Name):
        raise refused(f"write `{node.name}(item, …)`, with a name for the items", node.place)
    variable, body_node = node.arguments[0].name, node.arguments[1]
    if variable in scope or variable in FACTS.fields:
        raise refused(f"`{variable}` is taken; choose another name", node.arguments[0].place)
    item_type: Type = STRING if isinstance(over.type, MapOf) else over.type.of or STRING
    body = _compile(body_node, {**scope, variable: item_type})
    if node.name != "map":
        _expect(
            body, BOOL, body_node, f"`{node.name}` asks what is true or false of each, and this is of type {{found}}"
        )
    inner, each, cost = over.run, body.run, body.cost + 1

    def items(frame: Frame) -> Iterable[Any]:
        for value in inner(frame):
            frame.spend(cost)
            frame.names[variable] = item = typed(value, item_type, "an item")
            yield item

    run, result = _MACRO_RUNS[node.name](items, each, over.type, item_type, body.type)
    return Code(result, run, over.used | body.used, cost=over.cost + body.cost)


_Items = Callable[[Frame], Iterable[Any]]


def _decided(items: _Items, each: Run, decides: bool) -> Run:
    def run(frame: Frame) -> bool:
        fault = None
        for item in items(frame):
            try:
                if bool(each(frame)) is decides:
                    frame.witness = item
                    return decides
            except Fault as found:
                fault = fault or found
        if fault:
            raise fault
        return not decides

    return run


def _macro_all(items: _Items, each: Run, *_: Type) -> tuple[Run, Type]:
    return _decided(items, each, False), BOOL


def _macro_exists(items: _Items, each: Run, *_: Type) -> tuple[Run, Type]:
    return _decided(items, each, True), BOOL


def _macro_exists_one(items: _Items, each: Run, *_: Type) -> tuple[Run, Type]:
    return lambda frame: sum(each(frame) for _ in items(frame)) == 1, BOOL


def _macro_filter(items: _Items, each: Run, over: Type, item: Type, body: Type) -> tuple[Run, Type]:
    return lambda frame: [value for value in items(frame) if each(frame)], ListOf(item)


def _macro_map(items: _Items, each: Run, over: Type, item: Type, body: Type) -> tuple[Run, Type]:
    return lambda frame: [each(frame) for _ in items(frame)], ListOf(body)


_MACRO_RUNS: Mapping[str, Callable[..., tuple[Run, Type]]] = {
    "all": _macro_all,
    "exists": _macro_exists,
    "exists_one": _macro_exists_one,
    "filter": _macro_filter,
    "map": _macro_map,
}

_COMPILERS: Mapping[type[Node], Callable[[Any, Scope], Code]] = {
    Literal: _literal,
    Name: _name,
    Select: _selected,
    Index: _index,
    Call: _call,
    Prefixed: _prefixed,
    Binary: _binary,
    Joined: _joined,
    Choose: _choose,
    Items: _items,
}

__all__ = ["CompiledClause", "Path", "Refused", "compile_clauses", "path_text"]
