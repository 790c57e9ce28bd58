"""CEL text to lark's tree, for the checker alone: the library reads the text again, and evaluates it. Bounded."""

from __future__ import annotations

from functools import cache

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

LONGEST = 2000
"""Characters of an expression."""
HIGHEST = 60
"""Parts of an expression within each other, parentheses too. The library refuses more than 95 parentheses."""

# https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax, without bytes, unsigned integers, null, maps and
# messages: no fact is one. What the library would read and this does not is refused.
_GRAMMAR = r"""
?start: choice
?choice: any_of | any_of "?" any_of ":" choice -> choose
?any_of: all_of | all_of ("||" all_of)+ -> either
?all_of: relation | relation ("&&" relation)+ -> both
?relation: sum | relation (LT | LE | GE | GT | EQ | NE | IN) sum -> binary
?sum: product | sum (PLUS | MINUS) product -> binary
?product: unary | product (TIMES | OVER | MODULO) unary -> binary
?unary: member | (NOT | MINUS) unary -> prefixed
?member: primary
    | member "." NAME -> select
    | member "." NAME "(" arguments ")" -> method
    | member "[" choice "]" -> index
?primary: NAME -> name
    | NAME "(" arguments ")" -> call
    | "(" choice ")" -> group
    | "[" [choice ("," choice)* [","]] "]" -> items
    | (INT | FLOAT | STRING | TRUE | FALSE) -> literal
arguments: [choice ("," choice)*]

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
FLOAT.2: /[0-9]+\.[0-9]+([eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+([eE][+-]?[0-9]+)?/
INT: /0x[0-9a-fA-F]+|[0-9]+/
STRING: /[rR]?("(?!"")(\\.|[^"\\\n\r])*"|'(?!'')(\\.|[^'\\\n\r])*')/
%ignore /[\t\n\f\r ]+/
%ignore /\/\/[^\n]*/
"""

_HINTS = {
    "=": "; to compare, write `==`",
    "&": "; write `&&`",
    "|": "; write `||`",
    '"': '; this text does not end on its line (`"""` is not supported)',
    "'": "; this text does not end on its line (`'''` is not supported)",
    "{": "; maps and messages are not supported",
}

Node = Tree[Token]


class Refused(Exception):
    """An expression that is none; ``str()`` says where, counted from 1 as people count, and why."""

    def __init__(self, why: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {why}")


def refused(why: str, at: Node | Token) -> Refused:
    place = at.meta if isinstance(at, Tree) else at
    return Refused(why, place.line or 1, place.column or 1)


def parse(text: str) -> Node:
    """The tree of an expression. Raises ``Refused``."""
    if len(text) > LONGEST:
        raise Refused(f"an expression has at most {LONGEST:,} characters, this one {len(text):,}", 1, 1)
    if not text.strip():
        raise Refused("expected an expression", 1, 1)
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        raise _explained(error, text) from None
    heights: dict[int, int] = {}
    for part in tree.iter_subtrees():  # the inner before the outer, without recursion
        heights[id(part)] = height = 1 + max((heights.get(id(child), 0) for child in part.children), default=0)
        if height > HIGHEST:
            raise refused(f"more than {HIGHEST} parts are within each other", part)
    return tree


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
        return Refused(f"did not expect {_shown(character)} here{_HINTS.get(character, '')}", line, column)
    return Refused("this is no CEL expression", line, column)


def _shown(text: str) -> str:
    return f"`{text[:40]}`" if text.isprintable() else ascii(text[:40])
