"""Sends one webhook: signed after Standard Webhooks, to an address that is checked as it is connected to; and asks."""

from app.adapters.webhook_sender.asking import Asker
from app.adapters.webhook_sender.sender import Limits, WebhookSender

__all__ = ["Asker", "Limits", "WebhookSender"]
