"""The tree digest of a version's files, as the gateway takes it (``app/domain/digests.py``)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def tree_digest(folder: Path) -> str:
    r"""One SHA-256 over every file: of the lines ``<sha256 of the content>  <path>\n``, sorted by path as UTF-8 bytes.

    Raises:
        FileNotFoundError: there is no file below ``folder``.
    """
    files = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    if not files:
        raise FileNotFoundError("there are no files")
    total = hashlib.sha256()
    for path, file in sorted((file.relative_to(folder).as_posix().encode(), file) for file in files):
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").hexdigest().encode() + b"  " + path + b"\n")
    return f"sha256:{total.hexdigest()}"
