"""``countersign explain``: what stands between a version and an alias, rule by rule; or which policy has a say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import Alias, Model, Workspace, moment
from countersign_client.cli.printing import console, print_json

if TYPE_CHECKING:
    from countersign_client.wire import Query

_COLOURS = {"satisfied": "green", "waiting": "yellow", "blocked": "red", "advisory": "dim"}


def explain(
    model: Model,
    alias: Alias,
    version: Annotated[
        str | None,
        typer.Option("--version", "-v", help="Its version; without it: the policy, and why it.", show_default=False),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="As if it were scheduled for then.", show_default=False),
    ] = None,
    workspace: Workspace = None,
    gateway: GatewayOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Say what stands between a version and an alias, and who or what would change that. Nothing is written.

    Exit status: 0 nothing stands in the way, 10 something is waited for, 6 blocked; else as `promote`.

    \b
    countersign explain --model iris --version 7 --alias production
    countersign explain --model iris --alias production         # which policy wins, and why
    """
    from countersign_client.calls import call

    address = chosen(gateway)
    query: dict[str, str] = {"model": model, "alias": alias}
    if workspace is not None:
        query["workspace"] = workspace
    if version is None:
        _explain_policy(call(address, "GET", "/policies/for", query=query), as_json=as_json)
        return
    query["version"] = version
    if at is not None:
        query["scheduled_for"] = moment(at, "--at")
    _explain_version(address, query, as_json=as_json)


def _explain_version(address: str, query: Query, *, as_json: bool) -> None:
    from countersign_client.calls import call
    from countersign_client.following import Exit

    found = call(address, "GET", "/promotions/explain", query=query)
    if as_json:
        print_json(found)
    else:
        _print(found)
    if found.get("allowed") is not True:
        raise typer.Exit(Exit.BLOCKED if found.get("blocked") is True else Exit.WAITING)


def _print(found: Mapping[str, object]) -> None:
    from rich.table import Table
    from rich.text import Text

    from countersign_client.calls import items
    from countersign_client.wire import moment_of, plain

    policy = found.get("policy")
    named = f"policy {_named(policy)}" if isinstance(policy, dict) else ""
    open_one = plain(found.get("promotion_id"))
    out = console()
    out.print(
        f"Version {plain(found.get('version'))} of {plain(found.get('model'))} to {plain(found.get('alias'))}: {named}"
        + (f", promotion {open_one}" if open_one else "")
    )
    table = Table("", "rule", "how it stands", "who could", "when")
    for rule in items(found.get("rules")):
        standing = plain(rule.get("standing"))
        table.add_row(
            Text(standing, style=_COLOURS.get(standing, "")),
            plain(rule.get("name")),
            plain(rule.get("message")),
            plain(rule.get("who")),
            moment_of(rule.get("until")),
        )
    out.print(table)
    opens = moment_of(found.get("opens_at"))
    if found.get("allowed") is True:
        out.print("Nothing stands in the way.")
    elif found.get("blocked") is True:
        out.print("Blocked: neither approvals nor time will change it.")
    else:
        out.print(f"It waits; not before {opens}." if opens else "It waits.")


def _explain_policy(found: Mapping[str, object], *, as_json: bool) -> None:
    from countersign_client.calls import items
    from countersign_client.wire import plain

    if as_json:
        print_json(found)
        return
    policy = found.get("policy")
    if isinstance(policy, dict):
        typer.echo(f"policy {_named(policy)}")
    typer.echo(plain(found.get("why")))
    for other in items(found.get("others")):
        typer.echo(f"  it matches too: {_named(other)}")


def _named(policy: Mapping[str, object]) -> str:
    from countersign_client.wire import plain

    return f"{plain(policy.get('name'))}, revision {plain(str(policy.get('revision')))}"
