"""What the deployer must not forget, beside what every deployer must not: the applications, and where the routes go."""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Any

from countersign_deployer import state as shared
from pydantic import Field


class Step(StrEnum):
    """How far the current generation got."""

    STARTING = "starting"  # what is to get requests starts without any
    SWITCHING = "switching"  # the routes were changed; not proven by probes yet
    SETTLED = "settled"


class App(shared.Record):
    """The immutable Serve application of one model version. ``spec`` is kept as it was made: settings that change later
    must not restart a version that serves. ``has_served``: it was once proven to answer.
    """

    version: str
    uri: str
    digest: str
    spec: dict[str, Any]
    drop_after: float | None = None
    heal_after: float = 0
    has_served: bool = False


class Share(shared.Record):
    """The percentage of a model's requests that an application gets; with 0 it is loaded, in the dark."""

    app: str
    weight: int


class Resource(shared.Resource):
    """One model: its last accepted generation and how far that got.

    ``wanted`` is what the generation asks for, ``routed`` what the router is told, ``proven`` the last routes that
    every router was seen to have; all three name keys of ``apps``. ``ill_since``: when what serves was first seen not
    to be well.
    """

    step: Step
    start_by: float = 0
    wanted: list[Share] = Field(default_factory=list)
    routed: list[Share] = Field(default_factory=list)
    proven: list[Share] = Field(default_factory=list)
    apps: dict[str, App] = Field(default_factory=dict)
    ill_since: float | None = None

    @property
    def is_settled(self) -> bool:
        return self.step is Step.SETTLED


class State(shared.State[Resource]):
    """Everything the deployer must not forget. ``probe_token``: who shows it is told a router's routes."""

    router_attempt: int = 1
    router_heal_after: float = 0
    probe_token: str = Field(default_factory=lambda: secrets.token_urlsafe(24))
