"""How each route of MLflow says what it is about: for principals who may read or write some models or experiments only.

A line is the methods, the path (``*/`` as in ``app/domain/routes/table.py``), and one name a word: ``run=run_id`` says
that the parameter, path segment or field ``run_id`` is the id of a run, on which the route's permission is needed.

- ``run=run_id|run_uuid``: the same id in either or both.
- ``experiment=experiment_ids[]``: a list; ``models[].model_id`` and ``trace.info.id`` lead into objects.
- ``model@registry:read=name``: another permission than the route's.
- ``model+=name``: a name that shall be new: whether something has it already does not matter to the answer.
- ``trace~=trace.trace_info.trace_id``: may be new, or something on which the permission is needed.
- ``source_run_id?``: may be absent. What else is absent is refused: MLflow may take it for "all".
- ``list=…``: the answer is a list whose items are looked at one by one (``LISTS``).
- ``versions``: the answer says of logged models as which versions of which models they were registered.
- ``open``: shows nothing of any model or experiment.

What has no line is refused for such principals, with the reason in ``REFUSED`` or a general one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.domain.access import Permission
from app.domain.routes.kinds import Decision, Route, RouteClass


class Named(StrEnum):
    """What a request can name, by an id that MLflow gave out or by a name that somebody gave it."""

    MODEL = "model"
    EXPERIMENT = "experiment"
    EXPERIMENT_NAME = "experiment-name"
    RUN = "run"
    TRACE = "trace"
    LOGGED_MODEL = "logged-model"
    DATASET = "dataset"
    ISSUE = "issue"
    LABEL_SCHEMA = "label-schema"
    REVIEW_QUEUE = "review-queue"
    ARTIFACT = "artifact"
    """A path below the server's artifacts destination."""
    VERSION_SOURCE = "version-source"
    """Where the bytes of a new version come from."""
    WORKSPACE = "workspace"


class Newness(StrEnum):
    """Whether the thing must be there already."""

    EXISTING = "="
    NEW = "+="
    EITHER = "~="


class Place(StrEnum):
    PATH = "path"
    QUERY = "query"
    BODY = "body"


@dataclass(frozen=True, slots=True)
class Name:
    """One place of a request that names something."""

    kind: Named
    place: Place
    fields: tuple[str, ...]
    """Alternatives of one meaning; dots lead into objects, ``[]`` into lists."""
    permission: Permission
    newness: Newness = Newness.EXISTING
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list whose items are looked at one by one.

    ``most`` is how many MLflow is asked for at once, ``usual`` how many it answers unasked, if it does.
    """

    items: str
    kind: Named
    key: str
    """The member of an item that identifies it."""
    permission: Permission
    most: int = 0
    usual: int = 0
    can_be_named: bool = False
    """Whether a filter ``name IN (…)`` narrows it to known names, and it is sorted by name if nothing else is asked."""

    @property
    def is_paged(self) -> bool:
        return self.most > 0


LISTS: Mapping[str, ListOf] = {
    "registered-models": ListOf(
        "registered_models", Named.MODEL, "name", Permission.REGISTRY_READ, most=1000, usual=100, can_be_named=True
    ),
    "model-versions": ListOf("model_versions", Named.MODEL, "name", Permission.REGISTRY_READ, most=5000, usual=200_000),
    "experiments": ListOf("experiments", Named.EXPERIMENT, "experiment_id", Permission.TRACKING_READ, most=1000),
    "dataset-experiments": ListOf("experiment_ids", Named.EXPERIMENT, "", Permission.TRACKING_READ),
    "workspaces": ListOf("workspaces", Named.WORKSPACE, "name", Permission.TRACKING_READ),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a limited principal's request on a route is judged by."""

    names: tuple[Name, ...] = ()
    list_of: ListOf | None = None
    shows_versions: bool = False
    refusal: str | None = None
    """Why nobody who is limited may use the route."""

    @property
    def permissions(self) -> frozenset[Permission]:
        """Every permission that is asked for, beside the route's own."""
        needed = {name.permission for name in self.names}
        if self.list_of is not None:
            needed.add(self.list_of.permission)
        if self.shows_versions:
            needed.add(Permission.REGISTRY_READ)
        return frozenset(needed)


READ_OF: Mapping[Permission, Permission] = {
    Permission.TRACKING_READ: Permission.TRACKING_READ,
    Permission.TRACKING_WRITE: Permission.TRACKING_READ,
    Permission.TRACKING_DELETE: Permission.TRACKING_READ,
    Permission.REGISTRY_READ: Permission.REGISTRY_READ,
    Permission.REGISTRY_WRITE: Permission.REGISTRY_READ,
    Permission.REGISTRY_DELETE: Permission.REGISTRY_READ,
}
"""What is needed to be told that a thing is there, on which one may not do more."""

_LINES = """
GET,HEAD    /  open
GET,HEAD    /build/<path:filename>  open
GET,HEAD    /static-files/<path:path>  open
GET,POST    /ajax-api/3.0/mlflow/ui-telemetry  open

GET         */2.0/mlflow/experiments/get  experiment=experiment_id
GET         */2.0/mlflow/experiments/get-by-name  experiment-name=experiment_name
GET,POST    */2.0/mlflow/experiments/search  list=experiments
POST        */2.0/mlflow/experiments/create  experiment-name+=name
POST        */2.0/mlflow/experiments/delete  experiment=experiment_id
POST        */2.0/mlflow/experiments/restore  experiment=experiment_id
POST        */2.0/mlflow/experiments/update  experiment=experiment_id experiment-name+=new_name?
POST        */2.0/mlflow/experiments/set-experiment-tag  experiment=experiment_id
POST        */2.0/mlflow/experiments/delete-experiment-tag  experiment=experiment_id
POST        /ajax-api/2.0/mlflow/experiments/search-datasets  experiment=experiment_ids[]

POST        */2.0/mlflow/runs/create  experiment=experiment_id
GET         */2.0/mlflow/runs/get  run=run_id|run_uuid
POST        */2.0/mlflow/runs/search  experiment=experiment_ids[]
POST        */2.0/mlflow/runs/update  run=run_id|run_uuid
POST        */2.0/mlflow/runs/delete  run=run_id
POST        */2.0/mlflow/runs/restore  run=run_id
POST        */2.0/mlflow/runs/set-tag  run=run_id|run_uuid
POST        */2.0/mlflow/runs/delete-tag  run=run_id
POST        */2.0/mlflow/runs/log-batch  run=run_id logged-model=metrics[].model_id?
POST        */2.0/mlflow/runs/log-metric  run=run_id|run_uuid logged-model=model_id?
POST        */2.0/mlflow/runs/log-parameter  run=run_id|run_uuid
POST        */2.0/mlflow/runs/log-inputs  run=run_id logged-model@tracking:read=models[].model_id?
POST        */2.0/mlflow/runs/outputs  run=run_id logged-model=models[].model_id?
POST        */2.0/mlflow/runs/log-model  run=run_id
GET         */2.0/mlflow/metrics/get-history  run=run_id|run_uuid
GET         /ajax-api/2.0/mlflow/metrics/get-history-bulk  run=run_id[]
GET         */2.0/mlflow/metrics/get-history-bulk-interval  run=run_ids[]

POST        */2.0/mlflow/logged-models  experiment=experiment_id run@tracking:read=source_run_id?
GET,PATCH   */2.0/mlflow/logged-models/<model_id>  logged-model=model_id versions
DELETE      */2.0/mlflow/logged-models/<model_id>  logged-model=model_id
POST        */2.0/mlflow/logged-models/<model_id>/params  logged-model=model_id
PATCH       */2.0/mlflow/logged-models/<model_id>/tags  logged-model=model_id versions
DELETE      */2.0/mlflow/logged-models/<model_id>/tags/<tag_key>  logged-model=model_id
GET         */2.0/mlflow/logged-models/<model_id>/artifacts/directories  logged-model=model_id
GET         /ajax-api/2.0/mlflow/logged-models/<model_id>/artifacts/files  logged-model=model_id
POST        */2.0/mlflow/logged-models/search  experiment=experiment_ids[] versions

GET         */2.0/mlflow/traces  experiment=experiment_ids[]
POST        */2.0/mlflow/traces  experiment=experiment_id
GET         */2.0/mlflow/traces/<request_id>/info  trace=request_id
PATCH       */2.0/mlflow/traces/<request_id>  trace=request_id
PATCH       */2.0/mlflow/traces/<request_id>/tags  trace=request_id
DELETE      */2.0/mlflow/traces/<request_id>/tags  trace=request_id
POST        */2.0/mlflow/traces/delete-traces  experiment=experiment_id
POST        */2.0/mlflow/traces/link-prompts  trace=trace_id model@registry:read=prompt_versions[].name?
POST        */2.0/mlflow/traces/link-to-run  run=run_id trace=trace_ids[]
POST        */3.0/mlflow/traces  experiment=trace.trace_info.trace_location.mlflow_experiment.experiment_id\
 trace~=trace.trace_info.trace_id?
GET         */3.0/mlflow/traces/<trace_id>  trace=trace_id
PATCH       */3.0/mlflow/traces/<trace_id>/tags  trace=trace_id
DELETE      */3.0/mlflow/traces/<trace_id>/tags  trace=trace_id
POST        */3.0/mlflow/traces/<trace_id>/assessments  trace=trace_id trace=assessment.trace_id?
GET,DELETE  */3.0/mlflow/traces/<trace_id>/assessments/<assessment_id>  trace=trace_id
PATCH       */3.0/mlflow/traces/<trace_id>/assessments/<assessment_id>  trace=trace_id trace=assessment.trace_id?
GET         */3.0/mlflow/traces/batchGet  trace=trace_ids[] experiment=experiment_ids[]?
POST        */3.0/mlflow/traces/batchGetInfos  trace=trace_ids[] experiment=experiment_ids[]?
GET         */3.0/mlflow/traces/get  trace=trace_id
POST        */3.0/mlflow/traces/calculate-filter-correlation  experiment=experiment_ids[]
POST        */3.0/mlflow/traces/metrics  experiment=experiment_ids[]
POST        */3.0/mlflow/traces/search  experiment=locations[].mlflow_experiment.experiment_id
POST        */3.0/mlflow/traces/delete-traces  experiment=experiment_id
GET         /ajax-api/2.0/mlflow/get-trace-artifact  trace=request_id
GET         /ajax-api/3.0/mlflow/get-trace-artifact  trace=request_id

POST        */3.0/mlflow/datasets/create  experiment=experiment_ids[]
GET,POST    */3.0/mlflow/datasets/search  experiment=experiment_ids[]
GET,DELETE  */3.0/mlflow/datasets/<dataset_id>  dataset=dataset_id
GET         */3.0/mlflow/datasets/<dataset_id>/experiment-ids  dataset=dataset_id list=dataset-experiments
GET         */3.0/mlflow/datasets/<dataset_id>/records  dataset=dataset_id
POST,DELETE */3.0/mlflow/datasets/<dataset_id>/records  dataset=dataset_id
PATCH       */3.0/mlflow/datasets/<dataset_id>/tags  dataset=dataset_id
DELETE      */3.0/mlflow/datasets/<dataset_id>/tags/<key>  dataset=dataset_id
POST        */3.0/mlflow/datasets/<dataset_id>/add-experiments  dataset=dataset_id experiment=experiment_ids[]
POST        */3.0/mlflow/datasets/<dataset_id>/remove-experiments  dataset=dataset_id experiment=experiment_ids[]

POST        */3.0/mlflow/issues  experiment=experiment_id run@tracking:read=source_run_id?
POST        */3.0/mlflow/issues/search  experiment=experiment_id
GET,PATCH   */3.0/mlflow/issues/<issue_id>  issue=issue_id
POST        */3.0/mlflow/label-schemas/create  experiment=experiment_id
GET         */3.0/mlflow/label-schemas/get  label-schema=schema_id
DELETE      */3.0/mlflow/label-schemas/delete  label-schema=schema_id
PATCH       */3.0/mlflow/label-schemas/update  label-schema=schema_id
GET         */3.0/mlflow/label-schemas/get-by-name  experiment=experiment_id
GET         */3.0/mlflow/label-schemas/list  experiment=experiment_id
POST        */3.0/mlflow/review-queues/create  experiment=experiment_id label-schema@tracking:read=schema_ids[]?
POST        */3.0/mlflow/review-queues/get-or-create-user  experiment=experiment_id
GET         */3.0/mlflow/review-queues/get  review-queue=queue_id
GET         */3.0/mlflow/review-queues/get-by-name  experiment=experiment_id
GET         */3.0/mlflow/review-queues/list  experiment=experiment_id
GET         */3.0/mlflow/review-queues/items/list  review-queue=queue_id
POST        */3.0/mlflow/review-queues/items/add  review-queue=queue_id trace@tracking:read=item_ids[]
POST        */3.0/mlflow/review-queues/items/remove  review-queue=queue_id
POST        */3.0/mlflow/review-queues/items/set-status  review-queue=queue_id
POST        */3.0/mlflow/review-queues/update  review-queue=queue_id label-schema@tracking:read=schema_ids[]?
POST        */3.0/mlflow/review-queues/delete  review-queue=queue_id
GET         */3.0/mlflow/scorers/get  experiment=experiment_id
GET         */3.0/mlflow/scorers/list  experiment=experiment_id
GET         */3.0/mlflow/scorers/versions  experiment=experiment_id
POST        */3.0/mlflow/scorers/register  experiment=experiment_id
DELETE      */3.0/mlflow/scorers/delete  experiment=experiment_id

GET         */2.0/mlflow/registered-models/search  list=registered-models
GET         */2.0/mlflow/registered-models/get  model=name
GET,POST    */2.0/mlflow/registered-models/get-latest-versions  model=name
GET         */2.0/mlflow/registered-models/alias  model=name
POST,DELETE */2.0/mlflow/registered-models/alias  model=name
POST        */2.0/mlflow/registered-models/create  model+=name
PATCH       */2.0/mlflow/registered-models/update  model=name
POST        */2.0/mlflow/registered-models/rename  model=name model+@registry:write=new_name
DELETE      */2.0/mlflow/registered-models/delete  model=name
POST        */2.0/mlflow/registered-models/set-tag  model=name
DELETE      */2.0/mlflow/registered-models/delete-tag  model=name
GET         */2.0/mlflow/model-versions/search  list=model-versions
GET         */2.0/mlflow/model-versions/get  model=name
GET         */2.0/mlflow/model-versions/get-download-uri  model=name
POST        */2.0/mlflow/model-versions/create  model=name version-source@tracking:read=source\
 run@tracking:read=run_id? logged-model@tracking:read=model_id?
PATCH       */2.0/mlflow/model-versions/update  model=name
DELETE      */2.0/mlflow/model-versions/delete  model=name
POST        */2.0/mlflow/model-versions/transition-stage  model=name
POST        */2.0/mlflow/model-versions/set-tag  model=name
DELETE      */2.0/mlflow/model-versions/delete-tag  model=name

GET         */2.0/mlflow-artifacts/artifacts  artifact=path?
GET,HEAD    */2.0/mlflow-artifacts/artifacts/<path:artifact_path>  artifact=artifact_path
PUT         */2.0/mlflow-artifacts/artifacts/<path:artifact_path>  artifact=artifact_path
DELETE      */2.0/mlflow-artifacts/artifacts/<path:artifact_path>  artifact=artifact_path
GET         */2.0/mlflow/artifacts/list  run=run_id|run_uuid
GET,HEAD    /get-artifact  run=run_id|run_uuid
GET,HEAD    /model-versions/get-artifact  model@registry:read=name
POST        /ajax-api/2.0/mlflow/upload-artifact  run=run_uuid

GET         */3.0/mlflow/workspaces  list=workspaces
GET         */3.0/mlflow/workspaces/<workspace_name>  workspace=workspace_name
"""

REFUSED: Mapping[str, str] = {
    "*/3.0/mlflow/scorers/online-configs": "It names scorers by ids of which MLflow does not say whose they are.",
    "/graphql": "",  # judged by its own table (app/domain/routes/graphql.py)
    "/v1/traces": "MLflow adds spans to whichever trace they name, in any experiment; log traces with MLflow's own "
    "client, which falls back to the tracing API.",
}
"""Beside each path: why nobody who is limited may use it."""

_BY_CLASS: Mapping[RouteClass, str] = {
    RouteClass.MCP_READ: "The registry of MCP servers is given as a whole, with a grant on everything.",
    RouteClass.MCP_WRITE: "The registry of MCP servers is given as a whole, with a grant on everything.",
}
_UNKNOWN = "It cannot be told of which model or experiment it is; it needs a grant on everything."

_WORD = re.compile(r"(?P<kind>[a-z-]+)(?P<sign>[+~]?)(?:@(?P<permission>[a-z:]+))?=(?P<fields>[^?]+)(?P<optional>\??)")
_PARAMETER = re.compile(r"<(?:path:)?([a-z_]+)>")


def rule_of(route: Route) -> Rule:
    """The rule of a route; refusal if there is none."""
    words = _WORDS.get((route.method, route.template))
    if words is not None:
        return _rule(route, words)
    path = route.template
    for prefix in ("/ajax-api", "/api"):
        path = path.replace(prefix, "*", 1) if path.startswith(prefix) else path
    reason = REFUSED.get(path) or REFUSED.get(route.template) or _BY_CLASS.get(route.route_class, _UNKNOWN)
    return Rule(refusal=reason)


def has_rule(route: Route) -> bool:
    """Whether somebody thought of this route: it has a line, or a reason why not."""
    path = "*" + route.template.removeprefix("/ajax-api").removeprefix("/api")
    return (
        (route.method, route.template) in _WORDS
        or path in REFUSED
        or route.template in REFUSED
        or route.route_class in _BY_CLASS
    )


def can_be_limited(route: Route) -> bool:
    """Whether requests of the route are passed on, or guarded: what else is answered here is the same for everybody."""
    return route.permission is not None and route.decision in {Decision.FORWARD, Decision.GUARD}


def _rule(route: Route, words: tuple[str, ...]) -> Rule:
    names: list[Name] = []
    list_of: ListOf | None = None
    for word in words:
        if word in {"open", "versions"}:
            continue
        found = _WORD.fullmatch(word)
        if found is None:
            raise ValueError(f"{word} cannot be read")
        if found["kind"] == "list":
            list_of = LISTS[found["fields"]]
        else:
            names.append(_name(route, found))
    return Rule(tuple(names), list_of, shows_versions="versions" in words)


def _name(route: Route, found: re.Match[str]) -> Name:
    fields = tuple(found["fields"].split("|"))
    permission = Permission(found["permission"]) if found["permission"] else route.permission
    assert permission is not None  # a route that is judged has one
    in_path = fields[0] in _PARAMETER.findall(route.template)
    # What the table's own words list as parameters of a query is there, whatever the method.
    in_query = route.method in {"GET", "HEAD"} or bool(route.judged_query)
    return Name(
        kind=Named(found["kind"]),
        place=Place.PATH if in_path else Place.QUERY if in_query else Place.BODY,
        fields=fields,
        permission=permission,
        newness=Newness(f"{found['sign']}="),
        is_optional=bool(found["optional"]),
    )


def _lines() -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    for line in _LINES.splitlines():
        if not line.strip():
            continue
        methods, path, *words = line.split()
        templates = ["/api" + path[1:], "/ajax-api" + path[1:]] if path.startswith("*") else [path]
        for template in templates:
            for method in methods.split(","):
                yield (method, template), tuple(words)


_WORDS: Mapping[tuple[str, str], tuple[str, ...]] = dict(_lines())
"""By method and template."""


def described() -> frozenset[tuple[str, str]]:
    """Every method and template that has a line: a test compares them with the table of routes."""
    return frozenset(_WORDS)
