"""``countersign promotions``: list them, and show one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import PromotionId, Timeout, Wait, seconds

promotions = typer.Typer(help="Promotions, newest first.", no_args_is_help=True)

_PIPED_WIDTH = 200
_MOST = 1000


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
    limit: Annotated[int, typer.Option("--limit", min=1, max=_MOST, help="How many at most.")] = 50,
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
    from countersign_client.wire import plain

    query: dict[str, str | list[str]] = {
        **({"model": model} if model is not None else {}),
        **({"alias": alias} if alias is not None else {}),
        **({"workspace": workspace} if workspace is not None else {}),
        **({"state": [each.value for each in state]} if state else {}),
        **({"mine": "true"} if mine else {}),
        **({"awaiting_me": "true"} if awaiting_me else {}),
    }
    found = list(_pages(chosen(gateway), query, limit))
    if as_json:
        typer.echo(json.dumps({"items": found}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "model", "alias", "version", "state", "asked for by", "waits for", "since")
    for each in found:
        by = each.get("requested_by")
        waits_for = plain(each.get("waits_for"))
        table.add_row(
            *(plain(each.get(name)) for name in ("id", "model", "alias", "to_version", "state")),
            plain(by.get("name")) if isinstance(by, dict) else "",
            "" if waits_for == "nothing" else waits_for,
            plain(each.get("created_at")),
        )
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, markup=False).print(table)


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
    from countersign_client.wire import plain

    address = chosen(gateway)
    if wait:
        follow_to_the_end(address, promotion_id, timeout_s=seconds(timeout, "--timeout"), as_json=as_json)
    found = call(address, "GET", f"/promotions/{quote(promotion_id, safe='')}")
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    by, policy = found.get("requested_by"), found.get("policy")
    for title, value in (
        ("promotion", plain(found.get("id"))),
        (
            "what",
            f"version {plain(found.get('to_version'))} of {plain(found.get('model'))} to {plain(found.get('alias'))}",
        ),
        ("now held by", plain(found.get("from_version")) or "no version"),
        ("asked for by", plain(by.get("name")) if isinstance(by, dict) else ""),
        ("because", plain(found.get("reason"))),
        ("policy", f"{plain(policy.get('name'))}/{policy.get('revision')}" if isinstance(policy, dict) else ""),
        ("digest", plain(found.get("digest"))),
        ("page", plain(found.get("link"))),
    ):
        if value:
            typer.echo(f"{title:<13}{value}")
    for line in said(found):
        typer.echo(line)


def _pages(gateway: str, query: Mapping[str, str | list[str]], limit: int) -> Iterator[Mapping[str, object]]:
    from countersign_client.calls import call
    from countersign_client.following import items

    asked, left = dict(query), limit
    while left > 0:
        page = call(gateway, "GET", "/promotions", query={**asked, "limit": str(min(left, 200))})
        for each in items(page.get("items")):
            yield each
            left -= 1
        cursor = page.get("next_cursor")
        if not isinstance(cursor, str):
            return
        asked["cursor"] = cursor
