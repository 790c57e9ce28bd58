"""``countersign apply``: policies, targets, endpoints and grants from YAML, with what changes shown as a diff."""

from __future__ import annotations

import asyncio
import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.adapters.strict_yaml import written
from app.cli.documents import read_documents
from app.cli.operator import database_url, operators_roles

if TYPE_CHECKING:
    from app.domain.differences import Change

WOULD_CHANGE = 3
"""Exit status of ``--exit-code``; 1 is a refusal and 2 a wrong command line."""


def apply(
    file: Annotated[
        list[Path],
        typer.Option(
            "--file",
            "-f",
            help="YAML with `kind: Policy`, `Target`, `Endpoint`, `Grant` documents. Repeat for more.",
        ),
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the grants that no file names. Asks first on a terminal.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="With --dry-run: exit status 3 if something would change.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if nobody administers afterwards.")] = False,
) -> None:
    """Bring policies, targets, endpoints and grants to what the files say, all of them or none.

    Exit status 0 when it is so. What is wrong is said with file, line and field, all of it at once. A policy is ended
    by `retired: true`, not by being left out; an endpoint by `disabled: true` or `countersign endpoints delete`.
    """
    url, roles = database_url(), operators_roles()
    documents = [source for path in file for source in read_documents(path)]
    if not documents:
        typer.echo("There are no documents in these files.")

    async def run(*, dry: bool) -> Sequence[Change]:
        from app.bootstrap.operator import open_operator

        async with open_operator(url, roles) as operator:
            return await operator.configuration.apply(documents, dry_run=dry, prune=prune, force=force)

    asks = prune and not yes and not dry_run and sys.stdin.isatty()
    if asks:
        planned = asyncio.run(run(dry=True))
        _show(planned, is_plan=True)
        if any(change.changes for change in planned):
            typer.confirm("Apply this?", abort=True)
    changes = asyncio.run(run(dry=dry_run))
    if not asks:
        _show(changes, is_plan=dry_run)
    if exit_code and dry_run and any(change.changes for change in changes):
        raise typer.Exit(WOULD_CHANGE)


def _show(changes: Sequence[Change], *, is_plan: bool) -> None:
    """What changes as a unified diff, and what does not. Typer leaves colours out where there is no terminal."""
    for change in changes:
        title = f"{change.kind.lower()} {change.name}: would be {change.action}" if is_plan else str(change)
        typer.secho(title, bold=change.changes)
        for line in _diff(change.before, change.after):
            typer.secho(f"  {line}", fg=_COLOURS.get(line[:1]))


_COLOURS = {"+": "green", "-": "red"}


def _diff(before: Mapping[str, object] | None, after: Mapping[str, object] | None) -> Iterator[str]:
    old, new = _lines(before), _lines(after)
    lines = difflib.unified_diff(old, new, lineterm="", n=max(len(old), len(new)))
    # Whole documents: without the names of two files, and the place in them.
    return (line for line in lines if line.rstrip() not in {"---", "+++"} and not line.startswith("@@"))


def _lines(document: Mapping[str, object] | None) -> list[str]:
    return [] if document is None else written(document).splitlines()
