"""Trains a logistic regression on scikit-learn's bundled wine data.

Parameters, metrics on held-out rows, the dataset, and the model with its signature and an input example are logged to
MLflow; with ``--model`` it is registered too. The last line printed is JSON with what came of it.
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
from mlflow.models import infer_signature
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

EXPERIMENT = "wine"
TARGET = "target"
SEED = 7
NEEDED_TO_SERVE = ("scikit-learn", "skops", "pandas")


def train(model_name: str, strength: float) -> dict[str, object]:
    """Train, log, and register if asked; returns what came of it."""
    data = load_wine(as_frame=True).frame
    training, held_out = train_test_split(data, test_size=0.25, random_state=SEED, stratify=data[TARGET])
    if "MLFLOW_RUN_ID" not in os.environ:  # `mlflow run` has made the run already, in an experiment of its choice
        mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run() as run:
        features = training.drop(columns=TARGET)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength)).fit(features, training[TARGET])
        predicted = model.predict(held_out.drop(columns=TARGET))
        metrics = {
            "accuracy": float(accuracy_score(held_out[TARGET], predicted)),
            "f1": float(f1_score(held_out[TARGET], predicted, average="macro")),
        }
        if "MLFLOW_RUN_ID" not in os.environ:  # those of the command line are logged by `mlflow run`
            mlflow.log_param("strength", strength)
        mlflow.log_params({"algorithm": "logistic regression", "seed": SEED})
        mlflow.log_metrics(metrics)
        mlflow.log_input(mlflow.data.from_pandas(training, targets=TARGET, name="wine"), context="training")
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=infer_signature(features, predicted),
            input_example=features.head(2),
            pip_requirements=[f"{package}=={version(package)}" for package in NEEDED_TO_SERVE],
            registered_model_name=model_name or None,
        )
    return {
        "model": model_name or None,
        "version": str(logged.registered_model_version) if model_name else None,
        "run_id": run.info.run_id,
        "metrics": metrics,
    }


def main() -> None:
    """Read the options, train, print."""
    options = argparse.ArgumentParser(description="Train a logistic regression on the wine data.")
    options.add_argument("--model", default="", help="register it as this model; without: not at all")
    options.add_argument("--strength", type=float, default=1.0, help="the smaller, the simpler (default: %(default)s)")
    asked = options.parse_args()
    print(json.dumps(train(asked.model, asked.strength)))


if __name__ == "__main__":
    main()
