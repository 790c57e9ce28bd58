"""How a request to MLflow is handled under load: in which lane it waits, and how long MLflow may take.

MLflow 3.17 harms itself under concurrency: beyond one to four requests at a time its throughput falls and its tail
grows, and writes that check out a second database connection while they hold one stall each other (measured, see
``docs/adr/0011-the-gateway-admits.md``). So each MLflow worker is given a few requests at a time, the rest wait here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from app.domain.routes import Route, RouteClass


class Lane(StrEnum):
    """Where a request waits, in the order in which they are served."""

    INTERACTIVE = "interactive"
    """Somebody waits for the answer: reads, searches, everything about the registry."""
    BULK = "bulk"
    """What programs write while they train."""
    NESTED = "nested"
    """Writes that hold one of MLflow's database connections and ask for a second one."""
    STREAM = "stream"
    """Never waits: files, and answers of models that are streamed."""


QUEUED = (Lane.INTERACTIVE, Lane.BULK, Lane.NESTED)

_LANE_OF_CLASS: Mapping[RouteClass, Lane] = {
    RouteClass.UI_STATIC: Lane.STREAM,
    RouteClass.ARTIFACT_READ: Lane.STREAM,
    RouteClass.ARTIFACT_WRITE: Lane.STREAM,
    RouteClass.ARTIFACT_DELETE: Lane.STREAM,
    RouteClass.AI_GATEWAY_INVOKE: Lane.STREAM,
    RouteClass.WRITE_TRACKING: Lane.BULK,
    RouteClass.DESTRUCTIVE_TRACKING: Lane.BULK,
    RouteClass.MCP_WRITE: Lane.BULK,
}
"""Every other class is interactive."""

_NESTED = (
    "/mlflow/logged-models",
    "/mlflow/runs/create",
    "/mlflow/runs/log-batch",
    "/mlflow/runs/log-inputs",
    "/mlflow/runs/set-tag",
    "/mlflow/scorers/register",
    "/mlflow/traces",
    "/v1/traces",
)
"""Ends of templates of writes whose method of MLflow's SQL store calls, inside its session, another one that opens a
second (read in the source of 3.17; for ``log-batch`` seen in a thread dump of a stalled server)."""

_TIMEOUT_OF_CLASS_S: Mapping[RouteClass, float] = {
    RouteClass.PUBLIC: 10,
    RouteClass.UI_STATIC: 30,
    RouteClass.UI_TELEMETRY: 10,
    RouteClass.ALIAS_MUTATION: 30,
    RouteClass.ARTIFACT_READ: 300,
    RouteClass.ARTIFACT_WRITE: 900,
    RouteClass.ARTIFACT_DELETE: 300,
    RouteClass.AI_GATEWAY_INVOKE: 600,
}
"""Where it is not the general one. MLflow answers an upload when it has passed the file on to its store."""


_LISTS = ("/artifacts/list", "/artifacts/directories", "/mlflow-artifacts/artifacts")
"""Ends of templates that read artifacts and answer with names, not with files."""


def lane_of(route: Route) -> Lane:
    """The lane in which requests of a route wait."""
    if route.route_class is RouteClass.ARTIFACT_READ and route.template.endswith(_LISTS):
        return Lane.INTERACTIVE
    if route.route_class is RouteClass.ARTIFACT_WRITE and not is_upload(route):
        return Lane.BULK
    lane = _LANE_OF_CLASS.get(route.route_class, Lane.INTERACTIVE)
    if lane is Lane.BULK and route.template.endswith(_NESTED):
        return Lane.NESTED
    return lane


def timeout_of(route: Route, general_s: float, configured: Mapping[RouteClass, float]) -> float:
    """Seconds MLflow may take to accept the next part of a request, to begin its answer, or to send its next part."""
    of_class = configured.get(route.route_class)
    return of_class if of_class is not None else _TIMEOUT_OF_CLASS_S.get(route.route_class, general_s)


def is_upload(route: Route) -> bool:
    """Whether the body is a file, which is passed on while it arrives.

    MLflow's other routes are given whole bodies: what its Flask side is sent in chunks of unknown length it reads as
    empty (measured on 3.17).
    """
    return route.method == "PUT" and route.template.endswith("/mlflow-artifacts/artifacts/<path:artifact_path>")
