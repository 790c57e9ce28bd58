"""Reads YAML in which no name is there twice: of two rules with one name, one would silently be none."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


def load(text: str) -> object:
    """The one document of a text.

    Raises:
        yaml.YAMLError: it is no YAML, or a name is there twice; says where.
    """
    return yaml.load(text, Loader=_Strict)  # noqa: S506  # a SafeLoader


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)
