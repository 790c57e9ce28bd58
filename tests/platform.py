"""The real parts, started by the tests: PostgreSQL, an MLflow server, gateways and workers as processes of their
own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from app.bootstrap.operator import open_operator
from tests.forking import Forked
from tests.issuer import AUDIENCE, Issuer

PATIENCE_S = 180
ROLES = {
    "requester": ["scientists"],
    "approver": ["approvers"],
    "administrator": ["administrators"],
    "auditor": ["administrators"],
    "serving": ["services"],
    "viewer": ["viewers"],
}
GROUPS = {
    "scientist": ["scientists"],
    "approver": ["approvers"],
    "second-approver": ["approvers"],
    "scientist-and-approver": ["scientists", "approvers"],
    "administrator": ["administrators"],
    "serving": ["services"],
    "approving-service": ["services", "approvers"],
    "viewer": ["viewers"],
    "stranger": [],
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def until(condition: Callable[[], Any], what: str, *, patience_s: float = PATIENCE_S) -> Any:
    """The first true answer of ``condition``; fails when there is none in time."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {patience_s:g} seconds")


@dataclass
class MlflowServer:
    """A running ``mlflow server``, and what a test does in it past the gateway."""

    url: str
    artifacts: Path
    port: int
    data: Path
    process: subprocess.Popen[bytes] | None = None
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def call(
        self, method: str, path: str, values: Mapping[str, object], *, workspace: str | None = None
    ) -> dict[str, Any]:
        """Args: workspace: where, on a server that has them."""
        api = f"{self.url}/api/2.0/mlflow/{path}"
        headers = {"X-MLFLOW-WORKSPACE": workspace} if workspace else {}
        if method == "GET":
            query = {name: str(value) for name, value in values.items()}
            answer = httpx.get(api, params=query, headers=headers, timeout=30)
        else:
            answer = httpx.request(method, api, json=dict(values), headers=headers, timeout=30)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def register(self, model: str, *, versions: int = 1, workspace: str | None = None) -> None:
        """A model whose versions are real folders of artifacts, told apart by their content."""
        headers = {"X-MLFLOW-WORKSPACE": workspace} if workspace else {}
        url = f"{self.url}/api/2.0/mlflow/registered-models/create"
        if httpx.post(url, json={"name": model}, headers=headers).status_code >= 500:
            raise AssertionError("MLflow does not answer")
        ask = partial(self.call, workspace=workspace)
        experiment = ask("POST", "experiments/create", {"name": f"{model}-{time.monotonic_ns()}"})["experiment_id"]
        for _ in range(versions):
            run = ask("POST", "runs/create", {"experiment_id": experiment, "start_time": 1})["run"]["info"]
            root = run["artifact_uri"] + "/model"
            folder = self.artifacts / root.removeprefix("mlflow-artifacts:/")
            folder.mkdir(parents=True)
            (folder / "MLmodel").write_text(f"run_id: {run['run_id']}\n")
            (folder / "weights").mkdir()
            (folder / "weights" / "model.bin").write_bytes(os.urandom(64))
            ask("POST", "model-versions/create", {"name": model, "source": root, "run_id": run["run_id"]})

    def folder_of(self, model: str, version: str, *, workspace: str | None = None) -> Path:
        """Where the files of a version lie."""
        named = {"name": model, "version": version}
        answer = self.call("GET", "model-versions/get-download-uri", named, workspace=workspace)
        return self.artifacts / answer["artifact_uri"].removeprefix("mlflow-artifacts:/")

    def holder(self, model: str, alias: str = "production", *, workspace: str | None = None) -> str | None:
        found = self.call("GET", "registered-models/get", {"name": model}, workspace=workspace)["registered_model"]
        aliases = found.get("aliases", [])
        return {item["alias"]: str(item["version"]) for item in aliases}.get(alias)

    def start(self) -> None:
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ENABLE_AI_GATEWAY": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **self.environment,
        }
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.data}/mlflow.db"]
        command += ["--artifacts-destination", str(self.artifacts), "--serve-artifacts", *self.options]
        with (self.data / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.data, start_new_session=True
            )
        until(lambda: _answers(f"{self.url}/health"), "the start of MLflow")

    def stop(self) -> None:
        """At once, with its workers: as when the machine goes away."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def running_mlflow(*options: str, **environment: str) -> Iterator[MlflowServer]:
    with tempfile.TemporaryDirectory(prefix="cs-mlflow-") as folder:
        data, port = Path(folder), free_port()
        server = MlflowServer(
            f"http://127.0.0.1:{port}", data / "artifacts", port, data, options=options, environment=environment
        )
        try:
            server.start()
            yield server
        finally:
            server.stop()


@dataclass
class Countersign:
    """Gateways and workers on one database, as processes that a test may kill."""

    environment: dict[str, str]
    logs: Path
    issuer: Issuer
    processes: list[Forked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.environment["COUNTERSIGN_PUBLIC_URL"]

    def log(self, kind: str) -> str:
        path = self.logs / f"{kind}.log"
        return path.read_text() if path.exists() else ""

    def start(self, kind: str, **changed: str) -> Forked:
        """Start a ``gateway`` or a ``worker`` and wait until it is ready."""
        seen = self.log(kind).count("worker_ready")
        process = Forked(kind, env=os.environ | self.environment | changed, log=self.logs / f"{kind}.log")
        self.processes.append(process)

        def ready() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"the {kind} ended with {process.returncode}:\n{self.log(kind)[-3000:]}")
            if kind == "gateway":
                return _answers(f"{self.url}/livez")
            return self.log(kind).count("worker_ready") > seen

        until(ready, f"the start of the {kind}")
        return process

    def run(self, *command: str) -> str:
        """Run a command of the operator to its end; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", *command],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kill(self, process: Forked) -> None:
        """``kill -9``."""
        process.kill()
        process.wait()

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def token(self, who: str) -> str:
        return self.issuer.token(who, groups=GROUPS[who])

    def call(self, who: str | None, method: str, path: str, **options: Any) -> httpx.Response:
        """Call ``/control/v1`` as somebody; ``None`` sends no token."""
        headers = {"Authorization": f"Bearer {self.token(who)}"} if who else {}
        headers |= options.pop("headers", {})
        return httpx.request(
            method, f"{self.url}/control/v1{path}", headers=headers, timeout=PATIENCE_S, trust_env=False, **options
        )

    def ask(self, model: str, version: str, *, who: str = "scientist", alias: str = "production") -> dict[str, Any]:
        """Ask for a promotion."""
        answer = self.call(who, "POST", "/promotions", json={"model": model, "alias": alias, "version": version})
        assert answer.status_code in {200, 201}, answer.text
        promotion: dict[str, Any] = answer.json()
        return promotion

    def approve(self, promotion_id: str, *, who: str = "approver") -> httpx.Response:
        return self.call(who, "POST", f"/promotions/{promotion_id}/approve")

    def follow(self, promotion_id: str, *states: str) -> dict[str, Any]:
        """The promotion when it is in one of ``states``."""

        def there() -> dict[str, Any] | None:
            found: dict[str, Any] = self.call("viewer", "GET", f"/promotions/{promotion_id}").json()
            return found if found["state"] in states else None

        found: dict[str, Any] = until(there, f"{promotion_id} becoming {' or '.join(states)}")
        return found

    def audit(self, object_id: str) -> list[str]:
        """What the log says happened to something, in order."""
        page = self.call("administrator", "GET", "/audit", params={"object": object_id, "limit": 200}).json()
        return [item["entry"]["action"] for item in page["items"]]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def environment_for(*, database_url: str, upstream_url: str, artifacts: Path, issuer: Issuer) -> dict[str, str]:
    port = free_port()
    return {
        "COUNTERSIGN_DATABASE_URL": database_url,
        "COUNTERSIGN_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "COUNTERSIGN_PORT": str(port),
        "COUNTERSIGN_UPSTREAM_URLS": upstream_url,
        "COUNTERSIGN_ARTIFACTS_DESTINATION": str(artifacts),
        "COUNTERSIGN_OIDC_ISSUER": issuer.url,
        "COUNTERSIGN_OIDC_AUDIENCE": AUDIENCE,
        "COUNTERSIGN_ROLES": json.dumps(ROLES),
        "COUNTERSIGN_SERVICE_GROUPS": "services",
        "COUNTERSIGN_DRAIN_S": "0",
        # Hundreds of refusals a minute come from one address here.
        "COUNTERSIGN_SIGN_IN_RATE": "100000",
    }


def protect(database_url: str) -> None:
    """What `countersign migrate` does beyond bringing the database up to date, which its template is already.

    In a thread, because a test's own event loop may run here; as a process it would cost two seconds for each test.
    """

    async def ensure() -> None:
        async with open_operator(database_url) as operator:
            await operator.policies.ensure_default()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, ensure()).result()


@contextmanager
def new_countersign(
    database_url: str, mlflow_server: MlflowServer, issuer: Issuer, folder: Path
) -> Iterator[Countersign]:
    """A migrated database with the default policy, for gateways and workers that the test starts."""
    environment = environment_for(
        database_url=database_url, upstream_url=mlflow_server.url, artifacts=mlflow_server.artifacts, issuer=issuer
    )
    countersign = Countersign(environment, folder, issuer)
    try:
        protect(database_url)
        yield countersign
    finally:
        countersign.stop()
