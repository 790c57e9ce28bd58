"""The ``countersign`` command, one file per group."""

from __future__ import annotations

import gc
import importlib.metadata
import sys
from typing import Annotated

import typer
from countersign_client.cli import add_commands
from countersign_client.errors import ClientError

from app.cli.access import explain_access
from app.cli.audit import audit
from app.cli.configuration import apply
from app.cli.digest import digest
from app.cli.policies import policies
from app.cli.processes import gateway, migrate, worker
from app.cli.routes import routes
from app.cli.up import up
from app.domain.errors import CountersignError

cli = typer.Typer(
    name="countersign",
    help="A control plane in front of MLflow: OAuth at the door, a second signature on every promotion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:  # typer calls it
    if wanted:
        typer.echo(f"countersign {importlib.metadata.version('countersign')}")
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[  # handled by its callback
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """A control plane in front of MLflow: OAuth at the door, a second signature on every promotion."""


cli.command()(up)
cli.command()(gateway)
cli.command()(worker)
cli.command()(migrate)
cli.command()(apply)
cli.command()(explain_access)
cli.command()(routes)
cli.command()(digest)
cli.add_typer(policies, name="policies")
cli.add_typer(audit, name="audit")
add_commands(cli)


def main() -> None:
    """Run the command. What is refused ends in one line on stderr, without a traceback.

    The exit status is 1 when something is refused, 2 when the command is used wrongly, 3 when a login is needed, 4
    when the gateway does not answer, and what `countersign promote --help` says beyond.
    """
    # What is imported stays: to look through it again and again meanwhile is an eighth of a gateway's start.
    gc.set_threshold(20_000, 20, 100)
    try:
        cli()
    except CountersignError as error:
        print(f"countersign: {error.message}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except ClientError as error:
        print(f"countersign: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
