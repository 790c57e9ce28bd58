"""Whether what lies at the address of an approved version is what was approved: what is compared, when, and what of it.

A version is looked at: its files are listed, and compared with those of its digest. A file of another size, one more or
one less is a change that nobody has to read. A file whose stamp is known need not be read either, until its last
reading is so long ago that everything is read again: a stamp is what the store says of the file, not the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from app.domain.digests import FileDigest, Measured, StoredFile, tree_digest
from app.domain.errors import BytesChanged
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.manifests import Manifest
from app.domain.promotions import Promotion

NAMED = 20
"""Files of each kind that are named; of more it is said how many there are."""

UNSEEN_AFTER = timedelta(days=1)
"""A version that holds an alias, and could not be looked at for so long, is an alarm as one that changed."""


class BytesState(StrEnum):
    """What was found last. Only *as approved* resolves."""

    AS_APPROVED = "as_approved"
    CHANGED = "changed"
    GONE = "gone"


@dataclass(frozen=True, slots=True, order=True)
class VersionKey:
    """One version, told apart from others that had its number before or have it later (see ``Promotion``)."""

    workspace: str
    model: str
    model_created_at: int
    version: str
    version_created_at: int

    def __str__(self) -> str:
        resource = self.model if self.workspace == DEFAULT_WORKSPACE else f"{self.workspace}/{self.model}"
        return f"{resource}/{self.version}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was read last, whatever was found: ``stamp`` is the store's, ``sha256`` that of its content."""

    size: int
    stamp: str
    sha256: str
    read_at: datetime


@dataclass(frozen=True, slots=True)
class Verification:
    """Of one version. ``digest`` is what was approved, in the promotion by which it held an alias last.

    ``looked_at`` is when all of it was seen last, none if it never was. ``obstacle`` is why it could not be seen since,
    and says nothing of the bytes. ``unread_bytes`` are to be read before more can be said. ``aliases`` are those that
    it holds now. ``writes`` counts what was concluded: who has looked meanwhile has looked in vain.
    """

    key: VersionKey
    uri: str
    digest: str
    promotion_id: str
    due_at: datetime
    state: BytesState = BytesState.AS_APPROVED
    message: str | None = None
    seen: Mapping[str, Seen] = field(default_factory=dict, hash=False)
    looked_at: datetime | None = None
    read_at: datetime | None = None
    obstacle: str | None = None
    unread_bytes: int | None = None
    aliases: tuple[str, ...] = ()
    writes: int = 0

    def __str__(self) -> str:
        version = f"Version {self.key.version} of model {self.key.model}"
        match self.state:
            case BytesState.AS_APPROVED:
                return f"{version} is what was approved."
            case BytesState.CHANGED:
                return f"{version} is not what was approved: {self.message}."
            case BytesState.GONE:
                return f"{version} is gone: {self.message}."


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often a version is looked at while it holds an alias, and how often all of it is read again."""

    look: timedelta
    read: timedelta

    def due(self, at: datetime, *, holds: bool) -> datetime:
        """When a version that was looked at is due again: one that holds no alias, as seldom as others are read.

        A little before the next look, which else would come a moment too early for it.
        """
        return at + (self.look if holds else self.read) * 0.9

    def is_fresh(self, seen: Seen, *, at: datetime, holds: bool) -> bool:
        """Whether a file need not be read again. A time far in the future says nothing: the clock was set back."""
        age = at - seen.read_at
        return -self.read < age and (not holds or age < self.read)


@dataclass(frozen=True, slots=True)
class Difference:
    """Files that are not as approved, by path. Empty: none that is known."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        kinds = (("added", self.added), ("removed", self.removed), ("changed", self.changed))
        return "; ".join(f"{kind}: {_some(paths)}" for kind, paths in kinds if paths)

    @property
    def named(self) -> dict[str, list[str]]:
        """At most ``NAMED`` of each kind."""
        kinds = {"added": self.added, "removed": self.removed, "changed": self.changed}
        return {kind: [*paths[:NAMED]] for kind, paths in kinds.items() if paths}


@dataclass(frozen=True, slots=True)
class Sight:
    """What a look at a version found: what differs, and what must be read before that is all.

    ``digests`` are those of all files, where all are known.
    """

    state: BytesState
    message: str | None = None
    difference: Difference = Difference()
    unread: tuple[StoredFile, ...] = ()
    digests: tuple[FileDigest, ...] = ()

    @property
    def unread_bytes(self) -> int:
        return sum(file.size for file in self.unread)


def key_of(promotion: Promotion) -> VersionKey:
    """The version that a promotion promotes."""
    return VersionKey(
        promotion.workspace,
        promotion.model,
        promotion.model_created_at,
        promotion.to_version,
        promotion.version_created_at,
    )


def approved(promotion: Promotion, found: Measured, *, at: datetime) -> Verification:
    """What is known of a version when a promotion puts it on an alias: it has just been read. It is due at once."""
    digests = {file.path: file.sha256 for file in found.files}
    seen = {file.path: Seen(file.size, file.stamp, digests[file.path], at) for file in found.listed}
    return Verification(
        key_of(promotion),
        uri=promotion.uri,
        digest=found.digest,
        promotion_id=promotion.id,
        due_at=at,
        seen=seen,
        looked_at=at,
        read_at=at,
    )


def compared(
    files: Sequence[StoredFile], verification: Verification, manifest: Manifest | None, rhythm: Rhythm, *, at: datetime
) -> Sight:
    """What the files that are listed say of a version, with what is known of those that were read before.

    Args:
        files: as the store lists them now.
        verification: what was approved, and what was read.
        manifest: that of the digest; none if it was approved before manifests were kept. Then all must be read before
            anything can be said, and no file can be named.
        rhythm: how often files are read again.
        at: the present.
    """
    known = {file.path: sha256 for file in files if (sha256 := _sha256(file, verification, rhythm, at=at))}
    unread = tuple(file for file in files if file.path not in known)
    digests = tuple(FileDigest(file.path, file.size, known[file.path]) for file in files if file.path in known)
    if manifest is None:
        if unread:
            return Sight(verification.state, verification.message, unread=unread)
        if (found := tree_digest(digests)) != verification.digest:
            return Sight(BytesState.CHANGED, f"its digest is {found}")
        return Sight(BytesState.AS_APPROVED, digests=digests)
    approved = {file.path: file for file in manifest.files}
    present = {file.path for file in files}
    difference = Difference(
        added=tuple(sorted(present - approved.keys())),
        removed=tuple(sorted(approved.keys() - present)),
        changed=tuple(sorted(file.path for file in files if _differs(file, approved, known))),
    )
    # What is another file already need not be read to know it.
    unread = tuple(file for file in unread if file.path in approved and file.size == approved[file.path].size)
    if difference:
        return Sight(BytesState.CHANGED, str(difference), difference, unread)
    # What was changed is not as approved before it has been read again, and the other way round.
    state, message = (verification.state, verification.message) if unread else (BytesState.AS_APPROVED, None)
    return Sight(state, message, unread=unread, digests=() if unread else digests)


def _sha256(file: StoredFile, verification: Verification, rhythm: Rhythm, *, at: datetime) -> str | None:
    if file.sha256:
        return file.sha256
    seen = verification.seen.get(file.path)
    if seen is None or (seen.size, seen.stamp) != (file.size, file.stamp):
        return None
    is_known = file.is_immutable or rhythm.is_fresh(seen, at=at, holds=bool(verification.aliases))
    return seen.sha256 if is_known else None


def _differs(file: StoredFile, approved: Mapping[str, FileDigest], known: Mapping[str, str]) -> bool:
    was = approved.get(file.path)
    return was is not None and (file.size != was.size or known.get(file.path, was.sha256) != was.sha256)


def oldest_reading(files: Iterable[FileDigest], seen: Mapping[str, Seen]) -> datetime | None:
    """When the file was read that was not read for the longest time; none if none had to be."""
    return min((seen[file.path].read_at for file in files if file.path in seen), default=None)


def against(verification: Verification, digest: str | None) -> Verification:
    """What was found, as it is for who was promised this digest: other bytes may have been approved since."""
    if verification.state is not BytesState.AS_APPROVED or digest in {None, verification.digest}:
        return verification
    why = f"its digest is {verification.digest} since promotion {verification.promotion_id}, approved here was {digest}"
    return replace(verification, state=BytesState.CHANGED, message=why)


def check_as_approved(verification: Verification | None, digest: str | None) -> None:
    """Return if a version may resolve as what was approved with this digest.

    One that nobody has looked at yet may: it was compared when the alias moved.

    Raises:
        BytesChanged: what lies there is something else, or nothing; or other bytes were approved since.
    """
    found = against(verification, digest) if verification else None
    if found and found.state is not BytesState.AS_APPROVED:
        raise BytesChanged(str(found), state=found.state.value, promotion=found.promotion_id)


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more
