"""What commands that work on the database directly share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.domain.errors import InvalidConfiguration
from app.domain.roles import Role
from app.settings import roles, secret


def database_url() -> str:
    """The database an operator's command works on; it needs no other setting.

    Raises:
        InvalidConfiguration: it is not set.
    """
    url = secret("database_url") or ""
    if not url.startswith(("postgresql://", "postgres://")):
        raise InvalidConfiguration(
            f"COUNTERSIGN_DATABASE_URL{'' if url else ' is not set'}: expected what the gateway has, "
            "postgresql://user:password@host:port/name"
        )
    return url


def operators_roles() -> Mapping[Role, Sequence[str]]:
    """The operator's own grants, if they are set here as where the gateway runs (``COUNTERSIGN_ROLES``).

    Raises:
        InvalidConfiguration: they are malformed.
    """
    return roles()
