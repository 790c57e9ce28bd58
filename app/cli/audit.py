"""``countersign audit``: the log, and whether it is intact."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from app.cli.operator import database_url
from app.domain.audit import ChainedEntry, Verification, Verifier
from app.domain.errors import InvalidInput

audit = typer.Typer(help="The audit log, and whether it is intact.", no_args_is_help=True)

Exported = Annotated[
    Path | None, typer.Option("--file", help="An export; else the database (COUNTERSIGN_DATABASE_URL).")
]


@audit.command()
def verify(
    file: Exported = None, *, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """Walk the whole chain. Exit status 1 when an entry was changed, removed or inserted."""
    result = _verify_file(file) if file else asyncio.run(_verify_database())
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "intact": result.is_intact,
                    "entries": result.entries,
                    "last_hash": result.last_hash,
                    "problem": result.problem,
                }
            )
        )
    elif result.is_intact:
        typer.echo(f"The audit log is intact: {result.entries} entries, last hash {result.last_hash}.")
    else:
        typer.echo(f"The audit log is NOT intact: {result.problem}.", err=True)
    sys.exit(0 if result.is_intact else 1)


@audit.command()
def export() -> None:
    """Print the whole log, a JSON object a line."""
    from app.bootstrap.operator import open_operator

    async def run() -> None:
        async with open_operator(database_url()) as operator:
            async for page in operator.audit.everything():
                for item in page:
                    row = {"entry": item.document, "previous_hash": item.previous_hash, "hash": item.hash}
                    typer.echo(json.dumps(row, ensure_ascii=False, separators=(",", ":")))

    asyncio.run(run())


async def _verify_database() -> Verification:
    from app.bootstrap.operator import open_operator

    async with open_operator(database_url()) as operator:
        return await operator.audit.verify()


def _verify_file(file: Path) -> Verification:
    verifier = Verifier()
    try:
        with file.open(encoding="utf-8") as lines:
            verifier.feed(_entries(file, lines))
    except OSError as error:
        raise InvalidInput("--file", f"{file} cannot be read: {error.strerror}") from None
    return verifier.result


def _entries(file: Path, lines: Iterator[str]) -> Iterator[ChainedEntry]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            yield ChainedEntry(document=row["entry"], previous_hash=row["previous_hash"], hash=row["hash"])
        except (ValueError, KeyError, TypeError):
            raise InvalidInput(f"{file}, line {number}", "expected an exported audit entry") from None
