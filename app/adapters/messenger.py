"""Sends a call by its channel: webhooks to programs, notifications to people."""

from __future__ import annotations

from app.adapters.notifier import Notifier
from app.adapters.webhook_sender import WebhookSender
from app.domain.deliveries import Attempt, Call
from app.domain.endpoints import Channel


class Messenger:
    """See ``app.ports.WebhookSender``."""

    def __init__(self, webhooks: WebhookSender, notifier: Notifier) -> None:
        self._webhooks = webhooks
        self._notifier = notifier

    async def close(self) -> None:
        await self._webhooks.close()
        await self._notifier.close()

    async def send(self, call: Call) -> tuple[Attempt, float | None]:
        sender = self._webhooks if call.channel is Channel.WEBHOOK else self._notifier
        return await sender.send(call)
