"""``countersign events``: what happened, and what happens."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Annotated

import typer

from countersign_client.cli.login import GatewayOption, chosen
from countersign_client.cli.options import say
from countersign_client.errors import InvalidUsage

_WAIT_S = 20
_PAGE = 20
_PAUSE_S = 1.0
"""Before a gateway is asked again that answered at once and had nothing: it stops."""


def events(
    type_: Annotated[
        list[str] | None,
        typer.Option("--type", "-t", help="Of this type, as alias.moved; may be repeated.", show_default=False),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Of this model.", show_default=False)] = None,
    alias: Annotated[str | None, typer.Option("--alias", "-a", help="Of this alias.", show_default=False)] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", help="In this one.", show_default=False)] = None,
    after: Annotated[
        int | None,
        typer.Option("--after", min=0, help="Those behind this number; without it, the last ones.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, max=200, help="How many of those that there are.")] = _PAGE,
    gateway: GatewayOption = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as things happen, until it is stopped.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print an event a line, as JSON.")] = False,
) -> None:
    """List what happened, oldest first.

    \b
    countersign events --follow --type alias.moved --model iris
    countersign events --follow --limit 0 --type version.registered
    countersign events --follow --after 1042 --json

    With --follow and --limit 0 it shows what comes from now on; with --after, what came after the `sequence` of an
    event.

    Exit status: 0 done; 1 refused; 2 used wrongly; 3 a login is needed; 4 the gateway does not answer (with --follow,
    at first alone); 130 interrupted.
    """
    from countersign_client.calls import call, items
    from countersign_client.cli.printing import print_json
    from countersign_client.following import retried

    if not limit and (after is not None or not follow):
        raise InvalidUsage("--limit 0: is for --follow without --after.")
    address = chosen(gateway)
    query: dict[str, str | list[str]] = {
        **({"type": type_} if type_ else {}),
        **({"model": model} if model is not None else {}),
        **({"alias": alias} if alias is not None else {}),
        **({"workspace": workspace} if workspace is not None else {}),
        "limit": str(limit or _PAGE),
    }

    def shown(answer: Mapping[str, object], *, newest_first: bool = False) -> int:
        """How many there were."""
        found = list(items(answer.get("items")))
        for each in reversed(found) if newest_first else found:
            if as_json:
                print_json(each)
            else:
                typer.echo(line_of(each))
        return len(found)

    if after is None:
        answer = call(address, "GET", "/events", query={**query, "newest_first": "true"})
    else:
        answer = call(address, "GET", "/events", query={**query, "after": str(after)})
    if limit:
        shown(answer, newest_first=after is None)
    while follow:
        seen, began = str(answer.get("next_after")), time.monotonic()
        asked = {**query, "after": seen, "wait": str(_WAIT_S)}
        answer = retried(
            lambda: call(address, "GET", "/events", query=asked),  # noqa: B023  # it is called at once
            deadline=math.inf,
            say=say(),
        )
        if not shown(answer) and time.monotonic() - began < _PAUSE_S:
            time.sleep(_PAUSE_S)


def line_of(event: Mapping[str, object]) -> str:
    """An event as people read it: when, what, of what, and what was said."""
    from countersign_client.wire import moment_of, plain

    said = event.get("data")
    data = said if isinstance(said, Mapping) else {}
    model, alias = plain(event.get("model")), plain(event.get("alias"))
    of = f"{model}@{alias}" if alias else model or plain(event.get("subject"))
    version = plain(data.get("to_version")) or plain(data.get("version"))
    before = plain(data.get("from_version"))
    moved = f"{before} to {version}" if before and version else version
    by = plain(data.get("by"))
    words = next((text for name in ("comment", "reason", "message") if (text := plain(data.get(name)))), "")
    parts = [of, moved, f"by {by}" if by else ""]
    head = f"{moment_of(event.get('at'))}  {plain(event.get('type')):<26} {' '.join(part for part in parts if part)}"
    return f"{head}: {words}" if words else head
