"""Documents as they were written: what they say, and where in a file each part of it is said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.errors import InvalidInput

Place = tuple[int, int]
"""Line and column, both from 1."""

_DEEPEST = 30
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")
_LAST_STEP = re.compile(r"(?:\.[^.\[\]]*|\[[0-9]+\])$")


@dataclass(frozen=True, slots=True)
class Source:
    """One document.

    ``places`` maps the path of each part, ``approvals[0].count``, to where it begins; the empty path is the document.
    """

    document: object
    file: str = ""
    places: Mapping[str, Place] = field(default_factory=dict, hash=False)

    def where(self, path: str) -> str:
        """``policies.yaml, line 12, column 5``: of the part, or of the nearest around it. Empty if it is in no file."""
        while path not in self.places and path:
            around = _LAST_STEP.sub("", path)
            path = around if around != path else ""
        if path not in self.places:
            return self.file
        line, column = self.places[path]
        return f"{self.file}, line {line}, column {column}"


def check_texts(document: object, path: str = "") -> None:
    """Refuse texts that no database holds and no screen shows: NUL, and halves of surrogate pairs.

    Raises:
        InvalidInput: with the path; or what is nested deeper than any document of ours.
    """
    if path.count(".") + path.count("[") > _DEEPEST:
        raise InvalidInput(path[:100], f"expected at most {_DEEPEST} levels")
    match document:
        case str():
            if _UNWRITABLE.search(document):
                raise InvalidInput(path[:200] or "document", "expected a text without NUL and other broken characters")
        case Mapping():
            for key, value in document.items():
                check_texts(str(key), path)
                check_texts(value, f"{path}.{key}".lstrip("."))
        case list():
            for index, item in enumerate(document):
                check_texts(item, f"{path}[{index}]")
