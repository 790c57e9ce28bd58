"""Where the bytes are: from ``models:/name@alias`` to one physical, approved address."""

from __future__ import annotations

import hashlib
import time
from dataclasses import astuple, dataclass

from app.domain.access import Permission, Principal, may, require
from app.domain.errors import NotFound
from app.domain.grants import DEFAULT_WORKSPACE, Resource
from app.domain.names import ModelReference, no_model, no_version, parse_models_uri
from app.domain.policies import policy_for
from app.domain.promotions import AliasKey, Promotion
from app.domain.storage import physical_uri
from app.ports import Changes, ModelRegistry
from app.services.recording import UnitOfWorkFactory, alias_topic
from app.services.resources import model_for


@dataclass(frozen=True, slots=True)
class Resolution:
    """The answer.

    ``digest`` and ``promotion_id`` are those of the promotion by which the version holds an alias, if one does.
    """

    model: str
    version: str
    alias: str | None
    uri: str
    source_uri: str
    run_id: str | None
    digest: str | None
    promotion_id: str | None

    @property
    def etag(self) -> str:
        """The same for the same answer."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:32]


class Resolver:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        registry: ModelRegistry,
        changes: Changes,
        *,
        artifacts_destination: str,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._changes = changes
        self._destination = artifacts_destination

    async def resolve(self, principal: Principal, uri: str) -> Resolution:
        """The physical address of a version, or of the version that holds an alias.

        A protected alias that a promotion moved is answered from our ledger, even while MLflow is away: what resolves
        is what was approved.

        Raises:
            InvalidInput, Unresolvable: the URI is malformed, or has no one physical address.
            NotFound: names the model, version or alias; so too if the principal may not know of it.
            Forbidden: the principal may know of the model, and not where its bytes are.
        """
        await self.check_may_resolve(principal, uri)
        reference = parse_models_uri(uri)
        approved = await self._approved(reference)
        if approved:
            return Resolution(
                model=approved.model,
                version=approved.to_version,
                alias=reference.alias,
                uri=approved.uri,
                source_uri=approved.source_uri,
                run_id=approved.run_id,
                digest=approved.digest,
                promotion_id=approved.id,
            )
        version = reference.version or await self._holder(reference)
        found = await self._registry.get_version(reference.model, version)
        return Resolution(
            model=reference.model,
            version=version,
            alias=reference.alias,
            uri=physical_uri(found.source_uri, destination=self._destination),
            source_uri=found.source_uri,
            run_id=found.run_id,
            digest=None,
            promotion_id=None,
        )

    async def check_may_resolve(self, principal: Principal, uri: str) -> None:
        """Return if the principal may know where these bytes are.

        Raises:
            NotFound, Forbidden: see ``resolve``.
        """
        reference = parse_models_uri(uri)
        async with self._unit_of_work() as work:
            resource = await model_for(work, principal, reference.model, reference.alias)
        if not may(principal, Permission.MODELS_RESOLVE, resource):
            await self._refuse(principal, reference, resource)

    async def wait(self, principal: Principal, uri: str, *, seen: str | None, timeout_s: float) -> Resolution:
        """The resolution as soon as its ETag is not ``seen``, or after the time."""
        reference = parse_models_uri(uri)
        if reference.alias is None:
            return await self.resolve(principal, uri)
        deadline = time.monotonic() + timeout_s
        async with self._changes.subscribe(alias_topic(_key(reference))) as subscription:
            resolution = await self.resolve(principal, uri)
            while resolution.etag == seen:
                left = deadline - time.monotonic()
                if left <= 0 or not await subscription.wait(left):
                    break
                resolution = await self.resolve(principal, uri)
        return resolution

    async def _refuse(self, principal: Principal, reference: ModelReference, resource: Resource) -> None:
        """Always raises; for who may not even know of the model, what it would if there were none."""
        if may(principal, Permission.REGISTRY_READ, resource):
            require(principal, Permission.MODELS_RESOLVE, resource)
        if reference.version is not None:
            await self._registry.get_version(reference.model, reference.version)
            raise no_version(reference.model, reference.version)
        await self._registry.get_model(reference.model)
        raise no_model(reference.model)

    async def _approved(self, reference: ModelReference) -> Promotion | None:
        async with self._unit_of_work() as work:
            if reference.version is not None:
                return await work.promotions.approved_promotion_of(
                    DEFAULT_WORKSPACE, reference.model, reference.version
                )
            key = _key(reference)
            holder = await work.aliases.get(key)
            if holder and policy_for(await work.policies.in_force(), key.model, key.alias):
                return await work.promotions.get(holder.promotion_id)
        return None

    async def _holder(self, reference: ModelReference) -> str:
        model = await self._registry.get_model(reference.model)
        version = model.aliases.get(reference.alias or "")
        if version is None:
            raise NotFound(
                f"Model {reference.model} has no alias {reference.alias}.", model=reference.model, alias=reference.alias
            )
        return version


def _key(reference: ModelReference) -> AliasKey:
    """The alias that a reference names; ``models:/`` URIs are of the default workspace."""
    return AliasKey(DEFAULT_WORKSPACE, reference.model, reference.alias or "")
