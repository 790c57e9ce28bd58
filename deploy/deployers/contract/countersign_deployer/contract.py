"""The messages between gateway and deployer: the call for a deployment, the report of its status, what is desired.

Strict in types and in names: a field we do not know might change what is asked for, so it is refused, not ignored.
Only the CloudEvents envelope may carry more attributes (CloudEvents 1.0 allows extensions such as ``traceparent``).
``schemas/`` is generated from here (``python -m countersign_deployer.schemas``).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from countersign_deployer.phases import Phase, Reason

REQUESTED = "countersign.deployment.requested.v1"
STATUS = "countersign.deployment.status.v1"

MOST_BYTES = 256 * 1024
"""Of a call."""
LONGEST_MESSAGE = 10_000
"""Characters of a report's message that the gateway takes."""

Text = Annotated[str, Field(min_length=1, max_length=1024)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
VersionNumber = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
Weight = Annotated[int, Field(ge=0, le=100)]
DeploymentId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
Generation = Annotated[int, Field(ge=1, lt=2**63)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Open(BaseModel):
    """What may say more than we know."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class ModelVersion(_Strict):
    """The version to serve: immutable bytes at a physical address. Never look an alias up again."""

    name: Text = Field(description="The same as `resource`.")
    version: VersionNumber
    alias: str | None = Field(default=None, description="The alias of the promotion. Informative.")
    run_id: str | None = Field(default=None, description="The run that made the version. Informative.")
    model_id: str | None = Field(default=None, description="The logged model's id. Informative.")
    uri: Text = Field(
        description="Where the files are, with a slash at the end. Load only from where your operator lets you."
    )
    digest: Digest = Field(description="Of the files at `uri`; check it before you load, and serve nothing else.")
    flavors: list[str] = Field(default=[], description="What the version can be loaded as, if the gateway knows.")
    python_version: str | None = Field(default=None, description="What the version was saved with, if it is known.")


class StableVersion(_Strict):
    """The version that gets what the new one does not get."""

    version: VersionNumber
    uri: Text
    digest: Digest


class Traffic(_Strict):
    """Who gets which part of the requests. Versions that are not named get none, and need not stay loaded."""

    weight: Weight = Field(
        default=100,
        description="Percent of the requests that go to `model`; the rest goes to `stable`. 0: loaded, dark.",
    )
    stable: StableVersion | None = Field(
        default=None, description="Loaded too, also at weight 100. Without it, the rest is answered 404 or 503."
    )


class PreviousVersion(_Strict):
    """What served before, as the gateway knows it. Informative: a deployer keeps its own record."""

    version: str
    uri: str


class Promotion(_Strict):
    """Who asked and who approved. Informative."""

    id: str
    requested_by: str
    approved_by: list[str]


class Callback(_Strict):
    """Where reports go."""

    url: Text = Field(description="Send nothing to an address that is not below your gateway's.")


class Deployment(_Strict):
    """Desired state of one model on one target. A member that you do not know might change what is asked for: refuse
    it (422).
    """

    deployment_id: DeploymentId = Field(description="Stays the same over the generations.")
    target: Text = Field(description="Yours, or the call is not for you.")
    resource: Text = Field(description="What the target calls the model: its name, or `<workspace>/<name>`.")
    generation: Generation = Field(
        description="Counts up per target and resource whenever anything below changes. The highest one counts."
    )
    action: Literal["apply", "remove"] = Field(description="`remove`: serve nothing of the resource any more.")
    model: ModelVersion | None = Field(default=None, description="There whenever the action is `apply`.")
    traffic: Traffic = Field(default=Traffic(), description="Absent: all requests go to `model`.")
    config: dict[str, Any] = Field(
        default={},
        description="The target's options, which your administrators write for you. Refuse what you do not know.",
    )
    previous: PreviousVersion | None = None
    promotion: Promotion | None = None
    callback: Callback
    deadline_s: Annotated[int, Field(ge=1, le=86400)] = Field(
        default=900, description="Seconds from the call to an end. Later, the gateway ends it without you."
    )

    def versions(self) -> list[tuple[ModelVersion | StableVersion, int]]:
        """Every version that is to be loaded, with the percent of the requests that it gets; none of a removal."""
        model, weight, stable = self.model, self.traffic.weight, self.traffic.stable
        if model is None or self.action == "remove":
            return []
        if stable is None:
            return [(model, weight)]
        return [(model, 100)] if stable.version == model.version else [(model, weight), (stable, 100 - weight)]


class DeploymentRequested(BaseModel):
    """The call: a CloudEvent 1.0 (structured JSON mode). The envelope may have more attributes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    specversion: Literal["1.0"]
    id: Text = Field(description="The same as the header `webhook-id`, over all attempts.")
    source: Text = Field(description="The gateway's address.")
    type: Literal["countersign.deployment.requested.v1"]
    subject: Text = Field(description="`<target>/<resource>`.")
    time: AwareDatetime
    datacontenttype: Literal["application/json"] = "application/json"
    data: Deployment


class Desired(_Open):
    """What a target is to serve: the answer to `GET /control/v1/targets/{target}/desired`, page by page."""

    target: Text
    items: list[Deployment] = Field(
        description="Each is what a call's `data` is; take it the same way. What is not listed stays as it is."
    )
    next_after: str | None = Field(
        default=None, description="Ask again with `?after=` this for the next page; null on the last one."
    )


class CallAnswer(_Open):
    """What a call is answered with: `accepted` with 202, the others with 200."""

    result: Literal["accepted", "unchanged", "superseded"]
    observed_generation: int | None = Field(default=None, description="Of `accepted` and `unchanged`: the call's.")
    current_generation: int | None = Field(default=None, description="Of `superseded`: the higher one.")


class WrongField(_Open):
    """One thing that is wrong with a call."""

    field: str = Field(description="Where, as a path: `data.model.uri`.")
    detail: str = Field(description="What, for people.")


class ProblemDetails(_Open):
    """A refusal: RFC 9457, `application/problem+json`."""

    type: str = "about:blank"
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str = Field(description="For people: it is shown on the promotion. No secrets.")
    errors: list[WrongField] = Field(default=[], description="Of a 409 and a 422: which fields.")


class Serving(_Strict):
    """One version that the serving system has loaded."""

    version: Annotated[str, Field(max_length=100)]
    weight: Weight = Field(description="Percent of the requests that it gets now.")
    ready: bool = Field(description="Whether it answers.")
    url: Annotated[str, Field(max_length=2000)] = Field(default="", description="Where it answers.")
    name: Annotated[str, Field(max_length=500)] = Field(
        default="", description="What the serving system's own metrics call it; gates ask for it by that."
    )
    digest: Annotated[str, Field(max_length=200)] | None = Field(default=None, description="Of what it has loaded.")


class DeploymentStatus(_Open):
    """What a deployer observed for a generation; also the answer to `GET <target url>/<deployment_id>`."""

    deployment_id: DeploymentId
    target: Text
    resource: Text
    generation: Generation = Field(description="The call's.")
    observed_generation: Generation = Field(description="The one that is told of: the same as `generation`.")
    sequence: Annotated[int, Field(ge=1, lt=2**62)] = Field(
        description="Higher with each report of a generation. Milliseconds since the epoch do."
    )
    phase: Phase
    reason: Reason = Reason.NONE
    message: Annotated[str, Field(max_length=LONGEST_MESSAGE)] = Field(
        default="", description="For people: what the serving system says, without secrets."
    )
    serving: Annotated[list[Serving], Field(max_length=100)] = Field(
        default=[], description="All versions of the resource that are loaded now, also after a failure."
    )
    backend: dict[str, Any] = Field(default={}, description="The serving system's own words.")


class StatusReported(_Open):
    """The report: a CloudEvent 1.0 (structured JSON mode). Members that the gateway does not know are ignored."""

    specversion: Literal["1.0"]
    id: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="Of this report, and the header `webhook-id` of all its attempts."
    )
    source: Text = Field(description="Who you are, as a URI reference.")
    type: Literal["countersign.deployment.status.v1"]
    subject: Text | None = Field(default=None, description="`<target>/<resource>`.")
    time: AwareDatetime | None = None
    datacontenttype: Literal["application/json"] = "application/json"
    data: DeploymentStatus


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
