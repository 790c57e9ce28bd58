"""Request bodies of predictions: the shapes clients send, brought to the ones MLflow's scoring code reads. Pure.

MLflow's own keys (``inputs``, ``instances``, ``dataframe_split``, ``dataframe_records``, and the chat and completion
keys) keep their meaning. A raw list or object is taken as the input itself. Rows for a model with named columns
become a data frame: feeding them as a bare array would bypass the column names and the casts of the signature. A model
whose signature comes from type hints gets a list of what its hint names, as it was sent: MLflow takes nothing but
``inputs`` for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

FORMATS = ("inputs", "instances", "dataframe_split", "dataframe_records")
CHAT_KEYS = ("messages", "prompt", "input")  # what MLflow passes to the model unwrapped


class MalformedPayload(ValueError):
    """The body cannot be a request for a prediction; the message says why."""


def normalise(body: bytes, columns: Sequence[str], *, is_hinted: bool = False) -> str:
    """The body as MLflow's scoring code wants it, as JSON text.

    Args:
        body: the request body, JSON in UTF-8.
        columns: the column names of the model's signature; empty when it has none (no signature, or tensors).
        is_hinted: the signature comes from type hints.

    Raises:
        MalformedPayload: not JSON, or no input in it.
    """
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedPayload("The body is not valid JSON (UTF-8).") from None
    if isinstance(payload, list):
        return json.dumps(_hinted(payload) if is_hinted else _wrap(payload, columns, otherwise="inputs"))
    if not isinstance(payload, dict):
        raise MalformedPayload('Expected a JSON object or a list, as {"inputs": [[5.1, 3.5, 1.4, 0.2]]}.')
    return json.dumps(_wrap_object(payload, columns, is_hinted=is_hinted))


def _wrap_object(payload: dict[str, Any], columns: Sequence[str], *, is_hinted: bool) -> dict[str, Any]:
    formats = [key for key in FORMATS if key in payload and key not in columns]
    if len(formats) > 1:
        raise MalformedPayload(f"Send one of {', '.join(FORMATS)}; this body has {' and '.join(formats)}.")
    if not formats:
        if not payload:
            raise MalformedPayload("The body is empty.")
        is_chat = any(key in payload and key not in columns for key in CHAT_KEYS)
        if is_chat:
            return payload
        return _hinted([payload]) if is_hinted else _wrap(payload, columns, otherwise="inputs")
    key = formats[0]
    rest = {"params": payload["params"]} if payload.get("params") else {}
    if is_hinted and key != "dataframe_split":
        return {**_hinted(payload[key]), **rest}
    if key.startswith("dataframe_"):
        return {key: _frame(key, payload[key]), **rest}
    return {**_wrap(payload[key], columns, otherwise=key), **rest}


def _hinted(value: Any) -> dict[str, Any]:
    if value == []:
        raise MalformedPayload("There is no row in the input.")
    return {"inputs": value}


def _wrap(value: Any, columns: Sequence[str], *, otherwise: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return _wrap_record(value, otherwise)
    if isinstance(value, list):
        if not value:
            raise MalformedPayload("There is no row in the input.")
        if all(isinstance(row, dict) for row in value):
            return {"dataframe_records": value}
        if columns:
            return {"dataframe_split": {"columns": list(columns), "data": _rows(value, columns)}}
        return {otherwise: value}
    if columns:
        raise MalformedPayload(f"Expected rows or named columns ({_names(columns)}), not a single value.")
    return {otherwise: value}


def _wrap_record(value: dict[str, Any], otherwise: str) -> dict[str, Any]:
    """An object is one row if it has a scalar in it, else columns."""
    if not value:
        raise MalformedPayload("There is no column in the input.")
    if all(isinstance(cell, list) for cell in value.values()):
        return {otherwise: value}
    return {"dataframe_records": [value]}


def _rows(value: list[Any], columns: Sequence[str]) -> list[list[Any]]:
    if any(isinstance(row, list) for row in value):
        rows = value
    elif len(columns) == 1:
        rows = [[cell] for cell in value]  # one column: each value is a row
    else:
        rows = [value]  # several columns: the list is one row
    for row in rows:
        if not isinstance(row, list) or len(row) != len(columns):
            raise MalformedPayload(f"Each row needs {len(columns)} values ({_names(columns)}).")
    return rows


def _frame(key: str, value: Any) -> Any:
    if key == "dataframe_split" and not (isinstance(value, dict) and isinstance(value.get("data"), list)):
        raise MalformedPayload('dataframe_split needs an object, as {"columns": ["x"], "data": [[1.0]]}.')
    if key == "dataframe_records" and not (isinstance(value, list) and all(isinstance(row, dict) for row in value)):
        raise MalformedPayload('dataframe_records needs a list of objects, as [{"x": 1.0}].')
    if not (value["data"] if key == "dataframe_split" else value):
        raise MalformedPayload("There is no row in the input.")
    return value


def _names(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:20])
    return f"{shown}, …" if len(columns) > 20 else shown
