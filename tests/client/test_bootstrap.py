"""`countersign bootstrap`: everything that is wrong is said at once, before it begins; what it keeps, and passes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from aiohttp import web
from countersign_client import following
from countersign_client.bootstrapping import course, forwarding
from countersign_client.bootstrapping.course import Order, carry_out, examine
from countersign_client.bootstrapping.forwarding import Forwarder, Listener, close, forward, new_session, take_port
from countersign_client.bootstrapping.ledger import Entry, Ledger, Training
from countersign_client.bootstrapping.problems import NotReady, Problem, Stopped
from countersign_client.bootstrapping.projects import Project, environment_of, fingerprint, read
from countersign_client.bootstrapping.ray import Dashboard, Ray, dashboard_of
from countersign_client.bootstrapping.registry import Found, Registry
from countersign_client.bootstrapping.renewing import renewing
from countersign_client.bootstrapping.training import Run, environment_for, needs_renewing, train
from countersign_client.errors import ClientError, NotSignedIn, Refused, Unreachable
from countersign_client.following import Exit
from countersign_client.store import LoginStore

from tests.client.standin import Standin, running_standin

Command = Callable[..., int]
MLPROJECT = 'entry_points: {main: {command: "python train.py"}}\n'
ENTRY = Entry(
    *("iris", "/iris", 8081, "sha256:0", "run-1", "7", "models:/iris/7"),
    *("sha256:0", "sha256:1", "prm_1", "http://ray/iris"),
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return new_project(tmp_path / "iris")


def new_project(folder: Path, document: str = MLPROJECT) -> Path:
    folder.mkdir()
    (folder / "MLproject").write_text(document)
    (folder / "train.py").write_text("print('trained')\n")
    return folder


@pytest.fixture
def ray() -> Iterator[Standin]:
    with running_standin() as ray:
        ray.answers["/api/version"] = lambda _: (200, {"ray_version": "2.60.0"})
        ray.answers["/api/serve/applications/"] = lambda _: (200, {"applications": {}})
        yield ray


@pytest.fixture
def platform(gateway: Standin, ray: Standin, no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Standin:
    """A gateway whose policy deploys every model to `ray`, where nobody need approve; and Ray, which answers."""
    monkeypatch.setenv("COUNTERSIGN_URL", gateway.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", gateway.access)
    monkeypatch.setenv("RAY_ADDRESS", ray.url)
    for name in ("RAY_DASHBOARD_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    gateway.answers["/control/v1/policies/for"] = lambda _: (200, {"policy": {"name": "production", "revision": 1}})
    policy(gateway, ["ray"])
    return gateway


def policy(gateway: Standin, targets: list[str]) -> None:
    gateway.answers["/control/v1/policies/production"] = lambda _: (200, {"document": {"targets": targets}})


def order(at: Standin, project: Path, **changed: Any) -> Order:
    given = {"names": "iris", "paths": str(project), "ports": "8081", "output": project.parent / "models_to_serve.json"}
    return Order(**{"gateway": at.url, "timeout_s": 0, "approval_timeout_s": 0, **given, **changed})


def refused(asked: Order) -> list[str]:
    with pytest.raises(NotReady) as refusal:
        examine(asked, lambda _: None)
    return [str(problem) for problem in refusal.value.problems]


# The lists.


@pytest.mark.parametrize(
    ("names", "ports", "parameters", "said"),
    [
        ("", "8081", "", ["MODEL_NAMES: it is not set"]),
        ("iris", "", "", ["MODEL_PORTS: it is not set"]),
        ("iris,wine", "8081", "", ["MODEL_NAMES has 2, MODEL_PATHS has 1, MODEL_PORTS has 1"]),
        ("iris", "8081,8082", "", ["MODEL_NAMES has 1, MODEL_PATHS has 1, MODEL_PORTS has 2"]),
        ("iris", "8081", "a=1,a=2", ["MODEL_PARAMS has 2"]),
        ("iris,", "8081", "", ["MODEL_NAMES has 2", "MODEL_NAMES: entry 2 is empty"]),
        ("a/b", "8081", "", ["MODEL_NAMES: a/b: expected at most 256 characters without `/`"]),
        ("a:b", "8081", "", ["MODEL_NAMES: a:b: expected"]),
        ("-", "8081", "", ["MODEL_NAMES: -: it is no name of a model"]),
        ("n" * 257, "8081", "", ["MODEL_NAMES: nnn"]),
        ("iris", "http", "", ["MODEL_PORTS: http: expected a whole number from 1 to 65535"]),
        ("iris", "0", "", ["MODEL_PORTS: 0: expected"]),
        ("iris", "65536", "", ["MODEL_PORTS: 65536: expected"]),
        ("iris", "-1", "", ["MODEL_PORTS: -1: expected"]),
        ("iris", "٨٠٨١", "", ["MODEL_PORTS: ٨٠٨١: expected"]),
        ("iris", "8081", "alpha", ["MODEL_PARAMS: entry 1: alpha: expected name=value"]),
        ("iris", "8081", "a=1;a=2", ["MODEL_PARAMS: entry 1: a is there twice"]),
    ],
)
def test_what_is_wrong_with_the_lists_is_said(
    project: Path, names: str, ports: str, parameters: str, said: list[str]
) -> None:
    projects, problems = read(names, str(project), ports, parameters)
    assert projects == []
    assert len(problems) == len(said)
    for problem, expected in zip(problems, said, strict=True):
        assert expected in str(problem)


def test_names_and_ports_are_there_once_and_a_project_may_make_several_models(project: Path) -> None:
    paths = f"{project},{project}"
    assert [str(each) for each in read("iris,iris", paths, "8081,08081")[1]] == [
        "MODEL_NAMES: iris is there twice",
        "MODEL_PORTS: 8081 is there twice",
    ]
    projects, problems = read(" iris , wine", paths, "8081, 8082", "alpha=0.1; seed=7,")
    assert problems == []
    assert projects == [
        Project("iris", project, 8081, {"alpha": "0.1", "seed": "7"}),
        Project("wine", project, 8082, {}),
    ]


def test_a_path_must_be_a_folder_with_an_mlflow_project(project: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    paths = f"{tmp_path / 'none'},{project / 'train.py'},{tmp_path / 'empty'}"
    said = [problem.what.replace(str(tmp_path), "") for problem in read("a,b,c", paths, "1,2,3")[1]]
    assert said == [
        "/none: there is no such folder",
        "/iris/train.py is no folder",
        "/empty: there is no file MLproject in it, so it is no MLflow project",
    ]


# The projects.


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("entry_points: [", "it is not YAML (line 1)"),
        ("[]", "expected a document with entry_points"),
        ("name: iris", "expected an entry point `main`"),
        ("entry_points: {train: {command: x}}", "expected an entry point `main`"),
        (f"conda_env: conda.yaml\n{MLPROJECT}", "conda_env: there is no file conda.yaml beside it"),
        (f"python_env: 7\n{MLPROJECT}", "python_env: there is no file 7 beside it"),
        (f"docker_env: {{image: x}}\n{MLPROJECT}", "docker_env: a project runs beside this command"),
    ],
)
def test_a_project_file_that_mlflow_could_not_run_is_refused_before_anything_runs(
    tmp_path: Path, document: str, said: str
) -> None:
    folder = new_project(tmp_path / "iris", document)
    _, problems = environment_of(Project("iris", folder, 8081), "local")
    assert [str(each).startswith(f"iris: MLproject: {said}") for each in problems] == [True]


@pytest.mark.parametrize(
    ("named", "wanted", "installed", "manager", "said", "problem"),
    [
        ("", "auto", {"conda", "uv"}, "local", "", ""),
        ("conda_env", "auto", {"conda"}, "conda", "", ""),
        ("conda_env", "auto", {"uv"}, "local", "conda is not installed here: env.yaml is not read", ""),
        ("python_env", "auto", {"uv"}, "uv", "", ""),
        ("python_env", "auto", set(), "local", "uv is not installed here: env.yaml is not read", ""),
        ("conda_env", "local", {"conda"}, "local", "", ""),
        ("conda_env", "conda", set(), "conda", "", "conda is not installed here; choose"),
        ("python_env", "conda", {"conda"}, "conda", "", "it has a python_env, which conda does not read"),
    ],
)
def test_a_project_gets_its_packages_as_it_says_where_this_machine_can(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: str,
    wanted: str,
    installed: set[str],
    manager: str,
    said: str,
    problem: str,
) -> None:
    for name in ("MLFLOW_CONDA_HOME", "CONDA_EXE"):
        monkeypatch.delenv(name, raising=False)
    folder = new_project(tmp_path / "iris", f"{named}: env.yaml\n{MLPROJECT}" if named else MLPROJECT)
    (folder / "env.yaml").touch()
    chosen, problems = environment_of(
        Project("iris", folder, 8081), wanted, which=lambda name: name if name in installed else None
    )
    assert chosen.manager == manager
    assert chosen.said.startswith(said)
    assert bool(chosen.said) == bool(said)
    assert [problem in str(each) for each in problems] == [True] * bool(problem)


def test_a_project_is_another_when_a_file_or_a_parameter_is_and_not_when_it_ran(project: Path) -> None:
    before = fingerprint(Project("iris", project, 8081))
    (project / "__pycache__").mkdir()
    (project / "__pycache__" / "train.pyc").write_text("compiled")
    (project / ".cache").write_text("left over")
    assert fingerprint(Project("iris", project, 9000)) == before
    assert fingerprint(Project("iris", project, 8081, {"alpha": "1"})) != before
    (project / "train.py").write_text("print('better')\n")
    assert fingerprint(Project("iris", project, 8081)) != before


def test_a_project_may_have_files_whose_names_are_not_utf_8(project: Path) -> None:
    of = Project("iris", project, 8081)
    before = fingerprint(of)
    Path(os.fsdecode(os.fsencode(project) + b"/caf\xe9.csv")).write_text("1")
    assert fingerprint(of) != before


def test_a_project_that_cannot_be_read_is_said(project: Path) -> None:
    (project / "data").symlink_to("/proc/self/mem")  # nobody can read it from its beginning, not even root
    with pytest.raises(Stopped, match=r"iris: .* cannot be read: ") as stopped:
        fingerprint(Project("iris", project, 8081))
    assert stopped.value.exit_code == Exit.FAILED


# Ray.


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://head:8265", "http://head:8265"),
        ("https://ray.example.com/prefix/", "https://ray.example.com/prefix"),
        ("head:8265", "http://head:8265"),
        ("head", "http://head:8265"),
        ("[::1]:8265", "http://[::1]:8265"),
        ("head:6379", "http://head:8265"),
        ("ray://head:10001", "http://head:8265"),
    ],
)
def test_ray_is_asked_at_its_dashboard_however_its_address_is_written(address: str, url: str) -> None:
    found = dashboard_of({"RAY_ADDRESS": address})
    assert isinstance(found, Dashboard)
    assert found.url == url
    assert bool(found.said) == (address.endswith(("6379", "10001")))
    assert dashboard_of({"RAY_ADDRESS": address, "RAY_DASHBOARD_ADDRESS": "http://d:1"}) == Dashboard("http://d:1")


@pytest.mark.parametrize(
    "address",
    ["", "auto", "local", "ftp://head:8265", "http://", "http://u:p@head", "head:port", "a b", "http://h?x=1"],
)
def test_an_address_that_is_not_rays_is_refused_with_what_was_expected(address: str) -> None:
    found = dashboard_of({"RAY_ADDRESS": address})
    assert isinstance(found, Problem)
    assert "expected the address of Ray's dashboard, http://<host>:8265" in str(found)


@pytest.mark.parametrize(
    "address",
    [
        *("http://admin:s3cret@ray:8265", "http://ray:8265/?token=s3cret", "http://ray:8265/#s3cret"),
        *("s3cret://ray", "http://ray:s3cret", "admin:s3cret@ray:6379", "http://a b/s3cret"),
        *("ray://ray:10001/s3cret", "ray:6379/s3cret"),
    ],
)
def test_a_secret_in_rays_address_is_not_said(address: str) -> None:
    found = dashboard_of({"RAY_ADDRESS": address})
    assert "s3cret" not in str(found)
    said = found.said if isinstance(found, Dashboard) else str(found)
    assert said.startswith("RAY_ADDRESS")


def test_ray_that_does_not_answer_in_time_wants_a_token_or_is_something_else(ray: Standin, tmp_path: Path) -> None:
    def reached(url: str = ray.url, **environment: str) -> Problem | None:
        return Ray(Dashboard(url), environment).reached(timeout_s=0, say=lambda _: None)

    assert reached() is None
    away = reached("http://127.0.0.1:1")
    assert away == Problem("RAY_ADDRESS", "Ray does not answer at http://127.0.0.1:1.", Exit.UNREACHABLE)
    ray.answers["/api/version"] = lambda _: (404, {"detail": "no"})
    assert "no Ray dashboard (404)" in str(reached())
    ray.answers["/api/version"] = lambda seen: (
        (200, {"ray_version": "2"}) if seen.headers.get("Authorization") == "Bearer s3cret" else (401, {})
    )
    assert "wants Ray's token: set RAY_AUTH_TOKEN" in str(reached())
    (tmp_path / "token").write_text("s3cret\n")
    assert reached(RAY_AUTH_TOKEN_PATH=str(tmp_path / "token")) is None
    assert reached(RAY_AUTH_TOKEN="s3cret") is None
    assert "wants Ray's token" in str(reached(RAY_AUTH_TOKEN_PATH=str(tmp_path / "none")))


def test_ray_is_waited_for_and_that_is_said_once(ray: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("countersign_client.bootstrapping.ray._PAUSE_S", 0.001)
    answers = iter([503, 503, 200])
    ray.answers["/api/version"] = lambda _: (next(answers), {"ray_version": "2.60.0"})
    said: list[str] = []
    assert Ray(Dashboard(ray.url), {}).reached(timeout_s=60, say=said.append) is None
    assert said == [f"Ray does not answer at {ray.url}. Waiting for it, 60 s at most …"]


# What is written down.


def test_what_was_done_is_written_at_once_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "models_to_serve.json"
    ledger = Ledger(file)
    assert ledger.read() is None
    ledger.put(ENTRY)
    document = json.loads(file.read_text())
    assert document["schema"] == 1
    assert document["models"] == [vars_of(ENTRY)]
    again = Ledger(file)
    assert "another `countersign bootstrap` is writing it" in str(again.read())
    ledger.let_go()
    assert again.read() is None
    assert again.get("iris") == ENTRY
    again.keep_only(["wine"])
    assert json.loads(file.read_text())["models"] == []
    assert {path.name for path in tmp_path.iterdir()} == {file.name, f".{file.name}.lock"}


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "it cannot be read"), ('{"schema": 2}', "it is not of schema 1"), ("[]", "not of schema 1")],
)
def test_a_file_of_something_else_is_not_written_over(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "models_to_serve.json"
    file.write_text(text)
    assert said in str(Ledger(file).read())
    assert file.read_text() == text


def test_a_file_of_before_is_read_and_one_that_names_no_text_is_none(tmp_path: Path) -> None:
    file = tmp_path / "models_to_serve.json"
    before = {name: value for name, value in vars_of(ENTRY).items() if name not in {"gateway", "alias", "training"}}
    file.write_text(json.dumps({"schema": 1, "models": [before]}))
    ledger = Ledger(file)
    assert ledger.read() is None
    assert ledger.get("iris") == ENTRY
    training = Training("sha256:0", "iris", "bootstrap-iris-1", "sha256:1")
    kept = replace(ENTRY, path="/na\udcefve", gateway="https://a", alias="staging", training=training)
    ledger.put(kept)
    ledger.let_go()
    again = Ledger(file)
    assert again.read() is None
    assert again.get("iris") == kept


def test_a_file_that_cannot_be_replaced_is_said(tmp_path: Path) -> None:
    file = tmp_path / "models_to_serve.json"
    ledger = Ledger(file)
    assert ledger.read() is None
    file.mkdir()
    with pytest.raises(Stopped, match=r"models_to_serve\.json cannot be written: Is a directory"):
        ledger.put(ENTRY)
    assert {path.name for path in tmp_path.iterdir()} == {file.name, f".{file.name}.lock"}


def test_an_entry_that_lacks_something_is_as_none_and_a_missing_folder_is_said(tmp_path: Path) -> None:
    file = tmp_path / "models_to_serve.json"
    file.write_text(json.dumps({"schema": 1, "models": [{"name": "iris"}, {**vars_of(ENTRY), "port": "8081"}, 7]}))
    ledger = Ledger(file)
    assert ledger.read() is None
    assert ledger.get("iris") is None
    assert "its folder is not there" in str(Ledger(tmp_path / "none" / "models_to_serve.json").read())


def vars_of(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in Entry.__dataclass_fields__}


# All together.


def test_everything_that_is_wrong_is_said_at_once_and_nothing_begins(
    platform: Standin,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("MODEL_NAMES", "iris,wine")
    monkeypatch.setenv("MODEL_PATHS", str(tmp_path / "none"))
    monkeypatch.setenv("MODEL_PORTS", "8081,http")
    monkeypatch.setenv("COUNTERSIGN_URL", platform.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", "cs_wrong")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://elsewhere.example")

    assert command("bootstrap", "--output", str(tmp_path / "none" / "x.json")) == Exit.USAGE

    said = capsys.readouterr().err
    for expected in (
        "nothing was begun:",
        "the lists are not aligned",
        "none: there is no such folder",
        "http: expected a whole number",
        "RAY_ADDRESS: auto",
        "x.json: its folder is not there",
        "MLFLOW_TRACKING_URI: it is not the gateway",
        "gateway: ",
    ):
        assert expected in said
    assert "cs_wrong" not in said


def test_no_gateway_is_one_of_the_things_that_are_wrong(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("bootstrap", "--output", str(tmp_path / "models_to_serve.json")) == Exit.USAGE
    assert "gateway: Which gateway?" in (said := capsys.readouterr().err)
    assert "MODEL_NAMES: it is not set" in said


def test_a_model_that_no_policy_deploys_is_refused_with_what_to_do(platform: Standin, project: Path) -> None:
    policy(platform, [])
    assert (
        "policy production, which protects its alias production, deploys nowhere"
        in refused(order(platform, project))[0]
    )
    policy(platform, ["kserve"])
    (said,) = refused(order(platform, project, target="ray"))
    assert said.startswith(
        "iris: policy production, which protects its alias production, deploys to kserve: target ray is"
    )
    policy(platform, ["kserve", "ray"])
    assert refused(order(platform, project)) == ["--target: policies deploy these models to kserve, ray: name one"]
    platform.answers["/control/v1/policies/for"] = lambda _: (200, {"policy": None})
    assert "no policy protects its alias production" in refused(order(platform, project))[0]


def test_only_names_a_model_of_the_lists(platform: Standin, project: Path) -> None:
    assert refused(order(platform, project, only=("wine",))) == ["--only: wine is not in MODEL_NAMES"]


def test_what_is_away_ends_with_another_status_than_what_is_wrong(
    platform: Standin, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(NotReady) as refusal:
        examine(order(platform, project), lambda _: None)
    assert refusal.value.exit_code == Exit.UNREACHABLE
    assert "Ray does not answer at http://127.0.0.1:1. It was waited for 0 s (SERVE_WAIT_TIMEOUT)." in str(
        refusal.value
    )
    with pytest.raises(NotReady) as refusal:
        examine(order(platform, project, gateway="http://127.0.0.1:1"), lambda _: None)
    assert refusal.value.exit_code == Exit.UNREACHABLE
    monkeypatch.delenv("COUNTERSIGN_TOKEN")
    with pytest.raises(NotReady) as refusal:
        examine(order(platform, project), lambda _: None)
    assert refusal.value.exit_code == Exit.LOGIN_NEEDED


def test_a_port_that_is_taken_is_said_with_its_model(platform: Standin, project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        asked = order(platform, project, ports=str(port), serve_at="127.0.0.1")
        assert refused(asked) == [f"MODEL_PORTS: {port} (of iris) is in use by another process on 127.0.0.1"]
    assert "192.0.2.1 is no address of this machine" in refused(order(platform, project, serve_at="192.0.2.1"))[0]


SAID_NO = pytest.mark.parametrize("state", ["rejected", "withdrawn", "superseded", "rolled_back"])


@SAID_NO
def test_what_somebody_said_no_to_is_not_asked_for_again(platform: Standin, project: Path, state: str) -> None:
    asked = order(platform, project)
    mark = fingerprint(read(asked.names, asked.paths, asked.ports)[0][0])
    Ledger(asked.output).put(Entry("iris", "/old", 1, "", "run-1", "7", "models:/iris/7", left=mark, promotion="prm_1"))
    platform.answers["/api/2.0/mlflow/model-versions/get"] = lambda _: (200, {"model_version": {"version": "7"}})
    platform.answers["/control/v1/promotions/prm_1"] = lambda _: (200, {"state": state, "state_reason": "too soon"})
    with pytest.raises(Stopped, match=f"promotion prm_1 is {state}, too soon. Change the project") as stopped:
        carry_out(examine(asked, lambda _: None), lambda _: None)
    assert stopped.value.exit_code == Exit.ENDED
    assert not platform.calls("/control/v1/promotions")
    kept = json.loads(asked.output.read_text())["models"][0]
    assert (kept["path"], kept["port"]) == (str(project), 8081)


@SAID_NO
def test_where_a_version_is_served_that_one_is_served_on_though_somebody_said_no_to_another(
    platform: Standin, ray: Standin, project: Path, state: str
) -> None:
    asked = order(platform, project)
    keep(asked, version="2")
    live_at(platform, ray, version="1")
    platform.answers["/control/v1/promotions/prm_1"] = lambda _: (200, {"state": state, "state_reason": "too slow"})
    said: list[str] = []
    (served,) = carry_out(examine(asked, said.append), said.append)
    assert (served.version, served.digest, served.entry.url) == ("1", "sha256:77", f"{ray.url}/iris")
    assert not platform.calls("/control/v1/promotions")
    assert (
        f"[iris] version 2 is not asked for again: promotion prm_1 is {state}, too slow. Change the project, or run "
        "with --retrain. What ray is to serve is served until then."
    ) in said
    assert "[iris] version 1 answers at" in said[-1]


def keep(asked: Order, **known: Any) -> None:
    """Have it written down that the project was trained as it is now."""
    (project,), _ = read(asked.names, asked.paths, asked.ports)
    about = {"run_id": "run-1", "version": "1", "uri": "models:/iris/1", "promotion": "prm_1", **known}
    Ledger(asked.output).put(Entry("iris", str(project.path), 8081, fingerprint(project), **about))


def live_at(platform: Standin, ray: Standin, version: str = "1") -> None:
    """A version of `iris` is deployed, and answers; `prm_1` is the promotion to `staging` that did it."""
    serving = [{"version": version, "weight": 100, "ready": True, "url": f"{ray.url}/iris"}]
    deployed = {"target": "ray", "resource": "iris", "version": version, "digest": "sha256:77", "serving": serving}
    live = {"id": "prm_1", "alias": "staging", "state": "live", "settled": True, "digest": "sha256:77"}
    platform.answers |= {
        "/api/2.0/mlflow/model-versions/get": lambda _: (200, {"model_version": {"version": version}}),
        "/control/v1/promotions/prm_1": lambda _: (200, live),
        "/control/v1/deployments": lambda _: (200, {"items": [deployed], "next_cursor": None}),
    }
    ray.answers["/iris"] = lambda _: (200, {})
    ray.answers["/api/serve/applications/"] = lambda _: (200, {"applications": {"iris": "sha256:77"}})


@pytest.mark.parametrize("known", [{"alias": "staging"}, {}])
def test_what_was_promoted_to_another_alias_is_asked_for(
    platform: Standin, ray: Standin, project: Path, known: dict[str, str]
) -> None:
    asked = order(platform, project)
    keep(asked, **known)
    live_at(platform, ray)
    made = {"id": "prm_2", "alias": "production", "state": "live", "settled": True, "digest": "sha256:77"}
    platform.answers["/control/v1/promotions"] = lambda _: (201, made)
    platform.answers["/control/v1/promotions/prm_2"] = lambda _: (200, made)
    for _ in range(2):
        (served,) = carry_out(examine(asked, lambda _: None), lambda _: None)
        assert (served.entry.promotion, served.entry.alias) == ("prm_2", "production")
    (call,) = platform.calls("/control/v1/promotions")
    assert json.loads(call.body)["alias"] == "production"


def trains(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """What is trained; each ends well."""
    runs: list[Run] = []
    monkeypatch.setattr(course, "train", lambda run, environment, say: runs.append(run))
    return runs


@pytest.mark.parametrize("known", [{"gateway": "https://another.example"}, {"run_id": "run-of-another"}])
def test_a_version_of_another_gateway_is_not_promoted_at_this_one(
    platform: Standin, ray: Standin, project: Path, monkeypatch: pytest.MonkeyPatch, known: dict[str, str]
) -> None:
    asked = order(platform, project, alias="staging")
    keep(asked, **known)
    live_at(platform, ray, version="5")
    trained(platform)
    platform.answers["/api/2.0/mlflow/model-versions/get"] = lambda _: (200, {"model_version": {"run_id": "run-5"}})
    platform.answers["/control/v1/promotions"] = lambda _: (201, {"id": "prm_1", "state": "live"})
    runs = trains(monkeypatch)
    (served,) = carry_out(examine(asked, lambda _: None), lambda _: None)
    assert len(runs) == 1
    assert (served.entry.version, served.entry.gateway) == ("5", platform.url)


def trained(platform: Standin, status: str = "FINISHED") -> None:
    """MLflow has a run of whatever name, and version 5 of it."""
    run = {"info": {"run_id": "run-5", "status": status}}
    platform.answers |= {
        "/api/2.0/mlflow/experiments/get-by-name": lambda _: (200, {"experiment": {"experiment_id": "3"}}),
        "/api/2.0/mlflow/runs/search": lambda _: (200, {"runs": [run]}),
        "/api/2.0/mlflow/model-versions/search": lambda _: (
            200,
            {"model_versions": [{"name": "iris", "version": "5"}]},
        ),
    }


def test_a_training_is_not_lost_when_the_gateway_is_away_after_it(
    platform: Standin, ray: Standin, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = order(platform, project, alias="staging")
    live_at(platform, ray, version="5")
    trained(platform)
    away = (503, {"detail": "restarting"})
    answers = platform.answers["/api/2.0/mlflow/model-versions/search"]
    platform.answers["/api/2.0/mlflow/model-versions/search"] = lambda _: away
    platform.answers["/control/v1/promotions"] = lambda _: (201, {"id": "prm_1", "state": "live"})
    runs = trains(monkeypatch)
    with pytest.raises(Unreachable):
        carry_out(examine(asked, lambda _: None), lambda _: None)
    kept = json.loads(asked.output.read_text())["models"][0]
    assert (kept["version"], kept["training"]["run"]) == ("", runs[0].name)
    platform.answers["/api/2.0/mlflow/model-versions/search"] = answers
    said: list[str] = []
    (served,) = carry_out(examine(asked, said.append), said.append)
    assert (served.version, served.entry.run_id, served.entry.training) == ("5", "run-5", None)
    assert "[iris] was trained already, by run run-5: it is not trained again" in said
    assert len(runs) == 1


@pytest.mark.parametrize("status", ["RUNNING", "FAILED"])
def test_a_training_that_did_not_end_well_is_done_again(
    platform: Standin, ray: Standin, project: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    asked = order(platform, project, alias="staging")
    live_at(platform, ray, version="5")
    trained(platform, status)
    (begun,), _ = read(asked.names, asked.paths, asked.ports)
    keep(asked, version="", training=Training(fingerprint(begun), "iris", "bootstrap-iris-1"))
    platform.answers["/control/v1/promotions"] = lambda _: (201, {"id": "prm_1", "state": "live"})
    runs = trains(monkeypatch)
    carry_out(examine(asked, lambda _: None), lambda _: None)
    assert len(runs) == 1


def test_the_gateway_is_waited_for_when_a_training_is_registered(
    platform: Standin, ray: Standin, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_PAUSES_S", (0.001, 0.001))
    asked = order(platform, project, alias="staging", timeout_s=60)
    live_at(platform, ray, version="5")
    trained(platform)
    answers, away = platform.answers["/api/2.0/mlflow/runs/search"], iter([503, 503])
    platform.answers["/api/2.0/mlflow/runs/search"] = lambda seen: (
        (status, {}) if (status := next(away, 0)) else answers(seen)
    )
    platform.answers["/control/v1/promotions"] = lambda _: (201, {"id": "prm_1", "state": "live"})
    runs = trains(monkeypatch)
    (served,) = carry_out(examine(asked, lambda _: None), lambda _: None)
    assert served.version == "5"
    assert len(runs) == 1


def test_two_models_of_a_project_that_writes_into_its_folder_are_trained_once(
    platform: Standin, ray: Standin, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, twice = f"{project},{project}", {"names": "iris,wine", "ports": "1,2", "parameters": "a=1,a=2"}
    asked = order(platform, project, alias="staging", **twice, paths=paths)
    live_at(platform, ray, version="5")
    trained(platform)
    versions = [{"name": name, "version": "5"} for name in ("iris", "wine")]
    platform.answers["/api/2.0/mlflow/model-versions/search"] = lambda _: (200, {"model_versions": versions})
    platform.answers["/control/v1/promotions"] = lambda _: (409, {"detail": "Not now."})
    runs: list[Run] = []

    def write(run: Run, *_: Any) -> None:
        runs.append(run)
        (run.project.path / f"report-{run.project.name}").write_text(run.name)

    monkeypatch.setattr(course, "train", write)
    for _ in range(2):
        with pytest.raises(Refused, match="Not now"):
            carry_out(examine(asked, lambda _: None), lambda _: None)
    assert [run.project.name for run in runs] == ["iris", "wine"]


def test_what_a_training_leaves_running_is_not_waited_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "train.sh").write_text("echo trained; printf done; sleep 600 & echo $! > left; exit 0\n")
    monkeypatch.setattr(Run, "command", lambda _: ["sh", "train.sh"])
    said: list[str] = []
    try:
        train(Run(Project("iris", project, 1), "local", "iris", "name"), dict(os.environ), said.append)
    finally:
        os.kill(int((project / "left").read_text()), signal.SIGKILL)
    assert said == ["[iris] trained", "[iris] done"]


def test_a_training_that_fails_is_told_with_its_last_lines(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "train.sh").write_text("printf 'caf\\351\\r\\nno data\\33[2J\\n'; exit 3\n")
    monkeypatch.setattr(Run, "command", lambda _: ["sh", "train.sh"])
    said: list[str] = []
    with pytest.raises(Stopped, match=r"failed \(exit status 3\)") as stopped:
        train(Run(Project("iris", project, 1), "local", "iris", "name"), dict(os.environ), said.append)
    assert said == ["[iris] caf\ufffd", "[iris] no data[U+001B][2J"]
    assert str(stopped.value).endswith("  caf\ufffd\n  no data[U+001B][2J")


def test_a_target_that_serves_from_another_ray_is_found_out(
    platform: Standin, ray: Standin, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = order(platform, project)
    mark = fingerprint(read(asked.names, asked.paths, asked.ports)[0][0])
    Ledger(asked.output).put(Entry("iris", "/old", 1, mark, "run-1", "7", "models:/iris/7", promotion="prm_1"))
    live = {"state": "live", "settled": True, "digest": "sha256:77", "etag": '"prm_1.1"'}
    serving = [{"version": "7", "weight": 100, "ready": True, "url": f"{ray.url}/iris"}]
    deployed = {"target": "ray", "resource": "iris", "version": "7", "serving": serving}
    platform.answers |= {
        "/api/2.0/mlflow/model-versions/get": lambda _: (200, {"model_version": {"version": "7"}}),
        "/control/v1/promotions/prm_1": lambda _: (200, live),
        "/control/v1/deployments": lambda _: (200, {"items": [deployed], "next_cursor": None}),
    }
    ray.answers["/iris"] = lambda _: (200, {})
    with pytest.raises(Stopped, match="RAY_ADDRESS and the target's deployer mean different clusters"):
        carry_out(examine(asked, lambda _: None), lambda _: None)
    ray.answers["/api/serve/applications/"] = lambda _: (
        200,
        {"applications": {"a": {"args": {"digest": "sha256:77"}}}},
    )
    said: list[str] = []
    (served,) = carry_out(examine(asked, said.append), said.append)
    assert (served.version, served.entry.url, served.digest) == ("7", f"{ray.url}/iris", "sha256:77")
    assert "[iris] has not changed since version 7 was trained: it is not trained again" in said
    monkeypatch.setattr(course, "_PAUSE_S", 0)
    ray.answers["/iris"] = lambda _: (503, {})
    with pytest.raises(Stopped, match=r"does not answer with version 7 \(503 by version 7\)"):
        carry_out(examine(asked, said.append), said.append)
    deployed["serving"] = []
    with pytest.raises(Stopped, match="does not say where it serves it"):
        carry_out(examine(asked, said.append), said.append)


def test_a_project_gets_the_gateway_and_a_token_and_nothing_of_another_run(
    platform: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "another")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of somebody")
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "kubernetes")
    found = environment_for(platform.url)
    assert found["MLFLOW_TRACKING_URI"] == platform.url
    assert found["MLFLOW_TRACKING_TOKEN"] == platform.access
    assert not {"MLFLOW_RUN_ID", "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_PASSWORD"} & found.keys()
    assert not needs_renewing(platform.url, "conda"), "nobody here renews a token that was given"


@pytest.mark.parametrize("whence", ["login", "identity"])
def test_a_project_has_its_token_renewed_by_this_package_where_it_runs_with_it(
    signed_in: Callable[..., object],
    gateway: Standin,
    no_credentials: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whence: str,
) -> None:
    if whence == "login":
        signed_in()
    else:
        identity(tmp_path, monkeypatch)
    monkeypatch.setenv("COUNTERSIGN_URL", "https://another.example")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of another server")
    found = environment_for(gateway.url)
    assert found["MLFLOW_TRACKING_AUTH"] == "countersign"
    assert found["MLFLOW_TRACKING_URI"] == found["COUNTERSIGN_URL"] == gateway.url
    assert "MLFLOW_TRACKING_TOKEN" not in found
    assert not needs_renewing(gateway.url, "local")
    assert needs_renewing(gateway.url, "conda")


def test_who_has_an_identity_and_a_login_trains_as_who_registers(
    signed_in: Callable[..., object],
    gateway: Standin,
    no_credentials: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signed_in()
    identity(tmp_path, monkeypatch)
    assert needs_renewing(gateway.url, "local")


def identity(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "identity").write_text("ey.of.a-workload")
    monkeypatch.setenv("COUNTERSIGN_ID_TOKEN_FILE", str(folder / "identity"))


# The port that stands for the gateway.


def test_a_project_of_any_environment_reaches_the_gateway_with_a_token_that_is_good_then(
    signed_in: Callable[..., object], gateway: Standin, no_credentials: None
) -> None:
    signed_in()
    with renewing(gateway.url) as renewed:
        found = environment_for(gateway.url, renewed)
        assert found["MLFLOW_TRACKING_URI"] == renewed.url
        headers = {"Authorization": f"Bearer {found['MLFLOW_TRACKING_TOKEN']}", "X-Of-Its-Own": "1"}
        for token in ("cs_log_0", "cs_log_1"):
            answer = requests.get(f"{renewed.url}/api/runs?a=%2F", headers=headers, timeout=10)
            assert (answer.status_code, answer.json()["path"]) == (200, "/api/runs")
            seen = gateway.calls("/api/runs")[-1]
            assert (seen.headers["Authorization"], seen.query) == (f"Bearer {token}", {"a": "/"})
            assert seen.headers["X-Of-Its-Own"] == "1"
            signed_in(age_s=800)  # the token of the login is about to end: it is refreshed
        assert renewed.secret not in repr(renewed)
    with pytest.raises(requests.ConnectionError):
        requests.get(renewed.url, timeout=10)


@pytest.mark.parametrize("shown", [None, "Bearer wrong", "Bearer ", "Basic eDp5"])
def test_nobody_else_on_the_machine_goes_through_that_port(
    signed_in: Callable[..., object], gateway: Standin, no_credentials: None, shown: str | None
) -> None:
    signed_in()
    headers = {"Authorization": shown} if shown else {}
    with renewing(gateway.url) as renewed:
        assert renewed.url.startswith("http://127.0.0.1:")
        answer = requests.put(f"{renewed.url}/api/runs", data=b"x" * 100_000, headers=headers, timeout=10)
    assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")
    assert not gateway.calls("/api/runs")


async def test_bodies_of_every_kind_go_through_that_port_as_they_are(platform: Standin) -> None:
    seen: list[tuple[str, bytes]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers.get("Content-Encoding", ""), await request.read()))
        assert request.headers["Authorization"] == f"Bearer {platform.access}"
        assert request.raw_path == "/a%2Fb/?c=%20"
        if request.method == "DELETE":
            return web.Response(status=204)
        if request.method == "GET":
            streamed = web.StreamResponse()
            streamed.enable_chunked_encoding()
            await streamed.prepare(request)
            for _ in range(3):
                await streamed.write(b"piece")
            return streamed
        made = web.json_response({"x": "x" * 10_000})
        made.enable_compression(web.ContentCoding.gzip)
        return made

    application = web.Application(client_max_size=2**30)
    application.router.add_route("*", "/{path:.*}", answer)
    large, packed = os.urandom(2**20), gzip.compress(b"packed")

    def call(url: str, secret: str) -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {secret}"
            url = f"{url}/a%2Fb/?c=%20"
            assert session.get(url, timeout=10).content == b"piece" * 3
            assert session.head(url, timeout=10).content == b""
            assert session.delete(url, timeout=10).status_code == 204
            for body in (large, iter([large, b"", b"x"]), b""):
                assert session.put(url, data=body, timeout=10).json() == {"x": "x" * 10_000}
            session.post(url, data=packed, headers={"Content-Encoding": "gzip"}, timeout=10).json()

    async with serving(application) as url:
        with renewing(url) as renewed:
            await asyncio.to_thread(call, renewed.url, renewed.secret)
    bodies = [body for _, body in seen[3:]]
    assert bodies == [large, large + b"x", b"", b"packed"]
    assert seen[-1][0] == "gzip"


def test_a_gateway_that_is_away_or_knows_nobody_is_said_at_that_port_as_mlflow_does(
    signed_in: Callable[..., object], gateway: Standin, store: LoginStore, no_credentials: None
) -> None:
    with pytest.raises(NotSignedIn), renewing(gateway.url):
        pass
    signed_in()
    with renewing(gateway.url) as renewed:
        headers = {"Authorization": f"Bearer {renewed.secret}"}
        signed_in(age_s=1000)
        gateway.answers["/auth/token"] = lambda _: (503, {})
        answer = requests.get(f"{renewed.url}/api", headers=headers, timeout=10)
        assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        store.path.unlink()
        answer = requests.get(f"{renewed.url}/api", headers=headers, timeout=10)
        assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")


# What a run made.


@pytest.fixture
def registry(platform: Standin) -> Registry:
    platform.answers["/api/2.0/mlflow/experiments/get-by-name"] = lambda _: (
        200,
        {"experiment": {"experiment_id": "3"}},
    )
    return Registry(platform.url)


def test_a_run_is_found_by_its_name_and_what_it_registered_itself_is_taken(
    platform: Standin, registry: Registry
) -> None:
    platform.answers["/api/2.0/mlflow/runs/search"] = lambda _: (200, {"runs": [{"info": {"run_id": "run-1"}}]})
    versions = [{"name": name, "version": version} for name, version in (("iris", "9"), ("iris", "10"), ("wine", "11"))]
    platform.answers["/api/2.0/mlflow/model-versions/search"] = lambda _: (200, {"model_versions": versions})
    assert registry.run_named("iris", "bootstrap-iris-1") == Found("3", "run-1", is_finished=False)
    asked = json.loads(platform.calls("/api/2.0/mlflow/runs/search")[0].body)
    assert asked["filter"] == "attributes.run_name = 'bootstrap-iris-1'"
    assert registry.version_of("iris", "run-1") == "10"
    assert registry.version_of("other", "run-1") is None
    platform.answers["/api/2.0/mlflow/runs/search"] = lambda _: (200, {})
    assert registry.run_named("iris", "bootstrap-iris-1") is None


@pytest.mark.parametrize(
    ("logged", "found"),
    [
        ({"anything": "m-1"}, "m-1"),
        ({"iris": "m-1", "model": "m-2"}, "m-1"),
        ({"other": "m-1", "model": "m-2"}, "m-2"),
        ({"other": "m-1", "another": "m-2"}, "logged several models (another, other)"),
        ({}, "logged no model"),
    ],
)
def test_the_model_that_is_registered_is_the_only_one_or_the_one_of_the_name(
    platform: Standin, registry: Registry, logged: dict[str, str], found: str
) -> None:
    models = [{"info": {"name": name, "model_id": model_id}} for name, model_id in logged.items()]
    platform.answers["/api/2.0/mlflow/logged-models/search"] = lambda _: (200, {"models": models})
    if found.startswith("m-"):
        assert registry.logged_model("3", "run-1", "iris") == found
        return
    with pytest.raises(Stopped) as stopped:
        registry.logged_model("3", "run-1", "iris")
    assert found in str(stopped.value)
    assert stopped.value.exit_code == Exit.FAILED


def test_a_model_that_is_there_already_gets_another_version_and_a_refusal_is_mlflows(
    platform: Standin, registry: Registry
) -> None:
    exists = {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "It is there."}
    platform.answers["/api/2.0/mlflow/registered-models/create"] = lambda _: (400, exists)
    platform.answers["/api/2.0/mlflow/model-versions/create"] = lambda _: (200, {"model_version": {"version": 8}})
    assert registry.register("iris", "m-1", "run-1") == "8"
    denied = {"error_code": "PERMISSION_DENIED", "message": "You may not register iris."}
    platform.answers["/api/2.0/mlflow/registered-models/create"] = lambda _: (403, denied)
    with pytest.raises(Refused, match="You may not register iris"):
        registry.register("iris", "m-1", "run-1")
    gone = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No."}
    platform.answers["/api/2.0/mlflow/model-versions/get"] = lambda _: (404, gone)
    assert not registry.has("iris", "8", "run-1")
    platform.answers["/api/2.0/mlflow/model-versions/get"] = lambda _: (200, {"model_version": {"run_id": "run-1"}})
    assert registry.has("iris", "8", "run-1")
    assert not registry.has("iris", "8", "run-2")


# The ports.


@pytest.fixture
async def model() -> AsyncIterator[tuple[str, list[tuple[str, bytes]]]]:
    """What Ray Serve answers with for a model, and what it was asked."""
    seen: list[tuple[str, bytes]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append((request.method, await request.read()))
        assert "Authorization" not in request.headers
        headers = {"X-Model-Version": "7"}
        if request.method != "POST":
            return web.Response(text="ok", headers=headers)
        return web.json_response({"predictions": [1]}, headers=headers)

    async with serving(application_of(answer)) as url:
        yield f"{url}/iris", seen


def application_of(answer: Any) -> web.Application:
    application = web.Application(client_max_size=2**30)
    application.router.add_route("*", "/iris", answer)
    return application


@asynccontextmanager
async def serving(application: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@asynccontextmanager
async def answering(url: str) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """A model's own port, and who calls there."""
    async with (
        new_session() as upstream,
        serving(Forwarder(upstream, url).application()) as here,
        aiohttp.ClientSession() as client,
    ):
        yield here, client


async def test_a_models_port_answers_with_what_ray_serve_answers(model: tuple[str, list[tuple[str, bytes]]]) -> None:
    url, seen = model
    async with answering(url) as (here, client):
        for path in ("/", "/ping", "/health"):
            async with client.get(here + path) as answer:
                assert (answer.status, await answer.text()) == (200, "ok")
                assert answer.headers["X-Model-Version"] == "7"
        for path in ("/", "/invocations"):
            headers = {"Authorization": "Bearer of somebody"}
            async with client.post(here + path, json={"inputs": [[1]]}, headers=headers) as answer:
                assert (answer.status, await answer.json()) == (200, {"predictions": [1]})
        assert seen[-1] == ("POST", b'{"inputs": [[1]]}')
        async with client.get(f"{here}/other") as answer:
            assert answer.status == 404
        async with client.put(f"{here}/") as answer:
            assert answer.status == 405


async def test_what_ray_serve_compresses_is_said_to_be_and_only_for_who_reads_it() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        made = web.json_response({"predictions": [1] * 50})
        made.enable_compression()
        return made

    async with serving(application_of(answer)) as url, answering(f"{url}/iris") as (here, client):
        for headers in ({"Accept-Encoding": "gzip"}, {"Accept-Encoding": "identity"}):
            async with client.post(here, json={"inputs": [[1]]}, headers=headers) as got:
                assert await got.json() == {"predictions": [1] * 50}
                assert ("Content-Encoding" in got.headers) == (headers["Accept-Encoding"] == "gzip")
        plain = aiohttp.ClientSession(skip_auto_headers=["Accept-Encoding"], auto_decompress=False)
        async with plain, plain.post(here, json={"inputs": [[1]]}) as got:
            assert json.loads(await got.read()) == {"predictions": [1] * 50}


async def test_a_models_port_takes_no_more_than_it_should(
    model: tuple[str, list[tuple[str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "LARGEST_BODY", 1000)
    url, _ = model

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 400

    async with answering(url) as (here, client):
        for body in (b"x" * 1001, pieces()):
            async with client.post(f"{here}/", data=body) as answer:
                assert (answer.status, (await answer.json())["error_code"]) == (413, "BAD_REQUEST")
        monkeypatch.setattr(forwarding, "AT_A_TIME", 0)
        async with client.get(f"{here}/") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


async def test_a_models_port_says_when_ray_serve_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    async with answering(f"http://127.0.0.1:{port}/iris") as (here, client), client.get(f"{here}/") as answer:
        assert answer.status == 503
        assert "Ray Serve does not answer now" in (await answer.json())["message"]


async def test_a_port_that_somebody_took_meanwhile_ends_it_with_a_reason() -> None:
    listener = take_port("iris", "127.0.0.1", 0)
    assert isinstance(listener, Listener)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", listener.port))
        other.listen(1)
        async with asyncio.timeout(30):
            with pytest.raises(Stopped, match=f"Port {listener.port} .of iris. was taken by another process"):
                await forward([(listener, "http://127.0.0.1:1/iris")], lambda _: None)
    close([listener])


def test_every_end_is_an_error_of_this_package() -> None:
    assert issubclass(NotReady, ClientError)
    assert issubclass(Stopped, ClientError)
