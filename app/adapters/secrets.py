"""Secrets that configuration names and does not hold: ``file:/path``, ``env:NAME``, or derived from the webhook key."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.domain.errors import InvalidConfiguration
from app.domain.webhook_keys import DERIVED, EXPECTED, Derived, Key, KeyKind, parse_key

MOST_BYTES = 65_536
"""Of a file: a reference may name anything that this process can read, and some of that never ends."""
DERIVED_BYTES = 32


class Secrets:
    """See ``app.ports.SecretStore``. Files are read each time, so that a rotated one counts at once.

    Args:
        webhook_key: ``COUNTERSIGN_WEBHOOK_KEY``, which ``derived:`` references need; see ADR 0027.
    """

    def __init__(self, webhook_key: str | None = None) -> None:
        self._webhook_key = webhook_key

    def read(self, reference: str) -> str:
        """The secret.

        Raises:
            InvalidConfiguration: it cannot be had; names the reference, never the content.
        """
        if reference.startswith(DERIVED):
            return self._derived(reference)
        kind, _, name = reference.partition(":")
        value = ""
        if kind == "file":
            value = _content(reference, name)
        elif kind == "env":
            value = os.environ.get(name, "").strip()
        if not value:
            raise InvalidConfiguration(f"The secret {reference} is empty or not set.")
        return value

    def public_key(self, reference: str) -> str:
        """The ``whpk_`` key with which receivers verify what is signed with an ed25519 key.

        Raises:
            InvalidConfiguration: it cannot be had, or it is none of ed25519; names the reference.
        """
        try:
            key = parse_key(self.read(reference))
        except ValueError as error:
            raise InvalidConfiguration(f"The secret {reference}: {error}.") from None
        if key.kind is not KeyKind.ED25519:
            raise InvalidConfiguration(f"The secret {reference}: expected {EXPECTED[KeyKind.ED25519]}.")
        public = Ed25519PrivateKey.from_private_bytes(key.value).public_key().public_bytes_raw()
        return Key(KeyKind.ED25519_PUBLIC, public).written()

    def _derived(self, reference: str) -> str:
        try:
            derived = Derived.parse(reference)
        except ValueError as error:
            raise InvalidConfiguration(f"The secret {reference[:200]}: {error}.") from None
        if not self._webhook_key:
            raise InvalidConfiguration(f"The secret {reference} needs COUNTERSIGN_WEBHOOK_KEY, which is not set.")
        return _derive(self._webhook_key, derived)


def _content(reference: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "expected text in UTF-8"
        raise InvalidConfiguration(f"The secret {reference} cannot be read: {reason}.") from None
    if len(content) > MOST_BYTES:
        raise InvalidConfiguration(f"The secret {reference} cannot be read: more than {MOST_BYTES} bytes.")
    return text.strip()


@lru_cache(maxsize=4096)
def _derive(webhook_key: str, derived: Derived) -> str:
    """RFC 5869. ``info`` is the whole reference, so that no two of them have keys that tell of each other."""
    hkdf = HKDF(algorithm=SHA256(), length=DERIVED_BYTES, salt=None, info=f"countersign/webhook/{derived}".encode())
    return Key(derived.kind, hkdf.derive(webhook_key.encode())).written()
