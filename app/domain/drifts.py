"""Drift: an alias that somebody moved past the gateway. What counts as one, when it has ended, when to try again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from app.domain.policies import Policy, policy_for
from app.domain.promotions import AliasKey

FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
"""How long to wait after the first attempt to restore an alias that failed, and at most."""


class DriftEnd(StrEnum):
    """How a drift ended."""

    RESTORED = "restored"
    """Countersign put the alias back, as the policy says."""
    PROMOTION = "promotion"
    """A promotion was applied, and its version holds the alias now."""
    BY_ITSELF = "by itself"
    """Somebody moved the alias back past the gateway."""
    UNPROTECTED = "unprotected"
    """No policy protects the alias any more."""


@dataclass(frozen=True, slots=True)
class Sight:
    """Who holds an alias, as MLflow shows it or as we have it on record; no version: nobody does.

    ``model_created_at`` tells the model from another of its name, in milliseconds since the epoch as MLflow gives it;
    none: there is no model of that name.
    """

    version: str | None
    model_created_at: int | None = None

    def is_as(self, other: Sight) -> bool:
        """Whether both are the same holder. Version 1 of a model that was created again is another."""
        if self.version is None or other.version is None:
            return self.version == other.version
        return self == other


NOBODY = Sight(None)


@dataclass(frozen=True, slots=True)
class Drift:
    """A protected alias that MLflow shows otherwise than it should be.

    ``holding`` is the promotion by which the version that should hold it does; none if no promotion ever moved it.
    ``restoring`` is the promotion that shall put it back; ``obstacle`` is why that is not possible.
    """

    id: str
    key: AliasKey
    expected: Sight
    seen: Sight
    found_at: datetime
    holding: str | None = None
    ended_at: datetime | None = None
    ended_how: DriftEnd | None = None
    ended_by: str | None = None
    """The promotion that ended it, if one did."""
    restoring: str | None = None
    attempts: int = 0
    next_attempt_at: datetime | None = None
    obstacle: str | None = None

    @property
    def message(self) -> str:
        """A sentence for a person."""
        model, alias, seen = self.key.model, self.key.alias, self.seen
        should = (
            f"version {self.expected.version} should" + (f" (promotion {self.holding})" if self.holding else "")
            if self.expected.version
            else "nobody should: no promotion put it there"
        )
        if seen.model_created_at is None:
            return f"There is no model {model} any more; of alias {alias}, {should} be the holder."
        if self.expected.version and seen.model_created_at != self.expected.model_created_at:
            shown = f"its version {seen.version} holds {alias}" if seen.version else f"nobody holds {alias}"
            return f"Model {model} was deleted and created again, and its versions are others: {shown}, and {should}."
        shown = f"Version {seen.version} of model {model} holds {alias}" if seen.version else f"Nobody holds {alias}"
        return f"{shown}{'' if seen.version else f' of model {model}'}, and {should}."


def governing(policies: Iterable[Policy], key: AliasKey, tags: Mapping[str, str] | None) -> Policy | None:
    """The policy that protects an alias, or that moves it together with one that it protects.

    Args:
        policies: those in force.
        key: the alias.
        tags: the model's; none if they are not known, which could be any.
    """
    policies = list(policies)
    if policy := policy_for(policies, key.model, key.alias, workspace=key.workspace, tags=tags):
        return policy
    known = None if tags is None else dict(tags)
    for policy in policies:
        if policy.moves_along(key.model, key.alias, workspace=key.workspace, tags=known):
            return policy
    return None


def expected(ledger: Sight | None, open_drift: Drift | None, last: Sight | None) -> Sight:
    """Who should hold a protected alias: whom a promotion put there, else who held it before somebody moved it.

    Args:
        ledger: whom a promotion put there; none if none ever moved it.
        open_drift: the drift of it that is known.
        last: who holds it as far as history tells; none if it was never seen.
    """
    if ledger is not None:
        return ledger
    return open_drift.expected if open_drift else last or NOBODY


def next_attempt(attempts: int, now: datetime) -> datetime:
    """When an alias is to be restored again after so many attempts."""
    return now + min(FIRST_PAUSE * (1 << min(attempts - 1, 16)), LONGEST_PAUSE)
