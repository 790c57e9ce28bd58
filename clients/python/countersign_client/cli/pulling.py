"""``countersign pull``: download a version, verified."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import ModelsUri, Workspace, say
from countersign_client.cli.printing import print_json
from countersign_client.cli.promoting import stopped_as_by_ctrl_c

if TYPE_CHECKING:
    from rich.progress import Progress as Shown

    from countersign_client.pulling import Progress


def pull(
    uri: ModelsUri,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Is made.", show_default=False)],
    version: Annotated[
        str | None, typer.Option("--version", "-v", help="Only if the alias means this one.", show_default=False)
    ] = None,
    workspace: Workspace = None,
    gateway: GatewayOption = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that holds another model.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=32, help="Files at a time.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Download a version into a folder, from where it lies, or through the gateway.

    Every file is verified, and the folder is there as a whole or not at all. If it has the digest already, nothing is
    downloaded; if an earlier try was interrupted, it is gone on with.

    \b
    countersign pull models:/iris@production ./model
    countersign pull models:/iris/7 ./model --force

    Exit status: 0 it is there; 1 refused, or the disk is full; 2 used wrongly, or there is something else in the
    folder; 3 a login is needed; 4 gateway or store do not answer; 7 what is there is not what was approved, or the
    alias moved meanwhile; 130 interrupted: run it again to go on.
    """
    from countersign_client.following import Exit
    from countersign_client.pulling import pull as pull_to

    address, line = chosen(gateway), say()
    try:
        with stopped_as_by_ctrl_c(), _bars() as progress:
            pulled = pull_to(
                uri,
                folder,
                gateway=address,
                workspace=workspace,
                version=version,
                force=force,
                at_once=jobs,
                progress=progress,
                say=line,
            )
    except KeyboardInterrupt:
        line("Interrupted. What is there is kept: run it again to go on.")
        raise typer.Exit(Exit.INTERRUPTED) from None
    if as_json:
        print_json(
            {
                "model": pulled.model,
                "version": pulled.version,
                "digest": pulled.digest,
                "folder": str(pulled.folder),
                "files": pulled.files,
                "size": pulled.size,
                "downloaded": pulled.downloaded,
            }
        )
        return
    how = f"verified, {pulled.digest}" if pulled.digest else "not verified: no promotion has pinned this version"
    already = "" if pulled.downloaded or not pulled.size else " It was there already."
    what = f"Version {pulled.version} of {pulled.model}" if pulled.version else pulled.model
    typer.echo(f"{what} is in {pulled.folder} ({how}).{already}")


@contextmanager
def _bars() -> Iterator[Progress | None]:
    """A bar on stderr, if somebody looks at it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as shown:
        yield _Bar(shown)


class _Bar:
    """All files together."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._task = shown.add_task("Asking …", total=None)

    def begin(self, files: int, size: int) -> None:
        self._shown.update(self._task, description=f"{files:,} file{'s' * (files != 1)}", total=size)

    def advance(self, size: int) -> None:
        self._shown.advance(self._task, size)
