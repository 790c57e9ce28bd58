"""Looks again and again at what was approved: whether what lies there is still that, and says so when it is not.

A version is looked at in short: its files are listed and compared with those that were approved; what is not known of
them, and is not much, is read. Much is read by a job of its own (``read``), which writes down what it has read while it
goes on, and concludes nothing itself: the next look does, from what is known then. So a look is never long, one that
is repeated or killed changes nothing, and who reads goes on where it was killed.

Nothing is concluded from what was not seen: a store that does not answer, or does not let us look, leaves everything
as it was and is an *obstacle*, which is told, and is tried again at the next occasion.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import SYSTEM_WORKER, Entry
from app.domain.digests import StoredFile, measured
from app.domain.errors import ArtifactsUnreadable, NoArtifacts, Unavailable, Unresolvable
from app.domain.events import EventType
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.manifests import Manifest
from app.domain.promotions import AliasKey
from app.domain.verifying import (
    UNSEEN_AFTER,
    BytesState,
    Rhythm,
    Seen,
    Sight,
    Verification,
    VersionKey,
    compared,
    oldest_reading,
)
from app.ports import Clock, ObjectStore
from app.services.manifests import Manifests
from app.services.recording import UnitOfWorkFactory, alias_topic, emit, topic_of
from app.telemetry import BYTES_NOT_AS_APPROVED

_log = structlog.stdlib.get_logger(__name__)

READ_AT_ONCE = 64 * 1024 * 1024
"""Bytes that a look reads itself, if no more must be read."""
FILES_AT_ONCE = 1000
LOOKS_AT_ONCE = 4
AT_A_TIME = 100
"""Versions, after which a database that went away is noticed."""
WRITTEN_EVERY = 64
"""Files, or bytes (``READ_AT_ONCE``), whichever comes first, after which it is written down what was read."""
TRIES = 3
"""A version of which a file changes each time while it is read is not what was approved."""


class _Unseen(Exception):
    """It could not be looked at; the message says why."""


@dataclass(slots=True)
class _Round:
    """One time that all are looked at. A store that did not answer once is not waited for again."""

    at: datetime
    away: dict[str, str] = field(default_factory=dict)


class Verifying:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        store: ObjectStore,
        clock: Clock,
        manifests: Manifests,
        *,
        rhythm: Rhythm,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._store = store
        self._clock = clock
        self._manifests = manifests
        self._rhythm = rhythm
        self._turn = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._reading = asyncio.Semaphore(1)

    async def look(self) -> None:
        """Look at every version that is due.

        Raises:
            Unavailable: the database does not answer; what was concluded until then is written.
        """
        this = _Round(self._clock.now())
        async with self._unit_of_work() as work:
            await work.verifications.ensure_holders(this.at)
            await work.commit()
        async with self._unit_of_work() as work:
            due = await work.verifications.due(this.at, within=self._rhythm.read)
        broken: list[BaseException] = []
        for start in range(0, len(due), AT_A_TIME):
            some = due[start : start + AT_A_TIME]
            ends = await asyncio.gather(*(self._look_in_turn(key, this) for key in some), return_exceptions=True)
            broken += [end for end in ends if isinstance(end, BaseException)]
            if any(isinstance(end, Unavailable) for end in broken):
                break
        if broken:
            # All of them first: one that breaks must not keep others from being looked at.
            raise broken[0]
        async with self._unit_of_work() as work:
            if await work.verifications.unread():
                await work.jobs.read_versions()
            counts = await work.verifications.counts(unseen_since=this.at - UNSEEN_AFTER)
            await work.commit()
        for state, count in counts.items():
            BYTES_NOT_AS_APPROVED.labels(state=state).set(count)

    async def read(self) -> None:
        """Read what the looks have left unread, one version after the other, and look at each of them afterwards.

        Raises:
            Unavailable: the database does not answer. What was read until then is kept.
        """
        async with self._unit_of_work() as work:
            unread = await work.verifications.unread()
        for key in unread:
            await self._read_all(key)

    # One look.

    async def _look_in_turn(self, key: VersionKey, this: _Round) -> None:
        async with self._turn:
            await self._look(key, this)

    async def _look(self, key: VersionKey, this: _Round) -> None:
        async with self._unit_of_work() as work:
            before = await work.verifications.load(key)
            manifest = await work.manifests.find(before.digest) if before else None
        if before is None:
            return
        place = _place(before.uri)
        if why := this.away.get(place):
            await self._note_obstacle(before, why, this.at)
            return
        try:
            sight, fresh = await self._seen(before, manifest)
        except _Unseen as unseen:
            await self._note_obstacle(before, str(unseen), this.at)
        except Unavailable as error:
            this.away[place] = error.message
            await self._note_obstacle(before, error.message, this.at)
        else:
            await self._conclude(before, sight, fresh, is_known=manifest is not None)

    async def _seen(self, before: Verification, manifest: Manifest | None) -> tuple[Sight, Mapping[str, Seen]]:
        """What is there, and what was read for it.

        Raises:
            _Unseen: the store does not let us see it. Unavailable: the store does not answer.
        """
        fresh: dict[str, Seen] = {}
        for tried in range(1, TRIES + 1):
            files, sight = await self._listed(before, manifest, fresh)
            if not sight.unread or sight.difference or not _is_little(sight):
                break
            try:
                async with self._reading:
                    await self._read(before.uri, sight.unread, fresh.update)
            except ArtifactsUnreadable as denied:
                raise _Unseen(denied.message) from None
            except Unresolvable as unsettled:
                # A file went or changed while it was read: what is there now is listed anew.
                if tried == TRIES:
                    return Sight(BytesState.CHANGED, _sentence(unsettled)), fresh
                continue
            seen = replace(before, seen={**before.seen, **fresh})
            sight = compared(files, seen, manifest, self._rhythm, at=self._clock.now())
            break
        return sight, fresh

    async def _listed(
        self, before: Verification, manifest: Manifest | None, fresh: Mapping[str, Seen]
    ) -> tuple[Sequence[StoredFile], Sight]:
        """What the store lists, and what that says. That there is nothing is believed when it is said twice."""
        try:
            try:
                files = await self._store.stored(before.uri)
            except NoArtifacts:
                files = await self._store.stored(before.uri)
        except NoArtifacts as gone:
            return (), Sight(BytesState.GONE, _sentence(gone))
        except ArtifactsUnreadable as denied:
            raise _Unseen(denied.message) from None
        except Unresolvable as other:
            # A link, say, or a name that nothing approved can have.
            return (), Sight(BytesState.CHANGED, _sentence(other))
        seen = replace(before, seen={**before.seen, **fresh})
        return files, compared(files, seen, manifest, self._rhythm, at=self._clock.now())

    async def _read(self, uri: str, files: Sequence[StoredFile], found: Callable[[Mapping[str, Seen]], None]) -> None:
        by_path = {file.path: file for file in files}
        async with aclosing(self._store.digests(uri, files, lambda _: None)) as digests:
            async for digest in digests:
                file = by_path[digest.path]
                found({file.path: Seen(file.size, file.stamp, digest.sha256, self._clock.now())})

    # What follows from it.

    async def _conclude(self, before: Verification, sight: Sight, fresh: Mapping[str, Seen], *, is_known: bool) -> None:
        """Write down what was seen, unless another look, or a promotion, was faster; and tell of what has changed."""
        is_described = False
        if sight.digests and not is_known:
            with suppress(Unavailable):  # the next look finds it missing
                is_described = await self._manifests.keep(before.uri, measured(sight.digests))
        now = self._clock.now()
        seen = {**before.seen, **fresh}
        is_whole = not sight.unread or bool(sight.difference)
        after = replace(
            before,
            state=sight.state,
            message=sight.message,
            looked_at=now if is_whole else before.looked_at,
            read_at=oldest_reading(sight.digests, seen) or before.read_at,
            obstacle=None if is_whole else before.obstacle,
            unread_bytes=sight.unread_bytes if sight.unread and not sight.difference else None,
            due_at=self._rhythm.due(now, holds=bool(before.aliases)),
        )
        async with self._unit_of_work() as work:
            if fresh:
                await work.verifications.keep_seen(before.key, fresh)
            if await work.verifications.save(before, after) and after.state is not before.state:
                self._tell(work, before, after, sight, at=now)
            if is_described:  # what resolves says more from now on
                work.forget_resolutions(workspace=before.key.workspace, model=before.key.model)
            await work.commit()

    def _tell(self, work: UnitOfWork, before: Verification, after: Verification, sight: Sight, *, at: datetime) -> None:
        """Have nobody be answered with what is not there any more, or let it resolve again; and say so to everybody."""
        key, kind = after.key, EventType.BYTES_CHANGED
        if after.state is BytesState.AS_APPROVED:
            kind = EventType.BYTES_RESTORED
        said = {
            "model": key.model,
            "version": key.version,
            **({} if key.workspace == DEFAULT_WORKSPACE else {"workspace": key.workspace}),
            "aliases": [*after.aliases],
            "uri": after.uri,
            "digest": after.digest,
            "promotion": after.promotion_id,
            "state": after.state.value,
            "message": str(after),
        }
        work.record(Entry(at, SYSTEM_WORKER, kind.value, after.promotion_id, {**said, **sight.difference.named}))
        if after.aliases:
            # What no alias points to is nobody's alarm: old versions are cleaned up.
            emit(work, kind, subject=str(key), key=AliasKey(key.workspace, key.model, ""), at=at, known=said)
        for alias in after.aliases:
            work.announce(alias_topic(AliasKey(key.workspace, key.model, alias)))
        work.announce(topic_of(after.promotion_id))
        work.forget_resolutions(workspace=key.workspace, model=key.model)
        log = _log.info if after.state is BytesState.AS_APPROVED else _log.warning
        log("bytes_of_version", version=str(key), was=before.state.value, now=after.state.value, reason=after.message)

    async def _note_obstacle(self, before: Verification, why: str, at: datetime) -> None:
        """Keep why it could not be seen; its state stays, and it is tried again at the next occasion."""
        if why != before.obstacle:
            _log.warning("version_not_looked_at", version=str(before.key), reason=why)
        async with self._unit_of_work() as work:
            await work.verifications.save(before, replace(before, obstacle=why, due_at=at))
            await work.commit()

    # Much at a time.

    async def _read_all(self, key: VersionKey) -> None:
        """Read what is not known of a version, writing down what was read; then look at it."""
        for tried in range(1, TRIES + 1):
            async with self._unit_of_work() as work:
                before = await work.verifications.load(key)
                manifest = await work.manifests.find(before.digest) if before else None
            if before is None:
                return
            try:
                _, sight = await self._listed(before, manifest, {})
                if sight.unread and not sight.difference:
                    await self._read_and_keep(before, manifest, sight.unread)
            except (Unavailable, ArtifactsUnreadable, _Unseen) as obstacle:
                why = obstacle.message if isinstance(obstacle, Unavailable | ArtifactsUnreadable) else str(obstacle)
                await self._note_obstacle(before, why, self._clock.now())
                return
            except Unresolvable as unsettled:
                if tried == TRIES:
                    sight = Sight(BytesState.CHANGED, _sentence(unsettled))
                    await self._conclude(before, sight, {}, is_known=manifest is not None)
                    return
                continue
            break
        await self._look(key, _Round(self._clock.now()))

    async def _read_and_keep(
        self, before: Verification, manifest: Manifest | None, files: Sequence[StoredFile]
    ) -> None:
        """Read until something is found that was not approved: that is enough to know."""
        approved = {file.path: file.sha256 for file in manifest.files} if manifest else {}
        by_path = {file.path: file for file in files}
        fresh: dict[str, Seen] = {}
        unkept = 0
        try:
            async with aclosing(self._store.digests(before.uri, files, lambda _: None)) as digests:
                async for digest in digests:
                    file = by_path[digest.path]
                    fresh[file.path] = Seen(file.size, file.stamp, digest.sha256, self._clock.now())
                    unkept += file.size
                    if len(fresh) >= WRITTEN_EVERY or unkept >= READ_AT_ONCE:
                        await self._keep(before.key, fresh)
                        unkept = 0
                    if approved.get(file.path, digest.sha256) != digest.sha256:
                        return
        finally:
            await self._keep(before.key, fresh)

    async def _keep(self, key: VersionKey, fresh: dict[str, Seen]) -> None:
        if fresh:
            async with self._unit_of_work() as work:
                await work.verifications.keep_seen(key, fresh)
                await work.commit()
            fresh.clear()


def _place(uri: str) -> str:
    """The store and bucket of an address: what is away for one is away for all in it."""
    return "/".join(uri.split("/", 3)[:3])


def _is_little(sight: Sight) -> bool:
    return sight.unread_bytes <= READ_AT_ONCE and len(sight.unread) <= FILES_AT_ONCE


def _sentence(error: Unresolvable) -> str:
    return error.message.rstrip(".")
