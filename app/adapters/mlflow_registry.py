"""MLflow's registry over its REST API, past the gateway. The only module that moves an alias."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import httpx

from app.adapters.assertions import OURSELVES
from app.domain.errors import CountersignError, NotFound, UpstreamUnavailable
from app.domain.routes.resources import Named
from app.ports import Assertion, Experiment, Judged, LoggedModel, ModelVersion, Placed, RegisteredModel, Run

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


class MlflowRegistry:
    """See ``app.ports.ModelRegistry``.

    Args:
        upstream_urls: servers on the same database; the one that answered last is asked first.
        assertion: says to MLflow that it is us who ask.
    """

    def __init__(self, upstream_urls: Sequence[str], assertion: Assertion) -> None:
        self._urls = list(upstream_urls)
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

    async def get_model(self, name: str) -> RegisteredModel:
        answer = await self._call("GET", "/registered-models/get", {"name": name}, missing=f"There is no model {name}.")
        return _model(answer["registered_model"])

    async def get_version(self, name: str, version: str) -> ModelVersion:
        missing = f"There is no version {version} of model {name}."
        query = {"name": name, "version": version}
        found = (await self._call("GET", "/model-versions/get", query, missing=missing))["model_version"]
        location = await self._call("GET", "/model-versions/get-download-uri", query, missing=missing)
        return ModelVersion(
            model=name,
            version=str(found["version"]),
            run_id=found.get("run_id") or None,
            source_uri=location["artifact_uri"],
        )

    async def models(self) -> AsyncIterator[RegisteredModel]:
        # A search leaves prompts out, unless it asks for them alone.
        for wanted in ({}, {"filter": "tags.`mlflow.prompt.is_prompt` = 'true'"}):
            query = {"max_results": str(_PAGE), **wanted}
            while True:
                page = await self._call("GET", "/registered-models/search", query, missing="There are no models.")
                for model in page.get("registered_models", []):
                    yield _model(model)
                if not page.get("next_page_token"):
                    break
                query["page_token"] = page["next_page_token"]

    async def get_run(self, run_id: str) -> Run:
        answer = await self._call("GET", "/runs/get", {"run_id": run_id}, missing=f"There is no run {run_id}.")
        info = answer["run"]["info"]
        return Run(info["run_id"], info["experiment_id"], info["artifact_uri"])

    async def get_experiment_location(self, experiment_id: str) -> str:
        missing = f"There is no experiment {experiment_id}."
        answer = await self._call("GET", "/experiments/get", {"experiment_id": experiment_id}, missing=missing)
        return str(answer["experiment"]["artifact_location"])

    async def logged_models_of(self, run: Run) -> Sequence[LoggedModel]:
        body: dict[str, Any] = {"experiment_ids": [run.experiment_id], "filter": f"source_run_id = '{run.id}'"}
        found: list[LoggedModel] = []
        while True:
            page = await self._call("POST", "/logged-models/search", body, missing=f"There is no run {run.id}.")
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

    async def set_alias(self, name: str, alias: str, version: str) -> None:
        await self._call(
            "POST",
            "/registered-models/alias",
            {"name": name, "alias": alias, "version": version},
            missing=f"There is no version {version} of model {name}.",
            message="SetRegisteredModelAlias",
        )

    async def check_alive(self) -> None:
        # Not /health: that answers though the database is away, and whatever Host it is asked by.
        response = await self._send("GET", f"{_API}/registered-models/search", {"max_results": "1"})
        if response.status_code == 403:
            raise UpstreamUnavailable("MLflow refuses us: start it with --allowed-hosts naming the host we call it by.")
        if not response.is_success:
            raise UpstreamUnavailable(f"MLflow answered {response.status_code}.")

    async def _call(
        self, method: str, path: str, values: Mapping[str, Any], *, missing: str, message: str | None = None
    ) -> dict[str, Any]:
        """Args: message: of what is asserted field by field."""
        judged = Judged(method, _API + path, message, values) if message else None
        response = await self._send(method, _API + path, values, judged)
        try:
            answer = response.json()
        except ValueError:
            raise UpstreamUnavailable(f"MLflow answered {response.status_code} without JSON.") from None
        if response.is_success and isinstance(answer, dict):
            return answer
        code = answer.get("error_code") if isinstance(answer, dict) else None
        if code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFound(missing, **values)
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


def _model(found: Mapping[str, Any]) -> RegisteredModel:
    return RegisteredModel(
        name=found["name"],
        created_at=int(found["creation_timestamp"]),
        aliases={alias["alias"]: str(alias["version"]) for alias in found.get("aliases", [])},
    )
