"""A gateway and a worker in front of an MLflow that listens to them alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.issuer import Issuer
from tests.mlflow_plugin.conftest import API, SECRET, Insider
from tests.platform import Countersign, MlflowServer, new_countersign


@pytest.fixture
def platform(database_url: str, guarded_mlflow: MlflowServer, issuer: Issuer, tmp_path: Path) -> Iterator[Countersign]:
    with new_countersign(database_url, guarded_mlflow, issuer, tmp_path) as countersign:
        countersign.environment["COUNTERSIGN_ASSERTION_SECRET"] = SECRET
        yield countersign


def ask(platform: Countersign, method: str, path: str, **options: Any) -> httpx.Response:
    """Ask MLflow as the scientist, through the gateway."""
    headers = {"Authorization": f"Bearer {platform.token('scientist')}"}
    return httpx.request(method, platform.url + path, headers=headers, timeout=60, trust_env=False, **options)


def told(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def holder(platform: Countersign, model: str, alias: str) -> str | None:
    found = told(ask(platform, "GET", f"{API}/registered-models/get", params={"name": model}))["registered_model"]
    return {item["alias"]: str(item["version"]) for item in found.get("aliases", [])}.get(alias)


def register(platform: Countersign, model: str) -> None:
    """Two versions with files, by the routes that MLflow's client takes."""
    told(ask(platform, "POST", f"{API}/registered-models/create", json={"name": model}))
    experiment = told(ask(platform, "POST", f"{API}/experiments/create", json={"name": model, "tags": []}))
    for content in (b"one", b"two"):
        run = told(ask(platform, "POST", f"{API}/runs/create", json=experiment))["run"]["info"]
        root = f"{run['artifact_uri']}/model"
        target = root.replace("mlflow-artifacts:/", "/api/2.0/mlflow-artifacts/artifacts/", 1)
        assert ask(platform, "PUT", f"{target}/MLmodel", content=content).status_code == 200
        version = {"name": model, "source": root, "run_id": run["run_id"], "tags": [{"key": "a", "value": ""}]}
        told(ask(platform, "POST", f"{API}/model-versions/create", json=version))


def test_everything_goes_through_and_production_moves_by_promotion(
    platform: Countersign, insider: Insider, model_name: str
) -> None:
    platform.start("gateway")
    platform.start("worker")
    assert httpx.get(f"{platform.url}/readyz", trust_env=False).status_code == 200
    register(platform, model_name)

    staging = {"name": model_name, "alias": "staging", "version": "1"}
    for path in (API, f"/ajax-{API[1:]}"):
        told(ask(platform, "POST", f"{path}/registered-models/alias", json=staging))
    assert holder(platform, model_name, "staging") == "1"
    told(ask(platform, "DELETE", f"{API}/registered-models/alias", json={"name": model_name, "alias": "staging"}))
    assert holder(platform, model_name, "staging") is None

    refused = ask(platform, "POST", f"{API}/registered-models/alias", json=staging | {"alias": "production"})
    assert refused.status_code == 403
    promotion = platform.ask(model_name, "1")
    assert platform.approve(promotion["id"]).status_code == 200
    platform.follow(promotion["id"], "applied")
    assert holder(platform, model_name, "production") == "1"

    past = insider.send("POST", f"{API}/registered-models/alias", b'{"name": "%b"}' % model_name.encode())
    assert past.status == 401


def test_a_message_whose_path_names_the_thing_goes_through(platform: Countersign, model_name: str) -> None:
    platform.start("gateway")
    experiment = told(ask(platform, "POST", f"{API}/experiments/create", json={"name": model_name}))
    created = told(ask(platform, "POST", f"{API}/logged-models", json={**experiment, "name": "x"}))
    model_id = created["model"]["info"]["model_id"]
    assert ask(platform, "DELETE", f"{API}/logged-models/{model_id}").status_code == 200
    assert ask(platform, "GET", f"{API}/logged-models/{model_id}").status_code == 404


def test_nobody_is_told_that_the_server_is_theirs_to_know(platform: Countersign) -> None:
    platform.start("gateway")
    answer = httpx.get(f"{platform.url}/api/3.0/mlflow/server-info", trust_env=False)
    assert answer.status_code == 200, "a public route is asserted for nobody, and MLflow answers"


@pytest.mark.parametrize("secret", ["another secret of the tests, which is long enough", None])
def test_a_gateway_with_another_secret_is_not_ready_and_says_why(platform: Countersign, secret: str | None) -> None:
    if secret is None:
        del platform.environment["COUNTERSIGN_ASSERTION_SECRET"]
    else:
        platform.environment["COUNTERSIGN_ASSERTION_SECRET"] = secret
    platform.start("gateway")
    answer = httpx.get(f"{platform.url}/readyz", trust_env=False)
    assert answer.status_code == 503
    assert "COUNTERSIGN_ASSERTION_SECRET" in platform.log("gateway") + answer.text
