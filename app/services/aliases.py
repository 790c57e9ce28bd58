"""Who holds an alias, who held it, and since when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may
from app.domain.drifts import Drift, Sight, governing
from app.domain.errors import NotFound
from app.domain.grants import Resource
from app.domain.history import Held
from app.domain.names import check_alias, check_model, check_workspace, no_model
from app.domain.promotions import AliasKey, Promotion
from app.domain.verifying import Verification, against, key_of
from app.ports import ModelRegistry
from app.services.recording import UnitOfWorkFactory
from app.services.resources import model_for

UNKNOWN = "unknown"
"""The cause of who held an alias before Countersign first saw it."""


@dataclass(frozen=True, slots=True)
class AliasState:
    """Who holds an alias, or held it at a time; no version: nobody, as far as we know.

    ``cause`` is as of ``Held``, *unknown*, or none if it was moved a moment ago and is not written down yet. ``until``
    is when it had another holder. ``drift`` is the one that is open, where the present is asked for.
    """

    key: AliasKey
    version: str | None
    since: datetime | None = None
    until: datetime | None = None
    cause: str | None = None
    promotion_id: str | None = None
    by: tuple[str, str] | None = None
    """Id and name of who asked for the promotion, or moved it."""
    drift: Drift | None = None
    verification: Verification | None = None
    """Whether the bytes of a holder by promotion are what was approved, where the present is asked for and it is known.
    """


class Aliases:
    def __init__(self, unit_of_work: UnitOfWorkFactory, registry: ModelRegistry) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry

    async def get(self, principal: Principal, key: AliasKey, *, at: datetime | None = None) -> AliasState:
        """The holder now or at a time.

        Now, a protected alias is held by whom our ledger says, whatever MLflow shows (``drift`` tells if that is
        another); of the past it is told what MLflow showed.

        Raises:
            NotFound: names the model or the alias; so too if the principal may not know of them.
        """
        _check(key)
        async with self._unit_of_work() as work:
            is_readable = may(principal, Permission.PROMOTIONS_READ, await _resource(work, principal, key))
            found = None
            if is_readable:
                found = await self._by_ledger(work, key) if at is None else await self._at(work, key, at)
        if not is_readable:
            # Asked and then kept back: neither the answer nor how long it takes tells whether there is such a model.
            await self._registry.get_model(key.model, key.workspace)
            raise no_model(key.model, key.workspace)
        if found:
            return found
        if at is None:
            return await self._as_mlflow_shows(key)
        await self._registry.get_model(key.model, key.workspace)
        raise NotFound(f"Nothing is known of alias {key.alias} of model {key.model}.", model=key.model, alias=key.alias)

    async def history(
        self,
        principal: Principal,
        key: AliasKey,
        *,
        until: datetime | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[Held]:
        """Who held the alias, newest first, before the row of that number; nothing if it may not be known."""
        _check(key)
        async with self._unit_of_work() as work:
            if not may(principal, Permission.PROMOTIONS_READ, await _resource(work, principal, key)):
                return []
            return await work.history.page(key, until=until, before=before, limit=limit)

    async def promotions(self, principal: Principal, key: AliasKey, *, limit: int = 100) -> Sequence[Promotion]:
        """The promotions that moved the alias, newest first; none if the principal may not know of them."""
        _check(key)
        async with self._unit_of_work() as work:
            if not may(principal, Permission.PROMOTIONS_READ, await _resource(work, principal, key)):
                return []
            return await work.promotions.history(key, limit=limit)

    async def verification(self, promotion: Promotion) -> Verification | None:
        """Whether the bytes of what a promotion put there are still what was approved, and whether that can be seen.

        None if it has not moved its alias, or nothing is known yet. Asked by who may know of the promotion.
        """
        if not promotion.alias_moved:
            return None
        async with self._unit_of_work() as work:
            return await _verification(work, promotion)

    async def _by_ledger(self, work: UnitOfWork, key: AliasKey) -> AliasState | None:
        holder = await work.aliases.get(key)
        if holder is None or governing(await work.policies.in_force(), key, None) is None:
            return None
        promotion = await work.promotions.get(holder.promotion_id)
        return AliasState(
            key,
            holder.version,
            since=holder.since,
            cause="promotion",
            promotion_id=promotion.id,
            by=(promotion.requested_by, promotion.requested_by_name),
            drift=await work.drifts.find_open(key),
            verification=await _verification(work, promotion),
        )

    async def _at(self, work: UnitOfWork, key: AliasKey, at: datetime) -> AliasState | None:
        if past := await work.history.page(key, until=at, limit=1):
            return _state(past[0])
        first = await work.history.first(key)
        return AliasState(key, None, until=first.since, cause=UNKNOWN) if first else None

    async def _as_mlflow_shows(self, key: AliasKey) -> AliasState:
        async with self._unit_of_work() as work:
            last, drift = await work.history.last(key), await work.drifts.find_open(key)
        try:
            model = await self._registry.get_model(key.model, key.workspace)
        except NotFound:
            if last is None:
                raise
            seen = Sight(None)
        else:
            seen = Sight(model.aliases.get(key.alias), model.created_at)
        if last and seen.is_as(last.sight):
            return _state(last, drift)
        if last is None and seen.version is None:
            raise NotFound(f"Model {key.model} has no alias {key.alias}.", model=key.model, alias=key.alias)
        return AliasState(key, seen.version, drift=drift)


async def _verification(work: UnitOfWork, promotion: Promotion) -> Verification | None:
    found = await work.verifications.find(key_of(promotion))
    return against(found, promotion.digest) if found else None


def _state(held: Held, drift: Drift | None = None) -> AliasState:
    by = (held.principal_id, held.principal_name or "") if held.principal_id else None
    return AliasState(
        held.key,
        held.version,
        since=held.since,
        until=held.until,
        cause=held.cause,
        promotion_id=held.promotion_id,
        by=by,
        drift=drift,
    )


def _check(key: AliasKey) -> None:
    check_workspace(key.workspace)
    check_model(key.model)
    check_alias(key.alias)


async def _resource(work: UnitOfWork, principal: Principal, key: AliasKey) -> Resource:
    return await model_for(work, principal, key.model, key.alias, workspace=key.workspace)
