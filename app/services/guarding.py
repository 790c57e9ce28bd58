"""What the door asks before it lets a change through to MLflow: does a promotion rest on it?

Governed is a version that is being promoted to a protected alias, or holds one, whoever put it there; with it its
model, its run, its logged model and its bytes. The ledger is asked first, because it can name the promotion, then
MLflow itself (``app/services/holders.py``). One question of ``Guard``, one method here; the table is total.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from app.adapters.postgres.aliases import Governance
from app.domain.access import Permission, Principal, authorise, may, require
from app.domain.assessing import waits_for
from app.domain.errors import Governed, InvalidInput, NotFound, PromotionRequired, Unresolvable
from app.domain.grants import DEFAULT_WORKSPACE, fold
from app.domain.grants import model as model_called
from app.domain.names import check_alias, check_experiment, check_identifier, check_model, check_version
from app.domain.policies import Policy, policy_for
from app.domain.promotions import OPEN, AliasKey, Kind, Promotion, State
from app.domain.registrations import PROMPT_MARK
from app.domain.routes import Done, Forward, Guard, Ruling
from app.domain.storage import ancestors, artifact_root, in_workspace, paths_below
from app.domain.verdicts import Deny
from app.ports import ModelRegistry, RegisteredModel
from app.services.holders import AliasHolder, AliasHoldersInMlflow
from app.services.promotions import Promotions
from app.services.recording import UNGOVERNED_MOVES, UnitOfWorkFactory

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

_OF_ARTIFACTS = frozenset({Guard.ARTIFACT_WRITE, Guard.ARTIFACT_DELETE})
"""The questions about a path, which MLflow reads below the folder of the workspace."""

AT_ONCE_S = 10.0
"""How long a native call waits for a promotion that nothing holds up, in seconds; MLflow's client waits for 120."""

_Fields = Mapping[str, str]
_Check = Callable[[Principal, _Fields, str], Awaitable[Ruling]]


def link_to(public_url: str, promotion_id: str) -> str:
    """Where a program finds a promotion."""
    return f"{public_url}/control/v1/promotions/{promotion_id}"


def console_link_to(public_url: str, promotion_id: str) -> str:
    """Where a person sees a promotion, and decides."""
    return f"{public_url}/console/promotions/{promotion_id}"


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
        at_once_s: float = AT_ONCE_S,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._promotions = promotions
        self._holders = holders
        self._public_url = public_url
        self._at_once_s = at_once_s
        self._destination = artifacts_destination
        self._checks: Mapping[Guard, _Check] = {
            Guard.ALIAS_SET: self._alias_set,
            Guard.ALIAS_DELETE: self._alias_delete,
            Guard.VERSION_CREATE: self._version_create,
            Guard.VERSION_DELETE: self._version_delete,
            Guard.VERSION_TAG: self._version_tag,
            Guard.STAGE_TRANSITION: self._stage_transition,
            Guard.MODEL_CREATE: self._model_create,
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
        if guard in _OF_ARTIFACTS:
            fields = {**fields, "path": in_workspace(fields["path"], workspace)}
        try:
            return await self._checks[guard](principal, fields, workspace)
        except Governed as error:
            if error.model is None or await self._may_read(principal, error.model, error.workspace):
                raise
            raise Governed(
                "A promotion of a model that you may not see rests on this: it cannot be changed or deleted. An "
                "administrator can say which."
            ) from None

    async def _may_read(self, principal: Principal, name: str, workspace: str) -> bool:
        resource = model_called(name, workspace=workspace)
        if may(principal, Permission.REGISTRY_READ, resource):
            return True
        async with self._unit_of_work() as work:
            owners = await work.owners.of("model", workspace, [name])
        return may(principal, Permission.REGISTRY_READ, replace(resource, owner=owners.get(name)))

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

    async def _alias_set(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        """The native call: MLflow's own client asks to move an alias, and so asks for a promotion."""
        model = check_model(fields["name"], field="name")
        alias = check_alias(fields["alias"])
        version = check_version(fields["version"])
        key = AliasKey(workspace, model, alias)
        policy = await self._policy(key)
        if policy is None:
            await self._not_a_companion(key)
            await self._require_on(principal, model, alias, workspace)
            await self._tell_of_move(key)
            return Forward()
        if await self._holds(key, version):
            return Done()
        await self._require_on(principal, model, alias, workspace, Permission.PROMOTIONS_REQUEST)
        try:
            promotion, _ = await self._promotions.create(
                principal,
                workspace=workspace,
                model=model,
                alias=alias,
                version=version,
                reason="asked for through MLflow's API",
            )
        except Unresolvable as error:  # a prompt, whose content is no file, or a version whose bytes lie elsewhere
            raise Governed(
                f"{_protected(policy, key)}: it moves only through a promotion, and version {version} has no "
                f"bytes that one could pin: {error.message}",
                policy=policy.name,
            ) from None
        if promotion.state in {State.APPROVED, State.APPLYING}:
            promotion = await self._promotions.follow(promotion, until=_is_applied, timeout_s=self._at_once_s)
        if _is_applied(promotion) and promotion.alias_moved:
            return Done()
        raise PromotionRequired(
            f"{_protected(policy, key)}: it moves only through a promotion. {await self._where(promotion)} "
            f"Follow it at {console_link_to(self._public_url, promotion.id)}",
            promotion=promotion.id,
            state=promotion.state.value,
            link=link_to(self._public_url, promotion.id),
        )

    async def _alias_delete(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        model, alias = fields["name"], fields["alias"]
        key = AliasKey(workspace, model, alias)
        policy = await self._policy(key)
        if policy is None:
            await self._not_a_companion(key)
            await self._require_on(principal, model, alias, workspace)
            await self._tell_of_move(key)
            return Forward()
        async with self._unit_of_work() as work:
            holder = await work.aliases.get(key)
        by = f"promotion {holder.promotion_id} put version {holder.version} there" if holder else "no promotion did"
        raise Governed(
            f"{_protected(policy, key)} and cannot be deleted; {by}. Promote another version instead.",
            policy=policy.name,
            promotion=holder.promotion_id if holder else None,
        )

    async def _tell_of_move(self, key: AliasKey) -> None:
        """Have no gateway remember where MLflow is about to move the alias from."""
        async with self._unit_of_work() as work:
            work.announce(f"{UNGOVERNED_MOVES}:{key.workspace}/{key.model}")
            await work.commit()

    async def _not_a_companion(self, key: AliasKey) -> None:
        """An alias that a policy moves together with a protected one moves with it alone."""
        async with self._unit_of_work() as work:
            policies = await work.policies.in_force()
        if not any(fold(each.companions.previous or "") == fold(key.alias) for each in policies):
            return
        for name in await self._names(key.model, key.workspace):
            for policy in policies:
                if policy.moves_along(name, key.alias, workspace=key.workspace):
                    raise Governed(
                        f"Alias '{key.alias}' of model '{key.resource}' moves together with '{policy.alias}', as "
                        f"policy '{policy.name}' says, and not by itself.",
                        policy=policy.name,
                    )

    async def _version_create(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        """A new version governs nothing, wherever it says its bytes are, and MLflow checks what it says.

        What cannot be resolved to bytes below our root cannot be promoted (``app/domain/storage.py``): neither another
        store, nor ``runs:/…``, which comes to mean other bytes.
        """
        return Forward()

    async def _version_delete(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        await self._version_untouched(
            fields, workspace, f"Version {fields['version']} of model '{fields['name']}'", "deleted"
        )
        return Forward()

    async def _version_tag(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        if fold(fields["key"]) in PROMPT_CONTENT:
            what = f"The content of version {fields['version']} of prompt '{fields['name']}'"
            await self._version_untouched(fields, workspace, what, "changed")
        return Forward()

    async def _stage_transition(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        """``models:/m/Production`` would be a second, ungoverned pointer beside an alias of that name."""
        key = AliasKey(workspace, fields["name"], fields["stage"])
        if policy := await self._policy(key):
            raise Governed(
                f"Alias '{policy.alias}' of model '{key.resource}' is governed by policy '{policy.name}': a stage of "
                f"that name, which MLflow has deprecated, would be a second way to name what is there. Use aliases.",
                policy=policy.name,
            )
        return Forward()

    async def _model_tag(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        if fold(fields["key"]) == PROMPT_MARK:
            await self._model_untouched(fields["name"], workspace, "turned into a prompt, or back")
        await self._policy_unchosen(principal, [fields["key"]], fields["name"], "set or deleted")
        return Forward()

    async def _model_create(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        await self._policy_unchosen(principal, json.loads(fields["tags"]), fields["name"], "set")
        return Forward()

    async def _policy_unchosen(
        self,
        principal: Principal,
        keys: Iterable[str],
        model: str,
        how: str,
        of: Callable[[Policy], bool] = lambda _: True,
    ) -> None:
        """Whoever could set these tags, or be rid of them, could choose the policy that their promotions are under."""
        if not isinstance(authorise(principal, Permission.POLICIES_ADMINISTER), Deny):
            return
        async with self._unit_of_work() as work:
            policies = await work.policies.in_force()
        for key in keys:
            for policy in policies:
                if policy.selects_by(key) and of(policy):
                    raise Governed(
                        f"Tag '{key}' decides whether policy '{policy.name}' is for model '{model}': it is {how} by "
                        "an administrator.",
                        policy=policy.name,
                    )

    async def _model_delete(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        await self._model_untouched(fields["name"], workspace, "deleted")
        with suppress(NotFound):
            await self._tags_stay(principal, await self._registry.get_model(fields["name"], workspace))
        return Forward()

    async def _tags_stay(self, principal: Principal, model: RegisteredModel) -> None:
        """Another model could be made under this name, without them."""
        await self._policy_unchosen(
            principal,
            model.tags,
            model.name,
            "taken away with the model",
            lambda policy: policy.is_for(model.name, model.workspace),
        )

    async def _model_rename(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        """Neither away from a governed name, nor with an alias into a name under which that alias is protected."""
        model, new_name = fields["name"], fields["new_name"]
        await self._model_untouched(model, workspace, "renamed")
        registered = await self._registry.get_model(model, workspace)
        await self._tags_stay(principal, registered)
        for alias in registered.aliases:
            policy = await self._policy(AliasKey(workspace, new_name, alias))
            if policy:
                raise Governed(
                    f"Model '{model}' cannot be renamed to '{new_name}': its alias '{alias}' would be protected "
                    f"by policy '{policy.name}' there without a promotion.",
                    policy=policy.name,
                )
        return Forward()

    async def _experiment_create(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        """MLflow takes any artifact location, one that holds governed bytes too."""
        location = fields.get("artifact_location", "")
        if not location:
            return Forward()
        if not location.startswith("mlflow-artifacts:/"):
            raise InvalidInput(
                "artifact_location", "expected none, or one below the server's root (mlflow-artifacts:/…)"
            )
        root = artifact_root(location, workspace=workspace)
        await self._folder_untouched(root, "be the artifact location of an experiment")
        return Forward()

    async def _experiment_delete(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        """Its artifacts need not lie in a folder of its number: MLflow says where."""
        experiment = check_experiment(fields["experiment_id"])
        try:
            location = await self._registry.get_experiment_location(experiment, workspace)
        except NotFound:
            return Forward()
        roots = paths_below(location, destination=self._destination, workspace=workspace)
        for folder in {in_workspace(experiment, workspace), *roots}:
            await self._folder_untouched(folder, f"be deleted with experiment {experiment}")
        return Forward()

    async def _run_delete(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        await self._run_untouched(check_identifier(fields["run_id"], field="run_id"), "deleted")
        return Forward()

    async def _run_artifact_write(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        """MLflow writes in a folder of the experiment's and the run's id, or where the run says its artifacts are."""
        run_id = check_identifier(fields["run_id"], field="run_uuid")
        await self._run_untouched(run_id, "changed")
        try:
            run = await self._registry.get_run(run_id, workspace)
        except NotFound:
            return Forward()
        roots = paths_below(run.artifact_uri, destination=self._destination, workspace=workspace)
        for root in {in_workspace(f"{run.experiment_id}/{run.id}/artifacts", workspace), *roots}:
            await self._artifact_untouched(f"{root}/{fields['path']}")
        return Forward()

    async def _logged_model_create(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        """Where a version is looked up in its run at each load, a new logged model of that run is its content."""
        async with self._unit_of_work() as work:
            policies = await work.policies.in_force()
        for holder in await self._holders.unknown(policies):
            if holder.looked_up and _same(fields.get("source_run_id", ""), holder.looked_up[0]):
                await self._refuse_if_held(holder, f"Run {holder.looked_up[0]}", "given another logged model")
        return Forward()

    async def _logged_model_delete(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        model_id = check_identifier(fields["model_id"], field="model_id")
        async with self._unit_of_work() as work:
            _refuse(await work.aliases.governing_logged_model(model_id), f"Logged model {model_id}", "deleted")
            policies = await work.policies.in_force()
        for holder in await self._holders.unknown(policies):
            if holder.rests_on_logged_model(model_id):
                await self._refuse_if_held(holder, f"Logged model {model_id}", "deleted")
        return Forward()

    async def _artifact_write(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
        await self._artifact_untouched(fields["path"])
        return Forward()

    async def _artifact_delete(self, principal: Principal, fields: _Fields, workspace: str) -> Ruling:
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
                workspace=governance.workspace,
                **_named(governance),
            )
        for holder in await self._holders.unknown(policies):
            if (holder.rests_on_artifact(path) or holder.lies_below(path)) and await self._holders.still_holds(holder):
                raise Governed(
                    f"Artifact path {path} cannot {what}: {holder.why}.",
                    model=holder.model,
                    workspace=holder.workspace,
                    policy=holder.policy,
                )

    async def _run_untouched(self, run_id: str, how: str) -> None:
        async with self._unit_of_work() as work:
            _refuse(await work.aliases.governing_run(run_id), f"Run {run_id}", how)
            policies = await work.policies.in_force()
        for holder in await self._holders.unknown(policies):
            if holder.rests_on_run(run_id):
                await self._refuse_if_held(holder, f"Run {run_id}", how)

    async def _version_untouched(self, fields: _Fields, workspace: str, what: str, how: str) -> None:
        names, version = await self._names(fields["name"], workspace), fields["version"]
        async with self._unit_of_work() as work:
            _refuse(await work.aliases.governing_version(workspace, names, version), what, how)
        for holder in await self._holders.of_model(fields["name"], workspace):
            if holder.version == version:
                raise Governed(f"{what} cannot be {how}: {holder.why}.", policy=holder.policy)

    async def _model_untouched(self, model: str, workspace: str, how: str) -> None:
        names = await self._names(model, workspace)
        async with self._unit_of_work() as work:
            _refuse(await work.aliases.governing_model(workspace, names), f"Model '{model}'", how)
        for holder in await self._holders.of_model(model, workspace):
            raise Governed(f"Model '{model}' cannot be {how}: {holder.why}.", policy=holder.policy)

    async def _refuse_if_held(self, holder: AliasHolder, what: str, how: str) -> None:
        if await self._holders.still_holds(holder):
            raise Governed(
                f"{what} cannot be {how}: {holder.why}.",
                model=holder.model,
                workspace=holder.workspace,
                policy=holder.policy,
            )

    async def _names(self, model: str, workspace: str) -> Sequence[str]:
        """The name that was sent and, if its database takes several for one, the one that MLflow knows it by."""
        try:
            return (model, (await self._registry.get_model(model, workspace)).name)
        except NotFound:
            return (model,)

    async def _policy(self, key: AliasKey) -> Policy | None:
        """The policy that protects the alias, whichever of its names the model was called by, by its tags too."""
        async with self._unit_of_work() as work:
            policies = await work.policies.in_force()
        if not any(policy.protects(key.model, key.alias, workspace=key.workspace) for policy in policies):
            found = [name for name in await self._names(key.model, key.workspace) if name != key.model]
            among = (policy_for(policies, name, key.alias, workspace=key.workspace) for name in found)
            return next((policy for policy in among if policy), None)
        tags: Mapping[str, str] | None = None
        if any(policy.tags for policy in policies):
            with suppress(NotFound):
                tags = (await self._registry.get_model(key.model, key.workspace)).tags
        return policy_for(policies, key.model, key.alias, workspace=key.workspace, tags=tags)

    async def _where(self, promotion: Promotion) -> str:
        said = f"{_LANES[promotion.kind]} {promotion.id} of version {promotion.to_version} is {promotion.state}"
        if promotion.state not in OPEN:
            return f"{said}: {promotion.state_reason}." if promotion.state_reason else f"{said}."
        statuses, _ = await self._promotions.standing(promotion)
        missing = waits_for(statuses)
        return f"{said} and is about to be applied." if missing == "nothing" else f"{said} and waits for {missing}."

    async def _holds(self, key: AliasKey, version: str) -> bool:
        """Whether it does in MLflow and, where our ledger knows the alias, there too."""
        async with self._unit_of_work() as work:
            holder = await work.aliases.get(key)
        if holder and holder.version != version:
            return False
        return (await self._registry.get_model(key.model, key.workspace)).aliases.get(key.alias) == version


def _protected(policy: Policy, key: AliasKey) -> str:
    return (
        f"Alias '{key.alias}' of model '{key.resource}' is protected by policy '{policy.name}' "
        f"(revision {policy.revision})"
    )


_LANES = {
    Kind.PROMOTION: "Promotion",
    Kind.ROLLBACK: "Rollback",
    Kind.RESTORE: "Restoration",
    Kind.BREAK_GLASS: "Promotion by broken glass",
}


def _is_applied(promotion: Promotion) -> bool:
    return promotion.state not in OPEN


def _same(one: str, other: str) -> bool:
    return one.strip().lower() == other.strip().lower()


def _refuse(governance: Governance | None, what: str, how: str) -> None:
    if governance:
        raise Governed(
            f"{what} cannot be {how}: {_because(governance)}.",
            model=governance.model,
            workspace=governance.workspace,
            **_named(governance),
        )


def _because(governance: Governance) -> str:
    model = AliasKey(governance.workspace, governance.model, governance.alias).resource
    return (
        f"promotion {governance.promotion_id} ({governance.state}) of version {governance.version} of model "
        f"'{model}' to alias '{governance.alias}' rests on it, under policy '{governance.policy_name}'"
    )


def _named(governance: Governance) -> dict[str, str]:
    return {"promotion": governance.promotion_id, "policy": governance.policy_name}
