"""Passage through private folders for the one user PostgreSQL runs as when `up` runs as root.

PostgreSQL refuses to run as root, and the user it runs as cannot enter a folder such as ``/root``. Opening the folder
to everybody would be wrong. A POSIX access control entry lets that one user pass (not list, not read) and nobody else.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path

from app.domain.errors import InvalidConfiguration

_ATTRIBUTE = "system.posix_acl_access"
_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_NOBODY = 0xFFFFFFFF
_OWNER, _USER, _GROUP_OWNER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_PASS = 0x01

Entries = dict[tuple[int, int], int]
"""(tag, user or group number) to permission bits, as in ``acl(5)``."""


def open_passage(path: Path, user: int) -> list[Path]:
    """Let ``user`` pass through each folder above ``path``; the folders that had to be changed.

    Raises:
        InvalidConfiguration: the file system has no access control lists.
    """
    changed = []
    for folder in path.parents:
        status = folder.stat()
        if status.st_mode & stat.S_IXOTH or status.st_uid == user:
            continue
        entries = _read(folder, status.st_mode)
        if may_pass(entries, user):
            continue
        _write(folder, admit(entries, user))
        changed.append(folder)
    return changed


def may_pass(entries: Entries, user: int) -> bool:
    """Whether ``user`` has an entry to pass that the mask leaves in force: ``chmod`` on the folder sets the mask."""
    return bool(entries.get((_USER, user), 0) & entries.get((_MASK, _NOBODY), 0) & _PASS)


def admit(entries: Entries, user: int) -> Entries:
    """``entries`` with permission to pass for ``user``, and a mask that lets every entry have what it had."""
    admitted = {**entries, (_USER, user): entries.get((_USER, user), 0) | _PASS}
    mask = entries.get((_MASK, _NOBODY), entries[(_GROUP_OWNER, _NOBODY)])
    admitted[(_MASK, _NOBODY)] = mask | _PASS
    return admitted


def _read(folder: Path, mode: int) -> Entries:
    try:
        return decode(os.getxattr(folder, _ATTRIBUTE))
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
    return {
        (_OWNER, _NOBODY): mode >> 6 & 7,
        (_GROUP_OWNER, _NOBODY): mode >> 3 & 7,
        (_OTHERS, _NOBODY): mode & 7,
    }


def _write(folder: Path, entries: Entries) -> None:
    try:
        os.setxattr(folder, _ATTRIBUTE, encode(entries))
    except OSError:
        raise InvalidConfiguration(
            f"PostgreSQL does not run as root, and the user it runs as cannot pass through {folder}; "
            f"run `countersign up` as another user, or allow it with: chmod o+x {folder}"
        ) from None


def encode(entries: Entries) -> bytes:
    """The form in which Linux keeps an access control list: a version, then entries in order of tag and number."""
    body = b"".join(_ENTRY.pack(tag, bits, number) for (tag, number), bits in sorted(entries.items()))
    return _HEADER.pack(_VERSION) + body


def decode(raw: bytes) -> Entries:
    """The reverse of :func:`encode`."""
    return {(tag, number): bits for tag, bits, number in _ENTRY.iter_unpack(raw[_HEADER.size :])}
