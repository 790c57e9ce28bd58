"""The second look at what decides: MLflow must have understood what the gateway judged.

The gateway reads a body by rules of its own and writes it afresh. Here MLflow's own parser reads what arrived, and what
it understood is compared with the digest in the assertion: another encoding, a doubled key, a key that makes the parser
stop half-way (``"[a.b]"``), or a request that never passed the gateway's rules does not get by.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Response, current_app, request
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from countersign_mlflow.assertions import HEADER, NotAsserted, Verifier, digest_of

_log = logging.getLogger(__name__)

GUARDED = frozenset(
    {
        "CreateExperiment",
        "CreateLoggedModel",
        "CreateModelVersion",
        "CreateRegisteredModel",
        "DeleteExperiment",
        "DeleteLoggedModel",
        "DeleteModelVersion",
        "DeleteModelVersionTag",
        "DeleteRegisteredModel",
        "DeleteRegisteredModelAlias",
        "DeleteRegisteredModelTag",
        "DeleteRun",
        "RenameRegisteredModel",
        "RestoreExperiment",
        "RestoreRun",
        "SetModelVersionTag",
        "SetRegisteredModelAlias",
        "SetRegisteredModelTag",
        "TransitionModelVersionStage",
    }
)
"""The messages of MLflow that the gateway judges (``app/domain/routes/messages.py``; a test compares)."""

Handler = Callable[..., Any]
Parse = Callable[[Message], Message]


class UnknownMlflow(Exception):
    """This MLflow has not what is to be guarded; it must not run half guarded."""


def guarded_endpoints(
    application: Flask, handlers: Mapping[type[Message], Handler], guarded: frozenset[str] = GUARDED
) -> dict[str, type[Message]]:
    """The endpoints of a Flask application whose handler takes a guarded message, by MLflow's own table.

    No path is named: a new one for the same handler is guarded too.

    Raises:
        UnknownMlflow: a guarded message has no handler, or its handler no endpoint.
    """
    taken_by = {handler: kind for kind, handler in handlers.items() if kind.DESCRIPTOR.name in guarded}
    found = {endpoint: taken_by[view] for endpoint, view in application.view_functions.items() if view in taken_by}
    if missing := guarded - {kind.DESCRIPTOR.name for kind in found.values()}:
        raise UnknownMlflow(f"this MLflow does not serve {', '.join(sorted(missing))}, which are to be guarded")
    return found


class Guard:
    """A ``before_request`` function for MLflow's Flask application.

    Args:
        endpoints: the message each guarded endpoint takes.
        parse: MLflow's parser, which fills a message from the present request.
        verifier: knows the gateway's assertions.
    """

    def __init__(self, endpoints: Mapping[str, type[Message]], parse: Parse, verifier: Verifier) -> None:
        self._endpoints = endpoints
        self._parse = parse
        self._verifier = verifier

    def __call__(self) -> Response | None:
        kind = self._endpoints.get(request.endpoint or "")
        refusal = self._refusal(kind) if kind else None
        if refusal is None:
            return None
        _log.warning("refused %s %r: %s", request.method, request.path, refusal)
        body = current_app.json.dumps({"error_code": "PERMISSION_DENIED", "message": f"{refusal}."})
        return Response(body, 403, mimetype="application/json")

    def _refusal(self, kind: type[Message]) -> str | None:
        try:
            judged = self._verifier.verify(request.headers.get(HEADER, "")).judged
        except NotAsserted as error:
            return f"This MLflow listens to Countersign alone. Its assertion: {error}"
        name = kind.DESCRIPTOR.name
        if judged is None or judged.message != name:
            return f"Countersign did not judge this {name}: this MLflow takes none past its gateway"
        try:
            understood = self._understood(kind)
        except Exception as error:  # noqa: BLE001 - whatever MLflow's parser stumbles over, nobody has judged
            return f"MLflow cannot read this {name} ({type(error).__name__})"
        if digest_of(understood) != judged.digest:
            return f"MLflow understands this {name} otherwise than Countersign judged it"
        return None

    def _understood(self, kind: type[Message]) -> dict[str, Any]:
        message = self._parse(kind())
        for name, value in (request.view_args or {}).items():
            setattr(message, name, value)  # a handler takes from the path what the path has
        understood: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
        return understood
