"""Who may see some models and experiments only: what is hidden is as what does not exist, on real servers."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.domain.routes import ROUTES, Route
from app.domain.routes.resources import Name, Named, Newness, Place, can_be_limited, rule_of
from app.proxy.filtering import token_at
from tests.conftest import running_service
from tests.issuer import Issuer
from tests.limits import Things, World, told
from tests.platform import MlflowServer, until


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
        # Sees something of everything, and may change what is hers; never what is called secret.
        world.give("lena", "contributor", model=f"{world.tag}-own-*")
        world.give("lena", "contributor", experiment=f"{world.tag}-own-*")
        world.give("lena", "viewer", model=f"{world.tag}-shared-*")
        world.give("lena", "viewer", experiment=f"{world.tag}-shared-*")
        world.wait_for("lena")
        yield world


@pytest.fixture(scope="module")
def secret(world: World) -> Things:
    return world.things(f"{world.tag}-secret-1")


@pytest.fixture(scope="module")
def shared(world: World) -> Things:
    return world.things(f"{world.tag}-shared-1")


@pytest.fixture(scope="module")
def own(world: World) -> Things:
    return world.things(f"{world.tag}-own-1")


FILLED = {
    "key": "k",
    "value": "v",
    "timestamp": 1,
    "metric_key": "m",
    "version": "1",
    "stage": "None",
    "alias": "champion",
    "tags": [],
    "tag_key": "k",
    "assessment_id": "a-1",
    "name": "n",
}
"""What routes want beside the names that are judged."""

JUDGED = [
    (route, name)
    for route in ROUTES
    if can_be_limited(route) and route.template.startswith(("/ajax-api", "/get-", "/model-versions"))
    for name in rule_of(route).names
    if name.newness is Newness.EXISTING and name.kind not in {Named.VERSION_SOURCE, Named.WORKSPACE}
]


def invented(kind: Named) -> str:
    """What MLflow does not have."""
    word = uuid.uuid4().hex
    shapes = {
        Named.EXPERIMENT: str(1_900_000_000 + int(word[:6], 16)),
        Named.RUN: word,
        Named.LOGGED_MODEL: f"m-{word}",
        Named.TRACE: f"tr-{word}",
        Named.DATASET: f"d-{word}",
        Named.ISSUE: f"iss-{word}",
        Named.LABEL_SCHEMA: f"ls-{word}",
        Named.REVIEW_QUEUE: f"rq-{word}",
        Named.ARTIFACT: f"{word}/1/artifacts/secret/notes.txt",
    }
    return shapes.get(kind, f"no-{word}")


def asked(route: Route, name: Name, value: str, others: Things) -> tuple[str, dict[str, object]]:
    """A request that names ``value``, and else what the caller may see."""
    path = route.template
    query: list[tuple[str, str]] = []
    body: dict[str, object] = {}
    for each in rule_of(route).names:
        if each != name and each.is_optional:
            continue
        word = value if each == name else sample(each, others)
        if each.place is Place.PATH:
            path = re.sub(rf"<(path:)?{each.fields[0]}>", word, path)
        elif each.place is Place.QUERY:
            query.append((each.fields[0].removesuffix("[]"), word))
        else:
            place(body, each.fields[0].split("."), word)
    for parameter in re.findall(r"<(?:path:)?([a-z_]+)>", path):
        path = re.sub(rf"<(path:)?{parameter}>", str(FILLED[parameter]), path)
    if route.method in {"GET", "HEAD"} or route.judged_query:
        return path, {"params": filled_query(route, query)}
    if "mlflow-artifacts" in path:
        return path, {"content": b"x"} if route.method == "PUT" else {}
    body = {**FILLED, **body}
    return path, {"json": {each: body[each] for each in body if not route.message or each in route.message.fields}}


def filled_query(route: Route, query: list[tuple[str, str]]) -> list[tuple[str, str]]:
    given = {parameter for parameter, _ in query}
    more = [(each, str(FILLED[each])) for each in ("key", "metric_key", "version", "alias") if each not in given]
    if any(each in route.template for each in ("get-artifact", "trace-artifact", "upload-artifact")):
        more.append(("path", "notes.txt"))
    return [pair for pair in (*query, *more) if not route.judged_query or pair[0] in route.judged_query]


def place(body: dict[str, object], path: list[str], word: str) -> None:
    step, *rest = path
    key = step.removesuffix("[]")
    inner: object = word
    if rest:
        inner = {}
        place(inner, rest, word)  # type: ignore[arg-type]  # a new one
    body[key] = [inner] if step.endswith("[]") else inner


def sample(name: Name, things: Things) -> str:
    if name.kind is Named.VERSION_SOURCE:
        return f"models:/{things.model}/1"
    return things.of(name.kind.value) if name.newness is Newness.EXISTING else f"{things.model}-{uuid.uuid4().hex[:6]}"


@pytest.mark.parametrize(
    ("route", "name"),
    JUDGED,
    ids=[f"{route.method}-{route.template}-{name.kind}-{name.fields[0]}" for route, name in JUDGED],
)
def test_what_may_not_be_read_is_as_what_does_not_exist(
    world: World, secret: Things, own: Things, route: Route, name: Name
) -> None:
    hidden, missing = secret.of(name.kind.value), invented(name.kind)
    path, options = asked(route, name, hidden, own)
    of_hidden = told(world.call("lena", route.method, path, **options), hidden)
    path, options = asked(route, name, missing, own)
    of_missing = told(world.call("lena", route.method, path, **options), missing)
    assert of_hidden == of_missing
    assert "secret-1" not in str(of_hidden)
    if not ("mlflow-artifacts" in path and route.method in {"PUT", "DELETE"}):
        assert of_missing == told(world.past(route.method, path, **options), missing)


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_pages_of_models_lose_and_repeat_nothing_and_keep_the_order(world: World, many: list[str], size: int) -> None:
    for who in ("sparse", "named"):
        seen = listed(world, who, size)
        assert seen == [name for name in many if name.endswith("0") or (who == "sparse" and "-deep-" in name)]


def test_versions_and_experiments_are_filtered_and_paged_too(world: World, many: list[str]) -> None:
    visible = {name for name in many if name.endswith("0") or "-deep-" in name}
    found: list[str] = []
    token = ""
    while True:
        query = {"max_results": "40", **({"page_token": token} if token else {})}
        page = world.call("sparse", "GET", "/2.0/mlflow/model-versions/search", params=query).json()
        found += [f"{item['name']}/{item['version']}" for item in page.get("model_versions", [])]
        if not (token := page.get("next_page_token", "")):
            break
    assert len(found) == len(set(found))
    assert {each.partition("/")[0] for each in found} == visible
    experiments = world.call("sparse", "POST", "/2.0/mlflow/experiments/search", json={"max_results": 100})
    assert experiments.json() == {}


def test_a_filter_on_what_is_hidden_finds_nothing(world: World, many: list[str]) -> None:
    hidden = next(name for name in many if name.endswith("1"))
    for clause in (f"name = '{hidden}'", f"name LIKE '{hidden}%'", "tags.colour = 'secret'"):
        for who in ("sparse", "named"):
            answer = world.call(who, "GET", "/2.0/mlflow/registered-models/search", params={"filter": clause})
            assert answer.json() == {}, clause


def test_a_page_token_is_of_one_caller_and_one_list(world: World, many: list[str]) -> None:
    first = world.call("sparse", "GET", "/2.0/mlflow/registered-models/search", params={"max_results": 3}).json()
    token = first["next_page_token"]

    def status(who: str, **query: str) -> int:
        path = "/2.0/mlflow/registered-models/search"
        return world.call(who, "GET", path, params={"max_results": "3", "page_token": token, **query}).status_code

    assert status("sparse") == 200
    assert status("named") == 400
    assert status("sparse", order_by="name DESC") == 400
    assert status("sparse", filter="name LIKE '%'") == 400
    assert status("sparse", page_token=token_at(3)) == 400
    assert status("sparse", page_token=token[:-4] + "AAAA") == 400
    assert b"offset" not in b64decode(token, altchars=b"-_")


def test_searches_by_experiment_leave_out_what_is_hidden(world: World, secret: Things, shared: Things) -> None:
    def runs(*experiments: str) -> list[str]:
        answer = world.call("lena", "POST", "/2.0/mlflow/runs/search", json={"experiment_ids": list(experiments)})
        assert answer.status_code == 200, answer.text
        return [run["info"]["run_id"] for run in answer.json().get("runs", [])]

    assert runs(shared.experiment, secret.experiment) == [shared.run]
    assert runs(secret.experiment) == runs("1999999999") == []
    body = {"locations": [location(each) for each in (secret.experiment, shared.experiment)]}
    traces = world.call("lena", "POST", "/3.0/mlflow/traces/search", json=body).json()["traces"]
    assert [trace["trace_id"] for trace in traces] == [shared.trace]
    answer = world.call("lena", "POST", "/2.0/mlflow/runs/search", json={})
    assert answer.status_code == 400


def location(experiment: str) -> dict[str, object]:
    return {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}


def test_what_may_be_read_and_not_changed_is_forbidden_by_name(world: World, shared: Things) -> None:
    body = {"run_id": shared.run, "key": "k", "value": "v"}
    answer = world.call("lena", "POST", "/2.0/mlflow/runs/set-tag", json=body)
    assert answer.status_code == 403
    assert f"experiment '{shared.experiment_name}'" in answer.json()["message"]
    answer = world.call("lena", "PATCH", "/2.0/mlflow/registered-models/update", json={"name": shared.model})
    assert answer.status_code == 403


def test_what_was_hidden_from_somebody_is_in_the_audit_log(world: World, secret: Things) -> None:
    path = "/2.0/mlflow/experiments/get-by-name"

    def denials() -> int:
        return world.service.audit(f"GET /api{path}").count("access.denied")

    for name in (f"{world.tag}-nothing", secret.experiment_name):
        assert denials() == 0
        world.call("lena", "GET", path, params={"experiment_name": name})
    until(lambda: denials() == 1, "the entry")


def test_the_bytes_of_a_model_are_read_with_the_model(world: World) -> None:
    things = world.things(f"{world.tag}-served")
    folder = things.artifact.rpartition("/")[0]
    world.give("server", "viewer", model=things.model)
    world.wait_for("server")

    def read(path: str) -> int:
        return world.call("server", "GET", f"/2.0/mlflow-artifacts/artifacts/{path}").status_code

    uri = world.call(
        "server", "GET", "/2.0/mlflow/model-versions/get-download-uri", params={"name": things.model, "version": "1"}
    ).json()["artifact_uri"]
    assert uri.endswith(folder)
    assert read(things.artifact) == 200
    listing = world.call("server", "GET", "/2.0/mlflow-artifacts/artifacts", params={"path": folder}).json()
    assert [item["path"] for item in listing["files"]] == ["notes.txt"]
    beside = folder.rpartition("/")[0] + "/other.txt"
    assert world.past("PUT", f"/2.0/mlflow-artifacts/artifacts/{beside}", content=b"x").status_code == 200
    assert read(beside) == 404
    assert world.call("server", "GET", "/2.0/mlflow-artifacts/artifacts").json() == {}


def test_the_unmodified_client_works_for_somebody_who_may_see_some_only(
    world: World, shared: Things, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "story.py"
    script.write_text(STORY)
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": world.service.url,
        "MLFLOW_TRACKING_TOKEN": world.token("lena"),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    words = [f"{world.tag}-own-story", shared.model]
    done = subprocess.run(
        [sys.executable, str(script), *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "what is in it"


STORY = """
import sys, mlflow
from mlflow import MlflowClient
own, shared = sys.argv[1:]
mlflow.set_experiment(own)
with mlflow.start_run() as run:
    mlflow.log_param("p", 1)
    mlflow.log_metric("m", 1.0)
    mlflow.log_dict({"a": 1}, "config.json")
    logged = mlflow.initialize_logged_model(name="model")
with mlflow.start_span("work") as span:
    span.set_inputs({"q": 1})
mlflow.flush_trace_async_logging()
client = MlflowClient()
(trace,) = client.search_traces(locations=[run.info.experiment_id])
assert client.get_trace(trace.info.trace_id).data.spans[0].inputs == {"q": 1}
client.create_registered_model(own)
version = client.create_model_version(own, f"{run.info.artifact_uri}", run.info.run_id)
client.set_registered_model_alias(own, "champion", version.version)
assert client.get_model_version_by_alias(own, "champion").version == version.version
names = {model.name for model in client.search_registered_models()}
assert {own, shared} <= names, names
assert [each.name for each in client.search_experiments(filter_string=f"name = '{own}'")] == [own]
assert len(mlflow.search_runs(experiment_names=[own])) == 1
print(client.get_model_version(shared, "1").source)
folder = mlflow.artifacts.download_artifacts(f"models:/{shared}/1")
print(open(folder + "/notes.txt").read())
"""


def test_creators_own_what_they_create(world: World) -> None:
    """A grant on a name pattern lets create; what was created stays the creator's when the pattern is denied."""
    world.give("mia", "contributor", model=f"{world.tag}-mia-*")
    world.give("mia", "contributor", experiment=f"{world.tag}-mia-*")
    world.wait_for("mia")
    name = f"{world.tag}-mia-1"
    assert world.call("mia", "POST", "/2.0/mlflow/registered-models/create", json={"name": name}).status_code == 200
    made = world.call("mia", "POST", "/2.0/mlflow/experiments/create", json={"name": name}).json()["experiment_id"]
    renamed = f"{world.tag}-elsewhere"
    world.made("/2.0/mlflow/experiments/update", experiment_id=made, new_name=renamed)
    answer = world.call("mia", "GET", "/2.0/mlflow/experiments/get", params={"experiment_id": made})
    assert answer.json()["experiment"]["name"] == renamed
    found = world.call("mia", "POST", "/2.0/mlflow/experiments/search", json={"max_results": 100}).json()
    assert [each["name"] for each in found["experiments"]] == [renamed]
    assert world.call("mia", "POST", "/2.0/mlflow/runs/create", json={"experiment_id": made}).status_code == 200
    assert "owner.recorded" in world.service.audit(f"model:{name}")
    assert "owner.recorded" in world.service.audit(f"experiment:{made}")


def test_nobody_creates_a_name_that_no_grant_covers(world: World, secret: Things) -> None:
    for name in (secret.model, f"{world.tag}-new"):
        model = world.call("lena", "POST", "/2.0/mlflow/registered-models/create", json={"name": name})
        experiment = world.call("lena", "POST", "/2.0/mlflow/experiments/create", json={"name": name})
        assert (model.status_code, experiment.status_code) == (403, 403)


def listed(world: World, who: str, size: int) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        query = {"max_results": str(size), **({"page_token": token} if token else {})}
        answer = world.call(who, "GET", "/2.0/mlflow/registered-models/search", params=query)
        assert answer.status_code == 200, answer.text
        items = [item["name"] for item in answer.json().get("registered_models", [])]
        assert len(items) <= size
        found += items
        if not (token := answer.json().get("next_page_token", "")):
            return found


@pytest.fixture(scope="module")
def many(world: World) -> list[str]:
    """Some hundreds of models, of which one in ten may be seen."""
    names = sorted(
        [f"{world.tag}-m-{index:03d}" for index in range(300)] + [f"{world.tag}-z-deep-{i}" for i in range(5)]
    )
    now = 1_700_000_000_000
    with sqlite3.connect(world.mlflow.data / "mlflow.db", timeout=60) as database:
        database.executemany(
            "INSERT INTO registered_models (name, creation_time, last_updated_time, workspace)"
            " VALUES (?, ?, ?, 'default')",
            [(name, now, now) for name in names],
        )
        database.executemany(
            "INSERT INTO model_versions"
            " (name, version, creation_time, last_updated_time, current_stage, source, status, workspace)"
            " VALUES (?, ?, ?, ?, 'None', 's3://b/x', 'READY', 'default')",
            [(name, version, now, now) for name in names for version in (1, 2)],
        )
        database.executemany(
            "INSERT INTO registered_model_tags (name, key, value, workspace) VALUES (?, 'colour', 'secret', 'default')",
            [(name,) for name in names if name.endswith("1") and "-deep-" not in name],
        )
    world.give("sparse", "viewer", model=f"{world.tag}-m-*0")
    world.give("sparse", "viewer", model=f"{world.tag}-z-deep-*")
    world.give_models("named", "viewer", [name for name in names if name.endswith("0")])
    world.wait_for("sparse")
    world.wait_for("named")
    return names
