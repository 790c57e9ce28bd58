"""``countersign deliveries``: what was sent to whom, why it failed, and having it sent again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import Limit, moment_or_ago, say, seconds
from countersign_client.cli.printing import print_json, print_table
from countersign_client.errors import InvalidUsage

deliveries = typer.Typer(help="What was sent to endpoints and targets, and how that went.", no_args_is_help=True)

DeliveryId = Annotated[str, typer.Argument(metavar="ID", help="The delivery, as dlv_…", show_default=False)]
WaitForIt = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait for what comes of it; the exit status says that.")
]
WaitTime = Annotated[str, typer.Option("--timeout", help="For how long to wait, as 30s.")]

_MESSAGE_LINES = 60
_PAUSES_S = (0.1, 2.0)
"""Between two looks at a delivery: the first, and the longest."""


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    SUPERSEDED = "superseded"
    DEAD = "dead"


@deliveries.command(name="list")
def list_deliveries(
    endpoint: Annotated[str | None, typer.Option("--endpoint", "-e", help="To this one.", show_default=False)] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="Or this one.", show_default=False)] = None,
    state: Annotated[DeliveryState | None, typer.Option("--state", help="In this state.", show_default=False)] = None,
    event_type: Annotated[
        str | None, typer.Option("--type", help="Of events, as promotion.applied.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Of this model.", show_default=False)] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", help="MLflow's.", show_default=False)] = None,
    message: Annotated[
        str | None, typer.Option("--message", metavar="ID", help="The `webhook-id`.", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="With its zone, or as 2h: ago.", show_default=False)
    ] = None,
    limit: Limit = 50,
    gateway: GatewayOption = None,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Those that never reached their receiver.")] = False,
    as_json: AsJson = False,
) -> None:
    """List deliveries, newest first.

    \b
    countersign deliveries list --failed --since 24h
    countersign deliveries list --endpoint ci --model fraud-eu
    """
    from rich.table import Table

    from countersign_client.calls import pages
    from countersign_client.wire import moment_of, plain

    if endpoint is not None and target is not None:
        raise InvalidUsage("Expected --endpoint or --target, not both.")
    if failed and state not in {None, DeliveryState.DEAD}:
        raise InvalidUsage("--failed is the same as --state dead.")
    chosen_state = DeliveryState.DEAD if failed else state
    asked = {
        "receiver": f"endpoint:{endpoint}" if endpoint else f"target:{target}" if target else None,
        "state": chosen_state.value if chosen_state else None,
        "type": event_type,
        "model": model,
        "workspace": workspace,
        "message_id": message,
        "since": moment_or_ago(since, "--since") if since else None,
    }
    query = {name: value for name, value in asked.items() if value is not None}
    found = list(pages(chosen(gateway), "/deliveries", query, limit=limit))
    if as_json:
        print_json({"items": found})
        return
    table = Table("id", "to", "what", "model", "state", "attempts", "made", "next attempt")
    for each in found:
        table.add_row(
            *(plain(each.get(name)) for name in ("id", "receiver", "event_type")),
            model_of(each),
            plain(each.get("state")),
            plain(str(each.get("attempts"))),
            *(moment_of(each.get(name)) for name in ("created_at", "next_attempt_at")),
        )
    print_table(table)


@deliveries.command()
def show(delivery_id: DeliveryId, gateway: GatewayOption = None, *, as_json: AsJson = False) -> None:
    """Show a delivery: the message, and each attempt with what was answered and what that means."""
    from countersign_client.calls import call

    found = call(chosen(gateway), "GET", f"/deliveries/{quote(delivery_id, safe='')}")
    if as_json:
        print_json(found)
        return
    for line in told(found):
        typer.echo(line)


@deliveries.command()
def redeliver(
    delivery_id: DeliveryId,
    gateway: GatewayOption = None,
    *,
    wait: WaitForIt = True,
    timeout: WaitTime = "30s",
    as_json: AsJson = False,
) -> None:
    """Send the same message again, as a delivery of its own. Receivers can tell that it is a repetition.

    Needs a login with `--scope admin`.
    """
    from countersign_client.following import created

    address = chosen(gateway)
    made = created(address, f"/deliveries/{quote(delivery_id, safe='')}/redeliver", {}, say=say())
    conclude(address, made, wait=wait, timeout_s=seconds(timeout, "--timeout"), as_json=as_json)


@deliveries.command()
def skip(delivery_id: DeliveryId, gateway: GatewayOption = None, *, as_json: AsJson = False) -> None:
    """Give a message up that its receiver refuses again and again, so that those behind it go on."""
    from countersign_client.calls import call
    from countersign_client.wire import plain

    found = call(chosen(gateway), "POST", f"/deliveries/{quote(delivery_id, safe='')}/skip")
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{plain(found.get('id'))} is given up.")


def conclude(gateway: str, made: Mapping[str, object], *, wait: bool, timeout_s: float, as_json: bool) -> None:
    """Say what came of a delivery, and end with the status of that."""
    from countersign_client.following import Exit
    from countersign_client.wire import plain

    if wait:
        made = _tried(gateway, plain(made.get("id")), timeout_s=timeout_s)
    if as_json:
        print_json(made)
    elif wait:
        for line in outcome(made):
            typer.echo(line)
    else:
        typer.echo(plain(made.get("id")))
    if not wait or made.get("state") == "delivered":
        return
    raise typer.Exit(Exit.FAILED if _was_tried(made) else Exit.TIMED_OUT)


def _tried(gateway: str, delivery_id: str, *, timeout_s: float) -> Mapping[str, object]:
    """A delivery after its first attempt, or as it is when the time is over."""
    from countersign_client.calls import call
    from countersign_client.following import retried

    deadline, path = time.monotonic() + timeout_s, f"/deliveries/{quote(delivery_id, safe='')}"
    pause, longest = _PAUSES_S
    while True:
        found = retried(lambda: call(gateway, "GET", path), deadline=deadline, say=say())
        left = deadline - time.monotonic()
        if _was_tried(found) or left <= 0:
            return found
        time.sleep(min(pause, left))
        pause = min(2 * pause, longest)


def _was_tried(found: Mapping[str, object]) -> bool:
    return found.get("state") != "pending" or found.get("attempts") != 0


def outcome(found: Mapping[str, object]) -> Iterator[str]:
    """How a delivery stands, and why, in some lines."""
    from countersign_client.calls import items
    from countersign_client.wire import moment_of, plain

    attempts = list(items(found.get("log")))
    state = plain(found.get("state"))
    head = f"{plain(found.get('id'))} to {plain(found.get('receiver'))}: {state}"
    if next_at := moment_of(found.get("next_attempt_at")):
        head += f", next attempt {next_at}" if attempts else f", first attempt {next_at}"
    yield head
    if attempts:
        yield f"  {_result(attempts[-1])}"
        if advice := plain(attempts[-1].get("advice")):
            yield f"  {advice}"


def model_of(found: Mapping[str, object]) -> str:
    """Of which model a delivery is; a ping has a lane of its own, which is of none."""
    from countersign_client.wire import plain

    lane = plain(found.get("lane"))
    return "" if lane.startswith(":") else lane


def told(found: Mapping[str, object]) -> Iterator[str]:
    """A delivery with its message and log."""
    from countersign_client.calls import items
    from countersign_client.wire import moment_of, plain

    for title, value in (
        ("delivery", plain(found.get("id"))),
        ("to", plain(found.get("receiver"))),
        ("what", f"{plain(found.get('event_type'))} of {plain(found.get('subject'))}"),
        ("message", plain(found.get("message_id"))),
        ("repeats", plain(found.get("replays"))),
        ("because of", plain(found.get("cause"))),
        ("state", plain(found.get("state"))),
        ("made", moment_of(found.get("created_at"))),
        ("settled", moment_of(found.get("settled_at"))),
        ("next attempt", moment_of(found.get("next_attempt_at"))),
    ):
        if value:
            yield f"{title:<14}{value}"
    yield ""
    payload = json.dumps(found.get("payload"), indent=2, ensure_ascii=True).splitlines()
    yield from payload[:_MESSAGE_LINES]
    if len(payload) > _MESSAGE_LINES:
        yield f"… {len(payload) - _MESSAGE_LINES} more lines (--json)"
    attempts = list(items(found.get("log")))
    if not attempts:
        yield ""
        yield "There was no attempt yet." if found.get("state") == "pending" else "Nothing was sent."
    for each in attempts:
        yield ""
        yield f"attempt {plain(str(each.get('number')))}, {moment_of(each.get('started_at'))}: {_result(each)}"
        if answer := plain(each.get("response")):
            yield f"  answered: {answer}"
        if advice := plain(each.get("advice")):
            yield f"  {advice}"


def _result(attempt: Mapping[str, object]) -> str:
    from countersign_client.wire import plain

    where = f" by {plain(attempt.get('address'))}" if attempt.get("address") else ""
    took = f" after {plain(str(attempt.get('duration_ms')))} ms"
    if attempt.get("status") is None:
        return f"no answer{where}{took}: {plain(attempt.get('error'))}"
    more = f" ({plain(attempt.get('error'))})" if attempt.get("error") else ""
    return f"answered {plain(str(attempt.get('status')))}{where}{took}{more}"
