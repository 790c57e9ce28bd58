"""The bytes of a version for who resolves: its files, URLs and credentials for a while, and the content itself.

What is handed out is what resolves now: whoever may not resolve a version, and what may not be resolved, ends there
(``app/services/resolution.py``). Each hand-out is in the audit log, without what was handed out.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from app.domain.access import Principal
from app.domain.audit import Entry
from app.domain.digests import StoredFile, check_path
from app.domain.downloads import (
    DEFAULT_S,
    MOST_A_MINUTE,
    MOST_URLS,
    SHORTEST_CREDENTIALS_S,
    SHORTEST_S,
    LentCredentials,
    ListedFile,
    Part,
    SignedUrls,
    check_lasts,
    check_scope,
    check_within,
    part_of,
)
from app.domain.errors import (
    BytesChanged,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    TooManyRequests,
    Unavailable,
    Unsupported,
)
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.resolutions import Resolution
from app.ports import ArtifactLending, Clock, ObjectStore
from app.services.recording import UnitOfWorkFactory, actor_of
from app.services.resolution import Resolver
from app.services.throttling import Throttle

MOST_STREAMS = 32
"""Files that one principal reads through one gateway at a time; each takes a thread."""
MOST_STREAMS_OF_ALL = 256
"""The same of all principals together."""
_KEPT_FILES = 100_000
"""Of all lists of files that are kept in memory: some 30 MiB."""
_LISTED_FOR = timedelta(seconds=30)
"""A listing of the store is good: who downloads asks for URLs again and again."""
_LISTS_AT_ONCE = 8
"""Each takes threads."""
_SAID_AGAIN_AFTER = timedelta(seconds=DEFAULT_S)
"""Reading through the gateway is one hand-out for so long, however many files it is."""
_MOST_SAID = 10_000

_Reader = tuple[str, str, str]
"""A principal, and the address and number of the version that it reads."""
Files = Mapping[str, ListedFile]


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asks the bytes of. ``version``: only if it still is that one."""

    principal: Principal
    uri: str
    workspace: str = DEFAULT_WORKSPACE
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a version, in the order of their paths; ``has_urls`` says whether they can be had past us."""

    resolution: Resolution
    files: Sequence[ListedFile]
    has_urls: bool


@dataclass(frozen=True, slots=True)
class Content:
    """A file, or a part of it, as it is read. To be closed (``contextlib.aclosing``)."""

    file: ListedFile
    etag: str
    part: Part | None
    pieces: AsyncGenerator[bytes]


class Downloads:
    """See the module.

    Args:
        unit_of_work: opens transactions.
        resolver: says where the bytes are, and to whom.
        store: where they lie.
        lending: lets others read there.
        clock: the present.
        roots: of which bytes are handed out.
        longest_s: seconds that URLs and credentials are good, at most.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        resolver: Resolver,
        store: ObjectStore,
        lending: ArtifactLending,
        clock: Clock,
        *,
        roots: Sequence[str],
        longest_s: int,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._resolver = resolver
        self._store = store
        self._lending = lending
        self._clock = clock
        self._roots = tuple(roots)
        self._longest_s = longest_s
        self._pace = Throttle(MOST_A_MINUTE)
        self._manifests = _Kept[ListedFile]()
        self._listings = _Kept[StoredFile]()
        self._listing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._lists = asyncio.Semaphore(_LISTS_AT_ONCE)
        self._streams: Counter[str] = Counter()
        self._said: OrderedDict[_Reader, datetime] = OrderedDict()
        self._saying: WeakValueDictionary[_Reader, asyncio.Lock] = WeakValueDictionary()

    async def files(self, asked: Asked) -> Listing:
        """The files of a version: those of the promotion that approved it, else those that lie there.

        Raises:
            InsufficientScope: the token does not name ``resolve``.
            PreconditionFailed: it is another version by now.
            As ``Resolver.resolve``.
        """
        resolution = await self._resolve(asked)
        approved = await self._approved(resolution)
        files = _as_listed(await self._stored(resolution)) if approved is None else approved
        return Listing(resolution, tuple(files.values()), self._lending.can_lend(resolution.uri))

    async def urls(
        self, asked: Asked, paths: Sequence[str] | None, *, lasts_s: int
    ) -> tuple[Resolution, Sequence[ListedFile], SignedUrls]:
        """URLs for these files of a version, or for all of them.

        Raises:
            InvalidInput: too many files, or too long. NotFound: names a file that is none of this version's.
            BytesChanged: what lies there is not what was approved. Unsupported: there are none for such a store.
            As ``files``.
        """
        check_lasts(lasts_s, least=SHORTEST_S, longest=self._longest_s)
        resolution = await self._resolve(asked)
        self._count(asked.principal)
        self._check_lends(resolution)
        stored = await self._stored(resolution)
        approved = await self._approved(resolution)
        files = _as_listed(stored) if approved is None else approved
        if paths is None and len(files) > MOST_URLS:
            raise InvalidInput("files", f"there are {len(files):,}; name at most {MOST_URLS:,} of them")
        wanted = [_named(files, path) for path in (files if paths is None else dict.fromkeys(paths))]
        signed = await self._lending.urls(
            resolution.uri, [_as_approved(file, stored) for file in wanted], lasts_s=lasts_s
        )
        await self._record(asked.principal, resolution, "urls", until=signed.expires_at, files=len(wanted))
        return resolution, wanted, signed

    async def credentials(self, asked: Asked, *, lasts_s: int) -> tuple[Resolution, LentCredentials]:
        """Credentials that read the folder of a version and nothing else.

        Raises:
            InvalidInput: for too long, or too short. Unsupported: none are lent. As ``files``.
        """
        check_lasts(lasts_s, least=SHORTEST_CREDENTIALS_S, longest=self._longest_s)
        resolution = await self._resolve(asked)
        self._count(asked.principal)
        self._check_lends(resolution)
        lent = await self._lending.credentials(resolution.uri, lasts_s=lasts_s, principal_id=asked.principal.id)
        await self._record(asked.principal, resolution, "credentials", until=lent.expires_at)
        return resolution, lent

    async def content(
        self, asked: Asked, path: str, *, wanted: str | None = None, if_range: str | None = None
    ) -> Content:
        """One file, read through this gateway. A whole file ends before its last bytes if it is not what was approved.

        Args:
            asked: of which version.
            path: of the file.
            wanted: a ``Range`` header.
            if_range: an ``If-Range`` header: the part is wanted only if the file has this ETag.

        Raises:
            NotFound: there is no such file. NoSuchPart: the range lies behind its end.
            TooManyRequests: this principal reads too many at a time. As ``files``.
        """
        self._take_place(asked.principal)
        try:
            resolution = await self._resolve(asked)
            check_path(path)
            approved = await self._approved(resolution)
            file = _named(approved, path) if approved is not None else None
            found = await self._store.find(resolution.uri, path)
            file = _as_found(file, found)
            etag = file.sha256 or hashlib.sha256(found.stamp.encode()).hexdigest()
            part = part_of(wanted, file.size) if if_range in {None, f'"{etag}"'} else None
            await self._note(asked.principal, resolution)
        except BaseException:
            self._leave_place(asked.principal)
            raise
        pieces = self._read(asked.principal, resolution, file, found, part or Part(0, file.size))
        await anext(pieces)  # one that was never begun would keep its place for ever
        return Content(file, etag, part, pieces)

    async def _read(
        self, principal: Principal, resolution: Resolution, file: ListedFile, found: StoredFile, part: Part
    ) -> AsyncGenerator[bytes]:
        """The pieces, after an empty one. The place is left at the end."""
        hashed, is_whole, held = hashlib.sha256(), part.length == file.size, b""
        try:
            yield b""
            if not part.length:
                return
            pieces = self._store.content(resolution.uri, found, first=part.first, length=part.length)
            async with aclosing(pieces):
                async for piece in pieces:
                    if held:
                        yield held
                    held = piece
                    if is_whole and file.sha256 is not None:
                        hashed.update(piece)
            if is_whole and file.sha256 not in {None, hashed.hexdigest()}:
                raise _changed(file.path)
            yield held
        finally:
            self._leave_place(principal)

    async def _resolve(self, asked: Asked) -> Resolution:
        check_scope(asked.principal.credential)
        resolution = await self._resolver.resolve(asked.principal, asked.uri, workspace=asked.workspace)
        if asked.version not in {None, resolution.version}:
            raise PreconditionFailed(
                f"{asked.uri} is version {resolution.version} by now, not {asked.version}.", version=resolution.version
            )
        check_within(resolution.uri, self._roots)
        return resolution

    async def _approved(self, resolution: Resolution) -> Files | None:
        """The files of which the approved digest is, if that is known."""
        if resolution.digest is None:
            return None
        kept = self._manifests.get(resolution.digest, self._clock.now())
        if kept is not None:
            return kept
        async with self._unit_of_work() as work:
            manifest = await work.manifests.find(resolution.digest)
        if manifest is None:
            return None
        files = {file.path: ListedFile(file.path, file.size, file.sha256) for file in manifest.files}
        self._manifests.put(resolution.digest, files, until=None)
        return files

    async def _stored(self, resolution: Resolution) -> Mapping[str, StoredFile]:
        """What the store lists. A promotion does not use what was listed before it."""
        key, now = f"{resolution.uri} {resolution.promotion_id}", self._clock.now()
        if kept := self._listings.get(key, now):
            return kept
        async with self._listing.setdefault(key, asyncio.Lock()), self._lists:
            kept = self._listings.get(key, now)
            if kept is None:
                listed = sorted(await self._store.stored(resolution.uri), key=lambda file: file.path.encode())
                kept = {file.path: file for file in listed}
                self._listings.put(key, kept, until=now + _LISTED_FOR)
            return kept

    def _check_lends(self, resolution: Resolution) -> None:
        if not self._lending.can_lend(resolution.uri):
            raise Unsupported(
                "These artifacts lie in a folder of the server: there are no URLs and no credentials for them. Read "
                "them through the gateway (GET /control/v1/resolve/content)."
            )

    def _take_place(self, principal: Principal) -> None:
        if self._streams[principal.id] >= MOST_STREAMS:
            raise TooManyRequests(f"You read {MOST_STREAMS} files at a time here. Wait for one.", retry_after_s=1)
        if self._streams.total() >= MOST_STREAMS_OF_ALL:
            raise Unavailable("Too many files are read through this gateway at a time. Wait a moment.", retry_after_s=1)
        self._streams[principal.id] += 1

    def _leave_place(self, principal: Principal) -> None:
        self._streams[principal.id] -= 1
        if not self._streams[principal.id]:
            del self._streams[principal.id]

    def _count(self, principal: Principal) -> None:
        try:
            self._pace.hit(principal.id)
        except TooManyRequests as error:
            raise TooManyRequests(
                "You were given the ways to too many bytes in a minute. Wait a minute.",
                retry_after_s=error.retry_after_s,
            ) from None

    async def _note(self, principal: Principal, resolution: Resolution) -> None:
        """Put into the audit log that somebody reads through us; once for a while.

        Nothing is read that is not written down: who comes meanwhile waits for that, and what was said by a clock that
        was ahead counts no longer when it was put right.
        """
        key = (principal.id, resolution.uri, resolution.version)
        async with self._saying.setdefault(key, asyncio.Lock()):
            now = self._clock.now()
            if now < self._said.get(key, now) <= now + _SAID_AGAIN_AFTER:
                return
            until = now + _SAID_AGAIN_AFTER
            await self._record(principal, resolution, "content", until=until)
            self._said.pop(key, None)
            self._said[key] = until
            while len(self._said) > _MOST_SAID:
                self._said.popitem(last=False)

    async def _record(
        self, principal: Principal, resolution: Resolution, kind: str, *, until: datetime, **more: int
    ) -> None:
        details = {
            "kind": kind,
            "model": resolution.model,
            "version": resolution.version,
            **({"alias": resolution.alias} if resolution.alias else {}),
            **({} if resolution.workspace == DEFAULT_WORKSPACE else {"workspace": resolution.workspace}),
            **({"model_id": resolution.model_id} if resolution.model_id else {}),
            **({"digest": resolution.digest} if resolution.digest else {}),
            "credential": principal.credential.kind.value,
            **({"token": principal.credential.id} if principal.credential.id else {}),
            "until": until.isoformat(timespec="seconds"),
            **more,
        }
        entry = Entry(self._clock.now(), actor_of(principal), "bytes.handed_out", resolution.uri[:500], details)
        async with self._unit_of_work() as work:
            work.record(entry)
            await work.commit()


File = TypeVar("File")


class _Kept(Generic[File]):
    """Lists of files that are kept for a while, or for as long as there is room."""

    def __init__(self) -> None:
        self._lists: OrderedDict[str, tuple[Mapping[str, File], datetime | None]] = OrderedDict()
        self._total = 0

    def get(self, key: str, now: datetime) -> Mapping[str, File] | None:
        files, until = self._lists.get(key, (None, None))
        if files is None or (until is not None and not now < until <= now + _LISTED_FOR):
            return None  # also what was listed by a clock that was ahead
        self._lists.move_to_end(key)
        return files

    def put(self, key: str, files: Mapping[str, File], *, until: datetime | None) -> None:
        self._remove(key)
        self._lists[key] = files, until
        self._total += len(files)
        while self._total > _KEPT_FILES and len(self._lists) > 1:
            self._remove(next(iter(self._lists)))

    def _remove(self, key: str) -> None:
        if key in self._lists:
            files, _ = self._lists.pop(key)
            self._total -= len(files)


def _as_listed(stored: Mapping[str, StoredFile]) -> Files:
    return {path: ListedFile(path, file.size, file.sha256) for path, file in stored.items()}


def _named(files: Files, path: str) -> ListedFile:
    found = files.get(path)
    if found is None:
        raise NotFound(f"There is no file {path[:200]} in this version.", path=path[:200])
    return found


def _as_approved(file: ListedFile, stored: Mapping[str, StoredFile]) -> StoredFile:
    """What the store has for an approved file, as far as a listing tells.

    Raises:
        BytesChanged: it is another one, or none.
    """
    there = stored.get(file.path)
    if there is None or there.size != file.size or (there.sha256 and file.sha256 and there.sha256 != file.sha256):
        raise _changed(file.path)
    return there


def _as_found(file: ListedFile | None, found: StoredFile) -> ListedFile:
    """An approved file, if what was found can be it; else what was found.

    Raises:
        BytesChanged: it is another one.
    """
    if file is not None and found.size != file.size:
        raise _changed(file.path)
    return file or ListedFile(found.path, found.size, found.sha256)


def _changed(path: str) -> BytesChanged:
    return BytesChanged(f"{path} is not what was approved: somebody changed or removed it.", path=path)
