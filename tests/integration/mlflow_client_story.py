"""What a data scientist does, with MLflow's own unmodified client; prints what came of it as JSON.

Run by ``test_proxy`` in a process of its own, with ``MLFLOW_TRACKING_URI`` and ``MLFLOW_TRACKING_TOKEN`` set.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.linear_model import LinearRegression

told: dict[str, object] = {}
client = MlflowClient()

experiment_id = mlflow.create_experiment("a story", tags={"team": "one"})
mlflow.set_experiment(experiment_id=experiment_id)
features, target = np.array([[1.0], [2.0], [3.0]]), np.array([2.0, 4.0, 6.0])

with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_name="first") as run:
    mlflow.log_params({"depth": 3})
    mlflow.log_metrics({"rmse": 0.5}, step=1)
    mlflow.log_metrics({"rmse": 0.25}, step=2)
    mlflow.set_tag("note", "ü & more")
    mlflow.log_input(mlflow.data.from_numpy(features, targets=target, name="points"))
    for name, size in (("empty.bin", 0), ("größe 1.bin", 20 * 1024 * 1024)):
        Path(folder, name).write_bytes(bytes(range(256)) * (size // 256))
        mlflow.log_artifact(str(Path(folder, name)), "some folder")
    mlflow.log_text("plain", "notes/readme.txt")
    model = LinearRegression().fit(features, target)
    logged = mlflow.sklearn.log_model(
        model, name="line", input_example=features, registered_model_name="line", pip_requirements=["scikit-learn"]
    )

told["source"] = client.get_model_version("line", "1").source
told["artifacts"] = sorted(item.path for item in client.list_artifacts(run.info.run_id, "some folder"))
with tempfile.TemporaryDirectory() as folder:
    got = Path(client.download_artifacts(run.info.run_id, "some folder", folder))
    told["downloaded"] = {item.name: item.stat().st_size for item in sorted(got.iterdir())}
    told["same bytes"] = (got / "größe 1.bin").read_bytes() == bytes(range(256)) * (20 * 1024 * 4)
told["history"] = [each.value for each in client.get_metric_history(run.info.run_id, "rmse")]
told["runs"] = [
    each.info.run_name for each in client.search_runs([experiment_id], "metrics.rmse < 1 and tags.note = 'ü & more'")
]
told["dataset"] = [each.dataset.name for each in client.get_run(run.info.run_id).inputs.dataset_inputs]
told["logged models"] = [each.name for each in mlflow.search_logged_models([experiment_id], output_format="list")]

again = mlflow.register_model(f"runs:/{run.info.run_id}/line", "line")
client.update_model_version("line", again.version, description="the second")
client.set_model_version_tag("line", again.version, "checked", "yes")
client.set_registered_model_tag("line", "owner", "one")
client.delete_registered_model_tag("line", "owner")
client.set_registered_model_alias("line", "staging", again.version)
told["alias"] = client.get_model_version_by_alias("line", "staging").version
loaded = mlflow.pyfunc.load_model("models:/line@staging")
told["predicted"] = round(float(loaded.predict(np.array([[4.0]]))[0]), 6)
told["versions"] = sorted(each.version for each in client.search_model_versions("name = 'line'"))
client.delete_registered_model_alias("line", "staging")

with mlflow.start_span("question") as span:
    span.set_inputs({"asked": 6})
    span.set_outputs({"answer": 42})
mlflow.flush_trace_async_logging()
told["traces"] = len(mlflow.search_traces(locations=[experiment_id], return_type="list"))

mlflow.genai.register_prompt(name="greeting", template="Hello {{name}}")
told["prompt"] = mlflow.genai.load_prompt("prompts:/greeting/1").template

gone = client.create_run(experiment_id)
client.delete_run(gone.info.run_id)
client.restore_run(gone.info.run_id)
client.set_terminated(gone.info.run_id)
told["lifecycle"] = client.get_run(gone.info.run_id).info.lifecycle_stage
client.delete_logged_model(logged.model_id)

try:
    client.create_webhook("hook", "https://example.com", [])
except mlflow.exceptions.MlflowException as error:
    told["refused"] = [error.error_code, error.message]

json.dump(told, sys.stdout)
