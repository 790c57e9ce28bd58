"""What a data scientist writes to move an alias, and what MLflow's own client says to it, as JSON on the last line."""

from __future__ import annotations

import json
import sys

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

model, alias, version = sys.argv[1:]
try:
    MlflowClient().set_registered_model_alias(model, alias, version)
except MlflowException as refusal:
    print(json.dumps({"refused": True, "error_code": refusal.error_code, "message": str(refusal)}))
else:
    print(json.dumps({"refused": False}))
