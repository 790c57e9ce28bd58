"""One `mlflow run`: a process of its own, whose lines are shown as they come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from countersign_client.bootstrapping.problems import Stopped
from countersign_client.bootstrapping.projects import MAIN, Project
from countersign_client.credentials import token_for
from countersign_client.following import Exit
from countersign_client.store import LoginStore
from countersign_client.wire import printable

SCOPES = ("track", "registry", "promote")
"""Of a token that is exchanged for a pipeline's identity: what training and registering take."""
_LAST_LINES = 20
_FAREWELL_S = 10
_TOKENS = ("COUNTERSIGN_TOKEN", "MLFLOW_TRACKING_TOKEN", "COUNTERSIGN_ID_TOKEN", "COUNTERSIGN_ID_TOKEN_FILE")
_OF_ANOTHER_RUN = frozenset(
    {
        "MLFLOW_RUN_ID",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
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


def train(run: Run, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Run a project to its end. Whoever interrupts this ends the project too.

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
        text=True,
        errors="replace",
        start_new_session=True,  # so that it can be ended with all that it started
    )
    try:
        assert process.stdout
        for line in process.stdout:
            shown = printable(line.rstrip())
            last.append(shown)
            say(f"[{run.project.name}] {shown}")
        status = process.wait()
    except BaseException:
        _end(process)
        raise
    if status != 0:
        told = "\n".join(f"  {line}" for line in last)
        raise Stopped(
            f"{run.project.name}: `mlflow run {run.project.path}` failed ({_ended(status)}). Its last lines:\n{told}",
            Exit.FAILED,
        )


def environment_for(gateway: str, manager: str) -> dict[str, str]:
    """This process's environment, as a project needs it: the gateway, a token, and the Python that runs this.

    Raises: as ``credentials.token_for``.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_RUN}
    kept |= {
        # What a project calls `python` is the one that has MLflow.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)]),
        "MLFLOW_TRACKING_URI": gateway,
        "PYTHONUNBUFFERED": "1",
    }
    if _uses_login(gateway) and manager == "local":
        # It is refreshed for as long as the training takes. An environment of its own does not have this package.
        return {**kept, "MLFLOW_TRACKING_AUTH": "countersign"}
    return {**kept, "MLFLOW_TRACKING_TOKEN": token_for(gateway, scopes=SCOPES)}


def _uses_login(gateway: str) -> bool:
    return not any(os.environ.get(name, "").strip() for name in _TOKENS) and LoginStore().get(gateway) is not None


def _end(process: subprocess.Popen[str]) -> None:
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
