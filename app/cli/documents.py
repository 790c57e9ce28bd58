"""The YAML that people write and are shown: YAML 1.2, in which ``on`` is a word and a key is there once."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path

import yaml

from app.domain.errors import InvalidInput

_BOOLEAN = "tag:yaml.org,2002:bool"


class _Reader(yaml.SafeLoader):
    """As PyYAML's, which takes ``on`` for true, but for what YAML 1.2 changed (section 10.3.2)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:  # PyYAML's own
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} twice", key_node.start_mark)
            seen.add(key if isinstance(key, Hashable) else None)
        return super().construct_mapping(node, deep=deep)


class _Writer(yaml.SafeDumper):
    """Quotes what ``_Reader`` would take for something else, and nothing more."""


for _kind in (_Reader, _Writer):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def read_documents(file: Path) -> list[object]:
    """The documents of a file; empty ones are left out.

    Raises:
        InvalidInput: it cannot be read, or is no YAML; with the line.
    """
    try:
        text = file.read_text(encoding="utf-8")
        return [document for document in yaml.load_all(text, _Reader) if document is not None]  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InvalidInput("--file", f"{file} cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise InvalidInput(f"{file}{line}", f"expected YAML: {getattr(error, 'problem', error)}") from None


def written(document: Mapping[str, object]) -> str:
    """A document as people write it."""
    return yaml.dump(dict(document), Dumper=_Writer, sort_keys=False, allow_unicode=True)
