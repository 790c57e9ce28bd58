"""``countersign digest``: the digest of a model's artifacts, as promotions pin it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app.domain.digests import Measured, StoredFile, measured


def digest(
    folder: Annotated[str, typer.Argument(help="A folder, or s3://bucket/prefix with AWS credentials at hand.")],
    *,
    files: Annotated[
        bool, typer.Option("--files", help="Print the lines that the digest is of, as sha256sum.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with every file.")] = False,
) -> None:
    """Print the tree digest of the artifacts in a folder.

    It is the digest that a promotion shows; `countersign digest FOLDER --files | sha256sum` prints the same, without
    `sha256:` before it.
    """
    uri = folder if folder.startswith("s3://") else f"{Path(folder).resolve().as_uri()}/"
    found = asyncio.run(_measure(uri))
    if as_json:
        rows = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in found.files]
        typer.echo(json.dumps({"digest": found.digest, "size": found.size, "files": rows}, ensure_ascii=False))
    elif files:
        typer.echo("".join(file.line for file in found.files), nl=False)
    else:
        typer.echo(found.digest)


async def _measure(uri: str) -> Measured:
    from app.adapters.object_store import ObjectStores

    store = ObjectStores()
    listed = await store.stored(uri)
    with _progress(listed) as progress:
        async with aclosing(store.digests(uri, listed, progress)) as found:
            return measured([file async for file in found])


@contextmanager
def _progress(files: Sequence[StoredFile]) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if a person looks at it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=sum(file.size for file in files))
        yield lambda read_bytes: bar.advance(task, read_bytes)
