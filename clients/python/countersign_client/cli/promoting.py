"""``countersign promote``, ``rollback`` and ``break-glass``: have an alias moved, and follow that to its end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import Alias, Model, Reason, Timeout, Version, Wait, Workspace, moment, say, seconds
from countersign_client.cli.printing import print_json
from countersign_client.errors import InvalidUsage, NotSignedIn, Unreachable

if TYPE_CHECKING:
    from countersign_client.wire import Json

_DEFAULT_TIMEOUT = "30m"
_EXITS = (
    "Exit status: 0 done (with --wait: applied, and live on every target); 1 refused by the gateway; 2 used wrongly; "
    "3 a login is needed, or the token has ended; 4 the gateway does not answer; 5 rejected; 6 blocked, as by a "
    "required check that failed; 7 failed or stale; 8 the time was over; 9 withdrawn, superseded, expired or rolled "
    "back; 130 interrupted. From 3 on, an open promotion stays open."
)


def promote(
    model: Model,
    version: Version,
    alias: Alias,
    reason: Reason = "",
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Not before this time, with its zone.", show_default=False),
    ] = None,
    workspace: Workspace = None,
    *,
    wait: Wait = False,
    timeout: Timeout = _DEFAULT_TIMEOUT,
    gateway: GatewayOption = None,
    as_json: AsJson = False,
) -> None:
    """Ask that a version hold an alias. Asking again for the same finds the same promotion.

    \b
    countersign promote --model iris --version 7 --alias production --reason "r2 0.52 on holdout"
    countersign promote -m iris -v 7 -a production --wait --timeout 2h
    countersign promote -m iris -v 7 -a production --at 2026-10-01T06:00:00+02:00
    """
    document: dict[str, Json] = {"model": model, "version": version, "alias": alias, "reason": reason}
    if workspace is not None:
        document["workspace"] = workspace
    if at is not None:
        document["scheduled_for"] = moment(at, "--at")
    _ask("/promotions", document, gateway=gateway, wait=wait, timeout=timeout, as_json=as_json)


def rollback(
    model: Model,
    alias: Alias,
    reason: Reason = "",
    workspace: Workspace = None,
    *,
    wait: Wait = False,
    timeout: Timeout = _DEFAULT_TIMEOUT,
    gateway: GatewayOption = None,
    as_json: AsJson = False,
) -> None:
    """Have the last good holder of an alias hold it again.

    \b
    countersign rollback --model iris --alias production --reason "worse in production" --wait
    """
    path = f"{_alias(model, alias)}/rollback"
    document: dict[str, Json] = {"reason": reason}
    query = {} if workspace is None else {"workspace": workspace}
    _ask(path, document, query=query, gateway=gateway, wait=wait, timeout=timeout, as_json=as_json)


def break_glass(
    model: Model,
    version: Version,
    alias: Alias,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why it cannot wait.", show_default=False)],
    ticket: Annotated[str, typer.Option("--ticket", help="Of the incident, as INC-42.", show_default=False)] = "",
    workspace: Workspace = None,
    *,
    wait: Wait = False,
    timeout: Timeout = _DEFAULT_TIMEOUT,
    gateway: GatewayOption = None,
    as_json: AsJson = False,
) -> None:
    """Move an alias at once, past the rules. It is an alarm, and somebody else reviews it afterwards.

    \b
    countersign break-glass --model iris --version 6 --alias production --reason "7 answers NaN" --ticket INC-42 --wait
    """
    path = f"{_alias(model, alias)}/break-glass"
    document: dict[str, Json] = {"version": version, "reason": reason, "ticket": ticket}
    query = {} if workspace is None else {"workspace": workspace}
    _ask(path, document, query=query, gateway=gateway, wait=wait, timeout=timeout, as_json=as_json)


def _alias(model: str, alias: str) -> str:
    return f"/models/{quote(model, safe='')}/aliases/{quote(alias, safe='')}"


def _ask(
    path: str,
    document: Mapping[str, Json],
    *,
    gateway: str | None,
    wait: bool,
    timeout: str,
    as_json: bool,
    query: Mapping[str, str] | None = None,
) -> None:
    """Open a promotion, or find it; then follow it, if that is wanted."""
    from countersign_client.following import created
    from countersign_client.wire import plain

    address, line, limit = chosen(gateway), say(), seconds(timeout, "--timeout")
    began = time.monotonic()
    made = created(address, path, document, query=query, within_s=limit if wait else 0, say=line)
    promotion_id = plain(made.get("id"))
    if not promotion_id:
        raise InvalidUsage(f"{address} answered without a promotion; is it a Countersign gateway?")
    line(f"{promotion_id}: {_about(made)}")
    if page := plain(made.get("console")):
        line(f"  for people: {page}")
    if not wait:
        if as_json:
            print_json(made)
        else:
            typer.echo(promotion_id)
        return
    left = began + limit - time.monotonic()
    follow_to_the_end(address, promotion_id, timeout_s=max(left, 0), as_json=as_json)


def follow_to_the_end(gateway: str, promotion_id: str, *, timeout_s: float, as_json: bool) -> None:
    """Say how a promotion goes until it ends, and end with its exit status."""
    from countersign_client.following import Exit, follow
    from countersign_client.wire import plain

    line = say()
    try:
        with stopped_as_by_ctrl_c():
            followed = follow(gateway, promotion_id, timeout_s=timeout_s, say=line)
    except KeyboardInterrupt:
        line(f"Interrupted. {_stays_open(promotion_id)}")
        raise typer.Exit(Exit.INTERRUPTED) from None
    except (NotSignedIn, Unreachable) as error:
        line(f"countersign: {error} {_stays_open(promotion_id)}")
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print_json(followed.detail)
    else:
        typer.echo(f"{promotion_id} {plain(followed.detail.get('state'))}")
    match followed.exit:
        case Exit.BLOCKED:
            line(f"countersign: blocked. {_stays_open(promotion_id)}")
        case Exit.TIMED_OUT:
            line(f"countersign: the time is over. {_stays_open(promotion_id)}")
    raise typer.Exit(followed.exit)


@contextmanager
def stopped_as_by_ctrl_c() -> Iterator[None]:
    """Who stops a pipeline sends SIGTERM: the same is said then."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _about(promotion: Mapping[str, object]) -> str:
    from countersign_client.wire import plain

    version, alias, model = (plain(promotion.get(name)) for name in ("to_version", "alias", "model"))
    return f"version {version} of {model} to {alias}"


def _stays_open(promotion_id: str) -> str:
    return (
        f"The promotion stays open: `countersign promotions show {promotion_id} --wait` follows it, and "
        f"`countersign withdraw {promotion_id}` takes it back; once it rolls out, "
        f"`countersign rollout go-back {promotion_id}` does."
    )


promote.__doc__ = f"{promote.__doc__}\n\n    {_EXITS}"
