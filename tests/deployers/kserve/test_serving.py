"""The way of a model's bytes into a server, for real: MLflow, S3, KServe's download or ours, MLServer, an answer.

Only the store is moto's; the cluster is in none of it. KServe's own code and MLServer run in a Python of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
import pytest
import uvicorn
import yaml
from botocore.client import BaseClient
from countersign_client.digests import digest_of
from countersign_storage import fetching
from countersign_storage.addresses import Address, parse
from countersign_storage.main import main

from app.domain.deployments import Target
from app.domain.promotions import State
from app.main import describe
from tests.conftest import database_of
from tests.deployers.kserve.serving import HERE, ROOT, run_serving, serving_python
from tests.governing import ROLES, Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer, free_port
from tests.rolling_out import CANARY, Fleet
from tests.s3 import S3Server, running_s3

_DOWNLOAD = "import sys; from kserve_storage import Storage; [Storage.download(*pair.split()) for pair in sys.argv[1:]]"


@dataclass
class Logged:
    """A model that MLflow logged into a bucket, with an empty file in it and another folder beside it."""

    s3: S3Server
    client: BaseClient
    uri: str
    """Without a slash at its end."""

    @property
    def environment(self) -> dict[str, str]:
        return {**self.s3.environment, "HOME": "/nonexistent", "PATH": os.environ["PATH"]}


@pytest.fixture(scope="module")
def logged(mlflow_server: MlflowServer) -> Iterator[Logged]:
    with running_s3() as s3, pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="models")
        environment = {**s3.environment, "HOME": "/nonexistent", "PATH": os.environ["PATH"]}
        said = run_serving(str(HERE / "log_model.py"), mlflow_server.url, "s3://models/1", **environment)
        uri = said.strip().splitlines()[-1].rstrip("/")
        key = uri.removeprefix("s3://models/")
        client.put_object(Bucket="models", Key=f"{key}/code/iris/__init__.py", Body=b"")
        client.put_object(Bucket="models", Key=f"{key}-old/MLmodel", Body=b"flavors: {}\n")
        yield Logged(s3, client, uri)
        client.close()


@pytest.fixture(scope="module")
def downloaded(logged: Logged, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """By KServe's storage initializer: with the slash at the end that we give, and without."""
    folder = tmp_path_factory.mktemp("mnt")
    right, wrong = folder / "right", folder / "wrong"
    run_serving("-c", _DOWNLOAD, f"{logged.uri}/ {right}", f"{logged.uri} {wrong}", **logged.environment)
    return right, wrong


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def hidden_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def bytes_of(folder: Path, names: set[str]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def inode_of(folder: Path) -> int:
    return folder.stat().st_ino


# KServe's storage initializer


def test_with_a_slash_at_the_end_kserve_has_the_model_alone(downloaded: tuple[Path, Path]) -> None:
    right, wrong = downloaded
    assert {"MLmodel", "model.skops", "requirements.txt"} <= files_in(right)
    assert not any("old" in name for name in files_in(right))
    # Why we give one. The day this fails, KServe has mended it.
    assert "-old/MLmodel" in files_in(wrong)


def test_kserve_leaves_empty_files_out(downloaded: tuple[Path, Path]) -> None:
    assert "code/iris/__init__.py" not in files_in(downloaded[0])


# MLServer, as our ServingRuntime starts it


def runtime() -> Any:
    return yaml.safe_load((ROOT / "deploy/deployers/kserve/manifests/runtime.yaml").read_text())


@pytest.fixture(scope="module")
async def mlserver(logged: Logged, downloaded: tuple[Path, Path]) -> AsyncIterator[httpx.AsyncClient]:
    (container,) = runtime()["spec"]["containers"]
    model, ports = str(downloaded[0]), [free_port() for _ in range(3)]
    environment = {each["name"]: each["value"].replace("{{.Name}}", "iris") for each in container["env"]}
    environment |= {"MLSERVER_MODEL_URI": model, "MLSERVER_HOST": "127.0.0.1", "PATH": os.environ["PATH"]}
    for kind, port in zip(("HTTP", "GRPC", "METRICS"), ports, strict=True):
        environment[f"MLSERVER_{kind}_PORT"] = str(port)
    log = downloaded[0].parent / "mlserver.log"
    command = [str(serving_python().with_name("mlserver")), "start", model]
    with running(command, environment, log) as process:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[0]}", trust_env=False, timeout=30) as client:
            await ready(client, container["readinessProbe"]["httpGet"]["path"], process, log)
            yield client


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        # Where it stands it keeps its metrics: not among the files of the model.
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=log.parent)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


async def ready(client: httpx.AsyncClient, path: str, process: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        assert process.poll() is None, log.read_text()  # noqa: ASYNC240  # it is over then
        with contextlib.suppress(httpx.TransportError):
            if (await client.get(path)).status_code == 200:
                return
        await asyncio.sleep(0.1)


async def test_the_runtime_answers_in_the_open_inference_protocol(mlserver: httpx.AsyncClient) -> None:
    columns = {"length": [1.4, 5.5], "width": [0.2, 2.0]}
    inputs = [{"name": name, "shape": [2], "datatype": "FP64", "data": data} for name, data in columns.items()]
    asked = {"parameters": {"content_type": "pd"}, "inputs": inputs}
    answer = await mlserver.post("/v2/models/iris/infer", json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == [0, 1]
    assert answer.json()["model_name"] == "iris"


async def test_the_runtime_answers_mlflows_own_protocol_too(mlserver: httpx.AsyncClient) -> None:
    split = {"columns": ["length", "width"], "data": [[1.4, 0.2], [5.5, 2.0]]}
    answer = await mlserver.post("/invocations", json={"dataframe_split": split})
    assert (answer.status_code, answer.json()) == (200, {"predictions": [0, 1]})


async def test_what_the_signature_does_not_have_is_a_bad_request(mlserver: httpx.AsyncClient) -> None:
    inputs = [{"name": "height", "shape": [1], "datatype": "FP64", "data": [1.0]}]
    answer = await mlserver.post("/v2/models/iris/infer", json={"parameters": {"content_type": "pd"}, "inputs": inputs})
    assert 400 <= answer.status_code < 600
    assert "length" in answer.text


# countersign://, at a real gateway


@dataclass
class Pod:
    """An init container with the token of its ServiceAccount. ``approved`` and ``unapproved`` are models."""

    court: Court
    environment: dict[str, str]
    folder: Path
    approved: str = ""
    unapproved: str = ""
    digest: str | None = ""
    said: Path = field(init=False)

    def __post_init__(self) -> None:
        self.said = self.folder / "termination-log"

    async def run(self, *arguments: str, **changed: str) -> int:
        environment = {**self.environment, "COUNTERSIGN_TERMINATION_LOG": str(self.said), **changed}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return await asyncio.to_thread(main, arguments, environment)


def register(court: Court, name: str, source: str, versions: int = 1) -> str:
    court.mlflow.call("POST", "registered-models/create", {"name": name})
    for _ in range(versions):
        court.mlflow.call("POST", "model-versions/create", {"name": name, "source": source})
    return name


@pytest.fixture(scope="module")
async def gateway(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    logged: Logged,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Pod]:
    roles = json.dumps({**ROLES, "serving": ["services"]})
    settings = {"COUNTERSIGN_ARTIFACT_ROOTS": "s3://models", "COUNTERSIGN_ROLES": roles}
    port = free_port()
    settings["COUNTERSIGN_PUBLIC_URL"] = url = f"http://127.0.0.1:{port}"
    with database_of(postgres, template_database) as database:
        async with open_court(database, mlflow_server, issuer, **settings) as court:
            app = describe()
            app.state.services = court.gateway.services
            server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_level="error"))
            server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]  # they are pytest's
            serving = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110  # it has no event to wait for
                await asyncio.sleep(0.01)
            folder = tmp_path_factory.mktemp("pod")
            token = issuer.token("pod", groups=["services"], scope="countersign:resolve")
            environment = {"COUNTERSIGN_URL": url, "COUNTERSIGN_TOKEN": token, "COUNTERSIGN_STORAGE_PATIENCE_S": "0"}
            approved = register(court, f"served-{folder.name}", f"{logged.uri}/")
            unapproved = register(court, f"unserved-{folder.name}", f"{logged.uri}/")
            await court.policy(models=approved)
            promotion = await court.promoted(approved)
            yield Pod(court, environment, folder, approved, unapproved, promotion.digest)
            server.should_exit = True
            court.gateway.changes.end_waits()
            court.gateway.services.following.end()
            await serving


@pytest.fixture
def pod(gateway: Pod, tmp_path: Path) -> Pod:
    return replace(gateway, folder=tmp_path)


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A volume, with what an earlier model left."""
    folder = tmp_path / "models"
    (folder / "code").mkdir(parents=True)
    (folder / "code/old.py").write_text("old")
    return folder


async def test_what_was_approved_is_there_whole_and_nothing_else(
    pod: Pod, mount: Path, downloaded: tuple[Path, Path]
) -> None:
    inode = inode_of(mount)
    assert await pod.run(f"countersign://{pod.approved}/1", str(mount)) == 0
    assert files_in(mount) == files_in(downloaded[0]) | {"code/iris/__init__.py"}
    assert not hidden_in(mount)
    assert inode_of(mount) == inode  # a mount can neither be replaced nor renamed
    names = files_in(downloaded[0])
    assert bytes_of(mount, names) == bytes_of(downloaded[0], names)
    assert digest_of(mount) == pod.digest
    assert not pod.said.exists()


async def test_a_container_that_starts_again_has_it_again(pod: Pod, mount: Path) -> None:
    for _ in range(2):
        assert await pod.run(f"countersign://{pod.approved}/1", str(mount)) == 0
    assert (mount / "MLmodel").is_file()


async def test_several_models_come_in_pairs(pod: Pod, tmp_path: Path) -> None:
    address = f"countersign://{pod.approved}/1"
    folders = [tmp_path / name for name in ("a", "b")]
    assert await pod.run(address, str(folders[0]), address, str(folders[1])) == 0
    assert all((folder / "MLmodel").is_file() for folder in folders)


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("countersign://{unapproved}/1", 1, "is not approved"),
        ("countersign://{approved}/9", 1, "There is no version 9"),
        ("countersign://nothing/1", 1, "There is no version 1 of model nothing"),
        ("countersign://{approved}@production", 2, "names an alias, which moves"),
        ("countersign://{approved}/latest", 2, "names no version"),
    ],
)
async def test_what_was_not_approved_is_not_there_and_the_pod_says_why(
    pod: Pod, mount: Path, address: str, status: int, said: str
) -> None:
    address = address.format(approved=pod.approved, unapproved=pod.unapproved)
    assert await pod.run(address, str(mount)) == status
    assert said in pod.said.read_text()
    assert status == 2 or not files_in(mount)


@pytest.mark.parametrize("moves", ["before", "after_ready"])
async def test_in_a_rollout_both_of_its_versions_are_there_and_no_other(
    pod: Pod, logged: Logged, tmp_path: Path, moves: str
) -> None:
    """One of them holds no alias: the candidate, or the one that takes the rest of the requests."""
    court, target = pod.court, f"kserve-{moves}"
    model = register(court, f"rolled-{moves}-{tmp_path.parent.name}", f"{logged.uri}/", versions=3)
    async with court.database.unit_of_work() as work:
        secrets = {"secrets": ("file:/none",), "callback_secrets": ("file:/none",)}
        await work.targets.put(Target(target, "http://kserve.example/", **secrets), at=court.clock.now())
        await work.commit()
    fleet = Fleet(court, model, (target,))
    await fleet.policy()
    first = await fleet.begin("1")
    assert (await fleet.ready(first)).state is State.LIVE
    await fleet.policy(rollout=CANARY, aliasMoves=moves)
    await fleet.begin("2")
    assert await fleet.calls() == {target: ("apply", "2", 10, "1")}
    statuses = {each: await pod.run(f"countersign://{model}/{each}", str(tmp_path / each)) for each in ("1", "2", "3")}
    assert statuses == {"1": 0, "2": 0, "3": 1}
    assert "is not approved" in pod.said.read_text()
    await fleet.fail()
    await fleet.work(first)
    assert await pod.run(f"countersign://{model}/2", str(tmp_path / "again")) == 1


async def test_who_is_nobody_gets_nothing(pod: Pod, mount: Path) -> None:
    assert await pod.run(f"countersign://{pod.approved}/1", str(mount), COUNTERSIGN_TOKEN="made-up") == 3
    assert "does not accept the token" in pod.said.read_text()
    assert "made-up" not in pod.said.read_text()
    assert not files_in(mount)


async def test_a_pods_projected_token_is_read_and_exchanged(pod: Pod, mount: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(pod.environment["COUNTERSIGN_TOKEN"])
    environment = {"COUNTERSIGN_TOKEN": "", "COUNTERSIGN_ID_TOKEN_FILE": str(token)}
    assert await pod.run(f"countersign://{pod.approved}/1", str(mount), **environment) == 0, pod.said.read_text()


async def test_bytes_that_were_changed_are_not_there(pod: Pod, mount: Path, logged: Logged) -> None:
    key = f"{logged.uri.removeprefix('s3://models/')}/requirements.txt"
    before = logged.client.get_object(Bucket="models", Key=key)["Body"].read()
    logged.client.put_object(Bucket="models", Key=key, Body=before[::-1])
    try:
        assert await pod.run(f"countersign://{pod.approved}/1", str(mount)) == 7
    finally:
        logged.client.put_object(Bucket="models", Key=key, Body=before)
    assert "is not what was approved" in pod.said.read_text()
    assert not files_in(mount)


async def test_a_model_without_an_mlmodel_is_none(pod: Pod, mount: Path, logged: Logged) -> None:
    logged.client.put_object(Bucket="models", Key="bare/weights.bin", Body=b"w")
    bare = register(pod.court, f"bare-{pod.approved}", "s3://models/bare/")
    await pod.court.policy(models=bare)
    await pod.court.promoted(bare)
    assert await pod.run(f"countersign://{bare}/1", str(mount)) == 1
    assert "has no MLmodel" in pod.said.read_text()
    assert not files_in(mount)


async def test_a_gateway_that_is_away_is_waited_for_and_no_longer_than_said(pod: Pod, mount: Path) -> None:
    now, waited, lines = [0.0], list[float](), list[str]()

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    address, nobody = Address(pod.approved, "1"), f"http://127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in pod.environment.items():
            patch.setenv(name, value)
        with pytest.raises(fetching.Unreachable):
            fetching.fetch(
                address, mount, gateway=nobody, patience_s=30, say=lines.append, sleep=sleep, clock=lambda: now[0]
            )
    assert waited == [1, 2, 4, 8, 15]
    assert len(lines) == 5
    assert not files_in(mount)
    status = await pod.run(f"countersign://{pod.approved}/1", str(mount), COUNTERSIGN_URL=nobody)
    assert status == 4
    assert pod.said.read_text()


async def pass_on(port: int, to: int) -> asyncio.Server:
    """Listen on a port, and pass on what comes."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection("127.0.0.1", to)
        await asyncio.gather(pipe(reader, before), pipe(behind, writer))
        await asyncio.gather(before.wait_closed(), writer.wait_closed())

    return await asyncio.start_server(connected, "127.0.0.1", port)


async def test_a_gateway_that_comes_back_is_asked_on(pod: Pod, mount: Path) -> None:
    loop, port, waited, servers = asyncio.get_running_loop(), free_port(), list[float](), list[asyncio.Server]()
    real = urlsplit(pod.environment["COUNTERSIGN_URL"]).port
    assert real is not None

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            servers.append(asyncio.run_coroutine_threadsafe(pass_on(port, real), loop).result())

    with pytest.MonkeyPatch.context() as patch:
        for name, value in pod.environment.items():
            patch.setenv(name, value)
        gateway, address = f"http://127.0.0.1:{port}", Address(pod.approved, "1")
        pulled = await asyncio.to_thread(
            fetching.fetch, address, mount, gateway=gateway, patience_s=60, say=lambda _: None, sleep=sleep
        )
    for server in servers:
        server.close()
        await server.wait_closed()
    assert (waited, pulled.digest) == ([1, 2], pod.digest)


@pytest.mark.parametrize(
    ("arguments", "changed", "said"),
    [
        ((), {}, "Usage"),
        (("countersign://iris/7",), {}, "Usage"),
        (("countersign://iris/7", "models"), {"COUNTERSIGN_URL": ""}, "COUNTERSIGN_URL is not set"),
        (("countersign://iris/7", "models"), {"COUNTERSIGN_STORAGE_PATIENCE_S": "long"}, "no number of seconds"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(
    tmp_path: Path, arguments: tuple[str, ...], changed: Mapping[str, str], said: str
) -> None:
    log = tmp_path / "log"
    environment = {"COUNTERSIGN_URL": "http://127.0.0.1:9", "COUNTERSIGN_TERMINATION_LOG": str(log), **changed}
    assert main(arguments, environment) == 2
    assert said in log.read_text()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("countersign://iris/7", Address("iris", "7")),
        ("countersign://iris/7/", Address("iris", "7")),
        ("countersign://team-a/iris/7", Address("iris", "7", "team-a")),
        ("countersign://a%20b/7", Address("a b", "7")),
    ],
)
def test_an_address_names_one_version(text: str, address: Address) -> None:
    assert parse(text) == address
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["models:/iris/7", "countersign://", "countersign://iris", "countersign:///7", "countersign://a/b/c/7"]
    + [f"countersign://iris/{version}" for version in ("0", "-1", "7a", "７", "Production", "1/../2", "99999999999")]
    + ["countersign://iris@champion", "countersign://team/iris@champion"],
)
def test_what_names_no_one_version_is_refused(text: str) -> None:
    with pytest.raises(fetching.ClientError):
        parse(text)
