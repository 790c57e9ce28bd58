"""Typed settings: the only reader of the environment.

Every variable starts with ``COUNTERSIGN_``. All mistakes are reported together, each with the name of its
variable, before anything starts. The database URL, which holds a password, may be given by a file instead
(``COUNTERSIGN_DATABASE_URL_FILE``); it is masked wherever it is shown.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.access import Role
from app.domain.errors import InvalidConfiguration

LOOPBACK_HOSTS = {"127.0.0.1", "::1", "localhost"}
ASYMMETRIC_ALGORITHMS = {
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
}

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
    upstream_timeout_s: float = Field(default=120, gt=0, description="Seconds MLflow may take to begin an answer.")
    max_json_body: int = Field(
        default=2 * 1024 * 1024, gt=0, description="Bytes of a request body that is read to authorise it."
    )

    oidc_issuer: str = Field(description="The issuer whose access tokens are accepted (`iss`).")
    oidc_audience: str = Field(description="The audience an access token must name (`aud`).")
    oidc_algorithms: CommaSeparated = Field(default=["RS256", "ES256"], description="Signature algorithms, pinned.")
    oidc_groups_claim: str = Field(default="groups", description="The claim that lists a principal's groups.")
    oidc_username_claim: str = Field(default="preferred_username", description="The claim shown as a principal's name.")
    oidc_leeway_s: int = Field(
        default=30, ge=0, le=300, description="Seconds of clock difference tolerated in a token."
    )
    roles: Annotated[dict[Role, list[str]], NoDecode] = Field(
        default={}, description='JSON: role to groups, as {"approver": ["ml-leads"], "viewer": ["*"]}.'
    )
    service_groups: CommaSeparated = Field(default=[], description="Groups whose members are services, not people.")

    log_format: Literal["json", "console"] = Field(default="json", description="How logs are written to stderr.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least log level.")
    worker_metrics_host: str = Field(default="127.0.0.1", description="The address of the worker's metrics.")
    worker_metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of the worker's Prometheus metrics; none if unset."
    )

    @field_validator("upstream_urls", "oidc_algorithms", "service_groups", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value

    @field_validator("roles", mode="before")
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

    @field_validator("public_url", "oidc_issuer")
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
        parts = urlsplit(value)
        if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
            raise ValueError("an issuer must use https, except on loopback (RFC 8414 section 2)")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr) -> SecretStr:
        if urlsplit(value.get_secret_value()).scheme not in {"postgresql", "postgres"}:
            raise ValueError("expected postgresql://…; no other database is supported")
        return value

    @field_validator("artifacts_destination")
    @classmethod
    def _is_known_root(cls, value: str) -> str:
        if value.startswith(("s3://", "file:///")):
            return value.rstrip("/")
        if not Path(value).is_absolute():
            raise ValueError("expected an absolute path, a file:/// URI or an s3:// URI")
        return value.rstrip("/")


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("expected an http:// or https:// URL")
    if parts.query or parts.fragment or parts.username:
        raise ValueError("expected a URL without user, query and fragment")
    return value.rstrip("/")


def database_url() -> str | None:
    """The database's URL, from its variable or from the file that ``COUNTERSIGN_DATABASE_URL_FILE`` names.

    Raises:
        InvalidConfiguration: both are set, or the file cannot be read.
    """
    url, file = os.environ.get("COUNTERSIGN_DATABASE_URL"), os.environ.get("COUNTERSIGN_DATABASE_URL_FILE")
    if file is None:
        return url
    if url is not None:
        raise InvalidConfiguration("COUNTERSIGN_DATABASE_URL and COUNTERSIGN_DATABASE_URL_FILE: set one, not both")
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise InvalidConfiguration(f"COUNTERSIGN_DATABASE_URL_FILE: {file} cannot be read: {error.strerror}") from None


def load_settings() -> Settings:
    """Read the environment once.

    Raises:
        InvalidConfiguration: with one line per wrong or missing variable.
    """
    url = database_url()
    given = {"database_url": url} if url is not None else {}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic validates
    except ValidationError as error:
        raise InvalidConfiguration(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        name = "COUNTERSIGN_" + str(item["loc"][0]).upper() if item["loc"] else "settings"
        known = Settings.model_fields.get(str(item["loc"][0])) if item["loc"] else None
        hint = f" ({known.description})" if known and item["type"] == "missing" else ""
        reason = "is not set" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
        lines.append(f"{name}: {reason}{hint}")
    return "\n".join(lines)
