"""What the door asks before it lets a change through to MLflow: does a promotion rest on it?

Governed is a version that is being promoted to a protected alias, or holds one; with it its model, its run, its
logged model and its bytes. One question of ``Guard``, one method here; the table at the end is total.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from app.adapters.postgres.aliases import Governance
from app.domain.access import Permission, Principal, authorise
from app.domain.errors import Forbidden, Governed, InvalidInput, NotFound, PromotionRequired
from app.domain.names import check_alias, check_model, check_version
from app.domain.policies import Policy, policy_for
from app.domain.promotions import OPEN, Kind, Promotion
from app.domain.routes import Done, Forward, Guard, Ruling
from app.domain.storage import ancestors, artifact_root
from app.domain.verdicts import Deny
from app.ports import ModelRegistry
from app.services.promotions import Promotions, waits_for
from app.services.recording import UnitOfWorkFactory

PROMPT_TEXT = "mlflow.prompt.text"
PROMPT_MARK = "mlflow.prompt.is_prompt"

_Fields = Mapping[str, str]
_Check = Callable[[Principal, _Fields], Awaitable[Ruling]]


def link_to(public_url: str, promotion_id: str) -> str:
    """Where a person or a program finds a promotion."""
    return f"{public_url}/control/v1/promotions/{promotion_id}"


class RegistryGuard:
    """Answers for the guarded routes of MLflow (``app.domain.routes.Guard``)."""

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, registry: ModelRegistry, promotions: Promotions, *, public_url: str
    ) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._promotions = promotions
        self._public_url = public_url
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
            Guard.RUN_DELETE: self._run_change,
            Guard.RUN_ARTIFACT_WRITE: self._run_change,
            Guard.LOGGED_MODEL_DELETE: self._logged_model_delete,
            Guard.ARTIFACT_WRITE: self._artifact_write,
            Guard.ARTIFACT_DELETE: self._artifact_delete,
        }

    async def check(self, guard: Guard, principal: Principal, fields: Mapping[str, str]) -> Ruling:
        """Yes, already done, or an error that says which policy and promotion forbid it."""
        return await self._checks[guard](principal, fields)

    async def _alias_set(self, principal: Principal, fields: _Fields) -> Ruling:
        """The native call: MLflow's own client asks to move an alias, and so asks for a promotion."""
        model = check_model(fields["name"], field="name")
        alias = check_alias(fields["alias"])
        version = check_version(fields["version"])
        policy = await self._policy(model, alias)
        if policy is None:
            _require(principal, Permission.REGISTRY_WRITE)
            return Forward()
        if await self._holds(model, alias, version):
            return Done()
        _require(principal, Permission.PROMOTIONS_REQUEST)
        promotion, _ = await self._promotions.create(
            principal, model=model, alias=alias, version=version, reason="asked for through MLflow's API"
        )
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
            _require(principal, Permission.REGISTRY_WRITE)
            return Forward()
        async with self._unit_of_work() as work:
            holder = await work.aliases.get(model, alias)
        by = f"; promotion {holder.promotion_id} put version {holder.version} there" if holder else ""
        raise Governed(
            f"{_protected(policy, model, alias)} and cannot be deleted{by}.",
            policy=policy.name,
            promotion=holder.promotion_id if holder else None,
        )

    async def _version_create(self, principal: Principal, fields: _Fields) -> Ruling:
        """A new version governs nothing. What cannot be resolved to bytes below our root cannot be promoted either."""
        return Forward()

    async def _version_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        model, version = fields["name"], fields["version"]
        async with self._unit_of_work() as work:
            _refuse(
                await work.aliases.governing_version(model, version), f"Version {version} of model '{model}'", "deleted"
            )
        for alias in await self._protected_aliases(model):
            if alias.version == version:
                raise Governed(
                    f"Version {version} of model '{model}' cannot be deleted: {alias.why}.", policy=alias.policy
                )
        return Forward()

    async def _version_tag(self, principal: Principal, fields: _Fields) -> Ruling:
        if fields.get("key") == PROMPT_TEXT:
            async with self._unit_of_work() as work:
                governance = await work.aliases.governing_version(fields["name"], fields["version"])
            _refuse(governance, f"The text of version {fields['version']} of prompt '{fields['name']}'", "changed")
        return Forward()

    async def _stage_transition(self, principal: Principal, fields: _Fields) -> Ruling:
        """``models:/m/Production`` would be a second, ungoverned pointer."""
        async with self._unit_of_work() as work:
            policies = await work.policies.in_force()
        for policy in policies:
            if policy.protects(fields["name"], policy.alias):
                raise Governed(
                    f"Model '{fields['name']}' is governed by policy '{policy.name}': stages, which MLflow has "
                    f"deprecated, would be a second way to name what is in {policy.alias}. Use aliases.",
                    policy=policy.name,
                )
        return Forward()

    async def _model_tag(self, principal: Principal, fields: _Fields) -> Ruling:
        if fields.get("key") == PROMPT_MARK:
            await self._model_untouched(fields["name"], "turned into a prompt")
        return Forward()

    async def _model_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        await self._model_untouched(fields["name"], "deleted")
        return Forward()

    async def _model_rename(self, principal: Principal, fields: _Fields) -> Ruling:
        """Neither away from a governed name, nor with an alias into a name under which that alias is protected."""
        model, new_name = fields["name"], fields.get("new_name", "")
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
        await self._artifacts_untouched(artifact_root(location), "be the artifact location of an experiment")
        return Forward()

    async def _experiment_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        async with self._unit_of_work() as work:
            governance = await work.aliases.governing_below(fields["experiment_id"])
        _refuse(governance, f"Experiment {fields['experiment_id']}", "deleted")
        return Forward()

    async def _run_change(self, principal: Principal, fields: _Fields) -> Ruling:
        async with self._unit_of_work() as work:
            governance = await work.aliases.governing_run(fields["run_id"])
        _refuse(governance, f"Run {fields['run_id']}", "changed or deleted")
        return Forward()

    async def _logged_model_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        async with self._unit_of_work() as work:
            governance = await work.aliases.governing_logged_model(fields["model_id"])
        _refuse(governance, f"Logged model {fields['model_id']}", "deleted")
        return Forward()

    async def _artifact_write(self, principal: Principal, fields: _Fields) -> Ruling:
        async with self._unit_of_work() as work:
            governance = await work.aliases.governing_artifacts(ancestors(fields["path"]))
        _refuse(governance, f"Artifact {fields['path']}", "written")
        return Forward()

    async def _artifact_delete(self, principal: Principal, fields: _Fields) -> Ruling:
        await self._artifacts_untouched(fields["path"], "be deleted")
        return Forward()

    async def _artifacts_untouched(self, path: str, what: str) -> None:
        async with self._unit_of_work() as work:
            governance = await work.aliases.governing_artifacts(ancestors(path)) or await work.aliases.governing_below(
                path
            )
        if governance:
            raise Governed(f"Artifact path {path} cannot {what}: {_because(governance)}.", **_named(governance))

    async def _model_untouched(self, model: str, what: str) -> None:
        async with self._unit_of_work() as work:
            _refuse(await work.aliases.governing_model(model), f"Model '{model}'", what)
        for alias in await self._protected_aliases(model):
            raise Governed(f"Model '{model}' cannot be {what}: {alias.why}.", policy=alias.policy)

    async def _policy(self, model: str, alias: str) -> Policy | None:
        async with self._unit_of_work() as work:
            return policy_for(await work.policies.in_force(), model, alias)

    async def _holds(self, model: str, alias: str, version: str) -> bool:
        """Whether it does in MLflow and, where our ledger knows the alias, there too."""
        async with self._unit_of_work() as work:
            holder = await work.aliases.get(model, alias)
        if holder and holder.version != version:
            return False
        return (await self._registry.get_model(model)).aliases.get(alias) == version

    async def _protected_aliases(self, model: str) -> list[_ProtectedAlias]:
        """Aliases that were set before Countersign knew of them are protected all the same."""
        try:
            registered = await self._registry.get_model(model)
        except NotFound:
            return []
        async with self._unit_of_work() as work:
            policies = await work.policies.in_force()
        found = [(alias, version, policy_for(policies, model, alias)) for alias, version in registered.aliases.items()]
        return [_ProtectedAlias(alias, version, policy.name) for alias, version, policy in found if policy]


class _ProtectedAlias:
    def __init__(self, alias: str, version: str, policy: str) -> None:
        self.version = version
        self.policy = policy
        self.why = f"version {version} holds alias '{alias}', which policy '{policy}' protects"


def _require(principal: Principal, permission: Permission) -> None:
    verdict = authorise(principal, permission)
    if isinstance(verdict, Deny):
        raise Forbidden(verdict.reason, permission=permission.value)


def _protected(policy: Policy, model: str, alias: str) -> str:
    return f"Alias '{alias}' of model '{model}' is protected by policy '{policy.name}' (revision {policy.revision})"


def _where(promotion: Promotion) -> str:
    lane = "Rollback" if promotion.kind is Kind.ROLLBACK else "Promotion"
    if promotion.state in OPEN and (missing := waits_for(promotion)) != "nothing":
        return f"{lane} {promotion.id} of version {promotion.to_version} is {promotion.state} and waits for {missing}."
    return f"{lane} {promotion.id} of version {promotion.to_version} is {promotion.state}."


def _refuse(governance: Governance | None, what: str, how: str) -> None:
    if governance:
        raise Governed(f"{what} cannot be {how}: {_because(governance)}.", **_named(governance))


def _because(governance: Governance) -> str:
    return (
        f"promotion {governance.promotion_id} ({governance.state}) of version {governance.version} of model "
        f"'{governance.model}' to alias '{governance.alias}' rests on it, under policy '{governance.policy_name}'"
    )


def _named(governance: Governance) -> dict[str, str]:
    return {"promotion": governance.promotion_id, "policy": governance.policy_name}
