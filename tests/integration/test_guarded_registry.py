"""MLflow's own paths through the door: the native call opens a promotion, and nothing hollows one out."""

from __future__ import annotations

import httpx
import pytest

from tests.platform import PATIENCE_S, Countersign, MlflowServer

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
    assert first["link"] in first["message"]
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


def test_an_alias_set_before_countersign_knew_of_it_is_protected_too(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    mlflow_server.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "2"})
    refused(native(service, "scientist", "DELETE", f"{MLFLOW}/model-versions/delete", {"name": model, "version": "2"}))
    refused(native(service, "scientist", "DELETE", f"{MLFLOW}/registered-models/delete", {"name": model}))


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
