"""Who is sent to: where each receiver is, whether it may be sent to, and how it has answered this process of late."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from app.domain.deliveries import Call, Delivery, Receiver, ReceiverKind
from app.domain.deployments import Target
from app.domain.endpoints import Channel, Endpoint, ReceiverState, StoredEndpoint
from app.domain.errors import InvalidConfiguration
from app.domain.receiver_health import WELL, Health
from app.domain.targets import StoredTarget
from app.ports import Clock, SecretStore
from app.services.recording import UnitOfWorkFactory

_log = structlog.stdlib.get_logger(__name__)

TARGETS_ANSWER_IN_S = 10.0
"""More than the five seconds that the contract gives a deployer: the rest is for the way there and back."""
MOST_TARGETS = 10_000
READ_AGAIN_S = 1.0
"""How old what is known of receivers may be: so long a call may still go to the address of before."""


@dataclass(frozen=True, slots=True)
class Known:
    """A receiver that may be sent to."""

    receiver: Endpoint | Target
    secrets: SecretStore
    hears_after: int = 0
    """Another one after it was enabled or made anew."""

    def call(self, delivery: Delivery, *, at: datetime) -> Call:
        """What is to be sent. Raises ``InvalidConfiguration``: there is no secret that can be read."""
        receiver = self.receiver
        if isinstance(receiver, Endpoint):
            references, timeout_s, channel = receiver.secrets_at(at), float(receiver.timeout_s), receiver.channel
        else:
            references, timeout_s, channel = receiver.secrets, TARGETS_ANSWER_IN_S, Channel.WEBHOOK
        return Call(
            url=receiver.url or "",
            secrets=self._readable(references),
            message_id=delivery.message_id,
            body=delivery.body,
            number=delivery.attempts + 1,
            allowed_networks=receiver.allowed_networks,
            timeout_s=timeout_s,
            channel=channel,
        )

    def _readable(self, references: Sequence[str]) -> tuple[str, ...]:
        """During a rotation there are two: one that is gone, or not there yet, keeps the other not from signing."""
        found: list[str] = []
        missing: list[InvalidConfiguration] = []
        for each in references:
            try:
                found.append(self.secrets.read(each))
            except InvalidConfiguration as error:
                missing.append(error)
        if missing and not found:
            raise missing[0]
        for each_missing in missing:
            _log.warning("signing_secret_missing", receiver=self.receiver.name, reason=each_missing.message)
        return tuple(found)


class Receivers:
    """Endpoints and targets as the database has them, and their health as this process has seen it."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, secrets: SecretStore, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._secrets = secrets
        self._clock = clock
        self._known: Mapping[str, Known] = {}
        self._health: dict[str, Health] = {}
        self._written: set[str] = set()
        self._read_at = float("-inf")

    @property
    def is_stale(self) -> bool:
        return time.monotonic() - self._read_at > READ_AGAIN_S

    def known(self, receiver: str) -> Known | None:
        """None if there was no such receiver when it was looked last, or it was disabled."""
        return self._known.get(receiver)

    async def read(self) -> None:
        """Learn of all that there are."""
        asked_at = time.monotonic()
        async with self._unit_of_work() as work:
            endpoints, targets = await work.endpoints.all(), await work.targets.page(after="", limit=MOST_TARGETS)
        stored: list[tuple[Receiver, StoredEndpoint | StoredTarget]] = [
            *((Receiver(ReceiverKind.ENDPOINT, each.endpoint.name), each) for each in endpoints),
            *((Receiver(ReceiverKind.TARGET, each.target.name), each) for each in targets),
        ]
        active = [each for each in stored if each[1].state is ReceiverState.ACTIVE]
        before, self._known = self._known, {str(receiver): self._as_known(found) for receiver, found in active}
        self._read_at = asked_at
        for name, was in before.items():
            if self._known.get(name) != was:
                # How it answered when it was elsewhere, or before it was enabled, says nothing of how it will.
                self._health.pop(name, None)
                self._written.discard(name)
        for receiver, found in active:
            self._compare(str(receiver), found.failing_since)

    def _as_known(self, found: StoredEndpoint | StoredTarget) -> Known:
        if isinstance(found, StoredEndpoint):
            return Known(found.endpoint, self._secrets, found.hears_after)
        return Known(found.target, self._secrets)

    def _compare(self, name: str, failing_since: datetime | None) -> None:
        """What others found out counts, and what this process did in its former life."""
        if failing_since is not None and name not in self._health:
            self._health[name] = Health(failing_since=failing_since)
            self._written.add(name)
        elif failing_since is None and name in self._written:
            # Another process reached it, or it was enabled anew: if it fails from here on, it does so since now.
            self._written.discard(name)
            self._health[name] = replace(self.health(name), failing_since=None)

    def forget(self, receiver: Receiver) -> None:
        """It is disabled, or made anew."""
        self._health.pop(str(receiver), None)
        self._written.discard(str(receiver))
        self._read_at = float("-inf")

    def clock_was_put_back(self) -> None:
        """What was said of moments that are far away now is void."""
        now = self._clock.now()
        for name, health in self._health.items():
            since = health.failing_since and min(health.failing_since, now)
            self._health[name] = replace(health, failing_since=since, pause_until=None)

    def health(self, receiver: str) -> Health:
        return self._health.get(receiver, WELL)

    def remarkable(self) -> Mapping[str, Health]:
        """Of those that are not simply well."""
        return self._health

    async def note(self, receiver: Receiver, health: Health) -> bool:
        """Remember how a receiver does; whether it just came back after it was known to be away.

        It is written down when it has been failing for a while, and when that is over.
        """
        name, before = str(receiver), self.health(str(receiver))
        came_back = health == WELL and (before.is_away or name in self._written)
        if health == WELL:
            self._health.pop(name, None)
        else:
            self._health[name] = health
        is_written = name in self._written
        if health.is_known(self._clock.now()) and not is_written:
            self._written.add(name)
        elif health == WELL and is_written:
            self._written.discard(name)
        elif not came_back:
            return False
        async with self._unit_of_work() as work:
            await work.delivery_lanes.set_failing(receiver, since=health.failing_since)
            if came_back:
                await work.delivery_lanes.hasten(receiver, now=self._clock.now())
            await work.commit()
        return came_back
