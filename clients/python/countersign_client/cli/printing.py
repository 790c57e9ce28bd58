"""What a command prints on stdout: JSON for programs, tables for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPED_WIDTH = 200


def print_json(document: object) -> None:
    """Print a document, on one line."""
    from countersign_client.wire import written

    typer.echo(written(document))


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal."""
    console().print(table)


def console() -> Console:
    """Where people read: no text is taken for markup."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, markup=False, highlight=False)
