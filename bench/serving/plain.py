"""Ray Serve as one would use it without us: one application a model, MLflow's model in one deployment with Serve's own
defaults. Runs inside Ray, and knows nothing of Countersign.
"""

from __future__ import annotations

import asyncio
from typing import Any

import mlflow.pyfunc
import pandas as pd  # type: ignore[import-untyped]  # its stubs are another package, for this one line
from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import JSONResponse


class Plain:
    """One replica of one version. Nothing is checked: a frame is made of what comes, and predicted."""

    def __init__(self, uri: str, version: str) -> None:
        self._model = mlflow.pyfunc.load_model(uri)
        self._version = version

    async def __call__(self, request: Request) -> JSONResponse:
        split = (await request.json())["dataframe_split"]
        frame = pd.DataFrame(split["data"], columns=split["columns"])
        predictions = await asyncio.to_thread(self._model.predict, frame)
        return JSONResponse({"predictions": predictions.tolist()}, headers={"X-Model-Version": self._version})


def build(args: dict[str, Any]) -> Application:
    """What Serve calls with the application's ``args``."""
    return serve.deployment(name="Plain")(Plain).bind(args["uri"], args["version"])
