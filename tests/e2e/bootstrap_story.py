"""`countersign bootstrap` as a container runs it: two projects of ours, from training to answers, on real Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.platform import free_port, until
from tests.running import RunningUp

PROJECTS = Path(__file__).parents[2] / "examples" / "projects"
BOOTSTRAP = (sys.executable, "-m", "countersign_client", "bootstrap", "--env-manager", "local")
WITHIN_S = 240


def tell(up: RunningUp, folder: Path) -> None:
    """Both models answer at ports of their own; a project that fails is told with its last lines; again is at once."""
    folder.mkdir()
    connection = up.connection
    # One model whose promotion nobody need approve; the other's is under the policy of every model.
    document = {"models": "cancer", "alias": "production", "autoApprove": True, "targets": ["ray"]}
    bearer = {"Authorization": f"Bearer {connection['administrator']['access_token']}"}
    body = {**document, "breakGlass": {"allowed": False}}
    written = httpx.put(f"{connection['control']}/policies/cancer", json=body, headers=bearer)
    assert written.status_code == 201, written.text
    ports = {"cancer": free_port(), "wine": free_port()}
    environment = environment_of(up, folder, ports)
    broken = subprocess.Popen(
        [*BOOTSTRAP, "--output", str(folder / "broken.json")],
        env={**environment, **lists({"broken": (broken_project(folder), 1)})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    approving = threading.Thread(target=approve, args=(connection, "wine"))
    approving.start()
    log = folder / "bootstrap.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*BOOTSTRAP, "--serve"], env=environment, stdout=output, stderr=output)
    try:
        told = until(lambda: _told(process, log, "[wine] answers at port"), "the answer of both", patience_s=WITHIN_S)
        approving.join()
        for line in (
            "[cancer] $ mlflow run",
            '[cancer] {"model": null, "version": null',
            "[wine] version 1, of run",
            "under policy production, which asks for: a second person",
            "[wine] version 1 answers at",
        ):
            assert line in told, told
        require_answers(ports, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    assert status == 0, log.read_text()
    said, _ = broken.communicate(timeout=60)
    assert broken.returncode == 7, said
    assert "`mlflow run" in said
    assert "no data today" in said.partition("Its last lines:")[2], said

    again = subprocess.run(BOOTSTRAP, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("it is not trained again") == 2
    assert "cancer" in again.stdout


def environment_of(up: RunningUp, folder: Path, ports: Mapping[str, int]) -> dict[str, str]:
    connection = up.connection
    # Ray's own port, by which a training joins the cluster; Serve is asked at its dashboard.
    head = json.loads((up.folder / "ports.json").read_text())["ray-port"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_", "MODEL_"))}
    projects = {
        "cancer": (PROJECTS / "xgboost_cv", ports["cancer"]),
        "wine": (PROJECTS / "sklearn_classifier", ports["wine"]),
    }
    return {
        **kept,
        **lists(projects),
        "COUNTERSIGN_CREDENTIALS_FILE": str(folder / "logins.json"),
        "MLFLOW_TRACKING_URI": connection["gateway"],
        "MLFLOW_TRACKING_TOKEN": connection["scientist"]["access_token"],
        # The second one registers its model itself.
        "MODEL_PARAMS": "folds=3;rounds=20,strength=0.5;model=wine",
        "MODELS_TO_SERVE": str(folder / "models_to_serve.json"),
        "RAY_ADDRESS": f"127.0.0.1:{head}",
        "RAY_DASHBOARD_ADDRESS": connection["ray"]["dashboard"],
        "RAY_AUTH_MODE": "token",
        # On loopback, as `countersign up` starts it: Ray would look for it at another address of this machine.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_TOKEN_PATH": str(up.folder / "secrets" / "ray.token"),
        "SERVE_WAIT_TIMEOUT": str(WITHIN_S),
    }


def lists(projects: Mapping[str, tuple[Path, int]]) -> dict[str, str]:
    return {
        "MODEL_NAMES": ",".join(projects),
        "MODEL_PATHS": ",".join(str(path) for path, _ in projects.values()),
        "MODEL_PORTS": ",".join(str(port) for _, port in projects.values()),
        "MODEL_PARAMS": "",
    }


def broken_project(folder: Path) -> Path:
    project = folder / "broken"
    project.mkdir()
    (project / "MLproject").write_text("entry_points: {main: {command: 'echo no data today && exit 3'}}\n")
    return project


def approve(connection: Mapping[str, Any], model: str) -> None:
    """Somebody else says yes, as soon as they are asked."""
    control = httpx.Client(
        base_url=connection["control"],
        headers={"Authorization": f"Bearer {connection['approver']['access_token']}"},
        timeout=60,
    )

    def waits() -> Any:
        return control.get("/promotions", params={"model": model, "state": "pending"}).json()["items"]

    with control:
        (promotion,) = until(waits, "a promotion to approve", patience_s=WITHIN_S)
        answer = control.post(f"/promotions/{promotion['id']}/approve")
        assert answer.status_code == 200, answer.text


def require_answers(ports: Mapping[str, int], folder: Path) -> None:
    written = {each["name"]: each for each in json.loads((folder / "models_to_serve.json").read_text())["models"]}
    assert set(written) == set(ports)
    for name, port in ports.items():
        entry = written[name]
        assert (entry["uri"], entry["port"], entry["version"]) == (f"models:/{name}/1", port, "1")
        assert entry["digest"].startswith("sha256:")
        assert entry["promotion"].startswith("prm_")
        here = f"http://127.0.0.1:{port}"
        health = httpx.get(f"{here}/")
        assert (health.status_code, health.text, health.headers["X-Model-Version"]) == (200, "ok", "1")
        rows = {"cancer": [[0.5] * 30], "wine": [[0.5] * 13, [1.5] * 13]}[name]
        refused = httpx.post(f"{here}/", json={"inputs": "nonsense"}, timeout=60)
        assert refused.status_code == 400, refused.text
        split = {"dataframe_split": {"columns": columns(entry["url"]), "data": rows}}
        answered = httpx.post(f"{here}/invocations", json=split, timeout=60)
        assert answered.status_code == 200, answered.text
        assert len(answered.json()["predictions"]) == len(rows)


def columns(url: str) -> list[str]:
    from sklearn.datasets import load_breast_cancer, load_wine

    load = load_breast_cancer if "cancer" in url else load_wine
    return [str(name) for name in load().feature_names]


def _told(process: subprocess.Popen[bytes], log: Path, last: str) -> str:
    text = log.read_text(errors="replace")
    assert process.poll() is None, text
    return text if last in text else ""
