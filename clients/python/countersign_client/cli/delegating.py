"""``countersign delegations``, ``delegate`` and ``undelegate``: who stands in for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import Limit, moment, say
from countersign_client.cli.printing import print_json, print_table

if TYPE_CHECKING:
    from countersign_client.wire import Json


def delegations(
    limit: Limit = 50,
    gateway: GatewayOption = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List who stands in for you, and for whom you do."""
    from rich.table import Table

    from countersign_client.calls import pages
    from countersign_client.wire import moment_of, name_of, plain

    query = {} if everything else {"active": "true"}
    found = list(pages(chosen(gateway), "/delegations", query, limit=limit))
    if as_json:
        print_json({"items": found})
        return
    table = Table("id", "for", "decides", "models", "from", "until", "because", "revoked")
    for each in found:
        table.add_row(
            plain(each.get("id")),
            *(name_of(each.get(who)) for who in ("delegator", "delegate")),
            plain(each.get("models")),
            *(moment_of(each.get(name)) for name in ("starts_at", "ends_at")),
            plain(each.get("reason")),
            moment_of(each.get("revoked_at")),
        )
    print_table(table)


def delegate(
    to: Annotated[
        str, typer.Option("--to", metavar="WHO", help="Id, or exact name, of who stands in.", show_default=False)
    ],
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="With its zone; at most 90 days away.", show_default=False)
    ],
    models: Annotated[str, typer.Option("--models", help="A pattern of the models it is about.")] = "*",
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; others read it.", show_default=False)] = "",
    gateway: GatewayOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Let somebody decide on promotions for you while you are away. Needs a login with `--scope approve`.

    \b
    countersign delegate --to "Ada Lovelace" --until 2026-08-15T00:00+02:00 --models "fraud-*" --reason "on leave"
    """
    from countersign_client.following import created
    from countersign_client.wire import plain

    document: dict[str, Json] = {"to": to, "ends_at": moment(until, "--until"), "models": models, "reason": reason}
    made = created(chosen(gateway), "/delegations", document, say=say())
    if as_json:
        print_json(made)
    else:
        typer.echo(plain(made.get("id")))


def undelegate(
    delegation_id: Annotated[str, typer.Argument(metavar="ID", help="As `countersign delegations` shows it.")],
    gateway: GatewayOption = None,
) -> None:
    """End a delegation. What was decided by it stands."""
    from countersign_client.calls import call

    call(chosen(gateway), "DELETE", f"/delegations/{quote(delegation_id, safe='')}")
    typer.echo(f"{delegation_id} is revoked.")
