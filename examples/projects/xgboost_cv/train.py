"""Trains XGBoost on scikit-learn's bundled breast cancer data; its cross-validation runs in parallel on Ray.

Parameters, the metrics of each fold, the dataset, and the model of all rows with its signature and an input example are
logged to MLflow; with ``--model`` it is registered too. The last line printed is JSON with what came of it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from statistics import mean, stdev

# Read when MLflow and Ray are imported; who set one of them is obeyed.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Or else it takes the whole project around the current folder for what the model needs.
os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import mlflow
import pandas as pd
import ray
from mlflow.models import infer_signature
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from xgboost import XGBClassifier

EXPERIMENT = "breast-cancer"
TARGET = "target"
SEED = 7
NEEDED_TO_SERVE = ("xgboost", "scikit-learn", "pandas")
Parameters = dict[str, float | int]


def classifier(parameters: Parameters) -> XGBClassifier:
    # One thread: the folds share the processors.
    return XGBClassifier(**parameters, n_jobs=1, random_state=SEED, eval_metric="logloss")


@ray.remote(num_cpus=1)
def judge(data: pd.DataFrame, training: list[int], held_out: list[int], parameters: Parameters) -> dict[str, float]:
    """How well one fold does on the rows that it has not seen."""
    seen, unseen = data.iloc[training], data.iloc[held_out]
    model = classifier(parameters).fit(seen.drop(columns=TARGET), seen[TARGET])
    probability = model.predict_proba(unseen.drop(columns=TARGET))[:, 1]
    return {
        "accuracy": float(accuracy_score(unseen[TARGET], probability > 0.5)),
        "auc": float(roc_auc_score(unseen[TARGET], probability)),
    }


@contextmanager
def ray_cluster() -> Iterator[str]:
    """The cluster of ``RAY_ADDRESS``, if this process can join one there; else a Ray of its own, until the end."""
    address = os.environ.get("RAY_ADDRESS", "")
    # The dashboard's address is for its REST API: no process joins a cluster there.
    joins = bool(address) and not address.startswith(("http://", "https://"))
    if joins:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    else:
        os.environ.pop("RAY_ADDRESS", None)
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield address if joins else "local"
    finally:
        ray.shutdown()


def cross_validate(data: pd.DataFrame, folds: int, parameters: Parameters) -> list[dict[str, float]]:
    """The metrics of each fold; all folds at a time, as far as there are processors."""
    rows = ray.put(data)
    splits = StratifiedKFold(folds, shuffle=True, random_state=SEED).split(data, data[TARGET])
    found = ray.get([judge.remote(rows, seen.tolist(), unseen.tolist(), parameters) for seen, unseen in splits])
    return list(found)


def train(model_name: str, folds: int, parameters: Parameters) -> dict[str, object]:
    """Cross-validate, fit on all rows, log, and register if asked; returns what came of it."""
    data = load_breast_cancer(as_frame=True).frame
    if "MLFLOW_RUN_ID" not in os.environ:  # `mlflow run` has made the run already, in an experiment of its choice
        mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run() as run:
        with ray_cluster() as cluster:
            judged = cross_validate(data, folds, parameters)
        metrics = {}
        for name in judged[0]:
            values = [each[name] for each in judged]
            metrics |= {f"cv_{name}": mean(values), f"cv_{name}_sd": stdev(values)}
            for fold, value in enumerate(values):
                mlflow.log_metric(f"fold_{name}", value, step=fold)
        features = data.drop(columns=TARGET)
        model = classifier(parameters).fit(features, data[TARGET])
        if "MLFLOW_RUN_ID" not in os.environ:  # those of the command line are logged by `mlflow run`
            mlflow.log_params({"folds": folds, **parameters})
        mlflow.log_params({"algorithm": "XGBoost", "seed": SEED, "ray": cluster})
        mlflow.log_metrics(metrics)
        mlflow.log_input(mlflow.data.from_pandas(data, targets=TARGET, name="breast-cancer"), context="training")
        logged = mlflow.xgboost.log_model(
            model,
            name="model",
            signature=infer_signature(features, model.predict(features)),
            input_example=features.head(2),
            model_format="json",
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
    options = argparse.ArgumentParser(description="Cross-validate XGBoost on Ray, and log the model of all rows.")
    options.add_argument("--model", default="", help="register it as this model; without: not at all")
    # MLflow's projects know numbers as floats alone.
    options.add_argument("--folds", type=float, default=5)
    options.add_argument("--rounds", type=float, default=60, help="trees (default: %(default)s)")
    options.add_argument("--depth", type=float, default=4, help="of a tree, at most (default: %(default)s)")
    options.add_argument("--eta", type=float, default=0.2, help="learning rate (default: %(default)s)")
    asked = options.parse_args()
    parameters = {"n_estimators": int(asked.rounds), "max_depth": int(asked.depth), "learning_rate": asked.eta}
    print(json.dumps(train(asked.model, int(asked.folds), parameters)))


if __name__ == "__main__":
    main()
