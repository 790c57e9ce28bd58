"""Files that fit in no memory: MLflow's own client sends and fetches them through the gateway, which holds none of
them.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.scientist import Scientist, environment
from tests.platform import PATIENCE_S, Countersign, MlflowServer, until
from tests.proxying import connect

MEBIBYTE = 1024 * 1024
LARGE = 1024 * MEBIBYTE
"""Above the 500 MiB from which MLflow's client would rather upload in parts, and download by presigned address."""
MAX_GROWTH = 32 * MEBIBYTE
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"

UP = """
import json, sys, mlflow
run = mlflow.MlflowClient().create_run(mlflow.create_experiment(sys.argv[1]))
mlflow.MlflowClient().log_artifact(run.info.run_id, sys.argv[2], "large")
print(json.dumps(run.info.run_id))
"""
DOWN = """
import json, sys, mlflow
print(json.dumps(mlflow.artifacts.download_artifacts(run_id=sys.argv[1], artifact_path="large", dst_path=sys.argv[2])))
"""


@pytest.fixture
def gateway(countersign: Countersign, mlflow_server: MlflowServer) -> psutil.Process:
    """The process of a gateway that has served files before, so that what it loads once is loaded."""
    started = countersign.start("gateway")
    assert httpx.put(f"{mlflow_server.url}{ARTIFACTS}/warm/file.bin", content=bytes(16 * MEBIBYTE)).is_success
    for _ in range(4):
        assert call(countersign, "GET", f"{ARTIFACTS}/warm/file.bin").is_success
        assert call(countersign, "PUT", f"{ARTIFACTS}/warm/again.bin", content=bytes(16 * MEBIBYTE)).is_success
    return psutil.Process(started.pid)


def call(countersign: Countersign, method: str, path: str, *, content: bytes | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {countersign.token('scientist')}"}
    return httpx.request(
        method, countersign.url + path, headers=headers, content=content, timeout=PATIENCE_S, trust_env=False
    )


def write_noise(path: Path, size: int) -> None:
    """Bytes that do not compress, of which no two mebibytes are alike."""
    block = bytearray(os.urandom(MEBIBYTE))
    with path.open("wb") as file:
        for number in range(size // MEBIBYTE):
            block[:8] = number.to_bytes(8)
            file.write(block)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Watched:
    """What was seen of a process: bytes of memory at first and at most."""

    first: int
    most: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def growth(self) -> int:
        return self.most - self.first


@contextmanager
def memory_of(process: psutil.Process) -> Iterator[Watched]:
    watched = Watched(process.memory_info().rss)

    def sample() -> None:
        while not watched._stop.wait(0.02):
            watched.most = max(watched.most, process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield watched
    finally:
        watched._stop.set()
        thread.join()


def scientist(countersign: Countersign, folder: Path, code: str, *words: str) -> Scientist:
    """Their client would upload in parts and download by presigned address if the server offered it."""
    offered = {"MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "true"}
    knows = environment(countersign.url, countersign.token("scientist"), **offered)
    return Scientist(folder, knows, "-c", code, *words)


def answered_until_done(countersign: Countersign, scientist: Scientist) -> tuple[str, int]:
    """What the process told, and how many calls of somebody else were answered while it was at work."""
    answered = 0
    while scientist.is_at_work:
        assert call(countersign, "GET", "/api/2.0/mlflow/experiments/get?experiment_id=0").status_code == 200
        answered += scientist.is_at_work
    return scientist.told(), answered


def test_a_gibibyte_goes_up_and_comes_down_in_constant_memory(
    countersign: Countersign, mlflow_server: MlflowServer, gateway: psutil.Process, tmp_path: Path, model_name: str
) -> None:
    large = tmp_path / "large.bin"
    write_noise(large, LARGE)
    expected = digest(large)
    with memory_of(gateway) as memory:
        run_id, answered_up = answered_until_done(
            countersign, scientist(countersign, tmp_path, UP, model_name, str(large))
        )
        large.unlink()
        folder, answered_down = answered_until_done(
            countersign, scientist(countersign, tmp_path, DOWN, run_id, str(tmp_path))
        )

    got = Path(folder) / "large.bin"
    assert got.stat().st_size == LARGE
    assert digest(got) == expected
    assert answered_up
    assert answered_down
    assert memory.growth <= MAX_GROWTH
    got.unlink()
    (kept,) = mlflow_server.artifacts.glob(f"*/{run_id}/artifacts/large/large.bin")
    kept.unlink()


def test_many_downloads_at_once_stay_in_constant_memory(
    countersign: Countersign, mlflow_server: MlflowServer, gateway: psutil.Process, model_name: str
) -> None:
    kept = mlflow_server.artifacts / model_name / "file.bin"
    kept.parent.mkdir()
    write_noise(kept, 64 * MEBIBYTE)
    headers = {"Authorization": f"Bearer {countersign.token('scientist')}"}

    def fetched(_: int) -> str:
        address = f"{countersign.url}{ARTIFACTS}/{model_name}/file.bin"
        hashed = hashlib.sha256()
        with httpx.stream("GET", address, headers=headers, timeout=PATIENCE_S, trust_env=False) as answer:
            for chunk in answer.iter_raw():
                hashed.update(chunk)
        return hashed.hexdigest()

    with memory_of(gateway) as memory, ThreadPoolExecutor(8) as callers:
        digests = set(callers.map(fetched, range(8)))

    assert digests == {digest(kept)}
    assert memory.growth <= MAX_GROWTH
    kept.unlink()


@pytest.mark.usefixtures("gateway")
def test_an_upload_that_breaks_off_leaves_nothing_behind(
    countersign: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    token, folder = countersign.token("scientist"), mlflow_server.artifacts / model_name

    def sizes() -> list[int]:
        return [each.stat().st_size for each in folder.rglob("*") if each.is_file()]

    with connect(countersign.url) as connection:
        head = f"PUT {ARTIFACTS}/{model_name}/file.bin HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
        connection.sendall(f"{head}content-length: {64 * MEBIBYTE}\r\n\r\n".encode() + bytes(8 * MEBIBYTE))
        until(lambda: sum(sizes()) >= MEBIBYTE, "the arrival of the first bytes at MLflow")

    until(lambda: not sizes(), "the end of the upload at MLflow")
    listed = call(countersign, "GET", f"{ARTIFACTS}?path={model_name}").json()
    assert listed == {"files": []} or not listed
    assert call(countersign, "GET", f"{ARTIFACTS}/{model_name}/file.bin").status_code >= 400
