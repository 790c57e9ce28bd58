"""``countersign token`` and ``countersign exchange``: tokens for scripts and for CI.

What a script reads is on stdout, alone: the token. What a person reads is on stderr.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from countersign_client.cli.login import AsJson, Gateway, GatewayOption, chosen
from countersign_client.cli.printing import print_json, print_table
from countersign_client.errors import InvalidUsage
from countersign_client.scopes import Scope

token = typer.Typer(help="Your personal access tokens, for scripts and CI.", no_args_is_help=True)

_STDIN = Path("-")
_MOST = 1000


@token.command()
def create(
    name: Annotated[str, typer.Option("--name", help="What you call it; each of yours has a name of its own.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do at most; may be repeated.", show_default=False)],
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="How long it is good for.")] = 30,
    gateway: GatewayOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a token, and print it this once.

    A token that may `approve` or `admin` can do nothing else, and is good for one day: what CI holds can never approve.
    """
    from countersign_client.calls import call
    from countersign_client.wire import Json, plain

    document: dict[str, Json] = {"name": name, "scopes": [item.value for item in scope], "expires_in_days": days}
    made = call(chosen(gateway), "POST", "/tokens", document=document)
    if as_json:
        print_json(made)
        return
    typer.echo(plain(made.get("token")))
    typer.echo(
        f"Good until {_moment(made.get('expires_at'))}. It is not shown again; revoke it with "
        f"`countersign token revoke {plain(made.get('id'))}`.",
        err=True,
    )


@token.command(name="list")
def list_tokens(gateway: GatewayOption = None, *, as_json: AsJson = False) -> None:
    """List your tokens, newest first, without their secrets."""
    from countersign_client.calls import pages
    from countersign_client.wire import plain

    found = list(pages(chosen(gateway), "/tokens", {}, limit=_MOST))
    if as_json:
        print_json({"items": found})
        return
    table = Table("id", "name", "scopes", "good until", "last used")
    for item in found:
        scopes = item.get("scopes")
        table.add_row(
            plain(item.get("id")),
            plain(item.get("name")),
            plain(" ".join(map(str, scopes))) if isinstance(scopes, list) else "",
            f"revoked {_moment(item['revoked_at'])}" if item.get("revoked_at") else _moment(item.get("expires_at")),
            _moment(item.get("last_used_at")),
        )
    print_table(table)


@token.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `countersign token list` shows it.")],
    gateway: GatewayOption = None,
) -> None:
    """Revoke a token; it stops working within a second."""
    from urllib.parse import quote

    from countersign_client.calls import call

    call(chosen(gateway), "DELETE", f"/tokens/{quote(token_id, safe='')}")
    typer.echo(f"{token_id} is revoked.")


def exchange(
    gateway: Gateway = None,
    *,
    scope: Annotated[list[Scope], typer.Option(help="What the new token may do; may be repeated.", show_default=False)],
    file: Annotated[
        Path, typer.Option("--subject-token-file", help="Where the token to show is; `-` is stdin.")
    ] = _STDIN,
    variable: Annotated[
        str | None,
        typer.Option(
            "--subject-token-env", metavar="NAME", help="The environment variable that holds it.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Exchange a token that the gateway trusts for a short, narrow one of its own, and print that.

    For CI: show the pipeline's own identity token (GitHub Actions, GitLab), or a personal one, and hand less to a step.
    """
    from countersign_client.calls import exchanged

    shown = _subject_token(file, variable)
    # Ours are opaque; those of every issuer that is trusted by its keys are JWTs.
    answer = exchanged(chosen(gateway), shown, [item.value for item in scope], is_jwt=not shown.startswith("cs_"))
    if as_json:
        print_json(answer)
    else:
        typer.echo(answer["access_token"])


def _subject_token(file: Path, variable: str | None) -> str:
    """Never an argument: those are in the list of processes, and in the shell's history."""
    if variable is not None:
        if file != _STDIN:
            raise InvalidUsage("--subject-token-file and --subject-token-env: give one, not both.")
        found = os.environ.get(variable, "").strip()
        where = f"The environment variable {variable}"
    elif file == _STDIN:
        if sys.stdin.isatty():
            raise InvalidUsage("Which token? Pipe it in, or name a --subject-token-file or --subject-token-env.")
        found, where = sys.stdin.read().strip(), "What was piped in"
    else:
        try:
            found, where = file.read_text().strip(), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidUsage(f"--subject-token-file: {file} cannot be read ({type(error).__name__}).") from None
    if not found:
        raise InvalidUsage(f"{where} is empty; expected a token.")
    return found


def _moment(value: object) -> str:
    from countersign_client.wire import plain

    try:
        return f"{datetime.fromisoformat(str(value)).astimezone(UTC):%Y-%m-%d %H:%M} UTC" if value else "never"
    except ValueError:
        return plain(str(value))
