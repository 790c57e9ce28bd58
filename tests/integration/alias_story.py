"""A pipeline that sets aliases with MLflow's own unmodified client; prints what came of it as JSON.

Run by ``test_native_calls`` in a process of its own, with MLflow's address and token in the environment, and with
the names of the models as arguments.
"""

from __future__ import annotations

import json
import sys

from mlflow import MlflowClient
from mlflow.exceptions import RestException

client, told = MlflowClient(), {}
for model in sys.argv[1:]:
    try:
        client.set_registered_model_alias(model, "production", "1")
    except RestException as error:
        told[model] = [error.error_code, error.message]
    else:
        told[model] = ["set", client.get_model_version_by_alias(model, "production").version]
print(json.dumps(told))
