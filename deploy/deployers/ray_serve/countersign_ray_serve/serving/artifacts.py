"""A version's files on the replica: fetched, and proven to be the bytes that were approved."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from countersign_ray_serve.serving.failures import DigestMismatch, of_storage


def fetch(uri: str, digest: str) -> Path:
    """The local folder of the artifacts at ``uri``, whose tree digest is ``digest``.

    Raises:
        NotServable: there is nothing there, we may not read it, or somebody changed the files after the approval.
    """
    from mlflow.artifacts import download_artifacts

    try:
        folder = Path(download_artifacts(artifact_uri=uri))
        found = tree_digest(folder)
    except Exception as error:
        raise of_storage(uri, error) from None
    if found != digest:
        raise DigestMismatch(f"{uri} has the digest {found}, approved was {digest}")
    return folder


def tree_digest(folder: Path) -> str:
    r"""One SHA-256 over every file: of the lines ``<sha256 of the content>  <path>\n``, sorted by path as UTF-8 bytes.

    Raises:
        FileNotFoundError: there is no file below ``folder``.
    """
    files = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    if not files:
        raise FileNotFoundError("there are no files")
    total = hashlib.sha256()
    for path, file in sorted((file.relative_to(folder).as_posix().encode(), file) for file in files):
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").hexdigest().encode() + b"  " + path + b"\n")
    return f"sha256:{total.hexdigest()}"
