"""Models as grants see them: with the owner, where a principal's rights could depend on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may
from app.domain.grants import DEFAULT_WORKSPACE, Resource, ResourceKind, model
from app.domain.roles import ROLE_PERMISSIONS, Role


async def model_for(work: UnitOfWork, principal: Principal, name: str, alias: str | None = None) -> Resource:
    """A model, or one alias of it, as ``principal`` stands to it."""
    return next(iter(await models_for(work, principal, [(name, alias)])))


async def models_for(work: UnitOfWork, principal: Principal, named: Iterable[tuple[str, str | None]]) -> list[Resource]:
    """Models and aliases, each with ``principal`` as the owner if it is theirs. Others' are without."""
    resources = [model(name, alias) for name, alias in named]
    if principal.access.everywhere >= _OF_OWNERS or not principal.access.owns(_anything_of(principal)):
        return resources
    owned = await work.owners.owned_by(principal.id)
    return [
        replace(resource, owner=principal.id)
        if (ResourceKind.MODEL.value, DEFAULT_WORKSPACE, resource.name) in owned
        else resource
        for resource in resources
    ]


async def readable(
    work: UnitOfWork, principal: Principal, permission: Permission, named: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The aliases of models on which ``principal`` holds ``permission``."""
    named = list(named)
    resources = await models_for(work, principal, named)
    return [each for each, resource in zip(named, resources, strict=True) if may(principal, permission, resource)]


_OF_OWNERS = ROLE_PERMISSIONS[Role.VIEWER]
"""What owning may add here: everything else that an owner may do is done in MLflow."""


def _anything_of(principal: Principal) -> Resource:
    return Resource(ResourceKind.MODEL, owner=principal.id)
