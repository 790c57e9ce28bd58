"""Servers of models without Ray: MLflow's own, and MLServer, each as it installs itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.embedded.ports import LOOPBACK
from bench.proxy.load import Contender
from bench.proxy.parts import answers, free_port, running
from bench.serving.models import NAME, Version

INVOCATIONS = "/invocations"
"""Where both take MLflow's own protocol."""


@contextmanager
def mlflow_models_serve(version: Version, folder: Path) -> Iterator[Contender]:
    """``mlflow models serve`` with one worker, its default, and the packages that we have."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", str(version.folder), "--host", LOOPBACK, "--port", str(port)]
    # It asks a shell for uvicorn.
    path = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    with running("mlflow", command, answers(port, "/ping"), folder=folder, environment=path) as process:
        yield Contender("mlflow models serve", f"http://{LOOPBACK}:{port}", (process,))


@contextmanager
def mlserver(version: Version, folder: Path, python: Path) -> Iterator[Contender]:
    """MLServer with MLflow's runtime, from the environment of the interpreter ``python``; one worker, its default."""
    http, grpc, metrics = free_port(), free_port(), free_port()
    environment = {
        "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_mlflow.MLflowRuntime",
        "MLSERVER_MODEL_NAME": NAME,
        "MLSERVER_MODEL_URI": str(version.folder),
        "MLSERVER_HOST": LOOPBACK,
        "MLSERVER_HTTP_PORT": str(http),
        "MLSERVER_GRPC_PORT": str(grpc),
        "MLSERVER_METRICS_PORT": str(metrics),
    }
    command = [str(python.with_name("mlserver")), "start", str(version.folder)]
    ready = answers(http, "/v2/health/ready")
    with running("mlserver", command, ready, folder=folder, environment=environment) as process:
        yield Contender("MLServer", f"http://{LOOPBACK}:{http}", (process,))
