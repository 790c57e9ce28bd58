"""The outside world as Protocols: what services need of it, and nothing of how it is reached.

The database is not here: there is one engine, no fake of it, and services use the unit of work itself (ADR 0003).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from app.domain.access import Principal
from app.domain.deliveries import Attempt
from app.domain.digests import FileDigest
from app.domain.errors import CountersignError
from app.domain.identity import Identity, Verified
from app.domain.routes.resources import Named


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


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment as MLflow holds it. ``artifact_uri`` is the root of its artifacts."""

    id: str
    name: str
    artifact_uri: str


@dataclass(frozen=True, slots=True)
class Placed:
    """Something of MLflow's, and where it belongs.

    ``experiment_ids`` are those it is part of; ``artifact_uri`` is the root of its artifacts, if it has one, and
    ``run_id`` the run that it comes from.
    """

    id: str
    experiment_ids: tuple[str, ...]
    artifact_uri: str = ""
    run_id: str = ""


class ResourceLookup(Protocol):
    """Of which experiment or model something in MLflow is, asked past the gateway.

    ``workspace`` is none where the server has no workspaces. What does not exist, and what MLflow takes for no id at
    all, is none. Every method raises ``UpstreamUnavailable`` when MLflow does not answer.
    """

    async def model_name(self, name: str, workspace: str | None) -> str | None:
        """The name by which MLflow knows a model that is called ``name``."""

    async def experiments(self, ids: Sequence[str], workspace: str | None) -> Sequence[Experiment]:
        """Those of the experiments that exist, deleted ones included."""

    async def experiment_named(self, name: str, workspace: str | None) -> Experiment | None:
        """The experiment that MLflow finds by this name."""

    async def placed(self, kind: Named, value: str, workspace: str | None) -> Placed | None:
        """A run, trace, logged model, dataset, issue, label schema or review queue."""

    async def versions_from(self, clause: str, workspace: str | None) -> Sequence[tuple[str, str]]:
        """Names and versions that a filter of model versions finds, at most a few hundred."""

    async def location_of(self, name: str, version: str, workspace: str | None) -> str | None:
        """The URI of a version's bytes."""


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


class TokenVerifier(Protocol):
    """Verifies the tokens of trusted issuers."""

    async def verify(self, token: str) -> Verified:
        """What a token says, if it may be believed.

        Raises:
            NotAuthenticated: the token does not verify; the message does not quote it.
            Unavailable: the issuer's keys, or its introspection endpoint, cannot be had.
        """


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What a provider said of a person who has just signed in.

    ``session`` is the provider's ``sid``; ``id_token`` is for its logout endpoint alone.
    """

    identity: Identity
    authenticated_at: datetime
    session: str | None
    id_token: str


@dataclass(frozen=True, slots=True)
class LoggedOut:
    """What a logout token says (OpenID Connect Back-Channel Logout section 2.4): whose sessions end."""

    issuer: str
    token_id: str
    subject: str | None
    session: str | None
    expires_at: datetime


class RelyingParty(Protocol):
    """Our side of the sign-in at one provider. Every method raises ``Unavailable`` when the provider is away."""

    async def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Where a browser is sent (RFC 6749 section 4.1.1, with PKCE, RFC 7636)."""

    async def redeem(self, parameters: Mapping[str, str], *, redirect_uri: str, nonce: str, verifier: str) -> SignedIn:
        """Exchange the code in the callback's ``parameters``, and verify what comes.

        Raises:
            SignInFailed: the provider refuses, another one answered (RFC 9207), or its ID token does not verify.
        """

    async def logout_url(self, *, return_to: str, id_token: str | None) -> str | None:
        """Where a browser is sent to end the provider's own session; none if the provider cannot."""

    async def logged_out(self, logout_token: str) -> LoggedOut:
        """Verify a logout token. Raises ``NotAuthenticated``."""


class Freshness(Protocol):
    """Whether what a process remembers of callers is still true."""

    def epoch(self) -> int | None:
        """Grows whenever what is remembered must be forgotten; none while that is not known."""


@dataclass(frozen=True, slots=True)
class Page:
    """A whole answer for a browser."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class BrowserPages(Protocol):
    """What a person in a browser is answered where a program is answered JSON."""

    def instead_of(self, error: CountersignError, scope: Mapping[str, Any]) -> Page | None:
        """The way to the sign-in page, or a page that says what is wrong; none if no person waits for a page.

        Args:
            error: the refusal.
            scope: of ASGI: its ``method``, ``raw_path``, ``query_string`` and ``headers`` are read.
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


class Sealer(Protocol):
    """Seals short texts that callers bring back: they can neither read nor change them."""

    def seal(self, text: str, *, context: str) -> str:
        """A text of URL-safe characters."""

    def open(self, sealed: str, *, context: str) -> str | None:
        """The text; none if it was not sealed by us in this context."""


class Changes(Protocol):
    """Tells when something changed, on any process."""

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[Subscription]:
        """Listen from now on."""


class Subscription(Protocol):
    async def wait(self, timeout_s: float) -> bool:
        """Whether something changed within the time, or did since the last call."""
