"""Artifacts in a local folder. No symbolic link is followed below it, and nothing but regular files is opened."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.adapters.object_store.reading import Read, Stop, Stopped, changed
from app.domain.digests import FileDigest, StoredFile, check_count, check_path
from app.domain.errors import TooLarge, Unresolvable

_PIECE = 1024 * 1024
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe that took a file's place would be waited for


class LocalFolders:
    """See ``Store``. Hashing leaves Python's lock, so as many files as there are cores are read at once."""

    def __init__(self) -> None:
        self.threads = min(8, os.cpu_count() or 1)

    def stored(self, uri: str, stop: Stop) -> list[StoredFile]:
        root = _root(uri)
        found: list[StoredFile] = []
        with _failures(uri):
            for path, entry in _walk(root, ""):
                found.append(_listed(check_path(path), entry, uri))
                if stop.is_set():
                    raise Stopped
                check_count(len(found), uri)
        check_count(len(found), uri)
        return found

    @contextmanager
    def reading(self, uri: str, progress: Callable[[int], None]) -> Iterator[Read]:
        root = _root(uri)

        def read(file: StoredFile, stop: Stop) -> FileDigest:
            with _failures(uri, file.path), _opened(root, file.path) as opened:
                return _digest(opened, file, stop, progress)

        yield read

    def read(self, uri: str, path: str, limit: int, stop: Stop) -> bytes:  # noqa: ARG002  # it is small
        with _failures(uri, path), _opened(_root(uri), path) as opened:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise Unresolvable(f"{path} in {uri} is not a regular file.")
            pieces = b""
            while len(pieces) <= limit and (piece := os.read(opened, limit + 1 - len(pieces))):
                pieces += piece
        if len(pieces) > limit:
            raise TooLarge(path, f"expected at most {limit} bytes")
        return pieces

    def start(self, uri: str, file: StoredFile, length: int, stop: Stop) -> bytes:  # noqa: ARG002  # it is small
        with _failures(uri, file.path), _opened(_root(uri), file.path) as opened:
            content = os.read(opened, length)
            if _stamp(os.fstat(opened)) != file.stamp:
                raise changed(file.path)
        return content


def _root(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder that is not a folder itself, with its path."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, f"{path}/")
            else:
                yield path, entry


def _listed(path: str, entry: os.DirEntry[str], uri: str) -> StoredFile:
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        raise Unresolvable(f"{path} in {uri} is a symbolic link.")
    if not stat.S_ISREG(status.st_mode):
        raise Unresolvable(f"{path} in {uri} is not a regular file.")
    return StoredFile(path=path, size=status.st_size, stamp=_stamp(status))


def _stamp(status: os.stat_result) -> str:
    """Changes with the file: nobody but root sets the time of the last change of an inode."""
    return f"{status.st_ino}/{status.st_size}/{status.st_mtime_ns}/{status.st_ctime_ns}"


def _digest(opened: int, file: StoredFile, stop: Stop, progress: Callable[[int], None]) -> FileDigest:
    if _stamp(os.fstat(opened)) != file.stamp:
        raise changed(file.path)
    if sys.platform == "linux":
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    hashed, buffer = hashlib.sha256(), memoryview(bytearray(max(1, min(file.size, _PIECE))))
    while length := os.readv(opened, [buffer]):
        hashed.update(buffer[:length])
        progress(length)
        if stop.is_set():
            raise Stopped
    if _stamp(os.fstat(opened)) != file.stamp:
        raise changed(file.path)
    return FileDigest(path=file.path, size=file.size, sha256=hashed.hexdigest())


@contextmanager
def _opened(root: Path, path: str) -> Iterator[int]:
    """A file below the root, opened folder by folder, so that no link on the way is followed."""
    *folders, name = path.split("/")
    at = os.open(root, _FOLDER)
    try:
        for folder in folders:
            inner = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        opened = os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)
    try:
        yield opened
    finally:
        os.close(opened)


@contextmanager
def _failures(uri: str, path: str = "") -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Unresolvable(f"There is no {path} at {uri}." if path else f"There are no artifacts at {uri}.") from None
    except OSError as error:
        if path and error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise Unresolvable(f"{path} in {uri} is a symbolic link, or lies behind one.") from None
        raise Unresolvable(f"{path or 'Artifacts'} at {uri} cannot be read: {error.strerror}.") from None
