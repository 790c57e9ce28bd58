"""What a notebook does that was started after ``countersign login``: MLflow's own client, without a token in sight.

Run by ``test_clients`` in a process of its own, with ``MLFLOW_TRACKING_URI`` and ``MLFLOW_TRACKING_AUTH`` set. Prints
what came of it as JSON, waits for a line, and tries once more.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import mlflow
from countersign_client import access_token
from countersign_client.store import LoginStore
from mlflow.exceptions import MlflowException

gateway = mlflow.get_tracking_uri()
experiment = mlflow.set_experiment("signed in by a login")
with mlflow.start_run() as run:
    mlflow.log_params({"depth": 3})
    first = access_token(gateway)
    # A quarter of an hour later.
    store = LoginStore()
    with store.locked():
        login = store.all()[gateway]
        store.put(replace(login, obtained_at=login.obtained_at - 1000, expires_at=login.expires_at - 1000))
    mlflow.log_metric("rmse", 0.5)
    mlflow.log_text("plain", "notes/readme.txt")
found = mlflow.get_run(run.info.run_id)
told = {
    "depth": found.data.params["depth"],
    "rmse": found.data.metrics["rmse"],
    "text": mlflow.artifacts.load_text(f"{found.info.artifact_uri}/notes/readme.txt"),
    "renewed": access_token(gateway) != first,
    "user": found.info.user_id,
}
print(json.dumps(told), flush=True)
sys.stdin.readline()
try:
    mlflow.get_run(run.info.run_id)
    print("still signed in", flush=True)
except MlflowException as error:
    print(error.message, flush=True)
