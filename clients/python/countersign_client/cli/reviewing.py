"""``countersign reviews`` and ``review``: what was moved by breaking the glass, and who has looked at it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import Limit, PromotionId
from countersign_client.cli.printing import print_json, print_table


def reviews(
    limit: Limit = 50,
    gateway: GatewayOption = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Closed ones too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the reviews that are open: ordinary promotions of these aliases wait for them."""
    from rich.table import Table

    from countersign_client.calls import pages
    from countersign_client.wire import moment_of, name_of, plain

    query = {} if everything else {"open": "true"}
    found = list(pages(chosen(gateway), "/reviews", query, limit=limit))
    if as_json:
        print_json({"items": found})
        return
    table = Table("promotion", "model", "alias", "from", "to", "broken by", "because", "since", "closed by")
    for each in found:
        table.add_row(
            *(plain(each.get(name)) for name in ("promotion_id", "model", "alias", "from_version", "to_version")),
            name_of(each.get("broken_by")),
            plain(each.get("reason")),
            moment_of(each.get("opened_at")),
            name_of(each.get("closed_by")),
        )
    print_table(table)


def review(
    promotion_id: PromotionId,
    comment: Annotated[
        str, typer.Option("--comment", "-c", help="What you found; others read it, and it is kept.", show_default=False)
    ],
    gateway: GatewayOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Close the review of a promotion that broke the glass. Needs a login with `--scope approve`.

    \b
    countersign review prm_… --comment "7 did answer NaN; fixed in 8"
    """
    from countersign_client.calls import call

    path = f"/promotions/{quote(promotion_id, safe='')}/review"
    closed = call(chosen(gateway), "POST", path, document={"comment": comment})
    if as_json:
        print_json(closed)
    else:
        typer.echo(f"{promotion_id} reviewed")
