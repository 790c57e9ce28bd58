"""The commands of who calls a gateway: people at a terminal, and pipelines. They need nothing but this package.

``countersign`` is this command where this package is installed alone; with the server package, it has the operator's
commands too (its entry point ``countersign.command``).
"""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from countersign_client.cli.bootstrapping import bootstrap
from countersign_client.cli.checks import check
from countersign_client.cli.deciding import approve, comment, reject, withdraw
from countersign_client.cli.delegating import delegate, delegations, undelegate
from countersign_client.cli.deliveries import deliveries
from countersign_client.cli.deployments import deployments
from countersign_client.cli.endpoints import endpoints
from countersign_client.cli.events import events
from countersign_client.cli.explaining import explain
from countersign_client.cli.login import login, logout, whoami
from countersign_client.cli.promoting import break_glass, promote, rollback
from countersign_client.cli.promotions import promotions
from countersign_client.cli.pulling import pull
from countersign_client.cli.resolving import resolve
from countersign_client.cli.reviewing import review, reviews
from countersign_client.cli.rollouts import rollout
from countersign_client.cli.tokens import exchange, token
from countersign_client.errors import ClientError

CALLERS = "Who you are at a gateway"
PROMOTIONS = "Promotions"
URGENT = "When it must go fast"
AWAY = "While you are away"
SERVING = "Serving models"
TOLD = "Who is told"


def add_commands(cli: typer.Typer) -> None:
    """Add the commands of this package."""
    for command in (promote, explain, approve, reject, withdraw, comment):
        cli.command(help=help_of(command), rich_help_panel=PROMOTIONS)(command)
    cli.add_typer(promotions, name="promotions", rich_help_panel=PROMOTIONS)
    cli.add_typer(check, name="check", rich_help_panel=PROMOTIONS)
    cli.add_typer(rollout, name="rollout", rich_help_panel=PROMOTIONS)
    for urgent in (rollback, break_glass, reviews, review):
        cli.command(help=help_of(urgent), rich_help_panel=URGENT)(urgent)
    for stand_in in (delegations, delegate, undelegate):
        cli.command(help=help_of(stand_in), rich_help_panel=AWAY)(stand_in)
    cli.command(help=help_of(events), rich_help_panel=TOLD)(events)
    cli.add_typer(endpoints, name="endpoints", rich_help_panel=TOLD)
    cli.add_typer(deliveries, name="deliveries", rich_help_panel=TOLD)
    cli.add_typer(deployments, name="deployments", rich_help_panel=SERVING)
    for serving in (resolve, pull, bootstrap):
        cli.command(help=help_of(serving), rich_help_panel=SERVING)(serving)
    for who in (login, logout, whoami, exchange):
        cli.command(help=help_of(who), rich_help_panel=CALLERS)(who)
    cli.add_typer(token, name="token", rich_help_panel=CALLERS)


def help_of(command: Callable[..., None]) -> str:
    """Its docstring, for terminals of any width: a paragraph is one line, but for those that begin with ``\\b``."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(each if each.startswith("\b") else " ".join(each.split()) for each in paragraphs)


def print_version(wanted: bool) -> None:
    """The option ``--version``."""
    if wanted:
        typer.echo(f"countersign-client {importlib.metadata.version('countersign-client')}")
        raise typer.Exit


cli = typer.Typer(
    name="countersign",
    help="Promotions at a Countersign gateway, from a terminal and from CI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.callback()
def options(
    version: Annotated[  # handled by its callback
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Promotions at a Countersign gateway, from a terminal and from CI."""


add_commands(cli)


def main() -> None:
    """Run the command: that of the server package, if it is installed beside this one.

    What goes wrong ends in one line on stderr, with the exit status of ``countersign_client.following.Exit``.
    """
    for whole in importlib.metadata.entry_points(group="countersign.command"):
        whole.load()()
        return
    try:
        cli()
    except ClientError as error:
        print(f"countersign: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
