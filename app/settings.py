"""Typed settings: the only reader of the environment.

Every variable starts with ``COUNTERSIGN_``. All mistakes are reported together, each with the name of its
variable, before anything starts. A secret may be given by a file instead (``COUNTERSIGN_DATABASE_URL_FILE``); it is
masked wherever it is shown.
"""

from __future__ import annotations

import json
import os
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, SecretStr, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.access import Role
from app.domain.downloads import LONGEST_S, SHORTEST_CREDENTIALS_S, partition_of
from app.domain.errors import InvalidConfiguration, Unresolvable
from app.domain.fields import LOOPBACK_HOSTS, is_safe_url
from app.domain.issuers import ASYMMETRIC_ALGORITHMS
from app.domain.networks import networks_of
from app.domain.routes import RouteClass, check_openings
from app.domain.storage import Storage, checked_root

SECRETS = ("database_url", "assertion_secret", "oidc_client_secret", "webhook_key", "webhook_proxy")
"""Settings that hold a secret; each may be given by a file."""
SHORTEST_SECRET = 32
"""Bytes of a secret to sign with, as many as the digest has (RFC 7518 section 3.2)."""

CommaSeparated = Annotated[list[str], NoDecode]


class Settings(BaseSettings):
    """What a gateway or a worker needs to know. Immutable once read."""

    model_config = SettingsConfigDict(env_prefix="COUNTERSIGN_", frozen=True, extra="ignore")

    database_url: SecretStr = Field(description="Our PostgreSQL, as postgresql://user:password@host:port/name.")
    public_url: str = Field(description="The address people and clients use; links in messages start with it.")
    host: str = Field(default="127.0.0.1", description="The address the gateway listens on.")
    port: int = Field(default=8080, ge=1, le=65535, description="The port the gateway listens on.")

    upstream_urls: CommaSeparated = Field(
        description="MLflow's own addresses, which only the gateway and the worker may reach: servers of one worker "
        "each on the same database and artifacts, separated by commas."
    )
    artifacts_destination: str = Field(
        description="MLflow's `--artifacts-destination`: an absolute path, a file:/// URI or an s3:// URI."
    )
    artifact_roots: CommaSeparated = Field(
        default=[],
        description="Where else versions may lie, as `s3://bucket/prefix,gs://other`: of no other place is an address "
        "given out, or a version promoted ([resolving.md](../guides/resolving.md)).",
    )
    download_role_arn: str | None = Field(
        default=None,
        description="The role whose short-lived credentials are lent to who resolves, limited to one version's folder; "
        "the gateway must be allowed to assume it. Unset: those of the gateway's own user, where it is one "
        "([pulling.md](../guides/pulling.md)).",
    )
    download_endpoint_url: str | None = Field(
        default=None,
        description="Where those who download reach the S3-compatible store, if that is another address than the "
        "gateway's own.",
    )
    download_longest_s: int = Field(
        default=3600,
        ge=SHORTEST_CREDENTIALS_S,
        le=LONGEST_S,
        description="Seconds that presigned URLs and lent credentials may be good for, at most.",
    )
    sigstore_trust_file: Path | None = Field(
        default=None,
        description="The roots of Sigstore (a client trust configuration in JSON) for model signatures by an identity; "
        "unset: those of the public Sigstore, over the network ([digests.md](../guides/digests.md)).",
    )
    upstream_timeout_s: float = Field(
        default=120, gt=0, description="Seconds MLflow may take to begin an answer, and between its parts."
    )
    upstream_timeouts: Annotated[dict[RouteClass, PositiveFloat], NoDecode] = Field(
        default={},
        description='JSON: the same for single classes of routes, as {"artifact-write": 1800}; '
        "`countersign routes` shows the classes.",
    )
    assertion_secret: SecretStr | None = Field(
        default=None,
        description="What the gateway, the worker and an MLflow with `--app-name countersign` share, 32 bytes at "
        "least: requests to MLflow are signed with it. Nothing is signed if unset.",
    )
    upstream_remote_user: bool = Field(
        default=False,
        description="Whether MLflow is told the caller's name and groups in `X-Remote-User` and `X-Remote-Groups`.",
    )
    max_json_body: int = Field(
        default=2 * 1024 * 1024, gt=0, description="Bytes of a request body that is read to authorise it."
    )
    max_body: int = Field(
        default=64 * 1024 * 1024, gt=0, description="Bytes of any other request body but a file's, which has no limit."
    )
    client_idle_s: float = Field(
        default=60, gt=0, description="Seconds a client may let pass before the next part of its request body."
    )
    admission_per_worker: int = Field(
        default=2,
        ge=1,
        description="Requests that each MLflow server is given at a time; more only where it answers them in 4 ms all "
        "together, and files do not count.",
    )
    admission_nested_per_worker: int = Field(
        default=2, ge=1, description="Of these, writes for which MLflow takes two database connections (`log-batch`)."
    )
    admission_streams_per_worker: int = Field(
        default=256, ge=1, description="Files that each MLflow server sends and receives at a time."
    )
    admission_queue: int = Field(default=2048, ge=1, description="Requests that may wait for a place at MLflow.")
    admission_share: int = Field(default=512, ge=1, description="Of these, requests of one principal.")
    admission_deadline_s: float = Field(default=30, gt=0, description="Seconds a request may wait for a place.")
    drain_s: float = Field(
        default=5,
        ge=0,
        description="Seconds between SIGTERM and the end of listening, in which `/readyz` says 503 and every answer "
        "closes its connection.",
    )

    open_routes: CommaSeparated = Field(
        default=[],
        description="Families of MLflow's routes that are closed by default and shall be open, as `webhooks`; "
        "[routes.md](routes.md) lists them.",
    )

    workspaces: bool = Field(
        default=False,
        description="Whether the MLflow server has workspaces (`--enable-workspaces`). Grants then say who may enter "
        "which, and `X-MLFLOW-WORKSPACE` is the gateway's to write.",
    )

    oidc_issuer: str = Field(
        description="The OpenID provider: people sign in there, and its access tokens are accepted (`iss`)."
    )
    oidc_audience: str = Field(description="The audience an access token must name (`aud`).")
    oidc_algorithms: CommaSeparated = Field(default=["RS256", "ES256"], description="Signature algorithms, pinned.")
    oidc_groups_claim: str = Field(default="groups", description="The claim that lists a principal's groups.")
    oidc_username_claim: str = Field(default="preferred_username", description="The claim shown as a principal's name.")
    oidc_leeway_s: int = Field(
        default=30, ge=0, le=300, description="Seconds of clock difference tolerated in a token."
    )
    oidc_client_id: str | None = Field(
        default=None,
        description="Our client at the provider, with which people sign in in a browser; nobody can if unset.",
    )
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="The secret of that client; none for a public client, which PKCE protects alone."
    )
    oidc_scopes: CommaSeparated = Field(
        default=["openid", "profile", "email", "groups"],
        description="What is asked of the provider when somebody signs in; those that it does not know are left out.",
    )
    oidc_title: str = Field(default="", description="The provider's name on the sign-in page; its host if unset.")
    identity_file: Path | None = Field(
        default=None,
        description="YAML with more issuers, providers and clients, side by side "
        "([identity.md](../guides/identity.md)).",
    )
    roles: Annotated[dict[Role, list[str]], NoDecode] = Field(
        default={},
        description='JSON: role to groups, on everything, as {"administrator": ["ml-platform"], "viewer": ["*"]}: the '
        "operator's own grants, which nobody can change from inside.",
    )
    service_groups: CommaSeparated = Field(default=[], description="Groups whose members are services, not people.")
    session_idle_s: int = Field(
        default=8 * 3600, ge=60, description="Seconds without a request after which a browser's session ends."
    )
    session_lifetime_s: int = Field(
        default=24 * 3600, ge=60, description="Seconds after which a session ends, however much it is used."
    )
    login_lifetime_s: int = Field(
        default=7 * 24 * 3600,
        ge=3600,
        description="Seconds after which a person must sign in again to a client, such as `countersign login`.",
    )
    token_days: int = Field(
        default=90, ge=1, le=366, description="Days that a personal access token may be good for, at most."
    )
    tokens_per_person: int = Field(default=20, ge=1, description="Personal access tokens that one person may have.")
    allowed_origins: CommaSeparated = Field(
        default=[],
        description="Origins of other pages whose scripts may call `/control/v1` and the token endpoint with a token "
        "(CORS), as `https://dashboard.example`.",
    )
    trusted_proxies: CommaSeparated = Field(
        default=[],
        description="Addresses or networks of proxies before the gateway, whose `X-Forwarded-For` tells the caller's "
        "address, as `10.0.0.0/8`.",
    )
    sign_in_rate: int = Field(
        default=30, ge=1, description="Refused sign-ins and tokens of one address in a minute, before it must wait."
    )

    reconcile_s: int = Field(
        default=15,
        ge=1,
        le=600,
        description="Seconds between two looks for aliases that were moved past the gateway "
        "([history-and-drift.md](../guides/history-and-drift.md)): a divisor of 60, or whole minutes that divide an "
        "hour.",
    )

    verify_s: int = Field(
        default=60,
        ge=1,
        le=600,
        description="Seconds between two looks at the files of the versions that hold protected aliases "
        "([digests.md](../guides/digests.md)): a divisor of 60, or whole minutes that divide an hour.",
    )
    verify_read_s: int = Field(
        default=86_400,
        ge=60,
        description="Seconds after which those files are read again whatever the store says of them; as often are the "
        "files of versions looked at that hold no alias any more.",
    )

    inventory_s: int = Field(
        default=60,
        ge=1,
        le=600,
        description="Seconds between two looks at what targets serve ([inventory.md](../guides/inventory.md)): a "
        "divisor of 60, or whole minutes that divide an hour.",
    )

    webhook_networks: CommaSeparated = Field(
        default=[],
        description="Private networks, as `10.0.0.0/8` (or `private`: all of them), in which administrators may "
        "register endpoints; what `countersign apply` says is not bound by it ([webhooks.md](../guides/webhooks.md)).",
    )

    webhook_key: SecretStr | None = Field(
        default=None,
        description="The key from which those that sign messages to endpoints are derived, the same for every gateway "
        "and worker, as from `openssl rand -hex 32`. Without it each endpoint needs a secret of its own "
        "([webhooks.md](../guides/webhooks.md)).",
    )
    webhook_proxy: SecretStr | None = Field(
        default=None,
        description="A proxy, as `http://proxy.example:3128`, for messages to receivers that are allowed no private "
        "network; it must refuse private addresses itself ([webhooks.md](../guides/webhooks.md)).",
    )
    webhook_ca_file: Path | None = Field(
        default=None,
        description="Certificates in PEM of authorities that receivers of messages may have beside the system's.",
    )

    deliveries_days: int = Field(
        default=30,
        ge=1,
        description="Days that delivery logs and measurements of gates are kept; what never arrived, three times that.",
    )
    deliveries_per_receiver: int = Field(
        default=8,
        ge=1,
        le=100,
        description="Messages that a worker sends to one endpoint or target at a time, each about another model.",
    )

    log_format: Literal["json", "console"] = Field(default="json", description="How logs are written to stderr.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least log level.")
    worker_metrics_host: str = Field(default="127.0.0.1", description="The address of the worker's metrics.")
    worker_metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of the worker's Prometheus metrics; none if unset."
    )

    @field_validator(
        "upstream_urls",
        "artifact_roots",
        "open_routes",
        "oidc_algorithms",
        "oidc_scopes",
        "service_groups",
        "allowed_origins",
        "trusted_proxies",
        "webhook_networks",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return _items(value) if isinstance(value, str) else value

    @field_validator(
        "oidc_client_id",
        "oidc_client_secret",
        "identity_file",
        "sigstore_trust_file",
        "webhook_key",
        "webhook_proxy",
        "webhook_ca_file",
        "download_role_arn",
        "download_endpoint_url",
        mode="before",
    )
    @classmethod
    def _none_if_empty(cls, value: object) -> object:
        return None if value == "" else value  # so that a compose file can pass on what may be unset

    @field_validator("roles", "upstream_timeouts", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"expected JSON, {error}") from None

    @field_validator("oidc_algorithms")
    @classmethod
    def _only_asymmetric(cls, value: list[str]) -> list[str]:
        if unknown := [name for name in value if name not in ASYMMETRIC_ALGORITHMS]:
            raise ValueError(f"{', '.join(unknown)} is not an asymmetric signature algorithm")
        if not value:
            raise ValueError("at least one algorithm is needed")
        return value

    @field_validator("reconcile_s", "verify_s", "inventory_s")
    @classmethod
    def _divides_the_clock(cls, value: int) -> int:
        minute = hour = 60
        divides = minute % value == 0 if value < minute else value % minute == 0 and hour % (value // minute) == 0
        if not divides:
            raise ValueError("expected a divisor of 60, or a multiple of 60 that divides 3600")
        return value

    @field_validator("download_role_arn")
    @classmethod
    def _is_role(cls, value: str | None) -> str | None:
        if value is not None and partition_of(value) is None:
            raise ValueError("expected the ARN of a role, as arn:aws:iam::123456789012:role/model-readers")
        return value

    @field_validator("download_endpoint_url")
    @classmethod
    def _is_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else _http_url(value)

    @field_validator("public_url")
    @classmethod
    def _is_http_url(cls, value: str) -> str:
        return _http_url(value)

    @field_validator("upstream_urls")
    @classmethod
    def _are_http_urls(cls, value: list[str]) -> list[str]:
        urls = [_http_url(url) for url in value]
        if not urls:
            raise ValueError("expected at least one http:// or https:// URL")
        if len(set(urls)) < len(urls):
            raise ValueError("expected each URL once")
        return urls

    @field_validator("oidc_issuer")
    @classmethod
    def _is_safe_issuer(cls, value: str) -> str:
        _http_url(value)
        if not is_safe_url(value):
            raise ValueError("an issuer must use https, except on loopback (RFC 8414 section 2)")
        return value  # a slash at its end is part of its name: tokens are compared with it

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: list[str]) -> list[str]:
        for origin in value:
            parts = urlsplit(origin)
            plain = f"{parts.scheme}://{parts.netloc}"
            if origin != plain or (parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS):
                raise ValueError(f"{origin}: expected an origin, as https://dashboard.example, without a path")
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or "*" in origin:
                raise ValueError(f"{origin}: expected an origin, as https://dashboard.example")
        return value

    @model_validator(mode="after")
    def _sign_in_is_safe(self) -> Self:
        public = urlsplit(self.public_url)
        if self.oidc_client_id and public.scheme == "http" and public.hostname not in LOOPBACK_HOSTS:
            raise ValueError(
                "COUNTERSIGN_PUBLIC_URL: people sign in over https alone, except on loopback: set it to an https:// "
                "address, and let a proxy before the gateway speak it"
            )
        if self.oidc_client_secret and not self.oidc_client_id:
            raise ValueError("COUNTERSIGN_OIDC_CLIENT_ID: is not set, though its secret is")
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: list[str]) -> list[str]:
        for network in value:
            try:
                ip_network(network)
            except ValueError:
                raise ValueError(f"{network}: expected an address or a network, as 10.0.0.0/8") from None
        return value

    @field_validator("webhook_networks")
    @classmethod
    def _are_private_networks(cls, value: list[str]) -> list[str]:
        networks_of(tuple(value))
        return value

    @field_validator("open_routes")
    @classmethod
    def _can_be_opened(cls, value: list[str]) -> list[str]:
        try:
            return sorted(check_openings(value))
        except InvalidConfiguration as error:
            raise ValueError(error.message) from None

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr) -> SecretStr:
        if urlsplit(value.get_secret_value()).scheme not in {"postgresql", "postgres"}:
            raise ValueError("expected postgresql://…; no other database is supported")
        return value

    @field_validator("webhook_proxy")
    @classmethod
    def _is_proxy(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parts = urlsplit(value.get_secret_value())
            rest = parts.path.strip("/") or parts.query or parts.fragment
            if parts.scheme != "http" or not parts.hostname or parts.port == 0 or rest:
                raise ValueError("expected http://host:port, with user:password@ before the host if it wants them")
        return value

    @field_validator("assertion_secret", "webhook_key")
    @classmethod
    def _is_long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < SHORTEST_SECRET:
            raise ValueError(f"expected at least {SHORTEST_SECRET} bytes, as from `openssl rand -hex 32`")
        return value

    @field_validator("artifact_roots")
    @classmethod
    def _are_places(cls, value: list[str]) -> list[str]:
        try:
            return [checked_root(uri) for uri in value]
        except Unresolvable as error:
            raise ValueError(error.message) from None

    @field_validator("artifacts_destination")
    @classmethod
    def _is_known_root(cls, value: str) -> str:
        if value.startswith(("s3://", "file:///")):
            return value.rstrip("/")
        if not Path(value).is_absolute():
            raise ValueError("expected an absolute path, a file:/// URI or an s3:// URI")
        return value.rstrip("/")

    @property
    def storage(self) -> Storage:
        """Where the artifacts of MLflow lie."""
        servers = (*self.upstream_urls, self.public_url)
        return Storage(self.artifacts_destination, tuple(self.artifact_roots), servers)


def _items(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("expected an http:// or https:// URL")
    if parts.query or parts.fragment or parts.username:
        raise ValueError("expected a URL without user, query and fragment")
    return value.rstrip("/")


def secret(name: str) -> str | None:
    """A setting of ``SECRETS``, from its variable or from the file that the variable with ``_FILE`` at its end names.

    Raises:
        InvalidConfiguration: both are set, or the file cannot be read.
    """
    variable = f"COUNTERSIGN_{name.upper()}"
    value, file = os.environ.get(variable), os.environ.get(f"{variable}_FILE")
    if file is None:
        return value
    if value is not None:
        raise InvalidConfiguration(f"{variable} and {variable}_FILE: set one, not both")
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise InvalidConfiguration(f"{variable}_FILE: {file} cannot be read: {error.strerror}") from None


def webhook_ca_file() -> Path | None:
    """The file that is set, for a command that needs no other setting."""
    value = os.environ.get("COUNTERSIGN_WEBHOOK_CA_FILE", "")
    return Path(value) if value else None


def open_routes() -> frozenset[str]:
    """The openings that are set, for a command that needs no other setting.

    Raises:
        InvalidConfiguration: one of them cannot be opened.
    """
    try:
        return check_openings(_items(os.environ.get("COUNTERSIGN_OPEN_ROUTES", "")))
    except InvalidConfiguration as error:
        raise InvalidConfiguration(f"COUNTERSIGN_OPEN_ROUTES: {error.message}") from None


def roles() -> dict[Role, list[str]]:
    """The operator's own grants, for a command that needs no other setting.

    Raises:
        InvalidConfiguration: they are malformed.
    """
    try:
        return TypeAdapter(dict[Role, list[str]]).validate_json(os.environ.get("COUNTERSIGN_ROLES", "{}"))
    except ValidationError as error:
        reason = error.errors(include_input=False, include_url=False)[0]["msg"]
        raise InvalidConfiguration(f"COUNTERSIGN_ROLES: expected JSON, role to groups: {reason}") from None


def load_settings() -> Settings:
    """Read the environment once.

    Raises:
        InvalidConfiguration: with one line per wrong or missing variable.
    """
    given = {name: value for name in SECRETS if (value := secret(name)) is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic validates
    except ValidationError as error:
        raise InvalidConfiguration(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        name = "COUNTERSIGN_" + str(item["loc"][0]).upper() if item["loc"] else ""
        known = Settings.model_fields.get(str(item["loc"][0])) if item["loc"] else None
        hint = f" ({known.description})" if known and item["type"] == "missing" else ""
        reason = "is not set" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
        # What is wrong between several settings names them itself.
        lines.append(f"{name}: {reason}{hint}" if item["loc"] else reason)
    return "\n".join(lines)
