"""Who holds an alias, who held it, and since when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.domain.access import Permission, Principal, may
from app.domain.errors import NotFound
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.names import check_alias, check_model, no_model
from app.domain.promotions import AliasKey, Promotion
from app.ports import ModelRegistry
from app.services.recording import UnitOfWorkFactory
from app.services.resources import model_for


@dataclass(frozen=True, slots=True)
class AliasState:
    """The holder of an alias. Without a promotion it was set before Countersign knew of it, or past it."""

    model: str
    alias: str
    version: str
    since: datetime | None
    promotion_id: str | None


class Aliases:
    def __init__(self, unit_of_work: UnitOfWorkFactory, registry: ModelRegistry) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry

    async def get(self, principal: Principal, model: str, alias: str, *, at: datetime | None = None) -> AliasState:
        """The holder now or at a time, as our ledger knows it; now, else, as MLflow does.

        Raises:
            NotFound: names the model or the alias; so too if the principal may not know of them.
        """
        check_model(model)
        check_alias(alias)
        if at is not None:
            return await self._at(principal, model, alias, at)
        async with self._unit_of_work() as work:
            is_readable = may(principal, Permission.PROMOTIONS_READ, await model_for(work, principal, model, alias))
            holder = await work.aliases.get(AliasKey(DEFAULT_WORKSPACE, model, alias))
        if not is_readable:
            # Asked and then kept back: neither the answer nor how long it takes tells whether there is such a model.
            await self._registry.get_model(model)
            raise no_model(model)
        if holder:
            return AliasState(model, alias, holder.version, holder.since, holder.promotion_id)
        version = (await self._registry.get_model(model)).aliases.get(alias)
        if version is None:
            raise NotFound(f"Model {model} has no alias {alias}.", model=model, alias=alias)
        return AliasState(model, alias, version, None, None)

    async def _at(self, principal: Principal, model: str, alias: str, at: datetime) -> AliasState:
        past = await self.history(principal, model, alias, until=at, limit=1)
        if not past:
            raise NotFound(
                f"No promotion had moved alias {alias} of model {model} at that time.", model=model, alias=alias
            )
        return AliasState(model, alias, past[0].to_version, past[0].applied_at, past[0].id)

    async def history(
        self, principal: Principal, model: str, alias: str, *, until: datetime | None = None, limit: int = 100
    ) -> Sequence[Promotion]:
        """The promotions that moved the alias, newest first; none if the principal may not know of them."""
        check_model(model)
        check_alias(alias)
        async with self._unit_of_work() as work:
            if not may(principal, Permission.PROMOTIONS_READ, await model_for(work, principal, model, alias)):
                return []
            return await work.promotions.history(AliasKey(DEFAULT_WORKSPACE, model, alias), until=until, limit=limit)
