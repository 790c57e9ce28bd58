"""One physical address, with an ETag, a wait, and an answer even while MLflow is away."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from tests.platform import Countersign, MlflowServer
from tests.toll import TollGate


@pytest.fixture
def model(mlflow_server: MlflowServer, model_name: str) -> str:
    mlflow_server.register(model_name, versions=2)
    return model_name


def promote(service: Countersign, model: str, version: str) -> str:
    promotion = service.ask(model, version)["id"]
    service.approve(promotion)
    service.follow(promotion, "applied")
    return str(promotion)


def resolve(service: Countersign, uri: str, *, who: str = "serving", **options: object) -> httpx.Response:
    params = {"uri": uri} | dict(options.pop("params", {}))  # type: ignore[call-overload]
    return service.call(who, "GET", "/resolve", params=params, **options)


def test_an_alias_resolves_to_the_folder_that_was_approved(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    promotion = promote(service, model, "2")
    found = resolve(service, f"models:/{model}@production").json()
    assert (found["version"], found["promotion_id"]) == ("2", promotion)
    assert (found["flavors"], found["signature"], found["file_count"]) == ([], None, 2)
    assert found["uri"].endswith("/")
    folder = Path(unquote(urlsplit(found["uri"]).path))
    assert folder == mlflow_server.folder_of(model, "2")
    lines = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}\n"
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    )
    assert found["digest"] == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def test_versions_and_unprotected_aliases_resolve_too(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    mlflow_server.call("POST", "registered-models/alias", {"name": model, "alias": "staging", "version": "1"})
    by_version = resolve(service, f"models:/{model}/1").json()
    by_alias = resolve(service, f"models:/{model}@staging").json()
    assert by_version["uri"] == by_alias["uri"]
    assert by_version["promotion_id"] is None
    assert by_version["digest"] is None
    promotion = promote(service, model, "1")
    assert resolve(service, f"models:/{model}/1").json()["promotion_id"] == promotion


def test_what_resolves_is_what_was_approved_though_mlflow_says_otherwise(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    promote(service, model, "1")
    mlflow_server.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "2"})
    assert resolve(service, f"models:/{model}@production").json()["version"] == "1"


@pytest.mark.parametrize(
    ("uri", "status"),
    [
        ("models:/{model}@nothing", 404),
        ("models:/{model}/99", 404),
        ("models:/no such model@production", 404),
        ("models:/{model}@latest", 422),
        ("models:/{model}/latest", 422),
        ("models:/{model}/Production", 422),
        ("models:/m-0123456789abcdef", 404),
        ("models:/m-..", 400),
        ("models:/{model}", 400),
        ("models:/{model}@production?x=1", 400),
        ("models:/..%2f{model}/1", 400),
        ("runs:/abc/model", 400),
    ],
)
def test_what_has_no_address_is_refused(service: Countersign, model: str, uri: str, status: int) -> None:
    answer = resolve(service, uri.format(model=model))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_logged_model_resolves_by_its_id(service: Countersign, mlflow_server: MlflowServer, model: str) -> None:
    created = mlflow_server.call("POST", "logged-models", {"experiment_id": "0", "name": model})["model"]["info"]
    found = resolve(service, f"models:/{created['model_id']}").json()
    assert (found["model_id"], found["model"], found["alias"]) == (created["model_id"], "", None)
    assert found["uri"] == f"{(mlflow_server.artifacts / '0/models' / created['model_id'] / 'artifacts').as_uri()}/"


def test_a_stranger_resolves_nothing(service: Countersign, model: str) -> None:
    assert resolve(service, f"models:/{model}/1", who="stranger").status_code == 403


def test_an_unchanged_answer_is_304(service: Countersign, model: str) -> None:
    promote(service, model, "1")
    first = resolve(service, f"models:/{model}@production")
    same = resolve(service, f"models:/{model}@production", headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
    promote(service, model, "2")
    other = resolve(service, f"models:/{model}@production", headers={"If-None-Match": first.headers["etag"]})
    assert (other.status_code, other.json()["version"]) == (200, "2")


def test_a_waiting_server_is_told_of_the_next_version(service: Countersign, model: str) -> None:
    promote(service, model, "1")
    seen = resolve(service, f"models:/{model}@production").headers["etag"]
    answers: list[httpx.Response] = []

    def wait() -> None:
        headers = {"If-None-Match": seen}
        answers.append(resolve(service, f"models:/{model}@production", params={"wait": 50}, headers=headers))

    waiting = threading.Thread(target=wait)
    waiting.start()
    promote(service, model, "2")
    waiting.join(40)
    assert answers
    assert answers[0].json()["version"] == "2"


def test_a_governed_alias_resolves_while_mlflow_is_away(
    countersign: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    with TollGate(mlflow_server.url) as gate:
        countersign.start("gateway", COUNTERSIGN_UPSTREAM_URLS=gate.url)
        countersign.start("worker", COUNTERSIGN_UPSTREAM_URLS=gate.url)
        promote(countersign, model, "1")
        gate.shut()
        assert resolve(countersign, f"models:/{model}@production").json()["version"] == "1"
        assert resolve(countersign, f"models:/{model}@staging").status_code == 503
