"""Sending what the outbox holds: one attempt at a time, each recorded, until the receiver took it or never will."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.deliveries import (
    GIVE_UP_AFTER,
    Attempt,
    Delivery,
    DeliveryState,
    is_final_refusal,
    wait_before,
)
from app.domain.deployments import Target
from app.domain.errors import InvalidConfiguration
from app.ports import Clock, SecretStore, WebhookSender
from app.services.deployments import Deployments
from app.services.recording import UnitOfWorkFactory


class Deliveries:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        sender: WebhookSender,
        secrets: SecretStore,
        deployments: Deployments,
        clock: Clock,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._sender = sender
        self._secrets = secrets
        self._deployments = deployments
        self._clock = clock

    async def page(
        self, *, before: tuple[datetime, str] | None = None, limit: int = 50, target: str | None = None
    ) -> Sequence[Delivery]:
        async with self._unit_of_work() as work:
            return await work.deliveries.page(before=before, limit=limit, target=target)

    async def get(self, delivery_id: str) -> tuple[Delivery, Sequence[Attempt]]:
        """Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            return await work.deliveries.get(delivery_id), await work.deliveries.attempts(delivery_id)

    async def attempt(self, delivery_id: str) -> Attempt | None:
        """Send a delivery once, if it is still to be sent, and settle it or plan the next attempt.

        A crash between sending and recording sends it again with the same ``webhook-id``: receivers tell by it.
        """
        delivery, target = await self._take(delivery_id)
        if delivery is None or target is None:
            return None
        attempt, retry_after = await self._send(delivery, target)
        sent = replace(delivery, attempts=attempt.number)
        if attempt.status is not None and 200 <= attempt.status < 300:
            settled = replace(sent, state=DeliveryState.DELIVERED)
        elif (
            attempt.status is not None and is_final_refusal(attempt.status)
        ) or self._clock.now() - delivery.created_at > GIVE_UP_AFTER:
            settled = replace(sent, state=DeliveryState.DEAD)
        else:
            wait = wait_before(attempt.number, chance=random.random(), retry_after_s=retry_after)  # noqa: S311  # jitter
            settled = replace(sent, next_attempt_at=self._clock.now() + timedelta(seconds=wait))
        await self._write(settled, attempt)
        return attempt

    async def _take(self, delivery_id: str) -> tuple[Delivery | None, Target | None]:
        async with self._unit_of_work() as work:
            delivery = await work.deliveries.get(delivery_id)
            if delivery.state is not DeliveryState.PENDING:
                return None, None
            resource = delivery.subject.partition("/")[2]
            if await work.deployments.newest_generation(delivery.target, resource) > delivery.generation:
                await work.deliveries.save(replace(delivery, state=DeliveryState.SUPERSEDED))
                await work.commit()
                return None, None
            return delivery, await work.targets.get(delivery.target)

    async def _send(self, delivery: Delivery, target: Target) -> tuple[Attempt, float | None]:
        number = delivery.attempts + 1
        try:
            secret = self._secrets.read(target.secret)
        except InvalidConfiguration as error:
            return Attempt(number, self._clock.now(), 0, None, error.message, ""), None
        return await self._sender.send(
            url=target.url,
            secret=secret,
            message_id=delivery.id,
            payload=delivery.payload,
            number=number,
            private=target.allow_private_network,
        )

    async def _write(self, delivery: Delivery, attempt: Attempt) -> None:
        async with self._unit_of_work() as work:
            await work.deliveries.add_attempt(delivery.id, attempt)
            await work.deliveries.save(delivery)
            if delivery.state is DeliveryState.PENDING:
                await work.jobs.deliver(delivery.id, at=delivery.next_attempt_at)
            if delivery.state is DeliveryState.DEAD:
                await self._give_up(work, delivery, attempt)
            await work.commit()

    async def _give_up(self, work: UnitOfWork, delivery: Delivery, attempt: Attempt) -> None:
        data = delivery.payload["data"]
        deployment_id = str(data["deployment_id"]) if isinstance(data, dict) else ""
        answer = f"answered {attempt.status}: {attempt.response[:300]}" if attempt.status else f"{attempt.error}"
        await self._deployments.give_up(
            work,
            deployment_id,
            generation=delivery.generation,
            reason="DeliveryFailed",
            message=f"the deployer {answer}",
        )
