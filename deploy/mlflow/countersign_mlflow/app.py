"""`mlflow server --app-name countersign`: all of MLflow, behind the gate and with the guard."""

from __future__ import annotations

import os

from countersign_mlflow.assertions import Verifier
from countersign_mlflow.gate import Gate
from countersign_mlflow.guard import Guard, guarded_endpoints
from countersign_mlflow.secret import Misconfigured, secret_from


def create_app() -> Gate:
    """The factory that MLflow hands to uvicorn.

    Raises:
        Misconfigured: another server runs it, which would serve half of MLflow, and that without the gate.
        UnknownMlflow: this MLflow has not what is to be guarded.
    """
    # Here, because `mlflow server` imports this module too, where it needs none of them.
    from mlflow.server import app as flask_app
    from mlflow.server import handlers
    from mlflow.server.fastapi_app import app as mlflow_app

    server = os.environ.get("_MLFLOW_SGI_NAME", "uvicorn")
    if server != "uvicorn":
        raise Misconfigured(f"run MLflow with uvicorn, which is its default, and not with {server}")
    verifier = Verifier(_SECRET)
    endpoints = guarded_endpoints(flask_app, handlers.HANDLERS)
    flask_app.before_request(Guard(endpoints, handlers._get_request_message, verifier))  # noqa: SLF001 - its own parser
    prefix = os.environ.get(handlers.STATIC_PREFIX_ENV_VAR, "").rstrip("/")
    return Gate(mlflow_app, verifier, prefix)


# At import: `mlflow server` imports this module before it starts workers. A worker that cannot start is started again
# for ever, so a wrong secret has to end the command itself.
try:
    _SECRET = secret_from(os.environ)
except Misconfigured as error:
    raise SystemExit(f"countersign-mlflow: {error}") from None
