"""MLflow's own paths through the door: the native call opens a promotion, and nothing hollows one out."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import database_of
from tests.issuer import Issuer
from tests.platform import PATIENCE_S, Countersign, MlflowServer, new_countersign, running_mlflow

MLFLOW = "/api/2.0/mlflow"


@pytest.fixture
def model(mlflow_server: MlflowServer, model_name: str) -> str:
    mlflow_server.register(model_name, versions=2)
    return model_name


def native(service: Countersign, who: str, method: str, path: str, body: object = None) -> httpx.Response:
    """As MLflow's client calls."""
    headers = {"Authorization": f"Bearer {service.token(who)}"}
    return httpx.request(method, service.url + path, json=body, headers=headers, timeout=PATIENCE_S, trust_env=False)


def set_alias(
    service: Countersign, who: str, model: str, alias: str, version: str, *, api: str = MLFLOW
) -> httpx.Response:
    body = {"name": model, "alias": alias, "version": version}
    return native(service, who, "POST", f"{api}/registered-models/alias", body)


def refused(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 403, answer.text
    document: dict[str, str] = answer.json()
    assert document["error_code"] == "PERMISSION_DENIED"
    return document


def hold(service: Countersign, model: str, version: str) -> str:
    promotion = service.ask(model, version)["id"]
    service.approve(promotion)
    service.follow(promotion, "applied")
    return str(promotion)


@pytest.mark.parametrize("api", [MLFLOW, "/ajax-api/2.0/mlflow"])
def test_the_native_call_opens_a_promotion_and_says_where(
    service: Countersign, mlflow_server: MlflowServer, model: str, api: str
) -> None:
    first = refused(set_alias(service, "scientist", model, "production", "1", api=api))
    again = refused(set_alias(service, "scientist", model, "production", "1", api=api))
    assert first["promotion"] == again["promotion"]
    assert f"{service.url}/console/promotions/{first['promotion']}" in first["message"]
    assert "policy 'production'" in first["message"]
    promotion = service.follow(first["promotion"], "pending")
    assert promotion["link"] == first["link"]
    assert promotion["requested_by"]["name"] == "scientist"
    assert mlflow_server.holder(model) is None


def test_the_native_call_returns_normally_when_the_version_holds_the_alias(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    hold(service, model, "1")
    assert set_alias(service, "scientist", model, "production", "1").status_code == 200
    assert mlflow_server.holder(model) == "1"


def test_other_aliases_are_set_and_deleted_as_ever(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    assert set_alias(service, "scientist", model, "staging", "2").status_code == 200
    assert mlflow_server.holder(model, "staging") == "2"
    body = {"name": model, "alias": "staging"}
    assert native(service, "scientist", "DELETE", f"{MLFLOW}/registered-models/alias", body).status_code == 200
    assert mlflow_server.holder(model, "staging") is None


@pytest.mark.parametrize("alias", ["PRODUCTION", "Production"])
def test_another_case_of_a_protected_alias_is_protected(
    service: Countersign, mlflow_server: MlflowServer, model: str, alias: str
) -> None:
    refused(set_alias(service, "scientist", model, alias, "1"))
    assert mlflow_server.holder(model, alias) is None


@pytest.mark.parametrize("who", ["viewer", "approver", "serving", "stranger"])
def test_who_may_not_ask_does_not_open_a_promotion(service: Countersign, model: str, who: str) -> None:
    refused(set_alias(service, who, model, "production", "1"))
    assert service.call("administrator", "GET", "/promotions", params={"model": model}).json()["items"] == []
    refused(set_alias(service, who, model, "staging", "1"))


def test_an_administrator_does_not_move_a_protected_alias_either(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    refused(set_alias(service, "administrator", model, "production", "1"))
    assert mlflow_server.holder(model) is None


def test_the_native_call_names_what_does_not_exist(service: Countersign, model: str) -> None:
    missing = set_alias(service, "scientist", model, "production", "99")
    assert (missing.status_code, missing.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    missing = set_alias(service, "scientist", "no such model", "production", "1")
    assert missing.status_code == 404
    assert "no such model" in missing.json()["message"]


GOVERNED = [
    ("DELETE", "/registered-models/alias", {"alias": "production"}),
    ("DELETE", "/model-versions/delete", {"version": "1"}),
    ("DELETE", "/registered-models/delete", {}),
    ("POST", "/registered-models/rename", {"new_name": "elsewhere"}),
    (
        "POST",
        "/model-versions/transition-stage",
        {"version": "1", "stage": "Production", "archive_existing_versions": False},
    ),
    ("POST", "/registered-models/set-tag", {"key": "mlflow.prompt.is_prompt", "value": "true"}),
    ("POST", "/model-versions/set-tag", {"version": "1", "key": "mlflow.prompt.text", "value": "other"}),
]


@pytest.mark.parametrize(("method", "path", "body"), GOVERNED)
@pytest.mark.parametrize("state", ["pending", "applied"])
@pytest.mark.parametrize("who", ["scientist", "administrator"])
def test_what_a_promotion_rests_on_cannot_be_changed(
    service: Countersign,
    mlflow_server: MlflowServer,
    model: str,
    method: str,
    path: str,
    body: dict[str, object],
    state: str,
    who: str,
) -> None:
    promotion = hold(service, model, "1") if state == "applied" else service.ask(model, "1")["id"]
    document = refused(native(service, who, method, MLFLOW + path, {"name": model} | body))
    assert "policy" in document["message"]
    if path not in {"/registered-models/alias", "/model-versions/transition-stage"}:
        assert promotion in document["message"]
    assert mlflow_server.call("GET", "model-versions/get", {"name": model, "version": "1"})
    assert service.audit(f"{method} {MLFLOW}{path}")[-1] == "access.denied"


def test_a_model_is_not_renamed_into_a_protected_alias(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    mlflow_server.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "2"})
    body = {"name": model, "new_name": f"{model}-b"}
    refused(native(service, "administrator", "POST", f"{MLFLOW}/registered-models/rename", body))


def test_what_no_promotion_rests_on_is_changed_as_ever(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    service.ask(model, "1")
    answer = native(service, "scientist", "DELETE", f"{MLFLOW}/model-versions/delete", {"name": model, "version": "2"})
    assert answer.status_code == 200
    answer = native(
        service,
        "scientist",
        "POST",
        f"{MLFLOW}/model-versions/set-tag",
        {"name": model, "version": "1", "key": "a", "value": "b"},
    )
    assert answer.status_code == 200


# Bytes.


def artifact(mlflow_server: MlflowServer, model: str, name: str = "MLmodel") -> str:
    root = mlflow_server.folder_of(model, "1").relative_to(mlflow_server.artifacts)
    return f"/api/2.0/mlflow-artifacts/artifacts/{root}/{name}"


def put(service: Countersign, path: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {service.token('scientist')}"}
    return httpx.put(service.url + path, content=b"evil", headers=headers, timeout=PATIENCE_S, trust_env=False)


@pytest.mark.parametrize("name", ["MLmodel", "new-file", "weights/model.bin"])
def test_the_bytes_of_a_promoted_version_are_not_written(
    service: Countersign, mlflow_server: MlflowServer, model: str, name: str
) -> None:
    promotion = service.ask(model, "1")
    assert promotion["id"] in refused(put(service, artifact(mlflow_server, model, name)))["message"]
    assert b"evil" not in (mlflow_server.folder_of(model, "1") / "MLmodel").read_bytes()
    assert not (mlflow_server.folder_of(model, "1") / "new-file").exists()


def test_the_bytes_of_other_versions_are_written_as_ever(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    assert put(service, artifact(mlflow_server, model)).status_code == 200


def test_the_bytes_of_a_promoted_version_are_not_deleted(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    service.ask(model, "1")
    path = artifact(mlflow_server, model, "").rstrip("/")
    for target in (path, path.rpartition("/")[0], f"{path}/weights"):
        refused(native(service, "scientist", "DELETE", target))
    assert (mlflow_server.folder_of(model, "1") / "weights" / "model.bin").exists()


def test_the_run_and_experiment_of_a_promoted_version_are_not_deleted(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    promotion = service.ask(model, "1")
    run = mlflow_server.call("GET", "runs/get", {"run_id": promotion["run_id"]})["run"]["info"]
    refused(native(service, "scientist", "POST", f"{MLFLOW}/runs/delete", {"run_id": run["run_id"]}))
    body = {"experiment_id": run["experiment_id"]}
    refused(native(service, "scientist", "POST", f"{MLFLOW}/experiments/delete", body))


def test_an_experiment_is_not_laid_over_promoted_bytes(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    service.ask(model, "1")
    root = mlflow_server.folder_of(model, "1").relative_to(mlflow_server.artifacts)
    for location in (f"mlflow-artifacts:/{root}", f"mlflow-artifacts:/{root.parent}"):
        body = {"name": f"{model}-over", "artifact_location": location}
        refused(native(service, "scientist", "POST", f"{MLFLOW}/experiments/create", body))
    body = {"name": f"{model}-over", "artifact_location": "file:///etc"}
    assert native(service, "scientist", "POST", f"{MLFLOW}/experiments/create", body).status_code == 400


def test_withdrawing_sets_the_bytes_free_again(service: Countersign, mlflow_server: MlflowServer, model: str) -> None:
    promotion = service.ask(model, "1")
    refused(put(service, artifact(mlflow_server, model)))
    service.call("scientist", "POST", f"/promotions/{promotion['id']}/withdraw")
    assert put(service, artifact(mlflow_server, model)).status_code == 200


def test_the_bytes_are_judged_again_before_an_upload_ends(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    """Begun before the promotion was asked for, finished after the alias moved."""
    target, parts = artifact(mlflow_server, model), urlsplit(service.url)
    before = (mlflow_server.folder_of(model, "1") / "MLmodel").read_bytes()
    head = f"PUT {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {service.token('scientist')}\r\n"
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=PATIENCE_S) as slow:
        slow.sendall(f"{head}Content-Length: 8\r\nConnection: close\r\n\r\nevil".encode())
        promotion = hold(service, model, "1")
        slow.sendall(b"evil")
        answer = b"".join(iter(lambda: slow.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 403 "), answer
    assert promotion.encode() in answer
    assert (mlflow_server.folder_of(model, "1") / "MLmodel").read_bytes() == before


def test_bytes_written_after_the_promotion_was_asked_for_make_it_stale(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    promotion = service.ask(model, "1")["id"]
    (mlflow_server.folder_of(model, "1") / "MLmodel").write_text("written past the gateway")
    service.approve(promotion)
    assert "digest" in service.follow(promotion, "stale")["state_reason"]
    assert mlflow_server.holder(model) is None


@pytest.mark.parametrize("spelling", ["0{}", " {}", "{} ", "+{}", "{}\n", "{}.0"])
def test_an_experiment_is_not_deleted_under_another_spelling_of_its_number(
    service: Countersign, mlflow_server: MlflowServer, model: str, spelling: str
) -> None:
    promotion = service.ask(model, "1")
    run = mlflow_server.call("GET", "runs/get", {"run_id": promotion["run_id"]})["run"]["info"]
    body = {"experiment_id": spelling.format(run["experiment_id"])}
    assert native(service, "scientist", "POST", f"{MLFLOW}/experiments/delete", body).status_code in {400, 403}
    experiment = mlflow_server.call("GET", "experiments/get", {"experiment_id": run["experiment_id"]})
    assert experiment["experiment"]["lifecycle_stage"] == "active"


def test_an_experiment_whose_artifacts_lie_elsewhere_is_not_deleted_either(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    location = f"mlflow-artifacts:/elsewhere/{model}"
    body = {"name": f"{model}-elsewhere", "artifact_location": location}
    experiment = native(service, "scientist", "POST", f"{MLFLOW}/experiments/create", body).json()["experiment_id"]
    version = register_at(mlflow_server, model, experiment)
    promotion = service.ask(model, version)["id"]
    answer = native(service, "scientist", "POST", f"{MLFLOW}/experiments/delete", {"experiment_id": experiment})
    assert promotion in refused(answer)["message"]


def test_an_upload_to_another_run_does_not_reach_promoted_bytes(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    """An experiment was laid over the bytes before anybody asked for their promotion."""
    folder = mlflow_server.folder_of(model, "1")
    root = folder.relative_to(mlflow_server.artifacts)
    body = {"name": f"{model}-over", "artifact_location": f"mlflow-artifacts:/{root}"}
    experiment = mlflow_server.call("POST", "experiments/create", body)["experiment_id"]
    run = mlflow_server.call("POST", "runs/create", {"experiment_id": experiment, "start_time": 1})["run"]["info"]
    path = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run['run_id']}&path=extra.txt"
    before = listing(folder)
    promotion = service.ask(model, "1")["id"]
    answer = send(service, "POST", path, content=b"evil")
    assert promotion in refused(answer)["message"]
    assert listing(folder) == before


def test_a_logged_model_laid_over_the_run_changes_nothing_of_a_promoted_version(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    promotion = service.ask(model, "1")
    experiment = mlflow_server.call("GET", "runs/get", {"run_id": promotion["run_id"]})["run"]["info"]["experiment_id"]
    body = {"experiment_id": experiment, "name": "model", "source_run_id": promotion["run_id"]}
    created = native(service, "scientist", "POST", f"{MLFLOW}/logged-models", body)
    assert created.status_code == 200, created.text
    service.approve(promotion["id"])
    service.follow(promotion["id"], "applied")
    uri = service.call("serving", "GET", "/resolve", params={"uri": f"models:/{model}@production"}).json()
    assert (uri["digest"], uri["version"]) == (promotion["digest"], "1")


@pytest.mark.parametrize("source", ["runs:/{run}/model", "s3://somewhere/else", "dbfs:/a"])
def test_a_version_that_cannot_be_pinned_is_registered_and_never_promoted(
    service: Countersign, mlflow_server: MlflowServer, model: str, source: str
) -> None:
    run = service.ask(model, "1")["run_id"]
    body = {"name": model, "source": source.format(run=run), "run_id": run}
    created = native(service, "scientist", "POST", f"{MLFLOW}/model-versions/create", body)
    assert created.status_code == 200, created.text
    answer = set_alias(service, "scientist", model, "production", created.json()["model_version"]["version"])
    assert answer.status_code == 403, answer.text
    assert mlflow_server.holder(model) is None


@pytest.mark.parametrize("stage", ["Production", "production", "Staging", "Archived"])
def test_only_a_stage_with_the_name_of_a_protected_alias_is_refused(
    service: Countersign, model: str, stage: str
) -> None:
    body = {"name": model, "version": "1", "stage": stage, "archive_existing_versions": False}
    answer = native(service, "administrator", "POST", f"{MLFLOW}/model-versions/transition-stage", body)

    assert answer.status_code == (403 if stage.lower() == "production" else 200), answer.text


@pytest.mark.parametrize(
    "source",
    ["http://evil.example/a", "ftp://evil.example/a", "/etc", "file:///etc", "mlflow-artifacts://evil.example/a"],
)
def test_mlflow_itself_refuses_a_source_that_its_clients_would_fetch(
    service: Countersign, model: str, source: str
) -> None:
    body = {"name": model, "source": source}
    assert native(service, "scientist", "POST", f"{MLFLOW}/model-versions/create", body).status_code == 400


# Holders that no promotion put there.


def listing(folder: Path) -> list[tuple[str, bytes]]:
    return sorted((str(file.relative_to(folder)), file.read_bytes()) for file in folder.rglob("*") if file.is_file())


def send(service: Countersign, method: str, path: str, **options: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {service.token('scientist')}"}
    return httpx.request(
        method,
        service.url + path,
        headers=headers,
        timeout=PATIENCE_S,
        trust_env=False,
        **options,  # type: ignore[arg-type]
    )


def register_at(mlflow_server: MlflowServer, model: str, experiment: str) -> str:
    """A version whose bytes are those of a new run of an experiment."""
    run = mlflow_server.call("POST", "runs/create", {"experiment_id": experiment, "start_time": 1})["run"]["info"]
    folder = mlflow_server.artifacts / run["artifact_uri"].removeprefix("mlflow-artifacts:/") / "model"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_bytes(os.urandom(16))
    body = {"name": model, "source": f"{run['artifact_uri']}/model", "run_id": run["run_id"]}
    return str(mlflow_server.call("POST", "model-versions/create", body)["model_version"]["version"])


Request = Callable[[MlflowServer, str], tuple[str, str, object]]


def _run(mlflow_server: MlflowServer, model: str) -> dict[str, str]:
    version = mlflow_server.call("GET", "model-versions/get", {"name": model, "version": "1"})["model_version"]
    run: dict[str, str] = mlflow_server.call("GET", "runs/get", {"run_id": version["run_id"]})["run"]["info"]
    return run


CHANGES: dict[str, Request] = {
    "delete the alias": lambda _, model: (
        "DELETE",
        f"{MLFLOW}/registered-models/alias",
        {"name": model, "alias": "production"},
    ),
    "move the alias": lambda _, model: (
        "POST",
        f"{MLFLOW}/registered-models/alias",
        {"name": model, "alias": "production", "version": "2"},
    ),
    "delete the version": lambda _, model: (
        "DELETE",
        f"{MLFLOW}/model-versions/delete",
        {"name": model, "version": "1"},
    ),
    "delete the model": lambda _, model: ("DELETE", f"{MLFLOW}/registered-models/delete", {"name": model}),
    "rename the model": lambda _, model: (
        "POST",
        f"{MLFLOW}/registered-models/rename",
        {"name": model, "new_name": f"{model}-b"},
    ),
    "make it a prompt": lambda _, model: (
        "POST",
        f"{MLFLOW}/registered-models/set-tag",
        {"name": model, "key": "mlflow.prompt.is_prompt", "value": "true"},
    ),
    "change its prompt": lambda _, model: (
        "POST",
        f"{MLFLOW}/model-versions/set-tag",
        {"name": model, "version": "1", "key": "_mlflow_prompt_type", "value": "chat"},
    ),
    "delete its prompt": lambda _, model: (
        "DELETE",
        f"{MLFLOW}/model-versions/delete-tag",
        {"name": model, "version": "1", "key": "mlflow.prompt.text"},
    ),
    "overwrite a file": lambda server, model: ("PUT", artifact(server, model), b"evil"),
    "add a file": lambda server, model: ("PUT", artifact(server, model, "new/file"), b"evil"),
    "delete a file": lambda server, model: ("DELETE", artifact(server, model, "weights"), None),
    "delete a folder above": lambda server, model: (
        "DELETE",
        artifact(server, model, "").rstrip("/").rpartition("/")[0],
        None,
    ),
    "upload to its run": lambda server, model: (
        "POST",
        f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={_run(server, model)['run_id']}&path=model/MLmodel",
        b"evil",
    ),
    "delete its run": lambda server, model: (
        "POST",
        f"{MLFLOW}/runs/delete",
        {"run_id": _run(server, model)["run_id"]},
    ),
    "delete its experiment": lambda server, model: (
        "POST",
        f"{MLFLOW}/experiments/delete",
        {"experiment_id": _run(server, model)["experiment_id"]},
    ),
    "lay an experiment over it": lambda server, model: (
        "POST",
        f"{MLFLOW}/experiments/create",
        {"name": f"{model}-over", "artifact_location": f"mlflow-artifacts:/{_run(server, model)['experiment_id']}"},
    ),
}


@pytest.fixture(scope="module")
def holder_before(service: Countersign, mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose version 1 held ``production`` before Countersign knew of it."""
    model = "held-before"
    mlflow_server.register(model, versions=2)
    mlflow_server.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "1"})
    mlflow_server.call(
        "POST",
        "model-versions/set-tag",
        {"name": model, "version": "1", "key": "mlflow.prompt.text", "value": "Hello"},
    )
    # What MLflow holds was looked at before; another policy is a reason to look again.
    protect(service, tmp_path_factory.mktemp("policies"), f"{model}-other", "champion")
    return model


def protect(service: Countersign, folder: Path, models: str, alias: str) -> None:
    """Another policy."""
    rule = {"name": "anybody", "count": 1, "roles": ["approver"]}
    policy = {"kind": "Policy", "name": f"{models}@{alias}", "models": models, "alias": alias, "approvals": [rule]}
    (folder / "policy.yaml").write_text(json.dumps(policy))
    service.run("apply", "-f", str(folder / "policy.yaml"))


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_holder_from_before_countersign_rests_on_cannot_be_changed(
    service: Countersign, mlflow_server: MlflowServer, holder_before: str, change: str
) -> None:
    folder = mlflow_server.folder_of(holder_before, "1")
    before = listing(folder)
    method, path, body = CHANGES[change](mlflow_server, holder_before)
    options = {"content": body} if isinstance(body, bytes) else {"json": body} if body else {}
    document = refused(send(service, method, path, **options))
    assert "'production'" in document["message"]
    assert mlflow_server.holder(holder_before) == "1"
    assert listing(folder) == before
    version = mlflow_server.call("GET", "model-versions/get", {"name": holder_before, "version": "1"})["model_version"]
    assert {tag["key"]: tag["value"] for tag in version["tags"]} == {"mlflow.prompt.text": "Hello"}
    assert _run(mlflow_server, holder_before)["lifecycle_stage"] == "active"


def test_a_policy_that_comes_protects_at_once_what_holds_its_alias(
    service: Countersign, mlflow_server: MlflowServer, model: str, tmp_path: Path
) -> None:
    assert set_alias(service, "scientist", model, "champion", "1").status_code == 200
    assert put(service, artifact(mlflow_server, model)).status_code == 200
    protect(service, tmp_path, model, "champion")
    document = refused(put(service, artifact(mlflow_server, model)))
    assert f"policy '{model}@champion'" in document["message"]
    assert document["policy"] == f"{model}@champion"


def test_what_held_the_alias_before_is_free_when_a_promotion_moved_it(
    service: Countersign, mlflow_server: MlflowServer, model: str, tmp_path: Path
) -> None:
    mlflow_server.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "1"})
    protect(service, tmp_path, f"{model}-other", "champion")
    refused(put(service, artifact(mlflow_server, model)))
    hold(service, model, "2")
    assert put(service, artifact(mlflow_server, model)).status_code == 200


def test_a_holder_from_before_that_is_looked_up_in_its_run_is_protected_with_all_that_could_be_found(
    service: Countersign, mlflow_server: MlflowServer, model: str, tmp_path: Path
) -> None:
    """A source ``runs:/R/name`` means the run's artifacts, and those of a logged model of that run and name."""
    run = _run(mlflow_server, model)
    logged = {"experiment_id": run["experiment_id"], "name": "model", "source_run_id": run["run_id"]}
    before = native(service, "scientist", "POST", f"{MLFLOW}/logged-models", logged).json()["model"]["info"]
    body = {"name": model, "source": f"runs:/{run['run_id']}/model", "run_id": run["run_id"]}
    version = mlflow_server.call("POST", "model-versions/create", body)["model_version"]["version"]
    mlflow_server.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": version})
    protect(service, tmp_path, f"{model}-other", "champion")

    refused(put(service, artifact(mlflow_server, model)))
    overlay = before["artifact_uri"].removeprefix("mlflow-artifacts:/")
    refused(put(service, f"/api/2.0/mlflow-artifacts/artifacts/{overlay}/MLmodel"))
    refused(native(service, "scientist", "DELETE", f"{MLFLOW}/logged-models/{before['model_id']}"))
    refused(native(service, "scientist", "POST", f"{MLFLOW}/logged-models", logged))
    refused(native(service, "scientist", "POST", f"{MLFLOW}/runs/delete", {"run_id": run["run_id"]}))
    unrelated = logged | {"source_run_id": ""}
    assert native(service, "scientist", "POST", f"{MLFLOW}/logged-models", unrelated).status_code == 200


def test_nothing_is_written_while_nobody_knows_what_mlflow_holds(
    postgres: Callable[[str], str], template_database: str, issuer: Issuer, tmp_path: Path
) -> None:
    with (
        running_mlflow() as server,
        database_of(postgres, template_database) as url,
        new_countersign(url, server, issuer, tmp_path) as countersign,
    ):
        countersign.start("gateway")
        server.stop()
        answer = put(countersign, "/api/2.0/mlflow-artifacts/artifacts/1/a")

    assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
