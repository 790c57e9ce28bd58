"""Opaque identifiers with a prefix that tells what they name."""

from __future__ import annotations

import secrets


def new_id(prefix: str) -> str:
    """``prefix``, an underscore and 96 random bits in lower-case hex."""
    return f"{prefix}_{secrets.token_hex(12)}"
