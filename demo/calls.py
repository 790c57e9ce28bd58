"""The HTTP calls of the story: Countersign's API as one of the demo people, and MLflow past the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import yaml

from demo.failure import StoryFailed, require
from demo.platform import Connection
from demo.screen import Screen

Json = dict[str, Any]

TIMEOUT_S: Final = 30.0
WAIT_S: Final = 2
"""How long the gateway may hold an answer back while nothing changes."""
ENDED_BADLY = {"rejected", "withdrawn", "expired", "superseded", "stale", "failed", "rolled_back"}


class Control:
    """`/control/v1`, with the access token of whoever calls."""

    def __init__(self, connection: Connection, screen: Screen) -> None:
        self._connection = connection
        self._screen = screen
        # Everything is on loopback: no proxy of the environment may come between.
        self._http = httpx.Client(timeout=TIMEOUT_S, trust_env=False)

    def call(
        self,
        who: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: Json | None = None,
        seen: str = "",
    ) -> httpx.Response:
        """One call, whatever comes back. ``seen`` is the ETag that is known already."""
        headers = {"Authorization": f"Bearer {self._connection.tokens[who]}"}
        if seen:
            headers["If-None-Match"] = seen
        url = f"{self._connection.control}{path}"
        try:
            return self._http.request(method, url, headers=headers, params=params, json=json)
        except httpx.HTTPError as error:
            raise StoryFailed(f"{method} {path} was not answered: {error!r}") from None

    def get(self, who: str, path: str, **params: str | int) -> Json:
        """What is there; anything but 200 fails the story."""
        answer = self.call(who, "GET", path, params=params)
        require(answer.status_code == 200, f"GET {path} answered {answer.status_code}: {answer.text}")
        document: Json = answer.json()
        return document

    def tell(
        self,
        who: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: Json | None = None,
    ) -> httpx.Response:
        """One call, shown on the screen with its outcome."""
        answer = self.call(who, method, path, params=params, json=json)
        query = "?" + "&".join(f"{name}={value}" for name, value in params.items()) if params else ""
        self._screen.call(
            who, f"{method} {self._connection.control}{path}{query}", f"{answer.status_code} {answer.reason_phrase}"
        )
        return answer

    def follow(self, promotion_id: str, is_there: Callable[[Json], bool], waiting_for: str, patience_s: float) -> Json:
        """The promotion once ``is_there`` says so; fails the story when it ended otherwise, or in time did not."""
        deadline, etag = time.monotonic() + patience_s, ""
        with self._screen.waiting(waiting_for) as update:
            while True:
                wait = {"wait": WAIT_S} if etag else None
                answer = self.call("approver", "GET", f"/promotions/{promotion_id}", params=wait, seen=etag)
                require(answer.status_code == 200, f"promotion {promotion_id} cannot be read: {answer.text}")
                promotion: Json = answer.json()
                etag = answer.headers["ETag"]
                if is_there(promotion):
                    return promotion
                require(promotion["state"] not in ENDED_BADLY, _how_it_ended(promotion))
                require(time.monotonic() < deadline, f"after {patience_s:.0f} s {_where(promotion)}")
                update(_where(promotion))


def _where(promotion: Json) -> str:
    phases = [f"{item['target']}: {item['phase']}" for item in promotion["deployments"]]
    return ", ".join([f"the promotion is {promotion['state']}", *phases])


def _how_it_ended(promotion: Json) -> str:
    reasons = [str(promotion["state_reason"] or "no reason was given")]
    reasons += [f"{item['target']}: {item['reason']} {item['message']}" for item in promotion["deployments"]]
    return f"promotion {promotion['id']} is {promotion['state']}: {'; '.join(reasons)}"


@dataclass(frozen=True, slots=True)
class Logged:
    """What MLflow keeps of one version."""

    params: Json
    metrics: dict[str, float]
    datasets: list[str]
    has_signature: bool
    example: Json


class Ledger:
    """MLflow's own REST API, read as the approver: the story believes only what stands there.

    Through the gateway, because MLflow answers nobody else.
    """

    def __init__(self, connection: Connection) -> None:
        self._upstream = connection.upstream
        self._http = httpx.Client(
            base_url=f"{connection.gateway}/api/2.0",
            headers={"Authorization": f"Bearer {connection.tokens['approver']}"},
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    def move_past_the_gateway(self, model: str, alias: str, version: str) -> httpx.Response:
        """What MLflow answers to somebody who reaches its own port."""
        body = {"name": model, "alias": alias, "version": version}
        url = f"{self._upstream}/api/2.0/mlflow/registered-models/alias"
        return httpx.post(url, json=body, timeout=TIMEOUT_S, trust_env=False)

    def holder(self, model: str, alias: str) -> str | None:
        """The version that an alias points to."""
        found = self._get("mlflow/registered-models/get", name=model).json()["registered_model"]
        return {item["alias"]: str(item["version"]) for item in found.get("aliases", [])}.get(alias)

    def logged(self, model: str, version: str) -> Logged:
        """What was logged with a version."""
        found = self._get("mlflow/model-versions/get", name=model, version=version).json()["model_version"]
        run = self._get("mlflow/runs/get", run_id=found["run_id"]).json()["run"]
        root = f"mlflow-artifacts/artifacts/{self._folder(found)}"
        return Logged(
            params={item["key"]: item["value"] for item in run["data"].get("params", [])},
            metrics={item["key"]: item["value"] for item in run["data"].get("metrics", [])},
            datasets=[item["dataset"]["name"] for item in run.get("inputs", {}).get("dataset_inputs", [])],
            has_signature=bool(yaml.safe_load(self._get(f"{root}/MLmodel").text).get("signature")),
            example=self._get(f"{root}/serving_input_example.json").json(),
        )

    def _folder(self, version: Json) -> str:
        """Where the artifacts of a version are, below MLflow's artifact root."""
        source = str(version["source"])
        if source.startswith("models:/"):
            logged_model = self._get(f"mlflow/logged-models/{source.removeprefix('models:/')}").json()["model"]
            source = str(logged_model["info"]["artifact_uri"])
        return source.removeprefix("mlflow-artifacts:").lstrip("/")

    def _get(self, path: str, **params: str) -> httpx.Response:
        try:
            answer = self._http.get(f"/{path}", params=params)
        except httpx.HTTPError as error:
            raise StoryFailed(f"MLflow did not answer GET {path}: {error!r}") from None
        require(answer.status_code == 200, f"MLflow answered GET {path} with {answer.status_code}: {answer.text}")
        return answer
