"""Presigned URLs and lent credentials against S3 and STS over real HTTP, and files read in parts where they lie."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError

from app.adapters.object_store import ObjectStores
from app.adapters.object_store.lending import S3Lending
from app.domain.digests import StoredFile
from app.domain.errors import Unavailable, Unresolvable, Unsupported
from tests.platform import until
from tests.s3 import S3Server, running_s3

ROLE = "arn:aws:iam::123456789012:role/model-readers"
URI = "s3://models/1/artifacts/"
WHO = "https://idp.example|pod"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running_s3() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="models")
        client.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
        for key in ("1/artifacts/MLmodel", "1/artifacts/data/a b+ü.bin", "1/artifacts-old/MLmodel", "secret"):
            client.put_object(Bucket="models", Key=key, Body=f"of {key}".encode())
        client.create_bucket(Bucket="plain")
        client.put_object(Bucket="plain", Key="m/MLmodel", Body=b"x" * 3_000_000)
        client.close()
        yield server


@pytest.fixture(scope="module")
def own(server: S3Server) -> S3Lending:
    return S3Lending()


@pytest.fixture(scope="module")
def of_role(server: S3Server) -> S3Lending:
    return S3Lending(role_arn=ROLE)


@pytest.fixture(params=["own", "of_role"])
def lending(request: pytest.FixtureRequest) -> S3Lending:
    found: S3Lending = request.getfixturevalue(request.param)
    return found


@pytest.fixture(autouse=True)
def heeding(server: S3Server) -> None:
    server.heeds = True
    server.asked.clear()


def get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False)


async def listed(uri: str = URI) -> dict[str, StoredFile]:
    return {file.path: file for file in await ObjectStores().stored(uri)}


async def test_a_url_gives_the_version_that_was_listed_and_no_other(own: S3Lending) -> None:
    files = await listed()
    signed = await own.urls(URI, list(files.values()), lasts_s=60)
    assert set(signed.urls) == {"MLmodel", "data/a b+ü.bin"}
    client = boto3.client("s3")
    client.put_object(Bucket="models", Key="1/artifacts/MLmodel", Body=b"somebody else's")
    client.close()
    assert get(signed.urls["MLmodel"]).content == b"of 1/artifacts/MLmodel"
    assert get(signed.urls["data/a b+ü.bin"]).content == "of 1/artifacts/data/a b+ü.bin".encode()
    assert abs(signed.expires_at - datetime.now(UTC) - timedelta(seconds=60)) < timedelta(seconds=30)
    assert "X-Amz-Expires=60" in signed.urls["MLmodel"]
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in signed.urls["MLmodel"]


async def test_urls_name_the_address_at_which_callers_reach_the_store(server: S3Server) -> None:
    lending = S3Lending(public_endpoint="https://minio.example")
    signed = await lending.urls(URI, [(await listed())["MLmodel"]], lasts_s=60)
    assert signed.urls["MLmodel"].startswith("https://minio.example/models/1/artifacts/MLmodel?")
    lent = await lending.credentials(URI, lasts_s=900, principal_id=WHO)
    assert lent.endpoint_url == "https://minio.example"


async def test_lent_credentials_read_one_version_and_nothing_beside_it(server: S3Server, lending: S3Lending) -> None:
    lent = await lending.credentials(URI, lasts_s=900, principal_id=WHO)
    assert server.asked[0]["RoleSessionName"] == "countersign-pod"
    assert server.asked[0]["DurationSeconds"] == "900"
    assert (server.asked[0]["RoleArn"] == ROLE) == (lending._role_arn is not None)
    assert (lent.endpoint_url, lent.region) == (server.url, "us-east-1")
    assert abs(lent.expires_at - datetime.now(UTC) - timedelta(seconds=900)) < timedelta(seconds=60)
    assert "SecretAccessKey" not in repr(lent)
    assert lent.secret_access_key not in repr(lent)
    assert lent.session_token not in repr(lent)
    client = borrower(lent)
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="models", Prefix="1/artifacts/")["Contents"]]
    assert sorted(keys) == ["1/artifacts/MLmodel", "1/artifacts/data/a b+ü.bin"]
    assert client.get_object(Bucket="models", Key=keys[0])["ETag"]
    for refused in (
        lambda: client.get_object(Bucket="models", Key="secret"),
        lambda: client.get_object(Bucket="models", Key="1/artifacts-old/MLmodel"),
        lambda: client.get_object(Bucket="plain", Key="m/MLmodel"),
        lambda: client.list_objects_v2(Bucket="models", Prefix="1/artifacts"),
        lambda: client.list_objects_v2(Bucket="models"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()
    client.close()


def borrower(lent: Any) -> Any:
    session = boto3.session.Session(lent.access_key_id, lent.secret_access_key, lent.session_token)
    return session.client("s3", endpoint_url=lent.endpoint_url)


async def test_a_server_that_ignores_the_policy_lends_nothing(server: S3Server, lending: S3Lending) -> None:
    server.heeds = False
    with pytest.raises(Unsupported, match="not limited to what was asked for"):
        await lending.credentials(URI, lasts_s=900, principal_id=WHO)


async def test_a_role_without_a_role_to_lend_is_told_which_setting_is_missing(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.us-east-1.amazonaws.com")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of a role")
    lending = S3Lending()
    lending._regions["models"] = "us-east-1"
    with pytest.raises(Unsupported, match="COUNTERSIGN_DOWNLOAD_ROLE_ARN"):
        await lending.credentials(URI, lasts_s=900, principal_id=WHO)
    assert not server.asked


async def test_keys_of_a_user_are_lent_as_a_federated_user(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.us-east-1.amazonaws.com")
    lending = S3Lending()
    lending._regions["models"] = "eu-west-1"
    lent = await lending.credentials(URI, lasts_s=900, principal_id=WHO)
    assert server.asked[0]["Action"] == "GetFederationToken"
    assert server.asked[0]["Name"] == "countersign-pod"
    assert "1/artifacts/*" in server.asked[0]["Policy"]
    assert (lent.endpoint_url, lent.region) == (None, "eu-west-1")


async def test_a_store_that_is_away_is_said_to_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(Unavailable, match="STS does not answer"):
        await S3Lending(role_arn=ROLE).credentials(URI, lasts_s=900, principal_id=WHO)


async def content(uri: str, path: str, first: int, length: int) -> bytes:
    store = ObjectStores()
    pieces = store.content(uri, await store.find(uri, path), first=first, length=length)
    async with aclosing(pieces):
        return b"".join([piece async for piece in pieces])


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "MLmodel").write_bytes(b"x" * 3_000_000)
    (tmp_path / "m" / "link").symlink_to("/etc/passwd")
    (tmp_path / "beside").write_text("a secret")
    return (tmp_path / "m").as_uri() + "/"


async def test_files_are_read_in_parts_where_they_lie(server: S3Server, folder: str) -> None:
    for uri in (folder, "s3://plain/m/"):
        assert len(await content(uri, "MLmodel", 0, 3_000_000)) == 3_000_000
        assert await content(uri, "MLmodel", 2_999_998, 2) == b"xx"
        assert (await ObjectStores().find(uri, "MLmodel")).size == 3_000_000
        for path in ("nothing", "../beside", "/etc/passwd", "link", "", "a//b"):
            with pytest.raises(Unresolvable):
                await ObjectStores().find(uri, path)
    until(lambda: not any(thread.name.startswith("content") for thread in threading.enumerate()), "the end of reading")


async def test_a_file_that_is_replaced_while_it_is_read_breaks_off(
    server: S3Server, folder: str, tmp_path: Path
) -> None:
    store = ObjectStores()
    found = {uri: await store.find(uri, "MLmodel") for uri in (folder, "s3://plain/m/")}
    (tmp_path / "m" / "MLmodel").write_bytes(b"y" * 3_000_000)
    client = boto3.client("s3")
    client.put_object(Bucket="plain", Key="m/MLmodel", Body=b"y" * 3_000_000)
    client.close()
    for uri, file in found.items():
        with pytest.raises(Unresolvable, match="changed while it was read"):
            async with aclosing(store.content(uri, file, first=0, length=file.size)) as pieces:
                assert not [piece async for piece in pieces]


async def test_who_stops_reading_leaves_nothing_open(server: S3Server, folder: str) -> None:
    for uri in (folder, "s3://plain/m/"):
        store = ObjectStores()
        async with aclosing(store.content(uri, await store.find(uri, "MLmodel"), first=0, length=3_000_000)) as pieces:
            assert len(await anext(pieces)) <= 1024 * 1024
