"""``countersign resolve``: where the bytes are, once or whenever that changes, for people, scripts and side-cars."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import ModelsUri, Workspace, say
from countersign_client.cli.printing import print_json
from countersign_client.cli.promoting import stopped_as_by_ctrl_c
from countersign_client.errors import InvalidUsage

if TYPE_CHECKING:
    from countersign_client.resolving import Resolved

_SHOWN = ("model", "version", "alias", "uri", "digest", "promotion_id", "run_id", "source_uri")
_PAUSES_S = (1.0, 60.0)
"""Before a command that failed is run again: the first, and the longest."""
_GRACE_S = 30.0
"""Seconds that a command has to end when we are told to."""
_NOTHING_TOLD = threading.TIMEOUT_MAX


def resolve(
    uri: ModelsUri,
    field: Annotated[
        str | None, typer.Option("--field", "-f", metavar="NAME", help="Print this alone, as uri.", show_default=False)
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, and print it whenever it changes.")] = False,
    command: Annotated[
        str | None,
        typer.Option(
            "--exec", "-x", metavar="CMD", help="Run this, by the shell, with COUNTERSIGN_URI, …", show_default=False
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="With --watch: wait for one change, and end after it.")] = False,
    workspace: Workspace = None,
    gateway: GatewayOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Say where the bytes of a version are; with --watch, say it again whenever that changes.

    \b
    countersign resolve models:/iris@production
    aws s3 sync "$(countersign resolve models:/iris@production --field uri)" ./model
    countersign resolve models:/iris@production --watch --exec ./reload.sh

    CMD finds COUNTERSIGN_URI, COUNTERSIGN_VERSION, COUNTERSIGN_DIGEST, COUNTERSIGN_MODEL, COUNTERSIGN_ALIAS,
    COUNTERSIGN_PROMOTION_ID and COUNTERSIGN_REFERENCE (what was asked for) in its environment. With --watch it is run
    at once, and at each change; never twice at a time: what changes meanwhile waits, and of that the newest alone is
    run. If it fails it is run again, later and later, until it succeeds or there is a newer version. SIGTERM is passed
    on to it.

    Exit status: 0 done; 1 refused; 2 used wrongly; 3 a login is needed; 4 the gateway does not answer; 130 interrupted;
    with --exec and without --watch, that of CMD.
    """
    from countersign_client.following import Exit
    from countersign_client.resolving import resolve as resolve_at

    if once and not watch:
        raise InvalidUsage("--once: is for --watch.")
    if field is not None and as_json:
        raise InvalidUsage("--field and --json: give one, not both.")
    address, out = chosen(gateway), _Out(field, is_short=watch, as_json=as_json)
    running = _Command(command, uri) if command is not None else None
    try:
        with stopped_as_by_ctrl_c():
            if watch:
                _follow(_Newest(address, uri, workspace), out, running, once=once)
                return
            found = resolve_at(address, uri, workspace=workspace)
            out.show(found)
            if running:
                raise typer.Exit(running.run(found))
    except KeyboardInterrupt:
        if running:
            running.end()
        raise typer.Exit(Exit.INTERRUPTED) from None


def _follow(newest: _Newest, out: _Out, running: _Command | None, *, once: bool) -> None:
    """Print each change, and have the command done for the newest."""
    line = say()
    if once:
        next(newest)  # how it is now
    for found in newest:
        out.show(found)
        pause, longest = _PAUSES_S
        while running:
            status = running.run(found)
            if not status:
                break
            line(f"countersign: the command ended with {status} for version {found.version}. Again in {pause:g} s.")
            if newest.is_there(within_s=pause):
                break
            pause = min(2 * pause, longest)
        if once:
            return


class _Newest:
    """What a version is now, then what it has become: never what was overtaken while nobody asked."""

    def __init__(self, gateway: str, uri: str, workspace: str | None) -> None:
        self._changed = threading.Condition()
        self._found: Resolved | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._watch, args=(gateway, uri, workspace), name="watch", daemon=True).start()

    def __iter__(self) -> Iterator[Resolved]:
        return self

    def __next__(self) -> Resolved:
        self.is_there(within_s=_NOTHING_TOLD)
        with self._changed:
            found, self._found = self._found, None
            if found is not None:
                return found
            assert self._error is not None
            raise self._error

    def is_there(self, *, within_s: float) -> bool:
        """Whether there is something new, at once or in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._found is not None or self._error is not None, within_s)

    def _watch(self, gateway: str, uri: str, workspace: str | None) -> None:
        from countersign_client.resolving import follow

        try:
            for found in follow(uri, gateway=gateway, workspace=workspace, say=say()):
                self._tell(found, None)
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            self._tell(None, error)

    def _tell(self, found: Resolved | None, error: BaseException | None) -> None:
        with self._changed:
            self._found, self._error = found or self._found, error
            self._changed.notify_all()


class _Command:
    """Is run for one version at a time."""

    def __init__(self, command: str, uri: str) -> None:
        self._command, self._uri = command, uri
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, found: Resolved) -> int:
        """Its exit status, as a shell tells it: 128 and the signal, if one ended it."""
        # Not our group: who interrupts us at a terminal lets us tell it, once.
        self._process = subprocess.Popen(  # noqa: S603  # to run what the user gives is what this is for
            ["/bin/sh", "-c", self._command],
            env={**os.environ, **_environment(found, self._uri)},
            start_new_session=True,
        )
        status = self._process.wait()
        self._process = None
        return status if status >= 0 else 128 - status

    def end(self) -> None:
        """Pass SIGTERM on, and wait for it to end; it is killed if it does not."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_GRACE_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)


def _environment(found: Resolved, uri: str) -> Mapping[str, str]:
    from countersign_client.wire import plain

    given = {
        "COUNTERSIGN_REFERENCE": uri,
        "COUNTERSIGN_URI": found.uri,
        "COUNTERSIGN_VERSION": found.version,
        "COUNTERSIGN_MODEL": found.model,
        "COUNTERSIGN_ALIAS": found.alias,
        "COUNTERSIGN_DIGEST": found.digest,
        "COUNTERSIGN_PROMOTION_ID": plain(found.document.get("promotion_id")),
    }
    # What an earlier version had, and this one has not, must not be left.
    return {name: value or "" for name, value in given.items()}


class _Out:
    """Prints an answer as it was asked for."""

    def __init__(self, field: str | None, *, is_short: bool, as_json: bool) -> None:
        self._field, self._is_short, self._as_json = field, is_short, as_json

    def show(self, found: Resolved) -> None:
        from countersign_client.wire import plain, printable

        document = found.document
        if self._as_json:
            print_json(document)
        elif self._field is not None:
            if self._field not in document:
                raise InvalidUsage(
                    f"--field: there is no {self._field}; expected one of {', '.join(map(plain, document))}."
                )
            value = document[self._field]
            if isinstance(value, str):
                typer.echo(printable(value))
            elif value is not None:
                print_json(value)
            else:
                typer.echo("")
        elif self._is_short:
            what = f"version {found.version} of {found.model}" if found.version else found.model
            typer.echo(f"{what}  {printable(found.uri)}")
        else:
            for name in _SHOWN:
                if isinstance(value := document.get(name), str) and value:
                    typer.echo(f"{name:<13}{printable(value)}")
        sys.stdout.flush()
