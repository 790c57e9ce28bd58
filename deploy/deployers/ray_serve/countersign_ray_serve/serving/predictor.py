"""A loaded model and the HTTP meaning of its answers. Usable without Ray."""

from __future__ import annotations

import json
import logging
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server

from countersign_ray_serve.serving.payloads import MalformedPayload, normalise

Answer = tuple[int, str]
LONGEST_MESSAGE = 2000
NOT_UNDERSTOOD = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What reading code raises over an input that it does not expect, and a model over one that no signature has judged."""
NOT_ACCEPTED = (ValueError,)
"""What a model raises over values of the right type: scikit-learn over a missing value or an unknown category."""

logger = logging.getLogger("ray.serve")


class _Watched:
    """The model as MLflow's scoring code calls it: remembers how far the prediction got.

    That code makes one ``BAD_REQUEST`` of whatever a model raises, a bug of the model or a fault of the client.
    """

    def __init__(self, model: PyFuncModel) -> None:
        self.metadata = model.metadata
        self._model = model
        self.has_predicted = False
        self.raised: Exception | None = None

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        try:
            predictions = self._model.predict(data, params=params)
        except MlflowException:
            raise  # the signature does not take the input
        except Exception as error:
            self.raised = error
            raise
        self.has_predicted = True
        return predictions


class Predictor:
    """Answers the body of a request with a status and JSON text."""

    def __init__(self, model: PyFuncModel) -> None:
        self._model = model
        self._schema = model.metadata.get_input_schema()  # type: ignore[no-untyped-call]
        named = self._schema is not None and not self._schema.is_tensor_spec() and self._schema.has_input_names()
        self._columns: list[str] = list(self._schema.input_names()) if named else []
        is_hinted = getattr(model.metadata, "_is_signature_from_type_hint", bool)  # MLflow's scoring code asks the same
        self._is_hinted: bool = is_hinted()

    def predict(self, body: bytes) -> Answer:
        """Status and JSON text: 400 for what the client sent wrongly, 500 for what the model does wrongly."""
        model = _Watched(self._model)
        try:
            payload = normalise(body, self._columns, is_hinted=self._is_hinted)
            answer = scoring_server.invocations(payload, "application/json", model, self._schema)  # type: ignore[no-untyped-call]
            return answer.status, _standard_json(answer.response)
        except MalformedPayload as error:
            return refusal(400, str(error))
        except Exception as error:
            if model.raised is not None:
                return self._of_the_model(model.raised)
            if model.has_predicted:
                logger.exception("The predictions cannot be written as JSON")
                return refusal(500, f"The model's predictions cannot be written as JSON: {_named(error)}")
            if isinstance(error, MlflowException):
                # MLflow marks a column of the wrong type as an internal error, and repeats the whole input first.
                return refusal(400, error.message.rpartition("\nError: ")[2])
            if isinstance(error, NOT_UNDERSTOOD):
                return refusal(400, f"The input was not understood: {_named(error)}")
            logger.exception("A request failed")
            return refusal(500, f"The request failed: {type(error).__name__}")

    def _of_the_model(self, error: Exception) -> Answer:
        logger.warning("The model failed", exc_info=error)
        if isinstance(error, NOT_UNDERSTOOD if self._schema is None else NOT_ACCEPTED):
            return refusal(400, f"The model does not take this input: {_named(error)}")
        return refusal(500, f"The model failed: {_named(error)}")


def refusal(status: int, message: str) -> Answer:
    """An error in the shape MLflow's clients read."""
    code = "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR"
    return status, json.dumps({"error_code": code, "message": message[:LONGEST_MESSAGE]})


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _standard_json(text: str) -> str:
    """JSON has no NaN and no infinity (RFC 8259 §6): they become ``null``, as in a browser."""
    if "NaN" not in text and "Infinity" not in text:
        return text
    return json.dumps(json.loads(text, parse_constant=lambda _: None), allow_nan=False)
