r"""The tree digest: one SHA-256 over every file of a model version's artifacts.

The algorithm, so that anybody can check it: for each file, in the order of its path as UTF-8 bytes, the line
``<sha256 of the content in lower-case hex>  <path relative to the root, "/" between folders>\n``; the digest is
``sha256:`` and the SHA-256 of all lines together. On a local copy it is the same as::

    find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum

A line end within a path would let two trees have the same lines, so such paths are refused (``check_path``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from app.domain.errors import NoArtifacts, Unresolvable

MOST_FILES = 50_000
"""Of one model version. Beyond it, nobody looks at what they approve, and every step takes minutes."""
_LONGEST_PATH = 1024
"""Bytes; what S3 allows a key to have."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file as a store lists it, unread.

    ``path`` is relative to the root, with ``/`` between folders; ``size`` is in bytes. ``stamp`` stays the same for as
    long as the file was not changed, as far as the store tells. ``sha256`` is lower-case hex, and there only if the
    store itself computed it over the whole content. ``is_immutable``: the stamp names bytes that can never change.
    """

    path: str
    size: int
    stamp: str
    sha256: str | None = None
    is_immutable: bool = False


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One file: ``path`` relative to the root, ``size`` in bytes, ``sha256`` in lower-case hex."""

    path: str
    size: int
    sha256: str

    @property
    def line(self) -> str:
        """What ``sha256sum`` prints for it, with the line end."""
        return f"{self.sha256}  {self.path}\n"


@dataclass(frozen=True, slots=True)
class Measured:
    """A tree that was digested. ``files`` are in the order of their paths; ``size`` is that of all, in bytes.

    ``listed`` is what the store said of the files that were read, where that is kept, by path.
    """

    digest: str
    files: tuple[FileDigest, ...]
    size: int
    listed: tuple[StoredFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """How far the digest of a promotion's artifacts is. ``read_bytes`` counts what need not be read as read."""

    promotion_id: str
    total_bytes: int
    read_bytes: int
    total_files: int
    done_files: int
    digest: str | None
    started_at: datetime
    updated_at: datetime

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return min(1.0, self.read_bytes / self.total_bytes) if self.total_bytes else float(self.digest is not None)


def check_path(path: str) -> str:
    r"""The path of a file in a tree, if every tool means the same by it.

    Raises:
        Unresolvable: it is empty or too long, leaves the root, is not UTF-8, or holds a control character or a
            backslash (which ``sha256sum`` escapes, and Windows takes for ``/``).
    """
    if any(segment in {"", ".", ".."} for segment in path.split("/")):
        raise Unresolvable(f"{path!r} is not a plain path of an artifact.")
    if "\\" in path or any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in path):
        raise Unresolvable(f"{path!r} has a backslash or a control character in its name; rename this artifact.")
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        raise Unresolvable(f"{path!r} is not UTF-8; rename this artifact.") from None
    if length > _LONGEST_PATH:
        raise Unresolvable(f"An artifact has a path of {length} bytes; at most {_LONGEST_PATH} are possible.")
    return path


def check_count(count: int, uri: str) -> None:
    """Raise ``Unresolvable`` when a tree has no files, or too many."""
    if count == 0:
        raise NoArtifacts(f"There are no artifacts at {uri}.")
    if count > MOST_FILES:
        raise Unresolvable(f"There are more than {MOST_FILES:,} files at {uri}; pack them into an archive.")


def tree_digest(files: Iterable[FileDigest]) -> str:
    """The digest of a tree, as ``sha256:<hex>``, whatever the order of ``files``."""
    total = hashlib.sha256()
    for file in in_order(files):
        total.update(file.line.encode())
    return f"sha256:{total.hexdigest()}"


def in_order(files: Iterable[FileDigest]) -> list[FileDigest]:
    """The order in which the digest takes them: of their paths as UTF-8 bytes."""
    return sorted(files, key=lambda file: file.path.encode())


def measured(files: Iterable[FileDigest]) -> Measured:
    """The whole tree, of all its files."""
    ordered = tuple(in_order(files))
    return Measured(tree_digest(ordered), ordered, sum(file.size for file in ordered))
