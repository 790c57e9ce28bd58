"""``countersign check``: verdicts of CI on a version, or on what a promotion promotes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import Workspace, seconds
from countersign_client.cli.printing import print_json, print_table
from countersign_client.errors import InvalidUsage

if TYPE_CHECKING:
    from countersign_client.wire import Json

check = typer.Typer(help="Verdicts of CI, which policies can ask for.", no_args_is_help=True)

OnModel = Annotated[str | None, typer.Option("--model", "-m", help="The registered model.", show_default=False)]
OnVersion = Annotated[str | None, typer.Option("--version", "-v", help="Its version.", show_default=False)]
OnPromotion = Annotated[
    str | None, typer.Option("--promotion", "-p", metavar="ID", help="Or what it promotes.", show_default=False)
]


class Outcome(StrEnum):
    PASS = "pass"  # noqa: S105  # a word, not a password
    FAIL = "fail"
    RUNNING = "running"


@check.command()
def post(
    name: Annotated[str, typer.Argument(help="As the policy calls it.", show_default=False)],
    outcome: Annotated[Outcome, typer.Option("--outcome", "-o", help="`running` is waited for.", show_default=False)],
    model: OnModel = None,
    version: OnVersion = None,
    promotion: OnPromotion = None,
    message: Annotated[str, typer.Option("--message", help="What was found, in a sentence.", show_default=False)] = "",
    link: Annotated[
        str | None, typer.Option("--link", metavar="URL", help="A page that says more.", show_default=False)
    ] = None,
    ttl: Annotated[
        str | None, typer.Option("--ttl", help="For how long it counts, as 24h.", show_default=False)
    ] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", help="Of what was checked, as sha256:…", show_default=False)
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Or where what was checked lies; its digest is taken.", show_default=False),
    ] = None,
    workspace: Workspace = None,
    gateway: GatewayOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Post a verdict. The newest counts; the policy says whose, and for how long at most.

    \b
    countersign check post fairness --model iris --version 7 --outcome pass --link "$CI_JOB_URL" --ttl 24h
    countersign check post fairness --promotion prm_… --outcome fail --message "parity 0.4"
    countersign check post fairness --model iris --version 7 --outcome pass --folder ./downloaded-model
    """
    from countersign_client.calls import call
    from countersign_client.wire import plain

    document: dict[str, Json] = {"outcome": outcome.value, "message": message}
    if link is not None:
        document["link"] = link
    if digest is not None and folder is not None:
        raise InvalidUsage("--digest and --folder: give one, not both.")
    if folder is not None:
        from countersign_client.digests import digest_of

        digest = digest_of(folder)
    if digest is not None:
        document["digest"] = digest
    if ttl is not None:
        document["expires_in"] = seconds(ttl, "--ttl")
    path, query = _place(model, version, promotion, workspace)
    answer = call(chosen(gateway), "POST", f"{path}/{quote(name, safe='')}", document=document, query=query)
    if as_json:
        print_json(answer)
    else:
        typer.echo(plain(answer.get("id")))


@check.command(name="list")
def list_checks(
    model: OnModel = None,
    version: OnVersion = None,
    promotion: OnPromotion = None,
    workspace: Workspace = None,
    gateway: GatewayOption = None,
    *,
    history: Annotated[bool, typer.Option("--all", help="Earlier verdicts too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the verdicts, the newest of each name."""
    from rich.table import Table

    from countersign_client.calls import call, items
    from countersign_client.wire import moment_of, name_of, plain

    path, query = _place(model, version, promotion, workspace)
    found = call(chosen(gateway), "GET", path, query={**query, **({"all": "true"} if history else {})})
    if as_json:
        print_json(found)
        return
    table = Table("name", "outcome", "message", "by", "at", "until", "link")
    for each in items(found.get("items")):
        table.add_row(
            *(plain(each.get(field)) for field in ("name", "outcome", "message")),
            name_of(each.get("posted_by")),
            *(moment_of(each.get(field)) for field in ("posted_at", "expires_at")),
            plain(each.get("link")),
        )
    print_table(table)


def _place(
    model: str | None, version: str | None, promotion: str | None, workspace: str | None
) -> tuple[str, dict[str, str]]:
    """Where the verdicts are. Raises ``InvalidUsage``."""
    if promotion is not None and model is None and version is None:
        return f"/promotions/{quote(promotion, safe='')}/checks", {}
    if promotion is None and model is not None and version is not None:
        path = f"/models/{quote(model, safe='')}/versions/{quote(version, safe='')}/checks"
        return path, {} if workspace is None else {"workspace": workspace}
    raise InvalidUsage("On what? Expected --model and --version, or --promotion.")
