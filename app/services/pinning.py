"""What a promotion pins of the world when it is made, and whether the world is still so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from app.domain.errors import NotFound
from app.domain.names import no_model
from app.domain.policies import Policy, choose
from app.domain.promotions import AliasKey, Promotion
from app.domain.storage import Storage
from app.ports import ModelRegistry, RegisteredModel
from app.services.recording import UnitOfWorkFactory


@dataclass(frozen=True, slots=True)
class Pinned:
    """A version as MLflow holds it, where its bytes are, and the version that holds the alias."""

    to_version: str
    from_version: str | None
    model_created_at: int
    version_created_at: int
    run_id: str | None
    source_uri: str
    uri: str
    artifact_root: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Why a promotion cannot be applied: *stale* while everything is where it was, *failed* when it is not.

    ``is_partial``: something that was moved could not be put back.
    """

    reason: str
    alias_moved: bool = False
    is_partial: bool = False


class Pinning:
    """Args: storage: where MLflow's artifacts lie."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, registry: ModelRegistry, *, storage: Storage) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._storage = storage

    async def model(self, key: AliasKey) -> RegisteredModel:
        """The model, by exactly this name: some databases find ``Fraud`` by ``fraud``, and a ledger must not.

        Raises:
            NotFound: there is none.
        """
        registered = await self._registry.get_model(key.model, key.workspace)
        if registered.name != key.model:
            raise no_model(key.model, key.workspace)
        return registered

    async def pin(self, key: AliasKey, version: str, registered: RegisteredModel) -> Pinned:
        """Look at what is to be promoted.

        Raises:
            NotFound: there is no such version. Unresolvable: no physical address can be given for it.
        """
        found = await self._registry.get_version(key.model, version, key.workspace)
        return Pinned(
            to_version=version,
            from_version=registered.aliases.get(key.alias),
            model_created_at=registered.created_at,
            version_created_at=found.created_at,
            run_id=found.run_id,
            source_uri=found.source_uri,
            uri=self._storage.physical_uri(found.source_uri, workspace=key.workspace),
            artifact_root=self._storage.artifact_root(found.source_uri, workspace=key.workspace),
        )

    async def difference(self, promotion: Promotion) -> tuple[RegisteredModel | None, Difference | None]:
        """How the world differs from what the promotion pins, its bytes left out; the model as it is now."""
        try:
            model, of_version = await asyncio.gather(self.model(promotion.key), self._of_version(promotion))
        except NotFound as gone:
            return None, Difference(gone.message)
        holder = model.aliases.get(promotion.alias)
        has_moved = holder == promotion.to_version and holder != promotion.from_version
        if model.created_at != promotion.model_created_at:
            return model, Difference(f"model {promotion.model} was deleted and created again; its versions are others")
        if why := of_version or await self._of_policy(promotion, model):
            return model, Difference(f"the alias moved, but {why}" if has_moved else why, alias_moved=has_moved)
        if not has_moved and holder != promotion.from_version:
            was = f"version {promotion.from_version}" if promotion.from_version else "no version"
            now = f"version {holder}" if holder else "no version"
            why = f"{promotion.alias} was held by {was} when this was asked for, and is by {now} now"
            return model, Difference(why)
        return model, None

    async def _of_version(self, promotion: Promotion) -> str | None:
        try:
            version = await self._registry.get_version(promotion.model, promotion.to_version, promotion.workspace)
        except NotFound as gone:
            return gone.message
        if promotion.version_created_at and version.created_at != promotion.version_created_at:
            return f"version {promotion.to_version} was deleted, and another has its number now"
        if version.source_uri != promotion.source_uri:
            return f"version {promotion.to_version} points to {version.source_uri} now"
        return None

    async def _of_policy(self, promotion: Promotion, model: RegisteredModel) -> str | None:
        """A promotion is bound to its policy, unless the model's tags have put it under another."""
        tags = dict(model.tags)
        if not promotion.policy.protects(model.name, promotion.alias, workspace=promotion.workspace, tags=tags):
            return f"the model's tags changed, and policy {promotion.policy.name} is not for it any more"
        async with self._unit_of_work() as work:
            in_force = await work.policies.in_force()
        now = self.policy(in_force, promotion.key, model)
        if now and now.tags and now.name != promotion.policy.name:
            return f"the model's tags put it under policy {now.name} now, and this was asked for under another"
        return None

    @staticmethod
    def policy(in_force: list[Policy], key: AliasKey, model: RegisteredModel) -> Policy | None:
        """The policy that protects an alias of a model, by its tags too."""
        return choose(in_force, key.model, key.alias, workspace=key.workspace, tags=model.tags).policy
