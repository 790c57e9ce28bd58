"""Sends one webhook: signed after Standard Webhooks, to an address that is checked as it is connected to."""

from app.adapters.webhook_sender.sender import Limits, WebhookSender

__all__ = ["Limits", "WebhookSender"]
