"""Trains a regression on scikit-learn's bundled diabetes data, logs it to MLflow and registers it as a new version.

There is nothing of Countersign in here: MLFLOW_TRACKING_URI names the gateway, MLFLOW_TRACKING_TOKEN says who calls.
The last line printed is JSON with the number of the version.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version

# Read when MLflow is imported; who set one of them is obeyed.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Or else it takes the whole project around the current folder for what the model needs.
os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")

import mlflow
import pandas as pd
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.model_selection import train_test_split

EXPERIMENT = "diabetes"
TARGET = "target"
SEED = 7
NEEDED_TO_SERVE = ("scikit-learn", "skops", "pandas")


def train(model_name: str, alpha: float) -> dict[str, object]:
    """Train, log and register; returns what came of it."""
    data = load_diabetes(as_frame=True).frame
    training, held_out = train_test_split(data, test_size=0.25, random_state=SEED)
    if "MLFLOW_RUN_ID" not in os.environ:  # `mlflow run` has made the run already, in an experiment of its choice
        mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run() as run:
        features = training.drop(columns=TARGET)
        regression = Lasso(alpha=alpha).fit(features, training[TARGET])
        metrics = judge(regression, held_out)
        mlflow.log_params({"alpha": alpha, "algorithm": "Lasso", "seed": SEED})
        mlflow.log_metrics(metrics)
        mlflow.log_input(mlflow.data.from_pandas(training, targets=TARGET, name="diabetes"), context="training")
        logged = mlflow.sklearn.log_model(
            regression,
            name="model",
            signature=infer_signature(features, regression.predict(features)),
            input_example=features.head(2),
            pip_requirements=[f"{package}=={version(package)}" for package in NEEDED_TO_SERVE],
            registered_model_name=model_name,
        )
    return {
        "model": model_name,
        "version": str(logged.registered_model_version),
        "run_id": run.info.run_id,
        "alpha": alpha,
        "metrics": metrics,
    }


def judge(regression: Lasso, held_out: pd.DataFrame) -> dict[str, float]:
    """How well it does on rows that it has not seen."""
    predicted = regression.predict(held_out.drop(columns=TARGET))
    actual = held_out[TARGET]
    return {
        "rmse": float(root_mean_squared_error(actual, predicted)),
        "mae": float(mean_absolute_error(actual, predicted)),
        "r2": float(r2_score(actual, predicted)),
    }


def main() -> None:
    """Read the options, train, print."""
    options = argparse.ArgumentParser(description="Train a regression and register it as a new version of a model.")
    options.add_argument("--model", default="diabetes", help="the registered model (default: %(default)s)")
    options.add_argument("--alpha", type=float, default=0.1, help="strength of regularisation (default: %(default)s)")
    asked = options.parse_args()
    print(json.dumps(train(asked.model, asked.alpha)))


if __name__ == "__main__":
    main()
