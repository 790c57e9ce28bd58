"""``countersign routes``: the whole table of MLflow's routes and what the door does with each, as it is opened."""

from __future__ import annotations

import json as json_format
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.domain.routes import Route, matrix
from app.settings import open_routes

_COLUMNS = ("method", "template", "class", "permission", "decision", "opened_by", "reason")
_PIPED_WIDTH = 320


def routes(
    json: Annotated[bool, typer.Option("--json", help="One JSON list of objects instead of a table.")] = False,
) -> None:
    """Print what is done with each of MLflow's routes. A route that is not listed is refused.

    COUNTERSIGN_OPEN_ROUTES counts, if it is set.
    """
    rows = [_row(route) for route in matrix(open_routes())]
    if json:
        typer.echo(json_format.dumps(rows, indent=2))
        return
    table = Table(*_COLUMNS)
    for row in rows:
        table.add_row(*(row[column] or "-" for column in _COLUMNS))
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)


def _row(route: Route) -> dict[str, str | None]:
    return {
        "method": route.method,
        "template": route.template,
        "class": route.route_class.value,
        "permission": route.permission.value if route.permission else None,
        "decision": route.decision.value,
        "opened_by": route.opened_by,
        "reason": route.reason,
    }
