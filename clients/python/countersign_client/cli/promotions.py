"""``countersign promotions``: list them, and show one."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import Limit, PromotionId, Timeout, Wait, seconds
from countersign_client.cli.printing import print_json, print_table

promotions = typer.Typer(help="Promotions: list them, newest first, or show one.", no_args_is_help=True)


class State(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    APPLYING = "applying"
    APPLIED = "applied"
    ROLLING_OUT = "rolling_out"
    LIVE = "live"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    STALE = "stale"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


@promotions.command(name="list")
def list_promotions(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Of this model.", show_default=False)] = None,
    alias: Annotated[str | None, typer.Option("--alias", "-a", help="Of this alias.", show_default=False)] = None,
    state: Annotated[
        list[State] | None, typer.Option("--state", help="In this state; may be repeated.", show_default=False)
    ] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", help="In this one.", show_default=False)] = None,
    limit: Limit = 50,
    gateway: GatewayOption = None,
    *,
    awaiting_me: Annotated[bool, typer.Option("--awaiting-me", help="That you could decide on.")] = False,
    mine: Annotated[bool, typer.Option("--mine", help="That you asked for.")] = False,
    as_json: AsJson = False,
) -> None:
    """List promotions.

    \b
    countersign promotions list --awaiting-me
    countersign promotions list --model iris --state pending --json
    """
    from rich.table import Table

    from countersign_client.calls import pages
    from countersign_client.wire import moment_of, name_of, plain

    query: dict[str, str | list[str]] = {
        **({"model": model} if model is not None else {}),
        **({"alias": alias} if alias is not None else {}),
        **({"workspace": workspace} if workspace is not None else {}),
        **({"state": [each.value for each in state]} if state else {}),
        **({"mine": "true"} if mine else {}),
        **({"awaiting_me": "true"} if awaiting_me else {}),
    }
    found = list(pages(chosen(gateway), "/promotions", query, limit=limit))
    if as_json:
        print_json({"items": found})
        return
    table = Table("id", "model", "alias", "version", "state", "asked for by", "waits for", "since")
    for each in found:
        waits_for = plain(each.get("waits_for"))
        table.add_row(
            *(plain(each.get(name)) for name in ("id", "model", "alias", "to_version", "state")),
            name_of(each.get("requested_by")),
            "" if waits_for == "nothing" else waits_for,
            moment_of(each.get("created_at")),
        )
    print_table(table)


@promotions.command()
def show(
    promotion_id: PromotionId,
    gateway: GatewayOption = None,
    *,
    wait: Wait = False,
    timeout: Timeout = "30m",
    as_json: AsJson = False,
) -> None:
    """Show a promotion and what it waits for; with --wait, follow it, and end as `countersign promote --wait` does."""
    from countersign_client.calls import call
    from countersign_client.cli.promoting import follow_to_the_end
    from countersign_client.following import said
    from countersign_client.wire import name_of, plain

    address = chosen(gateway)
    if wait:
        follow_to_the_end(address, promotion_id, timeout_s=seconds(timeout, "--timeout"), as_json=as_json)
    found = call(address, "GET", f"/promotions/{quote(promotion_id, safe='')}")
    if as_json:
        print_json(found)
        return
    policy = found.get("policy")
    for title, value in (
        ("promotion", plain(found.get("id"))),
        (
            "what",
            f"version {plain(found.get('to_version'))} of {plain(found.get('model'))} to {plain(found.get('alias'))}",
        ),
        ("then held by", plain(found.get("from_version")) or "no version"),
        ("asked for by", name_of(found.get("requested_by"))),
        ("because", plain(found.get("reason"))),
        (
            "policy",
            f"{plain(policy.get('name'))}/{plain(str(policy.get('revision')))}" if isinstance(policy, dict) else "",
        ),
        ("digest", plain(found.get("digest"))),
        ("for people", plain(found.get("console"))),
    ):
        if value:
            typer.echo(f"{title:<13}{value}")
    for line in said(found):
        typer.echo(line)
