"""Deployments, and what deployers report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from app.domain.deployments import Action, Deployment, Drift, Health
from app.domain.inventory import drift_message
from app.domain.phases import Phase
from app.routers.schemas.shared import Answer, Request
from app.services.statuses import ReportedStatus


class BytesAnswer(Answer):
    """A version that a target can load."""

    version: str
    uri: str
    digest: str


class ServingAnswer(Answer):
    """A version that the target says it has loaded."""

    version: str
    weight: int = Field(description="Of the requests, the percentage that it gets.")
    ready: bool = Field(validation_alias="is_ready")
    url: str
    name: str = Field(description="What the target's own metrics call it.")
    digest: str | None = Field(description="Of the files that it has loaded; null if the target does not say.")


class ServedAnswer(Answer):
    """What the target was ready with last, with all requests. It stays while another version gets a share."""

    version: str
    generation: int
    promotion_id: str
    since: datetime = Field(description="Since when this version served with all requests.")


class DeploymentAnswer(Answer):
    """Desired and observed state of one model on one target."""

    id: str
    target: str
    workspace: str
    model: str
    resource: str = Field(
        description="What the target calls it: the model, or `<workspace>/<model>` unless the workspace is the default."
    )
    action: Action = Field(description="`remove`: the target is to serve nothing of the model.")
    version: str
    weight: int = Field(description="Of the requests, the percentage that `version` is to get; `stable` the rest.")
    stable: BytesAnswer | None
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
    serving: Sequence[ServingAnswer] = Field(description="What the target says that it serves; empty: it does not say.")
    served: ServedAnswer | None
    health: Health
    heard_at: datetime | None = Field(description="When the target was heard of last.")
    obstacle: str | None = Field(description="Why the target, when it was asked last, told nothing.")
    drift: Drift | None = Field(description="How what is served differs from what is to be; null: it does not.")
    drifted_since: datetime | None
    drift_message: str = Field(description="A sentence for a person.")

    @classmethod
    def of(cls, deployment: Deployment) -> DeploymentAnswer:
        values = {name: getattr(deployment, name) for name in cls.model_fields if name != "drift_message"}
        return cls.model_validate({**values, "drift_message": drift_message(deployment)})


class GenerationAnswer(Answer):
    """One generation of a deployment: what was desired, and what came of it."""

    generation: int
    action: Action
    version: str
    uri: str
    digest: str
    weight: int
    stable: BytesAnswer | None
    promotion_id: str
    phase: Phase
    reason: str
    message: str
    requested_at: datetime
    ready_at: datetime | None = Field(description="When the target was first ready with it.")
    updated_at: datetime


class DesiredAnswer(Answer):
    """What a target is to serve: the `data` of a call, for each model."""

    target: str
    items: Sequence[Mapping[str, object]]
    next_after: str | None = Field(description="Send it as `after` for the next page; null on the last one.")


class Redeploy(Request):
    """Why a target is called again."""

    reason: str = Field(default="", max_length=2000)


class Remove(Request):
    """Why a model is taken away from a target."""

    reason: str = Field(min_length=1, max_length=2000)


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
