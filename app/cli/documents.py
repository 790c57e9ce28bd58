"""The files that people write: YAML, with the line of whatever is wrong in it."""

from __future__ import annotations

from pathlib import Path

import yaml

from app.adapters.strict_yaml import load_documents
from app.domain.errors import InvalidInput
from app.domain.sources import Source

LARGEST = 1024 * 1024
"""Bytes of one file: as much as the API takes."""


_HINTS = (
    ("<block end>", "look at the indentation"),
    ("mapping values are not allowed", "look at the indentation, and at quotes round a text that has `: ` in it"),
    ("expected alphabetic or numeric", "what begins with * or & needs quotes"),
    ("expected ' '", "what begins with ! needs quotes"),
    ("could not determine a constructor", "what begins with ! needs quotes"),
    ("cannot start any token", "what begins with @, ` or % needs quotes, and lines begin with spaces, not tabs"),
)
"""What people have done, as a rule, where PyYAML says so."""


def read_documents(file: Path) -> list[Source]:
    """The documents of a file; empty ones are left out.

    Raises:
        InvalidInput: it cannot be read, is too large, or is no YAML; with the line.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise InvalidInput("--file", f"{file} is larger than 1 MiB; write several files")
        return load_documents(content.decode(), file=str(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InvalidInput("--file", f"{file} cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        place = f", line {where.line + 1}, column {where.column + 1}" if where else ""
        said = str(getattr(error, "problem", None) or error)
        hint = next((f" ({hint})" for sign, hint in _HINTS if sign in said), "")
        raise InvalidInput(f"{file}{place}", f"expected YAML: {said}{hint}") from None
