"""Which versions are approved for which targets: by our ledger of aliases, and the policies in force."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.deployments import Deployment
from app.domain.promotions import Promotion, State
from app.ports import Clock

_MOVING = (State.APPLYING, State.ROLLING_OUT)

Place = tuple[str, str, str]
"""A target, and the workspace and name of a model."""


@dataclass(frozen=True, slots=True)
class Approved:
    """What is approved now. ``moving`` are the promotions that change it at this moment, by workspace and model."""

    versions: Mapping[Place, frozenset[str]] = field(default_factory=dict)
    moving: Mapping[tuple[str, str], Promotion] = field(default_factory=dict)

    def of(self, deployment: Deployment) -> frozenset[str] | None:
        """The versions that its target may serve; none if that is being changed."""
        if (deployment.workspace, deployment.model) in self.moving:
            return None
        return self.versions.get((deployment.target, deployment.workspace, deployment.model), frozenset())


async def approved(work: UnitOfWork, clock: Clock, *, models: Collection[tuple[str, str]]) -> Approved:
    """What is approved for the targets of these models, each a workspace and a name; in three statements.

    A policy that asks for tags of models counts, as tags are not known here: nobody is alarmed because of that.
    """
    wanted = frozenset(models)
    any_time = clock.now() + timedelta(days=1)
    moving = {
        (each.workspace, each.model): each
        for each in await work.promotions.unsettled(_MOVING, untouched_since=any_time)
        if (each.workspace, each.model) in wanted
    }
    policies = [each for each in await work.policies.in_force() if each.targets]
    versions: defaultdict[Place, set[str]] = defaultdict(set)
    for key, version in await work.aliases.holders_of(wanted):
        for policy in policies:
            if policy.protects(key.model, key.alias, workspace=key.workspace, tags=None):
                for target in policy.targets:
                    versions[target, key.workspace, key.model].add(version)
    return Approved({place: frozenset(found) for place, found in versions.items()}, moving)
