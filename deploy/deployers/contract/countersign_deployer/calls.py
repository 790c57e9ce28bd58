"""What the gateway asks for: verified, understood, allowed, and made the desired state."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from pydantic import ValidationError

from countersign_deployer.contract import Deployment, DeploymentRequested, is_below
from countersign_deployer.problems import Problem, malformed, policy_denied
from countersign_deployer.settings import DeployerSettings, split_secrets
from countersign_deployer.signatures import BadSignature, verify
from countersign_deployer.state import State, StateStore, StateT

log = structlog.get_logger()

Accept = Callable[[StateT, Deployment, float], None]
"""Of state, wanted, and seconds since the epoch: changes the state into what is desired from now on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway is told. ``accepted``: the desired state has changed."""

    status: int
    body: dict[str, object]
    accepted: bool = False


def authenticate(signed: bytes, headers: Mapping[str, str], settings: DeployerSettings) -> None:
    """That a request is the gateway's. ``signed``: its body, or of a GET what stands for one.

    Raises:
        Problem: it is not (401).
    """
    try:
        verify(signed, headers, split_secrets(settings.webhook_secret))
    except BadSignature as error:
        raise Problem(HTTPStatus.UNAUTHORIZED, str(error)) from None


def understand(body: bytes, headers: Mapping[str, str], settings: DeployerSettings) -> Deployment:
    """The deployment a message calls for. Nothing of it is read before its signature is verified.

    Raises:
        Problem: the message is not authentic, malformed, or asks for what this deployer must not do.
    """
    authenticate(body, headers, settings)
    try:
        event = DeploymentRequested.model_validate_json(body)
    except ValidationError as error:
        raise malformed(error) from None
    if event.id != headers.get("webhook-id"):
        raise policy_denied("id", "The event's id is not the webhook-id of the message.")
    wanted = event.data
    if event.subject != f"{wanted.target}/{wanted.resource}" and wanted.target == settings.target:
        raise policy_denied("subject", "The subject is not <target>/<resource>.")
    permit(wanted, settings)
    return wanted


def permit(wanted: Deployment, settings: DeployerSettings) -> None:
    """That what is asked for makes sense, and that this deployer may do it.

    Raises:
        Problem: it does not, or may not (422); names the field.
    """
    if wanted.target != settings.target:
        raise policy_denied("data.target", f"This deployer serves the target '{settings.target}'.")
    if wanted.action == "apply" and wanted.model is None:
        raise policy_denied("data.model", "A model version is needed to apply.")
    if wanted.model and wanted.model.name != wanted.resource:
        raise policy_denied("data.model.name", "The model is not the resource.")
    if not is_below(wanted.callback.url, settings.gateway_url):
        raise policy_denied("data.callback.url", "The callback is not below the gateway's address.")
    stable = wanted.traffic.stable
    if stable and wanted.model and stable.version == wanted.model.version and stable.digest != wanted.model.digest:
        raise policy_denied("data.traffic.stable", "One version cannot have two contents.")
    if wanted.action == "apply":
        for field, named in (("data.model.uri", wanted.model), ("data.traffic.stable.uri", stable)):
            if named and not any(is_below(named.uri, prefix) for prefix in settings.allowed_uri_prefixes):
                raise policy_denied(field, "The artifacts are not under a location that this deployer may load from.")


async def take(wanted: Deployment, store: StateStore[StateT], accept: Accept[StateT]) -> Answer:
    """Make what is wanted the desired state, unless it is old news.

    Raises:
        Problem: the same generation was accepted with other content (409), or ``accept`` refuses it.
    """
    (outcome,) = await take_all([wanted], store, accept)
    if isinstance(outcome, Problem):
        raise outcome
    return outcome


async def take_all(
    items: Sequence[Deployment], store: StateStore[StateT], accept: Accept[StateT]
) -> list[Answer | Problem]:
    """Take several at once; what comes of each is what ``take`` answers or raises.

    Nearly all that is pulled is old news, which costs no copy of the state; what is new costs one, all together. What
    ``accept`` refuses may have changed that copy: the others begin again without it.
    """
    outcomes: dict[int, Answer | Problem] = {}
    for number, wanted in enumerate(items):
        try:
            if answer := _old_news(wanted, store.snapshot()):
                outcomes[number] = answer
        except Problem as problem:
            outcomes[number] = problem
    while new := {number: wanted for number, wanted in enumerate(items) if number not in outcomes}:
        taken: dict[int, Answer] = {}
        try:
            async with store.transaction() as state:
                for number, wanted in new.items():
                    taken[number] = _old_news(wanted, state) or _accepted(wanted, state, accept)
        except Problem as problem:
            outcomes[number] = problem
            continue
        outcomes |= taken
        for number, wanted in new.items():
            if taken[number].accepted:
                log.info("call.accepted", model=wanted.resource, generation=wanted.generation, action=wanted.action)
    return [outcomes[number] for number in range(len(items))]


def _old_news(wanted: Deployment, state: State[Any]) -> Answer | None:
    """The answer to what is not new; none if it is.

    A resource whose ``content`` is empty was found in the serving system after the state was lost: nobody knows which
    call it came from, so its own generation is accepted once more.

    Raises:
        Problem: the same generation was accepted with other content (409).
    """
    current = state.resources.get(wanted.resource)
    if current is None or wanted.generation > current.generation:
        return None
    if wanted.generation < current.generation:
        return Answer(HTTPStatus.OK, {"result": "superseded", "current_generation": current.generation})
    if not current.content:
        return None
    if current.content != content_of(wanted):
        detail = f"Generation {wanted.generation} was accepted with other content."
        raise Problem(HTTPStatus.CONFLICT, detail, (("data.generation", detail),))
    return Answer(HTTPStatus.OK, {"result": "unchanged", "observed_generation": current.generation})


def _accepted(wanted: Deployment, state: StateT, accept: Accept[StateT]) -> Answer:
    accept(state, wanted, time.time())
    body: dict[str, object] = {"result": "accepted", "observed_generation": wanted.generation}
    return Answer(HTTPStatus.ACCEPTED, body, accepted=True)


def content_of(wanted: Deployment) -> str:
    """What makes two calls of one generation the same: what to do, with which bytes, traffic and configuration."""
    content: list[Any] = [wanted.deployment_id, wanted.action]
    if wanted.model and wanted.action == "apply":
        model, stable = wanted.model, wanted.traffic.stable
        content += [model.name, model.version, model.uri, model.digest, wanted.traffic.weight, wanted.config]
        content += [stable.version, stable.uri, stable.digest] if stable else []
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
