"""The backend of one model version: loads it once, answers the router. Runs inside Ray."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import mlflow.pyfunc
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server
from ray import serve
from ray.serve import Application

from countersign_ray_serve.serving.artifacts import fetch
from countersign_ray_serve.serving.payloads import MalformedPayload, normalise

Answer = tuple[int, str]
LONGEST_MESSAGE = 2000

logger = logging.getLogger("ray.serve")


class Predictor:
    """A loaded model and the HTTP meaning of its answers. Usable without Ray."""

    def __init__(self, model: PyFuncModel) -> None:
        self._model = model
        self._schema = model.metadata.get_input_schema()  # type: ignore[no-untyped-call]
        named = self._schema is not None and not self._schema.is_tensor_spec() and self._schema.has_input_names()
        self._columns: list[str] = list(self._schema.input_names()) if named else []

    def predict(self, body: bytes) -> Answer:
        """Status and JSON text. What the client sent wrongly is a 400 with the reason."""
        try:
            payload = normalise(body, self._columns)
            answer = scoring_server.invocations(payload, "application/json", self._model, self._schema)  # type: ignore[no-untyped-call]
        except MalformedPayload as error:
            return _refusal(400, "BAD_REQUEST", str(error))
        except MlflowException as error:
            # MLflow marks a column of the wrong type as an internal error; in here it is always about the input.
            status = error.get_http_status_code()  # type: ignore[no-untyped-call]
            return _refusal(status if 400 <= status < 500 else 400, "BAD_REQUEST", error.message)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
            logger.warning("An input was not understood", exc_info=True)
            return _refusal(400, "BAD_REQUEST", f"The input was not understood: {type(error).__name__}: {error}")
        return answer.status, answer.response


class Backend:
    """One replica of one version."""

    def __init__(self, uri: str, version: str, digest: str) -> None:
        self._version = version
        self._predictor = Predictor(mlflow.pyfunc.load_model(fetch(uri, digest)))

    async def ready(self) -> str:
        """The version that this replica has loaded."""
        return self._version

    async def predict(self, body: bytes) -> tuple[int, str, str]:
        """Status, JSON text and version; on a thread, so that health checks are answered meanwhile."""
        status, text = await asyncio.to_thread(self._predictor.predict, body)
        return status, text, self._version


def build_backend(args: dict[str, Any]) -> Application:
    """What Serve calls with the application's ``args``."""
    deployment = serve.deployment(name="Backend")(Backend)
    return deployment.bind(args["uri"], args["version"], args["digest"])


def _refusal(status: int, code: str, message: str) -> Answer:
    return status, json.dumps({"error_code": code, "message": message[:LONGEST_MESSAGE]})
