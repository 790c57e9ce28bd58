"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from countersign_client.errors import InvalidUsage

Model = Annotated[str, typer.Option("--model", "-m", help="The registered model.", show_default=False)]
Version = Annotated[str, typer.Option("--version", "-v", help="Its version, as 7.", show_default=False)]
Alias = Annotated[str, typer.Option("--alias", "-a", help="The alias, as production.", show_default=False)]
ModelsUri = Annotated[
    str, typer.Argument(metavar="URI", help="models:/<name>@<alias>, or models:/<name>/<version>.", show_default=False)
]
Workspace = Annotated[
    str | None, typer.Option("--workspace", help="MLflow's; without it, the default one.", show_default=False)
]
PromotionId = Annotated[str, typer.Argument(metavar="ID", help="The promotion, as prm_…", show_default=False)]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; others read it, and it is kept.", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Follow it to its end; the exit status says which.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")]
Timeout = Annotated[str, typer.Option("--timeout", help="For how long to wait, as 90s, 30m, 2h.")]

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)


def seconds(text: str, option: str) -> int:
    """The seconds of ``90s``, ``30m``, ``24h``, ``7d``, ``1h30m``.

    Raises:
        InvalidUsage: it is none of them, or nothing.
    """
    found = _DURATION.fullmatch(text.strip())
    total = (
        sum(int(amount or 0) * unit for amount, unit in zip(found.groups(), _UNITS.values(), strict=True))
        if found
        else 0
    )
    if not total:
        raise InvalidUsage(f"{option}: expected a time such as 90s, 30m, 24h or 7d.")
    return total


def moment(text: str, option: str) -> str:
    """A time with its zone, as RFC 3339 writes it.

    Raises:
        InvalidUsage: it is none, or has no zone.
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidUsage(
            f"{option}: expected a time with its zone, as 2026-10-01T06:00:00+02:00 or 2026-10-01T04:00Z."
        )
    return found.isoformat()


def moment_or_ago(text: str, option: str) -> str:
    """As ``moment``; or so long ago, as ``2h``.

    Raises:
        InvalidUsage: it is neither.
    """
    found = _DURATION.fullmatch(text.strip())
    if not found or not any(found.groups()):
        return moment(text, option)
    return (datetime.now(UTC) - timedelta(seconds=seconds(text, option))).isoformat()


def say() -> Callable[[str], None]:
    """Says how it goes, to whoever looks at stderr: what a program reads is on stdout, alone."""

    def line(text: str) -> None:
        typer.echo(text, err=True)

    return line
