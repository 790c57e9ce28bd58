"""What a deployer says of a deployment, read strictly: in its reports, and in its answers when it is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.domain.deployments import HIGHEST_GENERATION, Report, Serving
from app.domain.errors import InvalidInput
from app.domain.phases import Phase, Reason


class ReportedServing(BaseModel):
    """A version that the target has loaded."""

    model_config = ConfigDict(strict=True)

    version: str = Field(max_length=100)
    weight: int = Field(ge=0, le=100)
    ready: bool
    url: str = Field(default="", max_length=2000)
    name: str = Field(default="", max_length=500)
    digest: str | None = Field(default=None, max_length=200)

    def serving(self) -> Serving:
        digest = without_nul(self.digest) if self.digest else None
        version, url, name = (without_nul(text) for text in (self.version, self.url, self.name))
        return Serving(version, self.weight, self.ready, url, name, digest)


class ReportedStatus(BaseModel):
    """What a deployer tells of a deployment. Members that we do not know are ignored: deployers may tell more."""

    model_config = ConfigDict(strict=True)

    deployment_id: str
    generation: int = Field(ge=1, le=HIGHEST_GENERATION)
    observed_generation: int = Field(ge=0, le=HIGHEST_GENERATION)
    sequence: int = Field(ge=1, lt=2**62)
    phase: Literal["Accepted", "Progressing", "Ready", "Failed", "Errored", "Superseded"]
    reason: Reason = Reason.NONE
    serving: list[ReportedServing] = Field(default=[], max_length=100)
    message: str = Field(default="", max_length=10_000)

    def report(self) -> Report:
        return Report(
            generation=self.generation,
            observed_generation=self.observed_generation,
            sequence=self.sequence,
            phase=Phase(self.phase),
            reason=self.reason,
            message=without_nul(self.message),
            serving=tuple(each.serving() for each in self.serving),
        )


def read_status(body: bytes, *, deployment_id: str) -> Report:
    """Read the answer of a deployer that was asked after a deployment.

    Raises:
        InvalidInput: names the field: it is no status, or of another deployment.
    """
    try:
        status = ReportedStatus.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None
    if status.deployment_id != deployment_id:
        raise InvalidInput("deployment_id", "expected the deployment that was asked after")
    return status.report()


def invalid(error: ValidationError) -> InvalidInput:
    """The first thing that is wrong, with the path of the field."""
    first = error.errors(include_input=False, include_url=False)[0]
    return InvalidInput(".".join(str(part) for part in first["loc"]) or "body", first["msg"])


def without_nul(text: str) -> str:
    """PostgreSQL's text holds no NUL."""
    return text.replace("\x00", "")
