"""Giving and taking away: grants through the API, and whom they are listed for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from app.adapters.postgres.grants import StoredGrant
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Principal, may, require, within_scopes
from app.domain.audit import Actor, Entry
from app.domain.errors import (
    Forbidden,
    InsufficientScope,
    NotFound,
    PreconditionFailed,
    SelfGrant,
    WouldLockOut,
)
from app.domain.explaining import GIVEN_BY_OWNERS, administered_by
from app.domain.grants import (
    DEFAULT_WORKSPACE,
    SERVER,
    Access,
    Grant,
    Resource,
    ResourceKind,
    applying_to,
    check_grant_name,
    grant_document,
    grant_from_document,
    is_pattern,
)
from app.domain.identity import Scope
from app.domain.roles import NOT_FOR_ONESELF, Permission, Role
from app.ports import Clock
from app.services.recording import UnitOfWorkFactory, actor_of

Place = tuple[str, str]
"""A workspace, and a name in it."""

ExperimentOf = Callable[[str, str], Awaitable[str | None]]
"""The id of the experiment of a workspace and a name, if there is one."""


@dataclass(frozen=True, slots=True)
class ListedGrant:
    """A grant, and where it is written: by whom in the database, or by the operator in the settings."""

    grant: Grant
    stored: StoredGrant | None

    @property
    def origin(self) -> str:
        return "database" if self.stored else "settings"

    @property
    def document(self) -> Mapping[str, object]:
        return grant_document(self.grant)

    @property
    def revision(self) -> int | None:
        return self.stored.revision if self.stored else None

    @property
    def updated_at(self) -> datetime | None:
        return self.stored.updated_at if self.stored else None

    @property
    def updated_by(self) -> str | None:
        return self.stored.updated_by if self.stored else None


@dataclass(frozen=True, slots=True)
class GrantFilter:
    """Which grants a list holds; none means any."""

    role: Role | None = None
    person: str | None = None
    group: str | None = None
    issuer: str | None = None
    model: str | None = None
    """Those that reach this model, by name or pattern."""
    experiment: str | None = None

    def includes(self, grant: Grant) -> bool:
        subject = grant.subject
        for wanted, found in (
            (self.person, subject.person),
            (self.group, subject.group),
            (self.issuer, subject.issuer),
        ):
            if wanted is not None and wanted != found:
                return False
        if self.role is not None and grant.role is not self.role:
            return False
        return (self.model is None or grant.concerns(ResourceKind.MODEL, self.model)) and (
            self.experiment is None or grant.concerns(ResourceKind.EXPERIMENT, self.experiment)
        )


class Grants:
    """See the module.

    Args:
        unit_of_work: our database.
        clock: the present.
        settings: the operator's own grants (``COUNTERSIGN_ROLES``): shown, and changed by nobody from inside.
        experiment_of: finds the experiments that somebody may own.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        clock: Clock,
        *,
        settings: Iterable[Grant] = (),
        experiment_of: ExperimentOf | None = None,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._settings = tuple(settings)
        self._experiment_of = experiment_of

    async def page(self, principal: Principal, wanted: GrantFilter, *, after: str, limit: int) -> Sequence[ListedGrant]:
        """By name, those after ``after``: all, or for who may not read them, those on models that they own."""
        async with self._unit_of_work() as work:
            found = await self._all(work)
            owned = await self._owned(work, principal)
        if not may(principal, Permission.GRANTS_READ):
            found = [each for each in found if owned.holds(each.grant)]
        return [each for each in found if each.grant.name > after and wanted.includes(each.grant)][:limit]

    async def get(self, principal: Principal, name: str) -> ListedGrant:
        """Raises ``NotFound``: there is none, or the principal may not know of it."""
        found = await self._find(name)
        if found is not None:
            if may(principal, Permission.GRANTS_READ):
                return found
            experiments = await self._experiments_of([found.grant])
            async with self._unit_of_work() as work:
                owned = await self._owned(work, principal, experiments)
            if owned.holds(found.grant):
                return found
        raise _no_such_grant(name)

    async def put(
        self,
        principal: Principal,
        document: Mapping[str, object],
        *,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> tuple[ListedGrant, bool]:
        """Write a grant, new or in the place of the one of its name.

        Args:
            principal: an administrator; or the owner of the model or experiment that it is on.
            document: ``kind: Grant``.
            if_match: the ETag that the grant must have now.
            if_none_match: whether there must be none of this name.

        Returns:
            The grant, and whether it is new.

        Raises:
            InvalidInput: names the field of the document, and what was expected.
            Forbidden, InsufficientScope, SelfGrant: the principal may not give this.
            WouldLockOut: the principal could not undo it.
            PreconditionFailed: it was changed meanwhile.
        """
        grant = grant_from_document(document)
        if not may(principal, Permission.GRANTS_ADMINISTER):
            grant = _in_one_workspace(grant)
        experiments = await self._experiments_of([grant])
        async with self._unit_of_work() as work:
            present = await self._to_change(work, grant.name)
            changing = [grant] if present is None else [present.grant, grant]
            actor = await self._check_may_change(work, principal, changing, experiments)
            _check_precondition(grant.name, present, if_match=if_match, if_none_match=if_none_match)
            if present is not None and present.grant == grant:
                return ListedGrant(grant, present), False
            await _check_not_for_oneself(work, principal, present.grant if present else None, grant)
            self._check_still_administers(actor, await self._grants(work), without=grant.name, with_=grant)
            stored = await work.grants.put(grant, at=self._clock.now(), by=principal.id)
            self._record(work, actor_of(principal), present.grant if present else None, grant)
            await work.commit()
        return ListedGrant(grant, stored), present is None

    async def remove(self, principal: Principal, name: str, *, if_match: str | None = None) -> None:
        """Take a grant back.

        Raises:
            NotFound: there is none, or the principal may not know of it.
            Forbidden, InsufficientScope, SelfGrant, WouldLockOut, PreconditionFailed: see ``put``.
        """
        found = await self.get(principal, name)
        experiments = await self._experiments_of([found.grant])
        async with self._unit_of_work() as work:
            present = await self._to_change(work, name)
            if present is None:
                raise _no_such_grant(name)
            actor = await self._check_may_change(work, principal, [present.grant], experiments)
            _check_precondition(name, present, if_match=if_match, if_none_match=False)
            await _check_not_for_oneself(work, principal, present.grant, None)
            self._check_still_administers(actor, await self._grants(work), without=name, with_=None)
            await work.grants.remove(name)
            self._record(work, actor_of(principal), present.grant, None)
            await work.commit()

    async def nobody_administers(self) -> bool:
        """Whether no grant makes anybody an administrator, so that nothing can be changed through the API."""
        async with self._unit_of_work() as work:
            return not administered_by(await self._grants(work))

    async def _all(self, work: UnitOfWork) -> list[ListedGrant]:
        found = [ListedGrant(grant, None) for grant in self._settings]
        found += [ListedGrant(stored.grant, stored) for stored in await work.grants.all()]
        return sorted(found, key=lambda each: each.grant.name)

    async def _grants(self, work: UnitOfWork) -> list[Grant]:
        return [each.grant for each in await self._all(work)]

    async def _to_change(self, work: UnitOfWork, name: str) -> StoredGrant | None:
        if any(grant.name == name for grant in self._settings):
            raise Forbidden(f"Grant {name} is the operator's own (COUNTERSIGN_ROLES); it is changed there alone.")
        check_grant_name(name)
        # Whether somebody is left who administers is a question about all grants: two changes wait for each other.
        await work.grants.lock()
        return await work.grants.get(name)

    async def _check_may_change(
        self, work: UnitOfWork, principal: Principal, changing: Sequence[Grant], experiments: Mapping[Place, str]
    ) -> Principal:
        """The principal as the grants are now: what the gateway remembers of them may be a second old."""
        known = await work.principals.get(principal.id)
        if known is not None and known.disabled_at is not None:
            raise Forbidden("This account was disabled by an administrator.")
        access = Access(applying_to(principal.identity, await self._grants(work)), owner_id=principal.id)
        now = replace(principal, access=access)
        if access.may(Permission.GRANTS_ADMINISTER, SERVER):
            require(now, Permission.GRANTS_ADMINISTER)
            return now
        owned = await self._owned(work, now, experiments)
        if not all(owned.holds(grant) for grant in changing):
            raise Forbidden(
                f"{principal.name} does not administer grants. Who owns a model or experiment may make others "
                f"{', '.join(role.value for role in GIVEN_BY_OWNERS)} on exactly that one, by its name.",
                permission=Permission.GRANTS_ADMINISTER.value,
            )
        if Permission.GRANTS_ADMINISTER not in within_scopes(principal.scopes):
            raise InsufficientScope("Giving grants needs a token with the scope admin.", scope=Scope.ADMIN.value)
        return now

    async def _find(self, name: str) -> ListedGrant | None:
        async with self._unit_of_work() as work:
            return next((each for each in await self._all(work) if each.grant.name == name), None)

    async def _owned(
        self, work: UnitOfWork, principal: Principal, experiments: Mapping[Place, str] | None = None
    ) -> _Owned:
        if not principal.access.owns(Resource(ResourceKind.MODEL, owner=principal.id)):
            return _Owned(frozenset(), frozenset())
        owned = await work.owners.owned_by(principal.id)
        return _Owned(
            frozenset((workspace, name) for kind, workspace, name in owned if kind == "model"),
            frozenset(
                place for place, found in (experiments or {}).items() if ("experiment", place[0], found) in owned
            ),
        )

    async def _experiments_of(self, grants: Iterable[Grant]) -> Mapping[Place, str]:
        """The ids of experiments that grants name. Asks MLflow, and so in no transaction."""
        if self._experiment_of is None:
            return {}
        found: dict[Place, str] = {}
        for on in (grant.on for grant in grants):
            if on.experiment is None or on.workspace is None or is_pattern(on.experiment) or is_pattern(on.workspace):
                continue
            if (experiment := await self._experiment_of(on.workspace, on.experiment)) is not None:
                found[on.workspace, on.experiment] = experiment
        return found

    @staticmethod
    def _check_still_administers(
        principal: Principal, grants: Iterable[Grant], *, without: str, with_: Grant | None
    ) -> None:
        """Who administers and takes that from themselves could not undo it; so somebody always does."""
        if not principal.access.may(Permission.GRANTS_ADMINISTER, SERVER):
            return
        after = [grant for grant in grants if grant.name != without] + ([with_] if with_ else [])
        if not Access(applying_to(principal.identity, after)).may(Permission.GRANTS_ADMINISTER, SERVER):
            raise WouldLockOut(
                "After this change you would not be an administrator any more, and could not undo it; ask another "
                "administrator to make it, or the operator (`countersign apply`)."
            )

    def _record(self, work: UnitOfWork, actor: Actor, before: Grant | None, after: Grant | None) -> None:
        record_grant(work, actor, before, after, at=self._clock.now())


def record_grant(work: UnitOfWork, actor: Actor, before: Grant | None, after: Grant | None, *, at: datetime) -> None:
    """An audit entry with what was and what is, and everybody forgets what they knew of callers."""
    grant = after or before
    assert grant is not None  # something was changed
    action = "grant.created" if before is None else "grant.changed" if after else "grant.removed"
    details: dict[str, object] = {"summary": str(grant)}
    if before is not None:
        details["before"] = grant_document(before)
    if after is not None:
        details["after"] = grant_document(after)
    work.record(Entry(at, actor, action, grant.name, details))
    work.forget_callers()


@dataclass(frozen=True, slots=True)
class _Owned:
    """What somebody created, by workspace and name."""

    models: frozenset[Place]
    experiments: frozenset[Place]

    def holds(self, grant: Grant) -> bool:
        """Whether this is a grant by which an owner shares what is theirs: creators own what they create."""
        on = grant.on
        if grant.is_denial or grant.role not in GIVEN_BY_OWNERS or on.alias is not None or on.workspace is None:
            return False
        name = on.model or on.experiment
        if name is None or is_pattern(name) or is_pattern(on.workspace):
            return False
        return (on.workspace, name) in (self.models if on.model is not None else self.experiments)


def _in_one_workspace(grant: Grant) -> Grant:
    """What an owner shares is what they own: a model of that name in another workspace is another."""
    if grant.on.is_everything or grant.on.workspace is not None:
        return grant
    return replace(grant, on=replace(grant.on, workspace=DEFAULT_WORKSPACE))


async def _check_not_for_oneself(
    work: UnitOfWork, principal: Principal, before: Grant | None, after: Grant | None
) -> None:
    known = await work.principals.get(principal.id)
    # A token may say less of its owner than they are: what the provider said at the last sign-in counts too.
    selves = [principal.identity, *([known.identity] if known else [])]

    def is_for_oneself(grant: Grant) -> bool:
        return any(grant.subject.includes(each) for each in selves)

    gives = after is not None and not after.is_denial and after.role in NOT_FOR_ONESELF and is_for_oneself(after)
    undenies = (
        before is not None
        and before.is_denial
        and any(before.speaks_of(each) for each in _OF_OTHERS)
        and is_for_oneself(before)
    )
    if gives or undenies:
        raise SelfGrant(
            "Requesting, approving and administering are distinct: what lets yourself (or a group that you are in) ask "
            "for promotions or decide on them must be given by another administrator."
        )


_OF_OTHERS = (
    Permission.PROMOTIONS_REQUEST,
    Permission.PROMOTIONS_DECIDE,
    Permission.PROMOTIONS_ROLLBACK,
    Permission.CHECKS_POST,
)


def _check_precondition(name: str, present: StoredGrant | None, *, if_match: str | None, if_none_match: bool) -> None:
    """RFC 9110 sections 13.1.1 and 13.1.2."""
    if if_none_match and present is not None:
        raise PreconditionFailed(f"There is a grant {name} already.", name=name)
    if if_match is None:
        return
    wanted = {each.strip() for each in if_match.split(",")}
    if present is None or (present.etag not in wanted and wanted != {"*"}):
        raise PreconditionFailed(f"Grant {name} was changed or removed meanwhile; read it again.", name=name)


def _no_such_grant(name: str) -> NotFound:
    return NotFound(f"There is no grant {name[:200]}.", grant=name[:200])
