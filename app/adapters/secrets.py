"""Secrets that configuration names and does not hold: ``file:/path`` or ``env:NAME``."""

from __future__ import annotations

import os
from pathlib import Path

from app.domain.errors import InvalidConfiguration


class Secrets:
    """Reads a secret each time it is used, so that a rotated file counts at once."""

    def read(self, reference: str) -> str:
        """The secret.

        Raises:
            InvalidConfiguration: it cannot be had; names the reference, never the content.
        """
        kind, _, name = reference.partition(":")
        value: str | None = None
        if kind == "file":
            try:
                value = Path(name).read_text().strip()
            except OSError as error:
                raise InvalidConfiguration(f"The secret {reference} cannot be read: {error.strerror}.") from None
        elif kind == "env":
            value = os.environ.get(name, "").strip()
        if not value:
            raise InvalidConfiguration(f"The secret {reference} is empty or not set.")
        return value
