"""Seals short texts that callers bring back, as the tokens of filtered pages: AES-GCM under an installation's key."""

from __future__ import annotations

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE = 12
_BLOCK = 64
"""Texts are filled up to a multiple of this many bytes: their length says nothing."""


class AesSealer:
    """See ``app.ports.Sealer``.

    Args:
        secret: known to every process of the installation and to nobody else.
    """

    def __init__(self, secret: str) -> None:
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"countersign page tokens").derive(secret.encode())
        self._cipher = AESGCM(key)

    def seal(self, text: str, *, context: str) -> str:
        plain = text.encode()
        padded = plain.ljust(-(-max(len(plain), 1) // _BLOCK) * _BLOCK, b"\0")
        nonce = os.urandom(_NONCE)
        return base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, padded, context.encode())).decode()

    def open(self, sealed: str, *, context: str) -> str | None:
        try:
            raw = base64.b64decode(sealed.encode("ascii"), altchars=b"-_", validate=True)
            return self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], context.encode()).rstrip(b"\0").decode()
        except (InvalidTag, ValueError, binascii.Error):
            return None
