"""Which addresses a notification of an object store may be about, whoever sent it and whatever it says."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.storage_events import DEEPEST, MOST_RECORDS, folders_of

HERE = {"s3://models/", "s3://models/1/", "s3://models/1/a b/"}


def record(bucket: object, key: object) -> dict[str, Any]:
    return {"eventSource": "minio:s3", "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}


@pytest.mark.parametrize(
    "message",
    [
        {"Records": [record("models", "1/a+b/MLmodel")]},
        {"EventName": "s3:ObjectCreated:Put", "Records": [record("models", "1%2Fa%20b%2FMLmodel")]},
        {"source": "aws.s3", "detail": {"bucket": {"name": "models"}, "object": {"key": "1/a b/MLmodel"}}},
    ],
    ids=["as S3", "as MinIO", "as EventBridge"],
)
def test_every_folder_above_an_object_may_be_meant(message: dict[str, Any]) -> None:
    assert folders_of(message) == HERE


def test_several_records_are_taken_together() -> None:
    assert folders_of({"Records": [record("a", "x"), record("b", "y/z")]}) == {"s3://a/", "s3://b/", "s3://b/y/"}


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "models"},
        {"Records": "all"},
        {"Records": [None, 1, {"s3": []}, record(None, "a"), record("a", None), record("", "a"), record("a", 1)]},
        {"Records": [record("a", "nul%00"), record("nul\0", "a"), record("a", "k" * 1025)]},
        {"detail": [1]},
    ],
)
def test_what_is_no_notification_is_about_nothing(message: dict[str, Any]) -> None:
    assert folders_of(message) == set()


def test_no_message_is_about_too_much() -> None:
    deep = folders_of({"Records": [record("a", "d/" * 500 + "x")]})
    assert len(deep) == DEEPEST + 1
    many = folders_of({"Records": [record("a", f"{number}/x") for number in range(MOST_RECORDS + 50)]})
    assert len(many) == MOST_RECORDS + 1


def test_half_a_letter_is_none() -> None:
    assert folders_of({"detail": {"bucket": {"name": "a\ud800"}, "object": {"key": "\udc00/x"}}}) == {
        "s3://a?/",
        "s3://a?/?/",
    }
