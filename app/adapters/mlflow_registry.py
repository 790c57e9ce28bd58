"""MLflow's registry over its REST API, past the gateway. The only module that moves an alias."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx

from app.adapters.assertions import OURSELVES
from app.domain.errors import CountersignError, NotFound, UpstreamUnavailable
from app.ports import Assertion, Judged, LoggedModel, ModelVersion, RegisteredModel, Run

_API = "/api/2.0/mlflow"
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
        self, method: str, path: str, values: Mapping[str, Any], judged: Judged | None = None
    ) -> httpx.Response:
        sent: dict[str, Any] = {"params" if method == "GET" else "json": dict(values)}
        sent["headers"] = self._assertion.headers(OURSELVES, judged)
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


def _model(found: Mapping[str, Any]) -> RegisteredModel:
    return RegisteredModel(
        name=found["name"],
        created_at=int(found["creation_timestamp"]),
        aliases={alias["alias"]: str(alias["version"]) for alias in found.get("aliases", [])},
    )
