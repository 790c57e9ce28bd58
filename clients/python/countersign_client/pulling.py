"""Downloads a version: in parallel, resumed, every byte verified, and there under its name only when it is all there.

The files are had from where they lie, by URLs that the gateway signs; through the gateway where there are none, or
where the store cannot be reached from here. Nothing that the gateway or the store says is believed: a path that leaves
the folder is refused, and what does not have the digest that was approved never gets its name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from filelock import FileLock

from countersign_client.addresses import gateway_address
from countersign_client.calls import ask, items
from countersign_client.digests import digest_of, is_plain, tree_digest
from countersign_client.errors import Changed, ClientError, InvalidUsage, Refused, Unreachable
from countersign_client.resolving import RESOLVE_SCOPES, gateway_of_environment
from countersign_client.streaming import Broken, Gone, NotAllowed, Streams
from countersign_client.wire import plain

MOST_FILES = 50_000
"""Of a version, as the gateway says."""
_LARGEST_LIST = 96 * 1024 * 1024
"""Bytes: that many files with the longest names."""
_URLS_AT_A_TIME = 1000
"""As many as the gateway gives: it counts how often it is asked."""
_TRIES = 6
"""Of one file, one after another that bring not a byte."""
_PAUSES_S = (0.5, 15.0)
"""Between two tries: the first, and the longest."""
_HEX = frozenset("0123456789abcdef")
_MODEL_FILE = "MLmodel"
_MIB, _GIB = 1024**2, 1024**3


class Progress(Protocol):
    """Is told how it goes, from any thread."""

    def begin(self, files: int, size: int) -> None:
        """So many files, of so many bytes together."""

    def advance(self, size: int) -> None:
        """So many bytes more are there; fewer, if they have to be had again."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A version that lies in a folder.

    Of a logged model (``models:/m-…``), ``model`` is its id and ``version`` is empty.
    ``digest`` is the one that was approved, and that these files have; none if no promotion has pinned the version:
    then nothing says what it should be. ``downloaded`` is in bytes, 0 if it was there already.
    """

    model: str
    version: str
    digest: str | None
    folder: Path
    files: int
    size: int
    downloaded: int


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class _Version:
    """What the gateway says that there is."""

    model: str
    version: str
    digest: str | None
    has_urls: bool
    files: tuple[_File, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def key(self) -> str:
        """The same for the same bytes, as far as that is known."""
        said = f"{self.model}\n{self.version}\n{self.digest}\n{[(file.path, file.size) for file in self.files]}"
        return hashlib.sha256(said.encode()).hexdigest()[:12]


class _Silent:
    def begin(self, files: int, size: int) -> None: ...
    def advance(self, size: int) -> None: ...


def pull(
    uri: str,
    folder: str | os.PathLike[str],
    *,
    gateway: str | None = None,
    workspace: str | None = None,
    version: str | None = None,
    force: bool = False,
    at_once: int = 8,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Pulled:
    """Have the version that ``models:/name@alias`` or ``models:/name/7`` means in ``folder``.

    A folder that has the digest already is left as it is. What an earlier try left is gone on with. When this returns,
    all files are there and verified; when it raises, ``folder`` is as it was.

    Args:
        uri: of the version.
        folder: is made; whatever is above it, too.
        gateway: its address; else that of ``COUNTERSIGN_URL`` or ``MLFLOW_TRACKING_URI``.
        workspace: MLflow's.
        version: only if the alias still means this one.
        force: replace a folder that holds another model.
        at_once: files that are downloaded at a time.
        progress: is told how it goes.
        say: told in a line what is not as usual.

    Raises:
        Changed: what is there is not what was approved, or the alias moved meanwhile.
        InvalidUsage: there is something else in ``folder``.
        Refused: there is no such version, or you may not have it; or the answer cannot be believed.
        Unreachable: neither gateway nor store answer.
        ClientError: the disk is full, or cannot be written.
    """
    address = gateway_address(gateway or gateway_of_environment())
    target = Path(os.path.abspath(folder))  # noqa: PTH100  # a link at its end is to be seen, not followed
    with _disk(target):
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise InvalidUsage(f"{target} is there, and is no folder.")
        wanted = _Wanted(address, uri, workspace, version)
        found = wanted.listed()
        target.parent.mkdir(parents=True, exist_ok=True)
        # Left where it is: who removes a lock lets two others in.
        with FileLock(target.with_name(f".{target.name}.countersign.lock")):
            _bring_back(target)
            if _is_there(target, found):
                return _pulled(found, target, 0)
            _check_free(target, found, force=force)
            partial = target.with_name(f".{target.name}.countersign-{found.key}")
            _forget_others(target, partial)
            _make_own(partial)
            download = _Download(wanted, found, partial / "files", progress or _Silent(), say)
            try:
                downloaded = download.run(at_once)
            except Changed:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            _check_free(target, found, force=force)  # what was put there meanwhile is not ours
            _put(partial / "files", target, force=force)
            shutil.rmtree(partial, ignore_errors=True)
            return _pulled(found, target, downloaded)


def _pulled(found: _Version, folder: Path, downloaded: int) -> Pulled:
    return Pulled(found.model, found.version, found.digest, folder, len(found.files), found.size, downloaded)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked of the gateway."""

    gateway: str
    uri: str
    workspace: str | None
    version: str | None

    def query(self, version: str | None) -> dict[str, str]:
        given = {"uri": self.uri, "workspace": self.workspace, "version": version}
        return {name: value for name, value in given.items() if value}

    def listed(self) -> _Version:
        """Raises ``Changed``: the alias means another version. ``Refused``: nobody should believe that list."""
        with _moved():
            document = ask(
                self.gateway,
                "GET",
                "/resolve/files",
                query=self.query(self.version),
                scopes=RESOLVE_SCOPES,
                largest=_LARGEST_LIST,
            ).document
        files = tuple(_file(each) for each in items(document.get("files")))
        digest, version = document.get("digest"), plain(document.get("version"))
        model = plain(document.get("model")) or plain(document.get("model_id"))
        if not model or not 0 < len(files) <= MOST_FILES or not (digest is None or isinstance(digest, str)):
            raise Refused(f"{self.gateway} gave no list of files; is it a Countersign gateway?")
        _check_apart([file.path for file in files])
        known = {file.path: file.sha256 for file in files if file.sha256}
        if digest is not None and len(known) == len(files) and tree_digest(known) != digest:
            raise Refused(f"{self.gateway} gave a list of files that is not the one of {plain(digest)}.")
        return _Version(model, version, digest, document.get("has_urls") is True, files)

    def signed(self, version: str, paths: Sequence[str]) -> Mapping[str, str]:
        """URLs for files. Raises as ``calls.ask``, and ``Changed``."""
        with _moved():
            document = ask(
                self.gateway,
                "POST",
                "/resolve/urls",
                document={**self.query(version), "files": list(paths)},
                scopes=RESOLVE_SCOPES,
                largest=_LARGEST_LIST,
            ).document
        return {
            str(each["path"]): url
            for each in items(document.get("files"))
            if isinstance(url := each.get("url"), str) and each.get("path") in paths
        }


@contextmanager
def _moved() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        if error.status in {409, 412}:
            raise Changed(str(error)) from None
        raise


def _file(each: Mapping[str, object]) -> _File:
    path, size, sha256 = each.get("path"), each.get("size"), each.get("sha256")
    if not isinstance(path, str) or not is_plain(path):
        raise Refused(f"The gateway names a file {plain(str(path))!r}, which may lie outside of the folder.")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise Refused(f"The gateway gives no size of {plain(path)}.")
    if sha256 is not None and not (isinstance(sha256, str) and len(sha256) == 64 and set(sha256) <= _HEX):
        raise Refused(f"The gateway gives no SHA-256 of {plain(path)}.")
    return _File(path, size, sha256)


def _check_apart(paths: Sequence[str]) -> None:
    """Return if all can be in one folder, also where ``A`` and ``a``, or two ways to write ``é``, are one name."""
    plain_paths = [unicodedata.normalize("NFKC", path).casefold() for path in paths]
    seen, folders = set(plain_paths), set[str]()
    for path in plain_paths:
        above = path.split("/")[:-1]
        folders.update("/".join(above[: length + 1]) for length in range(len(above)))
    if len(seen) < len(paths) or seen & folders:
        raise Refused("Two files of this version have one name, or that of a folder; they cannot lie side by side.")


class _Download:
    """All files of a version, into one folder."""

    def __init__(
        self, wanted: _Wanted, found: _Version, folder: Path, progress: Progress, say: Callable[[str], None]
    ) -> None:
        self._found, self._folder, self._progress = found, folder, progress
        self._stop = threading.Event()
        self._streams = Streams(wanted.gateway, wanted.query(found.version))
        self._urls = _Urls(wanted, found, say)
        self._lock = threading.Lock()
        self._downloaded = 0

    def run(self, at_once: int) -> int:
        """How many bytes were downloaded. Each file is as the list says, all together as the digest says."""
        files = sorted(self._found.files, key=lambda file: file.size, reverse=True)
        self._progress.begin(len(files), self._found.size)
        self._folder.mkdir(exist_ok=True)
        self._remove_strangers({file.path for file in files})
        self._check_room(files)
        pool = ThreadPoolExecutor(max(1, min(at_once, len(files))), thread_name_prefix="pull")
        running: list[Future[str]] = []
        try:
            # Within: who is interrupted while the last are begun must stop the first.
            running.extend(pool.submit(self._fetch, file) for file in files)
            wait(running, return_when=FIRST_EXCEPTION)
            for future in running:
                if future.done() and (error := future.exception()):
                    raise error
        finally:
            self._stop.set()
            self._streams.stop()
            pool.shutdown(wait=True, cancel_futures=True)
        digests = {file.path: future.result() for file, future in zip(files, running, strict=True)}
        if self._found.digest is not None and tree_digest(digests) != self._found.digest:
            raise Changed(f"What was downloaded is not what was approved ({plain(self._found.digest)}).")
        return self._downloaded

    def _remove_strangers(self, paths: set[str]) -> None:
        """What lies there and is none of these files."""
        for at, folders, names in os.walk(self._folder):
            for each in (Path(at, name) for name in [*folders, *names]):
                is_stranger = not each.is_dir() and each.relative_to(self._folder).as_posix() not in paths
                if is_stranger or each.is_symlink():
                    each.unlink()

    def _check_room(self, files: Sequence[_File]) -> None:
        there = sum(
            min(path.stat().st_size, file.size) for file in files if (path := self._folder / file.path).is_file()
        )
        missing, free = self._found.size - there, shutil.disk_usage(self._folder).free
        if missing > free:
            raise ClientError(f"{_amount(missing)} are to be downloaded, and {_amount(free)} are free on the disk.")

    def _fetch(self, file: _File) -> str:
        """The SHA-256 of a file that is there."""
        path = self._folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o666)
        with os.fdopen(opened, "r+b") as out:
            writing = _Writing(out, file, self._progress)
            writing.go_on()
            self._fill(file, writing)
            if writing.is_wrong and writing.was_begun:
                # What an earlier try had left was damaged: once more, from the start.
                writing.begin_anew()
                self._fill(file, writing)
            if writing.is_wrong:
                raise Changed(f"{plain(file.path)} is not what was approved: its SHA-256 is another.")
            out.flush()
            os.fsync(out.fileno())
            return writing.sha256

    def _fill(self, file: _File, writing: _Writing) -> None:
        tries, (pause, longest) = 0, _PAUSES_S
        while writing.length < file.size:
            before = writing.length
            try:
                self._read(file, writing)
            except Broken as error:
                tries = 1 if writing.length > before else tries + 1
                if tries >= _TRIES:
                    raise Unreachable(str(error)) from None
            except Gone as error:
                raise Changed(f"{plain(file.path)} is gone, or is another by now. {error}".strip()) from None
            else:
                tries = 0 if writing.length > before else tries + 1
                if tries >= _TRIES:
                    raise Unreachable(f"{plain(file.path)} breaks off again and again.")
            if writing.length < file.size and self._stop.wait(min(pause * 2 ** max(tries - 1, 0), longest)):
                raise _Stopped

    def _read(self, file: _File, writing: _Writing) -> None:
        """Go on with a file, from where it is."""
        url = self._urls.of(file.path)
        try:
            if not writing.can_go_on:
                writing.begin_anew()
            first, etag = writing.length, writing.etag
            by_url, through_gateway = self._streams.by_url, self._streams.through_gateway
            with by_url(url, first, etag) if url else through_gateway(file.path, first, etag) as opened:
                if opened.begins_at != first:
                    writing.begin_anew()
                elif first and etag != opened.etag and not file.sha256:
                    writing.begin_anew()  # the rest of another one: asked for from its start, the next time
                    return
                writing.etag = None if file.sha256 else opened.etag
                for piece in opened.pieces:
                    if self._stop.is_set():
                        raise _Stopped
                    writing.write(piece)
                    if url:
                        self._urls.has_worked = True
                    with self._lock:
                        self._downloaded += len(piece)
        except NotAllowed:
            assert url is not None  # of a store alone
            self._urls.refused(file.path, url)
        except Broken as error:
            if url is None or error.has_answered or not self._urls.give_up(url):
                raise


class _Stopped(ClientError):
    """Nobody waits for it any more."""


class _Writing:
    """A file on its way."""

    def __init__(self, out: BinaryIO, file: _File, progress: Progress) -> None:
        self._out, self._file, self._progress = out, file, progress
        self._hash = hashlib.sha256()
        self.length = 0
        self.was_begun = False
        """Whether an earlier try left some of it."""
        self.etag: str | None = None
        """Of what was begun, where no SHA-256 would tell that the rest is of another one."""

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def is_wrong(self) -> bool:
        return self._file.sha256 is not None and self.sha256 != self._file.sha256

    @property
    def can_go_on(self) -> bool:
        """Whether it would be seen that the rest is of another one."""
        return not self.length or self._file.sha256 is not None or self.etag is not None

    def go_on(self) -> None:
        """Take what is there already, if it can be verified later."""
        there = os.fstat(self._out.fileno()).st_size
        if self._file.sha256 is None or there > self._file.size:
            self._out.truncate(0)
            return
        self.was_begun = there > 0
        while piece := self._out.read(1024 * 1024):
            self._take(piece)

    def begin_anew(self) -> None:
        self._progress.advance(-self.length)
        self._hash, self.length = hashlib.sha256(), 0
        self._out.seek(0)
        self._out.truncate(0)

    def write(self, piece: bytes) -> None:
        if self.length + len(piece) > self._file.size:
            raise Changed(f"{plain(self._file.path)} is longer than was approved.")
        self._out.write(piece)
        self._take(piece)

    def _take(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.length += len(piece)
        self._progress.advance(len(piece))


class _Urls:
    """URLs of the files, asked for some at a time, and anew when they have expired."""

    def __init__(self, wanted: _Wanted, found: _Version, say: Callable[[str], None]) -> None:
        self._wanted, self._version, self._say = wanted, found.version, say
        self._left = [file.path for file in sorted(found.files, key=lambda file: file.size, reverse=True)]
        self._known: dict[str, str] = {}
        self._refused: set[str] = set()
        self._is_off = not found.has_urls
        self.has_worked = False
        """Whether the store has given anything."""
        self._lock = threading.Lock()

    def of(self, path: str) -> str | None:
        """The URL of a file; none if it is to be had through the gateway.

        Raises:
            Changed: the alias moved meanwhile. Broken: the gateway does not answer now.
        """
        with self._lock:
            if self._is_off:
                return None
            if path not in self._known:
                begin = self._left.index(path)
                try:
                    signed = self._wanted.signed(self._version, self._left[begin : begin + _URLS_AT_A_TIME])
                except Unreachable as error:
                    raise Broken(str(error), has_answered=True) from None
                self._known.update(signed)
            url = self._known.get(path)
            if url is None:
                raise Refused(f"The gateway gave no URL of {plain(path)}.")
            return url

    def refused(self, path: str, url: str) -> None:
        """The store does not take a URL: it has expired, or the gateway itself may not read there."""
        with self._lock:
            if self._known.get(path) == url:
                if path in self._refused:
                    self._turn_off("The store refuses the URLs.")
                self._refused.add(path)
                self._known.clear()

    def give_up(self, url: str) -> bool:
        """The store of a URL does not answer at all; whether the file is now to be had through the gateway."""
        with self._lock:
            if not self._is_off and not self.has_worked and url in self._known.values():
                self._turn_off("The store cannot be reached from here.")
            return self._is_off

    def _turn_off(self, why: str) -> None:
        if not self._is_off:
            self._say(f"{why} Downloading through the gateway.")
        self._is_off = True


def _is_there(target: Path, found: _Version) -> bool:
    """Whether a folder holds the version already."""
    if found.digest is None or not _holds_something(target):
        return False
    with suppress(InvalidUsage):
        return digest_of(target) == found.digest
    return False


def _check_free(target: Path, found: _Version, *, force: bool) -> None:
    """Return if a version may be put into a folder.

    Raises:
        InvalidUsage: there is something else.
    """
    if not _holds_something(target):
        return
    if not force and found.digest is None:
        raise InvalidUsage(
            f"There is something in {target} already. No promotion has pinned this version, so nothing says whether it "
            "is that. Remove it, or replace it with --force."
        )
    if not force:
        raise InvalidUsage(f"There is something else in {target}. Remove it, or replace it with --force.")
    if not (target / _MODEL_FILE).is_file():
        raise InvalidUsage(f"{target} holds no model (no {_MODEL_FILE}): it is not replaced, not even with --force.")


def _holds_something(target: Path) -> bool:
    return target.exists() and any(target.iterdir())


def _aside(target: Path) -> Path:
    """Where what is replaced is for a moment."""
    return target.with_name(f".{target.name}.countersign-replaced")


def _bring_back(target: Path) -> None:
    """Have what was there under its name again, if a try ended before anything else was."""
    before = _aside(target)
    if not os.path.lexists(target) and before.is_dir() and not before.is_symlink():
        before.rename(target)


def _forget_others(target: Path, partial: Path) -> None:
    """What earlier tries left of other versions."""
    for each in target.parent.glob(f".{_escaped(target.name)}.countersign-*"):
        if each not in {partial, _aside(target)} and each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)


def _make_own(folder: Path) -> None:
    """Make a folder, or take the one that an earlier try made: of nobody else, who could change it under our hands.

    Raises:
        InvalidUsage: somebody else made it, or could write there.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    there = folder.lstat()
    is_ours = os.name == "nt" or (there.st_uid == os.geteuid() and not there.st_mode & 0o022)
    if not stat.S_ISDIR(there.st_mode) or not is_ours:
        raise InvalidUsage(f"{folder} is there already, and others may write in it. Remove it.")


def _amount(size: int) -> str:
    return f"{size / _GIB:,.1f} GiB" if size >= _GIB else f"{size / _MIB:,.1f} MiB"


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _put(files: Path, target: Path, *, force: bool) -> None:
    """Give the files their name, at once; what had it before is gone then.

    Whatever happens in between, it is there: under its name again, or at least aside for the next try.
    """
    before = _aside(target)
    if force and _holds_something(target):
        shutil.rmtree(before, ignore_errors=True)
        try:
            target.rename(before)
            files.rename(target)
        except BaseException:
            with suppress(OSError):  # there is something under its name
                before.rename(target)
            raise
    else:
        with suppress(FileNotFoundError):
            target.rmdir()  # fails if there is something in it by now
        files.rename(target)
    shutil.rmtree(before, ignore_errors=True)


@contextmanager
def _disk(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ClientError(f"The disk of {target} is full. What is there is kept: run it again to go on.") from None
        raise ClientError(f"{target} cannot be written: {error.strerror}.") from None
