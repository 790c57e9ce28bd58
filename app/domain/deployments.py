"""Deployments: desired and observed state of one model on one target, with a generation.

The generation counts up by one each time the desired state changes, in the transaction that changes it. A deployer
reports what it observed for a generation; reports that are late or out of order change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from app.domain.errors import NotFound
from app.domain.grants import DEFAULT_WORKSPACE


class Phase(StrEnum):
    """What a deployer says of a generation."""

    REQUESTED = "Requested"  # we called, or are about to; the deployer has not reported yet
    ACCEPTED = "Accepted"
    PROGRESSING = "Progressing"
    READY = "Ready"
    FAILED = "Failed"  # the model or its configuration is bad: trying again is no use
    SUPERSEDED = "Superseded"


@dataclass(frozen=True, slots=True)
class Target:
    """One place models are deployed to.

    Secrets are named, not held (see ``app.domain.endpoints.Endpoint``), one or two each, the newest first:
    ``secrets`` sign what it is sent, ``callback_secrets`` what it sends.
    """

    name: str
    url: str
    secrets: tuple[str, ...]
    callback_secrets: tuple[str, ...]
    allowed_networks: tuple[str, ...] = ()
    deadline_s: int = 900


@dataclass(frozen=True, slots=True)
class Deployment:
    """Desired and observed state of one model on one target."""

    id: str
    target: str
    model: str
    generation: int
    version: str
    uri: str
    digest: str
    promotion_id: str
    phase: Phase
    reason: str
    message: str
    observed_generation: int
    sequence: int
    requested_at: datetime
    updated_at: datetime
    workspace: str = DEFAULT_WORKSPACE

    @property
    def resource(self) -> str:
        """What the target calls it: the model, with its workspace before it unless that is the default one."""
        return self.model if self.workspace == DEFAULT_WORKSPACE else f"{self.workspace}/{self.model}"

    @property
    def is_ready(self) -> bool:
        return self.phase is Phase.READY and self.observed_generation == self.generation

    @property
    def is_open(self) -> bool:
        """Whether its deployer may still report something."""
        return self.phase in {Phase.REQUESTED, Phase.ACCEPTED, Phase.PROGRESSING}

    @property
    def has_failed(self) -> bool:
        return self.phase is Phase.FAILED and self.observed_generation == self.generation


@dataclass(frozen=True, slots=True)
class Report:
    """What a deployer reported."""

    generation: int
    observed_generation: int
    sequence: int
    phase: Phase
    reason: str
    message: str


def observed(deployment: Deployment, report: Report, *, at: datetime) -> Deployment | None:
    """The deployment after a report; ``None`` when the report is late and changes nothing.

    A report counts only for the generation that is desired now, and only if its sequence is higher than the last one
    seen: status callbacks are retried and may overtake each other.
    """
    if report.generation != deployment.generation or report.observed_generation != deployment.generation:
        return None
    if deployment.observed_generation == report.generation and report.sequence <= deployment.sequence:
        return None
    return replace(
        deployment,
        phase=report.phase,
        reason=report.reason,
        message=report.message,
        observed_generation=report.observed_generation,
        sequence=report.sequence,
        updated_at=at,
    )


def all_ready(deployments: Iterable[Deployment]) -> bool:
    return all(deployment.is_ready for deployment in deployments)


def given_up(deployment: Deployment, *, reason: str, message: str, at: datetime) -> Deployment:
    """The deployment as failed, when the deployer cannot say so itself: it refused the call, or its time is over."""
    return replace(
        deployment,
        phase=Phase.FAILED,
        reason=reason,
        message=message,
        observed_generation=deployment.generation,
        updated_at=at,
    )


def no_deployment(deployment_id: str) -> NotFound:
    """The one answer for what does not exist and for what one may not know of."""
    return NotFound(f"There is no deployment {deployment_id}.", deployment=deployment_id)
