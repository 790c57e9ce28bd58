"""The outside world as Protocols: what services need of it, and nothing of how it is reached.

The database is not here: there is one engine, no fake of it, and services use the unit of work itself (ADR 0003).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from app.domain.access import Principal
from app.domain.deliveries import Attempt, Call
from app.domain.deployments import MetricsSource
from app.domain.digests import FileDigest, StoredFile
from app.domain.downloads import LentCredentials, SignedUrls
from app.domain.errors import CountersignError
from app.domain.facts import Evaluated
from app.domain.gates import Reading
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.identity import Identity, Verified
from app.domain.registrations import Registration
from app.domain.routes.resources import Named
from app.domain.sessions import StepUp
from app.domain.signatures import SignedBy
from app.domain.verdicts import Verdict
from app.domain.windows import Calendar, Window


class Clock(Protocol):
    """The only source of time."""

    def now(self) -> datetime:
        """The present, in UTC."""


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model as MLflow holds it.

    ``created_at`` is in milliseconds since the epoch; ``aliases`` maps alias to version, ``tags`` key to value.
    """

    name: str
    created_at: int
    aliases: Mapping[str, str]
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    workspace: str = DEFAULT_WORKSPACE


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version as MLflow holds it.

    ``source_uri`` is what ``get-download-uri`` answers; ``created_at`` is in milliseconds since the epoch.
    """

    model: str
    version: str
    run_id: str | None
    source_uri: str
    created_at: int = 0
    claimed_author: str = ""
    """Who registered it, as the client that did so says (``user_id``)."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as MLflow holds it. ``artifact_uri`` is the root of its artifacts."""

    id: str
    experiment_id: str
    artifact_uri: str
    claimed_user: str = ""
    """Whose it is, as the client that made it says (``user_id`` and the tag ``mlflow.user``)."""


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


class WindowCalendar(Calendar, Protocol):
    """Knows when windows occur, and which nobody can have meant."""

    def check(self, window: Window, where: str = "window") -> None:
        """Raises ``InvalidInput``, naming the field below ``where``: it has no time zone, or never occurs again."""


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


@dataclass(frozen=True, slots=True)
class VersionDetails:
    """A version with all that MLflow says of it. Times are in milliseconds since the epoch, 0 if it does not say.

    ``model_id`` is that of the logged model that it was registered from; empty if it was of none.
    """

    version: ModelVersion
    description: str
    tags: Mapping[str, str]
    aliases: Sequence[str]
    model_id: str


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """Data that a run logged as its input."""

    name: str
    digest: str
    source_type: str
    source: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RunDetails:
    """A run with all that MLflow says of it. Times are in milliseconds since the epoch, 0 if it does not say.

    ``metrics`` are the latest values; one that is no number is ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``.
    """

    id: str
    name: str
    user: str
    status: str
    started_at: int
    ended_at: int
    is_deleted: bool
    experiment_id: str
    experiment: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float | str]
    datasets: Sequence[DatasetInput]


@dataclass(frozen=True, slots=True)
class LoggedModelDetails:
    """What was logged for a model itself. ``measured_by`` maps each metric to the run that measured it last.

    The values are those of the runs: what MLflow keeps of them with the model has 0 for NaN (3.17.2), and may be of an
    earlier step.
    """

    params: Mapping[str, str]
    measured_by: Mapping[str, str]


class ModelRegistry(Protocol):
    """MLflow's registry, and what its versions rest on, reached past the gateway.

    Every method raises ``UpstreamUnavailable`` when MLflow does not answer.
    """

    async def get_model(self, name: str, workspace: str = DEFAULT_WORKSPACE) -> RegisteredModel:
        """Raises ``NotFound``, naming the model."""

    async def get_version(self, name: str, version: str, workspace: str = DEFAULT_WORKSPACE) -> ModelVersion:
        """Raises ``NotFound``, naming the version."""

    async def get_holder(self, name: str, alias: str, workspace: str = DEFAULT_WORKSPACE) -> ModelVersion | None:
        """The version that holds an alias, with what it was while it did; none if there is no such model or alias."""

    async def latest_version(self, name: str, stage: str, workspace: str = DEFAULT_WORKSPACE) -> str | None:
        """The newest version that is in a stage, or of all (``latest``); none if there is none."""

    async def placed(self, kind: Named, value: str, workspace: str | None) -> Placed | None:
        """See ``ResourceLookup``."""

    def models(self) -> AsyncIterator[RegisteredModel]:
        """Every model of every workspace, prompts included."""

    async def workspaces(self) -> Sequence[str]:
        """Those of the server; the default one alone where it has none."""

    def newest_versions(self, workspace: str) -> AsyncGenerator[Registration]:
        """The versions of a workspace, newest first, page by page; without prompts. To be closed."""

    async def get_run(self, run_id: str, workspace: str = DEFAULT_WORKSPACE) -> Run:
        """Raises ``NotFound``, naming the run."""

    async def describe_version(self, name: str, version: str, *, workspace: str) -> VersionDetails:
        """Raises ``NotFound``, naming the version."""

    async def describe_run(self, run_id: str, *, workspace: str) -> RunDetails | None:
        """None if there is no such run."""

    async def describe_logged_model(self, model_id: str, *, workspace: str) -> LoggedModelDetails | None:
        """None if there is no such model."""

    async def get_experiment_location(self, experiment_id: str, workspace: str = DEFAULT_WORKSPACE) -> str:
        """The URI below which the artifacts of an experiment lie. Raises ``NotFound``, naming the experiment."""

    async def logged_models_of(self, run: Run, workspace: str = DEFAULT_WORKSPACE) -> Sequence[LoggedModel]:
        """Those of the run's experiment that say that the run is where they come from."""

    async def set_alias(self, name: str, alias: str, version: str, workspace: str = DEFAULT_WORKSPACE) -> None:
        """Point the alias at the version. Repeating it changes nothing."""

    async def delete_alias(self, name: str, alias: str, workspace: str = DEFAULT_WORKSPACE) -> None:
        """Have the alias point at nothing. Repeating it changes nothing."""

    async def set_version_tag(
        self, name: str, version: str, key: str, value: str, workspace: str = DEFAULT_WORKSPACE
    ) -> None:
        """Tag a version. Repeating it changes nothing. Raises ``NotFound``, naming the version."""

    async def delete_version_tag(self, name: str, version: str, key: str, workspace: str = DEFAULT_WORKSPACE) -> None:
        """Take a tag from a version. Repeating it changes nothing. Raises ``NotFound``, naming the version."""

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
    """Where artifacts lie.

    Every method raises ``Unresolvable`` when there is nothing, or it may not be read, and ``Unavailable`` when the
    store does not answer.
    """

    async def stored(self, uri: str) -> list[StoredFile]:
        """Every file below a physical URI, as the store lists it; nothing is read."""

    def digests(
        self, uri: str, files: Sequence[StoredFile], progress: Callable[[int], None]
    ) -> AsyncGenerator[FileDigest]:
        """Read these files, several at once; each comes as soon as it is known, in any order.

        To be closed (``contextlib.aclosing``): nothing is read any more then.

        Args:
            uri: what they were listed below.
            files: as they were listed.
            progress: called with the bytes that were read since the last call, from any thread.

        Raises:
            Unresolvable: a file is no longer the one that was listed, or changed while it was read.
        """

    async def read(self, uri: str, path: str, *, limit: int) -> bytes:
        """The content of one small file. Raises ``TooLarge`` beyond ``limit`` bytes."""

    async def starts(self, uri: str, files: Sequence[StoredFile], *, length: int) -> Mapping[str, bytes]:
        """The first bytes of these files, at most ``length`` of each, by path. Raises as ``digests`` does."""

    async def files(self, uri: str) -> list[FileDigest]:
        """Every file below a physical URI, each read once to digest it."""

    async def find(self, uri: str, path: str) -> StoredFile:
        """One file as it is now; nothing is read."""

    def content(self, uri: str, file: StoredFile, *, first: int, length: int) -> AsyncGenerator[bytes]:
        """A part of a file that was found, not an empty one, piece by piece; to be closed (``contextlib.aclosing``).

        Raises:
            Unresolvable: it is no longer the one that was found.
        """


class ArtifactLending(Protocol):
    """Lets somebody else read what lies in a store, past us and for a while.

    Every method raises ``Unsupported`` where the operator has not set it up, and ``Unavailable`` when the store does
    not answer.
    """

    def can_lend(self, uri: str) -> bool:
        """Whether the store at a physical URI lends at all. The other methods are for what does."""

    async def urls(self, uri: str, files: Sequence[StoredFile], *, lasts_s: int) -> SignedUrls:
        """A URL for each file, of the very version that was listed where the store keeps versions."""

    async def credentials(self, uri: str, *, lasts_s: int, principal_id: str) -> LentCredentials:
        """Credentials that read what is below ``uri`` and nothing else.

        Args:
            uri: ends in a slash.
            lasts_s: seconds.
            principal_id: whom the store's own log shall name.
        """


class SignatureChecker(Protocol):
    """Verifies signatures of models in the OpenSSF format."""

    async def check(self, signature: bytes, files: Sequence[FileDigest], trusted: SignedBy) -> Verdict:
        """Whether somebody who is trusted signed exactly these files; if not, why not.

        Args:
            signature: the content of the file ``trusted.file``.
            files: all files of the model, the signature's own among them.
            trusted: whose signature is wanted.

        Raises:
            Unavailable: it could not be checked; try again later.
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

    ``authenticated_at`` is its ``auth_time``, none if it does not say; ``session`` is its ``sid``; ``id_token`` is for
    its logout endpoint alone.
    """

    identity: Identity
    authenticated_at: datetime | None
    session: str | None
    id_token: str
    acr: str | None = None


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

    async def authorization_url(
        self, *, redirect_uri: str, state: str, nonce: str, verifier: str, step_up: StepUp | None = None
    ) -> str:
        """Where a browser is sent (RFC 6749 section 4.1.1, with PKCE, RFC 7636); with ``step_up``, to prove it anew."""

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


class Lease(Protocol):
    """Whether what a process remembers of where bytes are may still be answered."""

    def holds(self) -> bool:
        """Whether nothing has changed that this process might not have heard of."""


class ResolversForgotten(Protocol):
    """Tells when what gateways remember of where bytes are is of no consequence any more."""

    async def wait(self) -> None:
        """Return when no gateway answers from anything that it remembered before ``forget_resolutions`` was committed.

        A second or two if a gateway does not answer, else milliseconds. Never raises for what is away.
        """


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

    def public_key(self, reference: str) -> str:
        """The ``whpk_`` key that verifies what an ed25519 key signs. Raises as ``read``, and if it is none."""


class WebhookSender(Protocol):
    """Sends one message by its channel and tells what happened; never raises for what the receiver does."""

    async def send(self, call: Call) -> tuple[Attempt, float | None]:
        """One attempt, and the seconds after which the receiver wants to be asked again, if it said so."""


@dataclass(frozen=True, slots=True)
class Question:
    """A signed GET to a target. ``secrets`` and ``allowed_networks`` are as of ``app.domain.deliveries.Call``."""

    url: str
    """Of the target."""
    name: str
    """The last segment of the path, below the target's."""
    message_id: str
    secrets: tuple[str, ...] = field(repr=False)
    allowed_networks: tuple[str, ...] = ()
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Answered:
    """What a target answered: ``status`` is none, and ``error`` says why, if it did not.

    ``headers`` are those of a signature, if it has one; ``is_undisturbed``: nobody could have stood in between, as it
    came by TLS or from this machine.
    """

    status: int | None
    body: bytes = b""
    content_type: str = ""
    error: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_undisturbed: bool = False


class TargetAsker(Protocol):
    """Asks targets how they are doing; never raises for what they do."""

    async def ask(self, question: Question) -> Answered:
        """The answer, of at most 256 KiB."""


class Presence(Protocol):
    """A number that nobody else has, by which what is held in the database is known to be held by somebody alive."""

    @property
    def number(self) -> int:
        """Ours."""

    @property
    def lost(self) -> asyncio.Event:
        """Is set when others may take over what we hold: stop at once."""


class Presences(Protocol):
    """How a process is present to others that do the same."""

    def take(self) -> AbstractAsyncContextManager[Presence]:
        """A new number, for as long as this is open. Raises ``Unavailable``."""


class Signatures(Protocol):
    """Checks who sent a webhook to us, and signs what we answer."""

    def verify(self, secret: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether ``body`` was signed with ``secret``, lately."""

    def sign(self, secrets: Sequence[str], message_id: str, body: str) -> Mapping[str, str]:
        """The headers of a message that is signed now, with each of ``secrets``.

        Raises:
            ValueError: a secret cannot sign; nothing of it is told.
        """


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


class Expressions(Protocol):
    """The language of checks: CEL over the facts of ``app/domain/facts.py``. Bounded, and asks nobody."""

    def check(self, expression: str, *, field: str) -> frozenset[str]:
        """The paths of the facts that an expression looks at.

        Raises:
            InvalidInput: names ``field``, line and column: it is no expression, names what is no fact, or is neither
                true nor false.
        """

    def evaluate(self, expression: str, facts: Mapping[str, object]) -> Evaluated:
        """Whether it holds; up to a second for the most expensive one, half of it without letting other threads run.

        Never raises for what the facts are: what is absent, of another type or no number does not hold, and the message
        says so.
        """


class QueryLanguage(Protocol):
    """PromQL, as far as it can be read before it is asked."""

    def check(self, query: str, *, field: str) -> None:
        """Return if a query gives numbers at one time.

        Raises:
            InvalidInput: names ``field``: it cannot be read, or gives something else, as ``up[5m]`` does.
        """


class Metrics(Protocol):
    """Asks the Prometheus of a target."""

    async def read(self, source: MetricsSource, query: str) -> Reading:
        """What a query gives now, by the clock of that Prometheus. Whatever goes wrong is told by the reading."""


class Subscription(Protocol):
    is_over: bool
    """Whether there is nothing to wait for any more: the process stops."""

    async def wait(self, timeout_s: float) -> bool:
        """Whether something changed within the time, or did since the last call."""
