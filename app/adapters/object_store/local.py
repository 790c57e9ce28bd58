"""Artifacts in a local folder. No symbolic link is followed below it, and nothing but regular files is opened.

Nor is any followed on the way to it from the artifacts destination: whoever may write there could make one of the two a
link to what the gateway alone may read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.adapters.object_store.reading import Read, Stop, Stopped, changed
from app.domain.digests import FileDigest, StoredFile, check_count, check_path
from app.domain.errors import ArtifactsUnreadable, NoArtifacts, TooLarge, Unresolvable

_PIECE = 1024 * 1024
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe that took a file's place would be waited for


class LocalFolders:
    """See ``Store``. Hashing leaves Python's lock, so as many files as there are cores are read at once.

    Args:
        destination: the folder below which no link is followed, a path or a ``file:///`` URI. How one comes there is
            the operator's.
    """

    def __init__(self, destination: str | None = None) -> None:
        self.threads = min(8, os.cpu_count() or 1)
        self._destination = _path_of(destination) if destination else None

    def stored(self, uri: str, stop: Stop) -> list[StoredFile]:
        root, found, waiting, folders = self._root(uri), list[StoredFile](), [""], 1
        with _failures(uri):
            while waiting:
                prefix = waiting.pop()
                with _opened_folder(root, prefix.split("/")[:-1]) as folder, os.scandir(folder) as entries:
                    for entry in entries:
                        if stop.is_set():
                            raise Stopped
                        # Of folders too: else a tree could be too deep, or too large, to be looked at.
                        path = check_path(f"{prefix}{entry.name}")
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(f"{path}/")
                            folders += 1
                        else:
                            found.append(_listed(path, entry, uri))
                        check_count(max(len(found), folders), uri)
        check_count(len(found), uri)
        return found

    def _root(self, uri: str) -> _Root:
        path, above = _path_of(uri), self._destination
        if above is None or not path.is_relative_to(above):
            return _Root(path)
        return _Root(above, path.relative_to(above).parts)

    @contextmanager
    def reading(self, uri: str, progress: Callable[[int], None]) -> Iterator[Read]:
        root = self._root(uri)

        def read(file: StoredFile, stop: Stop) -> FileDigest:
            with _failures(uri, file.path), _opened(root, file.path) as opened:
                return _digest(opened, file, stop, progress)

        yield read

    def read(self, uri: str, path: str, limit: int, stop: Stop) -> bytes:  # noqa: ARG002  # it is small
        with _failures(uri, path), _opened(self._root(uri), path) as opened:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise Unresolvable(f"{path} in {uri} is not a regular file.")
            pieces = b""
            while len(pieces) <= limit and (piece := os.read(opened, limit + 1 - len(pieces))):
                pieces += piece
        if len(pieces) > limit:
            raise TooLarge(path, f"expected at most {limit} bytes")
        return pieces

    def start(self, uri: str, file: StoredFile, length: int, stop: Stop) -> bytes:  # noqa: ARG002  # it is small
        with _failures(uri, file.path), _opened(self._root(uri), file.path) as opened:
            content = os.read(opened, length)
            if _stamp(os.fstat(opened)) != file.stamp:
                raise changed(file.path)
        return content

    def find(self, uri: str, path: str, stop: Stop) -> StoredFile:  # noqa: ARG002  # it is one question
        """One file as it is now, unread."""
        with _failures(uri, path), _opened(self._root(uri), path) as opened:
            status = os.fstat(opened)
            if not stat.S_ISREG(status.st_mode):
                raise Unresolvable(f"{path} in {uri} is not a regular file.")
            return StoredFile(path=path, size=status.st_size, stamp=_stamp(status))

    def pieces(self, uri: str, file: StoredFile, first: int, length: int) -> Generator[bytes]:
        """A part of a file that was found, piece by piece; to be closed."""
        with _failures(uri, file.path), _opened(self._root(uri), file.path) as opened:
            while length and (piece := os.pread(opened, min(length, _PIECE), first)):
                if _stamp(os.fstat(opened)) != file.stamp:
                    raise changed(file.path)
                yield piece
                first, length = first + len(piece), length - len(piece)


@dataclass(frozen=True, slots=True)
class _Root:
    """A folder that is given, and the folders from there to the artifacts."""

    given: Path
    folders: tuple[str, ...] = ()


def _path_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri)


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
    left = file.size
    while length := os.readv(opened, [buffer]):
        if (left := left - length) < 0:  # it grows, perhaps for ever
            raise changed(file.path)
        hashed.update(buffer[:length])
        progress(length)
        if stop.is_set():
            raise Stopped
    if _stamp(os.fstat(opened)) != file.stamp:
        raise changed(file.path)
    return FileDigest(path=file.path, size=file.size, sha256=hashed.hexdigest())


@contextmanager
def _opened_folder(root: _Root, folders: Sequence[str]) -> Iterator[int]:
    """A folder below the root, opened one after the other, so that no link on the way is followed."""
    at = os.open(root.given, _FOLDER)
    try:
        for folder in (*root.folders, *folders):
            inner = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        yield at
    finally:
        os.close(at)


@contextmanager
def _opened(root: _Root, path: str) -> Iterator[int]:
    """A file below the root."""
    *folders, name = path.split("/")
    with _opened_folder(root, folders) as folder:
        opened = os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=folder)
    try:
        yield opened
    finally:
        os.close(opened)


@contextmanager
def _failures(uri: str, path: str = "") -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NoArtifacts(f"There is no {path} at {uri}." if path else f"There are no artifacts at {uri}.") from None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            what = f"{path} in {uri} is" if path else f"{uri} is no folder, or is"
            raise Unresolvable(f"{what} a symbolic link, or lies behind one.") from None
        raise ArtifactsUnreadable(f"{path or 'Artifacts'} at {uri} cannot be read: {error.strerror}.") from None
