"""Artifacts read and digested where they lie: a local folder, and S3 over real HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from app.adapters.object_store import ObjectStores
from app.domain.digests import FileDigest, tree_digest
from app.domain.errors import Unavailable, Unresolvable
from tests.platform import free_port

FILES = {
    "MLmodel": b"flavors: {}\n",
    "data/model.bin": b"x" * 3_000_000,
    "code/__init__.py": b"",
    "ümläut and space": b"u",
}
EXPECTED = {
    FileDigest(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in FILES.items()
}


@pytest.fixture
def local(tmp_path: Path) -> str:
    root = tmp_path / "a folder" / "artifacts"
    for path, data in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root.as_uri() + "/"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket with the files below a prefix, and a sibling whose name begins alike."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    for path, data in FILES.items():
        client.put_object(Bucket="models", Key=f"1/artifacts/{path}", Body=data)
    client.put_object(Bucket="models", Key="1/artifacts-old/MLmodel", Body=b"a sibling")
    client.close()
    return "s3://models/1/artifacts/"


async def test_a_local_folder_is_read_file_by_file(local: str) -> None:
    assert set(await ObjectStores().files(local)) == EXPECTED


async def test_s3_is_read_key_by_key_without_its_siblings(bucket: str) -> None:
    assert set(await ObjectStores().files(bucket)) == EXPECTED


async def test_the_same_files_have_the_same_digest_wherever_they_lie(local: str, bucket: str) -> None:
    store = ObjectStores()
    assert tree_digest(await store.files(local)) == tree_digest(await store.files(bucket))


@pytest.mark.parametrize("uri", ["s3://models/2/artifacts/", "s3://no-such-bucket/1/artifacts/"])
async def test_what_is_not_in_s3_is_said(bucket: str, uri: str) -> None:
    with pytest.raises(Unresolvable, match=uri):
        await ObjectStores().files(uri)


async def test_a_store_that_does_not_answer_is_tried_again_later(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable):
        await ObjectStores().files(bucket)


@pytest.mark.parametrize("uri", ["file:///no/such/folder/", "gs://bucket/key/", "/plain/path/"])
async def test_other_places_are_refused(uri: str) -> None:
    with pytest.raises(Unresolvable, match=uri):
        await ObjectStores().files(uri)
