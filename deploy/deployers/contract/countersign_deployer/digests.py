"""The tree digest of a version's files, as the gateway takes it (``app/domain/digests.py``)."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


class IrregularFile(OSError):
    """Something below a folder is a link, or no plain file: its content is in no digest that the gateway takes."""


def tree_digest(folder: Path) -> str:
    r"""One SHA-256 over every file: of the lines ``<sha256 of the content>  <path>\n``, sorted by path as UTF-8 bytes.

    Raises:
        FileNotFoundError: there is no file below ``folder``.
        IrregularFile: there is something else than plain files.
        OSError: it cannot be read.
    """
    total = hashlib.sha256()
    for path, file in sorted((path.as_posix().encode(), folder / path) for path in _files(folder)):
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").hexdigest().encode() + b"  " + path + b"\n")
    return f"sha256:{total.hexdigest()}"


def _files(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, onerror=_give_up):
        for each in (Path(parent, name) for name in (*folders, *names)):
            mode, path = each.lstat().st_mode, each.relative_to(folder)
            if stat.S_ISREG(mode) and "\n" not in str(path):
                found.append(path)
            elif not stat.S_ISDIR(mode):
                raise IrregularFile(f"{str(path)!r} is {_oddity(mode)}")
    if not found:
        raise FileNotFoundError("there are no files")
    return found


def _oddity(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    # With a line end in a path, another tree would have the same lines.
    return "a path of two lines" if stat.S_ISREG(mode) else "no regular file"


def _give_up(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):  # what is not there has no files
        raise error
