"""Opaque identifiers with a prefix that tells what they name."""

from __future__ import annotations

import hashlib
import secrets


def new_id(prefix: str) -> str:
    """``prefix``, an underscore and 96 random bits in lower-case hex."""
    return f"{prefix}_{secrets.token_hex(12)}"


def id_of(prefix: str, *, key: str | None, of: tuple[str, ...]) -> str:
    """An identifier that is the same whenever the same ``Idempotency-Key`` comes again for the same thing.

    Args:
        prefix: as of ``new_id``.
        key: what the caller sent; none: a new identifier.
        of: who sent it, and for what: nobody meets the keys of others.
    """
    if key is None:
        return new_id(prefix)
    return f"{prefix}_{hashlib.sha256(repr((prefix, key, of)).encode()).hexdigest()[:24]}"


def undoing(promotion_id: str) -> str:
    """The id of the rollback that undoes a promotion by itself: there is one, however often it is begun."""
    return id_of("prm", key=promotion_id, of=("countersign:worker", "undo"))
