"""The query of a gate: what stands in it for the model, and how that becomes a part of a PromQL text.

A placeholder such as ``{{candidate_name}}`` stands inside the quotes of a label's value and nowhere else. What is put
there is escaped for the quotes, and for the regular expression where there is one: names are chosen by whoever
registers models, and may hold quotes, braces and backslashes. They can neither end the text nor match more than
themselves.

Sources: ``promql/parser/lex.go`` and ``util/strutil/quote.go`` of Prometheus for the quotes, ``regexp.QuoteMeta`` of Go
for what is special in RE2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.domain.errors import InvalidInput

LONGEST_QUERY = 4_000
MOST_NESTED = 50
MOST_OPERATORS = 200
"""Readers of PromQL, ours and Prometheus', are recursive: what is nested without end takes their stack."""

PLACEHOLDERS: Mapping[str, str] = {
    "model": "the registered model's name",
    "workspace": "its workspace in MLflow",
    "target": "the target's name",
    "candidate": "the version that is rolled out",
    "stable": "the version that gets the rest of the requests",
    "candidate_name": "what the target's own metrics call the candidate, as its deployer reports",
    "stable_name": "what the target's own metrics call the stable version",
}
OF_STABLE = frozenset({"stable", "stable_name"})
"""Where there is no stable version, there is nothing to compare with: a gate that names it is not asked."""

_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z0-9_]{1,40})\s*\}\}")
_TOKEN = re.compile(
    r"""
      (?P<comment>\#[^\n]*)
    | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)
    | (?P<open>["'`])
    | (?P<double>\{\{)
    | (?P<space>\s+)
    | (?P<code>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_EXPECTED = 'expected it inside a quoted value of a label, as in {{model="{{{{{name}}}}}"}}'


@dataclass(frozen=True, slots=True)
class _Place:
    """A placeholder and where it stands. ``quote`` is that of the text around it."""

    name: str
    start: int
    end: int
    quote: str
    is_regex: bool


def check_query(where: str, query: str) -> str:
    """The query, if every placeholder in it is known and stands where it can.

    Raises:
        InvalidInput: names ``where``.
    """
    if len(query) > LONGEST_QUERY:
        raise InvalidInput(where, f"expected at most {LONGEST_QUERY} characters")
    list(_places(where, query))
    _check_nesting(where, query)
    return query


def placeholders_of(query: str) -> frozenset[str]:
    return frozenset(place.name for place in _places("query", query))


def fill(query: str, values: Mapping[str, str]) -> str:
    """The PromQL text.

    Raises:
        InvalidInput: there is no value, or an empty one, of a placeholder. An empty one would match series that do not
            have the label at all, and so measure something else.
    """
    filled, position = [], 0
    for place in _places("query", query):
        value = values.get(place.name, "")
        if not value:
            raise InvalidInput("query", f"it is not known what {{{{{place.name}}}}} is: {PLACEHOLDERS[place.name]}")
        filled += [query[position : place.start], _escaped(value, place)]
        position = place.end
    return "".join([*filled, query[position:]])


def values_of(
    *, model: str, workspace: str, target: str, candidate: str, stable: str, names: Mapping[str, str]
) -> Mapping[str, str]:
    """What stands for each placeholder. ``names``: what the target's metrics call each version that it serves.

    Where there is no stable version it is empty.
    """
    return {
        "model": model,
        "workspace": workspace,
        "target": target,
        "candidate": candidate,
        "stable": stable,
        "candidate_name": names.get(candidate, ""),
        "stable_name": names.get(stable, "") if stable else "",
    }


def sample_of(query: str) -> str:
    """The query with something for each placeholder: what can be read of it before there is a rollout."""
    return fill(query, dict.fromkeys(PLACEHOLDERS, "sample"))


def _places(where: str, query: str) -> Iterator[_Place]:
    before, depth = "", 0
    for token in _TOKEN.finditer(query):
        text = token.group()
        match token.lastgroup:
            case "text":
                is_value = depth > 0 and before.endswith(("=", "=~", "!~"))
                yield from _inside(where, token, is_value=is_value, is_regex=before.endswith("~"))
                before += text[0]
            case "open":
                raise InvalidInput(where, "expected each quote to be closed on the same line")
            case "double":
                name = _PLACEHOLDER.match(query, token.start())
                raise InvalidInput(where, _misplaced(name[1] if name else "model", text))
            case "code":
                depth += (text == "{") - (text == "}")
                before += text


def _check_nesting(where: str, query: str) -> None:
    depth = operators = 0
    for token in _TOKEN.finditer(query):
        if token.lastgroup == "code":
            depth += (token.group() in "([") - (token.group() in ")]")
            operators += token.group() in "+-*/%^<>=!"
        if depth > MOST_NESTED or operators > MOST_OPERATORS:
            raise InvalidInput(where, f"expected at most {MOST_NESTED} nested brackets and {MOST_OPERATORS} operators")


def _inside(where: str, token: re.Match[str], *, is_value: bool, is_regex: bool) -> Iterator[_Place]:
    """The placeholders of one quoted text."""
    text, position = token.group(), 0
    while (start := text.find("{{", position)) >= 0:
        found = _PLACEHOLDER.match(text, start)
        if found is None or found[1] not in PLACEHOLDERS:
            name = found[1] if found else text[start : start + 20]
            raise InvalidInput(where, f"unknown placeholder {name}; expected one of {', '.join(PLACEHOLDERS)}")
        if not is_value or text[0] == "`":
            raise InvalidInput(where, _misplaced(found[1], text[0]))
        so_far = text[1:start]
        if so_far.endswith("\\") or (is_regex and (_is_in_brackets(so_far) or "\\\\Q" in so_far)):
            reason = "expected no backslash before it, and none of `[` and `\\Q` around it: it stands for itself"
            raise InvalidInput(where, f"{{{{{found[1]}}}}}: {reason}")
        yield _Place(found[1], token.start() + start, token.start() + found.end(), text[0], is_regex)
        position = found.end()


def _misplaced(name: str, quote: str) -> str:
    other = "; in single or double quotes" if quote == "`" else ""
    return f"{{{{{name}}}}}: {_EXPECTED.format(name=name)}{other}"


def _is_in_brackets(regex: str) -> bool:
    """Whether a set of characters was begun and not ended. The text is as written: a backslash is there twice."""
    plain = re.sub(r"\\\\\\\\|\\\\.", "", regex)
    plain = re.sub(r"\[\^?\]", "[", plain)  # there, `]` is the first of the set
    return plain.rfind("[") > plain.rfind("]")


def _escaped(value: str, place: _Place) -> str:
    if place.is_regex:
        # In a group, what is around it (a quantifier, a code such as \\x4) takes no part of it for its own.
        value = f"(?:{_SPECIAL.sub(lambda found: chr(92) + found.group(), value)})"
    return "".join(_in_quotes(character, place.quote) for character in value)


def _in_quotes(character: str, quote: str) -> str:
    if character in ("\\", quote):
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    if 0xD800 <= code < 0xE000:  # half a pair, which is no character
        return "\ufffd"
    return f"\\U{code:08x}"
