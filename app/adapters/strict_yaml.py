"""Reads YAML in which no name is there twice: of two rules with one name, one would silently be none.

Nothing but plain data is made of it, and what anchors and nesting make of a small text has a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import yaml

from app.domain.sources import Place, Source

MOST_PARTS = 20_000
"""Keys and items of one document, counted wherever an anchor repeats them."""
DEEPEST = 50

_BOOLEAN = "tag:yaml.org,2002:bool"


def load(text: str) -> object:
    """The one document of a text, as YAML 1.1.

    Raises:
        yaml.YAMLError: it is no YAML, or a name is there twice; says where.
    """
    return yaml.load(text, Loader=_Strict)  # noqa: S506  # a SafeLoader


def load_documents(text: str, *, file: str) -> list[Source]:
    """The documents of a text, as YAML 1.2, in which ``on`` is a word; empty ones are left out.

    Raises:
        yaml.YAMLError: it is no YAML, a name is there twice, or it is too much; says where.
    """
    try:
        return list(_sources(text, file))
    except RecursionError:
        raise yaml.YAMLError(f"it is nested deeper than {DEEPEST} levels") from None


def written(document: Mapping[str, object]) -> str:
    """A document as people write it; ``load_documents`` reads it back."""
    return yaml.dump(dict(document), Dumper=_Writer, sort_keys=False, allow_unicode=True, width=_UNBROKEN)


class _Strict(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: dict[object, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
            seen.add(name)
        return node


class _Reader(_Strict):
    """As PyYAML's, which takes ``on`` for true, but for what YAML 1.2 changed (section 10.3.2)."""


class _Writer(yaml.SafeDumper):
    """Quotes what ``_Reader`` would take for something else, and nothing more. Lines stay lines, as in a query."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # PyYAML's own
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        if not _OTHER_LINE_ENDS.isdisjoint(data):
            style = '"'  # else they are read back as others
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_OTHER_LINE_ENDS = frozenset("\r\x85\u2028\u2029")
_UNBROKEN = 1_000_000
"""Characters of a line: more than any that is read has."""
_Writer.add_representer(str, _Writer.text)

for _kind in (_Reader, _Writer):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def _sources(text: str, file: str) -> Iterator[Source]:
    loader = _Reader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # there is one
            # Before anything is made of it: an anchor in itself would be followed for ever.
            _check_size(node)
            document = loader.construct_document(node)
            if document is not None:
                yield Source(document, file, dict(_places(node, "", _mark(node))))
    finally:
        loader.dispose()


def _check_size(root: yaml.Node) -> None:
    parts, waiting = 0, [(root, 1)]
    while waiting:
        node, depth = waiting.pop()
        parts += 1
        if depth > DEEPEST or parts > MOST_PARTS:
            expected = f"nested deeper than {DEEPEST} levels" if depth > DEEPEST else f"more than {MOST_PARTS:,} parts"
            raise yaml.constructor.ConstructorError(None, None, f"it is {expected}", node.start_mark)
        if isinstance(node, yaml.MappingNode):
            waiting += [(each, depth + 1) for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(each, depth + 1) for each in node.value]


def _places(node: yaml.Node, path: str, place: Place) -> Iterator[tuple[str, Place]]:
    """Where each part is: keys where the key begins, items where the item does. Merged keys (``<<``) are resolved."""
    yield path, place
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield from _places(value, f"{path}.{key.value}".lstrip("."), _mark(key))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _places(item, f"{path}[{index}]", _mark(item))


def _mark(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1
