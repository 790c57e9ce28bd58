"""A world in which some may see some models and experiments only: real servers, grants, and things to see and not."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from app.adapters.clock import SystemClock
from app.adapters.postgres.unit_of_work import Database
from app.domain.grants import grant_from_document
from tests.platform import Countersign, MlflowServer, until


def give(database_url: str, *documents: Mapping[str, object]) -> None:
    """Write grants, past every check of who may."""

    async def put() -> None:
        database = Database(database_url)
        try:
            async with database.unit_of_work() as work:
                for document in documents:
                    grant = grant_from_document({"kind": "Grant", **document})
                    await work.grants.put(grant, at=SystemClock().now(), by="the test")
                work.forget_callers()
                await work.commit()
        finally:
            await database.close()

    asyncio.run(put())


@dataclass
class Things:
    """One of each kind, in one experiment and of one model."""

    experiment: str
    experiment_name: str
    run: str
    logged_model: str
    trace: str
    dataset: str
    issue: str
    label_schema: str
    review_queue: str
    model: str
    artifact: str
    """The path of a file of the run."""

    def of(self, kind: str) -> str:
        return str(getattr(self, kind.replace("-", "_")))


@dataclass
class World:
    """A gateway, the MLflow behind it, and who asks."""

    service: Countersign
    mlflow: MlflowServer
    tag: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(
            timeout=60, trust_env=False, limits=httpx.Limits(keepalive_expiry=3), verify=False
        )
    )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def give(self, who: str, role: str, *, effect: str = "allow", **on: str) -> None:
        """A grant to one person, who is in a group of that name."""
        document = {"name": f"g-{uuid.uuid4().hex}", "role": role, "subject": {"group": f"{self.tag}-{who}"}, "on": on}
        give(self.service.environment["COUNTERSIGN_DATABASE_URL"], {**document, "effect": effect})

    def give_models(self, who: str, role: str, names: Sequence[str]) -> None:
        subject = {"group": f"{self.tag}-{who}"}
        documents = [
            {"name": f"g-{uuid.uuid4().hex}", "role": role, "subject": subject, "on": {"model": name}} for name in names
        ]
        give(self.service.environment["COUNTERSIGN_DATABASE_URL"], *documents)

    def token(self, who: str) -> str:
        return self.service.issuer.token(f"{self.tag}-{who}", groups=[f"{self.tag}-{who}"])

    def call(self, who: str, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask the gateway as somebody. ``path`` begins after ``/api``, unless it is a whole one."""
        headers = {"Authorization": f"Bearer {self.token(who)}", **options.pop("headers", {})}
        url = self.service.url + (
            path if path.startswith(("/ajax-api", "/get-", "/model-versions", "/graphql", "/v1")) else f"/api{path}"
        )
        return self.client.request(method, url, headers=headers, **options)

    def past(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask MLflow itself."""
        url = self.mlflow.url + (
            path if path.startswith(("/ajax-api", "/get-", "/model-versions", "/graphql", "/v1")) else f"/api{path}"
        )
        return self.client.request(method, url, **options)

    def made(self, path: str, **body: object) -> dict[str, Any]:
        answer = self.past("POST", path, json=body)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def things(self, name: str) -> Things:
        """Make one of each, past the gateway."""
        experiment = str(self.made("/2.0/mlflow/experiments/create", name=name)["experiment_id"])
        run = self.made("/2.0/mlflow/runs/create", experiment_id=experiment, start_time=1)["run"]["info"]
        self.made("/2.0/mlflow/runs/log-metric", run_id=run["run_id"], key="m", value=1.0, timestamp=1, step=0)
        folder = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
        path = f"{folder}/secret/notes.txt"
        put = self.past("PUT", f"/2.0/mlflow-artifacts/artifacts/{path}", content=b"what is in it")
        assert put.status_code == 200, put.text
        logged = self.made(
            "/2.0/mlflow/logged-models", experiment_id=experiment, name="lm", source_run_id=run["run_id"]
        )
        trace_id = f"tr-{uuid.uuid4().hex}"
        location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
        info = {"trace_id": trace_id, "trace_location": location, "request_time": "2026-01-01T00:00:00Z", "state": "OK"}
        self.made("/3.0/mlflow/traces", trace={"trace_info": info})
        dataset = self.made("/3.0/mlflow/datasets/create", name=f"{name}-data", experiment_ids=[experiment])
        issue = self.made("/3.0/mlflow/issues", experiment_id=experiment, name="odd", description="d")
        schema = self.made(
            "/3.0/mlflow/label-schemas/create",
            experiment_id=experiment,
            name="good",
            type="FEEDBACK",
            input={"pass_fail": {"positive_label": "yes", "negative_label": "no"}},
        )
        queue = self.made("/3.0/mlflow/review-queues/create", experiment_id=experiment, name="q", queue_type="CUSTOM")
        self.made("/2.0/mlflow/registered-models/create", name=name)
        self.made(
            "/2.0/mlflow/model-versions/create",
            name=name,
            source=f"mlflow-artifacts:/{folder}/secret",
            run_id=run["run_id"],
        )
        return Things(
            experiment,
            name,
            run["run_id"],
            logged["model"]["info"]["model_id"],
            trace_id,
            dataset["dataset"]["dataset_id"],
            issue["issue"]["issue_id"],
            schema["label_schema"]["schema_id"],
            queue["review_queue"]["queue_id"],
            name,
            path,
        )

    def wait_for(self, who: str) -> None:
        """Until the gateway knows the grants that were written."""
        until(lambda: self.call(who, "GET", "/2.0/mlflow/registered-models/search").status_code == 200, "the grants")


def told(answer: httpx.Response, word: str) -> tuple[int, object]:
    """An answer, without the word that was asked for and without what is new in every answer."""
    text = answer.text
    for each in (word, word.partition("/")[0]):
        text = re.sub(rf"(?<![0-9A-Za-z-]){re.escape(each)}(?![0-9A-Za-z])", "<it>", text)
    text = re.sub(r"[a-z]{1,3}-[0-9a-f]{32}|\b1[0-9]{12}\b", "<new>", text)
    try:
        return answer.status_code, json.loads(text)
    except ValueError:
        return answer.status_code, text
