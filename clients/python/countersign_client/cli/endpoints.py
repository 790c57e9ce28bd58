"""``countersign endpoints``: who is told of events, how they are doing, and repairing that."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from countersign_client.cli.deliveries import WaitForIt, WaitTime, conclude, model_of, outcome
from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import moment_or_ago, say, seconds
from countersign_client.cli.printing import print_json, print_table
from countersign_client.errors import InvalidUsage, Refused

if TYPE_CHECKING:
    from countersign_client.wire import Json

endpoints = typer.Typer(help="Who is told of events: webhooks, chats, mail.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The endpoint's.", show_default=False)]

_MOST = 1000
_RECENT = 5
_LISTED = 200
"""Deliveries that one question answers."""
_PAUSE_S = 1.0


@endpoints.command(name="list")
def list_endpoints(gateway: GatewayOption = None, *, as_json: AsJson = False) -> None:
    """List the endpoints, and how each of them is doing."""
    from rich.table import Table

    from countersign_client.calls import pages
    from countersign_client.wire import moment_of, plain

    found = list(pages(chosen(gateway), "/endpoints", {}, limit=_MOST))
    if as_json:
        print_json({"items": found})
        return
    table = Table("name", "state", "where", "events", "models", "failing since", "because")
    for each in found:
        document = _document(each)
        table.add_row(
            *(plain(each.get(name)) for name in ("name", "state")),
            plain(document.get("url")) or plain(each.get("channel")),
            *(_listed(document.get(name)) for name in ("events", "models")),
            moment_of(each.get("failing_since")),
            plain(each.get("state_reason")),
        )
    print_table(table)


@endpoints.command()
def show(name: Name, gateway: GatewayOption = None, *, as_json: AsJson = False) -> None:
    """Show an endpoint: what it hears, how it is doing, the keys that verify, and what it was sent last."""
    from countersign_client.calls import call, items, pages
    from countersign_client.wire import moment_of, plain

    address, path = chosen(gateway), _path(name)
    found = call(address, "GET", path)
    keys: list[Mapping[str, object]] = []
    with suppress(Refused):  # a gateway without COUNTERSIGN_WEBHOOK_KEY cannot tell; the rest is worth seeing
        keys = list(items(call(address, "GET", f"{path}/keys").get("items")))
    query = {"receiver": f"endpoint:{name}"}
    recent = list(pages(address, "/deliveries", query, limit=_RECENT))
    if as_json:
        print_json({**found, "keys": keys, "deliveries": recent})
        return
    document = _document(found)
    reason = plain(found.get("state_reason"))
    for title, value in (
        ("endpoint", plain(found.get("name"))),
        ("state", plain(found.get("state")) + (f": {reason}" if reason else "")),
        ("failing since", moment_of(found.get("failing_since"))),
        *((title, _listed(value)) for title, value in document.items() if title not in {"kind", "name", "disabled"}),
        ("written", f"{moment_of(found.get('updated_at'))} by {plain(found.get('updated_by')).rpartition('|')[2]}"),
    ):
        if value:
            typer.echo(f"{title:<16}{value}")
    for key in keys:
        until = f", until {moment_of(key.get('until'))}" if key.get("until") else ""
        public = plain(key.get("public")) or "shared secret"
        typer.echo(f"{'key ' + plain(str(key.get('number'))):<16}{public}{until}")
    for caution in _texts(found.get("cautions")):
        typer.echo(f"{'caution':<16}{caution}")
    for each in recent:
        typer.echo(
            f"  {moment_of(each.get('created_at'))}  {plain(each.get('id'))}  {plain(each.get('state')):<10} "
            f"{plain(each.get('event_type'))} {model_of(each)}".rstrip()
        )
    if found.get("failing_since") and (failed := _obstacle(address, name, recent)):
        typer.echo("it takes nothing:")
        for line in outcome(failed):
            typer.echo(f"  {line}")


@endpoints.command()
def ping(
    name: Name,
    gateway: GatewayOption = None,
    *,
    wait: WaitForIt = True,
    timeout: WaitTime = "30s",
    as_json: AsJson = False,
) -> None:
    """Try whether an endpoint hears: send it an `endpoint.pinged`, once. Needs a login with `--scope admin`."""
    from countersign_client.following import created

    address = chosen(gateway)
    made = created(address, f"{_path(name)}/ping", {}, say=say())
    conclude(address, made, wait=wait, timeout_s=seconds(timeout, "--timeout"), as_json=as_json)


@endpoints.command()
def enable(name: Name, gateway: GatewayOption = None, *, as_json: AsJson = False) -> None:
    """Have an endpoint hear what happens from now on. What it missed: `countersign endpoints replay`."""
    from countersign_client.calls import call

    _say_state(call(chosen(gateway), "POST", f"{_path(name)}/enable"), as_json=as_json)


@endpoints.command()
def disable(
    name: Name,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; others read it.", show_default=False)] = "",
    gateway: GatewayOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Send an endpoint nothing any more, nor what waits for it."""
    from countersign_client.calls import call

    _say_state(call(chosen(gateway), "POST", f"{_path(name)}/disable", document={"reason": reason}), as_json=as_json)


@endpoints.command()
def rotate(
    name: Name,
    overlap: Annotated[str, typer.Option("--overlap", help="For how long the key before signs too; 0: not.")] = "24h",
    gateway: GatewayOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Give an endpoint a new key, and print it: this is the only time that a shared secret is shown.

    \b
    countersign endpoints rotate ci --overlap 7d     # receivers take both keys meanwhile
    countersign endpoints rotate ci --overlap 0      # the old key is in wrong hands
    """
    from countersign_client.following import created
    from countersign_client.wire import moment_of, plain

    document: dict[str, Json] = {"overlap_s": 0 if overlap.strip() == "0" else seconds(overlap, "--overlap")}
    made = created(chosen(gateway), f"{_path(name)}/rotate", document, say=say())
    if as_json:
        print_json(made)
        return
    key = made.get("key")
    assert isinstance(key, Mapping)  # the gateway answers with the key that it made
    typer.echo(plain(key.get("secret")) or plain(key.get("public")))
    until = moment_of(made.get("previous_key_until"))
    both = f" Messages are signed with the key before, too, until {until}." if document["overlap_s"] else ""
    typer.echo(f"Key {plain(str(key.get('number')))} of {name}: give it to the receiver.{both}", err=True)


@endpoints.command()
def replay(
    name: Name,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="With its zone, or as 2h: ago.", show_default=False)
    ],
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="As --since; now, without it.", show_default=False)
    ] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Patterns, as promotion.*; may be repeated.", show_default=False)
    ] = None,
    timeout: WaitTime = "10m",
    gateway: GatewayOption = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also what it got; else what it did not get.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many it would be, and send nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Until all of it is sent, and say how far it is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have what happened in a range of time sent to an endpoint, in order. Needs a login with `--scope admin`.

    \b
    countersign endpoints replay ci --since 2h --dry-run
    countersign endpoints replay ci --since 2026-10-01T06:00Z --until 2026-10-01T08:00Z --wait
    """
    from countersign_client.calls import pages
    from countersign_client.following import Exit, created
    from countersign_client.wire import plain

    address, wait_s = chosen(gateway), seconds(timeout, "--timeout")
    document: dict[str, Json] = {
        "since": moment_or_ago(since, "--since"),
        **({"until": moment_or_ago(until, "--until")} if until else {}),
        **({"types": types} if types else {}),
        "only": "all" if everything else "failed",
        "dry_run": dry_run,
    }
    newest = list(pages(address, "/deliveries", {"receiver": f"endpoint:{name}"}, limit=1))
    answer = created(address, f"{_path(name)}/replay", document, say=say())
    count, lost = plain(str(answer.get("count"))), 0
    if wait and not dry_run:
        _wait_until_sent(address, name, count, timeout_s=wait_s)
        lost = _lost_since(address, name, newest)
    if as_json:
        print_json(answer)
    elif lost:
        typer.echo(
            f"{lost} of {count} messages did not reach {name}: countersign deliveries list --endpoint {name} --failed"
        )
    else:
        typer.echo(f"{count} messages {'would be' if dry_run else 'were' if wait else 'are being'} sent to {name}.")
    if lost:
        raise typer.Exit(Exit.FAILED)


@endpoints.command()
def delete(
    name: Name,
    gateway: GatewayOption = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove an endpoint. What waits for it is not sent any more; the log of what was sent stays."""
    from countersign_client.calls import call

    address = chosen(gateway)
    if not yes:
        typer.confirm(f"Remove {name} from {address}?", abort=True)
    call(address, "DELETE", _path(name))
    typer.echo(f"{name} is removed.")


def _lost_since(gateway: str, name: str, newest: Sequence[Mapping[str, object]]) -> int:
    """How many repetitions that are younger than the newest delivery of before never reached an endpoint."""
    from countersign_client.calls import pages
    from countersign_client.wire import plain

    query = {"receiver": f"endpoint:{name}", "state": "dead"}
    for each in newest:
        query["since"] = plain(each.get("created_at"))
    before = {each.get("id") for each in newest}
    dead = pages(gateway, "/deliveries", query, limit=_MOST)
    return sum(each.get("cause") == "replay" and each.get("id") not in before for each in dead)


def _wait_until_sent(gateway: str, name: str, count: str, *, timeout_s: float) -> None:
    """Say how much waits for an endpoint until nothing does. Ends the command when the time is over."""
    from countersign_client.calls import call, items
    from countersign_client.following import Exit

    tell, deadline, told = say(), time.monotonic() + timeout_s, -1
    query = {"receiver": f"endpoint:{name}", "state": "pending", "limit": str(_LISTED)}
    while True:
        page = call(gateway, "GET", "/deliveries", query=query)
        left = len(list(items(page.get("items"))))
        if not left:
            return
        if left != told:
            more = "at least " if page.get("next_cursor") else ""
            tell(f"{more}{left} messages wait for {name}, of {count} that are sent again")
        told = left
        if time.monotonic() >= deadline:
            raise typer.Exit(Exit.TIMED_OUT)
        time.sleep(min(_PAUSE_S, max(deadline - time.monotonic(), 0)))


def _say_state(found: Mapping[str, object], *, as_json: bool) -> None:
    from countersign_client.wire import plain

    if as_json:
        print_json(found)
    else:
        typer.echo(f"{plain(found.get('name'))} is {plain(found.get('state'))}.")


def _obstacle(gateway: str, name: str, recent: Sequence[Mapping[str, object]]) -> Mapping[str, object] | None:
    """The delivery that shows why an endpoint takes nothing, with its attempts; none if nothing was tried lately."""
    from countersign_client.calls import call, pages

    # Those that wait behind it were not tried: it is one of the oldest.
    waiting = pages(gateway, "/deliveries", {"receiver": f"endpoint:{name}", "state": "pending"}, limit=_MOST)
    for each in chain(recent, waiting):
        if each.get("attempts") and each.get("state") in {"pending", "dead"}:
            return call(gateway, "GET", f"/deliveries/{quote(str(each.get('id')), safe='')}")
    return None


def _path(name: str) -> str:
    if not name.strip():
        raise InvalidUsage("Which endpoint? Expected its name.")
    return f"/endpoints/{quote(name, safe='')}"


def _document(found: Mapping[str, object]) -> Mapping[str, object]:
    document = found.get("document")
    return document if isinstance(document, Mapping) else {}


def _listed(value: object) -> str:
    from countersign_client.wire import plain

    return (
        ", ".join(_texts(value)) if isinstance(value, list) else plain(value if isinstance(value, str) else str(value))
    )


def _texts(value: object) -> list[str]:
    from countersign_client.wire import plain

    return [plain(each) for each in value] if isinstance(value, list) else []
