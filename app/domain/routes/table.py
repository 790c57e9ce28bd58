"""The table of MLflow's routes, one line a path.

A line is the methods, the path (``*/`` stands for both ``/api/`` and ``/ajax-api/``), and for what is judged
``message=`` (the request message, ``app/domain/routes/messages.py``), ``body=graphql`` or ``body=trace``, ``guard=``
and ``query=`` (the parameters a guard is asked with), and ``answer=`` (the JSON that is answered here). HEAD is listed
where MLflow answers it without reading a body; elsewhere it reads its parameters from the body of a HEAD (measured on
MLflow 3.17), so it is unknown. OPTIONS is unknown everywhere: no browser of another origin is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from app.domain.access import Permission
from app.domain.routes.kinds import BodyKind, Decision, Guard, Route, RouteClass
from app.domain.routes.messages import MESSAGES
from app.domain.routes.openings import OPENINGS, check_openings


@dataclass(frozen=True, slots=True)
class Family:
    """Paths that are decided alike. Where a line names a guard, ``FORWARD`` becomes ``GUARD``."""

    route_class: RouteClass
    decision: Decision
    permission: Permission | None
    reason: str
    lines: str
    closed_as: str | None = None
    """For what is closed: the name in ``OPENINGS`` or ``NEVER`` (``app/domain/routes/openings.py``)."""


def _routes(families: tuple[Family, ...]) -> Iterator[Route]:
    for family in families:
        for line in family.lines.split("\n"):
            if line.strip():
                yield from _read(family, *line.split())


def _read(family: Family, methods: str, path: str, *options: str) -> Iterator[Route]:
    chosen = dict(option.split("=", 1) for option in options)
    guard = Guard(chosen["guard"]) if "guard" in chosen else None
    message = MESSAGES[chosen["message"]] if "message" in chosen else None
    judged_query = tuple(chosen["query"].split(",")) if "query" in chosen else ()
    templates = ["/api" + path[1:], "/ajax-api" + path[1:]] if path.startswith("*") else [path]
    for template in templates:
        for method in methods.split(","):
            yield Route(
                method=method,
                template=template,
                route_class=family.route_class,
                decision=Decision.GUARD if guard else family.decision,
                permission=family.permission,
                reason=family.reason,
                body=BodyKind.MESSAGE if message else BodyKind(chosen.get("body", _body_of(method))),
                message=message,
                guard=guard,
                judged_query=judged_query,
                answer=chosen.get("answer"),
                closed_as=family.closed_as,
            )


def _body_of(method: str) -> BodyKind:
    return BodyKind.NONE if method in {"GET", "HEAD"} else BodyKind.STREAM


_FAMILIES = (
    Family(
        RouteClass.PUBLIC,
        Decision.PUBLIC,
        None,
        "Health, version and capabilities: clients ask for these before they log in.",
        """
        GET         */3.0/mlflow/server-info
        GET,HEAD    /health
        GET,HEAD    /version
        """,
    ),
    Family(
        RouteClass.UI_STATIC,
        Decision.FORWARD,
        Permission.TRACKING_READ,
        "The files of MLflow's web interface.",
        """
        GET,HEAD    /
        GET,HEAD    /build/<path:filename>
        GET,HEAD    /static-files/<path:path>
        """,
    ),
    Family(
        RouteClass.UI_TELEMETRY,
        Decision.FORWARD,
        Permission.TRACKING_READ,
        "The web interface asks at start whether it may report usage.",
        """
        GET,POST    /ajax-api/3.0/mlflow/ui-telemetry
        """,
    ),
    Family(
        RouteClass.READ_TRACKING,
        Decision.FORWARD,
        Permission.TRACKING_READ,
        "Reads experiments, runs, metrics, traces, logged models, datasets and what belongs to them.",
        """
        GET         */2.0/mlflow/experiments/get
        GET         */2.0/mlflow/experiments/get-by-name
        GET,POST    */2.0/mlflow/experiments/search
        GET         */2.0/mlflow/logged-models/<model_id>
        GET         */2.0/mlflow/metrics/get-history
        GET         /ajax-api/2.0/mlflow/metrics/get-history-bulk
        GET         */2.0/mlflow/metrics/get-history-bulk-interval
        GET         */2.0/mlflow/runs/get
        GET         */2.0/mlflow/traces
        GET         */2.0/mlflow/traces/<request_id>/info
        GET         */3.0/mlflow/datasets/<dataset_id>
        GET         */3.0/mlflow/datasets/<dataset_id>/experiment-ids
        GET         */3.0/mlflow/datasets/<dataset_id>/records
        GET,POST    */3.0/mlflow/datasets/search
        GET         */3.0/mlflow/issues/<issue_id>
        GET         */3.0/mlflow/label-schemas/get
        GET         */3.0/mlflow/label-schemas/get-by-name
        GET         */3.0/mlflow/label-schemas/list
        GET         */3.0/mlflow/review-queues/get
        GET         */3.0/mlflow/review-queues/get-by-name
        GET         */3.0/mlflow/review-queues/items/list
        GET         */3.0/mlflow/review-queues/list
        GET         */3.0/mlflow/scorers/get
        GET         */3.0/mlflow/scorers/list
        GET         */3.0/mlflow/scorers/online-configs
        GET         */3.0/mlflow/scorers/versions
        GET         */3.0/mlflow/traces/<trace_id>
        GET         */3.0/mlflow/traces/<trace_id>/assessments/<assessment_id>
        GET         */3.0/mlflow/traces/batchGet
        GET         */3.0/mlflow/traces/get
        POST        /graphql  body=graphql
        POST        /ajax-api/2.0/mlflow/experiments/search-datasets
        POST        */2.0/mlflow/logged-models/search
        POST        */2.0/mlflow/runs/search
        POST        */3.0/mlflow/issues/search
        POST        */3.0/mlflow/traces/batchGetInfos
        POST        */3.0/mlflow/traces/calculate-filter-correlation
        POST        */3.0/mlflow/traces/metrics
        POST        */3.0/mlflow/traces/search
        """,
    ),
    Family(
        RouteClass.READ_TRACKING,
        Decision.REFUSE,
        None,
        "MLflow reads the query of a GET from its body, which a GET has not here; send it with POST.",
        """
        GET         /graphql
        """,
        closed_as="graphql-get",
    ),
    Family(
        RouteClass.WRITE_TRACKING,
        Decision.FORWARD,
        Permission.TRACKING_WRITE,
        "Writes experiments, runs, metrics, traces, logged models, datasets and what belongs to them.",
        """
        DELETE      */2.0/mlflow/logged-models/<model_id>/tags/<tag_key>
        DELETE      */2.0/mlflow/traces/<request_id>/tags
        PATCH       */2.0/mlflow/traces/<request_id>/tags  body=trace
        DELETE      */3.0/mlflow/datasets/<dataset_id>/tags/<key>
        DELETE      */3.0/mlflow/traces/<trace_id>/tags
        PATCH       */3.0/mlflow/traces/<trace_id>/tags  body=trace
        PATCH       */2.0/mlflow/logged-models/<model_id>
        PATCH       */2.0/mlflow/logged-models/<model_id>/tags
        PATCH       */2.0/mlflow/traces/<request_id>  body=trace
        PATCH       */3.0/mlflow/datasets/<dataset_id>/tags
        PATCH       */3.0/mlflow/issues/<issue_id>
        PATCH       */3.0/mlflow/label-schemas/update
        PATCH       */3.0/mlflow/traces/<trace_id>/assessments/<assessment_id>
        POST        */2.0/mlflow/experiments/create  guard=experiment-create message=CreateExperiment
        POST        */2.0/mlflow/experiments/delete-experiment-tag
        POST        */2.0/mlflow/experiments/restore  message=RestoreExperiment
        POST        */2.0/mlflow/experiments/set-experiment-tag
        POST        */2.0/mlflow/experiments/update
        POST        */2.0/mlflow/logged-models  guard=logged-model-create message=CreateLoggedModel
        POST        */2.0/mlflow/logged-models/<model_id>/params
        POST        */2.0/mlflow/runs/create
        POST        */2.0/mlflow/runs/delete-tag
        POST        */2.0/mlflow/runs/log-batch
        POST        */2.0/mlflow/runs/log-inputs
        POST        */2.0/mlflow/runs/log-metric
        POST        */2.0/mlflow/runs/log-model
        POST        */2.0/mlflow/runs/log-parameter
        POST        */2.0/mlflow/runs/outputs
        POST        */2.0/mlflow/runs/restore  message=RestoreRun
        POST        */2.0/mlflow/runs/set-tag
        POST        */2.0/mlflow/runs/update
        POST        */2.0/mlflow/traces  body=trace
        POST        */2.0/mlflow/traces/link-prompts
        POST        */2.0/mlflow/traces/link-to-run
        POST        */3.0/mlflow/datasets/<dataset_id>/add-experiments
        POST        */3.0/mlflow/datasets/<dataset_id>/records
        POST        */3.0/mlflow/datasets/<dataset_id>/remove-experiments
        POST        */3.0/mlflow/datasets/create
        POST        */3.0/mlflow/issues
        POST        */3.0/mlflow/label-schemas/create
        POST        */3.0/mlflow/review-queues/create
        POST        */3.0/mlflow/review-queues/get-or-create-user
        POST        */3.0/mlflow/review-queues/items/add
        POST        */3.0/mlflow/review-queues/items/remove
        POST        */3.0/mlflow/review-queues/items/set-status
        POST        */3.0/mlflow/review-queues/update
        POST        */3.0/mlflow/scorers/register
        POST        */3.0/mlflow/traces  body=trace
        POST        */3.0/mlflow/traces/<trace_id>/assessments
        POST        /v1/traces
        """,
    ),
    Family(
        RouteClass.WRITE_TRACKING,
        Decision.REFUSE,
        None,
        "A prompt-lab run calls the AI gateway and writes artifacts from inside the server, past every guard.",
        """
        POST        /ajax-api/2.0/mlflow/runs/create-promptlab-run
        """,
        closed_as="promptlab",
    ),
    Family(
        RouteClass.DESTRUCTIVE_TRACKING,
        Decision.FORWARD,
        Permission.TRACKING_DELETE,
        "Deletes experiments, runs, traces, logged models, datasets and what belongs to them.",
        """
        DELETE      */2.0/mlflow/logged-models/<model_id>  guard=logged-model-delete message=DeleteLoggedModel
        DELETE      */3.0/mlflow/datasets/<dataset_id>
        DELETE      */3.0/mlflow/datasets/<dataset_id>/records
        DELETE      */3.0/mlflow/label-schemas/delete
        DELETE      */3.0/mlflow/scorers/delete
        DELETE      */3.0/mlflow/traces/<trace_id>/assessments/<assessment_id>
        POST        */2.0/mlflow/experiments/delete  guard=experiment-delete message=DeleteExperiment
        POST        */2.0/mlflow/runs/delete  guard=run-delete message=DeleteRun
        POST        */2.0/mlflow/traces/delete-traces
        POST        */3.0/mlflow/review-queues/delete
        POST        */3.0/mlflow/traces/delete-traces
        """,
    ),
    Family(
        RouteClass.READ_REGISTRY,
        Decision.FORWARD,
        Permission.REGISTRY_READ,
        "Reads registered models, versions and aliases.",
        """
        GET         */2.0/mlflow/model-versions/get
        GET         */2.0/mlflow/model-versions/get-download-uri
        GET         */2.0/mlflow/model-versions/search
        GET         */2.0/mlflow/registered-models/alias
        GET         */2.0/mlflow/registered-models/get
        GET,POST    */2.0/mlflow/registered-models/get-latest-versions
        GET         */2.0/mlflow/registered-models/search
        """,
    ),
    Family(
        RouteClass.WRITE_REGISTRY,
        Decision.FORWARD,
        Permission.REGISTRY_WRITE,
        "Registers models and versions, and describes and tags them.",
        """
        DELETE      */2.0/mlflow/model-versions/delete-tag  guard=version-tag message=DeleteModelVersionTag
        DELETE      */2.0/mlflow/registered-models/delete-tag  guard=model-tag message=DeleteRegisteredModelTag
        PATCH       */2.0/mlflow/model-versions/update
        PATCH       */2.0/mlflow/registered-models/update
        POST        */2.0/mlflow/model-versions/create  guard=version-create message=CreateModelVersion
        POST        */2.0/mlflow/model-versions/set-tag  guard=version-tag message=SetModelVersionTag
        POST        */2.0/mlflow/registered-models/create  guard=model-create message=CreateRegisteredModel
        POST        */2.0/mlflow/registered-models/set-tag  guard=model-tag message=SetRegisteredModelTag
        """,
    ),
    Family(
        RouteClass.ALIAS_MUTATION,
        Decision.FORWARD,
        Permission.REGISTRY_READ,
        "Moves an alias. A protected alias moves only through a promotion; for others the guard asks for "
        "registry:write.",
        """
        DELETE      */2.0/mlflow/registered-models/alias  guard=alias-delete message=DeleteRegisteredModelAlias
        POST        */2.0/mlflow/registered-models/alias  guard=alias-set message=SetRegisteredModelAlias
        """,
    ),
    Family(
        RouteClass.DESTRUCTIVE_REGISTRY,
        Decision.FORWARD,
        Permission.REGISTRY_DELETE,
        "Deletes or renames a model, or deletes or stages a version: what a promotion rests on stays.",
        """
        DELETE */2.0/mlflow/model-versions/delete guard=version-delete message=DeleteModelVersion
        DELETE */2.0/mlflow/registered-models/delete guard=model-delete message=DeleteRegisteredModel
        POST   */2.0/mlflow/model-versions/transition-stage guard=stage-transition message=TransitionModelVersionStage
        POST   */2.0/mlflow/registered-models/rename guard=model-rename message=RenameRegisteredModel
        """,
    ),
    Family(
        RouteClass.ARTIFACT_READ,
        Decision.FORWARD,
        Permission.TRACKING_READ,
        "Lists and reads artifacts.",
        """
        GET         */2.0/mlflow-artifacts/artifacts
        GET,HEAD    */2.0/mlflow-artifacts/artifacts/<path:artifact_path>
        GET         */2.0/mlflow/artifacts/list
        GET         /ajax-api/2.0/mlflow/get-trace-artifact
        GET         */2.0/mlflow/logged-models/<model_id>/artifacts/directories
        GET         /ajax-api/2.0/mlflow/logged-models/<model_id>/artifacts/files
        GET         /ajax-api/3.0/mlflow/get-trace-artifact
        GET,HEAD    /get-artifact
        GET,HEAD    /model-versions/get-artifact
        """,
    ),
    Family(
        RouteClass.ARTIFACT_READ,
        Decision.UNSUPPORTED,
        Permission.TRACKING_READ,
        "Presigned download is not supported for the current artifact repository: artifacts are read through the door.",
        """
        GET         */2.0/mlflow-artifacts/presigned/<path:artifact_path>
        POST        */2.0/mlflow/artifacts/presigned-download-url
        """,
        closed_as="presigned-downloads",
    ),
    Family(
        RouteClass.ARTIFACT_WRITE,
        Decision.FORWARD,
        Permission.TRACKING_WRITE,
        "Writes artifacts; the bytes of a promoted version cannot be replaced.",
        """
        POST        /ajax-api/2.0/mlflow/upload-artifact  guard=run-artifact-write query=run_uuid,path
        PUT         */2.0/mlflow-artifacts/artifacts/<path:artifact_path>  guard=artifact-write
        """,
    ),
    Family(
        RouteClass.ARTIFACT_WRITE,
        Decision.UNSUPPORTED,
        Permission.TRACKING_WRITE,
        "Multipart upload is not supported for the current artifact repository: a presigned URL writes past "
        "the door and outlives every right.",
        """
        POST        */2.0/mlflow-artifacts/mpu/abort/<path:artifact_path>
        POST        */2.0/mlflow-artifacts/mpu/complete/<path:artifact_path>
        POST        */2.0/mlflow-artifacts/mpu/create/<path:artifact_path>
        POST        */2.0/mlflow/artifacts/presigned-upload-url
        """,
        closed_as="presigned-uploads",
    ),
    Family(
        RouteClass.ARTIFACT_DELETE,
        Decision.FORWARD,
        Permission.TRACKING_DELETE,
        "Deletes artifacts; the bytes of a promoted version stay.",
        """
        DELETE      */2.0/mlflow-artifacts/artifacts/<path:artifact_path>  guard=artifact-delete
        """,
    ),
    Family(
        RouteClass.MCP_READ,
        Decision.FORWARD,
        Permission.REGISTRY_READ,
        "Reads the registry of MCP servers.",
        """
        GET         */3.0/mlflow/mcp-servers
        GET         */3.0/mlflow/mcp-servers/<path:name>
        GET         */3.0/mlflow/mcp-servers/<path:name>/aliases/<path:alias>
        GET         */3.0/mlflow/mcp-servers/<path:name>/endpoints
        GET         */3.0/mlflow/mcp-servers/<path:name>/endpoints/<endpoint_id>
        GET         */3.0/mlflow/mcp-servers/<path:name>/versions
        GET         */3.0/mlflow/mcp-servers/<path:name>/versions/<path:version>
        GET         */3.0/mlflow/mcp-servers/endpoints
        """,
    ),
    Family(
        RouteClass.MCP_WRITE,
        Decision.FORWARD,
        Permission.REGISTRY_WRITE,
        "Registers MCP servers and their versions, and describes and tags them.",
        """
        PATCH       */3.0/mlflow/mcp-servers/<path:name>
        PATCH       */3.0/mlflow/mcp-servers/<path:name>/endpoints/<endpoint_id>
        PATCH       */3.0/mlflow/mcp-servers/<path:name>/versions/<path:version>
        POST        */3.0/mlflow/mcp-servers
        POST        */3.0/mlflow/mcp-servers/<path:name>/endpoints
        POST        */3.0/mlflow/mcp-servers/<path:name>/tags
        POST        */3.0/mlflow/mcp-servers/<path:name>/versions
        POST        */3.0/mlflow/mcp-servers/<path:name>/versions/<path:version>/tags
        """,
    ),
    Family(
        RouteClass.MCP_WRITE,
        Decision.REFUSE,
        None,
        "Cannot be told from the deletion of an MCP server whose name has slashes, which is closed.",
        """
        DELETE      */3.0/mlflow/mcp-servers/<path:name>/tags/<path:key>
        DELETE      */3.0/mlflow/mcp-servers/<path:name>/versions/<path:version>/tags/<path:key>
        """,
        closed_as="mcp-servers",
    ),
    Family(
        RouteClass.MCP_DESTRUCTIVE,
        Decision.REFUSE,
        None,
        "No policy covers the deletion of MCP servers yet; an administrator can do it at MLflow itself.",
        """
        DELETE      */3.0/mlflow/mcp-servers/<path:name>
        DELETE      */3.0/mlflow/mcp-servers/<path:name>/endpoints/<endpoint_id>
        DELETE      */3.0/mlflow/mcp-servers/<path:name>/versions/<path:version>
        """,
        closed_as="mcp-servers",
    ),
    Family(
        RouteClass.MCP_ALIAS_MUTATION,
        Decision.REFUSE,
        None,
        "No policy covers the aliases of MCP servers yet; an administrator can move them at MLflow itself.",
        """
        DELETE      */3.0/mlflow/mcp-servers/<path:name>/aliases/<path:alias>
        POST        */3.0/mlflow/mcp-servers/<path:name>/aliases
        """,
        closed_as="mcp-servers",
    ),
    Family(
        RouteClass.READ_WORKSPACE,
        Decision.FORWARD,
        Permission.TRACKING_READ,
        "Reads the names of workspaces.",
        """
        GET         */3.0/mlflow/workspaces
        GET         */3.0/mlflow/workspaces/<workspace_name>
        """,
    ),
    Family(
        RouteClass.AI_GATEWAY_READ,
        Decision.FORWARD,
        Permission.SERVER_ADMINISTER,
        "Shows how MLflow's AI gateway is set up, with the names of its secrets.",
        """
        GET         */3.0/mlflow/gateway/budgets/get
        GET         */3.0/mlflow/gateway/budgets/list
        GET         */3.0/mlflow/gateway/budgets/windows
        GET         */3.0/mlflow/gateway/endpoints/bindings/list
        GET         */3.0/mlflow/gateway/endpoints/get
        GET         */3.0/mlflow/gateway/endpoints/list
        GET         */3.0/mlflow/gateway/guardrails/get
        GET         */3.0/mlflow/gateway/guardrails/list
        GET         */3.0/mlflow/gateway/guardrails/list-for-endpoint
        GET         */3.0/mlflow/gateway/model-definitions/get
        GET         */3.0/mlflow/gateway/model-definitions/list
        GET         /ajax-api/3.0/mlflow/gateway/provider-config
        GET         /ajax-api/3.0/mlflow/gateway/secrets/config
        GET         */3.0/mlflow/gateway/secrets/get
        GET         */3.0/mlflow/gateway/secrets/list
        GET         /ajax-api/3.0/mlflow/gateway/supported-models
        GET         /ajax-api/3.0/mlflow/gateway/supported-providers
        GET         /gateway/mlflow/v1/models
        """,
    ),
    Family(
        RouteClass.AI_GATEWAY_INVOKE,
        Decision.ANSWER,
        Permission.TRACKING_READ,
        "MLflow's AI gateway is closed. The web interface asks on every page of runs which endpoints there are: none.",
        """
        GET         /ajax-api/2.0/mlflow/gateway-proxy  answer={"endpoints":[]}
        """,
        closed_as="ai-gateway-invoke",
    ),
    Family(
        RouteClass.AI_GATEWAY_INVOKE,
        Decision.REFUSE,
        None,
        "MLflow's AI gateway would spend stored provider keys for the caller; it is closed.",
        """
        POST        /ajax-api/2.0/mlflow/gateway-proxy
        POST        /gateway/<endpoint_name>/mlflow/invocations
        POST        /gateway/anthropic/v1/messages
        POST        /gateway/gemini/v1beta/models/<endpoint_name>:generateContent
        POST        /gateway/gemini/v1beta/models/<endpoint_name>:streamGenerateContent
        POST        /gateway/mlflow/v1/chat/completions
        POST        /gateway/openai/v1/chat/completions
        POST        /gateway/openai/v1/embeddings
        POST        /gateway/openai/v1/responses
        POST        /gateway/openai/v1/responses/compact
        POST        /gateway/typesafe/v1/systemone
        """,
        closed_as="ai-gateway-invoke",
    ),
    Family(
        RouteClass.AI_GATEWAY_INVOKE,
        Decision.REFUSE,
        None,
        "MLflow's AI gateway would send anything to a provider with its stored key; it is closed.",
        """
        POST        /gateway/proxy/<endpoint_name>/<path:path>
        """,
        closed_as="ai-gateway-passthrough",
    ),
    Family(
        RouteClass.AI_GATEWAY_ADMIN,
        Decision.REFUSE,
        None,
        "The keys, endpoints, budgets and guardrails of MLflow's AI gateway are not administered through this door.",
        """
        DELETE      */3.0/mlflow/gateway/budgets/delete
        DELETE      */3.0/mlflow/gateway/endpoints/bindings/delete
        DELETE      */3.0/mlflow/gateway/endpoints/delete
        DELETE      */3.0/mlflow/gateway/endpoints/delete-tag
        DELETE      */3.0/mlflow/gateway/guardrails/delete
        DELETE      */3.0/mlflow/gateway/guardrails/remove-from-endpoint
        DELETE      */3.0/mlflow/gateway/model-definitions/delete
        DELETE      */3.0/mlflow/gateway/secrets/delete
        PATCH       */3.0/mlflow/gateway/guardrails/update-config
        POST        */3.0/mlflow/gateway/budgets/create
        POST        */3.0/mlflow/gateway/budgets/update
        POST        */3.0/mlflow/gateway/endpoints/bindings/create
        POST        */3.0/mlflow/gateway/endpoints/create
        POST        */3.0/mlflow/gateway/endpoints/models/attach
        POST        */3.0/mlflow/gateway/endpoints/models/detach
        POST        */3.0/mlflow/gateway/endpoints/set-tag
        POST        */3.0/mlflow/gateway/endpoints/update
        POST        */3.0/mlflow/gateway/guardrails/add-to-endpoint
        POST        */3.0/mlflow/gateway/guardrails/create
        POST        */3.0/mlflow/gateway/model-definitions/create
        POST        */3.0/mlflow/gateway/model-definitions/update
        POST        */3.0/mlflow/gateway/secrets/create
        POST        */3.0/mlflow/gateway/secrets/update
        """,
        closed_as="ai-gateway",
    ),
    Family(
        RouteClass.SERVER_JOB,
        Decision.REFUSE,
        None,
        "Server jobs run code on MLflow's host that calls MLflow past this door; they are closed.",
        """
        DELETE,GET  */3.0/mlflow/prompt-optimization/jobs/<job_id>
        GET         /ajax-api/3.0/jobs/<job_id>
        GET         /ajax-api/3.0/mlflow/jobs/<job_id>
        GET,POST    */3.0/mlflow/prompt-optimization/jobs/search
        PATCH       /ajax-api/3.0/jobs/cancel/<job_id>
        PATCH       /ajax-api/3.0/mlflow/jobs/cancel/<job_id>
        POST        /ajax-api/3.0/jobs/
        POST        /ajax-api/3.0/jobs/search
        POST        /ajax-api/3.0/mlflow/genai/evaluate/invoke
        POST        /ajax-api/3.0/mlflow/issues/invoke
        POST        */3.0/mlflow/prompt-optimization/jobs
        POST        */3.0/mlflow/prompt-optimization/jobs/<job_id>/cancel
        POST        /ajax-api/3.0/mlflow/scorer/invoke
        PUT         */3.0/mlflow/scorers/online-config
        """,
        closed_as="server-jobs",
    ),
    Family(
        RouteClass.SERVER_ADMIN,
        Decision.REFUSE,
        None,
        "A workspace is another registry; workspaces are not administered through this door.",
        """
        POST        */3.0/mlflow/workspaces
        """,
        closed_as="workspaces",
    ),
    Family(
        RouteClass.SERVER_ADMIN,
        Decision.REFUSE,
        None,
        "Deleting a workspace moves or deletes its aliases, and changing one moves where new artifacts go; workspaces "
        "are not administered through this door.",
        """
        DELETE,PATCH */3.0/mlflow/workspaces/<workspace_name>
        """,
        closed_as="workspace-changes",
    ),
    Family(
        RouteClass.SERVER_ADMIN,
        Decision.ANSWER,
        Permission.TRACKING_READ,
        "MLflow's assistant is closed. The web interface asks on every page whether it is set up: it is not.",
        """
        GET  /ajax-api/3.0/mlflow/assistant/config  answer={"providers":{},"projects":{},"remote_access_allowed":false}
        GET  /ajax-api/3.0/mlflow/assistant/providers  answer={"providers":[],"resolved":null}
        """,
        closed_as="assistant",
    ),
    Family(
        RouteClass.SERVER_ADMIN,
        Decision.REFUSE,
        None,
        "MLflow's assistant runs tools on MLflow's host; it is closed.",
        """
        PUT         /ajax-api/3.0/mlflow/assistant/config
        GET         /ajax-api/3.0/mlflow/assistant/providers/<provider>/health
        GET         /ajax-api/3.0/mlflow/assistant/providers/<provider>/models
        GET         /ajax-api/3.0/mlflow/assistant/sessions/<session_id>/stream
        PATCH       /ajax-api/3.0/mlflow/assistant/sessions/<session_id>
        POST        /ajax-api/3.0/mlflow/assistant/message
        POST        /ajax-api/3.0/mlflow/assistant/sessions/<session_id>/permission
        POST        /ajax-api/3.0/mlflow/assistant/sessions/<session_id>/tool-result
        POST        /ajax-api/3.0/mlflow/assistant/skills/install
        """,
        closed_as="assistant",
    ),
    Family(
        RouteClass.SERVER_ADMIN,
        Decision.REFUSE,
        None,
        "MLflow's demo data comes with aliases named production, set and deleted inside the server; it is closed.",
        """
        POST        /ajax-api/3.0/mlflow/demo/delete
        POST        /ajax-api/3.0/mlflow/demo/generate
        """,
        closed_as="demo",
    ),
    Family(
        RouteClass.WEBHOOK_ADMIN,
        Decision.REFUSE,
        None,
        "MLflow's webhooks know neither who acted nor what an alias pointed to before, and are lost in a "
        "crash; register an endpoint with Countersign.",
        """
        DELETE,GET,PATCH */2.0/mlflow/webhooks/<webhook_id>
        GET,POST    */2.0/mlflow/webhooks
        POST        */2.0/mlflow/webhooks/<webhook_id>/test
        """,
        closed_as="webhooks",
    ),
    Family(
        RouteClass.USER_ADMIN,
        Decision.ABSENT,
        None,
        "Exists only with MLflow's own user administration; people come from the identity provider.",
        """
        DELETE      */2.0/mlflow/users/delete
        DELETE      */3.0/mlflow/roles/delete
        DELETE      */3.0/mlflow/roles/permissions/remove
        DELETE      */3.0/mlflow/roles/unassign
        GET         */2.0/mlflow/users/get
        GET         */2.0/mlflow/users/list
        GET         */3.0/mlflow/roles/get
        GET         */3.0/mlflow/roles/list
        GET         */3.0/mlflow/roles/permissions/list
        GET         */3.0/mlflow/roles/users/list
        GET         */3.0/mlflow/users/permissions/get
        GET         */3.0/mlflow/users/permissions/list
        GET         */3.0/mlflow/users/roles/list
        GET         /signup
        PATCH       */2.0/mlflow/users/update-admin
        PATCH       */3.0/mlflow/roles/permissions/update
        PATCH       */3.0/mlflow/roles/update
        POST        */2.0/mlflow/users/create
        POST        */3.0/mlflow/roles/assign
        POST        */3.0/mlflow/roles/create
        POST        */3.0/mlflow/roles/permissions/add
        POST        */3.0/mlflow/users/permissions/grant
        POST        */3.0/mlflow/users/permissions/revoke
        POST        /api/2.0/mlflow/users/create-ui
        """,
        closed_as="users",
    ),
    Family(
        RouteClass.USER_SELF,
        Decision.ABSENT,
        None,
        "Exists only with MLflow's own user administration; people come from the identity provider.",
        """
        GET         */2.0/mlflow/users/current
        GET         */3.0/mlflow/users/current/permissions
        PATCH       */2.0/mlflow/users/update-password
        """,
        closed_as="users",
    ),
    Family(
        RouteClass.DEAD_STUB,
        Decision.ABSENT,
        None,
        "MLflow lists this route and answers 404.",
        """
        GET         */2.0/mlflow/get-online-trace-details
        GET         */2.0/mlflow/unified-traces
        POST        */2.0mlflow/experiments/search-datasets
        """,
    ),
)

ROUTES: tuple[Route, ...] = tuple(_routes(_FAMILIES))
"""Every method and path of MLflow 3.17, those of its auth app included."""


def routes_with(openings: Iterable[str]) -> tuple[Route, ...]:
    """The table as it is with ``openings``, names of ``OPENINGS``.

    Raises:
        InvalidConfiguration: a name cannot be opened.
    """
    wanted = check_openings(openings)
    return tuple(_opened(route, route.closed_as) if route.closed_as in wanted else route for route in ROUTES)


def matrix(openings: Iterable[str] = ()) -> list[Route]:
    """The table as it is shown: with ``openings``, and with the HEAD and OPTIONS that MLflow's frameworks add to its
    paths, which are unknown here.

    Raises:
        InvalidConfiguration: a name cannot be opened.
    """
    routes = routes_with(openings)
    with_head = {route.template for route in routes if route.method == "HEAD"}
    heads = [
        _unknown(route, "HEAD", "MLflow would read the parameters of a HEAD from its body; send GET.")
        for route in routes
        if route.method == "GET" and route.template not in with_head
    ]
    options = [
        _unknown(route, "OPTIONS", "Pages of other origins are not served, so nothing has to be asked in advance.")
        for route in {route.template: route for route in routes}.values()
    ]
    return sorted((*routes, *heads, *options), key=lambda route: (route.template, route.method))


def _unknown(route: Route, method: str, reason: str) -> Route:
    return Route(method, route.template, route.route_class, Decision.ABSENT, None, reason, BodyKind.NONE)


def _opened(route: Route, name: str) -> Route:
    opening = OPENINGS[name]
    return replace(route, decision=Decision.FORWARD, permission=opening.permission, reason=opening.reason, answer=None)
