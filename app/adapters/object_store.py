"""Where artifacts lie: a local folder or S3. Files are read once, in pieces, off the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from app.domain.digests import FileDigest
from app.domain.errors import Unavailable, Unresolvable

_PIECE = 1024 * 1024


class ObjectStores:
    """See ``app.ports.ObjectStore``: picks the store by the scheme of the URI."""

    async def files(self, uri: str) -> list[FileDigest]:
        scheme = urlsplit(uri).scheme
        read = {"file": _local_files, "s3": _s3_files}.get(scheme)
        if read is None:
            raise Unresolvable(f"Artifacts at {uri} cannot be read: {scheme or 'no'} is not a supported scheme.")
        found = await asyncio.to_thread(lambda: list(read(uri)))
        if not found:
            raise Unresolvable(f"There are no artifacts at {uri}.")
        return found


def _digest(path: str, pieces: Iterable[bytes]) -> FileDigest:
    hashed, size = hashlib.sha256(), 0
    for piece in pieces:
        hashed.update(piece)
        size += len(piece)
    return FileDigest(path=path, size=size, sha256=hashed.hexdigest())


def _local_files(uri: str) -> Iterator[FileDigest]:
    root = Path(unquote(urlsplit(uri).path))
    try:
        for folder, folders, names in os.walk(root, onerror=_raise):
            for name in [*folders, *names]:
                if (Path(folder) / name).is_symlink():
                    raise Unresolvable(f"{Path(folder, name).relative_to(root)} in {uri} is a symbolic link.")
            for name in names:
                file = Path(folder) / name
                yield _digest(file.relative_to(root).as_posix(), _pieces(file))
    except FileNotFoundError:
        raise Unresolvable(f"There are no artifacts at {uri}.") from None
    except OSError as error:
        raise Unresolvable(f"Artifacts at {uri} cannot be read: {error.strerror}.") from None


def _raise(error: OSError) -> None:
    raise error


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            yield piece


def _s3_files(uri: str) -> Iterator[FileDigest]:
    """Endpoint, region and credentials come from the default chain (``AWS_ENDPOINT_URL``, IRSA, profiles, …)."""
    parts = urlsplit(uri)
    bucket, prefix = parts.netloc, parts.path.lstrip("/")
    client: Any = boto3.client("s3", config=Config(connect_timeout=5, read_timeout=60, retries={"max_attempts": 3}))
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"]
                    yield _digest(item["Key"].removeprefix(prefix), body.iter_chunks(_PIECE))
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "error")
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            raise Unavailable(f"The artifact store answered {code}.") from None
        raise Unresolvable(f"Artifacts at {uri} cannot be read: the store answered {code}.") from None
    except BotoCoreError as error:
        raise Unavailable(f"The artifact store does not answer ({type(error).__name__}).") from None
