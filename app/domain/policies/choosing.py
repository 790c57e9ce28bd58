"""Which policy protects an alias: the most specific one of those whose patterns match, and why it is that one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.policies.policy import Policy


@dataclass(frozen=True, slots=True)
class Choice:
    """The policy that protects an alias, if one does, and those that it wins over, most specific first."""

    policy: Policy | None
    others: tuple[Policy, ...]

    @property
    def why(self) -> str:
        """A sentence for a person."""
        if self.policy is None:
            return "No policy matches, so the alias is not protected."
        won = self.policy
        if not self.others:
            return f"Policy {won.name} is the only one that matches."
        next_best = self.others[0]
        for what, of in _MEASURES:
            if of(won) != of(next_best):
                return f"Policy {won.name} wins over {next_best.name}: its {what} is more specific."
        return f"Policies {won.name} and {next_best.name} are equally specific; the name that sorts last wins."


def _weight(pattern: str) -> tuple[bool, int]:
    wild = sum(pattern.count(character) for character in "*?[")
    return (wild == 0, len(pattern) - wild)


_MEASURES = (
    ("model pattern", lambda policy: _weight(policy.models)),
    ("alias pattern", lambda policy: _weight(policy.alias)),
    ("workspace pattern", lambda policy: _weight(policy.workspaces)),
    ("list of tags", lambda policy: sorted((_weight(pattern) for _, pattern in policy.tags), reverse=True)),
)
"""What is compared, in this order. A pattern is more specific the more literal characters it has, one without wildcards
the most."""


def choose(
    policies: Iterable[Policy],
    model: str,
    alias: str,
    *,
    workspace: str = DEFAULT_WORKSPACE,
    tags: Mapping[str, str] | None = None,
) -> Choice:
    """Choose the policy of an alias. The answer never depends on the order of ``policies``.

    Args:
        policies: those in force.
        model: its name.
        alias: as it is written.
        workspace: MLflow's.
        tags: the registered model's; none if they are not known: then a policy that asks for tags matches too, so
            that an alias is rather held to be protected than not.
    """
    known = None if tags is None else dict(tags)
    matching: Sequence[Policy] = sorted(
        (each for each in policies if each.protects(model, alias, workspace=workspace, tags=known)),
        key=lambda policy: (*(of(policy) for _, of in _MEASURES), policy.name),
        reverse=True,
    )
    return Choice(matching[0] if matching else None, tuple(matching[1:]))


def policy_for(
    policies: Iterable[Policy],
    model: str,
    alias: str,
    *,
    workspace: str = DEFAULT_WORKSPACE,
    tags: Mapping[str, str] | None = None,
) -> Policy | None:
    """The policy that protects an alias; ``None`` when nothing does. See ``choose``."""
    return choose(policies, model, alias, workspace=workspace, tags=tags).policy
