"""``countersign apply``: policies and targets from YAML."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
import yaml

from app.cli.operator import database_url
from app.domain.errors import InvalidInput


def apply(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML with `kind: Policy` and `kind: Target` documents.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
) -> None:
    """Bring policies and targets to what FILE says, all of them or none."""
    from app.bootstrap import open_operator

    url = database_url()
    try:
        documents = [document for document in yaml.safe_load_all(file.read_text()) if document is not None]
    except OSError as error:
        raise InvalidInput("--file", f"{file} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise InvalidInput(f"{file}{line}", f"expected YAML: {getattr(error, 'problem', error)}") from None

    async def run() -> None:
        async with open_operator(url) as (configuration, _):
            for change in await configuration.apply(documents, dry_run=dry_run):
                typer.echo(f"{'would be ' if dry_run else ''}{change}")

    asyncio.run(run())
