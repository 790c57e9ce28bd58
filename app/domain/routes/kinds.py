"""The words in which a route of MLflow is described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote

from app.domain.access import Permission
from app.domain.routes.messages import Message
from app.domain.routes.openings import OPENINGS


class RouteClass(StrEnum):
    """What a route does to MLflow, whatever its method says: eleven of its POSTs only read."""

    PUBLIC = "public"
    UI_STATIC = "ui-static"
    UI_TELEMETRY = "ui-telemetry"
    READ_TRACKING = "read-tracking"
    WRITE_TRACKING = "write-tracking"
    DESTRUCTIVE_TRACKING = "destructive-tracking"
    READ_REGISTRY = "read-registry"
    WRITE_REGISTRY = "write-registry"
    DESTRUCTIVE_REGISTRY = "destructive-registry"
    ALIAS_MUTATION = "alias-mutation"
    ARTIFACT_READ = "artifact-read"
    ARTIFACT_WRITE = "artifact-write"
    ARTIFACT_DELETE = "artifact-delete"
    MCP_READ = "mcp-read"
    MCP_WRITE = "mcp-write"
    MCP_DESTRUCTIVE = "mcp-destructive"
    MCP_ALIAS_MUTATION = "mcp-alias-mutation"
    READ_WORKSPACE = "read-workspace"
    AI_GATEWAY_READ = "ai-gateway-read"
    AI_GATEWAY_INVOKE = "ai-gateway-invoke"
    AI_GATEWAY_ADMIN = "ai-gateway-admin"
    SERVER_JOB = "server-job"
    SERVER_ADMIN = "server-admin"
    WEBHOOK_ADMIN = "webhook-admin"
    USER_ADMIN = "user-admin"
    USER_SELF = "user-self"
    DEAD_STUB = "dead-stub"


class Decision(StrEnum):
    """What the door does with a route, from the most lenient to the strictest."""

    PUBLIC = "public"
    """Forwarded for anybody; no login."""
    FORWARD = "forward"
    """Forwarded for who holds the permission."""
    GUARD = "guard"
    """Forwarded for who holds the permission, and only after the route's guard agreed."""
    ANSWER = "answer"
    """Answered here, as by an MLflow that has nothing of the kind: its web interface asks by itself, and shows an error
    to whoever only opened a page."""
    UNSUPPORTED = "unsupported"
    """501, from which MLflow's client knows that it must do it another way."""
    REFUSE = "refuse"
    """403 with the reason, for everybody."""
    ABSENT = "absent"
    """404, as for a route that does not exist."""


STRICTNESS: Mapping[Decision, int] = {decision: rank for rank, decision in enumerate(Decision)}


class BodyKind(StrEnum):
    """What may come after the headers."""

    NONE = "none"
    """Nothing: MLflow reads its parameters from the body of a GET without a query (measured on 3.17)."""
    STREAM = "stream"
    """Anything; passed on unread."""
    MESSAGE = "message"
    """One JSON message that is judged, and then written afresh."""
    GRAPHQL = "graphql"
    """A GraphQL document that is judged, and then written afresh (``app/proxy/graphql.py``)."""
    TRACE = "trace"
    """A JSON object that may not say where a trace is archived, written afresh (``app/domain/traces.py``)."""


class Guard(StrEnum):
    """A question that only the promotions can answer. Beside each: the fields it is asked with."""

    ALIAS_SET = "alias-set"
    """``name``, ``alias``, ``version``"""
    ALIAS_DELETE = "alias-delete"
    """``name``, ``alias``"""
    VERSION_CREATE = "version-create"
    """``name``, ``source``, and what was sent of ``run_id``, ``model_id``"""
    VERSION_DELETE = "version-delete"
    """``name``, ``version``"""
    VERSION_TAG = "version-tag"
    """``name``, ``version``, ``key``: the tag ``mlflow.prompt.text`` is the content of a prompt's version"""
    STAGE_TRANSITION = "stage-transition"
    """``name``, ``version``, ``stage``"""
    MODEL_CREATE = "model-create"
    """``name``, and ``tags``: the keys of those that it is created with, as a JSON list"""
    MODEL_TAG = "model-tag"
    """``name``, ``key``: the tag ``mlflow.prompt.is_prompt`` hides a model from searches; policies select by others"""
    MODEL_DELETE = "model-delete"
    """``name``"""
    MODEL_RENAME = "model-rename"
    """``name``, ``new_name``"""
    EXPERIMENT_CREATE = "experiment-create"
    """``name``, and ``artifact_location`` where one was sent: MLflow takes any, ``/etc`` too"""
    EXPERIMENT_DELETE = "experiment-delete"
    """``experiment_id``"""
    RUN_DELETE = "run-delete"
    """``run_id``"""
    LOGGED_MODEL_CREATE = "logged-model-create"
    """what was sent of ``experiment_id``, ``name``, ``source_run_id``"""
    LOGGED_MODEL_DELETE = "logged-model-delete"
    """``model_id``"""
    ARTIFACT_WRITE = "artifact-write"
    """``path``: canonical, below the server's artifacts destination"""
    ARTIFACT_DELETE = "artifact-delete"
    """``path``: canonical, below the server's artifacts destination"""
    RUN_ARTIFACT_WRITE = "run-artifact-write"
    """``run_id``, and ``path`` below that run's artifacts"""


@dataclass(frozen=True, slots=True)
class Forward:
    """A guard's yes: MLflow shall do it."""


@dataclass(frozen=True, slots=True)
class Done:
    """A guard's answer when nothing is left to do: the caller is told success, MLflow is not asked."""


Ruling = Forward | Done


@dataclass(frozen=True, slots=True)
class Route:
    """One method and path of MLflow, and what the door does with it."""

    method: str
    template: str
    """As Flask writes it: ``<x>`` stands for one segment, ``<path:x>`` for one or more."""
    route_class: RouteClass
    decision: Decision
    permission: Permission | None
    reason: str
    """Why: shown to who is refused, and in ``countersign routes``."""
    body: BodyKind
    message: Message | None = None
    guard: Guard | None = None
    judged_query: tuple[str, ...] = ()
    """Query parameters that the guard is asked with; on such a route no parameter may be repeated."""
    answer: str | None = None
    """The JSON that is answered here (``Decision.ANSWER``)."""
    closed_as: str | None = None
    """Of a route that is closed by default: its name in ``OPENINGS`` or ``NEVER``."""

    @property
    def opened_by(self) -> str | None:
        """The name by which an operator can open the route."""
        return self.closed_as if self.closed_as in OPENINGS else None


@dataclass(frozen=True, slots=True)
class Match:
    """A route that a path belongs to, with the decoded values of its parameters."""

    route: Route
    params: Mapping[str, str] = field(default_factory=dict)

    def path(self) -> str:
        """The path for MLflow, built from the template: nothing of the caller's spelling survives."""
        path = self.route.template
        for name, value in self.params.items():
            path = path.replace(f"<path:{name}>", quote(value)).replace(f"<{name}>", quote(value, safe=""))
        return path
