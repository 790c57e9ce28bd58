"""``countersign policies``: what holds and what held, from the database, as YAML that can be applied again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated

import typer

from app.adapters.strict_yaml import written
from app.cli.operator import database_url
from app.domain.policies.revisions import Revision

policies = typer.Typer(help="Policies, and every revision there was of them.", invoke_without_command=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@policies.callback()
def list_policies(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the policies, retired ones too."""
    if context.invoked_subcommand is not None:
        return
    found = asyncio.run(_newest())
    if as_json:
        typer.echo(json.dumps([_row(revision) for revision in found], ensure_ascii=False))
        return
    for revision in found:
        ended = " (retired)" if revision.is_retired else ""
        about = f"{revision.written['alias']} of {revision.models}"
        typer.echo(f"{revision.name}  revision {revision.number}{ended}  {about}  by {revision.created_by}")


@policies.command()
def show(
    name: Annotated[str, typer.Argument(help="The policy's name.")],
    *,
    revision: Annotated[int | None, typer.Option("--revision", min=1, help="Its number; else the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print one revision, as YAML that says everything, also what was left to its default."""
    found = asyncio.run(_one(name, revision))
    if as_json:
        typer.echo(json.dumps(_row(found), ensure_ascii=False))
        return
    typer.echo(f"# revision {found.number}, written {found.created_at:%Y-%m-%d %H:%M:%S %Z} by {found.created_by}")
    typer.echo(written(found.document), nl=False)


def _row(revision: Revision) -> dict[str, object]:
    return {
        "name": revision.name,
        "revision": revision.number,
        "retired": revision.is_retired,
        "document": revision.document,
        "created_at": revision.created_at.isoformat(),
        "created_by": revision.created_by,
    }


async def _newest() -> Sequence[Revision]:
    from app.bootstrap.operator import open_operator

    async with open_operator(database_url()) as operator:
        return await operator.policies.newest()


async def _one(name: str, number: int | None) -> Revision:
    from app.bootstrap.operator import open_operator

    async with open_operator(database_url()) as operator:
        if number is not None:
            return await operator.policies.revision(None, name, number)
        return (await operator.policies.revisions(None, name, limit=1)).items[0]
