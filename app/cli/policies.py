"""``countersign policies``: what holds and what held, from the database, as YAML that can be applied again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.adapters.strict_yaml import written
from app.cli.documents import read_documents
from app.cli.operator import database_url
from app.domain.errors import InvalidInput
from app.domain.gates import Verdict
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.policies import Policy, policy_from_document
from app.domain.policies.revisions import Revision
from app.settings import webhook_ca_file

if TYPE_CHECKING:
    from app.services.gating import Asked

NOT_PASSED = 3
"""Exit status; 1 is a refusal and 2 a wrong command line."""

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


@policies.command(name="try-gates")
def try_gates(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML with the policy; it need not be applied.")],
    target: Annotated[str, typer.Option("--target", help="Whose Prometheus is asked.")],
    model: Annotated[str, typer.Option("--model", help="The registered model's name.")],
    candidate: Annotated[str, typer.Option("--candidate", help="The version that would be rolled out.")],
    *,
    stable: Annotated[str, typer.Option("--stable", help="The one that would get the rest.")] = "",
    candidate_name: Annotated[
        str, typer.Option("--candidate-name", help="What metrics call it; else what its deployer reported.")
    ] = "",
    stable_name: Annotated[str, typer.Option("--stable-name", help="The same of the stable version.")] = "",
    workspace: Annotated[str, typer.Option("--workspace", help="That of the model.")] = DEFAULT_WORKSPACE,
    policy: Annotated[str, typer.Option("--policy", help="Its name, if there are several in the file.")] = "",
    as_json: AsJson = False,
) -> None:
    """Ask the gates of a policy now, from here, and show the queries and what they give. Nothing is changed.

    Exit status 0 if all of them passed, else 3.
    """
    document = _policy_in(file, policy)
    names = {version: name for version, name in ((candidate, candidate_name), (stable, stable_name)) if name}

    async def run() -> Sequence[Asked]:
        from app.bootstrap.gates import open_gates

        async with open_gates(database_url(), ca_file=webhook_ca_file()) as gates:
            return await gates.try_out(
                document,
                target=target,
                model=model,
                workspace=workspace,
                candidate=candidate,
                stable=stable,
                names=names,
            )

    found = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps([_asked(each) for each in found], ensure_ascii=False))
    else:
        for each in found:
            typer.echo(
                f"{each.gate.name}: {each.measurement.verdict.value.replace('_', ' ')}: {each.measurement.message}"
            )
            for line in each.query.strip().splitlines():
                typer.echo(f"    {line}")
        if not found:
            typer.echo(f"Policy {document.name} has no gates.")
    if any(each.measurement.verdict is not Verdict.PASSED for each in found):
        raise typer.Exit(NOT_PASSED)


def _policy_in(file: Path, name: str) -> Policy:
    """The policy of that name, or the only one."""
    found = []
    for source in read_documents(file):
        document = source.document
        if isinstance(document, Mapping) and document.get("kind") == "Policy" and name in {"", document.get("name")}:
            try:
                found.append(policy_from_document(document, revision=0))
            except InvalidInput as error:
                raise InvalidInput.of_all(
                    (source.where(where), f"{where}: {why}") for where, why in error.problems
                ) from None
    if len(found) != 1:
        there = ", ".join(each.name for each in found) or "none"
        raise InvalidInput("--policy", f"expected the name of one policy of {file}; there are {there}")
    return found[0]


def _asked(each: Asked) -> dict[str, object]:
    return {
        "gate": each.gate.name,
        "target": each.target,
        "query": each.query,
        "pass": each.gate.passes,
        "verdict": each.measurement.verdict.value,
        "value": each.measurement.value,
        "message": each.measurement.message,
    }


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
