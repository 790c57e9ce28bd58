"""``countersign login``, ``logout``, ``whoami``: who this person is at a gateway, on this machine.

Exit status: 0 done, 1 refused, 2 wrong usage, 3 a login is needed, 4 the gateway does not answer.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from countersign_client import DEFAULT_SCOPES
from countersign_client.cli.printing import print_json
from countersign_client.errors import InvalidAddress, Refused, Unreachable
from countersign_client.scopes import Scope

Gateway = Annotated[
    str | None,
    typer.Argument(
        metavar="GATEWAY",
        help="The gateway's address, https://…; else COUNTERSIGN_URL, MLFLOW_TRACKING_URI, or the only one that you "
        "are signed in at.",
        show_default=False,
    ),
]
GatewayOption = Annotated[
    str | None,
    typer.Option(
        "--gateway",
        metavar="URL",
        help="The gateway's address, https://…; else COUNTERSIGN_URL, MLFLOW_TRACKING_URI, or the only one that you "
        "are signed in at.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")
_FAR_AWAY = ("SSH_CONNECTION", "SSH_TTY")


def login(
    gateway: Gateway = None,
    *,
    device: Annotated[
        bool | None,
        typer.Option(
            "--device/--browser",
            help="Sign in with a code, in a browser anywhere; or with this machine's browser. Without either: the "
            "browser, where there is a screen.",
            show_default=False,
        ),
    ] = None,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help=f"What the login may do at most; may be repeated. Without: {', '.join(DEFAULT_SCOPES)}.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Sign in at a gateway, and stay signed in.

    This command uses the login, and MLflow's client with MLFLOW_TRACKING_AUTH=countersign. Ask for `--scope approve` to
    approve promotions from here, and for `--scope admin` to administer.
    """
    from countersign_client.calls import call
    from countersign_client.signing_in import DeviceCode, by_browser, by_device
    from countersign_client.store import LoginStore
    from countersign_client.wire import plain

    address, scopes = chosen(gateway), [item.value for item in scope or ()] or list(DEFAULT_SCOPES)
    said = Console(stderr=True, highlight=False, soft_wrap=True)

    def show(code: DeviceCode) -> None:
        said.print("Open this page in a browser, on any machine, and sign in:\n")
        said.print(f"    {code.address}\n", markup=False)
        said.print("Allow it only if it shows this code:\n")
        said.print(f"    [bold]{escape(code.user_code)}[/bold]\n")

    def open_page(url: str) -> None:
        said.print("Your browser opens. If it does not, open this page on this machine:\n")
        said.print(f"    {url}\n", markup=False)
        webbrowser.open(url)

    by_code = not _has_screen() if device is None else device
    with said.status("Waiting for you in the browser …"):
        kept = by_device(address, scopes, show=show) if by_code else by_browser(address, scopes, open_page=open_page)
    who, until = kept.gateway, None
    try:
        # As this login, whatever token the environment holds.
        store = LoginStore()
        who = plain(call(kept.gateway, "GET", "/me", store=store).get("name")) or who
        until = _end_of_newest(call(kept.gateway, "GET", "/logins", query={"limit": "1"}, store=store))
    except (Refused, Unreachable):
        pass  # signed in all the same; this was for politeness
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Signed in at {kept.gateway} as {who}, for {', '.join(kept.scopes)}.", markup=False)
    if until:
        console.print(f"It renews itself until {until:%Y-%m-%d %H:%M} UTC.")
    console.print("\nFor MLflow's client:\n")
    console.print(f"    export MLFLOW_TRACKING_URI={kept.gateway}")
    console.print("    export MLFLOW_TRACKING_AUTH=countersign")
    if stronger := [name for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME") if name in os.environ]:
        console.print(f"    unset {' '.join(stronger)}    # MLflow prefers it to the login")


def logout(gateway: Gateway = None) -> None:
    """End the login, here and at the gateway."""
    from countersign_client.session import sign_out

    address = chosen(gateway)
    typer.echo(f"Signed out at {address}." if sign_out(address) else f"You were not signed in at {address}.")


def whoami(gateway: Gateway = None, *, as_json: AsJson = False) -> None:
    """Say as whom you are signed in, and what the login may do."""
    from countersign_client.calls import call
    from countersign_client.store import LoginStore
    from countersign_client.wire import plain

    address = chosen(gateway)
    me = call(address, "GET", "/me")
    kept = LoginStore().get(address)
    limited = me.get("scopes")
    scopes = limited if isinstance(limited, list) else list(kept.scopes) if kept else []
    if as_json:
        print_json({"gateway": address, **me, "scopes": scopes})
        return
    typer.echo(f"{plain(me.get('name'))} at {address}")
    for title, value in (
        ("id", me.get("id")),
        ("groups", _listed(me.get("groups"))),
        ("roles", _listed(me.get("roles"))),
        ("scopes", _listed(scopes)),
    ):
        typer.echo(f"  {title:<7} {plain(value)}")


def chosen(gateway: str | None) -> str:
    """The gateway that is meant.

    Raises:
        InvalidAddress: none is named, and there is not exactly one login.
    """
    from countersign_client.addresses import gateway_address
    from countersign_client.store import LoginStore

    if gateway:
        return gateway_address(gateway)
    if named := os.environ.get("COUNTERSIGN_URL", "").strip():
        return gateway_address(named)
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if tracking.startswith(("https://", "http://")):
        return gateway_address(tracking)
    known = sorted(LoginStore().all())
    if len(known) == 1:
        return known[0]
    where = f"You are signed in at {', '.join(known)}" if known else "You are signed in nowhere"
    raise InvalidAddress(f"Which gateway? {where}. Name its address (see --help), or set COUNTERSIGN_URL.")


def _has_screen() -> bool:
    """Whether a browser that is opened here would be seen."""
    if any(name in os.environ for name in _FAR_AWAY):
        return False
    return sys.platform == "darwin" or any(os.environ.get(name) for name in _SCREENS)


def _end_of_newest(page: Mapping[str, object]) -> datetime | None:
    items = page.get("items")
    newest = items[0] if isinstance(items, list) and items else None
    try:
        return datetime.fromisoformat(newest["expires_at"]).astimezone(UTC) if isinstance(newest, dict) else None
    except (KeyError, TypeError, ValueError):
        return None


def _listed(values: object) -> str:
    return ", ".join(map(str, values)) if isinstance(values, list) and values else "none"
