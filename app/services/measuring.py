"""The digest of a promotion's artifacts: with progress, resumed after a restart, taken again before it is applied.

Files that are done are written down every second, each with the stamp by which the store tells that it was not changed;
who begins again reads only the others. A file that was half read is begun again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

from app.domain.digests import FileDigest, Measured, StoredFile, measured
from app.domain.errors import Unavailable
from app.ports import Clock, ObjectStore
from app.services.recording import UnitOfWorkFactory

_FILES_AT_ONCE = 1000
"""More are not read while somebody waits for an answer, however small they are."""
AT_ONCE = 4
"""So many are answered at a time by one process; others wait for their turn: who only asks what would be (explain) must
not take its threads and processors from everybody else.
"""


class Measuring:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        store: ObjectStore,
        clock: Clock,
        *,
        topic_of: Callable[[str], str],
        every_s: float = 1.0,
    ) -> None:
        """Measure the artifacts that lie in ``store``.

        Args:
            unit_of_work: where progress and finished files are kept.
            store: where artifacts lie.
            clock: the time.
            topic_of: what is announced when a promotion's measurement has gone on.
            every_s: seconds between two writes.
        """
        self._unit_of_work = unit_of_work
        self._store = store
        self._clock = clock
        self._topic_of = topic_of
        self._every_s = every_s
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def measure_now(self, uri: str, at_most_bytes: int) -> Measured | None:
        """The digest, if no more than so many bytes must be read for it; else none, and nothing was read.

        Raises:
            Unresolvable, Unavailable: see ``app.ports.ObjectStore``.
        """
        files = await self._store.stored(uri)
        known = {file: file.sha256 for file in files if file.sha256}
        unread = [file for file in files if file not in known]
        if sum(file.size for file in unread) > at_most_bytes or len(unread) > _FILES_AT_ONCE:
            return None
        async with self._turn:
            return await self._read(uri, _Progress(files, known), unread)

    async def measure(self, promotion_id: str, uri: str) -> Measured:
        """The digest, however long it takes. What an earlier call has read is not read again unless it changed.

        Raises:
            Unresolvable, Unavailable: see ``app.ports.ObjectStore``. What was read until then is kept.
        """
        files, kept = await self._store.stored(uri), await self._kept(promotion_id)
        known = {file: sha256 for file in files if (sha256 := file.sha256 or kept.get(_key(file)))}
        result = await self._followed(promotion_id, uri, _Progress(files, known), keep=True)
        async with self._unit_of_work() as work:
            await work.measurements.finish(promotion_id, result.digest)
            work.announce(self._topic_of(promotion_id))
            await work.commit()
        return result

    async def again(self, promotion_id: str, uri: str) -> Measured:
        """The digest of what lies there now. Only what cannot have changed since ``measure`` is not read again.

        That is a version that S3 keeps, and what S3 itself digested. No other stamp is believed: whoever can write a
        file may be able to keep its stamp.

        Raises:
            Unresolvable, Unavailable: see ``app.ports.ObjectStore``.
        """
        files, kept = await self._store.stored(uri), await self._kept(promotion_id)
        known = {
            file: sha256
            for file in files
            if (sha256 := file.sha256 or (kept.get(_key(file)) if file.is_immutable else None))
        }
        return await self._followed(promotion_id, uri, _Progress(files, known), keep=False)

    async def _kept(self, promotion_id: str) -> Mapping[tuple[str, int, str], str]:
        async with self._unit_of_work() as work:
            return await work.measurements.kept(promotion_id)

    async def _followed(self, promotion_id: str, uri: str, progress: _Progress, *, keep: bool) -> Measured:
        """Read what is not known, and write down how far it is while it goes on."""
        async with self._unit_of_work() as work:
            await work.measurements.begin(
                promotion_id, total_bytes=progress.total_bytes, total_files=len(progress.files), at=self._clock.now()
            )
            await work.commit()
        over = asyncio.Event()
        report = asyncio.create_task(self._report(promotion_id, progress, over, keep=keep))
        try:
            return await self._read(uri, progress, [file for file in progress.files if file not in progress.done])
        finally:
            over.set()
            await asyncio.wait([report])

    async def _read(self, uri: str, progress: _Progress, files: Sequence[StoredFile]) -> Measured:
        async with aclosing(self._store.digests(uri, files, progress.add)) as found:
            async for digest in found:
                progress.finished(digest)
        whole = measured(FileDigest(file.path, file.size, sha256) for file, sha256 in progress.done.items())
        return replace(whole, listed=tuple(sorted(progress.done, key=lambda file: file.path)))

    async def _report(self, promotion_id: str, progress: _Progress, over: asyncio.Event, *, keep: bool) -> None:
        """Write how far it is, every so often and at the end. A database that is away does not stop the reading."""
        is_over = False
        while not is_over:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await over.wait()
            is_over = over.is_set()
            finished = len(progress.fresh)
            with suppress(Unavailable):
                async with self._unit_of_work() as work:
                    if keep:
                        await work.measurements.keep(promotion_id, progress.fresh[:finished])
                    await work.measurements.report(
                        promotion_id,
                        read_bytes=progress.read_bytes,
                        done_files=len(progress.done),
                        at=self._clock.now(),
                    )
                    work.announce(self._topic_of(promotion_id))
                    await work.commit()
                del progress.fresh[:finished]


class _Progress:
    """Of one measurement. ``done`` has the SHA-256 of files that are known, ``fresh`` those not yet written down."""

    def __init__(self, files: Sequence[StoredFile], known: Mapping[StoredFile, str]) -> None:
        self.files, self.done = files, dict(known)
        self.fresh: list[tuple[StoredFile, str]] = []
        self.total_bytes = sum(file.size for file in files)
        self.read_bytes = sum(file.size for file in known)
        self._by_path = {file.path: file for file in files}
        self._lock = threading.Lock()

    def add(self, read_bytes: int) -> None:
        """Called from the threads that read."""
        with self._lock:
            self.read_bytes += read_bytes

    def finished(self, digest: FileDigest) -> None:
        file = self._by_path[digest.path]
        self.done[file] = digest.sha256
        self.fresh.append((file, digest.sha256))


def _key(file: StoredFile) -> tuple[str, int, str]:
    return file.path, file.size, file.stamp
