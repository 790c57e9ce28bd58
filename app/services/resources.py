"""Models as grants see them: with the owner, where a principal's rights could depend on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may
from app.domain.grants import DEFAULT_WORKSPACE, Resource, ResourceKind, model
from app.domain.promotions import AliasKey
from app.domain.roles import ROLE_PERMISSIONS, Role


async def model_for(
    work: UnitOfWork, principal: Principal, name: str, alias: str | None = None, *, workspace: str = DEFAULT_WORKSPACE
) -> Resource:
    """A model, or one alias of it, as ``principal`` stands to it."""
    return next(iter(await _with_owners(work, principal, [model(name, alias, workspace=workspace)])))


async def models_for(work: UnitOfWork, principal: Principal, named: Iterable[tuple[str, str]]) -> list[Resource]:
    """Models, by workspace and name, each with ``principal`` as the owner if it is theirs."""
    return await _with_owners(work, principal, [model(name, workspace=workspace) for workspace, name in named])


async def aliases_for(work: UnitOfWork, principal: Principal, keys: Iterable[AliasKey]) -> list[Resource]:
    """Aliases of any workspace, as ``models_for``."""
    found = [model(key.model, key.alias, workspace=key.workspace) for key in keys]
    return await _with_owners(work, principal, found)


async def _with_owners(work: UnitOfWork, principal: Principal, resources: list[Resource]) -> list[Resource]:
    """Each with ``principal`` as the owner if it is theirs. Others' are without."""
    if principal.access.everywhere >= _OF_OWNERS or not principal.access.owns(_anything_of(principal)):
        return resources
    owned = await work.owners.owned_by(principal.id)
    return [
        replace(resource, owner=principal.id)
        if (ResourceKind.MODEL.value, resource.workspace, resource.name) in owned
        else resource
        for resource in resources
    ]


async def readable(
    work: UnitOfWork, principal: Principal, permission: Permission, keys: Iterable[AliasKey]
) -> list[AliasKey]:
    """The aliases on which ``principal`` holds ``permission``."""
    keys = list(keys)
    resources = await aliases_for(work, principal, keys)
    return [each for each, resource in zip(keys, resources, strict=True) if may(principal, permission, resource)]


_OF_OWNERS = ROLE_PERMISSIONS[Role.VIEWER]
"""What owning may add here: everything else that an owner may do is done in MLflow."""


def _anything_of(principal: Principal) -> Resource:
    return Resource(ResourceKind.MODEL, owner=principal.id)
