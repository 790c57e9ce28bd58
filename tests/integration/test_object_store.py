"""Artifacts listed, read and digested where they lie: a local folder, and S3 over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from app.adapters.object_store import ObjectStores
from app.adapters.object_store import s3 as s3_module
from app.domain.digests import FileDigest, StoredFile, tree_digest
from app.domain.errors import ArtifactsUnreadable, NoArtifacts, TooLarge, Unavailable, Unresolvable

FILES = {
    "MLmodel": b"flavors: {}\n",
    "data/model.bin": b"x" * 3_000_000,
    "code/__init__.py": b"",
    "ümläut and space": b"u",
}
EXPECTED = {
    FileDigest(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in FILES.items()
}
LARGE = os.urandom(1024) * 20_001  # in three parts, the last one short


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "a folder" / "artifacts"
    for path, data in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


@pytest.fixture
def local(folder: Path) -> str:
    return folder.as_uri() + "/"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    # What it holds is the process's, and other modules have put something there.
    httpx.post(f"{url}/moto-api/reset").raise_for_status()
    yield url
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    point_at(endpoint, monkeypatch)
    client = boto3.client("s3")
    yield client
    client.close()


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def bucket(s3: Any) -> str:
    """A bucket with the files below a prefix, and a sibling whose name begins alike."""
    s3.create_bucket(Bucket="models")
    for path, data in FILES.items():
        s3.put_object(Bucket="models", Key=f"1/artifacts/{path}", Body=data)
    s3.put_object(Bucket="models", Key="1/artifacts/data/", Body=b"")
    s3.put_object(Bucket="models", Key="1/artifacts-old/MLmodel", Body=b"a sibling")
    return "s3://models/1/artifacts/"


@pytest.fixture
def versioned(s3: Any) -> str:
    """A bucket that keeps versions, with one object that was there before it did."""
    s3.create_bucket(Bucket="kept")
    s3.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Suspended"})
    s3.put_object(Bucket="kept", Key="m/older", Body=b"older")
    s3.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
    for body in (b"first", b"second"):
        s3.put_object(Bucket="kept", Key="m/model.bin", Body=body)
    s3.put_object(Bucket="kept", Key="m/deleted", Body=b"deleted")
    s3.delete_object(Bucket="kept", Key="m/deleted")
    return "s3://kept/m/"


async def digests(store: ObjectStores, uri: str, files: list[StoredFile]) -> list[FileDigest]:
    async with aclosing(store.digests(uri, files, lambda _: None)) as found:
        return [digest async for digest in found]


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("artifacts", "parts"))]


async def test_a_local_folder_is_read_file_by_file(local: str) -> None:
    assert set(await ObjectStores().files(local)) == EXPECTED


async def test_s3_is_read_key_by_key_without_its_siblings(bucket: str) -> None:
    assert set(await ObjectStores().files(bucket)) == EXPECTED


async def test_the_same_files_have_the_same_digest_wherever_they_lie(local: str, bucket: str) -> None:
    store = ObjectStores()
    assert tree_digest(await store.files(local)) == tree_digest(await store.files(bucket))


async def test_listing_tells_sizes_and_stamps_that_stay_the_same(local: str, bucket: str) -> None:
    store = ObjectStores()
    for uri in (local, bucket):
        listed = {file.path: file for file in await store.stored(uri)}
        assert {path: file.size for path, file in listed.items()} == {path: len(data) for path, data in FILES.items()}
        assert {file.path: file for file in await store.stored(uri)} == listed
        assert not any(file.is_immutable or file.sha256 for file in listed.values())


async def test_progress_tells_every_byte_that_was_read(local: str, bucket: str) -> None:
    store = ObjectStores()
    for uri in (local, bucket):
        told: list[int] = []
        async with aclosing(store.digests(uri, await store.stored(uri), told.append)) as found:
            assert {digest async for digest in found} == EXPECTED
        assert sum(told) == sum(len(data) for data in FILES.values())


async def test_only_the_files_that_are_asked_for_are_read(local: str) -> None:
    store = ObjectStores()
    wanted = [file for file in await store.stored(local) if file.path == "MLmodel"]
    assert [digest.path for digest in await digests(store, local, wanted)] == ["MLmodel"]
    assert await digests(store, local, []) == []


async def test_a_large_object_is_read_in_parts(s3: Any) -> None:
    s3.create_bucket(Bucket="large")
    s3.put_object(Bucket="large", Key="model.bin", Body=LARGE)
    s3.put_object(Bucket="large", Key="twin.bin", Body=LARGE)
    found = {digest.path: digest.sha256 for digest in await ObjectStores().files("s3://large/")}
    assert found == dict.fromkeys(("model.bin", "twin.bin"), hashlib.sha256(LARGE).hexdigest())


async def test_a_local_file_that_changed_since_it_was_listed_has_no_digest(folder: Path, local: str) -> None:
    store = ObjectStores()
    listed = await store.stored(local)
    (folder / "MLmodel").write_bytes(b"flavors: []\n")
    with pytest.raises(Unresolvable, match="MLmodel changed while it was read"):
        await digests(store, local, listed)


async def test_a_local_file_that_changes_while_it_is_read_has_no_digest(folder: Path, local: str) -> None:
    store = ObjectStores()
    listed = [file for file in await store.stored(local) if file.path == "data/model.bin"]

    def change(_: int) -> None:
        with (folder / "data/model.bin").open("r+b") as opened:
            opened.write(b"y")

    with pytest.raises(Unresolvable, match=re.escape("data/model.bin changed while it was read")):
        async with aclosing(store.digests(local, listed, change)) as found:
            await anext(found)


async def test_an_object_that_was_replaced_since_it_was_listed_has_no_digest(bucket: str, s3: Any) -> None:
    store = ObjectStores()
    listed = await store.stored(bucket)
    s3.put_object(Bucket="models", Key="1/artifacts/MLmodel", Body=b"flavors: []\n")
    with pytest.raises(Unresolvable, match="MLmodel changed while it was read"):
        await digests(store, bucket, listed)
    s3.delete_object(Bucket="models", Key="1/artifacts/MLmodel")
    with pytest.raises(Unresolvable, match="MLmodel changed while it was read"):
        await digests(store, bucket, listed)


async def test_a_bucket_that_keeps_versions_tells_which_bytes_can_never_change(versioned: str, s3: Any) -> None:
    store = ObjectStores()
    listed = {file.path: file for file in await store.stored(versioned)}
    newest = s3.head_object(Bucket="kept", Key="m/model.bin")["VersionId"]
    assert listed["model.bin"] == StoredFile("model.bin", 6, f"version:{newest}", is_immutable=True)
    assert not listed["older"].is_immutable, "the null version can be written again"
    assert set(listed) == {"model.bin", "older"}, "what was deleted is not there"
    found = {digest.path: digest.sha256 for digest in await digests(store, versioned, list(listed.values()))}
    assert found["model.bin"] == hashlib.sha256(b"second").hexdigest()


async def test_a_newer_version_is_not_taken_for_the_one_that_was_listed(versioned: str, s3: Any) -> None:
    store = ObjectStores()
    listed = await store.stored(versioned)
    s3.put_object(Bucket="kept", Key="m/model.bin", Body=b"second")
    with pytest.raises(Unresolvable, match=re.escape("model.bin changed while it was read")):
        await digests(store, versioned, listed)
    assert {file.path: file.stamp for file in listed} != {
        file.path: file.stamp for file in await store.stored(versioned)
    }


async def test_a_small_file_is_read_whole_and_a_large_one_refused(local: str, bucket: str) -> None:
    store = ObjectStores()
    for uri in (local, bucket):
        assert await store.read(uri, "MLmodel", limit=100) == FILES["MLmodel"]
        assert await store.read(uri, "code/__init__.py", limit=0) == b""
        assert await store.read(uri, "data/model.bin", limit=3_000_000) == FILES["data/model.bin"]
        with pytest.raises(TooLarge, match=re.escape("data/model.bin: expected at most 2999999 bytes")):
            await store.read(uri, "data/model.bin", limit=2_999_999)
        with pytest.raises(Unresolvable, match=r"There is no conda\.yaml"):
            await store.read(uri, "conda.yaml", limit=100)
        for path in ("../secret", "/etc/passwd", "data//model.bin", "./MLmodel", "", "data\\model.bin"):
            with pytest.raises(Unresolvable):
                await store.read(uri, path, limit=100)


@pytest.mark.parametrize("link", ["link", "data/link"])
async def test_symbolic_links_are_refused(folder: Path, local: str, link: str) -> None:
    for target in ("/etc/passwd", "/etc"):
        (folder / link).symlink_to(target)
        with pytest.raises(Unresolvable, match=f"{link} .*is a symbolic link"):
            await ObjectStores().stored(local)
        with pytest.raises(Unresolvable, match=f"{link}.* is a symbolic link"):
            await ObjectStores().read(local, f"{link}/passwd" if target == "/etc" else link, limit=10)
        (folder / link).unlink()


async def test_a_folder_that_became_a_link_is_not_followed(folder: Path, local: str) -> None:
    store = ObjectStores()
    listed = await store.stored(local)
    (folder / "data").rename(folder.parent / "elsewhere")
    (folder / "data").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(Unresolvable, match=r"data/model\.bin in .* lies behind one"):
        await digests(store, local, listed)


async def test_no_link_is_followed_below_the_artifacts_destination(folder: Path, local: str) -> None:
    destination = folder.parent / "destination"
    (destination / "1").mkdir(parents=True)
    for link, inner in (("m-1", ""), ("1/m-2", ""), ("up", f"/{folder.name}")):
        (destination / link).symlink_to(folder.parent if inner else folder)
        uri = f"file://{destination}/{link}{inner}/"
        for given in (str(destination), f"file://{destination}"):
            store = ObjectStores(given)
            for look in (store.stored(uri), store.find(uri, "MLmodel"), store.read(uri, "MLmodel", limit=100)):
                with pytest.raises(Unresolvable, match="a symbolic link"):
                    await look
    # How one comes to the destination itself is the operator's.
    (folder.parent / "mounted").symlink_to(folder.parent)
    given = f"{folder.parent}/mounted"
    assert set(await ObjectStores(given).files(f"file://{given}/{folder.name}/")) == EXPECTED


async def test_a_tree_that_is_too_deep_is_none_that_can_be_approved(folder: Path, local: str) -> None:
    """Were that an obstacle alone, who adds it could keep anybody from seeing what else was changed."""
    inner = os.open(folder, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=inner)
        inner, outer = os.open("d" * 200, os.O_RDONLY, dir_fd=inner), inner
        os.close(outer)
    os.close(inner)
    with pytest.raises(Unresolvable, match="a path of 1205 bytes"):
        await ObjectStores().stored(local)
    shutil.rmtree(folder)


async def test_an_object_that_is_named_like_a_folder_and_holds_something_is_refused(bucket: str, s3: Any) -> None:
    s3.put_object(Bucket="models", Key="1/artifacts/evil.py/", Body=b"import os")
    with pytest.raises(Unresolvable, match="not a plain path"):
        await ObjectStores().stored(bucket)
    s3.delete_object(Bucket="models", Key="1/artifacts/evil.py/")
    s3.put_object(Bucket="models", Key="1/artifacts/", Body=b"import os")
    with pytest.raises(Unresolvable, match="not a plain path"):
        await ObjectStores().stored(bucket)


async def test_what_is_no_file_is_refused_and_not_waited_for(folder: Path, local: str) -> None:
    store = ObjectStores()
    listed = await store.stored(local)
    (folder / "MLmodel").unlink()
    os.mkfifo(folder / "MLmodel")
    with pytest.raises(Unresolvable, match="MLmodel changed while it was read"):
        await digests(store, local, listed)
    with pytest.raises(Unresolvable, match=r"MLmodel .* is not a regular file"):
        await store.read(local, "MLmodel", limit=100)
    with pytest.raises(Unresolvable, match=r"MLmodel .* is not a regular file"):
        await store.stored(local)


@pytest.mark.parametrize("name", [b"two\nlines", b"back\\slash", b"\xff"])
async def test_names_that_tools_take_for_others_are_refused(folder: Path, local: str, name: bytes) -> None:
    os.close(os.open(os.fsencode(folder) + b"/" + name, os.O_CREAT))
    with pytest.raises(Unresolvable, match="rename this artifact"):
        await ObjectStores().stored(local)


async def test_a_key_that_leads_out_of_the_folder_is_refused(s3: Any) -> None:
    s3.create_bucket(Bucket="odd")
    s3.put_object(Bucket="odd", Key="m/a//b", Body=b"")
    with pytest.raises(Unresolvable, match="not a plain path"):
        await ObjectStores().stored("s3://odd/m/")


async def test_too_many_files_are_refused_while_they_are_listed(
    folder: Path, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.domain.digests.MOST_FILES", 3)
    with pytest.raises(Unresolvable, match="more than 3 files"):
        await ObjectStores().stored(local)


@pytest.mark.parametrize("large", [LARGE])
async def test_who_no_longer_waits_leaves_no_thread_behind(folder: Path, local: str, s3: Any, large: bytes) -> None:
    s3.create_bucket(Bucket="slow")
    for number in range(3):
        s3.put_object(Bucket="slow", Key=f"{number}", Body=large)
        (folder / str(number)).write_bytes(large)
    store = ObjectStores()
    for uri in (local, "s3://slow/"):
        listed = await store.stored(uri)
        reached, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def wait(_: int) -> None:
            loop.call_soon_threadsafe(reached.set)  # noqa: B023  # called in this round
            go_on.wait()  # noqa: B023

        async def measure() -> None:
            async with aclosing(store.digests(uri, listed, wait)) as found:  # noqa: B023
                async for _ in found:
                    raise AssertionError("it was cancelled before the first was known")

        measuring = asyncio.create_task(measure())
        await reached.wait()
        measuring.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await measuring
        for thread in reading_threads():
            thread.join(5)
        assert reading_threads() == []


@pytest.mark.parametrize("uri", ["s3://models/2/artifacts/", "s3://no-such-bucket/1/artifacts/"])
async def test_what_is_not_in_s3_is_said(bucket: str, uri: str) -> None:
    with pytest.raises(NoArtifacts, match=uri):
        await ObjectStores().files(uri)


async def test_a_store_that_does_not_answer_is_tried_again_later(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(Unavailable):
        await ObjectStores().files(bucket)
    with pytest.raises(Unavailable):
        await ObjectStores().read(bucket, "MLmodel", limit=100)


@pytest.mark.parametrize("uri", ["file:///no/such/folder/", "gs://bucket/key/", "/plain/path/"])
async def test_other_places_are_refused(uri: str) -> None:
    with pytest.raises(Unresolvable, match=uri):
        await ObjectStores().files(uri)


CONTENT = os.urandom(300_000)
TRUE_SUM = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()


class SmallS3(BaseHTTPRequestHandler):
    """One object that was uploaded with its checksum, in a bucket that lets us list and read and nothing else."""

    protocol_version = "HTTP/1.1"
    kind = "FULL_OBJECT"
    sha256 = TRUE_SUM
    status = 200
    short = 0
    region = "us-east-1"
    seen: list[str]

    def do_HEAD(self) -> None:
        if self.is_elsewhere():
            return
        self.seen.append("HEAD")
        if self.headers["x-amz-checksum-mode"] != "ENABLED":
            raise AssertionError("nobody asked for the checksum")
        self.answer(b"", **{"x-amz-checksum-sha256": self.sha256, "x-amz-checksum-type": self.kind})

    def do_GET(self) -> None:
        if self.is_elsewhere():
            return
        if "versioning" in self.path:
            self.answer(b"<Error><Code>AccessDenied</Code></Error>", status=403)
        elif "list-type=2" in self.path:
            self.answer(
                "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>m/model.bin</Key>"
                f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>{len(CONTENT)}</Size>"
                f"<ChecksumAlgorithm>SHA256</ChecksumAlgorithm><ChecksumType>{self.kind}</ChecksumType>"
                "</Contents></ListBucketResult>".encode()
            )
        else:
            self.seen.append("GET")
            self.answer(CONTENT[: len(CONTENT) - self.short], status=self.status)

    def is_elsewhere(self) -> bool:
        """As S3 answers what was signed for another region than that of the bucket."""
        if f"/{self.region}/s3/" in self.headers["Authorization"]:
            return False
        self.seen.append("elsewhere")
        body = f"<Error><Code>AuthorizationHeaderMalformed</Code><Region>{self.region}</Region></Error>".encode()
        self.answer(body, status=400, **{"x-amz-bucket-region": self.region})
        return True

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        length = len(CONTENT) if self.command == "HEAD" else len(body)
        for name, value in {"ETag": '"e"', "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def small_s3(
    monkeypatch: pytest.MonkeyPatch, kind_of_server: type[SmallS3] = SmallS3, **differing: object
) -> Iterator[list[str]]:
    """Where ``s3://bucket/m/`` is for as long as it runs; which requests it had."""
    seen: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answering", (kind_of_server,), {"seen": seen, **differing}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    point_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class VersionsWithoutEnd(SmallS3):
    """A bucket that keeps versions, with ever more of them: of as many files, or all of one that was replaced."""

    is_latest = True

    def do_GET(self) -> None:
        if "versioning" in self.path:
            self.answer(b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
            return
        self.seen.append("versions")
        page = len(self.seen)
        versions = "".join(
            f"<Version><Key>m/{page}-{number}</Key><VersionId>v</VersionId><Size>1</Size><ETag>&quot;e&quot;</ETag>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><IsLatest>{str(self.is_latest).lower()}</IsLatest>"
            "</Version>"
            for number in range(2)
        )
        self.answer(
            f"<ListVersionsResult><IsTruncated>{str(page < 20).lower()}</IsTruncated><NextKeyMarker>m/{page}-1"
            f"</NextKeyMarker><NextVersionIdMarker>v</NextVersionIdMarker>{versions}</ListVersionsResult>".encode()
        )


async def test_versions_are_listed_no_further_than_there_may_be_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.domain.digests.MOST_FILES", 3)
    with small_s3(monkeypatch, VersionsWithoutEnd) as seen, pytest.raises(Unresolvable, match="more than 3 files"):
        await ObjectStores().stored("s3://bucket/m/")
    assert len(seen) == 2


async def test_a_list_of_what_was_replaced_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_MOST_PAGES", 5)
    with (
        small_s3(monkeypatch, VersionsWithoutEnd, is_latest=False) as seen,
        pytest.raises(Unresolvable, match="more than 5 pages; remove old versions"),
    ):
        await ObjectStores().stored("s3://bucket/m/")
    assert len(seen) == 5


async def test_what_s3_digested_itself_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with small_s3(monkeypatch) as seen:
        listed = await ObjectStores().stored("s3://bucket/m/")
    assert [file.sha256 for file in listed] == [hashlib.sha256(CONTENT).hexdigest()]
    assert seen == ["HEAD"]


@pytest.mark.parametrize("differing", [{"kind": "COMPOSITE"}, {"sha256": f"{TRUE_SUM}-2"}, {"sha256": "c2hvcnQ="}])
async def test_a_checksum_of_checksums_is_not_taken_for_the_content(
    monkeypatch: pytest.MonkeyPatch, differing: dict[str, str]
) -> None:
    with small_s3(monkeypatch, **differing) as seen:
        store = ObjectStores()
        listed = await store.stored("s3://bucket/m/")
        assert [file.sha256 for file in listed] == [None]
        assert [digest.sha256 for digest in await digests(store, "s3://bucket/m/", listed)] == [
            hashlib.sha256(CONTENT).hexdigest()
        ]
    assert seen[-1] == "GET"


async def test_an_object_that_is_shorter_than_it_was_listed_has_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    with small_s3(monkeypatch, kind="COMPOSITE", short=1):
        store = ObjectStores()
        with pytest.raises(Unresolvable, match="changed while it was read"):
            await store.files("s3://bucket/m/")


async def test_a_store_that_fails_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with small_s3(monkeypatch, kind="COMPOSITE", status=503), pytest.raises(Unavailable, match="answered"):
        await ObjectStores().files("s3://bucket/m/")


async def test_a_bucket_in_another_region_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with small_s3(monkeypatch, kind="COMPOSITE", region="eu-north-1") as seen:
        (found,) = await ObjectStores().files("s3://bucket/m/")
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert seen.count("elsewhere") == 1  # it is not asked for twice


async def test_a_store_that_denies_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        small_s3(monkeypatch, kind="COMPOSITE", status=403),
        pytest.raises(ArtifactsUnreadable, match="cannot be read"),
    ):
        await ObjectStores().files("s3://bucket/m/")


async def test_without_credentials_nothing_is_read(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(ArtifactsUnreadable, match="no credentials"):
        await ObjectStores().files(bucket)
