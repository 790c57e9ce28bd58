"""MLflow's registry over its REST API, past the gateway. The only module that moves an alias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from app.domain.errors import CountersignError, NotFound, UpstreamUnavailable
from app.ports import ModelVersion, RegisteredModel

_API = "/api/2.0/mlflow"


class MlflowRegistry:
    """See ``app.ports.ModelRegistry``."""

    """Args: upstream_urls: servers on the same database; the one that answered last is asked first."""

    def __init__(self, upstream_urls: Sequence[str]) -> None:
        self._urls = list(upstream_urls)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(20, connect=3),
            # A connection that a restarted MLflow dropped is not an error of this request.
            transport=httpx.AsyncHTTPTransport(retries=1),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def get_model(self, name: str) -> RegisteredModel:
        answer = await self._call("GET", "/registered-models/get", {"name": name}, missing=f"There is no model {name}.")
        model = answer["registered_model"]
        return RegisteredModel(
            name=model["name"],
            created_at=int(model["creation_timestamp"]),
            aliases={alias["alias"]: str(alias["version"]) for alias in model.get("aliases", [])},
        )

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

    async def set_alias(self, name: str, alias: str, version: str) -> None:
        await self._call(
            "POST",
            "/registered-models/alias",
            {"name": name, "alias": alias, "version": version},
            missing=f"There is no version {version} of model {name}.",
        )

    async def check_alive(self) -> None:
        # Not /health: that answers though the database is away, and whatever Host it is asked by.
        response = await self._send("GET", f"{_API}/registered-models/search", {"max_results": "1"})
        if response.status_code == 403:
            raise UpstreamUnavailable("MLflow refuses us: start it with --allowed-hosts naming the host we call it by.")
        if not response.is_success:
            raise UpstreamUnavailable(f"MLflow answered {response.status_code}.")

    async def _call(self, method: str, path: str, values: Mapping[str, str], *, missing: str) -> dict[str, Any]:
        response = await self._send(method, _API + path, values)
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

    async def _send(self, method: str, path: str, values: Mapping[str, str]) -> httpx.Response:
        sent: dict[str, Any] = {"params" if method == "GET" else "json": dict(values)}
        try:
            response = await self._ask(method, path, sent)
        except httpx.HTTPError as error:
            raise UpstreamUnavailable(f"MLflow does not answer ({type(error).__name__}).") from error
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
