"""The one model that everybody serves: scikit-learn's, as MLflow saves it, in two versions that load and one that does
not.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow.sklearn
from countersign_deployer.digests import tree_digest
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes  # type: ignore[import-untyped]  # it has no types
from sklearn.linear_model import Lasso  # type: ignore[import-untyped]  # it has no types

NAME = "diabetes"
FIRST, SECOND, BROKEN = "1", "2", "3"
ALPHAS = {FIRST: 1.0, SECOND: 0.1}
ROWS = 1

Predictions = Sequence[float]


@dataclass(frozen=True, slots=True)
class Version:
    """A version's bytes. ``predictions``: what it says to :attr:`Models.body`; nothing if it cannot be loaded."""

    number: str
    folder: Path
    digest: str
    predictions: Predictions

    @property
    def uri(self) -> str:
        return f"{self.folder.as_uri()}/"


@dataclass(frozen=True, slots=True)
class Models:
    """All versions, and the request that all of them are asked."""

    versions: Mapping[str, Version]
    body: str

    @property
    def expected(self) -> Mapping[str, Predictions]:
        """The right answers, by version."""
        return {number: version.predictions for number, version in self.versions.items() if version.predictions}


def save_models(root: Path) -> Models:
    """Train the versions, and save each in a folder below ``root``."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it misses pip, which nobody needs here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow and scikit-learn warn about themselves while they save
        data = load_diabetes(as_frame=True).frame
        features = data.drop(columns="target")
        asked = features.head(ROWS)
        versions = {}
        for number, alpha in ALPHAS.items():
            regression = Lasso(alpha=alpha).fit(features, data["target"])
            signature = infer_signature(features, regression.predict(features))
            folder = root / number
            mlflow.sklearn.save_model(
                regression, str(folder), signature=signature, pip_requirements=["scikit-learn", "skops"]
            )
            predictions = [float(value) for value in regression.predict(asked)]
            versions[number] = Version(number, folder, tree_digest(folder), predictions)
    broken = shutil.copytree(versions[SECOND].folder, root / BROKEN)
    for file in broken.glob("model.*"):
        file.write_bytes(b"not a model")
    versions[BROKEN] = Version(BROKEN, broken, tree_digest(broken), [])
    split = {"columns": list(asked.columns), "data": asked.to_numpy().tolist()}
    return Models(versions, json.dumps({"dataframe_split": split}))
