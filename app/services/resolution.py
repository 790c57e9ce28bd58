"""Where the bytes are: from ``models:/name@alias`` to one physical, approved address."""

from __future__ import annotations

import hashlib
import time
from dataclasses import astuple, dataclass

from app.domain.access import Permission, Principal, may, require
from app.domain.errors import NotFound
from app.domain.grants import DEFAULT_WORKSPACE, Resource
from app.domain.names import ModelReference, check_workspace, no_model, no_version, parse_models_uri
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

    workspace: str
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

    async def resolve(self, principal: Principal, uri: str, *, workspace: str = DEFAULT_WORKSPACE) -> Resolution:
        """The physical address of a version, or of the version that holds an alias.

        A protected alias that a promotion moved is answered from our ledger, even while MLflow is away: what resolves
        is what was approved.

        Raises:
            InvalidInput, Unresolvable: the URI is malformed, or has no one physical address.
            NotFound: names the model, version or alias; so too if the principal may not know of it.
            Forbidden: the principal may know of the model, and not where its bytes are.
        """
        await self.check_may_resolve(principal, uri, workspace=workspace)
        reference = parse_models_uri(uri)
        approved = await self._approved(reference, workspace)
        if approved:
            return Resolution(
                workspace=workspace,
                model=approved.model,
                version=approved.to_version,
                alias=reference.alias,
                uri=approved.uri,
                source_uri=approved.source_uri,
                run_id=approved.run_id,
                digest=approved.digest,
                promotion_id=approved.id,
            )
        version = reference.version or await self._holder(reference, workspace)
        found = await self._registry.get_version(reference.model, version, workspace)
        return Resolution(
            workspace=workspace,
            model=reference.model,
            version=version,
            alias=reference.alias,
            uri=physical_uri(found.source_uri, destination=self._destination, workspace=workspace),
            source_uri=found.source_uri,
            run_id=found.run_id,
            digest=None,
            promotion_id=None,
        )

    async def check_may_resolve(self, principal: Principal, uri: str, *, workspace: str = DEFAULT_WORKSPACE) -> None:
        """Return if the principal may know where these bytes are.

        Raises:
            NotFound, Forbidden: see ``resolve``.
        """
        check_workspace(workspace)
        reference = parse_models_uri(uri)
        async with self._unit_of_work() as work:
            resource = await model_for(work, principal, reference.model, reference.alias, workspace=workspace)
        if not may(principal, Permission.MODELS_RESOLVE, resource):
            await self._refuse(principal, reference, resource)

    async def wait(
        self,
        principal: Principal,
        uri: str,
        *,
        workspace: str = DEFAULT_WORKSPACE,
        seen: str | None,
        timeout_s: float,
    ) -> Resolution:
        """The resolution as soon as its ETag is not ``seen``, or after the time."""
        reference = parse_models_uri(uri)
        if reference.alias is None:
            return await self.resolve(principal, uri, workspace=workspace)
        deadline = time.monotonic() + timeout_s
        async with self._changes.subscribe(alias_topic(_key(reference, workspace))) as subscription:
            resolution = await self.resolve(principal, uri, workspace=workspace)
            while resolution.etag == seen:
                left = deadline - time.monotonic()
                if left <= 0 or not await subscription.wait(left):
                    break
                resolution = await self.resolve(principal, uri, workspace=workspace)
        return resolution

    async def _refuse(self, principal: Principal, reference: ModelReference, resource: Resource) -> None:
        """Always raises; for who may not even know of the model, what it would if there were none."""
        if may(principal, Permission.REGISTRY_READ, resource):
            require(principal, Permission.MODELS_RESOLVE, resource)
        workspace = resource.workspace
        if reference.version is not None:
            await self._registry.get_version(reference.model, reference.version, workspace)
            raise no_version(reference.model, reference.version, workspace)
        await self._registry.get_model(reference.model, workspace)
        raise no_model(reference.model, workspace)

    async def _approved(self, reference: ModelReference, workspace: str) -> Promotion | None:
        async with self._unit_of_work() as work:
            if reference.version is not None:
                return await work.promotions.approved_promotion_of(workspace, reference.model, reference.version)
            key = _key(reference, workspace)
            holder = await work.aliases.get(key)
            in_force = await work.policies.in_force()
            if holder and policy_for(in_force, key.model, key.alias, workspace=workspace):
                return await work.promotions.get(holder.promotion_id)
        return None

    async def _holder(self, reference: ModelReference, workspace: str) -> str:
        model = await self._registry.get_model(reference.model, workspace)
        version = model.aliases.get(reference.alias or "")
        if version is None:
            raise NotFound(
                f"Model {reference.model} has no alias {reference.alias}.", model=reference.model, alias=reference.alias
            )
        return version


def _key(reference: ModelReference, workspace: str) -> AliasKey:
    """The alias that a reference names; ``models:/`` URIs tell of no workspace."""
    return AliasKey(workspace, reference.model, reference.alias or "")
