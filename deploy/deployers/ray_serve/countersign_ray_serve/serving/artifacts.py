"""A version's files on the replica: fetched into a folder of its own, and there proven to be the bytes that were
approved. What is loaded is that copy: nobody else changes it between the proof and the last file that a model opens.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from countersign_ray_serve.serving.failures import DigestMismatch, NotServable, of_storage

_PREFIX = "countersign-model-"
_LOCK = "lock"
"""In a copy's folder: locked for as long as a process needs the copy, however that process ends."""


@contextmanager
def fetched(uri: str, digest: str) -> Iterator[Path]:
    """A copy of the artifacts at ``uri``, whose tree digest is ``digest``; removed at the end.

    What processes that were killed have left on this machine is removed, too.

    Raises:
        NotServable: there is nothing there, we may not read it, or somebody changed the files after the approval.
    """
    with _folder() as folder:
        try:
            copy = _copied(uri, folder)
            found = tree_digest(copy)
        except NotServable:
            raise
        except Exception as error:
            raise of_storage(uri, error) from None
        if found != digest:
            raise DigestMismatch(f"{uri} has the digest {found}, approved was {digest}")
        yield copy


def tree_digest(folder: Path) -> str:
    r"""One SHA-256 over every file: of the lines ``<sha256 of the content>  <path>\n``, sorted by path as UTF-8 bytes.

    Raises:
        FileNotFoundError: there is no file below ``folder``.
        DigestMismatch: there is something else than plain files, which nobody can have approved.
    """
    total = hashlib.sha256()
    for path, file in sorted((path.as_posix().encode(), folder / path) for path in _files(folder)):
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").hexdigest().encode() + b"  " + path + b"\n")
    return f"sha256:{total.hexdigest()}"


def _files(folder: Path) -> list[Path]:
    """The paths of all files below a folder. A link would lead to what no digest is taken of."""
    found = []
    for parent, folders, names in os.walk(folder, onerror=_give_up):
        for each in (Path(parent, name) for name in (*folders, *names)):
            mode, path = each.lstat().st_mode, each.relative_to(folder)
            if stat.S_ISREG(mode) and "\n" not in str(path):
                found.append(path)
            elif not stat.S_ISDIR(mode):
                raise DigestMismatch(f"{str(path)!r} is {_oddity(mode)}: only plain files are approved, and served")
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


def _copied(uri: str, folder: Path) -> Path:
    address = urlsplit(uri)
    if address.scheme not in {"", "file"} or address.netloc not in {"", "localhost"}:
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    # MLflow follows links, and would hand out the store's own folder.
    store = Path(unquote(address.path) if address.scheme else uri)
    for path in _files(store):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store / path, folder / path, follow_symlinks=False)
    return folder


@contextmanager
def _folder() -> Iterator[Path]:
    """A new folder below the machine's temporary one, for this process alone."""
    _sweep()
    root = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        draft = root / f"{_LOCK}.new"
        with draft.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            draft.rename(root / _LOCK)  # by this name it is locked from the beginning
            files = root / "files"
            files.mkdir()
            yield files
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _sweep() -> None:
    """Remove the copies of processes that ended without doing so: killed ones, as Ray kills what is slow to end."""
    for root in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            seen = root.lstat()
            if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
                continue
            with (root / _LOCK).open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)
