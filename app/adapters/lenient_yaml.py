"""Reads YAML that anybody may have written, such as the ``MLmodel`` of a model: what is none is nothing."""

from __future__ import annotations

import yaml


def load_or_nothing(text: bytes) -> object:
    """The one document of a text, every value in it a text; none for what is not YAML, in whatever way.

    Nothing is merged and no value interpreted, so that a document is not larger than its text. Takes up to four seconds
    for a megabyte, as libyaml's own loader, which is quicker, ends the process on a text that is nested deeply (PyYAML
    6.0.3).
    """
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  # safer than safe: makes texts, lists and maps alone
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
