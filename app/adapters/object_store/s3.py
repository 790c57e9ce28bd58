"""Artifacts in S3, or in what speaks its protocol.

An object is read only if nothing better is known of it: S3 tells the SHA-256 of one that was uploaded with it. What is
read must be the object that was listed: its version where the bucket keeps versions, else its ETag (``If-Match``). An
ETag tells that an object was replaced while we look; it is MD5 at best and never taken for the content.

Needs ``s3:ListBucket`` and ``s3:GetObject``; with ``s3:GetBucketVersioning`` and ``s3:ListBucketVersions``, versions
are used. Endpoint, region and credentials come from the default chain (``AWS_ENDPOINT_URL``, IRSA, profiles, …); a
bucket that is in another region is found there, as S3 says (botocore follows it, once for each bucket).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from app.adapters.object_store.reading import Read, Stop, Stopped, changed
from app.domain.digests import FileDigest, StoredFile, check_count, check_path
from app.domain.errors import (
    ArtifactsUnreadable,
    NoArtifacts,
    TooLarge,
    Unavailable,
    Unresolvable,
)

_PART = 8 * 1024 * 1024
_PARTS_AHEAD = 8
_PARTS_IN_MEMORY = 12
"""Of all objects together, beside the one that each thread digests: some 160 MiB at most."""
_ATTEMPTS = 3
_PIECE = 1024 * 1024
_MOST_PAGES = 1000
"""Of one listing, of a thousand entries each as a rule: versions that were replaced are listed, and are no files."""
_WORTH_ASKING = 256 * 1024
"""Bytes: to ask for the checksum of a smaller object takes as long as to read it."""

Client = Any  # boto3 makes its classes at run time
Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """``prefix`` is empty or ends in a slash: a sibling whose name begins alike is not below it."""

    bucket: str
    prefix: str


class S3:
    """See ``Store``. One client for all threads, which it allows."""

    threads = 8

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: Client = None

    def stored(self, uri: str, stop: Stop) -> list[StoredFile]:
        place = place_of(uri)
        with failures(uri):
            client = self._client()
            found: list[StoredFile] = []
            asked: list[int] = []
            for item in _current(client, place, stop):
                path = item["Key"].removeprefix(place.prefix)
                if (path.endswith("/") or not path) and not item["Size"]:
                    continue  # what consoles make so that a folder shows
                if _may_tell_sha256(item):
                    asked.append(len(found))
                found.append(_listed(check_path(path), item))
                check_count(len(found), uri)
            check_count(len(found), uri)
            with ThreadPoolExecutor(self.threads, thread_name_prefix="checksums") as pool:
                known = pool.map(lambda file: _vouched(client, place, file, stop), [found[index] for index in asked])
                for index, file in zip(asked, known, strict=True):
                    found[index] = file
        return found

    @contextmanager
    def reading(self, uri: str, progress: Callable[[int], None]) -> Iterator[Read]:
        place = place_of(uri)
        room = threading.BoundedSemaphore(_PARTS_IN_MEMORY)
        pool = ThreadPoolExecutor(_PARTS_AHEAD, thread_name_prefix="parts")

        def read(file: StoredFile, stop: Stop) -> FileDigest:
            with failures(uri):
                parts = _Parts(self._client(), place, file, stop)
                hashed = hashlib.sha256()
                for part in parts.ahead(pool, room) if parts.count > 1 else [parts.fetch(0)]:
                    hashed.update(part)
                    progress(len(part))
                return FileDigest(path=file.path, size=file.size, sha256=hashed.hexdigest())

        try:
            yield read
        finally:
            pool.shutdown(wait=False)

    def read(self, uri: str, path: str, limit: int, stop: Stop) -> bytes:
        place = place_of(uri)
        with failures(uri):
            try:
                answer = self._client().get_object(Bucket=place.bucket, Key=place.prefix + path)
            except ClientError as error:
                if _status(error) == 404:
                    raise NoArtifacts(f"There is no {path} at {uri}.") from None
                raise
            if answer["ContentLength"] > limit:
                answer["Body"].close()
                raise TooLarge(path, f"expected at most {limit} bytes")
            return _content(answer, stop)

    def start(self, uri: str, file: StoredFile, length: int, stop: Stop) -> bytes:
        with failures(uri):
            return _Parts(self._client(), place_of(uri), file, stop).start(length)

    def find(self, uri: str, path: str, stop: Stop) -> StoredFile:  # noqa: ARG002  # it is one question
        """One file as it is now, unread."""
        place = place_of(uri)
        with failures(uri):
            try:
                answer = self._client().head_object(Bucket=place.bucket, Key=place.prefix + path)
            except ClientError as error:
                if _status(error) == 404:
                    raise NoArtifacts(f"There is no {path} at {uri}.") from None
                raise
        return _listed(path, {**answer, "Size": answer["ContentLength"]})

    def pieces(self, uri: str, file: StoredFile, first: int, length: int) -> Generator[bytes]:
        """A part of a file that was found, piece by piece; to be closed."""
        place = place_of(uri)
        wanted = {} if file.is_immutable else {"IfMatch": file.stamp.partition("/")[2]}
        with failures(uri):
            try:
                answer = self._client().get_object(
                    Bucket=place.bucket,
                    Key=place.prefix + file.path,
                    Range=f"bytes={first}-{first + length - 1}",
                    **wanted,
                )
            except ClientError as error:
                if _status(error) in {404, 412, 416}:
                    raise changed(file.path) from None
                raise
            with answer["Body"] as body:
                if not _is_same(answer, file) or answer["ContentLength"] != length:
                    raise changed(file.path)
                while piece := body.read(_PIECE):
                    yield piece

    def _client(self) -> Client:
        with self._lock:
            if self._made is None:
                self._made = boto3.session.Session().client(
                    "s3",
                    config=Config(
                        connect_timeout=5,
                        read_timeout=30,
                        retries={"max_attempts": _ATTEMPTS},
                        max_pool_connections=self.threads + _PARTS_AHEAD,
                        response_checksum_validation="when_required",  # we digest what comes
                    ),
                )
            return self._made


def place_of(uri: str) -> Place:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return Place(bucket, f"{prefix.rstrip('/')}/" if prefix.strip("/") else "")


def _current(client: Client, place: Place, stop: Stop) -> Iterator[Answer]:
    """Every object below the prefix as it is now; with its ``VersionId`` where the bucket keeps versions."""
    if _keeps_versions(client, place):
        pages = _pages(client, "list_object_versions", place, stop)
        try:
            first = next(pages)
        except ClientError as error:
            if not _is_refused(error):
                raise
        else:
            for page in chain([first], pages):
                yield from (item for item in page.get("Versions", []) if item["IsLatest"])
            return
    for page in _pages(client, "list_objects_v2", place, stop):
        yield from page.get("Contents", [])


def _pages(client: Client, operation: str, place: Place, stop: Stop) -> Iterator[Answer]:
    """At least one.

    Raises:
        Unresolvable: there is no end of them.
    """
    pages = client.get_paginator(operation).paginate(Bucket=place.bucket, Prefix=place.prefix)
    for number, page in enumerate(pages, start=1):
        if stop.is_set():
            raise Stopped
        yield page
        if number == _MOST_PAGES and page.get("IsTruncated"):
            raise Unresolvable(
                f"The list of s3://{place.bucket}/{place.prefix} has more than {_MOST_PAGES:,} pages; remove old "
                "versions of its files, or whatever else there is too much of."
            )


def _keeps_versions(client: Client, place: Place) -> bool:
    """Whether it does or did: what has a version keeps it when versioning is suspended."""
    try:
        return "Status" in client.get_bucket_versioning(Bucket=place.bucket)
    except ClientError as error:
        if _is_refused(error):
            return False
        raise


def _listed(path: str, item: Answer) -> StoredFile:
    version = item.get("VersionId", "null")
    if version != "null":  # the version that can be written again (versioning suspended)
        return StoredFile(path=path, size=item["Size"], stamp=f"version:{version}", is_immutable=True)
    return StoredFile(path=path, size=item["Size"], stamp=f"etag:{item['LastModified'].isoformat()}/{item['ETag']}")


def _may_tell_sha256(item: Answer) -> bool:
    """Whether S3 knows the SHA-256 of the whole object, not one that is composed of those of its parts."""
    return (
        item["Size"] >= _WORTH_ASKING
        and "SHA256" in item.get("ChecksumAlgorithm", ())
        and item.get("ChecksumType") == "FULL_OBJECT"
    )


def _vouched(client: Client, place: Place, file: StoredFile, stop: Stop) -> StoredFile:
    """The file with the SHA-256 that S3 computed when it was uploaded, if it tells it."""
    if stop.is_set():
        raise Stopped
    try:
        answer = client.head_object(Bucket=place.bucket, Key=place.prefix + file.path, ChecksumMode="ENABLED")
    except ClientError as error:
        if _status(error) >= 500:
            raise
        return file  # it may want a permission to a key; who reads it will hear what is wrong
    if not _is_same(answer, file) or answer.get("ChecksumType") != "FULL_OBJECT":
        return file
    try:
        sha256 = base64.b64decode(answer.get("ChecksumSHA256", ""), validate=True)
    except binascii.Error:
        return file
    return replace(file, sha256=sha256.hex()) if len(sha256) == hashlib.sha256().digest_size else file


def _is_same(answer: Answer, file: StoredFile) -> bool:
    """Whether an answer is about the object that was listed."""
    if file.is_immutable:
        return file.stamp == f"version:{answer.get('VersionId')}"
    return file.stamp.partition("/")[2] == str(answer["ETag"])


class _Parts:
    """One object in parts, each of which is asked for again when its connection breaks."""

    def __init__(self, client: Client, place: Place, file: StoredFile, stop: Stop) -> None:
        self._client, self._place, self._file, self._stop = client, place, file, stop
        self.count = max(1, -(-file.size // _PART))

    def ahead(self, pool: ThreadPoolExecutor, room: threading.BoundedSemaphore) -> Iterator[bytes]:
        """The parts in order, with the next ones on their way.

        Who has no part on its way waits for room, and who has some takes room only if there is any: each can go on, so
        that all do.
        """
        pending: deque[Future[bytes]] = deque()
        asked = 0
        try:
            while asked < self.count or pending:
                while asked < self.count and len(pending) < _PARTS_AHEAD and room.acquire(blocking=not pending):
                    pending.append(pool.submit(self.fetch, asked))
                    asked += 1
                part = pending[0].result()
                yield part
                pending.popleft()
                room.release()
        finally:
            for future in pending:
                future.cancel()
            wait(pending)
            for _ in pending:
                room.release()

    def fetch(self, number: int) -> bytes:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._fetch(number)
            except BotoCoreError:
                if attempt == _ATTEMPTS or self._stop.wait(0.2 * attempt):
                    raise
        raise Stopped

    def _fetch(self, number: int) -> bytes:
        if self._stop.is_set():
            raise Stopped
        first = number * _PART
        return self._range(first, min(_PART, self._file.size - first))

    def start(self, length: int) -> bytes:
        """At most ``length`` first bytes of an object that is not empty."""
        return self._range(0, min(length, self._file.size))

    def _range(self, first: int, length: int) -> bytes:
        file = self._file
        wanted = {"Range": f"bytes={first}-{first + length - 1}"} if length < file.size else {}
        if not file.is_immutable:
            wanted["IfMatch"] = file.stamp.partition("/")[2]
        try:
            answer = self._client.get_object(Bucket=self._place.bucket, Key=self._place.prefix + file.path, **wanted)
        except ClientError as error:
            if _status(error) in {404, 412, 416}:
                raise changed(file.path) from None
            raise
        if not _is_same(answer, file) or answer["ContentLength"] != length:
            answer["Body"].close()
            raise changed(file.path)
        content = _content(answer, self._stop)
        if len(content) != length:
            raise changed(file.path)
        return content


def _content(answer: Answer, stop: Stop) -> bytes:
    pieces = []
    with answer["Body"] as body:
        while piece := body.read(_PIECE):
            pieces.append(piece)
            if stop.is_set():
                raise Stopped
    return b"".join(pieces)


@contextmanager
def failures(uri: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "error")
        if _status(error) >= 500 or _status(error) == 429:
            raise Unavailable(f"The artifact store answered {code}.") from None
        kind = NoArtifacts if _status(error) == 404 else ArtifactsUnreadable
        raise kind(f"Artifacts at {uri} cannot be read: the store answered {code}.") from None
    except (NoCredentialsError, PartialCredentialsError):
        raise ArtifactsUnreadable(f"Artifacts at {uri} cannot be read: there are no credentials for it.") from None
    except BotoCoreError as error:
        raise Unavailable(f"The artifact store does not answer ({type(error).__name__}).") from None


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_refused(error: ClientError) -> bool:
    """Whether an operation that one can do without is not allowed, or not there."""
    return _status(error) in {400, 403, 405, 501}
