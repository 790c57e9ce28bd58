"""How keys that sign webhooks are written (Standard Webhooks 1.0), and references to keys that are derived.

``whsec_`` is a secret that both sides know (HMAC-SHA256, signatures ``v1``); ``whsk_`` is a private ed25519 key
(signatures ``v1a``), and ``whpk_`` the public one that its receivers get.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from enum import StrEnum


class KeyKind(StrEnum):
    """The kinds of keys; in a reference to a derived one, by these names."""

    HMAC = "hmac"
    ED25519 = "ed25519"
    ED25519_PUBLIC = "ed25519-public"  # verifies, and cannot sign


PREFIXES = {KeyKind.HMAC: "whsec_", KeyKind.ED25519: "whsk_", KeyKind.ED25519_PUBLIC: "whpk_"}
LENGTHS = {
    KeyKind.HMAC: range(24, 65),
    KeyKind.ED25519: (32, 64),  # the seed alone, or followed by the public key
    KeyKind.ED25519_PUBLIC: (32,),
}
"""Bytes that a key may have."""
EXPECTED = {
    KeyKind.HMAC: "whsec_ and base64 of 24 to 64 random bytes",
    KeyKind.ED25519: "whsk_ and base64 of an ed25519 key of 32 or 64 bytes",
    KeyKind.ED25519_PUBLIC: "whpk_ and base64 of a public ed25519 key of 32 bytes",
}
ED25519_SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class Key:
    """A key. ``value`` is that of an ed25519 key without its public half."""

    kind: KeyKind
    value: bytes = field(repr=False)

    def written(self) -> str:
        return PREFIXES[self.kind] + b64encode(self.value).decode()


def parse_key(text: str) -> Key:
    """A key as it is written. Without a prefix it is an HMAC secret of any length, as older configurations have it.

    Raises:
        ValueError: it is none; says what was expected, and nothing of the text.
    """
    kind = next((kind for kind, prefix in PREFIXES.items() if text.startswith(prefix)), None)
    if kind is None:
        value = _decoded(text)
        if not value:
            raise ValueError(f"expected {EXPECTED[KeyKind.HMAC]}, or {EXPECTED[KeyKind.ED25519]}")
        return Key(KeyKind.HMAC, value)
    value = _decoded(text.removeprefix(PREFIXES[kind]))
    if len(value) not in LENGTHS[kind]:
        raise ValueError(f"expected {EXPECTED[kind]}")
    return Key(kind, value[:ED25519_SEED_BYTES] if kind is KeyKind.ED25519 else value)


@dataclass(frozen=True, slots=True)
class Derived:
    """A key that is derived from the installation's own: ``derived:<kind>/<id>/<number>``.

    ``id`` is that of whoever signs or is sent to, unique for ever; ``number`` counts its keys, from 1.
    """

    kind: KeyKind
    id: str
    number: int

    def __str__(self) -> str:
        return f"{DERIVED}{self.kind}/{self.id}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> Derived:
        """Raises ``ValueError``: it is of no such form."""
        found = _DERIVED.fullmatch(text)
        if found is None:
            raise ValueError(f"expected {DERIVED}hmac/<id>/<number> or {DERIVED}ed25519/<id>/<number>")
        return cls(KeyKind(found[1]), found[2], int(found[3]))


DERIVED = "derived:"
# Each reference has one way to be written: the key depends on the text.
_DERIVED = re.compile(r"derived:(hmac|ed25519)/([A-Za-z0-9][A-Za-z0-9._-]{0,127})/([1-9][0-9]{0,8})", re.ASCII)


def _decoded(text: str) -> bytes:
    """The bytes; none of them if it is no base64. Padding may lack, as with the library that others sign with."""
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return b""
