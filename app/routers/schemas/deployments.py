"""Deployments, and what deployers report."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.domain.deployments import Phase, Report
from app.routers.schemas.shared import Answer


class DeploymentAnswer(Answer):
    """Desired and observed state of one model on one target."""

    id: str
    target: str
    workspace: str
    model: str
    resource: str = Field(
        description="What the target calls it: the model, or `<workspace>/<model>` unless the workspace is the default."
    )
    version: str
    generation: int = Field(description="Counts up by one whenever what is desired changes.")
    observed_generation: int
    phase: Phase
    reason: str
    message: str
    uri: str
    digest: str
    promotion_id: str
    requested_at: datetime
    updated_at: datetime


class ReportedStatus(BaseModel):
    """`data` of a deployer's status event. Members that we do not know are ignored: deployers may tell more."""

    model_config = ConfigDict(strict=True)

    deployment_id: str
    generation: int = Field(ge=1)
    observed_generation: int = Field(ge=0)
    sequence: int = Field(ge=1, lt=2**62)
    phase: Literal["Accepted", "Progressing", "Ready", "Failed", "Superseded"]
    reason: str = Field(default="", max_length=200)
    message: str = Field(default="", max_length=10_000)

    def report(self) -> Report:
        return Report(
            generation=self.generation,
            observed_generation=self.observed_generation,
            sequence=self.sequence,
            phase=Phase(self.phase),
            # PostgreSQL's text holds no NUL.
            reason=self.reason.replace("\x00", ""),
            message=self.message.replace("\x00", ""),
        )


class StatusEvent(BaseModel):
    """A CloudEvent (structured mode) that tells how a deployment is."""

    specversion: Literal["1.0"]
    id: str = Field(min_length=1, max_length=200)
    type: Literal["countersign.deployment.status.v1"]
    data: ReportedStatus


class Taken(Answer):
    """Whether the report changed anything."""

    result: Literal["taken", "ignored"]
    phase: Phase
