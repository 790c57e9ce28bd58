"""The ``countersign`` command, one file per group."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from app.cli.audit import audit
from app.cli.configuration import apply
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
cli.command()(routes)
cli.add_typer(audit, name="audit")


def main() -> None:
    """Run the command. What we refuse ends in one line on stderr and exit status 1, without a traceback."""
    try:
        cli()
    except CountersignError as error:
        print(f"countersign: {error.message}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
