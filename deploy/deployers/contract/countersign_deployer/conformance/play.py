"""How the deployer that is examined is called, asked and waited for."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx

from countersign_deployer.conformance.gateway import Json, PlayedGateway, Received, now_ms
from countersign_deployer.contract import REQUESTED
from countersign_deployer.phases import Phase
from countersign_deployer.signatures import sign, sign_get

ENDS = {phase.value for phase in Phase if phase.is_end}


class Unreachable(Exception):
    """The deployer does not answer at all: nothing can be said of it."""


class Nonconforming(Exception):
    """What was seen instead of what was expected."""


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Files that the deployer can load, and their digest."""

    uri: str
    digest: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long is waited, in seconds."""

    start_s: float = 30
    """Until somebody answers at the deployer's address."""
    answer_s: float = 5
    """For the answer to a call: the contract's."""
    end_s: float = 300
    """For a generation to end."""
    retry_s: float = 90
    """For a report that was answered 503 to come again."""
    pull_s: float = 90
    """For the next question for what is desired."""


@dataclass(frozen=True)
class Subject:
    """The deployer that is examined, and what it can be asked to load.

    ``url`` is the target's, as in the gateway. ``bad_uri`` is where there is no model, though it may load from there.
    ``second`` is another version; the same files will do. ``restart`` restarts it, and returns when it listens again.
    """

    url: str
    target: str
    webhook_secret: str
    callback_secret: str
    model: Artifacts
    second: Artifacts | None = None
    bad_uri: str | None = None
    resource: str = "conformance"
    restart: Callable[[], None] | None = None
    bounds: Bounds = field(default_factory=Bounds)


class Play:
    """One examination."""

    def __init__(self, subject: Subject, gateway: PlayedGateway, client: httpx.Client) -> None:
        self.subject = subject
        self.gateway = gateway
        self.deployment_id = f"dep_conformance_{secrets.token_hex(8)}"
        self.generation = now_ms()
        self.live: Json = {}
        """The call that was Ready last."""
        self._client = client

    def call(self, version: str = "1", **changes: Any) -> Json:
        """The data of a call for the next generation; ``version`` 2 is the second model."""
        self.generation += 1
        return self.data(version, **changes)

    def data(self, version: str = "1", **changes: Any) -> Json:
        """The data of a call for the current generation."""
        subject = self.subject
        found = subject.second if version == "2" and subject.second else subject.model
        return {
            "deployment_id": self.deployment_id,
            "target": subject.target,
            "resource": subject.resource,
            "generation": self.generation,
            "action": "apply",
            "model": {
                "name": subject.resource,
                "version": version,
                "alias": "production",
                "run_id": None,
                "uri": found.uri,
                "digest": found.digest,
            },
            "traffic": {"weight": 100, "stable": None},
            "config": {},
            "previous": None,
            "promotion": {"id": "prm_conformance", "requested_by": "ann", "approved_by": ["bob"]},
            "callback": {"url": f"{self.gateway.url}/control/v1/deployments/{self.deployment_id}/status"},
            "deadline_s": max(1, int(subject.bounds.end_s)),
            **changes,
        }

    def event(self, data: Json) -> Json:
        """The message of a call."""
        return {
            "specversion": "1.0",
            "id": f"evt_{secrets.token_hex(16)}",
            "source": self.gateway.url,
            "type": REQUESTED,
            "subject": f"{data.get('target')}/{data.get('resource')}",
            "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": data,
        }

    def send(self, data: Json) -> httpx.Response:
        """Call, signed."""
        event = self.event(data)
        return self.post(event["id"], json.dumps(event))

    def post(self, message_id: str, body: str, *, secret: str = "", late_s: float = 0) -> httpx.Response:
        """Send a body, signed; by default with the right secret and the time of now."""
        return self.deliver(body, self.sign(message_id, body, secret=secret, late_s=late_s))

    def sign(self, message_id: str, body: str, *, secret: str = "", late_s: float = 0) -> dict[str, str]:
        """The headers of a body."""
        at = datetime.now(UTC) + timedelta(seconds=late_s)
        return sign(message_id, body, secret or self.subject.webhook_secret, at=at)

    def deliver(self, body: str, headers: Mapping[str, str]) -> httpx.Response:
        """Send a body with headers as they are.

        Raises:
            Nonconforming: there is no answer in time.
        """
        content_type = {"Content-Type": "application/cloudevents+json"}
        return self._ask("POST", self.subject.url, headers={**content_type, **headers}, content=body.encode())

    def status(self, deployment_id: str = "", *, signed_for: str | None = "") -> httpx.Response:
        """Ask how a deployment is. ``signed_for``: another path than is asked for; none: unsigned.

        Raises:
            Nonconforming: there is no answer in time.
        """
        url = f"{self.subject.url}/{deployment_id or self.deployment_id}"
        path = urlsplit(url).path
        headers = {} if signed_for is None else sign_get(signed_for or path, self.subject.webhook_secret)
        return self._ask("GET", url, headers=headers)

    def reports_of(self, generation: int) -> list[Received]:
        """The reports of a generation, each attempt, in the order they came."""
        return [each for each in self.gateway.received if each.generation == generation]

    def end_of(self, generation: int, *, within_s: float | None = None) -> Json:
        """The report that ends a generation.

        Raises:
            Nonconforming: there is none in time.
        """

        def end() -> Json | None:
            ends = [each.data for each in self.reports_of(generation) if each.data.get("phase") in ENDS]
            return ends[0] if ends else None

        found: Json | None = self.gateway.wait_for(end, within_s or self.subject.bounds.end_s)
        if found is None:
            phases = [str(each.data.get("phase")) for each in self.reports_of(generation)]
            said = f"reported {', '.join(phases)}" if phases else "reported nothing"
            bound = within_s or self.subject.bounds.end_s
            raise Nonconforming(f"{said} of generation {generation} to {self.gateway.url} in {bound:g} s")
        return found

    def _ask(self, method: str, url: str, **request: Any) -> httpx.Response:
        bound = self.subject.bounds.answer_s
        begun = time.monotonic()
        try:
            answer = self._client.request(method, url, timeout=bound, **request)
        except httpx.HTTPError as error:
            raise Nonconforming(f"no answer within {bound:g} s ({type(error).__name__})") from None
        if (took := time.monotonic() - begun) > bound:
            raise Nonconforming(f"the answer took {took:.1f} s")
        return answer
