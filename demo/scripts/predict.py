"""Loads a model from a physical URI with MLflow, past any server; prints its predictions as JSON on the last line."""

from __future__ import annotations

import json
import sys

import mlflow.pyfunc

uri, rows = sys.argv[1:]
predictions = mlflow.pyfunc.load_model(uri).predict(json.loads(rows))
print(json.dumps([float(value) for value in predictions]))
