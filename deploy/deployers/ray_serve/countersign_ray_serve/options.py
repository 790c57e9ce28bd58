"""How a version's replicas run: the settings' defaults, and what a call's ``config`` may say instead. Pure.

An allow-list: what runs in Ray (``import_path``, ``runtime_env``) is never among it.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from countersign_deployer.contract import Deployment
from countersign_deployer.problems import Problem, policy_denied
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from countersign_ray_serve.settings import Settings

Replicas = Annotated[int, Field(ge=1, le=1000)]
Requests = Annotated[int, Field(ge=1, le=100_000)]
Delay = Annotated[float, Field(ge=0, le=86_400)]
Amount = Annotated[float, Field(ge=0, le=1024)]


class ReplicaOptions(BaseModel):
    """What a call may say of replicas; what it does not say is as the settings have it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    min_replicas: Replicas | None = None
    max_replicas: Replicas | None = None
    initial_replicas: Replicas | None = None
    target_ongoing_requests: Annotated[float, Field(gt=0, le=100_000)] | None = None
    upscale_delay_s: Delay | None = None
    downscale_delay_s: Delay | None = None
    max_ongoing_requests: Requests | None = None
    max_queued_requests: Requests | None = None
    num_cpus: Amount | None = None
    num_gpus: Amount | None = None
    memory_mb: Annotated[int, Field(ge=0, le=16 * 1024 * 1024)] | None = None


class _Config(ReplicaOptions):
    """A call's ``config``: for all models, and for some by name."""

    models: dict[str, ReplicaOptions] = {}


def options_of(settings: Settings, wanted: Deployment) -> dict[str, Any]:
    """All options of a call's replicas: the model's own before the target's before the settings'.

    Raises:
        Problem: an option that does not exist, or not with this value (422); names the field.
    """
    try:
        config = _Config.model_validate(wanted.config)
    except ValidationError as error:
        raise _refused(error) from None
    own = config.models.get(wanted.resource, ReplicaOptions())
    said: Mapping[str, Any] = {
        **config.model_dump(exclude={"models"}, exclude_none=True),
        **own.model_dump(exclude_none=True),
    }
    options = {name: said.get(name, getattr(settings, f"backend_{name}")) for name in ReplicaOptions.model_fields}
    if options["max_replicas"] < options["min_replicas"]:
        if "max_replicas" in said:
            raise policy_denied("data.config.max_replicas", f"It is below min_replicas, {options['min_replicas']}.")
        options["max_replicas"] = options["min_replicas"]
    first = options["initial_replicas"]
    if first and not options["min_replicas"] <= first <= options["max_replicas"]:
        raise policy_denied("data.config.initial_replicas", "It is not between min_replicas and max_replicas.")
    return options


def _refused(error: ValidationError) -> Problem:
    found = error.errors(include_input=False, include_url=False, include_context=False)
    fields = tuple(
        (
            ".".join(("data.config", *map(str, item["loc"]))),
            "There is no such option." if item["type"] == "extra_forbidden" else item["msg"],
        )
        for item in found
    )
    detail = "; ".join(f"{field}: {reason}" for field, reason in fields)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, fields)
