"""The messages between gateway and deployer: the call for a deployment, and the report of its status.

Strict in types and in names: a field we do not know might change what is asked for, so it is refused, not ignored.
Only the CloudEvents envelope may carry more attributes (CloudEvents 1.0 allows extensions such as ``traceparent``).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

REQUESTED = "countersign.deployment.requested.v1"
STATUS = "countersign.deployment.status.v1"

Text = Annotated[str, Field(min_length=1, max_length=1024)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Phase(StrEnum):
    """Where a generation stands."""

    ACCEPTED = "Accepted"
    PROGRESSING = "Progressing"
    READY = "Ready"
    FAILED = "Failed"
    SUPERSEDED = "Superseded"


class Reason(StrEnum):
    """Why a generation does not get on; the empty one when nothing is wrong."""

    NONE = ""
    ARTIFACT_NOT_READABLE = "ArtifactNotReadable"
    DIGEST_MISMATCH = "DigestMismatch"
    RUNTIME_ENV_FAILED = "RuntimeEnvFailed"
    MODEL_LOAD_FAILED = "ModelLoadFailed"
    NO_CAPACITY = "NoCapacity"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    POLICY_DENIED = "PolicyDenied"
    CONFIG_REFUSED = "ConfigRefused"
    UNREACHABLE = "Unreachable"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelVersion(_Strict):
    """The version to serve: immutable bytes at a physical address."""

    name: Text
    version: Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
    alias: Text | None = None
    run_id: Text | None = None
    uri: Text
    digest: Digest


class PreviousVersion(_Strict):
    """What served before, as the gateway knows it. Informative: the deployer keeps its own record."""

    version: Text
    uri: Text


class Promotion(_Strict):
    """Who asked and who approved. Informative."""

    id: Text
    requested_by: Text
    approved_by: list[Text]


class Callback(_Strict):
    """Where reports go."""

    url: Text


class Deployment(_Strict):
    """Desired state of one model on one target."""

    deployment_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
    target: Text
    resource: Text
    generation: Annotated[int, Field(ge=1, lt=2**63)]
    action: Literal["apply", "remove"]
    model: ModelVersion | None = None
    previous: PreviousVersion | None = None
    promotion: Promotion | None = None
    callback: Callback
    deadline_s: Annotated[int, Field(ge=1, le=86400)] = 900


class DeploymentRequested(BaseModel):
    """The CloudEvent that calls for a deployment."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Literal["countersign.deployment.requested.v1"]
    subject: Text
    time: AwareDatetime
    datacontenttype: Literal["application/json"] = "application/json"
    data: Deployment


class Serving(_Strict):
    """One version that gets traffic."""

    version: str
    weight: int
    ready: bool
    url: str


class RayStatus(_Strict):
    """What Ray says of the application that this generation is about."""

    app: str | None
    status: str | None


class Backend(_Strict):
    """The serving system's own words."""

    ray: RayStatus


class DeploymentStatus(_Strict):
    """What a deployer observed for a generation. ``sequence`` counts up within (deployment, generation)."""

    deployment_id: str
    target: str
    resource: str
    generation: int
    observed_generation: int
    sequence: int
    phase: Phase
    reason: Reason
    message: str
    serving: list[Serving]
    backend: Backend


_DOTS = re.compile(r"(^|/)\.{1,2}(/|$)")
_NOT_PLAIN = re.compile(r"[\x00-\x20\x7f\\?#]")


def is_below(uri: str, prefix: str) -> bool:
    """Whether a URI is under a prefix, in the one spelling that cannot mean another place.

    No dot segments (percent-encoded or not), no backslash, query, fragment, white space or control character.
    ``prefix`` counts as a folder, so ``s3://models`` does not cover ``s3://models-of-someone-else``.
    """
    path = unquote(urlsplit(uri).path)
    if _NOT_PLAIN.search(uri) or _DOTS.search(path) or "\\" in path or "%" in path:
        return False
    return uri.startswith(prefix.rstrip("/") + "/")
