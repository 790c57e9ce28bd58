"""An MLflow server with the plugin, and somebody who knows its secret."""

from __future__ import annotations

import http.client
import json
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.adapters.assertions import GatewayAssertion
from app.adapters.clock import SystemClock
from app.ports import Judged
from tests.platform import MlflowServer, running_mlflow
from tests.principals import principal

SECRET = "a secret of the tests, which is long enough"
SCIENTIST = principal("1", name="scientist", groups={"scientists"})
API = "/api/2.0/mlflow"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Insider:
    """Somebody who reaches MLflow's port, and may have got hold of the secret."""

    mlflow: MlflowServer
    assertion: GatewayAssertion

    def send(
        self, method: str, target: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = tuple(JSON.items())
    ) -> Answer:
        """Send it as it is; ``target`` is not touched."""
        address = urlsplit(self.mlflow.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", address.netloc)
        for name, value in headers:
            connection.putheader(name, value)
        if body or method in {"POST", "PUT", "PATCH", "DELETE"}:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        answer = Answer(
            response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        )
        connection.close()
        return answer

    def asserted(self, judged: Judged | None = None) -> list[tuple[str, str]]:
        """The gateway's headers, for a JSON body."""
        return [*JSON.items(), *self.assertion.headers(SCIENTIST, judged)]

    def judged(self, method: str, path: str, message: str, fields: Mapping[str, object]) -> Answer:
        """Do what the gateway does when it has judged a body."""
        headers = self.asserted(Judged(method, API + path, message, fields))
        return self.send(method, API + path, json.dumps(fields).encode(), headers)

    def model(self, versions: int = 2) -> str:
        """A new model with some versions."""
        name = f"model-{uuid.uuid4().hex[:12]}"
        created = self.judged("POST", "/registered-models/create", "CreateRegisteredModel", {"name": name})
        assert created.status == 200, created.body
        for number in range(versions):
            run = self.run()
            fields = {"name": name, "source": f"mlflow-artifacts:/0/{run}/artifacts/{number}", "run_id": run}
            created = self.judged("POST", "/model-versions/create", "CreateModelVersion", fields)
            assert created.status == 200, created.body
        return name

    def run(self) -> str:
        answer = self.send("POST", f"{API}/runs/create", b'{"experiment_id": "0"}', self.asserted())
        assert answer.status == 200, answer.body
        return str(answer.json()["run"]["info"]["run_id"])

    def aliases(self, model: str) -> dict[str, str]:
        answer = self.send("GET", f"{API}/registered-models/get?name={model}", headers=self.asserted())
        assert answer.status == 200, answer.body
        found = answer.json()["registered_model"].get("aliases", [])
        return {item["alias"]: item["version"] for item in found}


@pytest.fixture(scope="session")
def guarded_mlflow() -> Iterator[MlflowServer]:
    with running_mlflow("--app-name", "countersign", COUNTERSIGN_ASSERTION_SECRET=SECRET) as server:
        yield server


@pytest.fixture(scope="session")
def insider(guarded_mlflow: MlflowServer) -> Insider:
    return Insider(guarded_mlflow, GatewayAssertion(SECRET, SystemClock()))


@pytest.fixture(scope="session")
def handlers() -> ModuleType:
    """MLflow's table of messages and handlers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about itself while it is imported
        from mlflow.server import handlers

    return handlers
