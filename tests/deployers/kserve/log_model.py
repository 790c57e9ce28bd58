"""Log a model with MLflow, its artifacts in a bucket, and say where it lies. Runs in the Python of ``serving.py``.

Arguments: the address of the MLflow server, and the place of the artifacts.
"""

from __future__ import annotations

import sys
import uuid

import mlflow
import pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

server, place = sys.argv[1:]
mlflow.set_tracking_uri(server)
experiment = mlflow.create_experiment(f"iris-{uuid.uuid4().hex}", artifact_location=place)
flowers = pd.DataFrame({"length": [1.4, 1.3, 5.1, 5.9], "width": [0.2, 0.3, 1.8, 2.1]})
with mlflow.start_run(experiment_id=experiment):
    classifier = LogisticRegression().fit(flowers, [0, 0, 1, 1])
    signature = infer_signature(flowers, classifier.predict(flowers))
    logged = mlflow.sklearn.log_model(
        classifier, name="iris", signature=signature, pip_requirements=["scikit-learn", "skops"]
    )
print(mlflow.get_logged_model(logged.model_id).artifact_location)
