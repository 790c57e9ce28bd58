"""The tree digest of a local folder, as the gateway takes it of a version's artifacts.

For each file, in the order of its path as UTF-8 bytes, the line ``<sha256 in hex>  <path>``; the digest is the SHA-256
of all lines. What the gateway would refuse to digest is refused here too.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from countersign_client.errors import InvalidUsage

_PIECE = 1024 * 1024
_NOT_IN_NAMES = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\\\\\ud800-\\udfff" + (":" if os.name == "nt" else "") + "]")
"""Control characters, backslashes, halves of letters; and where a colon names a drive, that."""


def digest_of(folder: Path) -> str:
    """``sha256:`` and 64 hexadecimal digits.

    Raises:
        InvalidUsage: there are no files, or one that is no regular file, or has a name that could be read in two ways.
    """
    try:
        files = {path: _sha256(folder / path) for path in sorted(_files(folder, ""))}
        digest = tree_digest(files)
    except UnicodeEncodeError:
        raise InvalidUsage(f"{folder} has a file whose name is not UTF-8.") from None
    except OSError as error:
        raise InvalidUsage(f"{folder} cannot be read: {error.strerror}.") from None
    if not files:
        raise InvalidUsage(f"There are no files in {folder}.")
    return digest


def tree_digest(files: Mapping[str, str]) -> str:
    """The digest of a tree, by the SHA-256 of each file. Raises ``UnicodeEncodeError``: a path is not UTF-8."""
    total = hashlib.sha256()
    for raw, sha256 in sorted((path.encode(), sha256) for path, sha256 in files.items()):
        total.update(sha256.encode() + b"  " + raw + b"\n")
    return f"sha256:{total.hexdigest()}"


def is_plain(path: str) -> bool:
    """Whether a path stays below its folder, on every system, and can be read in one way alone."""
    return not _NOT_IN_NAMES.search(path) and not {"", ".", ".."}.intersection(path.split("/"))


def _files(folder: Path, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _files(folder / entry.name, f"{path}/")
            elif not entry.is_file(follow_symlinks=False):
                raise InvalidUsage(f"{path!r} is not a regular file.")
            elif "\\" in path or any(ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0 for letter in path):
                raise InvalidUsage(f"{path!r} has a backslash or a control character in its name.")
            else:
                yield path


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()
