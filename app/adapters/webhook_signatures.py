"""Verifies Standard Webhooks signatures of calls to us."""

from __future__ import annotations

from collections.abc import Mapping

from standardwebhooks import Webhook, WebhookVerificationError


class StandardWebhooks:
    """See ``app.ports.SignatureVerifier``. Compares in constant time and refuses what is older than five minutes."""

    def verify(self, secret: str, headers: Mapping[str, str], body: bytes) -> bool:
        try:
            Webhook(secret).verify(body, dict(headers), json_parse=False)
        except (WebhookVerificationError, ValueError):
            return False
        return True
