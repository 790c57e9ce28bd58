"""Brings the schema up to date with ``migrations/``."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from app.domain.errors import Unavailable

MIGRATIONS = Path(__file__).parents[3] / "migrations"


def newest_revision() -> str:
    """The revision that this code needs."""
    return str(ScriptDirectory(str(MIGRATIONS)).get_current_head())


def migrate(database_url: str) -> str:
    """Apply every migration that is missing and return the revision.

    Safe to run at once from several processes and again at any time.

    Raises:
        Unavailable: the database does not answer, or a lock could not be had in time.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    _, _, rest = database_url.partition("://")
    config.attributes["database_url"] = f"postgresql+asyncpg://{rest}"
    try:
        command.upgrade(config, "head")
    except OSError as error:
        raise Unavailable(
            f"The database does not answer ({error.strerror or type(error).__name__}). "
            "Start it, or set COUNTERSIGN_DATABASE_URL."
        ) from error
    except DBAPIError as error:
        raise Unavailable(f"The database refused the migration: {error.orig}.") from error
    return newest_revision()
