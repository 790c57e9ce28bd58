"""One `mlflow run`: a process of its own, whose lines are shown as they come."""

from __future__ import annotations

import codecs
import io
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from countersign_client.bootstrapping.problems import Stopped
from countersign_client.bootstrapping.projects import MAIN, Project
from countersign_client.credentials import Whence, token_for, whence
from countersign_client.following import Exit
from countersign_client.store import LoginStore
from countersign_client.wire import printable

SCOPES = ("track", "registry", "promote")
"""Of a token that is exchanged for a pipeline's identity: what training and registering take."""
_LAST_LINES = 20
_FAREWELL_S = 10
_LOOK_S = 0.2
"""Between two looks whether a process has ended."""
_PIECE = 64 * 1024
_LAST_BYTES = 1024 * 1024
"""Of what is written still when it has."""
_OF_ANOTHER_RUN = frozenset(
    {
        "MLFLOW_RUN_ID",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_TRACKING_AUTH",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    }
)


@dataclass(frozen=True, slots=True)
class Run:
    """A run to be made. ``name`` is one that no other has: by it the run is found."""

    project: Project
    manager: str
    experiment: str
    name: str

    def command(self) -> list[str]:
        parameters = [f"-P{name}={value}" for name, value in self.project.parameters.items()]
        return [
            *(sys.executable, "-P", "-m", "mlflow", "run", str(self.project.path)),
            *("--entry-point", MAIN, "--env-manager", self.manager),
            *(f"--experiment-name={self.experiment}", f"--run-name={self.name}", *parameters),
        ]


@dataclass(frozen=True, slots=True)
class Renewed:
    """An address that stands for the gateway (``renewing``), and what is to be shown there as a bearer token."""

    url: str
    secret: str = field(repr=False)


def train(run: Run, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Run a project to its end. Whoever interrupts this ends the project too; what it leaves running is not waited for.

    Raises:
        Stopped: it failed; with its last lines.
    """
    last: deque[str] = deque(maxlen=_LAST_LINES)
    process = subprocess.Popen(  # noqa: S603  # without a shell; what it runs is what was asked for
        run.command(),
        env=dict(environment),
        cwd=run.project.path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,  # so that it can be ended with all that it started
    )
    try:
        for line in _lines(process):
            shown = printable(line.rstrip())
            last.append(shown)
            say(f"[{run.project.name}] {shown}")
        status = process.wait()
    except BaseException:
        _end(process)
        raise
    if process.stdout:
        process.stdout.close()
    if status != 0:
        told = "\n".join(f"  {line}" for line in last)
        raise Stopped(
            f"{run.project.name}: `mlflow run {run.project.path}` failed ({_ended(status)}). Its last lines:\n{told}",
            Exit.FAILED,
        )


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """What a process writes, until it has ended: what it started may hold its output for longer."""
    assert process.stdout
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    rest, left = "", _LAST_BYTES
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while left > 0:
            has_ended = process.poll() is not None
            if selector.select(0 if has_ended else _LOOK_S):
                piece = os.read(process.stdout.fileno(), _PIECE)
                if not piece:
                    break
                *lines, rest = (rest + decoder.decode(piece)).split("\n")
                yield from lines
                left -= len(piece) if has_ended else 0
            elif has_ended:
                break
    if rest := rest + decoder.decode(b"", final=True):
        yield rest


def environment_for(gateway: str, renewed: Renewed | None = None) -> dict[str, str]:
    """This process's environment, as a project needs it: the gateway, a token, and the Python that runs this.

    ``renewed`` stands for the gateway, where ``needs_renewing`` says so.

    Raises: as ``credentials.token_for``.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_RUN}
    kept |= {
        # What a project calls `python` is the one that has MLflow.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)]),
        "MLFLOW_TRACKING_URI": gateway,
        "PYTHONUNBUFFERED": "1",
    }
    if renewed is not None:
        return {**kept, "MLFLOW_TRACKING_URI": renewed.url, "MLFLOW_TRACKING_TOKEN": renewed.secret}
    if whence(gateway) is Whence.GIVEN:
        return {**kept, "MLFLOW_TRACKING_TOKEN": token_for(gateway, scopes=SCOPES)}
    kept.pop("MLFLOW_TRACKING_TOKEN", None)  # of another server
    return {**kept, "COUNTERSIGN_URL": gateway, "MLFLOW_TRACKING_AUTH": "countersign"}


def needs_renewing(gateway: str, manager: str) -> bool:
    """Whether a project could not have its token renewed by itself: it lasts for minutes, and MLflow's client asks
    this package for the next one only where it is installed. Raises ``UnsafeStore``.
    """
    found = whence(gateway)
    if found is Whence.GIVEN:
        return False
    # With both, the package would take the login.
    return manager != "local" or (found is Whence.IDENTITY and LoginStore().get(gateway) is not None)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            continue
        break
    if process.stdout:
        process.stdout.close()


def _ended(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
