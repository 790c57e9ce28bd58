"""``countersign rollout``: how the targets of a promotion come to serve it, and what people may have that do."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import PromotionId, Reason
from countersign_client.cli.printing import print_json

rollout = typer.Typer(help="How the targets of a promotion come to serve it, step by step.", no_args_is_help=True)


@rollout.command()
def show(promotion_id: PromotionId, gateway: GatewayOption = None, *, as_json: AsJson = False) -> None:
    """Show every step, what was measured, and what each target says."""
    from countersign_client.calls import call

    found = call(chosen(gateway), "GET", _path(promotion_id))
    if as_json:
        print_json(found)
    else:
        _say(found)


@rollout.command()
def pause(
    promotion_id: PromotionId, reason: Reason = "", gateway: GatewayOption = None, *, as_json: AsJson = False
) -> None:
    """Leave everything as it is until somebody decides. For those who may roll the alias back."""
    _order(promotion_id, "pause", reason, gateway, as_json=as_json)


@rollout.command()
def resume(
    promotion_id: PromotionId, reason: Reason = "", gateway: GatewayOption = None, *, as_json: AsJson = False
) -> None:
    """Have one that waits for a person go on. For approvers who did not ask for it."""
    _order(promotion_id, "resume", reason, gateway, as_json=as_json)


@rollout.command(name="go-back")
def go_back(
    promotion_id: PromotionId, reason: Reason = "", gateway: GatewayOption = None, *, as_json: AsJson = False
) -> None:
    """Have the targets, and then the alias, go back at once. For those who may roll the alias back."""
    _order(promotion_id, "go-back", reason, gateway, as_json=as_json)


@rollout.command(name="all-at-once")
def all_at_once(
    promotion_id: PromotionId, reason: Reason = "", gateway: GatewayOption = None, *, as_json: AsJson = False
) -> None:
    """Give the version all requests now, past the steps and gates left. For approvers who did not ask for it."""
    _order(promotion_id, "all-at-once", reason, gateway, as_json=as_json)


def _order(promotion_id: str, order: str, reason: str, gateway: str | None, *, as_json: bool) -> None:
    from countersign_client.calls import ask

    path = f"{_path(promotion_id)}/{order}"
    answer = ask(chosen(gateway), "POST", path, document={"reason": reason}).document
    if as_json:
        print_json(answer)
    else:
        _say(answer)


def _path(promotion_id: str) -> str:
    return f"/promotions/{quote(promotion_id, safe='')}/rollout"


def _say(found: Mapping[str, object]) -> None:
    from countersign_client.calls import items
    from countersign_client.following import rollout_lines
    from countersign_client.wire import plain

    stage = plain(found.get("stage")).replace("_", " ")
    typer.echo(f"{plain(found.get('promotion_id'))} {plain(found.get('promotion_state'))}: {stage}")
    for line in rollout_lines(found, whole=True):
        typer.echo(line)
    for target in items(found.get("targets")):
        rest = plain(target.get("stable_version"))
        serves = f"{plain(str(target.get('weight')))} % version {plain(target.get('version'))}"
        if target.get("action") == "remove":
            serves = "nothing"
        more = f", the rest version {rest}" if rest else ""
        said = f", {plain(target['message'])}" if target.get("message") else ""
        typer.echo(f"  {plain(target.get('name'))}: {serves}{more}: {plain(target.get('phase'))}{said}")
