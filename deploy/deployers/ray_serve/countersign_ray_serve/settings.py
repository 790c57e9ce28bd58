"""Typed settings: the only reader of the environment.

Every variable starts with ``COUNTERSIGN_RAY_``. All mistakes are reported together, each with the name of its
variable. A secret is given by the variable itself or by a file named in ``<variable>_FILE``.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

PREFIX = "COUNTERSIGN_RAY_"
SECRETS = ("webhook_secret", "callback_secret", "dashboard_token", "read_token")
LEAST_SECRET_BYTES = 24  # Standard Webhooks: a secret has between 24 and 64 bytes
# Not the commas inside a requirement: pandas[excel,plot]>=2,<4
_BETWEEN_REQUIREMENTS = r",\s*(?=[A-Za-z])(?![^\[]*\])"

CommaSeparated = Annotated[list[str], NoDecode]


class InvalidConfiguration(Exception):
    """The environment is wrong; the message has one line per variable."""


class Settings(BaseSettings):
    """What a deployer needs to know. Immutable once read."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    host: str = Field(default="127.0.0.1", description="Address the deployer listens on.")
    port: int = Field(default=8090, ge=1, le=65535, description="Port the deployer listens on.")
    target: str = Field(default="ray", min_length=1, description="The target's name; calls for another are refused.")
    gateway_url: str = Field(description="The gateway; status callbacks go below this address and nowhere else.")
    webhook_secret: SecretStr = Field(
        description="Signs calls from the gateway: whsec_<base64>; several, comma-separated, during a rotation."
    )
    callback_secret: SecretStr = Field(
        description="Signs status callbacks to the gateway: whsec_<base64>; another one."
    )
    read_token: SecretStr | None = Field(
        default=None, validate_default=True, description="Bearer token for GET /v1/deployments; needed off loopback."
    )
    allowed_uri_prefixes: CommaSeparated = Field(
        description="Where model artifacts may be, comma-separated: s3://bucket/prefix/ or file:///folder/."
    )
    state_dir: Path = Field(
        default=Path("/var/lib/countersign-ray-serve"),
        description="Folder of the state file; keep it on a durable disk.",
    )

    dashboard_url: str = Field(default="http://127.0.0.1:8265", description="Ray's dashboard, whose Serve API we call.")
    dashboard_token: SecretStr | None = Field(default=None, description="Ray's token (RAY_AUTH_MODE=token), as Bearer.")
    dashboard_timeout_s: float = Field(default=30, gt=0, description="Seconds Ray's dashboard may take to answer.")

    serve_host: str = Field(default="127.0.0.1", description="Address Serve's HTTP proxies listen on.")
    serve_port: int = Field(default=8000, ge=1, le=65535, description="Port Serve's HTTP proxies listen on.")
    serve_url: str = Field(default="http://127.0.0.1:8000", description="Where clients (and our probes) reach Serve.")
    proxy_location: Literal["EveryNode", "HeadOnly"] = Field(default="EveryNode", description="Nodes that run a proxy.")

    runtime_pip: CommaSeparated = Field(default=[], description="Packages a model's replicas get, comma-separated.")
    runtime_installer: Literal["pip", "uv"] = Field(default="pip", description="Ray's installer of RUNTIME_PIP.")
    runtime_env_vars: dict[str, str] = Field(
        default={}, description="JSON: environment of a model's replicas. Ray shows it to who may read its dashboard."
    )
    working_dir: str | None = Field(
        default=None, description="Where Ray imports this package from, if its image lacks it: local:///…, s3://….zip."
    )

    backend_num_cpus: float = Field(default=0.5, ge=0, description="CPUs one replica of a model reserves.")
    backend_memory_mb: int = Field(default=0, ge=0, description="Memory one replica of a model reserves; 0: none.")
    backend_min_replicas: int = Field(default=1, ge=1, description="Replicas of a model version, at least.")
    backend_max_replicas: int = Field(default=1, ge=1, validate_default=True, description="Replicas, at most.")
    backend_max_ongoing_requests: int = Field(default=16, ge=1, description="Requests one replica works on at a time.")
    backend_max_queued_requests: int = Field(
        default=200, ge=1, description="Requests that wait before 503 is answered."
    )
    router_num_cpus: float = Field(default=0.1, ge=0, description="CPUs one router replica reserves.")
    router_replicas: int = Field(default=2, ge=1, description="Router replicas.")
    request_timeout_s: float = Field(default=60, gt=0, description="Seconds a prediction may take.")
    max_request_bytes: int = Field(default=16 * 1024 * 1024, gt=0, description="Largest prediction request.")

    deadline_s: int = Field(default=900, gt=0, description="Seconds a rollout may take; a call may ask for less.")
    rollback_window_s: float = Field(default=3600, ge=0, description="Seconds the previous version stays loaded.")
    drain_s: float = Field(
        default=10, ge=1, description="Seconds a version without a route stays, to end its requests."
    )
    probe_count: int = Field(default=3, ge=1, description="Probes in a row that must answer with the new version.")
    poll_interval_s: float = Field(default=0.5, gt=0, description="Seconds between looks while something changes.")
    reconcile_interval_s: float = Field(default=15, gt=0, description="Seconds between looks while nothing changes.")
    heartbeat_s: float = Field(default=30, gt=0, description="Seconds between reports while a rollout goes on.")
    callback_timeout_s: float = Field(default=10, gt=0, description="Seconds the gateway may take to take a report.")
    callback_retry_max_s: float = Field(default=60, gt=0, description="Longest pause between two tries of a report.")

    log_format: Literal["json", "console"] = Field(default="json", description="How logs are written to stderr.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least log level.")

    @field_validator("allowed_uri_prefixes", "runtime_pip", mode="before")
    @classmethod
    def _split(cls, value: object, info: ValidationInfo) -> object:
        separator = _BETWEEN_REQUIREMENTS if info.field_name == "runtime_pip" else ","
        return (
            [item.strip() for item in re.split(separator, value) if item.strip()] if isinstance(value, str) else value
        )

    @field_validator("allowed_uri_prefixes")
    @classmethod
    def _ends_with_slash(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("at least one prefix is needed")
        if wrong := [prefix for prefix in value if not re.match(r"(file:///|[a-z0-9+.-]+://[^/])", prefix)]:
            raise ValueError(f"{', '.join(wrong)}: expected s3://bucket/… or file:///…")
        # Without the slash, s3://models would allow s3://models-of-someone-else too.
        return [prefix.rstrip("/") + "/" for prefix in value]

    @field_validator("gateway_url", "dashboard_url", "serve_url")
    @classmethod
    def _is_http_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("expected an http:// or https:// URL")
        if parts.query or parts.fragment or parts.username:
            raise ValueError("expected a URL without user, query and fragment")
        return value.rstrip("/")

    @field_validator("webhook_secret", "callback_secret")
    @classmethod
    def _is_webhook_secret(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        secrets = split_secrets(value)
        if not secrets or not all(_is_long_enough(secret) for secret in secrets):
            raise ValueError(f"expected whsec_ and base64 of at least {LEAST_SECRET_BYTES} random bytes")
        if info.field_name == "callback_secret":
            if len(secrets) > 1:
                raise ValueError("expected one secret: the receiver accepts several, the sender uses one")
            if (incoming := info.data.get("webhook_secret")) and set(secrets) & set(split_secrets(incoming)):
                raise ValueError(f"must differ from {PREFIX}WEBHOOK_SECRET: each direction has its own secret")
        return value

    @field_validator("read_token")
    @classmethod
    def _guards_other_addresses(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None and not _is_loopback(str(info.data.get("host", "127.0.0.1"))):
            raise ValueError(f"is needed when {PREFIX}HOST is not a loopback address")
        return value

    @field_validator("backend_max_replicas")
    @classmethod
    def _is_not_below_least(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("backend_min_replicas", 1)
        if value < least:
            raise ValueError(f"is below {PREFIX}BACKEND_MIN_REPLICAS ({least})")
        return value


def load_settings() -> Settings:
    """Read the environment and the secret files once.

    Raises:
        InvalidConfiguration: with one line per wrong or missing variable.
    """
    secrets: dict[str, str] = {}
    mistakes: dict[str, str] = {}
    for name in SECRETS:
        variable = PREFIX + name.upper()
        if not (path := os.environ.get(f"{variable}_FILE")):
            continue
        if os.environ.get(variable):
            mistakes[variable] = f"{variable}: is set, and so is {variable}_FILE; set one"
            continue
        try:
            secrets[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            mistakes[variable] = f"{variable}_FILE: cannot be read ({type(error).__name__})"
    try:
        settings = Settings(**secrets)  # type: ignore[arg-type]  # pydantic validates
    except ValidationError as error:
        mistakes = {**_explain(error), **mistakes}
    except SettingsError:
        mistakes[PREFIX + "RUNTIME_ENV_VARS"] = (
            f'{PREFIX}RUNTIME_ENV_VARS: expected a JSON object, as {{"NAME": "value"}}'
        )
    if mistakes:
        raise InvalidConfiguration("\n".join(mistakes.values()))
    return settings


def split_secrets(value: SecretStr) -> list[str]:
    """The secrets of a comma-separated list."""
    return [secret.strip() for secret in value.get_secret_value().split(",") if secret.strip()]


def _explain(error: ValidationError) -> dict[str, str]:
    lines = {}
    for item in error.errors(include_input=False, include_url=False):
        field = str(item["loc"][0])
        variable = PREFIX + field.upper()
        if item["type"] == "missing":
            lines[variable] = f"{variable}: is not set ({Settings.model_fields[field].description})"
        else:
            lines[variable] = f"{variable}: {item['msg'].removeprefix('Value error, ')}"
    return lines


def _is_long_enough(secret: str) -> bool:
    try:
        return secret.startswith("whsec_") and len(base64.b64decode(secret[6:] + "==")) >= LEAST_SECRET_BYTES
    except binascii.Error:
        return False


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
