"""``countersign://`` addresses: one version of one model, by its number and nothing that moves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from countersign_client.errors import InvalidUsage

SCHEME = "countersign://"
_VERSION = re.compile(r"[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Address:
    """``countersign://name/version``, or ``countersign://workspace/name/version``."""

    model: str
    version: str
    workspace: str | None = None

    @property
    def uri(self) -> str:
        """As MLflow and the gateway write it."""
        return f"models:/{quote(self.model, safe='')}/{self.version}"

    def __str__(self) -> str:
        parts = [self.workspace, self.model, self.version] if self.workspace else [self.model, self.version]
        return SCHEME + "/".join(quote(part, safe="") for part in parts)


def parse(text: str) -> Address:
    """Read an address.

    An alias or a stage is refused: it moves, so that a pod that starts later would serve another version beside the
    first ones, and nothing would say so.

    Raises:
        InvalidUsage: it names no one version.
    """
    if not text.startswith(SCHEME):
        raise InvalidUsage(f"{text!r} does not begin with {SCHEME}.")
    parts = [unquote(part) for part in text.removeprefix(SCHEME).removesuffix("/").split("/")]
    if "@" in parts[-1]:
        raise InvalidUsage(f"{text} names an alias, which moves. Name the version: {SCHEME}name/7.")
    if len(parts) not in {2, 3} or not all(parts) or not _VERSION.fullmatch(parts[-1]):
        raise InvalidUsage(f"{text!r} names no version. It must be {SCHEME}name/7 or {SCHEME}workspace/name/7.")
    return Address(parts[-2], parts[-1], parts[0] if len(parts) == 3 else None)
