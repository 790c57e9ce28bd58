"""What the deployer must not forget of a model, beside what every deployer does: its plan, and the last good one."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from countersign_deployer import state as contract
from countersign_deployer.state import Record
from pydantic import Field


class Step(StrEnum):
    """How far the current generation got."""

    ROLLING = "rolling"
    SETTLED = "settled"  # it has an end; what it left is kept as it is
    LEFT = "left"  # it failed, and what is there is not ours to take away: it is looked at, and left as it is
    YIELDED = "yielded"  # the object is of a higher generation than we know of: hands off


class Version(Record):
    """Immutable bytes at a physical address."""

    version: str
    uri: str
    digest: str


class Plan(Record):
    """What the InferenceService of a model is to be.

    ``main`` gets what ``canary`` does not; nothing is served if it is none. ``weight``: of the canary, in percent.
    ``notes``: annotations that say where this comes from, and change with each call.
    """

    generation: int
    main: Version | None = None
    canary: Version | None = None
    weight: int = 0
    options: dict[str, Any] = Field(default_factory=dict)
    notes: dict[str, str] = Field(default_factory=dict)


class Resource(contract.Resource):
    """``plan`` is what is made true; ``good`` was, the last time that all was well. ``applied_at``: since when (seconds
    since the epoch) the object is as planned; 0 while it is not. ``is_unknown``: the state knew nothing of the model
    when it was called, so what the cluster has of it is looked at first. ``was_there``: there was an object of it then,
    and nothing was good since.
    """

    step: Step = Step.ROLLING
    plan: Plan
    good: Plan | None = None
    applied_at: float = 0
    is_unknown: bool = False
    was_there: bool = False

    @property
    def is_settled(self) -> bool:
        return self.step is not Step.ROLLING


class State(contract.State[Resource]):
    """Of all models."""
