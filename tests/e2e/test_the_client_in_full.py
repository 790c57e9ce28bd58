"""MLflow's own client, unmodified: what it is told through the gateway is what MLflow tells it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.scientist import STORY, Scientist, Told, environment, tell
from tests.platform import PATIENCE_S, Countersign, MlflowServer, until
from tests.toll import TollGate

PROJECTS = Path(__file__).parents[2] / "deploy" / "mlflow"
CHAPTERS = (
    "experiments",
    "tracking",
    "artifacts",
    "commands",
    "traces",
    "open_telemetry",
    "evaluation",
    "prompts",
    "registry",
    "autologging",
)
"""What is the same with and without the gateway, to the last word."""


@pytest.fixture(scope="module")
def both(
    service: Countersign, mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Told, Told]:
    """What the client is told by MLflow itself and through the gateway."""
    folder = tmp_path_factory.mktemp("scientists")
    chapters = (*CHAPTERS, "mistakes")
    bare = Scientist(folder / "bare", environment(mlflow_server.url), str(STORY), "bare", *chapters)
    token = service.token("scientist")
    behind = Scientist(folder / "behind", environment(service.url, token), str(STORY), "behind", *chapters)
    try:
        return bare.told(), behind.told()
    finally:
        bare.stop()
        behind.stop()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_client_is_told_the_same_with_and_without_the_gateway(both: tuple[Told, Told], chapter: str) -> None:
    bare, behind = both

    assert bare[chapter]
    assert behind[chapter] == bare[chapter]


def test_a_mistake_raises_the_same_error_with_and_without_the_gateway(both: tuple[Told, Told]) -> None:
    bare, behind = both[0]["mistakes"], both[1]["mistakes"]

    raised = {what: [kind, code] for what, (kind, code, *_) in bare.items() if kind != "returned"}
    assert len(raised) > 20
    assert {what: [kind, code] for what, (kind, code, *_) in behind.items() if kind != "returned"} == raised
    # The gateway refuses this one itself, before MLflow would.
    assert {what for what in bare if bare[what] != behind[what]} == {"an alias that is reserved"}


def test_a_protected_alias_is_refused_with_its_promotion_and_serves_when_that_was_approved(
    service: Countersign, tmp_path: Path
) -> None:
    scientist = environment(service.url, service.token("scientist"))
    asked = tell(tmp_path, scientist, "asking", "refusal")

    promotion = asked["alias"]["promotion"]
    assert asked["alias"]["code"] == "PERMISSION_DENIED"
    assert asked["alias"]["link"] == f"{service.url}/control/v1/promotions/{promotion}"
    assert f"{service.url}/console/promotions/{promotion}" in asked["alias"]["message"]
    assert asked["stage"]["code"] == "PERMISSION_DENIED"
    assert "Use aliases" in asked["stage"]["message"]
    assert asked["webhook"]["code"] == "PERMISSION_DENIED"
    assert "register an endpoint with Countersign" in asked["webhook"]["message"]
    # A prompt is text in a tag: there is no file that could be signed.
    assert asked["prompt"]["code"] == "PERMISSION_DENIED"

    assert service.approve(promotion).status_code == 200
    service.follow(promotion, "applied")
    served = tell(tmp_path, scientist, "asking", "serving")

    assert served["predicted"] == [2.0, 4.0, 6.0]
    assert served["kept"] == {what: ["RestException", "PERMISSION_DENIED"] for what in ("version", "alias", "model")}


def test_a_project_runs_through_the_gateway(service: Countersign, tmp_path: Path, model_name: str) -> None:
    project = next(PROJECTS.rglob("MLproject")).parent
    # The project's command is `python …`, and this environment is the one to run it in.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "run", str(project), "--env-manager", "local", "-P", f"model={model_name}"],
        cwd=tmp_path,
        env=environment(service.url, service.token("scientist"), PATH=path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    found = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert [found["model"], found["version"]] == [model_name, "1"]


# Retries. A scientist's client has its own default of seven here.

SET_ALIAS = "import sys; from mlflow import MlflowClient; MlflowClient().set_registered_model_alias(*sys.argv[1:])"
CREATE = """
import json, sys
from mlflow import MlflowClient
print(json.dumps(MlflowClient().create_experiment(sys.argv[1])))
"""


@pytest.fixture
def counted(service: Countersign) -> Iterator[TollGate]:
    """A server before the gateway that counts what is asked of it."""
    with TollGate(service.url) as gate:
        yield gate


def test_a_refusal_is_asked_for_once(
    service: Countersign, mlflow_server: MlflowServer, counted: TollGate, tmp_path: Path, model_name: str
) -> None:
    mlflow_server.register(model_name)
    patient = environment(counted.url, service.token("scientist"), MLFLOW_HTTP_REQUEST_MAX_RETRIES="7")
    process = Scientist(tmp_path, patient, "-c", SET_ALIAS, model_name, "production", "1")

    with pytest.raises(AssertionError, match=r"PERMISSION_DENIED.*Follow it at"):
        process.told()
    assert counted.count("POST", "/registered-models/alias") == 1


def test_a_client_waits_for_mlflow_to_come_back(
    countersign: Countersign, mlflow_server: MlflowServer, tmp_path: Path, model_name: str
) -> None:
    """The 503 of the gateway, with its Retry-After, is one that the client knows."""
    with TollGate(mlflow_server.url) as behind, TollGate(countersign.url) as before:
        countersign.start("gateway", COUNTERSIGN_UPSTREAM_URLS=behind.url)
        behind.shut()
        patient = environment(before.url, countersign.token("scientist"), MLFLOW_HTTP_REQUEST_MAX_RETRIES="7")
        process = Scientist(tmp_path, patient, "-c", CREATE, model_name)
        try:
            until(lambda: before.count("POST", "/experiments/create"), "a call while MLflow is away")
            behind.open()

            created = process.told()
        finally:
            process.stop()

    assert before.count("POST", "/experiments/create") > 1
    assert behind.count("POST", "/experiments/create") == 1
    assert mlflow_server.call("GET", "experiments/get-by-name", {"experiment_name": model_name})["experiment"][
        "experiment_id"
    ] == str(created)
