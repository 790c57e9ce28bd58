"""``countersign approve``, ``reject``, ``withdraw`` and ``comment``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import PromotionId, Reason, say
from countersign_client.cli.printing import print_json

if TYPE_CHECKING:
    from countersign_client.wire import Json

OnBehalfOf = Annotated[
    str | None,
    typer.Option("--on-behalf-of", metavar="PERSON", help="Whom you stand in for, by id.", show_default=False),
]


def approve(
    promotion_id: PromotionId,
    reason: Reason = "",
    on_behalf_of: OnBehalfOf = None,
    gateway: GatewayOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Approve a promotion, as it is now. Needs a login with `--scope approve`: no pipeline approves.

    \b
    countersign approve prm_… --reason "agreed in review"
    """
    _decide(promotion_id, "approve", reason, on_behalf_of, gateway, as_json=as_json)


def reject(
    promotion_id: PromotionId,
    reason: Reason = "",
    on_behalf_of: OnBehalfOf = None,
    gateway: GatewayOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Reject a promotion."""
    _decide(promotion_id, "reject", reason, on_behalf_of, gateway, as_json=as_json)


def withdraw(
    promotion_id: PromotionId, reason: Reason = "", gateway: GatewayOption = None, *, as_json: AsJson = False
) -> None:
    """Take back what you asked for, before it is applied."""
    _post(promotion_id, "withdraw", {"reason": reason}, gateway, as_json=as_json)


def comment(
    promotion_id: PromotionId,
    text: Annotated[str, typer.Argument(help="What you have to say.", show_default=False)],
    gateway: GatewayOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Say something on a promotion, without deciding on it."""
    from countersign_client.following import created

    path = f"/promotions/{quote(promotion_id, safe='')}/comments"
    said = created(chosen(gateway), path, {"text": text}, say=say())
    if as_json:
        print_json(said)
    else:
        typer.echo(f"{promotion_id} commented")


def _decide(
    promotion_id: str, verb: str, reason: str, on_behalf_of: str | None, gateway: str | None, *, as_json: bool
) -> None:
    """What was shown is what is decided on: it is refused if the promotion changes in between."""
    from countersign_client.calls import ask
    from countersign_client.following import said
    from countersign_client.wire import name_of, plain

    address, line = chosen(gateway), say()
    seen = ask(address, "GET", f"/promotions/{quote(promotion_id, safe='')}")
    shown = seen.document
    holder = plain(shown.get("from_version"))
    line(
        f"{promotion_id}: version {plain(shown.get('to_version'))} of {plain(shown.get('model'))} to "
        f"{plain(shown.get('alias'))}{f', which version {holder} holds' if holder else ''}; asked for by "
        f"{name_of(shown.get('requested_by'))}; {plain(shown.get('digest')) or 'no digest yet'}"
    )
    for each in said(shown):
        line(each)
    document: dict[str, Json] = {"reason": reason}
    if on_behalf_of is not None:
        document["on_behalf_of"] = on_behalf_of
    _post(promotion_id, verb, document, address, as_json=as_json, etag=seen.etag)


def _post(
    promotion_id: str,
    what: str,
    document: Mapping[str, Json],
    gateway: str | None,
    *,
    as_json: bool,
    etag: str | None = None,
) -> None:
    from countersign_client.calls import ask
    from countersign_client.wire import plain

    path = f"/promotions/{quote(promotion_id, safe='')}/{what}"
    headers = {"If-Match": etag} if etag else None
    answer = ask(chosen(gateway), "POST", path, document=document, headers=headers).document
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"{promotion_id} {plain(answer.get('state'))}")
