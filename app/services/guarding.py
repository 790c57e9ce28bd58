"""What the door asks before it lets a change through to MLflow: does a promotion rest on it?

Governed is a version that is being promoted to a protected alias, or holds one, whoever put it there; with it its
model, its run, its logged model and its bytes. The ledger is asked first, because it can name the promotion, then
MLflow itself (``app/services/holders.py``). One question of ``Guard``, one method here; the table is total.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from app.adapters.postgres.aliases import Governance
from app.domain.access import Permission, Principal, may, require
from app.domain.errors import Governed, InvalidInput, NotFound, PromotionRequired, Unresolvable
from app.domain.grants import DEFAULT_WORKSPACE, fold
from app.domain.grants import model as model_called
from app.domain.names import check_alias, check_experiment, check_identifier, check_model, check_version
from app.domain.policies import Policy, policy_for
from app.domain.promotions import OPEN, Kind, Promotion
from app.domain.routes import Done, Forward, Guard, Ruling
from app.domain.storage import ancestors, artifact_root, is_below, paths_below
from app.ports import ModelRegistry
from app.services.holders import AliasHolder, AliasHoldersInMlflow
from app.services.promotions import Promotions, waits_for
from app.services.recording import UnitOfWorkFactory

PROMPT_MARK = "mlflow.prompt.is_prompt"
PROMPT_CONTENT = frozenset(
    {
        PROMPT_MARK,
        "mlflow.prompt.text",
        "_mlflow_prompt_type",
        "_mlflow_prompt_response_format",
        "_mlflow_prompt_model_config",
    }
)
"""The tags of a version that are what ``mlflow.genai.load_prompt`` returns (``mlflow/prompt/constants.py``)."""

_OF_MODELS = frozenset(
    {
        Guard.ALIAS_SET,
        Guard.ALIAS_DELETE,
        Guard.VERSION_DELETE,
        Guard.VERSION_TAG,
        Guard.STAGE_TRANSITION,
        Guard.MODEL_TAG,
        Guard.MODEL_DELETE,
        Guard.MODEL_RENAME,
    }
)
"""The questions about a model by its name, which says something else in another workspace."""

_Fields = Mapping[str, str]
_Check = Callable[[Principal, _Fields], Awaitable[Ruling]]


def link_to(public_url: str, promotion_id: str) -> str:
    """Where a person or a program finds a promotion."""
    return f"{public_url}/control/v1/promotions/{promotion_id}"


class RegistryGuard:
    """Answers for the guarded routes of MLflow (``app.domain.routes.Guard``)."""

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        registry: ModelRegistry,
        promotions: Promotions,
        holders: AliasHoldersInMlflow,
        *,
        public_url: str,
        artifacts_destination: str,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._promotions = promotions
        self._holders = holders
        self._public_url = public_url
        self._destination = artifacts_destination
        self._checks: Mapping[Guard, _Check] = {
            Guard.ALIAS_SET: self._alias_set,
            Guard.ALIAS_DELETE: self._alias_delete,
            Guard.VERSION_CREATE: self._version_create,
            Guard.VERSION_DELETE: self._version_delete,
            Guard.VERSION_TAG: self._version_tag,
            Guard.STAGE_TRANSITION: self._stage_transition,
            Guard.MODEL_TAG: self._model_tag,
            Guard.MODEL_DELETE: self._model_delete,
            Guard.MODEL_RENAME: self._model_rename,
            Guard.EXPERIMENT_CREATE: self._experiment_create,
            Guard.EXPERIMENT_DELETE: self._experiment_delete,
            Guard.RUN_DELETE: self._run_delete,
            Guard.RUN_ARTIFACT_WRITE: self._run_artifact_write,
            Guard.LOGGED_MODEL_CREATE: self._logged_model_create,
            Guard.LOGGED_MODEL_DELETE: self._logged_model_delete,
            Guard.ARTIFACT_WRITE: self._artifact_write,
            Guard.ARTIFACT_DELETE: self._artifact_delete,
        }

    async def check(
        self, guard: Guard, principal: Principal, fields: Mapping[str, str], workspace: str = DEFAULT_WORKSPACE
    ) -> Ruling:
        """Yes, already done, or an error that says which policy and promotion forbid it."""
        if workspace != DEFAULT_WORKSPACE:
            return await self._check_elsewhere(guard, principal, fields, workspace)
        try:
            return await self._checks[guard](principal, fields)
        except Governed as error:
            if error.model is None or await self._may_read(principal, error.model):
                raise
            raise Governed(
                "A promotion of a model that you may not see rests on this: it cannot be changed or deleted. An "
                "administrator can say which."
            ) from None

    async def _may_read(self, principal: Principal, name: str) -> bool:
        resource = model_called(name)
        if may(principal, Permission.REGISTRY_READ, resource):
            return True
        async with self._unit_of_work() as work:
            owners = await work.owners.of("model", DEFAULT_WORKSPACE, [name])
        return may(principal, Permission.REGISTRY_READ, replace(resource, owner=owners.get(name)))

    async def _check_elsewhere(self, guard: Guard, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        """The ledger knows the models of the default workspace only: none of another is judged by what it knows.

        Runs, logged models and artifacts are known by ids and paths, of which each is in one workspace.
        """
        if guard in _OF_MODELS and not _is_plain_tag(guard, fields):
            await self._unprotected_elsewhere(guard, fields, workspace)
        if guard in {Guard.ALIAS_SET, Guard.ALIAS_DELETE}:
            await self._require_on(principal, fields["name"], fields["alias"], workspace)
        if guard in _OF_MODELS or guard is Guard.VERSION_CREATE:
            return Forward()
        if guard in {Guard.ARTIFACT_WRITE, Guard.ARTIFACT_DELETE} and not is_below(fields["path"], "workspaces"):
            fields = {**fields, "path": f"workspaces/{workspace}/{fields['path']}"}
        return await self._checks[guard](principal, fields)

    async def _unprotected_elsewhere(self, guard: Guard, fields: _Fields, workspace: str) -> None:
        async with self._unit_of_work() as work:
            policies = await work.policies.in_force()
        alias = fields.get("alias") or (fields.get("stage") if guard is Guard.STAGE_TRANSITION else None)
        for name in {fields["name"], fields.get("new_name", fields["name"])}:
            for policy in policies:
                if policy.protects(name, alias if alias is not None else policy.alias):
                    raise Governed(
                        f"Policy '{policy.name}' protects alias '{policy.alias}' of model '{name}', and promotions are "
                        f"made in the default workspace only: in workspace '{workspace}' this cannot be done.",
                        policy=policy.name,
                    )

    async def _require_on(
        self, principal: Principal, name: str, alias: str, workspace: str, permission: Permission | None = None
    ) -> None:
        """Return if the principal may, by a grant or because it created the model.

        Raises:
            Forbidden: it may not.
        """
        permission = permission or Permission.REGISTRY_WRITE
        resource = model_called(name, alias, workspace=workspace)
        if not may(principal, permission, resource):
            async with self._unit_of_work() as work:
                owners = await work.owners.of("model", workspace, [name])
            require(principal, permission, replace(resource, owner=owners.get(name)))

    async def _alias_set(self, principal: Principal, fields: _Fields) -> Ruling:
        """The native call: MLflow's own client asks to move an alias, and so asks for a promotion."""
        model = check_model(fields["name"], field="name")
        alias = check_alias(fields["alias"])
        version = check_version(fields["version"])
        policy = await self._policy(model, alias)
        if policy is None:
            await self._require_on(principal, model, alias, DEFAULT_WORKSPACE)
            return Forward()
        if await self._holds(model, alias, version):
            return Done()
        await self._require_on(principal, model, alias, DEFAULT_WORKSPACE, Permission.PROMOTIONS_REQUEST)
        try:
            promotion, _ = await self._promotions.create(
                principal, model=model, alias=alias, version=version, reason="asked for through MLflow's API"
            )
        except Unresolvable as error:  # a prompt, whose content is no file, or a version whose bytes lie elsewhere
            raise Governed(
                f"{_protected(policy, model, alias)}: it moves only through a promotion, and version {version} has no "
                f"bytes that one could pin: {error.message}",
                policy=policy.name,
            ) from None
        link = link_to(self._public_url, promotion.id)
        raise PromotionRequired(
            f"{_protected(policy, model, alias)}: it moves only through a promotion. {_where(promotion)} "
            f"Follow it at {link}",
            promotion=promotion.id,
            state=promotion.state.value,
            link=link,
        )

    async def _alias_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        model, alias = fields["name"], fields["alias"]
        policy = await self._policy(model, alias)
        if policy is None:
            await self._require_on(principal, model, alias, DEFAULT_WORKSPACE)
            return Forward()
        async with self._unit_of_work() as work:
            holder = await work.aliases.get(model, alias)
        by = f"promotion {holder.promotion_id} put version {holder.version} there" if holder else "no promotion did"
        raise Governed(
            f"{_protected(policy, model, alias)} and cannot be deleted; {by}.",
            policy=policy.name,
            promotion=holder.promotion_id if holder else None,
        )

    async def _version_create(self, principal: Principal, fields: _Fields) -> Ruling:
        """A new version governs nothing, wherever it says its bytes are, and MLflow checks what it says.

        What cannot be resolved to bytes below our root cannot be promoted (``app/domain/storage.py``): neither another
        store, nor ``runs:/…``, which comes to mean other bytes.
        """
        return Forward()

    async def _version_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        await self._version_untouched(fields, f"Version {fields['version']} of model '{fields['name']}'", "deleted")
        return Forward()

    async def _version_tag(self, principal: Principal, fields: _Fields) -> Ruling:
        if fold(fields["key"]) in PROMPT_CONTENT:
            what = f"The content of version {fields['version']} of prompt '{fields['name']}'"
            await self._version_untouched(fields, what, "changed")
        return Forward()

    async def _stage_transition(self, principal: Principal, fields: _Fields) -> Ruling:
        """``models:/m/Production`` would be a second, ungoverned pointer beside an alias of that name."""
        if policy := await self._policy(fields["name"], fields["stage"]):
            raise Governed(
                f"Alias '{policy.alias}' of model '{fields['name']}' is governed by policy '{policy.name}': a stage of "
                f"that name, which MLflow has deprecated, would be a second way to name what is there. Use aliases.",
                policy=policy.name,
            )
        return Forward()

    async def _model_tag(self, principal: Principal, fields: _Fields) -> Ruling:
        if fold(fields["key"]) == PROMPT_MARK:
            await self._model_untouched(fields["name"], "turned into a prompt, or back")
        return Forward()

    async def _model_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        await self._model_untouched(fields["name"], "deleted")
        return Forward()

    async def _model_rename(self, principal: Principal, fields: _Fields) -> Ruling:
        """Neither away from a governed name, nor with an alias into a name under which that alias is protected."""
        model, new_name = fields["name"], fields["new_name"]
        await self._model_untouched(model, "renamed")
        registered = await self._registry.get_model(model)
        for alias in registered.aliases:
            policy = await self._policy(new_name, alias)
            if policy:
                raise Governed(
                    f"Model '{model}' cannot be renamed to '{new_name}': its alias '{alias}' would be protected "
                    f"by policy '{policy.name}' there without a promotion.",
                    policy=policy.name,
                )
        return Forward()

    async def _experiment_create(self, principal: Principal, fields: _Fields) -> Ruling:
        """MLflow takes any artifact location, one that holds governed bytes too."""
        location = fields.get("artifact_location", "")
        if not location:
            return Forward()
        if not location.startswith("mlflow-artifacts:/"):
            raise InvalidInput(
                "artifact_location", "expected none, or one below the server's root (mlflow-artifacts:/…)"
            )
        await self._folder_untouched(artifact_root(location), "be the artifact location of an experiment")
        return Forward()

    async def _experiment_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        """Its artifacts need not lie in a folder of its number: MLflow says where."""
        experiment = check_experiment(fields["experiment_id"])
        try:
            location = await self._registry.get_experiment_location(experiment)
        except NotFound:
            return Forward()
        for folder in {experiment, *paths_below(location, destination=self._destination)}:
            await self._folder_untouched(folder, f"be deleted with experiment {experiment}")
        return Forward()

    async def _run_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        await self._run_untouched(check_identifier(fields["run_id"], field="run_id"), "deleted")
        return Forward()

    async def _run_artifact_write(self, principal: Principal, fields: _Fields) -> Ruling:
        """MLflow writes in a folder of the experiment's and the run's id, or where the run says its artifacts are."""
        run_id = check_identifier(fields["run_id"], field="run_uuid")
        await self._run_untouched(run_id, "changed")
        try:
            run = await self._registry.get_run(run_id)
        except NotFound:
            return Forward()
        roots = paths_below(run.artifact_uri, destination=self._destination)
        for root in {f"{run.experiment_id}/{run.id}/artifacts", *roots}:
            await self._artifact_untouched(f"{root}/{fields['path']}")
        return Forward()

    async def _logged_model_create(self, principal: Principal, fields: _Fields) -> Ruling:
        """Where a version is looked up in its run at each load, a new logged model of that run is its content."""
        async with self._unit_of_work() as work:
            policies = await work.policies.in_force()
        for holder in await self._holders.unknown(policies):
            if holder.looked_up and _same(fields.get("source_run_id", ""), holder.looked_up[0]):
                await self._refuse_if_held(holder, f"Run {holder.looked_up[0]}", "given another logged model")
        return Forward()

    async def _logged_model_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        model_id = check_identifier(fields["model_id"], field="model_id")
        async with self._unit_of_work() as work:
            _refuse(await work.aliases.governing_logged_model(model_id), f"Logged model {model_id}", "deleted")
            policies = await work.policies.in_force()
        for holder in await self._holders.unknown(policies):
            if holder.rests_on_logged_model(model_id):
                await self._refuse_if_held(holder, f"Logged model {model_id}", "deleted")
        return Forward()

    async def _artifact_write(self, principal: Principal, fields: _Fields) -> Ruling:
        await self._artifact_untouched(fields["path"])
        return Forward()

    async def _artifact_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        await self._folder_untouched(fields["path"], "be deleted")
        return Forward()

    async def _artifact_untouched(self, path: str) -> None:
        async with self._unit_of_work() as work:
            _refuse(await work.aliases.governing_artifacts(ancestors(path)), f"Artifact {path}", "written")
            policies = await work.policies.in_force()
        for holder in await self._holders.unknown(policies):
            if holder.rests_on_artifact(path):
                await self._refuse_if_held(holder, f"Artifact {path}", "written")

    async def _folder_untouched(self, path: str, what: str) -> None:
        """Neither is it among governed bytes, nor are they in it."""
        async with self._unit_of_work() as work:
            governance = await work.aliases.governing_artifacts(ancestors(path)) or await work.aliases.governing_below(
                path
            )
            policies = await work.policies.in_force()
        if governance:
            raise Governed(
                f"Artifact path {path} cannot {what}: {_because(governance)}.",
                model=governance.model,
                **_named(governance),
            )
        for holder in await self._holders.unknown(policies):
            if (holder.rests_on_artifact(path) or holder.lies_below(path)) and await self._holders.still_holds(holder):
                raise Governed(
                    f"Artifact path {path} cannot {what}: {holder.why}.", model=holder.model, policy=holder.policy
                )

    async def _run_untouched(self, run_id: str, how: str) -> None:
        async with self._unit_of_work() as work:
            _refuse(await work.aliases.governing_run(run_id), f"Run {run_id}", how)
            policies = await work.policies.in_force()
        for holder in await self._holders.unknown(policies):
            if holder.rests_on_run(run_id):
                await self._refuse_if_held(holder, f"Run {run_id}", how)

    async def _version_untouched(self, fields: _Fields, what: str, how: str) -> None:
        names, version = await self._names(fields["name"]), fields["version"]
        async with self._unit_of_work() as work:
            _refuse(await work.aliases.governing_version(names, version), what, how)
        for holder in await self._holders.of_model(fields["name"]):
            if holder.version == version:
                raise Governed(f"{what} cannot be {how}: {holder.why}.", policy=holder.policy)

    async def _model_untouched(self, model: str, how: str) -> None:
        names = await self._names(model)
        async with self._unit_of_work() as work:
            _refuse(await work.aliases.governing_model(names), f"Model '{model}'", how)
        for holder in await self._holders.of_model(model):
            raise Governed(f"Model '{model}' cannot be {how}: {holder.why}.", policy=holder.policy)

    async def _refuse_if_held(self, holder: AliasHolder, what: str, how: str) -> None:
        if await self._holders.still_holds(holder):
            raise Governed(f"{what} cannot be {how}: {holder.why}.", model=holder.model, policy=holder.policy)

    async def _names(self, model: str) -> Sequence[str]:
        """The name that was sent and, if its database takes several for one, the one that MLflow knows it by."""
        try:
            return (model, (await self._registry.get_model(model)).name)
        except NotFound:
            return (model,)

    async def _policy(self, model: str, alias: str) -> Policy | None:
        """The policy that protects the alias, whichever of its names the model was called by."""
        async with self._unit_of_work() as work:
            policies = await work.policies.in_force()
        if policy := policy_for(policies, model, alias):
            return policy
        found = [policy_for(policies, name, alias) for name in await self._names(model) if name != model]
        return next((policy for policy in found if policy), None)

    async def _holds(self, model: str, alias: str, version: str) -> bool:
        """Whether it does in MLflow and, where our ledger knows the alias, there too."""
        async with self._unit_of_work() as work:
            holder = await work.aliases.get(model, alias)
        if holder and holder.version != version:
            return False
        return (await self._registry.get_model(model)).aliases.get(alias) == version


def _is_plain_tag(guard: Guard, fields: _Fields) -> bool:
    """Whether it is a tag that is nothing but a tag."""
    key = fold(fields.get("key", ""))
    return (guard is Guard.VERSION_TAG and key not in PROMPT_CONTENT) or (
        guard is Guard.MODEL_TAG and key != PROMPT_MARK
    )


def _protected(policy: Policy, model: str, alias: str) -> str:
    return f"Alias '{alias}' of model '{model}' is protected by policy '{policy.name}' (revision {policy.revision})"


def _where(promotion: Promotion) -> str:
    lane = "Rollback" if promotion.kind is Kind.ROLLBACK else "Promotion"
    if promotion.state in OPEN and (missing := waits_for(promotion)) != "nothing":
        return f"{lane} {promotion.id} of version {promotion.to_version} is {promotion.state} and waits for {missing}."
    return f"{lane} {promotion.id} of version {promotion.to_version} is {promotion.state}."


def _same(one: str, other: str) -> bool:
    return one.strip().lower() == other.strip().lower()


def _refuse(governance: Governance | None, what: str, how: str) -> None:
    if governance:
        raise Governed(f"{what} cannot be {how}: {_because(governance)}.", model=governance.model, **_named(governance))


def _because(governance: Governance) -> str:
    return (
        f"promotion {governance.promotion_id} ({governance.state}) of version {governance.version} of model "
        f"'{governance.model}' to alias '{governance.alias}' rests on it, under policy '{governance.policy_name}'"
    )


def _named(governance: Governance) -> dict[str, str]:
    return {"promotion": governance.promotion_id, "policy": governance.policy_name}
