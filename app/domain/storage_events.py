"""What a store says when an object was written or deleted: which objects it is about, and nothing else.

It is a hint to look, and never believed: what lies there is seen by looking.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import unquote_plus

MOST_RECORDS = 200
"""In one message; S3 sends one, MinIO a few."""
DEEPEST = 20
"""Folders of an object that are looked at: what is approved lies some five deep, and its files anywhere below."""
_LONGEST_KEY = 1024
"""Bytes; what S3 allows."""


def folders_of(message: Mapping[str, object]) -> frozenset[str]:
    """Every address, ending in a slash, below which an object of a message lies; of what is none, none.

    Args:
        message: a notification of S3, or of what sends them alike (MinIO, Ceph): ``Records``, their keys encoded as in
            a form (S3 User Guide, "Event message structure"); or an event of EventBridge, its key plain.
    """
    return frozenset(folder for bucket, key in _objects(message) for folder in _above(bucket, key))


def _objects(message: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    records = message.get("Records")
    for record in records[:MOST_RECORDS] if isinstance(records, list) else ():
        yield from _named(_object(_object(record).get("s3")), is_encoded=True)
    yield from _named(_object(message.get("detail")), is_encoded=False)


def _named(about: Mapping[str, object], *, is_encoded: bool) -> Iterator[tuple[str, str]]:
    bucket, key = _object(about.get("bucket")).get("name"), _object(about.get("object")).get("key")
    if not (isinstance(bucket, str) and bucket and isinstance(key, str)):
        return
    key = unquote_plus(key) if is_encoded else key
    if "\0" not in bucket + key and len(key.encode(errors="replace")) <= _LONGEST_KEY:
        yield _text(bucket)[:_LONGEST_KEY], _text(key)


def _above(bucket: str, key: str) -> Iterator[str]:
    folder = f"s3://{bucket}/"
    yield folder
    for name in key.split("/")[:-1][:DEEPEST]:
        folder += f"{name}/"
        yield folder


def _text(value: str) -> str:
    """Without the halves of letters that JSON can hold and no database."""
    return value.encode(errors="replace").decode()


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
