"""Standard Webhooks signatures: verifying the gateway's calls, signing our reports and what we ask for by GET."""

from __future__ import annotations

import secrets as randomness
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")


class BadSignature(Exception):
    """The message is not from who knows the secret, or is too old or too new."""


def verify(body: bytes, headers: Mapping[str, str], secrets: Sequence[str]) -> None:
    """Check a message against each secret; two are valid during a rotation. Clocks may differ by five minutes.

    Raises:
        BadSignature: no secret verifies it. It does not say which part is wrong.
    """
    signed = {name: headers.get(name, "") for name in HEADERS}
    if not all(signed.values()):
        raise BadSignature(f"The message is not signed: it needs the headers {', '.join(HEADERS)}.")
    for secret in secrets:
        try:
            Webhook(secret).verify(body, signed, json_parse=False)
        except (WebhookVerificationError, ValueError):  # ValueError: a header is malformed
            continue
        return
    raise BadSignature("The signature or the timestamp of this message is not valid.")


def sign(message_id: str, body: str, secret: str, *, at: datetime | None = None) -> dict[str, str]:
    """The three headers of a message. A retry keeps ``message_id`` and gets a new timestamp."""
    at = at or datetime.now(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, at, body),
    }


def get_content(path: str) -> str:
    """What is signed of a GET, which has no body: ``path`` as it is on the wire, percent-encoded, without query."""
    return f"GET {path}"


def sign_get(path: str, secret: str) -> dict[str, str]:
    """The three headers of a GET."""
    return sign(f"req_{randomness.token_hex(16)}", get_content(path), secret)
