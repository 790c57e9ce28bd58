"""What is asked of MLflow under load, and the data it is asked about."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.proxy.load import Work
from bench.proxy.parts import PartFailed

RUNS, METRICS, MODEL, ALIAS = 50, 10, "bench", "champion"
SMALL_FILE = 4 * 1024
API, ARTIFACTS = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"
METRICS_A_BATCH = 10

STATIC_READ = Work("experiments/get", "GET", f"{API}/experiments/get?experiment_id=0", quick=True)
STATIC_REFUSED = Work("refused", "GET", STATIC_READ.path, expected=401, quick=True)
STATIC_PUBLIC = Work("health", "GET", "/health", quick=True)


@dataclass(frozen=True, slots=True)
class Seed:
    """What was put into MLflow: the experiment that is searched, and runs of another that are written to."""

    experiment: str
    written: tuple[str, ...]


def seed(url: str, artifacts: Path) -> Seed:
    """One experiment of ``RUNS`` runs with metrics, one model with a version and an alias, one small artifact."""
    experiment = _call(url, "experiments/create", {"name": "bench"})["experiment_id"]
    chance = random.Random(0)  # noqa: S311  # the same figures each time
    run = ""
    for _ in range(RUNS):
        run = _new_run(url, experiment)
        metrics = [
            {"key": f"metric-{key}", "value": chance.random(), "timestamp": 1, "step": 0} for key in range(METRICS)
        ]
        params = [{"key": f"param-{key}", "value": str(key)} for key in range(METRICS)]
        _call(url, "runs/log-batch", {"run_id": run, "metrics": metrics, "params": params})
    _call(url, "registered-models/create", {"name": MODEL})
    source = f"mlflow-artifacts:/{experiment}/{run}/artifacts/model"
    _call(url, "model-versions/create", {"name": MODEL, "source": source, "run_id": run})
    _call(url, "registered-models/alias", {"name": MODEL, "alias": ALIAS, "version": "1"})
    other = _call(url, "experiments/create", {"name": "bench-writes"})["experiment_id"]
    written = tuple(_new_run(url, other) for _ in range(RUNS))
    folder = artifacts / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.bin").write_bytes(chance.randbytes(SMALL_FILE))
    return Seed(experiment, written)


def works(data: Seed) -> Mapping[str, Work]:
    """Every request that is measured, by name."""
    point = {"timestamp": 1, "step": "@STEP@", "value": 0.5}
    metric = _numbered({"run_id": "@RUN@", "key": "loss", **point})
    batch = [{"key": f"metric-{key}", **point} for key in range(METRICS_A_BATCH)]
    metrics = _numbered({"run_id": "@RUN@", "metrics": batch})
    search = {
        "experiment_ids": [data.experiment],
        "filter": "metrics.`metric-1` > 0.1",
        "order_by": ["metrics.`metric-2` DESC"],
        "max_results": 25,
    }
    table = (
        Work("alias", "GET", f"{API}/registered-models/alias?name={MODEL}&alias={ALIAS}"),
        Work("download-uri", "GET", f"{API}/model-versions/get-download-uri?name={MODEL}&version=1"),
        Work("runs/search", "POST", f"{API}/runs/search", json.dumps(search)),
        Work("log-metric", "POST", f"{API}/runs/log-metric", metric, data.written),
        Work("log-batch", "POST", f"{API}/runs/log-batch", metrics, data.written),
        Work("artifact down", "GET", f"{ARTIFACTS}/bench/small.bin"),
        Work("artifact up", "PUT", f"{ARTIFACTS}/bench/up-@STEP@.bin", "x" * SMALL_FILE),
    )
    return {work.name: work for work in table}


def _new_run(url: str, experiment: str) -> str:
    run = _call(url, "runs/create", {"experiment_id": experiment, "start_time": 1})["run"]["info"]["run_id"]
    return str(run)


def _numbered(message: Mapping[str, object]) -> str:
    return json.dumps(message).replace('"@STEP@"', "@STEP@")


def _call(url: str, path: str, message: Mapping[str, object]) -> dict[str, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request("POST", f"{API}/{path}", json.dumps(message), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise PartFailed(f"MLflow answers {path} with {answer.status}: {said[:200].decode(errors='replace')}")
    found: dict[str, Any] = json.loads(said)
    return found
