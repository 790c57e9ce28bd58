"""What commands that work on the database directly share."""

from __future__ import annotations

import os

from app.domain.errors import InvalidConfiguration


def database_url() -> str:
    """The database an operator's command works on; it needs no other setting.

    Raises:
        InvalidConfiguration: it is not set.
    """
    url = os.environ.get("COUNTERSIGN_DATABASE_URL", "")
    if not url.startswith(("postgresql://", "postgres://")):
        raise InvalidConfiguration("COUNTERSIGN_DATABASE_URL: expected postgresql://user:password@host:port/name")
    return url
