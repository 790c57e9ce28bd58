"""Calls from the gateway: verified, understood, allowed, and made the desired state."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from pydantic import ValidationError

from countersign_ray_serve.contract import Deployment, DeploymentRequested, is_below
from countersign_ray_serve.problems import Problem, malformed, policy_denied
from countersign_ray_serve.reports import content_of
from countersign_ray_serve.rollout import accept
from countersign_ray_serve.settings import Settings, split_secrets
from countersign_ray_serve.signatures import BadSignature, verify
from countersign_ray_serve.state import StateStore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway is told. ``accepted``: the desired state has changed."""

    status: int
    body: dict[str, object]
    accepted: bool = False


def understand(body: bytes, headers: Mapping[str, str], settings: Settings) -> Deployment:
    """The deployment a message calls for. Nothing of it is read before its signature is verified.

    Raises:
        Problem: the message is not authentic, malformed, or asks for what this deployer must not do.
    """
    try:
        verify(body, headers, split_secrets(settings.webhook_secret))
    except BadSignature as error:
        raise Problem(HTTPStatus.UNAUTHORIZED, str(error)) from None
    try:
        event = DeploymentRequested.model_validate_json(body)
    except ValidationError as error:
        raise malformed(error) from None
    wanted = event.data
    if event.id != headers.get("webhook-id"):
        raise policy_denied("id", "The event's id is not the webhook-id of the message.")
    if wanted.target != settings.target:
        raise policy_denied("data.target", f"This deployer serves the target '{settings.target}'.")
    if event.subject != f"{wanted.target}/{wanted.resource}":
        raise policy_denied("subject", "The subject is not <target>/<resource>.")
    if wanted.action == "apply" and wanted.model is None:
        raise policy_denied("data.model", "A model version is needed to apply.")
    if wanted.model and wanted.model.name != wanted.resource:
        raise policy_denied("data.model.name", "The model is not the resource.")
    if not is_below(wanted.callback.url, settings.gateway_url):
        raise policy_denied("data.callback.url", "The callback is not below the gateway's address.")
    if wanted.model and not any(is_below(wanted.model.uri, prefix) for prefix in settings.allowed_uri_prefixes):
        raise policy_denied(
            "data.model.uri", "The artifacts are not under a location that this deployer may load from."
        )
    return wanted


async def take(wanted: Deployment, store: StateStore, settings: Settings) -> Answer:
    """Make a call the desired state, unless it is old news.

    Raises:
        Problem: the same generation was accepted with other content.
    """
    async with store.transaction() as state:
        current = state.resources.get(wanted.resource)
        if current is not None and wanted.generation < current.generation:
            return Answer(HTTPStatus.OK, {"result": "superseded", "current_generation": current.generation})
        if current is not None and wanted.generation == current.generation:
            if current.content != content_of(wanted):
                detail = f"Generation {wanted.generation} was accepted with other content."
                raise Problem(HTTPStatus.CONFLICT, detail, (("data.generation", detail),))
            return Answer(HTTPStatus.OK, {"result": "unchanged", "observed_generation": current.generation})
        accept(state, settings, wanted, time.time())
    log.info("call.accepted", model=wanted.resource, generation=wanted.generation, action=wanted.action)
    body: dict[str, object] = {"result": "accepted", "observed_generation": wanted.generation}
    return Answer(HTTPStatus.ACCEPTED, body, accepted=True)
