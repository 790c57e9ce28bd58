"""A scientist's process: Python with MLflow's own client in it, that knows nothing of Countersign."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.platform import PATIENCE_S

STORY = Path(__file__).with_name("mlflow_client_in_full.py")

Told = dict[str, Any]


def environment(tracking_uri: str, token: str | None = None, **changed: str) -> dict[str, str]:
    """Of a process that uses one MLflow and nothing else. With a token it calls the gateway."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "COUNTERSIGN_"))}
    told = {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    return kept | told | ({"MLFLOW_TRACKING_TOKEN": token} if token else {}) | changed


class Scientist:
    """Such a process, at work in ``folder``. ``words`` are what comes after ``python``."""

    def __init__(self, folder: Path, environment: dict[str, str], *words: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def is_at_work(self) -> bool:
        return self.process.poll() is None

    def told(self) -> Any:
        """What it printed last, as JSON, when it has ended well."""
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, errors[-5000:]
        return json.loads(output.splitlines()[-1])

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def tell(folder: Path, environment: dict[str, str], prefix: str, chapter: str) -> Told:
    """One chapter of the story, as it was told."""
    told: Told = Scientist(folder, environment, str(STORY), prefix, chapter).told()[chapter]
    return told
