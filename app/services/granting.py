"""The grants there are, as they are asked for every new credential: read once, and again when they change."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from copy import copy

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Principal
from app.domain.errors import NotAuthenticated
from app.domain.grants import EVERYBODY, Access, Grant, applying_to
from app.domain.identity import Identity, Verified
from app.ports import Freshness
from app.services.recording import UnitOfWorkFactory

REMEMBERED = 10_000


class Book:
    """All grants, so arranged that those of one principal are found without looking at the others.

    Args:
        grants: all of them.
        disabled: ids of principals who are not let in.
        epoch: of when they were read.
    """

    def __init__(self, grants: Iterable[Grant], *, disabled: Iterable[str] = (), epoch: int = 0) -> None:
        self.grants = tuple(grants)
        self.epoch = epoch
        self._disabled = frozenset(disabled)
        self._by_person: defaultdict[str, list[Grant]] = defaultdict(list)
        self._by_group: defaultdict[str, list[Grant]] = defaultdict(list)
        self._by_issuer: defaultdict[str, list[Grant]] = defaultdict(list)
        self._access: dict[tuple[str, tuple[int, ...]], Access] = {}
        for grant in self.grants:
            subject = grant.subject
            if subject.person is not None:
                self._by_person[subject.person].append(grant)
            elif subject.group is not None:
                self._by_group[subject.group].append(grant)
            elif subject.issuer is not None:
                self._by_issuer[subject.issuer].append(grant)

    def at(self, epoch: int, *, disabled: Iterable[str]) -> Book:
        """The same grants, as they still are at a later epoch."""
        book = copy(self)
        book.epoch, book._disabled = epoch, frozenset(disabled)  # noqa: SLF001  # a copy of our own
        return book

    def principal(self, verified: Verified) -> Principal:
        """Who was verified, with what they may do.

        Raises:
            NotAuthenticated: an administrator has disabled them.
        """
        if verified.identity.id in self._disabled:
            raise NotAuthenticated(
                "An administrator has disabled this account.",
                error="invalid_token",
                principal_id=verified.identity.id,
            )
        return Principal(verified.identity, self.access_of(verified.identity), verified.credential)

    def access_of(self, identity: Identity) -> Access:
        """What somebody may do, compiled once for the grants that they have.

        Not once for their claims: those of a CI differ from job to job, and its grants do not.
        """
        grants = tuple(self._of(identity))
        key = (identity.id, tuple(map(id, grants)))
        access = self._access.get(key)
        if access is None:
            if len(self._access) >= REMEMBERED:
                self._access.clear()
            access = self._access[key] = Access(grants, owner_id=identity.id)
        return access

    def _of(self, identity: Identity) -> Iterable[Grant]:
        found = [*self._by_person.get(identity.id, ())]
        for group in (EVERYBODY, *sorted(identity.groups)):
            found += self._by_group.get(group, ())
        found += self._by_issuer.get(identity.issuer, ())
        return applying_to(identity, found)


class GrantBook:
    """Keeps the book of one process up to date.

    Args:
        unit_of_work: our database.
        freshness: says when to read again.
        settings: the operator's own grants (``COUNTERSIGN_ROLES``), which are always there.
    """

    def __init__(self, unit_of_work: UnitOfWorkFactory, freshness: Freshness, settings: Iterable[Grant] = ()) -> None:
        self._unit_of_work = unit_of_work
        self._freshness = freshness
        self._settings = tuple(settings)
        self._book: Book | None = None
        self._fingerprint: str | None = None
        self._lock = asyncio.Lock()

    async def current(self) -> Book:
        """The grants as they are now, at most a second old.

        Raises:
            Unavailable: the database does not answer, so that it is not known what was taken away.
        """
        if (book := self._fresh()) is not None:
            return book
        async with self._lock:
            if (book := self._fresh()) is None:
                book = self._book = await self._read()
        return book

    def _fresh(self) -> Book | None:
        book = self._book
        return book if book is not None and book.epoch == self._freshness.epoch() else None

    async def _read(self) -> Book:
        async with self._unit_of_work() as work:
            # The number first: grants that are newer than it are read again, never the other way round.
            epoch = await work.grants.epoch()
            fingerprint = await work.grants.fingerprint()
            disabled = await work.principals.disabled()
            if self._book is not None and fingerprint == self._fingerprint:
                # A session ended somewhere: what was compiled of the grants holds.
                return self._book.at(epoch, disabled=disabled)
            grants = [stored.grant for stored in await work.grants.all()]
            is_same = await work.grants.fingerprint() == fingerprint
        self._fingerprint = fingerprint if is_same else None
        return Book((*self._settings, *grants), disabled=disabled, epoch=epoch)


class PresentGrants:
    """The grants as a transaction sees them, for the few questions where a second is too old.

    Args:
        settings: the operator's own grants (``COUNTERSIGN_ROLES``).
    """

    def __init__(self, settings: Iterable[Grant] = ()) -> None:
        self._settings = tuple(settings)
        self._fingerprint = ""
        self._book: Book | None = None

    async def book(self, work: UnitOfWork) -> Book:
        """All grants; compiled anew only when they changed."""
        fingerprint = await work.grants.fingerprint()
        if self._book is None or fingerprint != self._fingerprint:
            grants = [stored.grant for stored in await work.grants.all()]
            if await work.grants.fingerprint() != fingerprint:
                return Book((*self._settings, *grants))
            self._book, self._fingerprint = Book((*self._settings, *grants)), fingerprint
        return self._book
