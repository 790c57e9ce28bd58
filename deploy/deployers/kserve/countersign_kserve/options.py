"""What a target may say of how its models run: a closed list, of which the deployer's operator allows a part."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from countersign_deployer.problems import Problem
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from countersign_kserve.quantities import amount, is_quantity
from countersign_kserve.settings import Settings


def _quantity(value: str) -> str:
    if not is_quantity(value):
        raise ValueError("expected a quantity, as 500m or 2Gi")
    return value


Quantity = Annotated[str, AfterValidator(_quantity)]
ResourceName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9./]{0,120}[a-z0-9])?$")]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
LabelKey = Annotated[str, Field(pattern=r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Resources(_Strict):
    """What a pod reserves, and what it may use: ``{"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {…}}``."""

    requests: dict[ResourceName, Quantity] = {}
    limits: dict[ResourceName, Quantity] = {}


class Options(_Strict):
    """The ``config`` of a call. What is not given is as the deployer's settings say."""

    resources: Resources | None = None
    min_replicas: Annotated[int, Field(ge=1)] | None = None
    max_replicas: Annotated[int, Field(ge=1)] | None = None
    runtime: ObjectName | None = None
    service_account: ObjectName | None = None
    node_selector: dict[LabelKey, LabelValue] | None = None
    timeout_s: Annotated[int, Field(ge=1, le=86400)] | None = None


def understand_options(config: dict[str, Any], settings: Settings) -> Options:
    """The options of a call.

    Raises:
        Problem: one is unknown, malformed or not allowed here (422); each is named as ``data.config.…``.
    """
    try:
        options = Options.model_validate(config)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        raise _refused(
            [
                (
                    ".".join(str(part) for part in item["loc"]),
                    _UNKNOWN if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, "),
                )
                for item in found
            ]
        ) from None
    if refused := [(name, _NOT_ALLOWED) for name in sorted(config) if name not in settings.allowed_options]:
        raise _refused(refused)
    if wrong := list(_beyond(options, settings)):
        raise _refused(wrong)
    return options


_UNKNOWN = f"There is no such option; there are {', '.join(Options.model_fields)}."
_NOT_ALLOWED = "This deployer does not let a target choose that (ALLOWED_OPTIONS)."


def _beyond(options: Options, settings: Settings) -> list[tuple[str, str]]:
    """What is well-formed and still may not be."""
    least = options.min_replicas or settings.min_replicas
    most = options.max_replicas or max(settings.max_replicas, least)
    wrong = []
    if max(least, most) > settings.most_replicas:
        name = "max_replicas" if options.max_replicas else "min_replicas"
        wrong.append((name, f"At most {settings.most_replicas} are allowed here (MOST_REPLICAS)."))
    elif most < least:
        wrong.append(("max_replicas", f"It is below the least number of replicas, {least}."))
    if options.runtime and options.runtime not in {settings.runtime, *settings.allowed_runtimes}:
        wrong.append(("runtime", "It is not one of those that are allowed here (ALLOWED_RUNTIMES)."))
    account = options.service_account
    if account and account not in {settings.service_account, *settings.allowed_service_accounts}:
        wrong.append(("service_account", "It is not one of those that are allowed here (ALLOWED_SERVICE_ACCOUNTS)."))
    for name, limit in (options.resources.limits if options.resources else {}).items():
        request = options.resources.requests.get(name) if options.resources else None
        if request is not None and amount(request) > amount(limit):
            wrong.append((f"resources.requests.{name}", f"It is more than the limit, {limit}."))
    return wrong


def _refused(fields: list[tuple[str, str]]) -> Problem:
    named = tuple((f"data.config.{field}" if field else "data.config", detail) for field, detail in fields)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(f"{field}: {detail}" for field, detail in named), named)
