r"""The tree digest: one SHA-256 over every file of a model version's artifacts.

The algorithm, so that anybody can check it: for each file, in the order of its path as UTF-8 bytes, the line
``<sha256 of the content in lower-case hex>  <path relative to the root, "/" between folders>\n``; the digest is
``sha256:`` and the SHA-256 of all lines together. On a local copy it is the same as::

    find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One file: ``path`` relative to the root, ``size`` in bytes, ``sha256`` in lower-case hex."""

    path: str
    size: int
    sha256: str


def tree_digest(files: Iterable[FileDigest]) -> str:
    """The digest of a tree, as ``sha256:<hex>``, whatever the order of ``files``."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path.encode()):
        total.update(f"{file.sha256}  {file.path}\n".encode())
    return f"sha256:{total.hexdigest()}"
