"""The MLflow server: unmodified, on loopback only, SQLite and local artifacts, with what acts on its own turned off."""

from __future__ import annotations

import sys

from app.embedded.environment import DataFolder
from app.embedded.ports import LOOPBACK
from app.embedded.probes import answers
from app.embedded.supervisor import Part

HARDENING = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    "MLFLOW_ENABLE_ASSISTANT_SANDBOX": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
"""Jobs would run code beside the gateway and call MLflow past it; the assistant trusts whoever comes from loopback."""

WORKERS = 1


def mlflow_part(folder: DataFolder, port: int) -> Part:
    """`mlflow server` with its database and artifacts in the data folder."""
    url = f"http://{LOOPBACK}:{port}"

    async def is_healthy() -> bool:
        return await answers(f"{url}/health")

    return Part(
        name="mlflow",
        title="MLflow",
        command=[
            *(sys.executable, "-P", "-m", "mlflow", "server"),
            *("--host", LOOPBACK, "--port", str(port), "--workers", str(WORKERS)),
            # Relative to the folder it runs in: a URL cannot carry every path.
            *("--backend-store-uri", "sqlite:///mlflow.db"),
            *("--serve-artifacts", "--artifacts-destination", str(folder.artifacts)),
        ],
        environment=HARDENING,
        log=folder.logs / "mlflow.log",
        is_ready=is_healthy,
        address=url,
        folder=folder.mlflow,
        wave=1,
    )
