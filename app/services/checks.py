"""Verdicts that CI posts, on a promotion or on a version before anybody asked for one. Whoever waits goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, PrincipalKind, may, require
from app.domain.audit import Entry
from app.domain.checks import PostedCheck, Posting
from app.domain.errors import Conflict, InvalidInput
from app.domain.events import EventType, timestamp
from app.domain.grants import DEFAULT_WORKSPACE, Resource
from app.domain.names import check_model, check_version, check_workspace
from app.domain.promotions import TAKES_NEWER, AliasKey, Promotion, no_promotion
from app.ports import Clock
from app.services.identifiers import new_id
from app.services.lifecycle import Lifecycle
from app.services.measuring import Measuring
from app.services.pinning import Pinning
from app.services.promotions import READ_AT_ONCE
from app.services.recording import UnitOfWorkFactory, actor_of, emit, topic_of
from app.services.resources import model_for

_NO_ALIAS = ""
"""Of what is about a version, whatever alias it may hold."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Which part of a list of verdicts is wanted: of each name the newest or ``history``, those ``before`` a place."""

    history: bool = False
    before: int | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class _Version:
    """The very version that a verdict is on: MLflow starts numbers again when a model is deleted."""

    workspace: str
    model: str
    number: str
    model_created_at: int
    version_created_at: int


class Checks:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        clock: Clock,
        *,
        pinning: Pinning,
        measuring: Measuring,
        lifecycle: Lifecycle,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._pinning = pinning
        self._measuring = measuring
        self._lifecycle = lifecycle

    async def post_on_promotion(self, principal: Principal, promotion_id: str, posting: Posting) -> PostedCheck:
        """Post a verdict on what a promotion promotes: its version, and its bytes.

        It counts for every promotion of these bytes, so it is the model as a whole that one must be let post on.

        Raises:
            NotFound: there is none, or none that the principal may know of.
            Forbidden: the principal posts no checks on the model.
            Conflict: it waits for nothing any more; or nobody knows its digest yet, and none is given.
            InvalidInput: a field is wrong, such as the digest of other bytes.
        """
        posting.check()
        async with self._unit_of_work() as work:
            promotion = await _readable(work, principal, promotion_id)
            await _postable(work, principal, promotion.workspace, promotion.model)
        if promotion.state not in TAKES_NEWER:
            raise Conflict(
                f"Promotion {promotion.id} is {promotion.state} and waits for no check; post it on the version.",
                promotion=promotion.id,
                state=promotion.state.value,
            )
        if promotion.digest is None and posting.digest is None:
            raise Conflict(
                f"The artifacts of promotion {promotion.id} are still being read: send the `digest` of those that were "
                "checked (`countersign digest FOLDER` prints it), or post when it is known.",
                promotion=promotion.id,
                state=promotion.state.value,
            )
        digest = _agreed(posting.digest, promotion.digest)
        return await self._post(principal, _version_of(promotion), digest, posting, promotion)

    async def post_on_version(
        self,
        principal: Principal,
        model: str,
        version: str,
        posting: Posting,
        *,
        workspace: str = DEFAULT_WORKSPACE,
    ) -> PostedCheck:
        """Post a verdict on a version. It is bound to the bytes that lie there now, or to those of the digest given.

        Raises:
            Forbidden: the principal posts no checks on the model.
            NotFound: there is no such version. Unresolvable: no physical address can be given for it.
            InvalidInput: a field is wrong; the digest is of other bytes, or is needed, since they are many.
        """
        posting.check()
        check_version(version)
        check_workspace(workspace)
        async with self._unit_of_work() as work:
            await _postable(work, principal, workspace, check_model(model))
        key = AliasKey(workspace, model, _NO_ALIAS)
        pinned = await self._pinning.pin(key, version, await self._pinning.model(key))
        measured = await self._measuring.measure_now(pinned.uri, READ_AT_ONCE)
        if measured is None and posting.digest is None:
            raise InvalidInput(
                "digest",
                "expected the digest of the artifacts that were checked, as `countersign digest FOLDER` prints it: "
                "they are too large to be read while you wait",
            )
        digest = _agreed(posting.digest, measured.digest if measured else None)
        found = _Version(workspace, model, version, pinned.model_created_at, pinned.version_created_at)
        return await self._post(principal, found, digest, posting, None)

    async def _post(
        self,
        principal: Principal,
        version: _Version,
        digest: str | None,
        posting: Posting,
        promotion: Promotion | None,
    ) -> PostedCheck:
        now = self._clock.now()
        ends = posting.ends(now)
        async with self._unit_of_work() as work:
            resource = await _postable(work, principal, version.workspace, version.model)
            await work.checks.lock(version.workspace, version.model, version.number)
            posted = PostedCheck(
                id=new_id("chk"),
                workspace=version.workspace,
                model=version.model,
                version=version.number,
                model_created_at=version.model_created_at,
                version_created_at=version.version_created_at,
                digest=digest,
                promotion_id=promotion.id if promotion else None,
                name=posting.name,
                outcome=posting.outcome.value,
                message=posting.message,
                link=posting.link,
                posted_by=principal.id,
                posted_by_name=principal.name,
                groups=principal.groups,
                roles=frozenset(role.value for role in principal.access.roles_on(resource)),
                is_service=principal.kind is PrincipalKind.SERVICE,
                posted_at=now,
                expires_at=ends,
            )
            await work.checks.add(posted)
            _tell(work, posted, principal, promotion.alias if promotion else _NO_ALIAS)
            for waiting in await work.promotions.waiting_for_version(version.workspace, version.model, version.number):
                if _version_of(waiting) == version:
                    await self._go_on(work, waiting.id, principal)
            await work.commit()
        return posted

    async def _go_on(self, work: UnitOfWork, promotion_id: str, principal: Principal) -> None:
        """Let a promotion that waits see the new verdict. Approvals that were given in another light are void."""
        promotion = await work.promotions.get(promotion_id, for_update=True)
        if promotion.state not in TAKES_NEWER:
            return
        kept = await work.evidence.get(promotion.id)
        if kept is not None:
            promotion = await self._lifecycle.examined(work, promotion, kept, at=self._clock.now())
        await self._lifecycle.settle(work, promotion, actor=actor_of(principal))
        work.announce(topic_of(promotion.id))

    async def of_promotion(self, principal: Principal, promotion_id: str, listed: Listed) -> Sequence[PostedCheck]:
        """The verdicts on the version that a promotion promotes, newest first.

        Raises:
            NotFound: there is no promotion, or none that the principal may know of.
        """
        async with self._unit_of_work() as work:
            promotion = await _readable(work, principal, promotion_id)
            return await _listed(work, _version_of(promotion), listed)

    async def of_version(
        self, principal: Principal, model: str, version: str, listed: Listed, *, workspace: str = DEFAULT_WORKSPACE
    ) -> Sequence[PostedCheck]:
        """The verdicts on a version, newest first; none of another that had its number before.

        Raises:
            Forbidden: the principal reads no promotions of the model. NotFound: there is no such version.
        """
        check_version(version)
        check_workspace(workspace)
        async with self._unit_of_work() as work:
            resource = await model_for(work, principal, check_model(model), workspace=workspace)
            require(principal, Permission.PROMOTIONS_READ, resource)
        key = AliasKey(workspace, model, _NO_ALIAS)
        pinned = await self._pinning.pin(key, version, await self._pinning.model(key))
        found = _Version(workspace, model, version, pinned.model_created_at, pinned.version_created_at)
        async with self._unit_of_work() as work:
            return await _listed(work, found, listed)


async def _readable(work: UnitOfWork, principal: Principal, promotion_id: str) -> Promotion:
    promotion = await work.promotions.get(promotion_id)
    resource = await model_for(work, principal, promotion.model, promotion.alias, workspace=promotion.workspace)
    if not may(principal, Permission.PROMOTIONS_READ, resource):
        raise no_promotion(promotion_id)
    return promotion


async def _postable(work: UnitOfWork, principal: Principal, workspace: str, model: str) -> Resource:
    """The model. Raises ``Forbidden``: the principal posts no checks on it."""
    resource = await model_for(work, principal, model, workspace=workspace)
    require(principal, Permission.CHECKS_POST, resource)
    return resource


async def _listed(work: UnitOfWork, version: _Version, listed: Listed) -> Sequence[PostedCheck]:
    return await work.checks.of_version(
        version.workspace,
        version.model,
        version.number,
        model_created_at=version.model_created_at,
        version_created_at=version.version_created_at,
        newest_only=not listed.history,
        before=listed.before,
        limit=listed.limit,
    )


def _version_of(promotion: Promotion) -> _Version:
    return _Version(
        promotion.workspace,
        promotion.model,
        promotion.to_version,
        promotion.model_created_at,
        promotion.version_created_at,
    )


def _agreed(given: str | None, known: str | None) -> str | None:
    """The digest that a verdict is bound to.

    Raises:
        InvalidInput: what was checked is not what is there.
    """
    if given is not None and known is not None and given != known:
        raise InvalidInput("digest", f"what was checked is not what is there: expected {known}")
    return given or known


def _tell(work: UnitOfWork, posted: PostedCheck, principal: Principal, alias: str) -> None:
    said: dict[str, str | None] = {
        "model": posted.model,
        "version": posted.version,
        **({} if posted.workspace == DEFAULT_WORKSPACE else {"workspace": posted.workspace}),
        "name": posted.name,
        "outcome": posted.outcome,
        "digest": posted.digest,
        **({"promotion": posted.promotion_id} if posted.promotion_id else {}),
        **({"message": posted.message} if posted.message else {}),
        **({"link": posted.link} if posted.link else {}),
        **({"expires_at": posted.expires_at.isoformat()} if posted.expires_at else {}),
    }
    work.record(Entry(posted.posted_at, actor_of(principal), EventType.CHECK_POSTED.value, posted.id, said))
    known = {
        "version": posted.version,
        "check": posted.name,
        "outcome": posted.outcome,
        "message": posted.message,
        "link": posted.link,
        "digest": posted.digest,
        "promotion": posted.promotion_id,
        "expires_at": timestamp(posted.expires_at) if posted.expires_at else None,
        "by": principal.name,
    }
    key = AliasKey(posted.workspace, posted.model, alias)
    emit(work, EventType.CHECK_POSTED, subject=posted.id, key=key, at=posted.posted_at, known=known)
