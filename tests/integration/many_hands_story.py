"""One model by many hands, with MLflow's own unmodified client; prints what came of it as JSON.

Run by ``test_contributions`` in a process of its own, with ``MLFLOW_TRACKING_URI``, the name of the model as its
argument, and the tokens of three people in ``TOKENS``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import mlflow
from mlflow import MlflowClient

runs_it, logs_it, registers_it = json.loads(os.environ["TOKENS"])


class Doubles(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is not typed
    def predict(self, context: Any, model_input: Any) -> Any:
        return model_input


os.environ["MLFLOW_TRACKING_TOKEN"] = runs_it
mlflow.set_experiment(sys.argv[1])
run = MlflowClient().create_run(mlflow.get_experiment_by_name(sys.argv[1]).experiment_id)

os.environ["MLFLOW_TRACKING_TOKEN"] = logs_it
with mlflow.start_run(run_id=run.info.run_id):
    logged = mlflow.pyfunc.log_model(name="doubles", python_model=Doubles(), pip_requirements=["mlflow"])

os.environ["MLFLOW_TRACKING_TOKEN"] = registers_it
version = mlflow.register_model(logged.model_uri, sys.argv[1])

json.dump({"run": run.info.run_id, "model": logged.model_id, "version": version.version}, sys.stdout)
