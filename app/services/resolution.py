"""Where the bytes are: from ``models:/name@alias`` to one physical, approved address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may, require
from app.domain.errors import BytesChanged, NotFound, Overloaded, Unresolvable
from app.domain.grants import DEFAULT_WORKSPACE, Resource
from app.domain.names import (
    LATEST,
    STAGES,
    ModelReference,
    check_workspace,
    no_logged_model,
    no_model,
    no_version,
    parse_models_uri,
)
from app.domain.policies import Policy, policy_for
from app.domain.promotions import AliasKey
from app.domain.resolutions import Found, Held, Known, Remember, Resolution
from app.domain.routes.resources import Named
from app.domain.storage import Storage, parse_runs_uri
from app.domain.verifying import check_as_approved
from app.ports import ModelRegistry, ModelVersion
from app.services.reach import Reach, Want
from app.services.recording import UnitOfWorkFactory
from app.services.resources import model_for

MLFLOW_AT_ONCE = 2
"""Questions for which MLflow is asked at the same time: promotions ask it too, over the same few connections."""
_LONGEST_WAIT_S = 10.0


class Resolver:
    """Args: storage: of which places addresses are given out."""

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        registry: ModelRegistry,
        reach: Reach,
        *,
        storage: Storage,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._reach = reach
        self._storage = storage
        self._turns = asyncio.Semaphore(MLFLOW_AT_ONCE)

    async def resolve(self, principal: Principal, uri: str, *, workspace: str = DEFAULT_WORKSPACE) -> Resolution:
        """The physical address of a version, of the version that holds an alias, or of a logged model.

        A protected alias that a promotion moved is answered from our ledger, even while MLflow is away: what resolves
        is what was approved.

        Raises:
            InvalidInput, Unresolvable: the URI is malformed, or has no one physical address.
            BytesChanged: what lies there is not what was approved.
            NotFound: names the model, version or alias; so too if the principal may not know of it.
            Forbidden: the principal may know of the model, and not where its bytes are.
        """
        await self.check_may_resolve(principal, uri, workspace=workspace)
        return (await self.look_up(parse_models_uri(uri), workspace)).resolution

    async def look_up(self, reference: ModelReference, workspace: str) -> Found:
        """What ``reference`` means now, whoever asks; and for how long that may be remembered.

        Raises:
            Unresolvable, BytesChanged, NotFound: see ``resolve``.
        """
        async with self._unit_of_work() as work:
            known = await self._known(work, reference, workspace)
            held = await self._protected(work, known, reference.model, workspace)
        if held:
            check_as_approved(held.verification, held.digest)
            is_moving = reference.alias in known.moving
            resolution = _approved(reference, held, workspace)
            return Found(resolution, Remember.NOT if is_moving else Remember.UNTIL_CHANGED)
        async with self._turn():
            resolution = await self._as_mlflow_says(reference, workspace)
        async with self._unit_of_work() as work:
            if await work.resolutions.not_as_approved(resolution.uri):
                raise BytesChanged(f"What lies at {resolution.uri} is not what was approved there.")
        # An alias that moves together with another is not protected itself: whatever moves of the model may move it.
        return Found(resolution, Remember.NOT if known.moving else Remember.BRIEFLY)

    async def check_may_resolve(self, principal: Principal, uri: str, *, workspace: str = DEFAULT_WORKSPACE) -> None:
        """Return if the principal may know where these bytes are.

        Raises:
            NotFound, Forbidden: see ``resolve``.
        """
        check_workspace(workspace)
        reference = parse_models_uri(uri)
        if reference.model_id is not None:
            await self._check_logged_model(principal, reference.model_id, workspace)
            return
        async with self._unit_of_work() as work:
            resource = await model_for(work, principal, reference.model, reference.alias, workspace=workspace)
        if not may(principal, Permission.MODELS_RESOLVE, resource):
            await self._refuse(principal, reference, resource)

    # Whether one may know.

    async def _refuse(self, principal: Principal, reference: ModelReference, resource: Resource) -> None:
        """Always raises; for who may not even know of the model, what it would if there were none."""
        if may(principal, Permission.REGISTRY_READ, resource):
            require(principal, Permission.MODELS_RESOLVE, resource)
        workspace = resource.workspace
        async with self._turn():
            if reference.version is not None:
                await self._registry.get_version(reference.model, reference.version, workspace)
                raise no_version(reference.model, reference.version, workspace)
            await self._registry.get_model(reference.model, workspace)
            raise no_model(reference.model, workspace)

    async def _check_logged_model(self, principal: Principal, model_id: str, workspace: str) -> None:
        """A logged model is of its experiment, as everything that runs have made."""
        permissions = (Permission.MODELS_RESOLVE, Permission.TRACKING_READ)
        wants = [Want(Named.LOGGED_MODEL, model_id, permission) for permission in permissions]
        resolves, reads = await self._reach.standings(principal, wants, workspace)
        if not resolves.may:
            if reads.may and resolves.resource:
                require(principal, Permission.MODELS_RESOLVE, resolves.resource)
            raise no_logged_model(model_id, workspace)

    # What the ledger knows.

    async def _known(self, work: UnitOfWork, reference: ModelReference, workspace: str) -> Known:
        if reference.alias is not None:
            return await work.resolutions.of_alias(_key(reference, workspace))
        if reference.version is not None:
            return await work.resolutions.of_version(workspace, reference.model, reference.version)
        return Known()

    async def _protected(self, work: UnitOfWork, known: Known, model: str, workspace: str) -> Held | None:
        """The version as holder of an alias that is protected: another can be moved without us."""
        for held in known.held:
            if held.policy and held.policy.protects(model, held.alias, workspace=workspace):
                return held
        in_force = await work.policies.in_force() if known.held else []
        protected = (each for each in known.held if policy_for(in_force, model, each.alias, workspace=workspace))
        return next(protected, None)

    # What MLflow says.

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """A turn to ask MLflow: who asks for thousands of names that do not exist keeps no promotion waiting.

        Raises:
            Overloaded: none came in time.
        """
        try:
            async with asyncio.timeout(_LONGEST_WAIT_S):
                await self._turns.acquire()
        except TimeoutError:
            raise Overloaded("Too much is asked of MLflow at a time.", retry_after_s=1) from None
        try:
            yield
        finally:
            self._turns.release()

    async def _as_mlflow_says(self, reference: ModelReference, workspace: str) -> Resolution:
        if reference.model_id is not None:
            return await self._logged_model(reference.model_id, workspace)
        found = await self._version(reference, workspace)
        located = await self._located(found, workspace)
        return Resolution(
            workspace=workspace,
            model=reference.model,
            version=found.version,
            alias=reference.alias,
            uri=self._storage.physical_uri(located, workspace=workspace),
            source_uri=found.source_uri,
            run_id=found.run_id,
            digest=None,
            promotion_id=None,
        )

    async def _logged_model(self, model_id: str, workspace: str) -> Resolution:
        elsewhere = None if workspace == DEFAULT_WORKSPACE else workspace
        found = await self._registry.placed(Named.LOGGED_MODEL, model_id, elsewhere)
        if found is None or found.id != model_id:
            raise no_logged_model(model_id, workspace)
        return Resolution(
            workspace=workspace,
            model="",
            version="",
            alias=None,
            uri=self._storage.physical_uri(found.artifact_uri, workspace=workspace),
            source_uri=found.artifact_uri,
            run_id=found.run_id or None,
            digest=None,
            promotion_id=None,
            model_id=model_id,
        )

    async def _version(self, reference: ModelReference, workspace: str) -> ModelVersion:
        model = reference.model
        if reference.alias is not None:
            holder = await self._registry.get_holder(model, reference.alias, workspace)
            if holder is not None:
                return holder
            await self._registry.get_model(model, workspace)
            raise NotFound(f"Model {model} has no alias {reference.alias}.", model=model, alias=reference.alias)
        version = reference.version
        if reference.stage is not None:
            await self._check_ungoverned(model, workspace, str(reference), _MOVES[reference.stage])
            version = await self._registry.latest_version(model, reference.stage, workspace)
        if version is None:
            await self._registry.get_model(model, workspace)
            where = "" if reference.stage == LATEST else f" in stage {reference.stage}"
            raise NotFound(f"Model {model} has no version{where}.", model=model)
        return await self._registry.get_version(model, version, workspace)

    async def _located(self, found: ModelVersion, workspace: str) -> str:
        """The source of a version; where MLflow looks it up in a run at each load, what it would find there.

        The artifacts of a logged model of that name and run go before the run's own (``RunsArtifactRepository``).
        """
        named = parse_runs_uri(found.source_uri)
        if named is None:
            return found.source_uri
        await self._check_ungoverned(found.model, workspace, found.source_uri, _LOOKED_UP)
        run_id, path = named
        run = await self._registry.get_run(run_id, workspace)
        name, slash, rest = path.partition("/")
        models = await self._registry.logged_models_of(run, workspace)
        logged = next((model.artifact_uri for model in models if model.name == name), None)
        return f"{run.artifact_uri}/{path}" if logged is None else f"{logged}{slash}{rest}"

    async def _check_ungoverned(self, model: str, workspace: str, what: str, why: str) -> None:
        """Return if no policy is for aliases of a model: of a governed one nothing resolves that moves by itself.

        Raises:
            Unresolvable: some policy is.
        """
        async with self._unit_of_work() as work:
            policies = [each for each in await work.policies.in_force() if each.is_for(model, workspace)]
        if policies and all(policy.tags for policy in policies):
            policies = await self._of_tags(policies, model, workspace)
        if policies:
            raise Unresolvable(f"{what} {why}; model {model} is governed by policy {policies[0].name}.")

    async def _of_tags(self, policies: list[Policy], model: str, workspace: str) -> list[Policy]:
        tags = dict((await self._registry.get_model(model, workspace)).tags)
        return [policy for policy in policies if policy.is_for(model, workspace, tags)]


_MOVES = dict.fromkeys(
    STAGES, "is not one version: whoever may write moves versions between stages, so name a version or an alias"
) | {LATEST: "is whichever version was registered last, and anybody can register one; name a version or an alias"}
"""Why a stage, or the latest version, is no answer."""

_LOOKED_UP = (
    "is looked up again at every load and can come to mean other bytes; register the model again from the run "
    "(mlflow.register_model), which pins it"
)


def _approved(reference: ModelReference, held: Held, workspace: str) -> Resolution:
    described = held.description or {}
    flavors, signature = described.get("flavors"), described.get("signature")
    return Resolution(
        workspace=workspace,
        model=reference.model,
        version=held.version,
        alias=reference.alias,
        uri=held.uri,
        source_uri=held.source_uri,
        run_id=held.run_id,
        digest=held.digest,
        promotion_id=held.promotion_id,
        flavors=tuple(map(str, flavors)) if isinstance(flavors, list) else None,
        signature=signature if isinstance(signature, dict) else None,
        size=held.size,
        file_count=held.file_count,
    )


def _key(reference: ModelReference, workspace: str) -> AliasKey:
    """The alias that a reference names; ``models:/`` URIs tell of no workspace."""
    return AliasKey(workspace, reference.model, reference.alias or "")
