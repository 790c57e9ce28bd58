"""The deployer as a process against a real Ray head: no request is lost, nothing is forgotten.

One model goes through its versions over the module; each test brings it to where it needs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

import httpx
import pytest
from countersign_ray_serve.serving.artifacts import tree_digest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

Json = dict[str, Any]
Saved = Any
PATIENCE_S = 240  # a bound for a busy machine; nothing is measured against it


DIFFICULT = "prix d'été 2+2?"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(wanted: Callable[[], object], what: str) -> None:
    """Wait for a condition; a connection that is refused means not yet."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if wanted():
                return
        time.sleep(0.1)
    pytest.fail(f"waited in vain for {what}")


def version_of(app: Json) -> str | None:
    """The model version of an application; Serve forgets it while it deletes one."""
    version: str | None = ((app["deployed_app_config"] or {}).get("args") or {}).get("version")
    return version


class Process:
    """A process in its own group, ended by its id together with all its descendants."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self._arguments, self._environment, self._log = arguments, environment, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # Where there is util-linux, the kernel ends the process if the test run itself is killed.
        tied = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*tied, *self._arguments], env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def until(self, wanted: Callable[[], object], what: str) -> None:
        """Wait for a condition; when the process ends before, or it never comes, its log tells why."""
        assert self._process is not None
        process = self._process
        try:
            until(lambda: process.poll() is not None or wanted(), what)
            assert process.poll() is None, f"it ended with {process.poll()}"
        except (pytest.fail.Exception, AssertionError) as error:
            pytest.fail(f"{error}\n{self._log.read_text()[-4000:]}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        import psutil

        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            descendants = psutil.Process(self._process.pid).children(recursive=True)
            self._process.send_signal(how)
            psutil.wait_procs(descendants, timeout=10)
            for survivor in descendants:
                with contextlib.suppress(psutil.NoSuchProcess):
                    survivor.kill()
        self._process.wait(30)
        self._process = None


@dataclass
class RayHead:
    """A Ray head with token authentication, on ports of its own."""

    process: Process
    dashboard_url: str
    token: str
    metrics_url: str
    serve_port: int = field(default_factory=free_port)

    def applications(self) -> Json:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx.get(f"{self.dashboard_url}/api/serve/applications/", headers=headers, timeout=30)
        applications: Json = answer.raise_for_status().json()["applications"]
        return applications

    def answers(self, **labels: str) -> float:
        """How many answers with these labels Ray tells Prometheus of."""
        families = text_string_to_metric_families(httpx.get(self.metrics_url, timeout=30).text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "ray_countersign_answers_total" and labels.items() <= sample.labels.items()
        )

    def start(self) -> None:
        self.process.start()
        self.process.until(lambda: self.applications() is not None, "Ray's dashboard")

    def versions(self) -> set[str]:
        """The versions that are not on their way out."""
        found = {version_of(app) for app in self.applications().values() if app["status"] != "DELETING"}
        return {version for version in found if version is not None}

    def replicas_of(self, version: str) -> set[str]:
        return {
            replica["replica_id"]
            for app in self.applications().values()
            if version_of(app) == version
            for deployment in app["deployments"].values()
            for replica in deployment["replicas"]
        }


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # short: Ray puts sockets below it
    dashboard_port, token = free_port(), secrets.token_hex(16)
    names = ("port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port")
    ports = {name: free_port() for name in names}
    arguments = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--include-dashboard=true",
        f"--temp-dir={folder}",
        f"--dashboard-port={dashboard_port}",
        "--num-cpus=8",
        *(f"--{name}={port}" for name, port in ports.items()),
    ]
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_metrics_report_interval_ms": "500",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1",  # a version that cannot load need not fail three times here
    }
    head = RayHead(
        Process(arguments, environment, folder / "log"),
        f"http://127.0.0.1:{dashboard_port}",
        token,
        metrics_url=f"http://127.0.0.1:{ports['metrics-export-port']}/metrics",
    )
    try:
        head.start()
        yield head
    finally:
        head.process.end()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Deployer:
    """The deployer's process, called as the gateway calls it."""

    process: Process
    url: str
    serve_url: str
    state_dir: Path
    gateway: Any
    make_call: Callable[..., Json]
    sign_call: Callable[..., tuple[bytes, dict[str, str]]]
    generations: Iterator[int] = field(default_factory=lambda: count(1))

    def start(self) -> None:
        self.process.start()
        self.process.until(lambda: httpx.get(f"{self.url}/livez").is_success, "the deployer")

    def call(
        self, version: str, model: Saved, *, name: str = "iris", generation: int | None = None, **data: object
    ) -> httpx.Response:
        event = self.make_call(
            generation=generation or next(self.generations),
            name=name,
            version=version,
            uri=model.uri,
            digest=model.digest,
            gateway=self.gateway.url,
            **data,
        )
        body, headers = self.sign_call(event)
        return httpx.post(f"{self.url}/v1/deployments", content=body, headers=headers)

    def roll_out(self, version: str, model: Saved, *, name: str = "iris", **data: object) -> Json:
        """Call, and wait for the outcome as the gateway learns it."""
        answer = self.call(version, model, name=name, **data)
        assert answer.status_code == 202, answer.text
        return self.outcome(name, answer.json()["observed_generation"])

    def outcome(self, name: str, generation: int) -> Json:
        def is_outcome(report: Json) -> bool:
            return (report["resource"], report["generation"]) == (name, generation) and report["phase"] in {
                "Ready",
                "Failed",
                "Errored",
            }

        report: Json = self.gateway.wait_for(is_outcome, PATIENCE_S)
        return report

    def predict(self, body: object, name: str = "iris") -> httpx.Response:
        return httpx.post(f"{self.serve_url}/{quote(name, safe='')}", content=json.dumps(body), timeout=30)

    def served(self, name: str = "iris") -> str | None:
        return httpx.get(f"{self.serve_url}/{quote(name, safe='')}", timeout=30).headers.get("X-Model-Version")


@pytest.fixture(scope="module")
def deployer(
    head: RayHead,
    gateway: Any,
    models: dict[str, Saved],
    make_settings: Callable[..., Any],
    make_call: Callable[..., Json],
    sign_call: Callable[..., tuple[bytes, dict[str, str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployer]:
    folder = tmp_path_factory.mktemp("deployer")
    known, port = make_settings(), free_port()
    serve_url = f"http://127.0.0.1:{head.serve_port}"
    values = {
        "PORT": port,
        "GATEWAY_URL": gateway.url,
        "WEBHOOK_SECRET": known.webhook_secret.get_secret_value(),
        "CALLBACK_SECRET": known.callback_secret.get_secret_value(),
        "ALLOWED_URI_PREFIXES": tmp_path_factory.getbasetemp().as_uri(),
        "STATE_DIR": folder / "state",
        "DASHBOARD_URL": head.dashboard_url,
        "DASHBOARD_TOKEN": head.token,
        "SERVE_PORT": head.serve_port,
        "SERVE_URL": serve_url,
        "PROXY_LOCATION": "HeadOnly",
        "BACKEND_NUM_CPUS": 0.25,
        "ROUTER_REPLICAS": 2,
        "ALLOW_VERSION_HEADER": "true",
        "SHIP": "upload",
        "RECONCILE_INTERVAL_S": 2,
        "ROLLBACK_WINDOW_S": 30,
        "DRAIN_S": 5,
        "CALLBACK_RETRY_MAX_S": 2,
    }
    environment = {**os.environ, **{f"COUNTERSIGN_RAY_{name}": str(value) for name, value in values.items()}}
    process = Process([sys.executable, "-m", "countersign_ray_serve.cli"], environment, folder / "log")
    deployer = Deployer(process, f"http://127.0.0.1:{port}", serve_url, folder / "state", gateway, make_call, sign_call)
    try:
        deployer.start()
        yield deployer
    finally:
        process.end()
        print((folder / "log").read_text())


@pytest.fixture(scope="module")
def models(save_model: Callable[..., Saved]) -> dict[str, Saved]:
    """Versions 6 and 7 work, 8 cannot be loaded."""
    models = {"6": save_model(2.0), "7": save_model(3.0), "8": save_model(4.0)}
    folder = Path(unquote(urlsplit(models["8"].uri).path))
    for file in folder.glob("model.*"):
        file.write_bytes(b"not a model")
    models["8"] = type(models["8"])(models["8"].uri, tree_digest(folder))
    return models


class Load:
    """Clients that ask all the time and keep every answer."""

    def __init__(self, url: str, clients: int = 2) -> None:
        self.answers: list[list[tuple[int, str | None, object]]] = [[] for _ in range(clients)]
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(answers,)) for answers in self.answers]

    def _ask(self, answers: list[tuple[int, str | None, object]]) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(self._url, json={"inputs": [[1, 2]]})
                    answers.append((answer.status_code, answer.headers.get("X-Model-Version"), answer.json()))
                except (httpx.HTTPError, ValueError) as error:
                    answers.append((0, None, repr(error)))
                time.sleep(0.01)  # leave the machine some time to start the next version

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        until(lambda: all(self.answers), "the first answers")
        return self

    def __exit__(self, *_: object) -> None:
        seen = [len(answers) for answers in self.answers]
        until(lambda: all(len(a) > n + 5 for a, n in zip(self.answers, seen, strict=True)), "some answers after")
        self._stop.set()
        for thread in self._threads:
            thread.join()


def expected(version: str) -> Json:
    return {"predictions": [pytest.approx({"6": 4.0, "7": 5.0}[version])]}


def test_the_first_version_is_deployed_and_reported_ready(
    deployer: Deployer, head: RayHead, models: dict[str, Saved]
) -> None:
    other = deployer.call("7", models["7"], name=DIFFICULT).json()["observed_generation"]
    outcome = deployer.roll_out("6", models["6"])
    assert (outcome["phase"], outcome["reason"]) == ("Ready", "")
    assert deployer.outcome(DIFFICULT, other)["phase"] == "Ready"
    (serving,) = outcome["serving"]
    assert serving.pop("name") in head.applications()
    url = f"{deployer.serve_url}/iris"
    assert serving == {"version": "6", "weight": 100, "ready": True, "url": url, "digest": models["6"].digest}
    answer = httpx.get(outcome["serving"][0]["url"])
    assert (answer.status_code, answer.text, answer.headers["X-Model-Version"]) == (200, "ok", "6")
    assert httpx.get(f"{deployer.url}/readyz").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [[1, 2]]},
        {"instances": [[1, 2]]},
        {"dataframe_split": {"columns": ["b", "a"], "data": [[2, 1]]}},
        {"dataframe_records": [{"a": 1, "b": 2}]},
        [[1, 2]],
        {"a": 1, "b": 2},
    ],
    ids=json.dumps,
)
def test_predictions_are_served_in_every_shape(deployer: Deployer, models: dict[str, Saved], body: object) -> None:
    answer = deployer.predict(body)
    assert (answer.status_code, answer.json()) == (200, expected("6"))
    assert answer.headers["X-Model-Version"] == "6"


def test_what_the_client_sends_wrongly_is_the_clients_error(deployer: Deployer) -> None:
    assert deployer.predict({"inputs": [["x", "y"]]}).status_code == 400
    assert httpx.post(f"{deployer.serve_url}/iris", content=b"{").json()["message"].startswith("The body is not valid")
    unknown = deployer.predict([[1, 2]], name="unknown")
    assert (unknown.status_code, unknown.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert httpx.put(f"{deployer.serve_url}/iris").status_code == 405


def test_what_prometheus_scrapes_tells_the_answers_of_a_version_apart(
    deployer: Deployer, head: RayHead, models: dict[str, Saved]
) -> None:
    name = deployer.roll_out("6", models["6"])["serving"][0]["name"]
    for body, status in (([[1, 2]], 200), ({"inputs": [["x", "y"]]}, 400)):
        assert deployer.predict(body).status_code == status
        until(lambda: head.answers(application=name, status=str(status)) > 0, f"the {status} in the metrics")  # noqa: B023
    assert head.answers(application=name, status="500") == 0


@pytest.fixture
def moody(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A model whose replica dies when it is told to, and that else takes longer than a client waits."""
    folder = tmp_path_factory.mktemp("moody")
    code, model = folder / "moody.py", folder / "artifacts"
    code.write_text(MOODY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about itself
        import mlflow.pyfunc

        mlflow.pyfunc.save_model(str(model), python_model=str(code), pip_requirements=["mlflow"])
    return SimpleNamespace(uri=f"{model.as_uri()}/", digest=tree_digest(model))


MOODY = """
import os, time
import mlflow
from mlflow.pyfunc import PythonModel

class Moody(PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        if model_input == ["die"]:
            os._exit(1)
        time.sleep(5)
        return model_input

mlflow.models.set_model(Moody())
"""


def test_what_prometheus_scrapes_tells_of_requests_that_got_no_answer(
    deployer: Deployer, head: RayHead, moody: Saved
) -> None:
    name = deployer.roll_out("11", moody, name="moody")["serving"][0]["name"]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{deployer.serve_url}/moody", json=["wait"], timeout=1)
    until(lambda: head.answers(application=name, status="499") == 1, "the client that left in the metrics")
    assert deployer.predict(["die"], name="moody").status_code == 503
    until(lambda: head.answers(application=name, status="503") == 1, "the replica that died in the metrics")
    removal = deployer.call("11", moody, name="moody", action="remove").json()["observed_generation"]
    assert deployer.outcome("moody", removal)["phase"] == "Ready"


def traffic(weight: int, stable: str, model: Saved) -> Json:
    return {"weight": weight, "stable": {"version": stable, "uri": model.uri, "digest": model.digest}}


def test_a_version_goes_through_dark_and_canary_to_everything_and_back_without_a_lost_request_or_a_restart(
    deployer: Deployer, head: RayHead, models: dict[str, Saved]
) -> None:
    deployer.roll_out("6", models["6"])
    url = f"{deployer.serve_url}/iris"
    with Load(url) as load:
        dark = deployer.roll_out("7", models["7"], traffic=traffic(0, "6", models["6"]))
        assert [(s["version"], s["weight"], s["ready"]) for s in dark["serving"]] == [("7", 0, True), ("6", 100, True)]
        # A smoke test reaches what nobody else does.
        pinned = httpx.post(url, json={"inputs": [[1, 2]]}, headers={"X-Model-Version": "7"})
        assert (pinned.json(), pinned.headers["X-Model-Version"]) == (expected("7"), "7")
        assert httpx.get(url, headers={"X-Model-Version": "5"}).status_code == 404
        before = head.replicas_of("6") | head.replicas_of("7")
        in_the_dark = [len(answers) for answers in load.answers]

        deployer.roll_out("7", models["7"], traffic=traffic(30, "6", models["6"]))
        began = [len(answers) for answers in load.answers]
        until(lambda: all(len(a) >= n + 60 for a, n in zip(load.answers, began, strict=True)), "a canary's share")
        ended = [len(answers) for answers in load.answers]
        assert deployer.roll_out("7", models["7"])["phase"] == "Ready"
        assert deployer.served() == "7"
        assert deployer.roll_out("6", models["6"])["phase"] == "Ready"
    for answers, dark_until, since, to in zip(load.answers, in_the_dark, began, ended, strict=True):
        assert {status for status, _, _ in answers} == {200}, [a for a in answers if a[0] != 200]
        assert all(body == expected(str(version)) for _, version, body in answers)
        versions = [version for _, version, _ in answers]
        assert set(versions[:dark_until]) == {"6"}
        # 30 % of 60 and more: 2 or fewer, or more than two thirds, happen once in a million times.
        assert 0.04 < versions[since:to].count("7") / (to - since) < 0.67
        switched = [v for i, v in enumerate(versions[to:]) if i == 0 or versions[to:][i - 1] != v]
        assert switched[-2:] == ["7", "6"]
    assert before <= head.replicas_of("6") | head.replicas_of("7")


def test_versions_that_cannot_load_or_were_changed_leave_the_old_one_serving(
    deployer: Deployer, head: RayHead, models: dict[str, Saved]
) -> None:
    deployer.roll_out("6", models["6"])
    before = head.replicas_of("6")
    changed = type(models["7"])(models["7"].uri, models["6"].digest)
    with Load(f"{deployer.serve_url}/iris", clients=1) as load:
        twin = deployer.call("9", changed, name="twin").json()["observed_generation"]
        outcome = deployer.roll_out("8", models["8"])
        refused = deployer.outcome("twin", twin)
    assert (outcome["phase"], outcome["reason"]) == ("Failed", "ModelLoadFailed")
    assert "File is not a zip file" in outcome["message"]
    assert outcome["serving"][0]["version"] == "6"
    assert (refused["phase"], refused["reason"], refused["serving"]) == ("Failed", "DigestMismatch", [])
    assert deployer.predict([[1, 2]], name="twin").status_code == 404
    assert {(status, version) for status, version, _ in load.answers[0]} == {(200, "6")}
    assert all(body == expected("6") for _, _, body in load.answers[0])
    assert head.replicas_of("6") == before
    until(lambda: "8" not in head.versions(), "the end of the failed version")


def test_a_lower_generation_is_refused(deployer: Deployer, models: dict[str, Saved]) -> None:
    deployer.roll_out("6", models["6"])
    answer = deployer.call("7", models["7"], generation=1)
    assert (answer.status_code, answer.json()["result"]) == (200, "superseded")
    assert deployer.served() == "6"


def test_another_model_with_a_difficult_name_goes_without_disturbing_the_first(
    deployer: Deployer, head: RayHead, models: dict[str, Saved]
) -> None:
    deployer.roll_out("6", models["6"])
    before = head.replicas_of("6")
    assert deployer.predict([[1, 2]], name=DIFFICULT).json() == expected("7")
    removal = deployer.call("7", models["7"], name=DIFFICULT, action="remove").json()["observed_generation"]
    assert deployer.outcome(DIFFICULT, removal)["serving"] == []
    assert deployer.predict([[1, 2]], name=DIFFICULT).status_code == 404
    assert deployer.served() == "6"
    assert head.replicas_of("6") == before


def test_a_deployer_that_is_killed_in_a_rollout_goes_on_after_its_restart(
    deployer: Deployer, models: dict[str, Saved]
) -> None:
    deployer.roll_out("6", models["6"])
    generation = deployer.call("17", models["7"]).json()["observed_generation"]
    deployer.gateway.wait_for(lambda r: (r["generation"], r["phase"]) == (generation, "Progressing"), PATIENCE_S)
    deployer.process.end(signal.SIGKILL)
    assert deployer.served() == "6"
    deployer.start()
    assert deployer.outcome("iris", generation)["phase"] == "Ready"
    assert deployer.served() == "17"
    events = dict(zip(deployer.gateway.ids, deployer.gateway.reports, strict=True))  # one may have been sent twice
    sequences = [report["sequence"] for report in events.values() if report["generation"] == generation]
    assert sequences == sorted(set(sequences))


def test_a_deployer_that_lost_its_state_takes_over_what_ray_serves(
    deployer: Deployer, head: RayHead, models: dict[str, Saved]
) -> None:
    generation = deployer.roll_out("6", models["6"])["generation"]
    before = head.replicas_of("6")
    deployer.process.end()
    shutil.rmtree(deployer.state_dir)
    with Load(f"{deployer.serve_url}/iris", clients=1) as load:
        deployer.start()
        until(lambda: httpx.get(f"{deployer.url}/readyz").is_success, "a look at Ray")
    assert {(status, version) for status, version, _ in load.answers[0]} == {(200, "6")}
    assert head.replicas_of("6") == before
    answer = deployer.call("7", models["7"], generation=generation - 1)
    assert answer.json() == {"result": "superseded", "current_generation": generation}


def test_a_ray_head_that_lost_everything_gets_it_all_again(
    deployer: Deployer, head: RayHead, models: dict[str, Saved]
) -> None:
    generation = deployer.roll_out("6", models["6"])["generation"]
    head.process.end()
    assert httpx.get(f"{deployer.url}/readyz").status_code == 503
    head.start()
    until(lambda: deployer.served() == "6", "the version that served before")
    assert deployer.predict([[1, 2]]).json() == expected("6")

    def told(report: Json) -> bool:
        return (report["generation"], report["phase"]) == (generation, "Ready")

    ill = deployer.gateway.wait_for(lambda report: told(report) and report["reason"], PATIENCE_S)
    assert not ill["serving"][0]["ready"]
    healed = deployer.gateway.wait_for(
        lambda report: told(report) and not report["reason"] and report["sequence"] > ill["sequence"], PATIENCE_S
    )
    assert healed["serving"][0]["ready"]


def test_applications_that_others_declared_are_not_deleted(deployer: Deployer, head: RayHead) -> None:
    theirs = {"applications": [{"name": "theirs", "route_prefix": "/theirs", "import_path": "their_package:app"}]}
    headers = {"Authorization": f"Bearer {head.token}"}
    httpx.put(f"{head.dashboard_url}/api/serve/applications/", json=theirs, headers=headers).raise_for_status()
    until(lambda: "theirs" in httpx.get(f"{deployer.url}/readyz").text, "the deployer's complaint")
    assert httpx.get(f"{deployer.url}/readyz").status_code == 503
    assert "theirs" in head.applications()
