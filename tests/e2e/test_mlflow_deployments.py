"""`mlflow deployments` with a real gateway, worker and MLflow: what it does, and in which words it is refused."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from mlflow.deployments import get_deploy_client
from mlflow.deployments.cli import commands
from mlflow.exceptions import MlflowException

from tests.platform import Countersign, MlflowServer, until
from tests.toll import Deployer

TARGET = "countersign:/plugin"
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def model_server() -> Iterator[str]:
    """Where a deployed model answers: with the number of rows it was sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert "Authorization" not in self.headers
            rows = asked["dataframe_split"]["data"] if "dataframe_split" in asked else asked.get("inputs")
            status, answer = (200, {"predictions": [len(rows)]}) if rows else (400, {"message": "no rows"})
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/iris"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def deployer(service: Countersign, model_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployer]:
    """A target of the session's gateway, which is ready with what it is asked for at once."""
    folder = tmp_path_factory.mktemp("plugin")

    class Obedient(Deployer):
        def serve(self, call: Any) -> Any:
            reply = super().serve(call)
            if call.method == "POST":
                threading.Thread(target=self._done, args=(json.loads(call.body),)).start()
            return reply

        def _done(self, event: dict[str, Any]) -> None:
            self.answered.append(ready(self, event, model_server))

        answered: list[int] = []  # noqa: RUF012  # there is one of it

    with Obedient() as deployer:
        (folder / "secret").write_text(deployer.secret)
        (folder / "callback").write_text(deployer.callback_secret)
        (folder / "target.yaml").write_text(
            f"kind: Target\nname: plugin\nurl: {deployer.url}/v1/deployments\nsecretFile: {folder / 'secret'}\n"
            f"callbackSecretFile: {folder / 'callback'}\nallowPrivateNetwork: true\n"
        )
        service.run("apply", "-f", str(folder / "target.yaml"))
        yield deployer


def ready(deployer: Deployer, event: dict[str, Any], url: str) -> int:
    """Report that what was called for is done."""
    model = event["data"]["model"]
    is_removed = event["data"]["action"] == "remove"
    serving = (
        [] if is_removed else [{"version": model["version"], "weight": 100, "ready": True, "url": url, "name": "m"}]
    )
    return deployer.report(event, "Ready", serving=serving).status_code


@pytest.fixture
def model(
    service: Countersign,
    deployer: Deployer,
    mlflow_server: MlflowServer,
    model_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Two versions of it; version 1 or 2 at `live` needs nobody, and is deployed."""
    mlflow_server.register(model_name, versions=2)
    write(service, model_name, "live", targets=["plugin"], autoApprove=True)
    for name, value in {
        "COUNTERSIGN_CREDENTIALS_FILE": "/nonexistent/logins.json",
        "MLFLOW_TRACKING_URI": service.url,
        "MLFLOW_TRACKING_TOKEN": service.token("scientist"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("COUNTERSIGN_URL", "COUNTERSIGN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return model_name


def write(service: Countersign, model: str, alias: str, **more: Any) -> None:
    policy = {"models": model, "alias": alias, "breakGlass": {"allowed": False}, **more}
    written = service.call("administrator", "PUT", f"/policies/{model}-{alias}", json=policy)
    assert written.status_code == 201, written.text


@pytest.fixture
def run() -> Run:
    def deployments(*arguments: str) -> Result:
        return CliRunner().invoke(commands, arguments)

    return deployments


def test_a_model_is_created_updated_asked_and_deleted_by_the_command(
    service: Countersign, model: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_it = ("-t", TARGET, "--name", model)
    created = run("create", *of_it, "-m", f"models:/{model}/1", "-C", "reason=first")
    assert created.exit_code == 0, created.output
    assert f"version 1 of {model} to live" in created.output
    assert f"python_function deployment {model} is created" in created.output
    (promotion,) = service.call("viewer", "GET", "/promotions", params={"model": model}).json()["items"]
    assert (promotion["state"], promotion["reason"]) == ("live", "first")
    again = run("create", *of_it, "-m", f"models:/{model}@live")
    assert again.exit_code == 0, again.output
    assert promotion["id"] in again.output

    refused = run("create", *of_it, "-m", f"models:/{model}/2")
    assert f"{model} is deployed to plugin already, as version 1: update it" in str(refused.exception)
    updated = run("update", *of_it, "-m", f"models:/{model}/2")
    assert updated.exit_code == 0, updated.output
    assert f"Deployment {model} is updated (with flavor python_function)" in updated.output
    assert "version: 2" in run("get", *of_it).output
    assert model in run("list", "-t", TARGET).output

    (tmp_path / "rows.json").write_text('[{"a": 1.5}, {"a": 2.5}]')
    assert '{"predictions": [2]}' in run("predict", *of_it, "-I", str(tmp_path / "rows.json")).output

    monkeypatch.setenv("COUNTERSIGN_TOKEN", service.token("administrator"))
    for _ in range(2):
        assert f"Deployment {model} is deleted" in run("delete", *of_it).output
    gone = run("get", *of_it)
    assert f"{model} is not deployed to plugin" in str(gone.exception)
    assert service.call("viewer", "GET", "/promotions", params={"model": model}).json()["items"][0]["state"] == "live"

    monkeypatch.delenv("COUNTERSIGN_TOKEN")
    back = run("create", *of_it, "-m", f"models:/{model}/2")
    assert isinstance(back.exception, MlflowException)
    assert back.exception.error_code == "PERMISSION_DENIED"
    assert f"{model} was removed from plugin: it is deployed there again" in back.output


def test_what_the_client_of_python_does_is_the_same(model: str) -> None:
    client = get_deploy_client(TARGET)
    created = client.create_deployment(model, f"models:/{model}/1")
    assert (created["name"], created["version"], created["phase"], created["target"]) == (model, "1", "Ready", "plugin")
    assert client.get_deployment(model)["promotion"] == created["promotion"]
    assert client.predict(model, pd.DataFrame({"a": [1.0, 2.0, 3.0]})) == {"predictions": [3]}
    assert client.predict(model, {"dataframe_split": {"columns": ["a"], "data": [[1]]}}) == {"predictions": [1]}
    assert client.predict(model, [[1], [2]]).get_predictions()[0].tolist() == [2]
    with pytest.raises(MlflowException, match=r"answered 400: .*no rows") as refused:
        client.predict(model, {"instances": []})
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    with pytest.raises(MlflowException, match="Explanations are not supported"):
        client.explain(model)


def test_an_alias_is_that_of_the_gateway_where_it_is_promoted(
    service: Countersign, mlflow_server: MlflowServer, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_server.call("POST", "registered-models/alias", {"name": model, "alias": "candidate", "version": "2"})
    monkeypatch.setenv("COUNTERSIGN_URL", service.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", service.token("scientist"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert get_deploy_client(TARGET).create_deployment(model, f"models:/{model}@candidate")["version"] == "2"


def test_a_name_with_the_default_workspace_is_that_without(
    service: Countersign, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = get_deploy_client(TARGET)
    created = client.create_deployment(f"default/{model}", f"models:/{model}/1")
    assert (created["name"], created["version"], created["phase"]) == (model, "1", "Ready")
    monkeypatch.setenv("COUNTERSIGN_TOKEN", service.token("administrator"))
    client.delete_deployment(f"default/{model}")
    with pytest.raises(MlflowException, match="is not deployed to plugin"):
        client.get_deployment(model)


def test_what_is_not_deployed_is_deleted_already_and_what_is_not_known_is_not(
    service: Countersign, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERSIGN_TOKEN", service.token("administrator"))
    client = get_deploy_client(TARGET)
    client.delete_deployment(model)
    with pytest.raises(MlflowException, match=f"There is no model {model}-mistyped") as refused:
        client.delete_deployment(f"{model}-mistyped")
    assert refused.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    with pytest.raises(MlflowException, match="No policy that you may read names a target mistyped") as refused:
        get_deploy_client("countersign:/mistyped").delete_deployment(model)
    assert refused.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    with pytest.raises(MlflowException, match="the MLflow server has none but `default`"):
        client.delete_deployment(f"ws/{model}")


def test_who_does_not_wait_is_told_how_to_and_who_waits_for_nobody_is_told_what_is_missing(
    service: Countersign, mlflow_server: MlflowServer, model: str, run: Run
) -> None:
    # A target serves a model for one alias alone: that of the fixture is another model's.
    model = f"{model}-checked"
    mlflow_server.register(model, versions=1)
    write(service, model, "checked", targets=["plugin"], approvals=[{"name": "a second person", "roles": ["approver"]}])
    of_it = ("-t", TARGET, "--name", model, "-m", f"models:/{model}/1")
    asked = run("create", *of_it, "-C", "wait=false")
    assert asked.exit_code == 0, asked.output
    assert "asked for; not deployed yet: `countersign promotions show prm_" in asked.output
    client = get_deploy_client(TARGET)
    with pytest.raises(MlflowException, match="0 of 1 approvals by role approver") as waited:
        client.create_deployment(model, f"models:/{model}/1", config={"timeout": "1s"})
    assert waited.value.error_code == "DEADLINE_EXCEEDED"
    (promotion,) = service.call("viewer", "GET", "/promotions", params={"model": model}).json()["items"]
    assert service.call("approver", "POST", f"/promotions/{promotion['id']}/reject").status_code == 200
    until(lambda: service.call("viewer", "GET", f"/promotions/{promotion['id']}").json()["settled"], "its end")


@pytest.mark.parametrize(
    ("named", "uri", "config", "said", "code"),
    [
        ("{}", "runs:/1/model", {}, "What is not registered is registered first", "INVALID_PARAMETER_VALUE"),
        ("{}", "models:/{}/latest", {}, "expected models:/<name>/<version>", "INVALID_PARAMETER_VALUE"),
        ("other", "models:/{}/1", {}, "A deployment has the name of its model", "INVALID_PARAMETER_VALUE"),
        ("{}", "models:/{}@none", {}, "has no alias none", "RESOURCE_DOES_NOT_EXIST"),
        ("ws/{}", "models:/{}@live", {}, "the MLflow server has none but `default`", "INVALID_PARAMETER_VALUE"),
        ("{}", "models:/{}/9", {"alias": "live"}, "There is no version 9", "RESOURCE_DOES_NOT_EXIST"),
        ("{}", "models:/{}/1", {"alias": "free"}, "No policy protects alias free", "INVALID_PARAMETER_VALUE"),
        ("{}", "models:/{}/1", {"replicas": "3"}, "-C replicas: expected one of", "INVALID_PARAMETER_VALUE"),
        ("{}", "models:/{}/1", {"wait": "maybe"}, "-C wait: expected true or false", "INVALID_PARAMETER_VALUE"),
        ("{}", "models:/{}/1", {"timeout": "soon"}, "-C timeout: expected a time", "INVALID_PARAMETER_VALUE"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(
    model: str, named: str, uri: str, config: dict[str, str], said: str, code: str
) -> None:
    with pytest.raises(MlflowException) as refused:
        get_deploy_client(TARGET).create_deployment(named.format(model), uri.format(model), config=config)
    assert said in str(refused.value)
    assert refused.value.error_code == code


def test_what_a_target_cannot_do_is_refused_in_words(model: str, run: Run) -> None:
    client = get_deploy_client(TARGET)
    for call in (
        lambda: client.create_deployment(model, f"models:/{model}/1", flavor="sklearn"),
        lambda: client.list_deployments(endpoint="e"),
        lambda: client.update_deployment(model),
        client.predict,
        lambda: get_deploy_client("countersign:/"),
    ):
        with pytest.raises(MlflowException) as refused:
            call()
        assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    with pytest.raises(MlflowException, match=f"{model} is not deployed to plugin"):
        client.update_deployment(model, f"models:/{model}/1")
    with pytest.raises(MlflowException, match=f"Which alias of {model} deploys it to elsewhere"):
        get_deploy_client("countersign:/elsewhere").create_deployment(model, f"models:/{model}/1")
    local = run("run-local", "-t", "countersign", "--name", model, "-m", f"models:/{model}/1")
    assert "runs nothing on this machine" in str(local.exception)
    assert "countersign:/<target> is a target of a Countersign gateway" in run("help", "-t", "countersign").output


def test_who_may_not_is_told_by_the_gateway(service: Countersign, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for token, said, code in (
        (service.token("viewer"), "promotions:request needs requester", "PERMISSION_DENIED"),
        ("cs_pat_wrong", "does not accept the token in COUNTERSIGN_TOKEN", "UNAUTHENTICATED"),
    ):
        monkeypatch.setenv("COUNTERSIGN_TOKEN", token)
        with pytest.raises(MlflowException) as refused:
            get_deploy_client(TARGET).create_deployment(model, f"models:/{model}/1", config={"alias": "live"})
        assert said in str(refused.value)
        assert refused.value.error_code == code
        assert "cs_pat_wrong" not in str(refused.value)
    monkeypatch.setenv("COUNTERSIGN_URL", "http://127.0.0.1:1")
    with pytest.raises(MlflowException) as away:
        get_deploy_client(TARGET).list_deployments()
    assert away.value.error_code == "TEMPORARILY_UNAVAILABLE"
