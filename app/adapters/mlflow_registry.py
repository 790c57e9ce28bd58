"""MLflow's registry over its REST API, past the gateway. The only module that moves an alias."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx

from app.adapters.assertions import OURSELVES
from app.domain.errors import CountersignError, InvalidInput, NotFound, UpstreamUnavailable
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.names import LATEST, no_experiment, no_model, no_run, no_version
from app.domain.registrations import Registration, registration_of
from app.domain.routes.resources import Named
from app.ports import (
    Assertion,
    DatasetInput,
    Experiment,
    Judged,
    LoggedModel,
    LoggedModelDetails,
    ModelVersion,
    Placed,
    RegisteredModel,
    Run,
    RunDetails,
    VersionDetails,
)

_API = "/api/2.0/mlflow"
_API3 = "/api/3.0/mlflow"
WORKSPACE = "X-MLFLOW-WORKSPACE"
_PLAIN_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
"""The one spelling of an experiment's id: MLflow takes `` 01 `` for 1, and answers by 1."""
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:-]*")
"""An id that can stand in a path."""
_LONGEST_ID = 256
_AT_ONCE = 200
_VERSIONS = 200
_AT_A_TIME = 4
"""Our own calls to each server."""
_PAGE = 1000
_NEWEST = 50
"""Versions that are asked for now and then, to see whether some are new."""
_LOOKS = 3
"""How often an alias is looked up that moves meanwhile."""


class MlflowRegistry:
    """See ``app.ports.ModelRegistry``.

    Args:
        upstream_urls: servers on the same database; the one that answered last is asked first.
        assertion: says to MLflow that it is us who ask.
        has_workspaces: whether the server was started with workspaces (``COUNTERSIGN_WORKSPACES``).
    """

    def __init__(self, upstream_urls: Sequence[str], assertion: Assertion, *, has_workspaces: bool = False) -> None:
        self._urls = list(upstream_urls)
        self._has_workspaces = has_workspaces
        self._assertion = assertion
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(20, connect=3),
            # A connection that a restarted MLflow dropped is not an error of this request. And few at a time: MLflow is
            # slower with more (docs/adr/0011), and these calls do not wait in the line of the callers' ones.
            transport=httpx.AsyncHTTPTransport(
                retries=1, limits=httpx.Limits(max_connections=_AT_A_TIME * len(self._urls), keepalive_expiry=4)
            ),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def get_model(self, name: str, workspace: str = DEFAULT_WORKSPACE) -> RegisteredModel:
        missing = no_model(name, workspace)
        answer = await self._call("GET", "/registered-models/get", {"name": name}, missing=missing, workspace=workspace)
        return _model(answer["registered_model"], workspace)

    async def get_version(self, name: str, version: str, workspace: str = DEFAULT_WORKSPACE) -> ModelVersion:
        return (await self.describe_version(name, version, workspace=workspace)).version

    async def get_holder(self, name: str, alias: str, workspace: str = DEFAULT_WORKSPACE) -> ModelVersion | None:
        elsewhere = None if workspace == DEFAULT_WORKSPACE else workspace
        path, named = f"{_API}/registered-models/alias", {"name": name, "alias": alias}
        before = _holder_of(await self._find("GET", path, named, elsewhere), name, alias)
        for _ in range(_LOOKS):
            if before is None:
                return None
            location = await self.location_of(name, before.version, elsewhere)
            after = _holder_of(await self._find("GET", path, named, elsewhere), name, alias)
            if location is not None and after == before:
                return replace(before, source_uri=location)
            before = after
        raise UpstreamUnavailable(f"Alias {alias} of model {name} moves while it is looked up.", retry_after_s=1)

    async def latest_version(self, name: str, stage: str, workspace: str = DEFAULT_WORKSPACE) -> str | None:
        elsewhere = None if workspace == DEFAULT_WORKSPACE else workspace
        asked = {"name": name} | ({} if stage == LATEST else {"stages": [stage]})
        found = await self._find("POST", f"{_API}/registered-models/get-latest-versions", asked, elsewhere)
        versions = [int(each["version"]) for each in (found or {}).get("model_versions", []) if each["name"] == name]
        return str(max(versions)) if versions else None

    async def models(self) -> AsyncIterator[RegisteredModel]:
        for workspace in await self.workspaces():
            # A search leaves prompts out, unless it asks for them alone.
            for wanted in ({}, {"filter": "tags.`mlflow.prompt.is_prompt` = 'true'"}):
                query = {"max_results": str(_PAGE), **wanted}
                while True:
                    page = await self._call(
                        "GET",
                        "/registered-models/search",
                        query,
                        missing=NotFound(f"There is no workspace {workspace}."),
                        workspace=workspace,
                    )
                    for model in page.get("registered_models", []):
                        yield _model(model, workspace)
                    if not page.get("next_page_token"):
                        break
                    query["page_token"] = page["next_page_token"]

    async def newest_versions(self, workspace: str) -> AsyncGenerator[Registration]:
        # A search leaves prompts out.
        query = {"max_results": str(_NEWEST), "order_by": "creation_timestamp DESC"}
        while True:
            missing = NotFound(f"There is no workspace {workspace}.")
            page = await self._call("GET", "/model-versions/search", query, missing=missing, workspace=workspace)
            for found in page.get("model_versions", []):
                yield registration_of(found, workspace)
            if not page.get("next_page_token"):
                return
            # There was more than usual: fewer questions then.
            query |= {"max_results": str(_PAGE), "page_token": page["next_page_token"]}

    async def workspaces(self) -> Sequence[str]:
        if not self._has_workspaces:
            return (DEFAULT_WORKSPACE,)
        found = await self._find("GET", f"{_API3}/workspaces", {}, None)
        return [str(each["name"]) for each in (found or {}).get("workspaces", [])] or (DEFAULT_WORKSPACE,)

    async def get_run(self, run_id: str, workspace: str = DEFAULT_WORKSPACE) -> Run:
        answer = await self._call(
            "GET", "/runs/get", {"run_id": run_id}, missing=no_run(run_id, workspace), workspace=workspace
        )
        info = answer["run"]["info"]
        return Run(info["run_id"], info["experiment_id"], info["artifact_uri"], str(info.get("user_id") or ""))

    async def describe_version(self, name: str, version: str, *, workspace: str) -> VersionDetails:
        missing = no_version(name, version, workspace)
        query = {"name": name, "version": version}
        answer, location = await asyncio.gather(
            self._call("GET", "/model-versions/get", query, missing=missing, workspace=workspace),
            self._call("GET", "/model-versions/get-download-uri", query, missing=missing, workspace=workspace),
        )
        found = answer["model_version"]
        if found["name"] != name:  # some databases find `Fraud` by `fraud`: that is another name to grants and policies
            raise missing
        source = str(found.get("source") or "")
        return VersionDetails(
            version=ModelVersion(
                model=name,
                version=str(found["version"]),
                run_id=found.get("run_id") or None,
                source_uri=location["artifact_uri"],
                created_at=int(found.get("creation_timestamp") or 0),
                claimed_author=str(found.get("user_id") or ""),
            ),
            description=str(found.get("description") or ""),
            tags=_pairs(found.get("tags")),
            aliases=[str(alias) for alias in found.get("aliases", [])],
            model_id=str(found.get("model_id") or "")
            or source.removeprefix("models:/") * source.startswith("models:/m-"),
        )

    async def describe_run(self, run_id: str, *, workspace: str) -> RunDetails | None:
        elsewhere = None if workspace == DEFAULT_WORKSPACE else workspace
        found = await self._find("GET", f"{_API}/runs/get", {"run_id": run_id}, elsewhere)
        if found is None:
            return None
        run = found["run"]
        info, data = run["info"], run.get("data", {})
        experiments = await self.experiments([str(info["experiment_id"])], elsewhere)
        tags = _pairs(data.get("tags"))
        return RunDetails(
            id=str(info["run_id"]),
            name=str(info.get("run_name") or tags.get("mlflow.runName", "")),
            user=str(info.get("user_id") or tags.get("mlflow.user", "")),
            status=str(info.get("status") or ""),
            started_at=int(info.get("start_time") or 0),
            ended_at=int(info.get("end_time") or 0),
            is_deleted=info.get("lifecycle_stage") == "deleted",
            experiment_id=str(info["experiment_id"]),
            experiment=experiments[0].name if experiments else "",
            tags=tags,
            params=_pairs(data.get("params")),
            metrics=_metrics(data.get("metrics")),
            datasets=[_dataset_input(each) for each in run.get("inputs", {}).get("dataset_inputs", [])],
        )

    async def describe_logged_model(self, model_id: str, *, workspace: str) -> LoggedModelDetails | None:
        if not _PLAIN_ID.fullmatch(model_id) or len(model_id) > _LONGEST_ID:
            return None
        elsewhere = None if workspace == DEFAULT_WORKSPACE else workspace
        found = await self._find("GET", f"{_API}/logged-models/{model_id}", {}, elsewhere)
        if found is None:
            return None
        data = found["model"].get("data", {})
        measured = sorted(data.get("metrics", []), key=lambda each: int(each.get("timestamp") or 0))
        return LoggedModelDetails(
            params=_pairs(data.get("params")),
            measured_by={str(each["key"]): str(each["run_id"]) for each in measured if each.get("run_id")},
        )

    async def get_experiment_location(self, experiment_id: str, workspace: str = DEFAULT_WORKSPACE) -> str:
        missing, query = no_experiment(experiment_id, workspace), {"experiment_id": experiment_id}
        answer = await self._call("GET", "/experiments/get", query, missing=missing, workspace=workspace)
        return str(answer["experiment"]["artifact_location"])

    async def logged_models_of(self, run: Run, workspace: str = DEFAULT_WORKSPACE) -> Sequence[LoggedModel]:
        body: dict[str, Any] = {"experiment_ids": [run.experiment_id], "filter": f"source_run_id = '{run.id}'"}
        found: list[LoggedModel] = []
        missing = no_run(run.id, workspace)
        while True:
            page = await self._call("POST", "/logged-models/search", body, missing=missing, workspace=workspace)
            infos = [model["info"] for model in page.get("models", [])]
            found += [LoggedModel(info["model_id"], info["name"], info["artifact_uri"]) for info in infos]
            if not page.get("next_page_token"):
                return found
            body["page_token"] = page["next_page_token"]

    async def model_name(self, name: str, workspace: str | None) -> str | None:
        found = await self._find("GET", f"{_API}/registered-models/get", {"name": name}, workspace)
        return str(found["registered_model"]["name"]) if found else None

    async def experiments(self, ids: Sequence[str], workspace: str | None) -> Sequence[Experiment]:
        plain = [each for each in ids if _PLAIN_NUMBER.fullmatch(each)]
        if not plain:
            return ()
        if len(plain) == 1:
            one = await self._find("GET", f"{_API}/experiments/get", {"experiment_id": plain[0]}, workspace)
            return (_experiment(one["experiment"]),) if one else ()
        found: list[Experiment] = []
        for at in range(0, len(plain), _AT_ONCE):
            some = plain[at : at + _AT_ONCE]
            listed = ", ".join(f"'{each}'" for each in some)
            body = {"filter": f"experiment_id IN ({listed})", "view_type": "ALL", "max_results": len(some)}
            page = await self._find("POST", f"{_API}/experiments/search", body, workspace)
            found += [_experiment(each) for each in (page or {}).get("experiments", [])]
        return found

    async def experiment_named(self, name: str, workspace: str | None) -> Experiment | None:
        query = {"experiment_name": name}
        found = await self._find("GET", f"{_API}/experiments/get-by-name", query, workspace)
        return _experiment(found["experiment"]) if found else None

    async def placed(self, kind: Named, value: str, workspace: str | None) -> Placed | None:
        path, parameter, read = _PLACES[kind]
        if not value or len(value) > _LONGEST_ID:
            return None
        if parameter:
            found = await self._find("GET", path, {parameter: value}, workspace)
        elif _PLAIN_ID.fullmatch(value):
            found = await self._find("GET", path.format(value), {}, workspace)
        else:
            found = None
        return read(found) if found else None

    async def versions_from(self, clause: str, workspace: str | None) -> Sequence[tuple[str, str]]:
        query = {"filter": clause, "max_results": str(_VERSIONS)}
        found = await self._find("GET", f"{_API}/model-versions/search", query, workspace)
        return [(each["name"], str(each["version"])) for each in (found or {}).get("model_versions", [])]

    async def location_of(self, name: str, version: str, workspace: str | None) -> str | None:
        query = {"name": name, "version": version}
        found = await self._find("GET", f"{_API}/model-versions/get-download-uri", query, workspace)
        return str(found["artifact_uri"]) if found else None

    async def _find(
        self, method: str, path: str, values: Mapping[str, Any], workspace: str | None
    ) -> dict[str, Any] | None:
        """What MLflow answers; none for what it does not have, or takes for no name at all."""
        response = await self._send(method, path, values, workspace=workspace)
        if response.is_success:
            try:
                answer = response.json()
            except ValueError:
                raise UpstreamUnavailable(f"MLflow answered {response.status_code} without JSON.") from None
            return answer if isinstance(answer, dict) else None
        if response.status_code in {400, 404}:
            return None
        raise CountersignError(f"MLflow refused {method} {path}: {response.status_code}.")

    async def set_alias(self, name: str, alias: str, version: str, workspace: str = DEFAULT_WORKSPACE) -> None:
        await self._call(
            "POST",
            "/registered-models/alias",
            {"name": name, "alias": alias, "version": version},
            missing=no_version(name, version, workspace),
            message="SetRegisteredModelAlias",
            workspace=workspace,
        )

    async def delete_alias(self, name: str, alias: str, workspace: str = DEFAULT_WORKSPACE) -> None:
        await self._call(
            "DELETE",
            "/registered-models/alias",
            {"name": name, "alias": alias},
            missing=no_model(name, workspace),
            message="DeleteRegisteredModelAlias",
            workspace=workspace,
        )

    async def set_version_tag(
        self, name: str, version: str, key: str, value: str, workspace: str = DEFAULT_WORKSPACE
    ) -> None:
        await self._call(
            "POST",
            "/model-versions/set-tag",
            {"name": name, "version": version, "key": key, "value": value},
            missing=no_version(name, version, workspace),
            message="SetModelVersionTag",
            workspace=workspace,
        )

    async def delete_version_tag(self, name: str, version: str, key: str, workspace: str = DEFAULT_WORKSPACE) -> None:
        await self._call(
            "DELETE",
            "/model-versions/delete-tag",
            {"name": name, "version": version, "key": key},
            missing=no_version(name, version, workspace),
            message="DeleteModelVersionTag",
            workspace=workspace,
        )

    async def check_alive(self) -> None:
        # Not /health: that answers though the database is away, and whatever Host it is asked by.
        response = await self._send("GET", f"{_API}/registered-models/search", {"max_results": "1"})
        if response.status_code == 403:
            raise UpstreamUnavailable("MLflow refuses us: start it with --allowed-hosts naming the host we call it by.")
        if not response.is_success:
            raise UpstreamUnavailable(f"MLflow answered {response.status_code}.")

    async def _call(
        self,
        method: str,
        path: str,
        values: Mapping[str, Any],
        *,
        missing: NotFound,
        message: str | None = None,
        workspace: str = DEFAULT_WORKSPACE,
    ) -> dict[str, Any]:
        """Args: missing: raised if MLflow has not what is asked for. message: of what is asserted field by field."""
        judged = Judged(method, _API + path, message, values) if message else None
        elsewhere = None if workspace == DEFAULT_WORKSPACE else workspace
        response = await self._send(method, _API + path, values, judged, workspace=elsewhere)
        try:
            answer = response.json()
        except ValueError:
            raise UpstreamUnavailable(f"MLflow answered {response.status_code} without JSON.") from None
        if response.is_success and isinstance(answer, dict):
            return answer
        code = answer.get("error_code") if isinstance(answer, dict) else None
        if code == "RESOURCE_DOES_NOT_EXIST":
            raise missing
        raise CountersignError(f"MLflow refused {method} {path}: {code or response.status_code}.")

    async def _send(
        self,
        method: str,
        path: str,
        values: Mapping[str, Any],
        judged: Judged | None = None,
        *,
        workspace: str | None = None,
    ) -> httpx.Response:
        if workspace is not None and not self._has_workspaces:
            raise InvalidInput("workspace", f"the MLflow server has none but `{DEFAULT_WORKSPACE}`")
        sent: dict[str, Any] = {"params" if method == "GET" else "json": dict(values)}
        sent["headers"] = list(self._assertion.headers(OURSELVES, judged))
        if workspace is not None:
            sent["headers"].append((WORKSPACE, workspace))
        try:
            response = await self._ask(method, path, sent)
        except httpx.HTTPError as error:
            raise UpstreamUnavailable(f"MLflow does not answer ({type(error).__name__}).") from error
        if response.status_code == 401:
            raise UpstreamUnavailable("MLflow does not take our word: is its COUNTERSIGN_ASSERTION_SECRET ours?")
        if response.status_code >= 500 or response.status_code == 429:
            raise UpstreamUnavailable(f"MLflow answered {response.status_code}.")
        return response

    async def _ask(self, method: str, path: str, sent: Mapping[str, Any]) -> httpx.Response:
        """Ask one server; where nothing could be sent because it is away, the next."""
        *others, last = list(self._urls)
        for url in others:
            try:
                return await self._client.request(method, url + path, **sent)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if url == self._urls[0]:
                    self._urls.append(self._urls.pop(0))
        return await self._client.request(method, last + path, **sent)


def _pairs(found: object) -> dict[str, str]:
    """Tags or parameters."""
    return {str(each["key"]): str(each.get("value", "")) for each in found} if isinstance(found, list) else {}


def _metrics(found: object) -> dict[str, float | str]:
    """The latest values of a run; it has one for each name."""
    return {str(each["key"]): each.get("value", 0.0) for each in found} if isinstance(found, list) else {}


def _dataset_input(found: Mapping[str, Any]) -> DatasetInput:
    dataset = found.get("dataset", {})
    parts = (str(dataset.get(part) or "") for part in ("name", "digest", "source_type", "source"))
    name, digest, source_type, source = parts
    return DatasetInput(name, digest, source_type, source, _pairs(found.get("tags")))


def _experiment(found: Mapping[str, Any]) -> Experiment:
    return Experiment(str(found["experiment_id"]), found["name"], found.get("artifact_location", ""))


def _run(found: Mapping[str, Any]) -> Placed:
    info = found["run"]["info"]
    return Placed(info["run_id"], (str(info["experiment_id"]),), info.get("artifact_uri", ""), info["run_id"])


def _logged_model(found: Mapping[str, Any]) -> Placed:
    info = found["model"]["info"]
    uri, run_id = info.get("artifact_uri", ""), info.get("source_run_id", "")
    return Placed(info["model_id"], (str(info["experiment_id"]),), uri, run_id)


def _trace(found: Mapping[str, Any]) -> Placed | None:
    info = found["trace"]["trace_info"]
    location = info.get("trace_location", {}).get("mlflow_experiment", {})
    return Placed(info["trace_id"], (str(location["experiment_id"]),)) if "experiment_id" in location else None


def _dataset(found: Mapping[str, Any]) -> Placed:
    return Placed("", tuple(map(str, found.get("experiment_ids", []))))


def _part(member: str) -> Callable[[Mapping[str, Any]], Placed]:
    return lambda found: Placed("", (str(found[member]["experiment_id"]),))


_PLACES: Mapping[Named, tuple[str, str, Callable[[Mapping[str, Any]], Placed | None]]] = {
    Named.RUN: (f"{_API}/runs/get", "run_id", _run),
    Named.TRACE: (f"{_API3}/traces/{{}}", "", _trace),
    Named.LOGGED_MODEL: (f"{_API}/logged-models/{{}}", "", _logged_model),
    Named.DATASET: (f"{_API3}/datasets/{{}}/experiment-ids", "", _dataset),
    Named.ISSUE: (f"{_API3}/issues/{{}}", "", _part("issue")),
    Named.LABEL_SCHEMA: (f"{_API3}/label-schemas/get", "schema_id", _part("label_schema")),
    Named.REVIEW_QUEUE: (f"{_API3}/review-queues/get", "queue_id", _part("review_queue")),
}
"""The path, the parameter of the query if the id does not stand in the path, and how the answer is read."""


def _holder_of(answer: Mapping[str, Any] | None, name: str, alias: str) -> ModelVersion | None:
    """The version that holds an alias, as far as MLflow says it there; by exactly these names, see ``get_version``."""
    found = (answer or {}).get("model_version")
    if found is None or found["name"] != name or alias not in found.get("aliases", []):
        return None
    return ModelVersion(
        model=name,
        version=str(found["version"]),
        run_id=found.get("run_id") or None,
        source_uri=str(found.get("source") or ""),
        created_at=int(found.get("creation_timestamp") or 0),
        claimed_author=str(found.get("user_id") or ""),
    )


def _model(found: Mapping[str, Any], workspace: str) -> RegisteredModel:
    return RegisteredModel(
        workspace=workspace,
        tags={tag["key"]: str(tag.get("value", "")) for tag in found.get("tags", [])},
        name=found["name"],
        created_at=int(found["creation_timestamp"]),
        aliases={alias["alias"]: str(alias["version"]) for alias in found.get("aliases", [])},
    )
