"""The MLflow server: on loopback only, SQLite and local artifacts, with what acts on its own turned off.

It is started with the app of ``deploy/mlflow``, and so listens to the gateway and the worker alone.
"""

from __future__ import annotations

import secrets
import sys

from app.embedded.environment import DataFolder, secret
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


def assertion_settings(folder: DataFolder) -> dict[str, str]:
    """Where MLflow, the gateway and the worker find the secret that they share."""
    path, _ = secret(folder, "assertion.secret", lambda: secrets.token_hex(32))
    return {"COUNTERSIGN_ASSERTION_SECRET_FILE": str(path)}


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
            *("--app-name", "countersign"),
            *("--host", LOOPBACK, "--port", str(port), "--workers", str(WORKERS)),
            # Relative to the folder it runs in: a URL cannot carry every path.
            *("--backend-store-uri", "sqlite:///mlflow.db"),
            *("--serve-artifacts", "--artifacts-destination", str(folder.artifacts)),
        ],
        environment=HARDENING | assertion_settings(folder),
        log=folder.logs / "mlflow.log",
        is_ready=is_healthy,
        address=url,
        folder=folder.mlflow,
        wave=1,
    )
