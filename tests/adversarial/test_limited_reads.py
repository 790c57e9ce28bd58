"""Somebody who may see some models and experiments only, and tries to see and to change more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import running_service
from tests.issuer import Issuer
from tests.limits import Things, World
from tests.platform import MlflowServer

ALIASES = "/2.0/mlflow/registered-models/alias"
LOCATION: dict[str, object] = {"type": "MLFLOW_EXPERIMENT"}
ARTIFACTS = "/2.0/mlflow-artifacts/artifacts"


@pytest.fixture(scope="module")
def world(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    with (
        running_service(postgres, template_database, mlflow_server, issuer, tmp_path_factory) as service,
        World(service, mlflow_server) as world,
    ):
        world.give("eve", "contributor", model=f"{world.tag}-own-*")
        world.give("eve", "contributor", experiment=f"{world.tag}-own-*")
        # Whoever is denied something is limited, whatever else they may do.
        world.give("almost", "contributor")
        world.give("almost", "viewer", effect="deny", model=f"{world.tag}-secret-*")
        world.give("almost", "viewer", effect="deny", experiment=f"{world.tag}-secret-*")
        world.wait_for("eve")
        world.wait_for("almost")
        yield world


@pytest.fixture(scope="module")
def secret(world: World) -> Things:
    return world.things(f"{world.tag}-secret-1")


@pytest.fixture(scope="module")
def own(world: World) -> Things:
    return world.things(f"{world.tag}-own-1")


@pytest.fixture(params=["eve", "almost"])
def who(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def answers_of_reads(world: World, who: str, secret: Things, own: Things) -> Iterator[tuple[str, str]]:
    """Ways to name somebody else's experiment or run beside one's own."""
    post, get = "POST", "GET"
    search = "/2.0/mlflow/runs/search"
    for body in (
        {"experimentIds": [secret.experiment]},
        {"experiment_ids": [own.experiment], "experimentIds": [secret.experiment]},
        {"experiment_ids": [own.experiment], "[a.b]": 1},
        {"[a.b]": 1, "experiment_ids": [own.experiment]},
        {"max_results": "many", "experiment_ids": [secret.experiment]},
        {"experiment_ids": [f" {secret.experiment} "]},
        {"experiment_ids": [f"0{secret.experiment}"]},
        {"experiment_ids": [f"+{secret.experiment}"]},
        {"experiment_ids": [int(secret.experiment)]},
        {"experiment_ids": secret.experiment},
        {"experiment_ids": None},
        [secret.experiment],
        json.dumps({"experiment_ids": [secret.experiment]}),
    ):
        yield f"{search} {body}", world.call(who, post, search, json=body).text
    raw = f'{{"experiment_ids": ["{own.experiment}"], "experiment_ids": ["{secret.experiment}"]}}'
    headers = {"content-type": "application/json"}
    yield "repeated keys", world.call(who, post, search, content=raw, headers=headers).text
    utf16 = json.dumps({"experiment_ids": [secret.experiment]}).encode("utf-16")
    yield "another encoding", world.call(who, post, search, content=utf16, headers=headers).text
    yield (
        "query and body",
        world.call(
            who, post, search, params={"experiment_ids": secret.experiment}, json={"experiment_ids": [own.experiment]}
        ).text,
    )
    runs = "/2.0/mlflow/runs/get"
    for query in (
        [("run_id", own.run), ("run_uuid", secret.run)],
        [("run_uuid", secret.run), ("run_id", own.run)],
        [("run_id", own.run), ("run_id", secret.run)],
        [("run_id", ""), ("run_uuid", secret.run)],
        [("runId", secret.run)],
        [("run_id", secret.run.upper())],
        [("run_id", f"{secret.run} ")],
    ):
        yield f"{runs} {query}", world.call(who, get, runs, params=query).text
    yield "a body of GET", world.call(who, get, runs, json={"run_id": secret.run}).text
    bulk = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
    yield (
        bulk,
        world.call(who, get, bulk, params=[("run_id", own.run), ("run_id", secret.run), ("metric_key", "m")]).text,
    )
    for path in (
        f"/get-artifact?run_uuid={secret.run}&path=secret/notes.txt",
        f"/get-artifact?run_id={secret.run}&run_uuid={own.run}&path=secret/notes.txt",
        f"/model-versions/get-artifact?name={secret.model}&version=1&path=notes.txt",
        f"/model-versions/get-artifact?name={own.model}&name={secret.model}&version=1&path=notes.txt",
    ):
        yield path, world.call(who, get, path).text


def test_no_spelling_of_a_request_reads_what_is_hidden(world: World, secret: Things, own: Things, who: str) -> None:
    for what, text in answers_of_reads(world, who, secret, own):
        said = text.replace(f"id={secret.run}", "").replace(f"name={secret.model}", "")  # the caller's own words
        for word in (secret.experiment_name, "what is in it", f'"{secret.run}"'):
            assert word not in said, what
        assert '"run_id": "' + secret.run not in text, what


def test_no_spelling_of_an_artifact_path_leads_out_of_ones_own(
    world: World, secret: Things, own: Things, who: str
) -> None:
    mine = own.artifact.rpartition("/")[0]
    paths = [
        secret.artifact,
        f"{mine}/../../../../{secret.artifact}",
        f"{mine}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/{secret.artifact}",
        f"{own.experiment}/..%2f{secret.artifact}",
        f"{own.experiment}/%252e%252e/{secret.artifact}",
        secret.artifact.replace("/", "//", 1),
        f"./{secret.artifact}",
        f"%20{secret.artifact}",
        secret.artifact.replace("artifacts", "%61rtifacts"),
        f"%09{secret.artifact}",
        f"{secret.artifact};x",
        f"{secret.experiment}/{own.run}/../{secret.run}/artifacts/secret/notes.txt",
    ]
    for path in paths:
        assert world.call(who, "GET", f"{ARTIFACTS}/{path}").status_code in {400, 404}, path
        answer = world.call(who, "GET", f"{ARTIFACTS}?path={path.removesuffix('/notes.txt')}")
        assert answer.status_code == 400 or answer.json() == {}, path
        for method in ("PUT", "DELETE"):
            denied = world.call(who, method, f"{ARTIFACTS}/{path}", content=b"mine")
            assert denied.status_code in {400, 403, 404}, path
    assert world.past("GET", f"{ARTIFACTS}/{secret.artifact}").text == "what is in it"
    root = world.call(who, "GET", ARTIFACTS, params={"path": ""})
    assert root.status_code == 400 or root.json() == {}


def test_bytes_of_others_are_not_registered_as_ones_own(world: World, secret: Things, own: Things, who: str) -> None:
    folder = secret.artifact.rpartition("/")[0]
    path = "/2.0/mlflow/model-versions/create"
    for body in (
        {"source": f"models:/{secret.logged_model}"},
        {"source": f"models:/{secret.logged_model}", "model_id": secret.logged_model},
        {"source": f"models:/{secret.model}/1"},
        {"source": f"models:/{secret.model}@champion"},
        {"source": f"models:/%73{secret.model[1:]}/1"},
        {"source": f"runs:/{secret.run}/secret", "run_id": secret.run},
        {"source": f"runs:/{secret.run}/secret", "run_id": own.run},
        {"source": f"mlflow-artifacts:/{folder}", "run_id": secret.run},
        {"source": f"mlflow-artifacts:/{folder}", "run_id": own.run},
        {"source": f"mlflow-artifacts:/{own.experiment}/../{folder}", "run_id": own.run},
        {"source": "s3://bucket/prefix"},
        {"source": "/etc"},
        {"source": "file:///etc"},
        {"source": "mlflow-artifacts://elsewhere/1"},
    ):
        world.call(who, "POST", path, json={"name": own.model, **body})
    query = {"filter": f"name='{own.model}'"}
    found = world.call(who, "GET", "/2.0/mlflow/model-versions/search", params=query).json()["model_versions"]
    # Of some sources MLflow does not ask whether they exist; what is written down then leads nowhere.
    for version in found:
        named = {"name": own.model, "version": version["version"]}
        location = world.past("GET", "/2.0/mlflow/model-versions/get-download-uri", params=named).json()["artifact_uri"]
        stored = world.past("GET", "/2.0/mlflow/model-versions/get", params=named).text
        for word in (secret.run, secret.logged_model, secret.model, "s3:", "/etc", "elsewhere"):
            assert word not in location + stored, version


def test_an_experiment_cannot_be_laid_over_the_artifacts_of_another(world: World, secret: Things, who: str) -> None:
    name = f"{world.tag}-own-{who}-laid"
    body = {"name": name, "artifact_location": f"mlflow-artifacts:/{secret.experiment}/{secret.run}"}
    assert world.call(who, "POST", "/2.0/mlflow/experiments/create", json=body).status_code == 403


def test_a_trace_cannot_say_that_its_artifacts_are_those_of_another(world: World, secret: Things, own: Things) -> None:
    tag = {"key": "mlflow.artifactLocation", "value": f"mlflow-artifacts:/{secret.experiment}/traces/{secret.trace}"}
    for path in (f"/2.0/mlflow/traces/{own.trace}/tags", f"/3.0/mlflow/traces/{own.trace}/tags"):
        assert world.call("eve", "PATCH", path, json=tag).status_code == 400


def test_a_trace_of_another_is_not_written_under_ones_own_experiment(world: World, secret: Things, own: Things) -> None:
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": own.experiment}}
    info = {"trace_id": secret.trace, "trace_location": location, "request_time": "2026-01-01T00:00:00Z", "state": "OK"}
    answer = world.call("eve", "POST", "/3.0/mlflow/traces", json={"trace": {"trace_info": info}})
    assert answer.status_code == 403
    assert world.call("eve", "POST", "/v1/traces", content=b"").status_code == 403


def test_alias_calls_tell_nothing_of_a_hidden_model(world: World, secret: Things, who: str) -> None:
    """Neither that it exists, nor which policy or promotion governs it."""
    for name in (secret.model, f"{world.tag}-nothing"):
        moved = world.call(who, "POST", ALIASES, json={"name": name, "alias": "production", "version": "1"})
        gone = world.call(who, "DELETE", ALIASES, json={"name": name, "alias": "production"})
        expected = 404
        if who == "almost" and name != secret.model:
            expected = moved.status_code  # of what does not exist, MLflow itself answers
        assert (moved.status_code, gone.status_code) == (expected, expected) or name != secret.model
        assert "promotion" not in moved.text.lower() or name != secret.model
        assert "policy" not in (moved.text + gone.text).lower() or name != secret.model


def graphql(world: World, who: str, query: str, **variables: Any) -> Any:
    body = {"query": query, **({"variables": variables} if variables else {})}
    return world.call(who, "POST", "/graphql", json=body)


def quoted(text: str) -> str:
    return json.dumps(text)


def test_no_form_of_graphql_reads_what_is_hidden(world: World, secret: Things, own: Things, who: str) -> None:
    run, experiment = secret.run, secret.experiment
    runs = "{ runs { info { runId experimentId } } }"
    found = "{ run { info { runId runName experimentId artifactUri } experiment { name } modelVersions { version } } }"
    metrics = "{ metrics { key value } }"
    mine = f"a: mlflowGetRun(input: {{runId: {quoted(own.run)}}}) {found}"
    requests: list[tuple[str, dict[str, Any]]] = [
        (f'{{ mlflowGetRun(input: {{runId: "{run}"}}) {found} }}', {}),
        (f"{{ {mine} b: mlflowGetRun(input: {{runUuid: {quoted(run)}}}) {found} }}", {}),
        (f"query Q($id: String) {{ mlflowGetRun(input: {{runId: $id}}) {found} }}", {"id": run}),
        (f"query Q($id: String = {quoted(run)}) {{ mlflowGetRun(input: {{runId: $id}}) {found} }}", {}),
        (f"query Q($in: MlflowGetRunInput!) {{ mlflowGetRun(input: $in) {found} }}", {"in": {"runId": run}}),
        (f"query Q($in: MlflowGetRunInput! = {{runId: {quoted(run)}}}) {{ mlflowGetRun(input: $in) {found} }}", {}),
        (
            f"query Q {{ ...F }} fragment F on Query {{ mlflowGetRun(input: {{runId: {quoted(run)}}}) {found} }}",
            {},
        ),
        (f"{{ mlflowGetExperiment(input: {{experimentId: {quoted(experiment)}}}) {{ experiment {{ name }} }} }}", {}),
        (f'{{ mlflowGetExperiment(input: {{experimentId: " 0{experiment}"}}) {{ experiment {{ name }} }} }}', {}),
        (f"{{ mlflowSearchRuns(input: {{experimentIds: {json.dumps([own.experiment, experiment])}}}) {runs} }}", {}),
        (f"{{ mlflowSearchRuns(input: {{experimentIds: {quoted(experiment)}}}) {runs} }}", {}),
        (
            f"query Q($ids: [String]) {{ mlflowSearchRuns(input: {{experimentIds: $ids}}) {runs} }}",
            {"ids": [experiment]},
        ),
        (f"query Q($id: String) {{ mlflowSearchRuns(input: {{experimentIds: [$id]}}) {runs} }}", {"id": experiment}),
        (f"mutation {{ mlflowSearchRuns(input: {{experimentIds: [{quoted(experiment)}]}}) {runs} }}", {}),
        (f'{{ mlflowListArtifacts(input: {{runId: {quoted(run)}, path: "secret"}}) {{ files {{ path }} }} }}', {}),
        (
            f'{{ mlflowGetMetricHistoryBulkInterval(input: {{runIds: [{quoted(run)}], metricKey: "m"}}) {metrics} }}',
            {},
        ),
        ("{ mlflowSearchModelVersions(input: {}) { modelVersions { name } } }", {}),
        (f"query A {{ {mine} }} query B {{ mlflowGetRun(input: {{runId: {quoted(run)}}}) {found} }}", {}),
    ]
    for query, variables in requests:
        answer = graphql(world, who, query, **variables)
        told = answer.text.replace(f"id={secret.run}", "").replace(f"run_id '{secret.run}'", "")
        assert secret.experiment_name not in told, query
        assert f'"{secret.run}"' not in told, query
        assert "notes.txt" not in told, query
        assert '"key":"m"' not in told.replace(" ", ""), query
        assert "countersign_" not in told, query


def test_graphql_shows_what_may_be_seen_without_the_versions_of_hidden_models(
    world: World, secret: Things, own: Things, who: str
) -> None:
    foreign = {
        "name": secret.model,
        "source": f"mlflow-artifacts:/{own.artifact.rpartition('/')[0]}",
        "run_id": own.run,
    }
    world.made("/2.0/mlflow/model-versions/create", **foreign)
    query = (
        f'{{ run: mlflowGetRun(input: {{runId: "{own.run}"}}) {{ run {{ info {{ runId }} experiment {{ name }} '
        "all: modelVersions { version } ...F } } } fragment F on MlflowRunExtension { modelVersions { name source } }"
    )
    run = graphql(world, who, query).json()["data"]["run"]["run"]
    assert run["info"] == {"runId": own.run}
    assert run["experiment"] == {"name": own.experiment_name}
    assert run["all"] == [{"version": "1"}]
    assert [version["name"] for version in run["modelVersions"]] == [own.model]
    hidden = graphql(
        world, who, f'{{ mlflowGetRun(input: {{runId: "{secret.run}"}}) {{ run {{ info {{ runId }} }} }} }}'
    )
    invented = "f" * 32
    missing = graphql(
        world, who, f'{{ mlflowGetRun(input: {{runId: "{invented}"}}) {{ run {{ info {{ runId }} }} }} }}'
    )
    assert hidden.text.replace(secret.run, "<it>") == missing.text.replace(invented, "<it>")


def test_a_logged_model_does_not_tell_as_what_hidden_model_it_was_registered(
    world: World, secret: Things, own: Things, who: str
) -> None:
    for name in (secret.model, own.model):
        body = {"name": name, "source": f"models:/{own.logged_model}", "model_id": own.logged_model}
        world.made("/2.0/mlflow/model-versions/create", **body)
    path = f"/2.0/mlflow/logged-models/{own.logged_model}"
    assert secret.model in world.past("GET", path).text
    got = world.call(who, "GET", path).text
    search = {"experiment_ids": [own.experiment]}
    found = world.call(who, "POST", "/2.0/mlflow/logged-models/search", json=search).text
    for text in (got, found):
        assert secret.model not in text
        assert own.model in text


def test_writes_reach_neither_what_is_hidden_nor_through_what_is_ones_own(
    world: World, secret: Things, own: Things, who: str
) -> None:
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/2.0/mlflow/runs/set-tag", {"run_id": own.run, "run_uuid": secret.run, "key": "k", "value": "v"}),
        ("POST", "/2.0/mlflow/runs/log-batch", {"run_id": secret.run, "params": [{"key": "p", "value": "1"}]}),
        (
            "POST",
            "/2.0/mlflow/runs/log-metric",
            {"run_id": own.run, "key": "m", "value": 1, "timestamp": 1, "model_id": secret.logged_model},
        ),
        ("POST", "/2.0/mlflow/experiments/delete", {"experiment_id": secret.experiment}),
        (
            "POST",
            "/2.0/mlflow/experiments/update",
            {"experiment_id": own.experiment, "new_name": f"{world.tag}-secret-2"},
        ),
        ("POST", "/2.0/mlflow/registered-models/rename", {"name": own.model, "new_name": f"{world.tag}-secret-2"}),
        ("POST", "/2.0/mlflow/registered-models/rename", {"name": secret.model, "new_name": f"{world.tag}-own-2"}),
        ("DELETE", "/2.0/mlflow/registered-models/delete", {"name": secret.model}),
        ("DELETE", f"/2.0/mlflow/logged-models/{own.logged_model}", {"model_id": secret.logged_model}),
        ("PATCH", f"/2.0/mlflow/logged-models/{own.logged_model}/tags", {"model_id": secret.logged_model, "tags": []}),
    ]
    for method, path, body in calls:
        answer = world.call(who, method, path, json=body)
        assert answer.status_code in {400, 403, 404}, (path, body, answer.text)
    assert (
        world.past("GET", "/2.0/mlflow/runs/get", params={"run_id": secret.run}).json()["run"]["data"].get("params")
        is None
    )
    assert world.past("GET", "/2.0/mlflow/registered-models/get", params={"name": secret.model}).status_code == 200


def test_a_hidden_model_is_not_linked_to_ones_own_run(world: World, secret: Things, own: Things, who: str) -> None:
    """MLflow takes any id there; what is written down is not the hidden one's."""
    body = {"run_id": own.run, "models": [{"model_id": secret.logged_model, "step": 0}]}
    world.call(who, "POST", "/2.0/mlflow/runs/outputs", json=body)
    assert secret.logged_model not in world.past("GET", "/2.0/mlflow/runs/get", params={"run_id": own.run}).text
    body = {"run_id": own.run, "trace_ids": [secret.trace]}
    world.call(who, "POST", "/2.0/mlflow/traces/link-to-run", json=body)
    linked = {"locations": [LOCATION | {"mlflow_experiment": {"experiment_id": secret.experiment}}]}
    assert own.run not in world.past("POST", "/3.0/mlflow/traces/search", json=linked).text
    name = f"{world.tag}-{who}-data"
    body = {"name": name, "experiment_ids": [own.experiment, secret.experiment]}
    world.call(who, "POST", "/3.0/mlflow/datasets/create", json=body)
    found = world.past("POST", "/3.0/mlflow/datasets/search", json={"experiment_ids": [secret.experiment]})
    assert name not in found.text
    # Nor does anybody find it who asks for something else that is hidden from them.
    other = "almost" if who == "eve" else "eve"
    search = {"experiment_ids": [secret.experiment]}
    assert world.call(other, "POST", "/3.0/mlflow/datasets/search", json=search).json() == {}


def test_the_workspace_header_of_a_caller_goes_nowhere_without_workspaces(world: World, own: Things) -> None:
    headers = {"X-MLFLOW-WORKSPACE": "team-a"}
    answer = world.call("eve", "GET", "/2.0/mlflow/registered-models/get", params={"name": own.model}, headers=headers)
    assert answer.status_code == 200
