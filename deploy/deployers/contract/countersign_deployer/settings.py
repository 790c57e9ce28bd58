"""The settings that every deployer has, and how a deployer reads its own: the only reader of the environment.

All mistakes are reported together, each with the name of its variable. A secret is given by the variable itself or by
a file named in ``<variable>_FILE``.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsError

LEAST_SECRET_BYTES = 24  # Standard Webhooks: a secret has between 24 and 64 bytes

CommaSeparated = Annotated[list[str], NoDecode]


class InvalidConfiguration(Exception):
    """The environment is wrong; the message has one line per variable."""


class DeployerSettings(BaseSettings):
    """What every deployer needs to know. Immutable once read.

    A deployer subclasses it with its own fields and
    ``model_config = SettingsConfigDict(env_prefix="COUNTERSIGN_…_", frozen=True, extra="ignore")``.
    """

    host: str = Field(default="127.0.0.1", description="Address the deployer listens on.")
    port: int = Field(default=8090, ge=1, le=65535, description="Port the deployer listens on.")
    target: str = Field(min_length=1, description="The target's name; calls for another are refused.")
    gateway_url: str = Field(
        description="The gateway; reports go below this address and nowhere else, and what is desired is pulled there."
    )
    webhook_secret: SecretStr = Field(
        description="Signs calls from the gateway: whsec_<base64>; several, comma-separated, during a rotation."
    )
    callback_secret: SecretStr = Field(description="Signs what is sent to the gateway: whsec_<base64>; another one.")
    allowed_uri_prefixes: CommaSeparated = Field(
        description="Where model artifacts may be, comma-separated: s3://bucket/prefix/ or file:///folder/."
    )
    state_dir: Path = Field(description="Folder of the state file; keep it on a durable disk.")

    deadline_s: int = Field(default=900, gt=0, description="Seconds a rollout may take; a call may ask for less.")
    heartbeat_s: float = Field(default=30, gt=0, description="Seconds between reports while a rollout goes on.")
    pull_s: float = Field(default=60, gt=0, description="Seconds between looks at what the gateway desires.")
    callback_timeout_s: float = Field(default=10, gt=0, description="Seconds the gateway may take to answer.")
    callback_retry_max_s: float = Field(default=60, gt=0, description="Longest pause between two tries of a report.")

    log_format: Literal["json", "console"] = Field(default="json", description="How logs are written to stderr.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least log level.")

    @field_validator("allowed_uri_prefixes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value

    @field_validator("allowed_uri_prefixes")
    @classmethod
    def _ends_with_slash(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("at least one prefix is needed")
        if wrong := [prefix for prefix in value if not re.match(r"(file:///|[a-z0-9+.-]+://[^/])", prefix)]:
            raise ValueError(f"{', '.join(wrong)}: expected s3://bucket/… or file:///…")
        # Without the slash, s3://models would allow s3://models-of-someone-else too.
        return [prefix.rstrip("/") + "/" for prefix in value]

    @field_validator("gateway_url")
    @classmethod
    def _is_http_url(cls, value: str) -> str:
        return http_url(value)

    @field_validator("webhook_secret", "callback_secret")
    @classmethod
    def _is_webhook_secret(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        secrets = split_secrets(value)
        if not secrets or not all(is_secret(secret) for secret in secrets):
            raise ValueError(f"expected whsec_ and base64 of at least {LEAST_SECRET_BYTES} random bytes")
        if info.field_name == "callback_secret":
            if len(secrets) > 1:
                raise ValueError("expected one secret: the receiver accepts several, the sender uses one")
            if (incoming := info.data.get("webhook_secret")) and set(secrets) & set(split_secrets(incoming)):
                other = cls.variable("webhook_secret")
                raise ValueError(f"must differ from {other}: each direction has its own secret")
        return value

    @classmethod
    def variable(cls, field: str) -> str:
        """The environment variable of a field."""
        return f"{cls.model_config.get('env_prefix', '')}{field}".upper()

    @classmethod
    def secret_fields(cls) -> list[str]:
        """The fields that may be given by a file."""
        return [
            name
            for name, field in cls.model_fields.items()
            if SecretStr in {field.annotation, *get_args(field.annotation)}
        ]


SettingsT = TypeVar("SettingsT", bound=DeployerSettings)


def load_settings(kind: type[SettingsT]) -> SettingsT:
    """Read the environment and the secret files once.

    Raises:
        InvalidConfiguration: with one line per wrong or missing variable.
    """
    secrets: dict[str, str] = {}
    mistakes: dict[str, str] = {}
    for name in kind.secret_fields():
        variable = kind.variable(name)
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
        settings = kind(**secrets)  # type: ignore[arg-type]  # pydantic validates
    except ValidationError as error:
        mistakes = {**_explain(kind, error), **mistakes}
    except SettingsError as error:  # says: error parsing value for field "…"; that of one variable, and of no value
        field = re.search(r'field "(\w+)"', str(error))
        variable = kind.variable(field[1] if field else "")
        mistakes[variable] = f'{variable}: expected a JSON object, as {{"NAME": "value"}}'
    if mistakes:
        raise InvalidConfiguration("\n".join(mistakes.values()))
    return settings


def split_secrets(value: SecretStr) -> list[str]:
    """The secrets of a comma-separated list."""
    return [secret.strip() for secret in value.get_secret_value().split(",") if secret.strip()]


def http_url(value: str) -> str:
    """An address that paths can be put behind.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("expected an http:// or https:// URL")
    if parts.query or parts.fragment or parts.username:
        raise ValueError("expected a URL without user, query and fragment")
    return value.rstrip("/")


def _explain(kind: type[DeployerSettings], error: ValidationError) -> dict[str, str]:
    lines = {}
    for item in error.errors(include_input=False, include_url=False):
        field = str(item["loc"][0])
        variable = kind.variable(field)
        if item["type"] == "missing":
            lines[variable] = f"{variable}: is not set ({kind.model_fields[field].description})"
        else:
            lines[variable] = f"{variable}: {item['msg'].removeprefix('Value error, ')}"
    return lines


def is_secret(secret: str) -> bool:
    """Whether a text is one secret, and a long enough one."""
    try:
        return secret.startswith("whsec_") and len(base64.b64decode(secret[6:] + "==")) >= LEAST_SECRET_BYTES
    except (binascii.Error, ValueError):  # ValueError: it is not ASCII
        return False
