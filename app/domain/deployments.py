"""Deployments: desired and observed state of one model on one target, with a generation.

The generation counts up by one each time the desired state changes, in the transaction that changes it. A deployer
reports what it observed for a generation; reports that are late or out of order change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from app.domain.errors import NotFound
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.phases import REASONS, Phase, Reason

HIGHEST_GENERATION = 1_000_000_000
"""That a target is believed to have been asked for: as many are left to count on from there."""


class Action(StrEnum):
    APPLY = "apply"
    REMOVE = "remove"
    """The target is to serve nothing of the model."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A version that a target can load: where its files are, and their digest."""

    version: str
    uri: str
    digest: str


@dataclass(frozen=True, slots=True)
class Serving:
    """A version that a target says it has loaded.

    ``weight`` is the percentage of the requests that it gets; ``name`` is what the target's own metrics call it;
    ``digest`` is that of the files it has loaded, none if the target does not know.
    """

    version: str
    weight: int
    is_ready: bool
    url: str = ""
    name: str = ""
    digest: str | None = None


class Drift(StrEnum):
    """How what a target serves differs from what it is to serve."""

    OTHER_BYTES = "other_bytes"
    """The version is the right one, and its files are not those that were approved."""
    OTHER_VERSION = "other_version"
    OTHER_WEIGHT = "other_weight"
    MISSING = "missing"
    UNAPPROVED = "unapproved"
    """It is to serve, and serves, what no promotion has approved any more: the alias is held by another version."""
    UNHEALTHY = "unhealthy"
    SILENT = "silent"
    """It was not heard of for a while, and does not answer."""


class Health(StrEnum):
    """How a target does with a model, whatever it should serve."""

    UNKNOWN = "unknown"
    """It has not been ready with this generation yet, or it is not heard of."""
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It was ready, and something of it is being put right."""
    UNHEALTHY = "unhealthy"
    GONE = "gone"
    """It was taken away, as somebody wanted."""


@dataclass(frozen=True, slots=True)
class Served:
    """The version that a target was ready with last, with all requests: since when, by which generation and promotion.

    It stays while another version gets a share, and when the requests go back to it.
    """

    version: str
    generation: int
    promotion_id: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of a deployment: what it was to be, and what came of it. A row of its history."""

    deployment_id: str
    generation: int
    action: Action
    version: str
    uri: str
    digest: str
    weight: int
    stable: Bytes | None
    promotion_id: str
    phase: Phase
    reason: Reason
    message: str
    requested_at: datetime
    ready_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class MetricsSource:
    """A Prometheus that knows how what a target serves is doing.

    ``token`` is a reference to a secret (see ``app.domain.endpoints.Endpoint``), sent as a bearer token.
    """

    url: str
    token: str | None = None
    allowed_networks: tuple[str, ...] = ()


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
    options: Mapping[str, object] = field(default_factory=dict)
    """What its administrator says how models are to run there; passed on to the deployer, which knows them."""
    metrics: MetricsSource | None = None


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
    reason: Reason
    message: str
    observed_generation: int
    sequence: int
    requested_at: datetime
    updated_at: datetime
    workspace: str = DEFAULT_WORKSPACE
    action: Action = Action.APPLY
    weight: int = 100
    """Of the requests, the percentage that ``version`` is to get; ``stable`` gets the rest."""
    stable: Bytes | None = None
    serving: tuple[Serving, ...] = ()
    heard_at: datetime | None = None
    ready_at: datetime | None = None
    """When its target was first ready with the present generation."""
    served: Served | None = None
    looked_at: datetime | None = None
    obstacle: str | None = None
    """Why the target, when it was asked last, told nothing; none if it did, or is never asked."""
    drift: Drift | None = None
    drifted_since: datetime | None = None

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
        """Whether nothing comes of this generation any more; also if its target was asked for a higher one before."""
        is_over = self.phase in {Phase.FAILED, Phase.ERRORED, Phase.SUPERSEDED}
        return is_over and self.observed_generation >= self.generation

    @property
    def is_behind(self) -> bool:
        """Whether its target was asked for a higher generation than we know of: by somebody else, or by a gateway
        whose database was put back since.
        """
        return self.observed_generation > self.generation

    @property
    def was_ready(self) -> bool:
        """Whether its target was ready with this generation at some time, and so served something."""
        return self.action is Action.APPLY and self.ready_at is not None

    @property
    def is_gone(self) -> bool:
        """Whether it was to be taken away, and is."""
        return self.action is Action.REMOVE and self.is_ready

    @property
    def shares(self) -> tuple[Serving, ...]:
        """What gets requests, as far as the target tells, and how much of them, the most first.

        A target that does not say is believed that it serves what it is ready with, or was with all requests.
        """
        told = self.serving
        if not told and self.is_ready and self.action is Action.APPLY:
            rest = (Serving(self.stable.version, 100 - self.weight, is_ready=True),) if self.stable else ()
            told = (Serving(self.version, self.weight, is_ready=True), *rest)
        elif not told and self.served:
            told = (Serving(self.served.version, 100, is_ready=True),)
        return tuple(sorted((each for each in told if each.weight), key=lambda each: -each.weight))

    @property
    def serves_alone(self) -> bool:
        """Whether what served with all requests last gets them all now."""
        now = [(each.version, each.weight) for each in self.shares]
        return self.served is not None and now == [(self.served.version, _ALL)]

    @property
    def shares_as_desired(self) -> bool:
        """Whether the requests are shared as they are to be."""
        wanted = {self.version: self.weight} if self.action is Action.APPLY else {}
        if wanted and self.stable:
            wanted[self.stable.version] = _ALL - self.weight
        return {each.version: each.weight for each in self.shares} == {
            version: weight for version, weight in wanted.items() if weight
        }

    @property
    def health(self) -> Health:
        """How it does; see ``HEALTH``."""
        if self.is_gone:
            return Health.GONE
        if self.drift is Drift.SILENT:
            return Health.UNKNOWN
        if self.is_ready and any(each.weight and not each.is_ready for each in self.serving):
            return Health.DEGRADED
        if self.was_ready and self.reason and not self.is_ready:
            return Health.UNHEALTHY  # what is wrong lasts: it is reported with *Progressing* meanwhile
        return HEALTH[self.phase] if self.was_ready or self.phase in _ENDS else Health.UNKNOWN


HEALTH: Mapping[Phase, Health] = {
    Phase.REQUESTED: Health.UNKNOWN,
    Phase.ACCEPTED: Health.DEGRADED,
    Phase.PROGRESSING: Health.DEGRADED,
    Phase.READY: Health.HEALTHY,
    Phase.FAILED: Health.UNHEALTHY,
    Phase.ERRORED: Health.UNHEALTHY,
    Phase.SUPERSEDED: Health.UNKNOWN,
}
"""What a report means once the target was ready: a promotion that is settled is not undone by it, and this is shown."""
_ENDS = frozenset({Phase.READY, Phase.FAILED, Phase.ERRORED})
_ALL = 100


@dataclass(frozen=True, slots=True)
class Report:
    """What a deployer reported."""

    generation: int
    observed_generation: int
    sequence: int
    phase: Phase
    reason: Reason
    message: str
    serving: tuple[Serving, ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which deployments are looked for; all of what is said must be so. ``among`` are workspaces and models."""

    target: str | None = None
    workspace: str | None = None
    model: str | None = None
    version: str | None = None
    promotion: str | None = None
    phase: Phase | None = None
    drifts: tuple[Drift, ...] = ()
    is_drifted: bool | None = None
    among: Sequence[tuple[str, str]] | None = None


def observed(
    deployment: Deployment, report: Report, *, at: datetime, asked_after: int | None = None
) -> Deployment | None:
    """The deployment after a report; ``None`` when the report is late and changes nothing.

    A report counts only if it is not of a lower generation than is desired now, and only if its generation or its
    sequence is higher than the last one seen: status callbacks are retried and may overtake each other. One of a higher
    generation than is desired says that the target follows somebody else.

    Args:
        deployment: as it is now.
        report: what its target says.
        at: the present.
        asked_after: of an answer to a question: the sequence that was known when it was asked. An answer that is
            behind what was seen comes from a deployer that has lost its state and counts anew: it is believed unless a
            report came meanwhile.
    """
    if report.generation < deployment.generation or report.observed_generation != report.generation:
        return None
    told, known = (report.generation, report.sequence), (deployment.observed_generation, deployment.sequence)
    counts_anew = asked_after == deployment.sequence and told < known
    if told <= known and not counts_anew:
        return None
    if report.generation > deployment.generation:
        return _superseded(deployment, report, at=at)
    return _after(deployment, report, at=at)


def _superseded(deployment: Deployment, report: Report, *, at: datetime) -> Deployment:
    """What is desired will not be: the target answers that it is old news. The next generation counts on from there."""
    return replace(
        deployment,
        phase=Phase.SUPERSEDED,
        reason=Reason.NONE,
        message=f"It was asked for generation {report.generation} before, and we are at {deployment.generation}.",
        serving=report.serving,
        observed_generation=report.generation,
        sequence=report.sequence,
        heard_at=at,
        obstacle=None,
        updated_at=at,
    )


def _after(deployment: Deployment, report: Report, *, at: datetime) -> Deployment:
    served, phase = deployment.served, report.phase
    if phase is Phase.READY and report.reason and any(each.weight and not each.is_ready for each in report.serving):
        # It was ready, and what gets requests does not answer them any more: it is on its way back at best.
        phase = Phase.PROGRESSING
    if phase is Phase.READY and deployment.action is Action.REMOVE:
        served = None
    elif phase is Phase.READY and deployment.weight == _ALL and (not served or served.version != deployment.version):
        served = Served(deployment.version, deployment.generation, deployment.promotion_id, at)
    is_first = phase is Phase.READY and deployment.ready_at is None
    return replace(
        deployment,
        phase=phase,
        reason=report.reason,
        message=report.message,
        serving=report.serving,
        observed_generation=report.observed_generation,
        sequence=report.sequence,
        heard_at=at,
        ready_at=at if is_first else deployment.ready_at,
        served=served,
        obstacle=None,
        updated_at=at,
    )


def all_ready(deployments: Iterable[Deployment]) -> bool:
    return all(deployment.is_ready for deployment in deployments)


def given_up(deployment: Deployment, *, reason: Reason, message: str, at: datetime) -> Deployment:
    """The deployment as ended, when the deployer cannot say so itself: it refused the call, or its time is over."""
    return replace(
        deployment,
        phase=REASONS[reason].ends_in,
        reason=reason,
        message=message,
        observed_generation=deployment.generation,
        updated_at=at,
    )


def no_deployment(deployment_id: str) -> NotFound:
    """The one answer for what does not exist and for what one may not know of."""
    return NotFound(f"There is no deployment {deployment_id}.", deployment=deployment_id)
