"""What the deployer's tests share: settings, signed calls, a gateway that takes reports, and a small real model."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from countersign_deployer.signatures import sign, verify
from countersign_ray_serve.serving.artifacts import tree_digest
from countersign_ray_serve.settings import PLAIN_NAMES, Settings

Json = dict[str, Any]

WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"gateway to deployer, for tests!!").decode()
CALLBACK_SECRET = "whsec_" + base64.b64encode(b"deployer to gateway, for tests!!").decode()
GATEWAY_URL = "http://127.0.0.1:9"  # nobody answers there
DIGEST = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests must not leak into them."""
    import os

    for name in [name for name in os.environ if name.startswith("COUNTERSIGN_RAY_") or name in PLAIN_NAMES.values()]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def make_settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """Settings that are right except for what the test changes, with a new state folder. No Ray listens there."""

    def make(**changes: object) -> Settings:
        values: Json = {
            "gateway_url": GATEWAY_URL,
            "webhook_secret": WEBHOOK_SECRET,
            "callback_secret": CALLBACK_SECRET,
            "allowed_uri_prefixes": "s3://models/,file:///srv/models",
            "state_dir": tmp_path_factory.mktemp("state"),
            "dashboard_url": "http://127.0.0.1:9",
            "serve_url": "http://127.0.0.1:9",
        }
        return Settings(**{**values, **changes})

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


def call_event(
    *,
    generation: int = 1,
    version: str = "7",
    name: str = "iris",
    uri: str = "s3://models/iris/7/artifacts/",
    digest: str = DIGEST,
    gateway: str = GATEWAY_URL,
    **data: object,
) -> Json:
    """A call as the gateway makes it; ``data`` overrides fields of its data."""
    deployment_id = f"dep_{name.encode().hex()}"
    return {
        "specversion": "1.0",
        "id": f"evt_{secrets.token_hex(8)}",
        "source": gateway,
        "type": "countersign.deployment.requested.v1",
        "subject": f"ray/{name}",
        "time": "2026-03-01T12:00:00Z",
        "datacontenttype": "application/json",
        "data": {
            "deployment_id": deployment_id,
            "target": "ray",
            "resource": name,
            "generation": generation,
            "action": "apply",
            "model": {
                "name": name,
                "version": version,
                "alias": "production",
                "run_id": None,
                "uri": uri,
                "digest": digest,
            },
            "previous": None,
            "promotion": {"id": "prm_1", "requested_by": "ann", "approved_by": ["bob"]},
            "callback": {"url": f"{gateway}/control/v1/deployments/{deployment_id}/status"},
            "deadline_s": 300,
            **data,
        },
    }


def signed(event: Json, secret: str = WEBHOOK_SECRET) -> tuple[bytes, dict[str, str]]:
    """A call's body and headers."""
    body = json.dumps(event)
    return body.encode(), {**sign(event["id"], body, secret), "Content-Type": "application/cloudevents+json"}


@pytest.fixture(scope="session")
def make_call() -> Callable[..., Json]:
    return call_event


@pytest.fixture(scope="session")
def sign_call() -> Callable[..., tuple[bytes, dict[str, str]]]:
    return signed


@dataclass
class GatewayReceiver:
    """A gateway as far as reports go: verifies each, keeps it, answers what ``answers`` says, or 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    reports: list[Json] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes, headers: dict[str, str]) -> int:
        verify(body, headers, [CALLBACK_SECRET])
        event = json.loads(body)
        assert event["id"] == headers["webhook-id"]
        with self.changed:
            self.ids.append(event["id"])
            self.reports.append(event["data"])
            self.changed.notify_all()
            return self.answers.pop(0) if self.answers else 200

    def wait_for(self, wanted: Callable[[Json], bool], timeout_s: float = 120) -> Json:
        """The first report that is wanted; reports before it stay."""
        with self.changed:
            assert self.changed.wait_for(lambda: any(map(wanted, self.reports)), timeout_s), self.reports
            return next(filter(wanted, self.reports))


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayReceiver]:
    receiver = GatewayReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = receiver.take(body, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield receiver
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass(frozen=True)
class SavedModel:
    """A model on disk: predicts ``factor * a + b``."""

    uri: str
    digest: str


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SavedModel]:
    """Saves a real scikit-learn model with MLflow, with a signature of two named doubles."""

    def save(factor: float = 2.0, *, signature: bool = True) -> SavedModel:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow and scikit-learn warn about themselves while saving
            import mlflow.sklearn
            import pandas as pd
            from mlflow.models import infer_signature
            from sklearn.linear_model import LinearRegression

            inputs = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [2.0, 1.0, 0.5]})
            outputs = factor * inputs["a"] + inputs["b"]
            model = LinearRegression().fit(inputs if signature else inputs.to_numpy(), outputs)
            folder = tmp_path_factory.mktemp("models") / "artifacts"
            kwargs = {"signature": infer_signature(inputs, outputs)} if signature else {}
            mlflow.sklearn.save_model(model, str(folder), pip_requirements=["scikit-learn"], **kwargs)
        return SavedModel(f"{folder.as_uri()}/", tree_digest(folder))

    return save
