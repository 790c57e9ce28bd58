"""The real parts: PostgreSQL, an MLflow server on it, a gateway, and as many workers as are wanted."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
from joserfc import jwt

from app.adapters.postgres.schema import migrate
from app.bootstrap.operator import open_operator
from app.embedded.mlflow_server import HARDENING
from app.embedded.ports import LOOPBACK
from bench.proxy.database import running_postgres
from bench.proxy.issuer import AUDIENCE, Issuer, running_issuer
from bench.proxy.parts import answers, cpu_s, free_port, running

REPOSITORY = Path(__file__).parents[2]
WORKERS = "workers"
REQUESTER, APPROVER = "requester", "approver"
ALIAS = "production"
"""That the default policy protects."""


@dataclass(frozen=True, slots=True)
class Stack:
    """All parts but the workers, running."""

    folder: Path
    issuer: Issuer
    database_url: str
    mlflow_url: str
    settings: Mapping[str, str]
    processes: dict[str, list[psutil.Process]]
    """By part: what runs of it now."""

    def mlflow(self) -> httpx.Client:
        """Past the gateway."""
        return httpx.Client(base_url=f"{self.mlflow_url}/api/2.0/mlflow", timeout=60, trust_env=False)

    def caller(self, role: str) -> httpx.Client:
        """Somebody with a role, at our own API."""
        now = int(time.time())
        claims = {"iss": self.issuer.url, "aud": AUDIENCE, "sub": role, "groups": [role], "iat": now, "exp": now + 3600}
        header = {"alg": "RS256", "kid": self.issuer.key.kid, "typ": "at+jwt"}
        token = jwt.encode(header, claims, self.issuer.key, algorithms=["RS256"])
        url = f"{self.settings['COUNTERSIGN_PUBLIC_URL']}/control/v1"
        return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False)

    def register(self, models: int) -> Sequence[str]:
        """Models with two versions each, all of the same small artifacts."""
        with self.mlflow() as mlflow:

            def create(path: str, **values: object) -> dict[str, Any]:
                answer = mlflow.post(path, json=values)
                answer.raise_for_status()
                found: dict[str, Any] = answer.json()
                return found

            experiment = create("/experiments/create", name="bench")["experiment_id"]
            run = create("/runs/create", experiment_id=experiment, start_time=1)["run"]["info"]
            root = f"{run['artifact_uri']}/model"
            artifacts = self.folder / "artifacts" / root.removeprefix("mlflow-artifacts:/")
            artifacts.mkdir(parents=True)
            (artifacts / "MLmodel").write_text(f"run_id: {run['run_id']}\n")
            (artifacts / "model.bin").write_bytes(bytes(1024))
            names = [f"model-{number:05}" for number in range(models)]
            for name in names:
                create("/registered-models/create", name=name)
                for _ in range(2):
                    create("/model-versions/create", name=name, source=root, run_id=run["run_id"])
        return names

    def rows(self, statement: str, parameters: Sequence[object]) -> Sequence[tuple[Any, ...]]:
        """What our database holds."""
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(statement, parameters).fetchall()

    @contextmanager
    def workers(self, number: int) -> Iterator[None]:
        """So many worker processes, ready and idle."""
        with ExitStack() as stack:
            for _ in range(number):
                name = f"worker-{uuid.uuid4().hex[:6]}"
                command = [sys.executable, "-m", "app.cli", "worker"]
                ready = partial(_is_ready, self.folder / f"{name}.log")
                worker = running(name, command, ready, folder=self.folder, environment=self.settings)
                self.processes[WORKERS].append(stack.enter_context(worker))
            time.sleep(1)
            yield
        self.processes[WORKERS].clear()

    def used_s(self) -> Mapping[str, float]:
        """Seconds of processor that each part has used."""
        return {part: cpu_s(processes) for part, processes in self.processes.items()}


@contextmanager
def running_stack(folder: Path) -> Iterator[Stack]:
    """Everything but the workers, with the default policy."""
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres(folder / "postgres"))
        issuer = stack.enter_context(running_issuer())
        migrate(postgres.url)
        asyncio.run(_protect(postgres.url))
        upstream, port = free_port(), free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(upstream)]
        store = postgres.mlflow_url.replace("psycopg2", "psycopg")
        command += ["--workers", "1", "--backend-store-uri", store]
        command += ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
        ready = answers(upstream, "/health")
        mlflow = stack.enter_context(running("mlflow", command, ready, folder=folder, environment=HARDENING))
        settings = {
            "COUNTERSIGN_DATABASE_URL": postgres.url,
            "COUNTERSIGN_PUBLIC_URL": f"http://{LOOPBACK}:{port}",
            "COUNTERSIGN_PORT": str(port),
            "COUNTERSIGN_UPSTREAM_URLS": f"http://{LOOPBACK}:{upstream}",
            "COUNTERSIGN_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "COUNTERSIGN_OIDC_ISSUER": issuer.url,
            "COUNTERSIGN_OIDC_AUDIENCE": AUDIENCE,
            "COUNTERSIGN_ROLES": json.dumps({REQUESTER: [REQUESTER], APPROVER: [APPROVER]}),
            "PYTHONPATH": str(REPOSITORY),
        }
        command = [sys.executable, "-m", "app.cli", "gateway"]
        ready = answers(port, "/readyz")
        gateway = stack.enter_context(running("gateway", command, ready, folder=folder, environment=settings))
        processes = {"MLflow": [mlflow], "gateway": [gateway], WORKERS: []}
        yield Stack(folder, issuer, postgres.url, f"http://{LOOPBACK}:{upstream}", settings, processes)


def _is_ready(log: Path) -> bool:
    return log.exists() and "worker_ready" in log.read_text(encoding="utf-8", errors="replace")


async def _protect(database_url: str) -> None:
    async with open_operator(database_url) as operator:
        await operator.policies.ensure_default()
