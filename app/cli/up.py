"""`countersign up`: everything on one machine, for a first look, for demos and for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from app.domain.errors import CountersignError

if TYPE_CHECKING:
    from app.embedded.connection import Connection
    from app.embedded.environment import DataFolder
    from app.embedded.stack import Plan, Stack

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CANNOT_START = 1


def up(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder that keeps everything; made if missing.")] = Path(
        ".countersign"
    ),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the gateway.")] = 8080,
    host: Annotated[str, typer.Option("--host", help="Address the gateway listens on.")] = "127.0.0.1",
    with_ray: Annotated[
        bool, typer.Option("--with-ray", help="Also start a local Ray head with Ray Serve, and its deployer.")
    ] = False,
) -> None:
    """Start PostgreSQL, an identity provider, MLflow, the gateway and the worker, and keep them running until Ctrl-C.

    Addresses, demo people and their access tokens are written to connection.json in the data folder. Further issuers
    and web clients are read from identity.yaml there, if you write one (see COUNTERSIGN_IDENTITY_FILE).
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        _run(data_dir, host, port, with_ray, console)
    except (CountersignError, OSError) as error:
        message = " ".join(str(error).split())
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]countersign up:[/red] {escape(message)}")
        raise typer.Exit(CANNOT_START) from None


def _run(data_dir: Path, host: str, port: int, with_ray: bool, console: Console) -> None:
    # Imported here: other commands must start without what only this one needs.
    from app.embedded.environment import locked, open_data_folder, require_packages
    from app.embedded.ports import require_free

    require_packages(with_ray=with_ray)
    from app.embedded.processes import stop_leftovers
    from app.embedded.stack import Stack, make_plan

    def say(line: str) -> None:
        console.print(escape(line))

    folder = open_data_folder(data_dir)
    with locked(folder):
        for name in stop_leftovers(folder.processes_file):
            say(f"stopped {name}, left running by a `countersign up` that was killed")
        folder.connection_file.unlink(missing_ok=True)
        require_free(port, host)
        plan = make_plan(folder, host, port, with_ray=with_ray, say=say)
        asyncio.run(_serve(Stack(plan, say), plan, console))


async def _serve(stack: Stack, plan: Plan, console: Console) -> None:
    began = time.monotonic()
    console.print(f"[bold]Countersign[/bold] is starting; data and logs: {escape(str(plan.folder.root))}")
    with _signals() as asked_to_stop:
        starting = asyncio.create_task(stack.start())
        stop = asyncio.create_task(asked_to_stop.wait())
        try:
            await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                _summarise(starting.result(), plan.folder, time.monotonic() - began, console)
                await stop
        finally:
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, CountersignError):
                await starting
            console.print("stopping …")
            await stack.stop()
            console.print("stopped")


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """An event that is set when somebody asks this process to stop. Asking twice does not cut the clean-up short."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, asked.set)
    try:
        yield asked
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def _summarise(connection: Connection, folder: DataFolder, seconds: float, console: Console) -> None:
    from app.embedded.identity import PEOPLE, ROLES, SERVICE_GROUPS

    rows = {
        "gateway": connection.gateway,
        "sign in": f"{connection.gateway}/auth/sign-in",
        "console": connection.console,
        "API docs": f"{connection.gateway}/control/docs",
        "identity provider": connection.issuer,
        "MLflow itself": f"{connection.upstream}  (answers the gateway and the worker alone)",
        **{f"Ray {name}": address for name, address in (connection.ray or {}).items()},
        "connection file": f"{folder.connection_file}  (addresses, demo people, passwords, access tokens)",
    }
    console.print(f"\n[bold green]ready[/bold green] after {seconds:.1f} s\n")
    for name, value in rows.items():
        console.print(f"  {name:<18} {escape(value)}")
    people = [name for name in connection.people if PEOPLE[name] != SERVICE_GROUPS]
    console.print(f"\nPeople who may sign in: {', '.join(people)}. The password of one, as scientist:\n")
    console.print(f"  cat {escape(str(folder.secrets / 'scientist.password'))}")
    console.print("\nTo sign in to the command line and to MLflow's client:\n")
    command = "countersign" if shutil.which("countersign") else str(Path(sys.executable).with_name("countersign"))
    console.print(f"  {escape(command)} login {connection.gateway}")
    console.print(f"  export MLFLOW_TRACKING_URI={connection.gateway} MLFLOW_TRACKING_AUTH=countersign")
    console.print("\nOr from a program as one of the demo people, for example:\n")
    extract = f"import json; print(json.load(open('{folder.connection_file}'))['scientist']['access_token'])"
    console.print(f"  export MLFLOW_TRACKING_URI={connection.gateway}")
    console.print(f'  export MLFLOW_TRACKING_TOKEN="$(python3 -c {escape(repr_shell(extract))})"')
    console.print("\nFor the operator's commands, `apply`, `policies`, `explain-access` and `audit`:\n")
    console.print(f"  export COUNTERSIGN_DATABASE_URL={escape(shlex.quote(connection.database))}")
    console.print(f"  export COUNTERSIGN_ROLES={escape(shlex.quote(json.dumps(ROLES)))}")
    console.print("\nCtrl-C stops everything.\n")


def repr_shell(word: str) -> str:
    """A word in double quotes for a POSIX shell, where it stands inside ``"$(…)"``."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`") + '"'
