"""The audit log: append-only entries in a hash chain, verifiable from an export without our server.

The hash of an entry is the SHA-256 of the previous entry's hash (64 hexadecimal digits; zeros before the first), a
newline and the entry as canonical JSON: keys sorted, no white space, UTF-8. Entries hold text, whole numbers,
booleans, null, lists and objects with ASCII keys only; for those, this is RFC 8785. A changed, removed, inserted or
reordered entry breaks every hash after it. Removing entries from the end is not seen by the chain alone: keep the
last hash elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it: a principal, or a part of Countersign itself (``issuer`` is then empty)."""

    id: str
    name: str


SYSTEM_WORKER = Actor(id="countersign:worker", name="worker")
OPERATOR = Actor(id="countersign:operator", name="operator")
ANONYMOUS = Actor(id="", name="anonymous")


@dataclass(frozen=True, slots=True)
class Entry:
    """What happened. ``details`` never holds a secret."""

    at: datetime
    actor: Actor
    action: str
    object_id: str
    details: Mapping[str, object]

    def document(self, sequence: int) -> dict[str, object]:
        return {
            "sequence": sequence,
            "at": self.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "actor": {"id": self.actor.id, "name": self.actor.name},
            "action": self.action,
            "object": self.object_id,
            "details": dict(self.details),
        }


@dataclass(frozen=True, slots=True)
class ChainedEntry:
    """An entry as it was stored: its document, and the two hashes that chain it."""

    document: Mapping[str, object]
    previous_hash: str
    hash: str


def canonical(document: Mapping[str, object]) -> bytes:
    """The bytes that are hashed.

    Raises:
        TypeError: the document holds something that has no one canonical form, such as a float.
    """
    _check(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _check(value: object) -> None:
    match value:
        case None | bool() | int() | str():
            return
        case Mapping():
            for key, item in value.items():
                if not (isinstance(key, str) and key.isascii()):
                    raise TypeError(f"a key of an audit entry must be ASCII text, not {key!r}")
                _check(item)
        case list() | tuple():
            for item in value:
                _check(item)
        case _:
            raise TypeError(f"an audit entry cannot hold {type(value).__name__}")


def chained_hash(previous_hash: str, document: Mapping[str, object]) -> str:
    """The hash of an entry, 64 hexadecimal digits."""
    return hashlib.sha256(previous_hash.encode() + b"\n" + canonical(document)).hexdigest()


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome: how many entries were read, the hash of the last good one, and what is wrong, if anything."""

    entries: int
    last_hash: str
    problem: str | None = None

    @property
    def is_intact(self) -> bool:
        return self.problem is None


class Verifier:
    """Checks entries in their order, from the first on; feed it page by page."""

    def __init__(self) -> None:
        self._sequence = 0
        self._hash = GENESIS
        self._problem: str | None = None

    def feed(self, entries: Iterable[ChainedEntry]) -> None:
        for entry in entries:
            if self._problem is None:
                self._problem = self._problem_of(entry)
            if self._problem is not None:
                return
            self._sequence += 1
            self._hash = entry.hash

    def _problem_of(self, entry: ChainedEntry) -> str | None:
        expected = self._sequence + 1
        if entry.document.get("sequence") != expected:
            return f"entry {expected} is missing: found {entry.document.get('sequence')} in its place"
        if entry.previous_hash != self._hash:
            return f"entry {expected} does not follow entry {self._sequence}: the chain is broken before it"
        try:
            computed = chained_hash(entry.previous_hash, entry.document)
        except TypeError as error:
            return f"entry {expected} was changed: {error}"
        if computed != entry.hash:
            return f"entry {expected} was changed: its hash does not match its content"
        return None

    @property
    def result(self) -> Verification:
        return Verification(self._sequence, self._hash, self._problem)


def verify(entries: Iterable[ChainedEntry]) -> Verification:
    """Verify a whole export at once."""
    verifier = Verifier()
    verifier.feed(entries)
    return verifier.result
