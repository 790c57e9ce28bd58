"""Signatures of Standard Webhooks 1.0: made of what we send, verified of calls to us.

The library knows ``v1`` (HMAC) alone; ``v1a`` (ed25519) is here, on cryptography, checked against the specification's
example and the vector of its Go library.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from app.domain.webhook_keys import KeyKind, parse_key

TOLERANCE_S = 300
"""Of a message to us: older ones, and those from the future, are refused. The same as the library's."""
MOST_SIGNATURES = 8
"""That are looked at in one message: each costs the work of a verification, and anybody can send many."""

Sign = Callable[[str, int, str], str]
"""Of message id, seconds since the epoch, and body: one signature with its version."""


def signatures(secrets: tuple[str, ...], message_id: str, at_s: int, body: str) -> str:
    """The header ``webhook-signature``: one signature per secret, in their order.

    Raises:
        ValueError: a secret is none, or one that cannot sign; says what was expected, and nothing of the secret.
    """
    if not secrets:
        raise ValueError("expected a secret to sign with")
    return " ".join([_signer(secret)(message_id, at_s, body) for secret in secrets])


class StandardWebhooks:
    """See ``app.ports.Signatures``. Compares in constant time and refuses what is older than five minutes."""

    def sign(self, secrets: Sequence[str], message_id: str, body: str) -> Mapping[str, str]:
        seconds = int(time.time())
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": signatures(tuple(secrets), message_id, seconds, body),
        }

    def verify(self, secret: str, headers: Mapping[str, str], body: bytes) -> bool:
        try:
            key = parse_key(secret)
            given = {name.lower(): value for name, value in headers.items()}
            # By version first: the library stops at the first signature that it cannot read.
            version = "v1," if key.kind is KeyKind.HMAC else "v1a,"
            found = [each for each in given.get("webhook-signature", "").split() if each.startswith(version)]
            given["webhook-signature"] = " ".join(found[:MOST_SIGNATURES])
            if key.kind is KeyKind.HMAC:
                Webhook(key.value).verify(body, given, json_parse=False)
                return True
            return _verifies(_public(key.kind, key.value), given, body)
        except (WebhookVerificationError, ValueError):
            return False


def _verifies(key: Ed25519PublicKey, headers: Mapping[str, str], body: bytes) -> bool:
    message_id, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or not (sent_at.isascii() and sent_at.isdecimal()):
        return False
    if abs(time.time() - int(sent_at[:20])) > TOLERANCE_S:
        return False
    signed = f"{message_id}.{sent_at}.".encode() + body
    return any(_is_signed(key, each.partition(",")[2], signed) for each in headers.get("webhook-signature", "").split())


def _is_signed(key: Ed25519PublicKey, signature: str, signed: bytes) -> bool:
    try:
        key.verify(b64decode(signature, validate=True), signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def _public(kind: KeyKind, value: bytes) -> Ed25519PublicKey:
    if kind is KeyKind.ED25519:
        return Ed25519PrivateKey.from_private_bytes(value).public_key()
    return Ed25519PublicKey.from_public_bytes(value)


@lru_cache(maxsize=1024)
def _signer(secret: str) -> Sign:
    """Kept, because to read a key takes longer than to sign with it."""
    key = parse_key(secret)
    if key.kind is KeyKind.HMAC:
        webhook = Webhook(key.value)

        def sign(message_id: str, at_s: int, body: str) -> str:
            return webhook.sign(message_id, datetime.fromtimestamp(at_s, UTC), body)

        return sign
    if key.kind is KeyKind.ED25519:
        private = Ed25519PrivateKey.from_private_bytes(key.value)

        def sign_with_private_key(message_id: str, at_s: int, body: str) -> str:
            return f"v1a,{b64encode(private.sign(f'{message_id}.{at_s}.{body}'.encode())).decode()}"

        return sign_with_private_key
    raise ValueError("a whpk_ key verifies, and cannot sign: expected whsec_ or whsk_")
