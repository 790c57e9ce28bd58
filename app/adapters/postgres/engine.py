"""One connection pool to our PostgreSQL, and the translation of its failures into ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.domain.errors import InvalidInput, Unavailable

FOR_QUEUES: Mapping[str, str] = {
    "enable_bitmapscan": "off",
    "enable_seqscan": "off",
    "enable_sort": "off",
    "jit": "off",
}
"""For whoever takes the first few rows of a table that changes all the time: the index has them in order, and what
statistics say of it was true some time ago."""


def create_engine(database_url: str, settings: Mapping[str, str] | None = None) -> AsyncEngine:
    """A lazy engine: nothing connects before the first query.

    Args:
        database_url: ``postgresql://…``; the driver is ours to choose.
        settings: of PostgreSQL, for each connection.
    """
    _, _, rest = database_url.partition("://")
    return create_async_engine(
        f"postgresql+asyncpg://{rest}",
        pool_size=10,
        max_overflow=10,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={"timeout": 10, "command_timeout": 30, "server_settings": dict(settings or {})},
        # Errors are shown to people and logged; values may be private.
        hide_parameters=True,
    )


@asynccontextmanager
async def translated_failures() -> AsyncIterator[None]:
    """Turn "the database does not answer" into ``Unavailable``, and a text that it cannot hold into ``InvalidInput``; a
    wrong query stays what it is.
    """
    try:
        yield
    except (OSError, PoolTimeout, InterfaceError, OperationalError) as error:
        raise Unavailable("The database does not answer.") from error
    except DBAPIError as error:
        if error.connection_invalidated or _is_shutdown(error):
            raise Unavailable("The database does not answer.") from error
        if _state(error) in _NOT_TEXT:
            raise InvalidInput("text", "expected no NUL character") from None
        raise


_NOT_TEXT = {"22021", "22P05"}
"""character_not_in_repertoire, untranslatable_character: PostgreSQL's text and JSON hold no NUL."""


def _is_shutdown(error: DBAPIError) -> bool:
    # Class 57P: admin_shutdown, crash_shutdown, cannot_connect_now. Class 08: connection exceptions.
    return _state(error).startswith(("57P", "08", "53300"))


def _state(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def masked(database_url: str) -> str:
    """The URL without its password, to show to people."""
    parts = urlsplit(database_url)
    if parts.password:
        return database_url.replace(f":{parts.password}@", ":***@", 1)
    return database_url
