"""CEL text to a tree, with the place of every part. Bounded: nothing recurses here, and no tree is too high."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from lark import Lark, Token, Transformer_NonRecursive, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken, VisitError
from lark.tree import Meta

from app.domain.facts import Scalar

LONGEST = 2000
"""Characters of an expression."""
HIGHEST = 60
"""Parts of an expression within each other. What walks a tree recurses this deep at most."""

# https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax, without bytes, unsigned integers, null, maps and
# messages: no fact is one.
_GRAMMAR = r"""
?start: choice
?choice: any_of | any_of "?" any_of ":" choice -> choose
?any_of: all_of | any_of "||" all_of -> either
?all_of: relation | all_of "&&" relation -> both
?relation: sum | relation (LT | LE | GE | GT | EQ | NE | IN) sum -> binary
?sum: product | sum (PLUS | MINUS) product -> binary
?product: unary | product (TIMES | OVER | MODULO) unary -> binary
?unary: member | (NOT | MINUS) unary -> prefixed
?member: primary
    | member "." NAME -> select
    | member "." NAME "(" [arguments] ")" -> method
    | member "[" choice "]" -> index
?primary: NAME -> name
    | NAME "(" [arguments] ")" -> call
    | "(" choice ")" -> group
    | "[" [arguments [","]] "]" -> items
    | (INT | HEX) -> whole
    | FLOAT -> fraction
    | STRING -> text
    | TRUE -> yes
    | FALSE -> no
arguments: choice ("," choice)*

LT: "<"
LE: "<="
GE: ">="
GT: ">"
EQ: "=="
NE: "!="
IN: "in"
PLUS: "+"
MINUS: "-"
TIMES: "*"
OVER: "/"
MODULO: "%"
NOT: "!"
TRUE: "true"
FALSE: "false"
NAME: /[_a-zA-Z][_a-zA-Z0-9]*/
HEX.3: /0x[0-9a-fA-F]+/
FLOAT.2: /[0-9]+\.[0-9]+([eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+([eE][+-]?[0-9]+)?/
INT: /[0-9]+/
STRING: /[rR]?("(?!"")(\\.|[^"\\\n\r])*"|'(?!'')(\\.|[^'\\\n\r])*')/
%ignore /[\t\n\f\r ]+/
%ignore /\/\/[^\n]*/
"""

_RESERVED = frozenset(
    {"as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "namespace"}
    | {"package", "return", "var", "void", "while"}
)
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\?\"'`])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.))"
)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_MOST_WHOLE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part stands: offsets into the text, and line and column as people count, from 1."""

    start: int
    end: int
    line: int
    column: int


class Refused(Exception):
    """An expression that is none; ``str()`` says why, ``line`` and ``column`` where."""

    def __init__(self, why: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {why}")


def refused(why: str, place: Place) -> Refused:
    return Refused(why, place.line, place.column)


@dataclass(frozen=True, slots=True)
class Node:
    """A part. ``height`` counts the parts within each other, itself included."""

    place: Place
    height: int


@dataclass(frozen=True, slots=True)
class Literal(Node):
    value: bool | int | float | str
    type: Scalar


@dataclass(frozen=True, slots=True)
class Name(Node):
    name: str


@dataclass(frozen=True, slots=True)
class Select(Node):
    """``of.name``; ``at`` is where the name stands."""

    of: Node
    name: str
    at: Place


@dataclass(frozen=True, slots=True)
class Index(Node):
    """``of[key]``."""

    of: Node
    key: Node


@dataclass(frozen=True, slots=True)
class Call(Node):
    """``name(arguments)``, or ``of.name(arguments)``; ``at`` is where the name stands."""

    of: Node | None
    name: str
    arguments: tuple[Node, ...]
    at: Place


@dataclass(frozen=True, slots=True)
class Prefixed(Node):
    operator: str
    of: Node


@dataclass(frozen=True, slots=True)
class Binary(Node):
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Joined(Node):
    """``&&`` or ``||`` of two or more parts: a long row of them is not high."""

    operator: str
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choose(Node):
    condition: Node
    yes: Node
    no: Node


@dataclass(frozen=True, slots=True)
class Items(Node):
    """``[a, b]``."""

    items: tuple[Node, ...]


def parse(text: str) -> Node:
    """The tree of an expression. Raises ``Refused``."""
    if len(text) > LONGEST:
        raise Refused(f"an expression has at most {LONGEST:,} characters, this one {len(text):,}", 1, 1)
    if not text.strip():
        raise Refused("expected an expression", 1, 1)
    try:
        tree = _parser().parse(text)
        node: Node = _Builder().transform(tree)
    except VisitError as error:
        raise error.orig_exc from None
    except UnexpectedInput as error:
        raise _explained(error, text) from None
    return node


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", propagate_positions=True, maybe_placeholders=False)


def _explained(error: UnexpectedInput, text: str) -> Refused:
    line, column = error.line or 1, error.column or 1
    if isinstance(error, UnexpectedEOF) or (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        lines = text.rstrip().split("\n")
        return Refused("the expression ends too early", len(lines), len(lines[-1]) + 1)
    if isinstance(error, UnexpectedToken):
        if error.token.type == "STRING" and text[: error.token.start_pos or 0].endswith(("b", "B")):
            return Refused("bytes are not supported; no fact is one", line, column)
        return Refused(f"did not expect {_shown(str(error.token))} here", line, column)
    if isinstance(error, UnexpectedCharacters):
        position = error.pos_in_stream or 0
        character = text[position : position + 1]
        hints = {
            "=": "; to compare, write `==`",
            "&": "; write `&&`",
            "|": "; write `||`",
            '"': '; this text does not end on its line (`"""` is not supported)',
            "'": "; this text does not end on its line (`'''` is not supported)",
            "{": "; maps and messages are not supported",
        }
        return Refused(f"did not expect {_shown(character)} here{hints.get(character, '')}", line, column)
    return Refused("this is no CEL expression", line, column)


def _shown(text: str) -> str:
    return f"`{text[:40]}`" if text.isprintable() else ascii(text[:40])


def _placed(method: Callable[..., Node]) -> Callable[..., Node]:
    """Call with the place first, and refuse what became too high."""

    def build(self: _Builder, meta: Meta, children: list[Any]) -> Node:
        place = Place(meta.start_pos, meta.end_pos, meta.line, meta.column)
        flat = [each for child in children for each in (child if isinstance(child, tuple) else (child,))]
        height = 1 + max((each.height for each in flat if isinstance(each, Node)), default=0)
        if height > HIGHEST:
            raise refused(f"more than {HIGHEST} parts are within each other", place)
        return method(self, place, height, *children)

    return v_args(meta=True)(build)


class _Builder(Transformer_NonRecursive[Token, Any]):
    """A method for each alternative of the grammar."""

    def arguments(self, children: list[Node]) -> tuple[Node, ...]:
        return tuple(children)

    @_placed
    def choose(self, place: Place, height: int, condition: Node, yes: Node, no: Node) -> Node:
        return Choose(place, height, condition, yes, no)

    @_placed
    def either(self, place: Place, _: int, left: Node, right: Node) -> Node:
        return _joined("||", place, left, right)

    @_placed
    def both(self, place: Place, _: int, left: Node, right: Node) -> Node:
        return _joined("&&", place, left, right)

    @_placed
    def binary(self, place: Place, height: int, left: Node, operator: Token, right: Node) -> Node:
        return Binary(place, height, str(operator), left, right)

    @_placed
    def prefixed(self, place: Place, height: int, operator: Token, of: Node) -> Node:
        return Prefixed(place, height, str(operator), of)

    @_placed
    def select(self, place: Place, height: int, of: Node, name: Token) -> Node:
        return Select(place, height, of, str(name), _place_of(name))

    @_placed
    def method(self, place: Place, height: int, of: Node, name: Token, arguments: tuple[Node, ...] = ()) -> Node:
        return Call(place, height, of, str(name), arguments, _place_of(name))

    @_placed
    def index(self, place: Place, height: int, of: Node, key: Node) -> Node:
        return Index(place, height, of, key)

    @_placed
    def name(self, place: Place, height: int, name: Token) -> Node:
        if name == "null":
            raise refused("a fact is never null: it is absent, and `has(…)` says whether it is there", place)
        if name in _RESERVED:
            raise refused(f"`{name}` is a reserved word", place)
        return Name(place, height, str(name))

    @_placed
    def call(self, place: Place, height: int, name: Token, arguments: tuple[Node, ...] = ()) -> Node:
        return Call(place, height, None, str(name), arguments, _place_of(name))

    @_placed
    def group(self, place: Place, _: int, inner: Node) -> Node:
        return replace(inner, place=place)

    @_placed
    def items(self, place: Place, height: int, items: tuple[Node, ...] = ()) -> Node:
        return Items(place, height, items)

    @_placed
    def whole(self, place: Place, height: int, token: Token) -> Node:
        value = int(token, 16 if token.type == "HEX" else 10) if len(token) <= 20 else _MOST_WHOLE + 1
        if value > _MOST_WHOLE:
            raise refused("a whole number has at most 63 bits", place)
        return Literal(place, height, value, Scalar.INT)

    @_placed
    def fraction(self, place: Place, height: int, token: Token) -> Node:
        if (value := float(token)) == float("inf"):
            raise refused("this number is too large", place)
        return Literal(place, height, value, Scalar.DOUBLE)

    @_placed
    def text(self, place: Place, height: int, token: Token) -> Node:
        if token[0] in "rR":
            return Literal(place, height, token[2:-1], Scalar.STRING)
        return Literal(place, height, _ESCAPE.sub(lambda found: _unescaped(found, place), token[1:-1]), Scalar.STRING)

    @_placed
    def yes(self, place: Place, height: int, _: Token) -> Node:
        return Literal(place, height, True, Scalar.BOOL)

    @_placed
    def no(self, place: Place, height: int, _: Token) -> Node:
        return Literal(place, height, False, Scalar.BOOL)


def _place_of(token: Token) -> Place:
    return Place(token.start_pos or 0, token.end_pos or 0, token.line or 1, token.column or 1)


def _joined(operator: str, place: Place, left: Node, right: Node) -> Node:
    parts = tuple(
        part
        for side in (left, right)
        for part in (side.parts if isinstance(side, Joined) and side.operator == operator else (side,))
    )
    return Joined(place, 1 + max(part.height for part in parts), operator, parts)


def _unescaped(found: re.Match[str], place: Place) -> str:
    simple, two, four, eight, octal, other = found.groups()
    if simple:
        return _SIMPLE.get(simple, simple)
    code = int(octal, 8) if octal else int(two or four or eight or "110000", 16)
    if other or code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise refused(f'`{found.group()}` is no escape of CEL; for a pattern, write r"…"', place)
    return chr(code)
