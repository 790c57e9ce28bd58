"""The outside world as Protocols: what services need of it, and nothing of how it is reached.

The database is not here: there is one engine, no fake of it, and services use the unit of work itself (ADR 0003).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.domain.access import Principal
from app.domain.deliveries import Attempt
from app.domain.digests import FileDigest


class Clock(Protocol):
    """The only source of time."""

    def now(self) -> datetime:
        """The present, in UTC."""


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model as MLflow holds it.

    ``created_at`` is in milliseconds since the epoch; ``aliases`` maps alias to version.
    """

    name: str
    created_at: int
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version as MLflow holds it. ``source_uri`` is what ``get-download-uri`` answers."""

    model: str
    version: str
    run_id: str | None
    source_uri: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run as MLflow holds it. ``artifact_uri`` is the root of its artifacts."""

    id: str
    experiment_id: str
    artifact_uri: str


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A logged model as MLflow holds it. ``artifact_uri`` is the root of its artifacts."""

    id: str
    name: str
    artifact_uri: str


class ModelRegistry(Protocol):
    """MLflow's registry, and what its versions rest on, reached past the gateway.

    Every method raises ``UpstreamUnavailable`` when MLflow does not answer.
    """

    async def get_model(self, name: str) -> RegisteredModel:
        """Raises ``NotFound``, naming the model."""

    async def get_version(self, name: str, version: str) -> ModelVersion:
        """Raises ``NotFound``, naming the version."""

    def models(self) -> AsyncIterator[RegisteredModel]:
        """Every model, prompts included."""

    async def get_run(self, run_id: str) -> Run:
        """Raises ``NotFound``, naming the run."""

    async def get_experiment_location(self, experiment_id: str) -> str:
        """The URI below which the artifacts of an experiment lie. Raises ``NotFound``, naming the experiment."""

    async def logged_models_of(self, run: Run) -> Sequence[LoggedModel]:
        """Those of the run's experiment that say that the run is where they come from."""

    async def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point the alias at the version. Repeating it changes nothing."""

    async def check_alive(self) -> None:
        """Return when MLflow answers."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A request whose body was judged: what was asked, with the fields as they are sent to MLflow.

    ``path`` is encoded, below MLflow's address and without a query; ``message`` names the protobuf message.
    """

    method: str
    path: str
    message: str
    fields: Mapping[str, object]


class Assertion(Protocol):
    """How the gateway says to MLflow that it is the gateway, and for whom it asks."""

    def headers(self, principal: Principal | None, judged: Judged | None = None) -> Sequence[tuple[str, str]]:
        """The headers of one request; none if nothing is asserted.

        Args:
            principal: who asks; none on a public route.
            judged: a request of which MLflow's side shall check that it understands what was judged.
        """


class ObjectStore(Protocol):
    """Where artifacts lie."""

    async def files(self, uri: str) -> list[FileDigest]:
        """Every file below a physical URI, each read once to digest it.

        Raises:
            Unresolvable: nothing is there, or it may not be read.
            Unavailable: the store does not answer.
        """


class IdentityProvider(Protocol):
    """Whoever issues the tokens."""

    async def verify(self, token: str) -> Principal:
        """The principal of an access token.

        Raises:
            NotAuthenticated: the token does not verify; the message does not quote it.
            Unavailable: the issuer's keys cannot be had.
        """


class SecretStore(Protocol):
    """Secrets that configuration names and does not hold."""

    def read(self, reference: str) -> str:
        """Raises ``InvalidConfiguration``, naming the reference."""


class WebhookSender(Protocol):
    """Sends one signed message and tells what happened; never raises for what the receiver does."""

    async def send(
        self, *, url: str, secret: str, message_id: str, payload: Mapping[str, object], number: int, private: bool
    ) -> tuple[Attempt, float | None]:
        """One attempt, and the seconds after which the receiver wants to be asked again, if it said so."""


class SignatureVerifier(Protocol):
    """Checks who sent a webhook to us."""

    def verify(self, secret: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether ``body`` was signed with ``secret``, lately."""


class Changes(Protocol):
    """Tells when something changed, on any process."""

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[Subscription]:
        """Listen from now on."""


class Subscription(Protocol):
    async def wait(self, timeout_s: float) -> bool:
        """Whether something changed within the time, or did since the last call."""
