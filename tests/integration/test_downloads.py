"""The bytes of a version through the API: for whom, of which places, and what is written down of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import uvicorn
from countersign_client.digests import digest_of
from countersign_client.errors import Changed
from countersign_client.pulling import Pulled, pull

from app.domain.digests import StoredFile
from app.domain.errors import Unavailable
from app.domain.names import parse_models_uri
from app.domain.resolutions import Resolution
from app.main import describe
from app.routers import downloads as routes
from app.services import downloads as downloads_module
from tests.conftest import database_of
from tests.governing import ROLES, Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer, free_port
from tests.s3 import S3Server, running_s3

RESOLVES = "countersign:resolve"
EXAMPLE = Path(__file__).parents[2] / "examples" / "predictor" / "predictor.py"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        for bucket in ("models", "private"):
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="iris/MLmodel", Body=b"flavors: {}\n")
            client.put_object(Bucket=bucket, Key="iris/weights/model.bin", Body=b"w" * 3_000_000)
        client.close()
        yield server


@dataclass
class Gateway:
    """The API of a court over HTTP, and who calls it."""

    court: Court
    url: str
    issuer: Issuer

    def token(self, who: str = "pod", *, groups: str = "services", scope: str | None = RESOLVES) -> str:
        return self.issuer.token(who, groups=[groups], scope=scope)

    async def call(self, method: str, path: str, *, token: str | None = None, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token or self.token()}", **options.pop("headers", {})}
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            return await client.request(method, f"{self.url}/control/v1/resolve/{path}", headers=headers, **options)

    async def files(self, uri: str, **params: str) -> httpx.Response:
        return await self.call("GET", "files", params={"uri": uri, **params})

    async def content(self, uri: str, path: str, **headers: str) -> httpx.Response:
        return await self.call("GET", "content", params={"uri": uri, "path": path}, headers=headers)

    async def handed_out(self, uri: str) -> list[Mapping[str, Any]]:
        """What the audit log says of a physical URI."""
        async with self.court.database.unit_of_work() as work:
            found = await work.audit.page(object_id=uri, limit=200)
        assert all(entry.document["action"] == "bytes.handed_out" for entry in found)
        return [entry.document["details"] for entry in found]  # type: ignore[misc]  # a document's


@pytest.fixture(scope="module")
async def gateway(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer, s3: S3Server
) -> AsyncIterator[Gateway]:
    roles = json.dumps({**ROLES, "serving": ["services"]})
    with database_of(postgres, template_database) as url:
        async with open_court(
            url, mlflow_server, issuer, COUNTERSIGN_ARTIFACT_ROOTS="s3://models", COUNTERSIGN_ROLES=roles
        ) as court:
            app = describe()
            app.state.services = court.gateway.services
            server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error"))
            server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]  # they are pytest's
            serving = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110  # it has no event to wait for
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield Gateway(court, f"http://127.0.0.1:{port}", issuer)
            server.should_exit = True
            court.gateway.changes.end_waits()
            court.gateway.services.following.end()
            await serving


def register(court: Court, name: str, source: str) -> str:
    """A version whose bytes lie where it says."""
    court.mlflow.call("POST", "registered-models/create", {"name": name})
    court.mlflow.call("POST", "model-versions/create", {"name": name, "source": source})
    return name


@pytest.fixture(scope="module")
async def on_disk(gateway: Gateway) -> str:
    """A version that was promoted to production, and another one."""
    model = gateway.court.model(versions=2)
    await gateway.court.policy(models=model)
    await gateway.court.promoted(model)
    return model


@pytest.fixture(scope="module")
async def in_s3(gateway: Gateway) -> str:
    model = register(gateway.court, f"in-s3-{id(gateway):x}", "s3://models/iris")
    await gateway.court.policy(models=model)
    await gateway.court.promoted(model)
    return model


def folder_of(gateway: Gateway, model: str, version: str = "1") -> Path:
    return gateway.court.mlflow.folder_of(model, version)


async def test_the_files_are_those_that_were_approved(gateway: Gateway, on_disk: str) -> None:
    answer = (await gateway.files(f"models:/{on_disk}@production")).json()
    folder = folder_of(gateway, on_disk)
    assert [(file["path"], file["size"], file["sha256"]) for file in answer["files"]] == [
        (path, (folder / path).stat().st_size, hashlib.sha256((folder / path).read_bytes()).hexdigest())
        for path in ("MLmodel", "weights/model.bin")
    ]
    assert (answer["version"], answer["has_urls"]) == ("1", False)
    assert answer["digest"].startswith("sha256:")


async def test_the_files_of_what_nobody_promoted_are_those_that_lie_there(gateway: Gateway, on_disk: str) -> None:
    answer = (await gateway.files(f"models:/{on_disk}/2")).json()
    assert [(file["path"], file["sha256"]) for file in answer["files"]] == [
        ("MLmodel", None),
        ("weights/model.bin", None),
    ]
    assert answer["digest"] is None


@pytest.mark.parametrize("scope", [None, "countersign:registry countersign:track", "countersign:promote"])
async def test_a_token_that_does_not_name_the_scope_is_given_nothing(
    gateway: Gateway, on_disk: str, scope: str | None
) -> None:
    token, uri = gateway.token(scope=scope), f"models:/{on_disk}@production"
    for method, path, options in (
        ("GET", "files", {"params": {"uri": uri}}),
        ("GET", "content", {"params": {"uri": uri, "path": "MLmodel"}}),
        ("POST", "urls", {"json": {"uri": uri}}),
        ("POST", "credentials", {"json": {"uri": uri}}),
    ):
        answer = await gateway.call(method, path, token=token, **options)
        assert answer.status_code == 403, path
        assert answer.json()["type"] == "urn:countersign:problem:insufficient-scope"
        assert "resolve" in answer.headers["www-authenticate"]


async def test_who_may_not_resolve_is_given_nothing(gateway: Gateway, on_disk: str) -> None:
    token = gateway.token("stranger", groups="nobody")
    assert (await gateway.call("GET", "files", token=token, params={"uri": f"models:/{on_disk}/1"})).status_code == 403
    assert (await gateway.files("models:/no-such-model@production")).status_code == 404


async def test_an_alias_that_means_another_version_by_now_is_not_taken_for_it(gateway: Gateway, on_disk: str) -> None:
    answer = await gateway.files(f"models:/{on_disk}@production", version="2")
    assert (answer.status_code, answer.json()["version"]) == (412, "1")


async def test_a_file_is_read_whole_and_in_parts(gateway: Gateway, on_disk: str, in_s3: str) -> None:
    for model, content in (
        (on_disk, (folder_of(gateway, on_disk) / "weights/model.bin").read_bytes()),
        (in_s3, b"w" * 3_000_000),
    ):
        uri, etag = f"models:/{model}@production", f'"{hashlib.sha256(content).hexdigest()}"'
        whole = await gateway.content(uri, "weights/model.bin")
        assert (whole.status_code, whole.content, whole.headers["etag"]) == (200, content, etag)
        assert whole.headers["content-length"] == str(len(content))
        assert (whole.headers["accept-ranges"], whole.headers["content-disposition"]) == ("bytes", "attachment")
        part = await gateway.content(uri, "weights/model.bin", Range="bytes=10-19")
        assert (part.status_code, part.content) == (206, content[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"
        same = await gateway.content(uri, "weights/model.bin", Range="bytes=10-", **{"If-Range": etag})
        assert (same.status_code, same.content) == (206, content[10:])
        other = await gateway.content(uri, "weights/model.bin", Range="bytes=10-", **{"If-Range": '"x"'})
        assert (other.status_code, other.content) == (200, content)
        behind = await gateway.content(uri, "weights/model.bin", Range=f"bytes={len(content)}-")
        assert behind.status_code == 416


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("nothing", 404),
        ("../MLmodel", 422),
        ("weights/../MLmodel", 422),
        ("/etc/passwd", 422),
        ("", 422),
        ("weights", 404),
    ],
)
async def test_no_path_leads_out_of_a_version(gateway: Gateway, on_disk: str, path: str, status: int) -> None:
    assert (await gateway.content(f"models:/{on_disk}@production", path)).status_code == status
    assert (await gateway.content(f"models:/{on_disk}/2", path)).status_code == 422  # nobody listed these


async def test_a_link_in_what_nobody_promoted_leads_nowhere(gateway: Gateway) -> None:
    model = gateway.court.model(versions=1)
    (folder_of(gateway, model) / "link").symlink_to("/etc/passwd")
    assert (await gateway.content(f"models:/{model}/1", "link")).status_code == 422
    assert (await gateway.files(f"models:/{model}/1")).status_code == 422


async def test_a_file_that_is_not_what_was_approved_is_never_given_whole(gateway: Gateway) -> None:
    model = gateway.court.model(versions=1)
    await gateway.court.policy(models=model)
    await gateway.court.promoted(model)
    file = folder_of(gateway, model) / "weights" / "model.bin"
    file.write_bytes(b"z" * 64)
    with pytest.raises(httpx.RemoteProtocolError):
        await gateway.content(f"models:/{model}@production", "weights/model.bin")
    file.write_bytes(b"longer" * 64)
    answer = await gateway.content(f"models:/{model}@production", "weights/model.bin")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:countersign:problem:bytes-changed")


async def test_urls_are_signed_for_what_was_approved_and_written_down(
    gateway: Gateway, in_s3: str, s3: S3Server
) -> None:
    uri = f"models:/{in_s3}@production"
    answer = await gateway.call("POST", "urls", json={"uri": uri, "files": ["MLmodel"], "expires_in": 60})
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    [file] = answer.json()["files"]
    assert (await asyncio.to_thread(httpx.get, file["url"], trust_env=False)).content == b"flavors: {}\n"
    assert file["sha256"] == hashlib.sha256(b"flavors: {}\n").hexdigest()
    everything = (await gateway.call("POST", "urls", json={"uri": uri})).json()
    assert [each["path"] for each in everything["files"]] == ["MLmodel", "weights/model.bin"]
    handed_out = [each for each in await gateway.handed_out("s3://models/iris/") if each["kind"] == "urls"]
    assert [(each["version"], each["files"], each["credential"]) for each in handed_out] == [
        ("1", 1, "provider"),
        ("1", 2, "provider"),
    ]
    assert "Signature" not in str(handed_out)
    assert (await gateway.call("POST", "urls", json={"uri": uri, "files": ["../x"]})).status_code == 404
    assert (await gateway.call("POST", "urls", json={"uri": uri, "expires_in": 3601})).status_code == 400


async def test_credentials_are_lent_for_one_version_and_written_down(
    gateway: Gateway, in_s3: str, s3: S3Server
) -> None:
    uri = f"models:/{in_s3}@production"
    answer = await gateway.call("POST", "credentials", json={"uri": uri, "expires_in": 900})
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    lent = answer.json()
    assert (lent["uri"], lent["endpoint_url"], lent["version"]) == ("s3://models/iris/", s3.url, "1")
    [entry] = [each for each in await gateway.handed_out("s3://models/iris/") if each["kind"] == "credentials"]
    assert not {lent["secret_access_key"], lent["session_token"], lent["access_key_id"]} & set(map(str, entry.values()))
    assert (await gateway.call("POST", "credentials", json={"uri": uri, "expires_in": 60})).status_code == 400


async def test_a_folder_of_the_server_has_neither_urls_nor_credentials(gateway: Gateway, on_disk: str) -> None:
    for path in ("urls", "credentials"):
        answer = await gateway.call("POST", path, json={"uri": f"models:/{on_disk}@production"})
        assert answer.status_code == 501
        assert "GET /control/v1/resolve/content" in answer.json()["detail"]


@pytest.mark.parametrize("source", ["s3://private/iris", "s3://models-of-others/iris"])
async def test_no_bytes_are_given_of_places_that_a_registrant_only_names(gateway: Gateway, source: str) -> None:
    model = register(gateway.court, f"elsewhere-{hashlib.sha256(source.encode()).hexdigest()[:8]}", source)
    uri = f"models:/{model}/1"
    for method, path, options in (
        ("GET", "files", {"params": {"uri": uri}}),
        ("GET", "content", {"params": {"uri": uri, "path": "MLmodel"}}),
        ("POST", "urls", {"json": {"uri": uri}}),
        ("POST", "credentials", {"json": {"uri": uri}}),
    ):
        answer = await gateway.call(method, path, **options)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:countersign:problem:unresolvable"), path


async def test_reading_through_the_gateway_is_written_down_once_for_a_while(gateway: Gateway) -> None:
    model = gateway.court.model(versions=1)
    for path in ("MLmodel", "weights/model.bin", "MLmodel"):
        assert (await gateway.content(f"models:/{model}/1", path)).status_code == 200
    physical = (await gateway.files(f"models:/{model}/1")).json()["uri"]
    assert [each["kind"] for each in await gateway.handed_out(physical)] == ["content"]


async def test_nothing_is_read_that_could_not_be_written_down(
    gateway: Gateway, on_disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads, who = gateway.court.gateway.services.downloads, gateway.court.person("vera", "viewers")
    resolution = await resolved(gateway, f"models:/{on_disk}/2")

    async def fail(*_: object, **__: object) -> None:
        await asyncio.sleep(0)  # others get their turn
        raise Unavailable("The database went away.")

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "_record", fail)
        noted = await asyncio.gather(*(downloads._note(who, resolution) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in noted] == [Unavailable] * 3
    before = len(await gateway.handed_out(resolution.uri))
    await asyncio.gather(*(downloads._note(who, resolution) for _ in range(3)))
    assert len(await gateway.handed_out(resolution.uri)) == before + 1


async def test_what_is_read_is_written_down_when_a_clock_that_was_ahead_is_put_right(gateway: Gateway) -> None:
    court, who = gateway.court, gateway.court.person("vera", "viewers")
    resolution = await resolved(gateway, f"models:/{court.model(versions=1)}/1")
    note = court.gateway.services.downloads._note
    court.clock.ahead += timedelta(days=2)
    try:
        await note(who, resolution)
    finally:
        court.clock.ahead -= timedelta(days=2)
    for _ in range(2):
        await note(who, resolution)
    assert len(await gateway.handed_out(resolution.uri)) == 2


async def resolved(gateway: Gateway, uri: str) -> Resolution:
    found = await gateway.court.gateway.services.resolver.look_up(parse_models_uri(uri), "default")
    return found.resolution


async def test_who_stops_reading_takes_no_place_any_more(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "STUCK_S", 0.05)
    model, places = gateway.court.model(versions=1), gateway.court.gateway.services.downloads._streams
    with (folder_of(gateway, model) / "large").open("wb") as large:
        large.truncate(100_000_000)
    url, headers = f"{gateway.url}/control/v1/resolve/content", {"Authorization": f"Bearer {gateway.token('idle')}"}
    async with httpx.AsyncClient(trust_env=False) as client:
        params = {"uri": f"models:/{model}/1", "path": "large"}
        async with client.stream("GET", url, params=params, headers=headers) as answer:
            await until_left(places)
            with pytest.raises(httpx.RemoteProtocolError):
                await answer.aread()


async def test_who_hangs_up_takes_no_place_any_more(gateway: Gateway) -> None:
    model, places = gateway.court.model(versions=1), gateway.court.gateway.services.downloads._streams
    with (folder_of(gateway, model) / "large").open("wb") as large:
        large.truncate(100_000_000)
    url, headers = f"{gateway.url}/control/v1/resolve/content", {"Authorization": f"Bearer {gateway.token('hasty')}"}
    async with httpx.AsyncClient(trust_env=False) as client:
        params = {"uri": f"models:/{model}/1", "path": "large"}
        async with client.stream("GET", url, params=params, headers=headers) as answer:
            await anext(answer.aiter_raw())
            assert places.total() == 1
    await until_left(places)


async def test_who_comes_several_times_at_once_takes_no_more_places(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, downloads = gateway.court.model(versions=1), gateway.court.gateway.services.downloads
    with (folder_of(gateway, model) / "large").open("wb") as large:
        large.truncate(100_000_000)
    monkeypatch.setattr(downloads_module, "MOST_STREAMS", 2)
    headers = {"Authorization": f"Bearer {gateway.token('crowd')}"}
    params = {"uri": f"models:/{model}/1", "path": "large"}
    async with httpx.AsyncClient(trust_env=False, base_url=gateway.url) as client:
        asked = [client.build_request("GET", "/control/v1/resolve/content", params=params, headers=headers)] * 6
        answers = await asyncio.gather(*(client.send(each, stream=True) for each in asked))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429, 429]
        await asyncio.gather(*(answer.aclose() for answer in answers))
    for path, status in (("nothing", 422), ("../x", 422), ("MLmodel", 200)):  # none keeps a place
        await until_left(downloads._streams)
        assert (await gateway.content(f"models:/{model}/1", path)).status_code == status
    await until_left(downloads._streams)


async def until_left(places: Counter[str]) -> None:
    async with asyncio.timeout(30):
        while places:  # noqa: ASYNC110  # it has no event to wait for
            await asyncio.sleep(0.01)


async def test_one_list_is_made_for_all_who_ask_at_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    services, model = gateway.court.gateway.services, gateway.court.model(versions=1)
    downloads, listed, stored = services.downloads, [], services.downloads._store.stored

    async def counted(uri: str) -> list[StoredFile]:
        listed.append(uri)
        return await stored(uri)

    monkeypatch.setattr(downloads._store, "stored", counted)
    resolution = (await services.resolver.look_up(parse_models_uri(f"models:/{model}/1"), "default")).resolution
    lists = await asyncio.gather(*(downloads._stored(resolution) for _ in range(5)))
    assert [[*files] for files in lists] == [["MLmodel", "weights/model.bin"]] * 5
    assert listed == [resolution.uri]


async def test_nobody_is_given_the_ways_to_everything_in_a_minute(
    gateway: Gateway, in_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, wanted = gateway.token("greedy"), {"uri": f"models:/{in_s3}@production", "files": ["MLmodel"]}
    monkeypatch.setattr(gateway.court.gateway.services.downloads._pace, "_most", 2)
    statuses = [(await gateway.call("POST", "urls", token=token, json=wanted)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    monkeypatch.setattr(downloads_module, "MOST_STREAMS_OF_ALL", 0)
    assert (await gateway.content(f"models:/{in_s3}@production", "MLmodel")).status_code == 503
    monkeypatch.setattr(downloads_module, "MOST_STREAMS", 0)
    assert (await gateway.content(f"models:/{in_s3}@production", "MLmodel")).status_code == 429


@pytest.fixture
def pulls(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Download a version as a workload does."""
    monkeypatch.setenv("COUNTERSIGN_URL", gateway.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", gateway.token("workload"))

    async def run(uri: str, folder: Path, **options: Any) -> Pulled:
        return await asyncio.to_thread(pull, uri, folder, **options)

    return run


async def test_a_version_is_pulled_from_where_it_lies(
    gateway: Gateway, in_s3: str, s3: S3Server, pulls: Callable[..., Any], tmp_path: Path
) -> None:
    uri, folder = f"models:/{in_s3}@production", tmp_path / "models" / "iris"
    s3.seen.clear()
    pulled = await pulls(uri, folder)
    assert (pulled.version, pulled.files, pulled.downloaded) == ("1", 2, 3_000_012)
    assert digest_of(folder) == pulled.digest
    assert s3.seen.count("/models/iris/weights/model.bin") == 1
    assert not list(folder.parent.glob(".*countersign-*"))
    again = await pulls(uri, folder)
    assert (again.downloaded, again.digest) == (0, pulled.digest)


async def test_a_store_that_callers_cannot_use_is_read_through_the_gateway(
    in_s3: str, s3: S3Server, pulls: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "refuses_signed", True)
    said: list[str] = []
    pulled = await pulls(f"models:/{in_s3}@production", tmp_path / "iris", say=said.append)
    assert digest_of(tmp_path / "iris") == pulled.digest
    assert said == ["The store refuses the URLs. Downloading through the gateway."]


async def test_a_version_on_the_servers_disk_is_pulled_through_the_gateway(
    gateway: Gateway, on_disk: str, pulls: Callable[..., Any], tmp_path: Path
) -> None:
    pulled = await pulls(f"models:/{on_disk}@production", tmp_path / "model")
    assert digest_of(tmp_path / "model") == pulled.digest
    unverified = await pulls(f"models:/{on_disk}/2", tmp_path / "other")
    assert unverified.digest is None
    assert digest_of(tmp_path / "other") == digest_of(folder_of(gateway, on_disk, "2"))


async def test_what_is_not_what_was_approved_never_gets_its_name(
    gateway: Gateway, pulls: Callable[..., Any], tmp_path: Path
) -> None:
    model = gateway.court.model(versions=2)
    await gateway.court.policy(models=model)
    await gateway.court.promoted(model)
    (folder_of(gateway, model) / "weights" / "model.bin").write_bytes(os.urandom(65))
    with pytest.raises(Changed):
        await pulls(f"models:/{model}@production", tmp_path / "model")
    with pytest.raises(Changed, match="is version 1 by now, not 2"):
        await pulls(f"models:/{model}@production", tmp_path / "model", version="2")
    assert not (tmp_path / "model").exists()


ANSWERING = """
import pathlib

class Answering:
    def __init__(self, factor):
        self.factor = factor

    def predict(self, rows):
        return (rows["x"] * self.factor).tolist()

def _load_pyfunc(path):
    return Answering(float((pathlib.Path(path) / "factor").read_text()))
"""


def write_model(folder: Path, factor: str) -> None:
    """A model that MLflow loads, and that answers by the files it has."""
    flavor = {"loader_module": "answering", "code": "code", "data": "weights", "env": "conda.yaml"}
    (folder / "MLmodel").write_text(json.dumps({"flavors": {"python_function": flavor}, "mlflow_version": "3.17.2"}))
    (folder / "code").mkdir()
    (folder / "code" / "answering.py").write_text(ANSWERING)
    (folder / "conda.yaml").write_text("dependencies: []\n")
    (folder / "weights" / "factor").write_text(factor)


async def test_the_example_predictor_follows_the_alias(gateway: Gateway, tmp_path: Path) -> None:
    model, port = gateway.court.model(versions=2), free_port()
    for version, factor in (("1", "10"), ("2", "20")):
        write_model(folder_of(gateway, model, version), factor)
    await gateway.court.policy(models=model)
    await gateway.court.promoted(model)
    environment = {
        "COUNTERSIGN_URL": gateway.url,
        "COUNTERSIGN_TOKEN": gateway.token("workload"),
        "MODEL_URI": f"models:/{model}@production",
        "PORT": str(port),
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # it starts in milliseconds
            [sys.executable, str(EXAMPLE)], env=os.environ | environment, cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        assert await predicted(port, [30.0], process, tmp_path / "log") == "1"
        await gateway.court.promoted(model, "2")
        assert await predicted(port, [60.0], process, tmp_path / "log") == "2"
    finally:
        process.terminate()
        process.wait()


async def predicted(port: int, expected: list[float], process: subprocess.Popen[bytes], log: Path) -> str:
    """The version that answers so, as soon as one does. Every answer on the way is one of a version."""
    row = {"dataframe_records": [{"x": 3.0}]}
    async with asyncio.timeout(120), httpx.AsyncClient(trust_env=False) as client:
        while True:
            assert process.poll() is None, log.read_text()  # noqa: ASYNC240  # nothing else goes on then
            with contextlib.suppress(httpx.ConnectError):
                answer = await client.post(f"http://127.0.0.1:{port}", json=row)
                assert answer.status_code in {200, 503}
                if answer.status_code == 200 and answer.json()["predictions"] == expected:
                    return str(answer.json()["version"])
            await asyncio.sleep(0.05)
