"""The data scientist: MLflow's unmodified client in processes of its own, with a token and the gateway's address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from demo.failure import StoryFailed
from demo.platform import Connection

SCRIPTS = Path(__file__).parent / "scripts"
PROJECT = Path(__file__).parent.parent / "deploy" / "mlflow" / "example"
PATIENCE_S = 300


class Scientist:
    """Runs scripts as somebody who knows MLflow and nothing of Countersign."""

    def __init__(self, connection: Connection) -> None:
        self._access = {
            "MLFLOW_TRACKING_URI": connection.gateway,
            "MLFLOW_TRACKING_TOKEN": connection.tokens["scientist"],
        }

    def train(self, model: str, alpha: float) -> dict[str, Any]:
        """Train and register one version of a model."""
        told: dict[str, Any] = json.loads(
            _run(PROJECT / "train.py", "--model", model, "--alpha", str(alpha), access=self._access)
        )
        return told

    def set_alias(self, model: str, alias: str, version: str) -> dict[str, Any]:
        """Call ``set_registered_model_alias``; tells whether it was refused, and in which words."""
        told: dict[str, Any] = json.loads(_run(SCRIPTS / "set_alias.py", model, alias, version, access=self._access))
        return told


def predictions_of(uri: str, example: dict[str, Any]) -> list[float]:
    """What the model at a physical URI predicts for a request's rows, loaded with MLflow and no server at all."""
    split = example["dataframe_split"]
    rows = [dict(zip(split["columns"], row, strict=True)) for row in split["data"]]
    told: list[float] = json.loads(_run(SCRIPTS / "predict.py", uri, json.dumps(rows), access={}))
    return told


def _run(script: Path, *arguments: str, access: dict[str, str]) -> str:
    """Run a script to its end; the last line it printed, which is JSON."""
    try:
        done = subprocess.run(  # noqa: S603 - our own scripts
            [sys.executable, str(script), *arguments],
            env=_environment() | access,
            cwd=script.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StoryFailed(f"{script.name} did not end within {PATIENCE_S} seconds") from None
    if done.returncode != 0:
        raise StoryFailed(f"{script.name} failed:\n{done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip().splitlines()[-1]


def _environment() -> dict[str, str]:
    """This environment, without what would point MLflow elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    direct = ",".join(filter(None, [kept.get("NO_PROXY", ""), "127.0.0.1,localhost"]))
    return kept | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "NO_PROXY": direct,
        "no_proxy": direct,
    }
